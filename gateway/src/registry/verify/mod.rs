//! Looking for what does not fit: rows that cannot be read, the catalog in itself, the ledger against the
//! catalog, both against the store. Nothing is changed.
//!
//! What workers say is compared in `copies/verify.rs`, which a running gateway adds.

mod ledger;
pub mod store;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, ops::ControlFlow};

use serde::{Deserialize, Serialize};

use super::{
    Meta, Registry, RegistryError,
    catalog::{Catalog, Lookup},
    ledger::{
        Ledger,
        rows::{LEDGER, LOADED_END, check, name_of},
    },
    load::DirectoryReader,
    rows::Key,
};

/// Findings of one kind that are kept; the others are counted.
const FINDINGS_OF_A_KIND_MAX: u64 = 1_000;

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Which kind, for programs: `lock_not_in_store`, `damaged_row` …
    pub kind: String,
    /// What it is about: a segment, a path, a row.
    pub subject: String,
    /// What does not fit, for people.
    pub text: String,
    /// What to do.
    pub remedy: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something is refused, or may be lost, until somebody acts.
    Error,
    /// It settles by itself, or only costs.
    Warning,
    /// It is as it should be for the moment: what is under way, not something found.
    Note,
}

/// All findings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// In the order in which they were found; of each kind the first 1,000.
    pub findings: Vec<Finding>,
    /// How many of each kind there are.
    pub counts: BTreeMap<String, u64>,
    /// Rows that were read.
    pub rows: u64,
    /// Segments in the catalog.
    pub segments: u64,
    /// Directories of the store that were listed; absent: the store was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listed: Option<u64>,
    /// Workers whose manifests were compared; absent: no gateway runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<u64>,
}

impl Findings {
    /// Adds one.
    pub(crate) fn add(
        &mut self,
        severity: Severity,
        kind: &str,
        subject: impl Into<String>,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let count = self.counts.entry(kind.to_owned()).or_default();
        *count += 1;
        if *count <= FINDINGS_OF_A_KIND_MAX {
            let (subject, text, remedy) = (subject.into(), text.into(), remedy.into());
            self.findings.push(Finding { severity, kind: kind.to_owned(), subject, text, remedy });
        }
    }

    /// How many there are, those that were not kept too.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

/// Reads a registry that no gateway has open, and looks at all of it. Catalog and ledger, for comparing
/// them with the store. Blocks.
pub fn stopped(registry: &dyn Registry) -> Result<(Findings, Catalog, Ledger), RegistryError> {
    let mut findings = Findings::default();
    let (mut catalog, mut ledger) = (Catalog::default(), Ledger::default());
    let meta = match registry.meta()? {
        Some(meta) => meta,
        None => {
            findings.add(
                Severity::Error,
                "no_identity",
                "meta",
                "the registry's own row is missing or damaged",
                "start its gateway once, which gives it a new identity, with take_over_store = true",
            );
            Meta::new("")
        }
    };
    rows(
        registry,
        &mut findings,
        |key, value| ledger.load(key, value),
        |path, directory| {
            catalog.replace(&path, Some(directory.into()));
        },
    )?;
    content(&catalog, &ledger, &meta, &mut findings);
    Ok((findings, catalog, ledger))
}

/// Reads every row of a registry that nobody changes, and adds those that cannot be read.
pub(crate) fn rows(
    registry: &dyn Registry,
    findings: &mut Findings,
    mut entry: impl FnMut(&[u8], &[u8]),
    mut directory: impl FnMut(std::sync::Arc<str>, super::catalog::Directory),
) -> Result<(), RegistryError> {
    let mut reader = DirectoryReader::default();
    registry.scan(b"", None, &mut |key, value| {
        findings.rows += 1;
        if key.first() == Some(&b'/') {
            let (finished, result) = reader.row(key, value);
            if let Some((path, read)) = finished {
                directory(path, read);
            }
            if let Err(reason) = result {
                damaged_catalog_row(key, &reason.to_string(), findings);
            }
        } else if key.first() == Some(&LEDGER) || key >= LOADED_END {
            match check(key, value) {
                Ok(()) => {}
                Err(reason) => damaged_ledger_row(key, &reason, findings),
            }
            if key.first() == Some(&LEDGER) {
                entry(key, value);
            }
        } else {
            damaged_catalog_row(key, "unknown key", findings);
        }
        ControlFlow::Continue(())
    })?;
    if let Some((path, read)) = reader.finish() {
        directory(path, read);
    }
    Ok(())
}

/// Reads every row by itself while others change them, and adds those that cannot be read.
pub(crate) fn each_row(registry: &dyn Registry, findings: &mut Findings) -> Result<(), RegistryError> {
    registry.scan(b"", None, &mut |key, value| {
        findings.rows += 1;
        if key.first() == Some(&b'/') {
            if let (_, Err(reason)) = DirectoryReader::default().row(key, value) {
                damaged_catalog_row(key, &reason.to_string(), findings);
            }
        } else if let Err(reason) = check(key, value) {
            damaged_ledger_row(key, &reason, findings);
        }
        ControlFlow::Continue(())
    })
}

fn damaged_catalog_row(key: &[u8], reason: &str, findings: &mut Findings) {
    let directory = Key::decode(key).map_or("its directory", Key::directory).to_owned();
    findings.add(
        Severity::Warning,
        "damaged_catalog_row",
        name_of(key),
        format!("a row of the catalog cannot be read: {reason}"),
        format!("nothing: the next start drops it and lists {directory} again"),
    );
}

fn damaged_ledger_row(key: &[u8], reason: &str, findings: &mut Findings) {
    findings.add(
        Severity::Error,
        "damaged_row",
        name_of(key),
        format!("a row of the ledger cannot be read, and what it is about is refused: {reason}"),
        "of a lock: `springhouse segment provision ID --takeover`; of anything else: export, mend or remove \
         the line that begins with {\"damaged\", import with --edited --replace",
    );
}

/// Catalog in itself, and the ledger against it.
pub(crate) fn content(catalog: &Catalog, ledger: &Ledger, meta: &Meta, findings: &mut Findings) {
    findings.segments = catalog.segment_count();
    for id in catalog.misplaced() {
        if let Lookup::Ambiguous(paths) = catalog.lookup(&id) {
            findings.add(
                Severity::Error,
                "ambiguous",
                id.as_str(),
                format!("segment {id} lies in more than one directory: {}", paths.join(", ")),
                "remove all but one of the files from the store",
            );
        }
    }
    for (path, directory) in catalog.directories() {
        if directory.state.bad_names > 0 {
            findings.add(
                Severity::Warning,
                "bad_names",
                &**path,
                format!(
                    "{} files in it end in .sqlite and have no segment's name",
                    directory.state.bad_names
                ),
                "rename or remove them; the gateway's log names them",
            );
        }
        let parent = match path.rsplit_once('/') {
            _ if **path == *"/" => continue,
            Some(("", _)) | None => "/",
            Some((parent, _)) => parent,
        };
        // One that was only looked into has no time yet; the next pass lists what is above it.
        if directory.state.seen.is_some()
            && !catalog.directory(parent).is_some_and(|parent| parent.state.has_subdirs)
        {
            findings.add(
                Severity::Warning,
                "orphan_directory",
                &**path,
                format!("the directory above it, {parent}, is not known to have directories"),
                "nothing: the next full pass lists it",
            );
        }
    }
    ledger::check(catalog, ledger, meta, findings);
}
