//! One pass over the store.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use futures::{StreamExt, stream::FuturesUnordered};

use super::{
    Clock,
    judge::{Judged, judge, must_list},
};
use crate::{
    api::types::DiscoveryReport,
    registry::{
        packed::Facts,
        state::{Change, State, Version},
    },
    shipped::ShippedName,
    store::{Generation, SegmentStore, StoreFailure},
    upload::UploadName,
};

/// A batch is written when it has so many segments …
const BATCH_SEGMENTS_MAX: usize = 20_000;
/// … or so many directories.
const BATCH_DIRS_MAX: usize = 1_000;
/// Error texts kept in a report.
const ERROR_SAMPLES_MAX: usize = 10;
/// Deepest directory; below this a local store has a loop.
const DEPTH_MAX: usize = 64;

/// Everything a pass needs.
pub(super) struct Pass<'a> {
    pub(super) store: &'a Arc<dyn SegmentStore>,
    pub(super) state: &'a Arc<State>,
    pub(super) clock: &'a Clock,
    pub(super) parallelism: usize,
    pub(super) stopped: &'a (dyn Fn() -> bool + Send + Sync),
    pub(super) bad_name: &'a (dyn Fn(&str, &str) + Send + Sync),
    pub(super) shipped: &'a (dyn Fn(&Arc<str>, ShippedName) + Send + Sync),
    pub(super) upload: &'a (dyn Fn(&Arc<str>, UploadName, Facts) + Send + Sync),
}

struct Listed {
    path: Arc<str>,
    /// What was known when the listing was begun.
    before: Version,
    result: Result<Judged, StoreFailure>,
}

#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    before: HashMap<Arc<str>, Version>,
    segments: usize,
}

impl Pass<'_> {
    /// Runs to the end, or until stopped. Changes the catalog batch by batch on the way.
    pub(super) async fn run(&self, pass: u64, full: bool) -> DiscoveryReport {
        let started = Instant::now();
        let mut report =
            DiscoveryReport { pass, full, started_ms: (self.clock)(), ..DiscoveryReport::default() };
        match self.walk(full, &mut report).await {
            Ok(complete) => report.complete = complete,
            Err(reason) => fail(&mut report, reason),
        }
        if report.complete && !self.state.discovered() {
            let state = self.state.clone();
            if let Err(reason) = blocking(move || state.update_meta(|meta| meta.discovered = true)).await {
                fail(&mut report, reason);
            }
        }
        report.took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        report
    }

    /// `Ok(true)` at the end, `Ok(false)` if stopped; an error if there is no going on.
    async fn walk(&self, full: bool, report: &mut DiscoveryReport) -> Result<bool, String> {
        let root = self.store.stat("/").await.map_err(|e| e.to_string())?;
        let mut to_list: BTreeMap<Arc<str>, (i64, Generation)> = BTreeMap::new();
        let mut running = FuturesUnordered::new();
        let mut batch = Batch::default();
        self.enqueue("/".into(), (root.mtime_ms, root.generation), full, &mut to_list, report);
        loop {
            // Smallest path first: rows are written nearly in key order, which the registry likes best.
            while running.len() < self.parallelism.max(1)
                && let Some((path, seen)) = to_list.pop_first()
            {
                running.push(self.list(path, seen));
            }
            let Some(listed) = running.next().await else { break };
            if (self.stopped)() {
                self.flush(&mut batch, report).await?;
                return Ok(false);
            }
            match listed.result {
                Ok(judged) => {
                    report.dirs_listed += 1;
                    batch.before.insert(listed.path.clone(), listed.before);
                    self.take(&listed.path, judged, full, &mut to_list, &mut batch, report);
                }
                Err(error) if *listed.path == *"/" => return Err(error.to_string()),
                // Deleted since its parent was listed; unless all of the store went away.
                Err(StoreFailure::NotFound(_)) => {
                    self.store.stat("/").await.map_err(|e| e.to_string())?;
                    self.remove(&listed.path, &mut batch);
                }
                Err(error) => {
                    fail(report, error.to_string());
                    batch.changes.push(Change::Suspect(listed.path));
                }
            }
            if batch.segments >= BATCH_SEGMENTS_MAX || batch.changes.len() >= BATCH_DIRS_MAX {
                self.flush(&mut batch, report).await?;
            }
        }
        self.flush(&mut batch, report).await?;
        Ok(true)
    }

    async fn list(&self, path: Arc<str>, seen: (i64, Generation)) -> Listed {
        let now_ms = (self.clock)();
        let before = self.state.catalog().directory(&path).cloned();
        let result = match self.store.list(&path).await {
            Ok(entries) => {
                let (state, path, first) = (self.state.clone(), path.clone(), !self.state.discovered());
                // A directory of a million names takes a second: not on a thread that serves requests.
                crate::blocking::run(move || {
                    let old = state.catalog().directory(&path).cloned();
                    judge(&path, seen, entries, old.as_deref(), now_ms, first)
                })
                .await
                .map_err(|e| StoreFailure::Other(e.to_string()))
            }
            Err(error) => Err(error),
        };
        Listed { path, before, result }
    }

    fn take(
        &self,
        path: &Arc<str>,
        judged: Judged,
        full: bool,
        to_list: &mut BTreeMap<Arc<str>, (i64, Generation)>,
        batch: &mut Batch,
        report: &mut DiscoveryReport,
    ) {
        for name in &judged.bad_names {
            (self.bad_name)(path, name);
        }
        for name in judged.shipped {
            (self.shipped)(path, name);
        }
        for (name, facts) in judged.uploads {
            (self.upload)(path, name, facts);
        }
        let there: HashSet<&str> = judged.subdirectories.iter().map(|d| &*d.path).collect();
        let base = path.trim_end_matches('/').len() + 1;
        let gone: Vec<Arc<str>> = self
            .state
            .catalog()
            .below(path)
            .filter(|below| {
                let child_end = below[base..].find('/').map_or(below.len(), |at| base + at);
                !there.contains(&below[..child_end])
            })
            .cloned()
            .collect();
        batch.changes.extend(gone.into_iter().map(Change::Removed));
        for subdirectory in judged.subdirectories {
            self.enqueue(subdirectory.path, subdirectory.seen, full, to_list, report);
        }
        batch.segments += judged.segments.len();
        batch.changes.push(Change::Listed {
            path: path.clone(),
            state: judged.state,
            segments: judged.segments,
        });
    }

    fn remove(&self, path: &Arc<str>, batch: &mut Batch) {
        let catalog = self.state.catalog();
        batch.changes.extend(catalog.below(path).cloned().map(Change::Removed));
        batch.changes.push(Change::Removed(path.clone()));
    }

    fn enqueue(
        &self,
        path: Arc<str>,
        seen: (i64, Generation),
        full: bool,
        to_list: &mut BTreeMap<Arc<str>, (i64, Generation)>,
        report: &mut DiscoveryReport,
    ) {
        let depth = path.bytes().filter(|b| *b == b'/').count();
        if depth > DEPTH_MAX {
            fail(report, format!("{path}: more than {DEPTH_MAX} directories deep, not followed"));
        } else if must_list(self.state.catalog().directory(&path).map(|d| &**d), seen, full) {
            to_list.insert(path, seen);
        } else {
            report.dirs_skipped += 1;
        }
    }

    async fn flush(&self, batch: &mut Batch, report: &mut DiscoveryReport) -> Result<(), String> {
        let Batch { changes, before, .. } = std::mem::take(batch);
        let state = self.state.clone();
        let delta = blocking(move || state.commit_listed(changes, &before)).await?;
        report.segments_added += delta.added;
        report.segments_changed += delta.changed;
        report.segments_removed += delta.removed;
        report.dirs_removed += delta.dirs_removed;
        Ok(())
    }
}

async fn blocking<T: Send + 'static, E: std::fmt::Display + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, String> {
    match crate::blocking::run(work).await {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(panicked) => Err(panicked.to_string()),
    }
}

fn fail(report: &mut DiscoveryReport, reason: String) {
    report.errors += 1;
    if report.error_samples.len() < ERROR_SAMPLES_MAX {
        report.error_samples.push(reason);
    }
}
