//! Catalog and ledger against the store.

use std::sync::Arc;

use futures::{StreamExt, stream::FuturesUnordered};

use super::{Findings, Severity};
use crate::{
    api::hot::Token,
    registry::{
        catalog::{Catalog, Directory},
        ledger::Ledger,
        packed::{Difference, Facts, Packed},
    },
    segment::{SEGMENT_SUFFIX, SegmentId},
    store::{SegmentStore, StoreFailure},
    upload::UploadName,
};

/// What there is to compare with, asked for a moment at a time: a gateway goes on meanwhile.
pub trait Known: Sync {
    /// The directory in the catalog.
    fn directory(&self, path: &str) -> Option<Arc<Directory>>;
    /// Whether `path` is the upload of a promotion that is under way.
    fn is_uploading(&self, id: &SegmentId, path: &str) -> bool;
    /// The highest token.
    fn token(&self) -> Token;
}

/// A registry that nobody changes.
impl Known for (Catalog, Ledger) {
    fn directory(&self, path: &str) -> Option<Arc<Directory>> {
        self.0.directory(path).cloned()
    }

    fn is_uploading(&self, id: &SegmentId, path: &str) -> bool {
        self.1.intent(id).is_some_and(|intent| intent.temporary == path)
    }

    fn token(&self) -> Token {
        self.1.token()
    }
}

/// Lists all of the store, `parallelism` directories at a time.
pub async fn compare(
    store: &dyn SegmentStore,
    known: &dyn Known,
    parallelism: usize,
    findings: &mut Findings,
) -> Result<(), StoreFailure> {
    let mut to_list = vec!["/".to_owned()];
    let mut running = FuturesUnordered::new();
    let mut listed = 0;
    loop {
        while running.len() < parallelism.max(1)
            && let Some(path) = to_list.pop()
        {
            running.push(async { (store.list(&path).await, path) });
        }
        let Some((entries, path)) = running.next().await else { break };
        let entries = match entries {
            Ok(entries) => entries,
            Err(failure) if path == "/" => return Err(failure),
            // Removed since its parent was listed.
            Err(StoreFailure::NotFound(_)) => continue,
            Err(failure) => {
                findings.add(
                    Severity::Error,
                    "unlistable",
                    &path,
                    format!("the store does not list it: {failure}"),
                    "see to the store, and verify again",
                );
                continue;
            }
        };
        listed += 1;
        let base = path.trim_end_matches('/');
        let mut segments = Vec::new();
        for entry in entries {
            if entry.name.starts_with('.') {
                continue;
            }
            let at = format!("{base}/{}", entry.name);
            if entry.is_dir {
                to_list.push(at);
            } else if let Some(id) = SegmentId::from_file_name(&entry.name) {
                let facts = Facts { generation: entry.generation, size: entry.len, mtime_ms: entry.mtime_ms };
                segments.push((String::from(id), facts));
            } else if let Some(name) = UploadName::parse(&entry.name) {
                upload(&name, &at, known, findings);
            }
        }
        directory(&path, &Packed::from_unsorted(segments), known, findings);
    }
    findings.listed = Some(listed);
    Ok(())
}

fn upload(name: &UploadName, path: &str, known: &dyn Known, findings: &mut Findings) {
    let id = &name.id;
    if name.highest() > known.token() {
        findings.add(
            Severity::Error,
            "token_beyond_mark",
            id.as_str(),
            format!("{path} has a token that this registry never gave: it is older than the store's content"),
            "`springhouse registry rebuild`, which counts tokens from there on",
        );
    }
    if !known.is_uploading(id, path) {
        findings.add(
            Severity::Warning,
            "left_over_upload",
            path,
            "an upload that no promotion waits for",
            if name.attempt.is_some() {
                "nothing: a gateway that runs removes it once nobody can be writing it any more"
            } else {
                "remove the file: it is of a version that did not tell attempts apart, so no gateway does"
            },
        );
    }
}

fn directory(path: &str, there: &Packed, known: &dyn Known, findings: &mut Findings) {
    let old = known.directory(path);
    let empty = Packed::default();
    let was = old.as_ref().map_or(&empty, |directory| &directory.segments);
    let base = path.trim_end_matches('/');
    for difference in there.differences(was) {
        let (kind, id, text) = match difference {
            Difference::Added(at) => {
                ("not_in_catalog", there.id(at), "the store has it, the catalog has not")
            }
            Difference::Changed(at) => {
                ("catalog_behind", there.id(at), "the store has another generation of it")
            }
            Difference::Removed(at) => ("not_in_store", was.id(at), "the catalog has it, the store has not"),
        };
        let remedy = "nothing if it changed a moment ago; else a full pass: POST /v1/discovery?full=true";
        findings.add(Severity::Warning, kind, format!("{base}/{id}{SEGMENT_SUFFIX}"), text, remedy);
    }
}
