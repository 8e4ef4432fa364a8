//! The ledger in itself and against the catalog.

use super::{Findings, Severity::Error, Severity::Warning};
use crate::{
    registry::{
        Meta,
        catalog::{Catalog, Lookup},
        ledger::{DEFAULT_SCHEMA, Ledger, Lock},
    },
    segment::SegmentId,
};

pub(super) fn check(catalog: &Catalog, ledger: &Ledger, meta: &Meta, findings: &mut Findings) {
    for (id, lock) in ledger.locks() {
        lock_fits(id, lock, catalog, ledger, meta, findings);
    }
    for (id, dispute) in ledger.disputes() {
        let workers = dispute.workers.iter().map(String::as_str).collect::<Vec<_>>().join(" and ");
        findings.add(
            Error,
            "disputed",
            id.as_str(),
            format!(
                "{workers} both say that they may write segment {id}, with the same token {}",
                dispute.token
            ),
            format!(
                "look at both copies (`GET /v1/hot/{id}` of each), then `springhouse segment provision {id} \
                 --takeover`: what neither promoted is kept aside on each"
            ),
        );
    }
    for (id, intent) in ledger.intents() {
        if ledger.lock(id).map(|lock| lock.token) != Some(intent.token) {
            findings.add(
                Warning,
                "promotion_without_lock",
                id.as_str(),
                format!("a promotion of {id} under token {} is open, and nobody has that lock", intent.token),
                "nothing: the gateway ends it as soon as the store answers",
            );
        }
    }
    for (id, tombstone) in ledger.tombstones() {
        if tombstone.token > ledger.token() {
            beyond_the_mark(id, tombstone.token, ledger, findings);
        }
        let lookup = catalog.lookup(id);
        if tombstone.done_ms.is_some()
            && matches!(&lookup, Lookup::Found(found) if Some(found.facts.generation) == tombstone.generation)
        {
            findings.add(
                Error,
                "deleted_and_there",
                id.as_str(),
                format!("segment {id} was deleted, and the catalog has the generation that was"),
                format!("`springhouse segment delete {id}`"),
            );
        }
        if tombstone.done_ms.is_none() && ledger.lock(id).is_some() {
            findings.add(
                Error,
                "deleted_and_locked",
                id.as_str(),
                format!("segment {id} is being deleted, and has a write lock"),
                format!(
                    "`springhouse segment release {id} --force`: its writes are kept aside on the worker"
                ),
            );
        }
    }
    for id in ledger.wished() {
        if catalog.lookup(id) == Lookup::Absent && ledger.lock(id).is_none() {
            findings.add(
                Warning,
                "wish_without_segment",
                id.as_str(),
                format!("segment {id} is raised or pinned, and there is no such segment"),
                format!("`springhouse segment lower {id}`, `springhouse segment unpin {id} WORKER`"),
            );
        }
    }
    for schema in ledger.schemas() {
        let versions = SegmentId::parse(&schema.name).ok();
        let versions = versions.and_then(|name| ledger.schema(&name).map(<[_]>::to_vec)).unwrap_or_default();
        // The first one of that is built in.
        let first = if schema.name == DEFAULT_SCHEMA { 2 } else { 1 };
        if versions.iter().zip(first..).any(|(schema, expected)| schema.version != expected) {
            findings.add(
                Warning,
                "schema_versions",
                &schema.name,
                format!("versions of schema {} are missing", schema.name),
                "register the statements again: `springhouse schema put NAME FILE`",
            );
        }
    }
}

fn lock_fits(
    id: &SegmentId,
    lock: &Lock,
    catalog: &Catalog,
    ledger: &Ledger,
    meta: &Meta,
    findings: &mut Findings,
) {
    if lock.token > ledger.token() {
        beyond_the_mark(id, lock.token, ledger, findings);
    }
    if !lock.ready {
        findings.add(
            Warning,
            "lock_not_ready",
            id.as_str(),
            format!("the write lock of {id} was granted to {}, which has not said that it can", lock.worker),
            format!("`springhouse segment provision {id}`"),
        );
    }
    let schema = SegmentId::parse(&lock.schema).ok();
    if lock.schema != DEFAULT_SCHEMA && schema.is_none_or(|name| ledger.schema(&name).is_none()) {
        findings.add(
            Warning,
            "schema_missing",
            id.as_str(),
            format!("segment {id} was provisioned with schema {}, which is not registered", lock.schema),
            format!("`springhouse schema put {} FILE`", lock.schema),
        );
    }
    // Before the first pass nobody knows what the store has.
    if !meta.discovered {
        return;
    }
    match (catalog.lookup(id), lock.base) {
        (Lookup::Found(found), base) if base != Some(found.facts.generation) => findings.add(
            Error,
            "other_generation",
            id.as_str(),
            format!(
                "the writes of {id} on {} build upon {}, and the store has {}: a promotion is refused",
                lock.worker,
                base.map_or("nothing".to_owned(), |base| format!("generation {base}")),
                found.facts.generation
            ),
            format!(
                "`springhouse segment release {id} --force` keeps those writes aside on the worker, or \
                 set foreign_generation to replace what is there"
            ),
        ),
        (Lookup::Absent, Some(base)) => findings.add(
            Error,
            "lock_not_in_store",
            id.as_str(),
            format!(
                "the writes of {id} on {} build upon generation {base}, and the store has none",
                lock.worker
            ),
            format!("put the file back, or `springhouse segment release {id} --force` and provision it anew"),
        ),
        _ => {}
    }
}

fn beyond_the_mark(id: &SegmentId, token: u64, ledger: &Ledger, findings: &mut Findings) {
    findings.add(
        Error,
        "token_beyond_mark",
        id.as_str(),
        format!(
            "{id} has token {token}, and tokens were counted to {} only: one may come twice",
            ledger.token()
        ),
        "export and import the registry with --replace, which counts them anew",
    );
}
