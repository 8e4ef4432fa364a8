//! Keeps the catalog equal to the store: passes that cost as much as has changed, and looks at single
//! segments when a request cannot wait for the next pass.

mod judge;
pub mod look;
#[cfg(test)]
pub(crate) mod memory_store;
pub mod owner;
mod pass;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use self::pass::Pass;
use crate::{
    api::types::{DiscoveryReport, DiscoveryStatus},
    metrics::Metrics,
    registry::{packed::Facts, state::State},
    segment::SegmentId,
    shipped::ShippedName,
    store::SegmentStore,
    upload::UploadName,
};

/// Wall clock, ms since 1970.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Bad names remembered as logged; the ones beyond are only counted.
const LOGGED_NAMES_MAX: usize = 1_000;

/// Segments with stray files remembered; a later pass finds the others.
const STRAYS_MAX: usize = 10_000;

/// The machine's clock.
pub fn system_clock() -> Clock {
    Arc::new(|| {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .ok()
            .and_then(|since| i64::try_from(since.as_millis()).ok())
            .unwrap_or(0)
    })
}

/// Runs passes, one at a time.
pub struct Discovery {
    store: Arc<dyn SegmentStore>,
    state: Arc<State>,
    metrics: Arc<Metrics>,
    clock: Clock,
    parallelism: usize,
    /// Held by the running pass.
    turn: tokio::sync::Mutex<()>,
    /// Passes begun.
    begun: AtomicU64,
    running: AtomicBool,
    stopped: AtomicBool,
    last: Mutex<Option<DiscoveryReport>>,
    logged: Mutex<HashSet<String>>,
    /// Segments of which shipped files were seen that their lock, if there is one, has not made.
    strays: Mutex<BTreeSet<(Arc<str>, SegmentId)>>,
    /// Uploads of promotions that were seen, whoever waits for them.
    uploads: Mutex<BTreeMap<(Arc<str>, UploadName), Facts>>,
}

impl Discovery {
    /// Nothing runs yet. `parallelism`: directories listed at the same time.
    pub fn new(
        store: Arc<dyn SegmentStore>,
        state: Arc<State>,
        metrics: Arc<Metrics>,
        clock: Clock,
        parallelism: usize,
    ) -> Self {
        Self {
            store,
            state,
            metrics,
            clock,
            parallelism,
            turn: tokio::sync::Mutex::new(()),
            begun: AtomicU64::new(0),
            running: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            last: Mutex::new(None),
            logged: Mutex::new(HashSet::new()),
            strays: Mutex::default(),
            uploads: Mutex::default(),
        }
    }

    /// Runs a pass that begins after this call; whoever waits meanwhile shares it. It goes on when the
    /// caller goes away.
    pub async fn run(self: &Arc<Self>, full: bool) -> DiscoveryReport {
        let this = self.clone();
        let before = self.begun.load(Ordering::SeqCst);
        let task = tokio::spawn(async move {
            let _turn = this.turn.lock().await;
            if let Some(last) = this.last.lock().clone()
                && last.pass > before
                && (last.full || !full)
            {
                return last;
            }
            this.run_now(full).await
        });
        match task.await {
            Ok(report) => report,
            Err(error) => DiscoveryReport {
                errors: 1,
                error_samples: vec![format!("the pass ended early: {error}")],
                ..DiscoveryReport::default()
            },
        }
    }

    /// Passes for ever, `interval` apart, until stopped; a full one every `full_interval`.
    pub async fn run_for_ever(
        self: Arc<Self>,
        interval: Duration,
        full_interval: Duration,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut last_full = Instant::now();
        while !*stop.borrow_and_update() {
            let full = last_full.elapsed() >= full_interval;
            if self.run(full).await.full {
                last_full = Instant::now();
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(interval) => {}
                changed = stop.changed() => if changed.is_err() { break },
            }
        }
    }

    /// The store that is discovered.
    pub fn store(&self) -> &dyn SegmentStore {
        &*self.store
    }

    /// Ends the running pass at its next directory and waits for it.
    pub async fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        drop(self.turn.lock().await);
    }

    /// For `GET /v1/discovery`.
    pub fn status(&self) -> DiscoveryStatus {
        let last = self.last.lock().clone();
        let catalog = self.state.catalog();
        DiscoveryStatus {
            running: self.running.load(Ordering::SeqCst),
            last,
            segments: catalog.segment_count(),
            directories: catalog.directory_count(),
            bad_names: catalog.bad_names(),
        }
    }

    async fn run_now(&self, full: bool) -> DiscoveryReport {
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        self.running.store(true, Ordering::SeqCst);
        let pass = Pass {
            store: &self.store,
            state: &self.state,
            clock: &self.clock,
            parallelism: self.parallelism,
            stopped: &|| self.stopped.load(Ordering::SeqCst),
            bad_name: &|directory, name| self.log_bad_name(directory, name),
            shipped: &|directory, name| self.note_shipped(directory, name),
            upload: &|directory, name, facts| self.note_upload(directory, name, facts),
        };
        let report = pass.run(number, full).await;
        self.running.store(false, Ordering::SeqCst);
        // A pass that was stopped says nothing.
        if report.complete || report.errors > 0 {
            self.state.set_store_away(!report.complete);
        }
        self.metrics.pass(&report);
        self.log(&report);
        *self.last.lock() = Some(report.clone());
        report
    }

    /// Says what changed; a pass that found nothing new says nothing.
    fn log(&self, report: &DiscoveryReport) {
        let failed_before = self.last.lock().as_ref().is_some_and(|last| last.errors > 0);
        if report.errors > 0 && !failed_before {
            tracing::warn!(
                errors = report.errors,
                first = report.error_samples.first().map(String::as_str),
                "discovery could not read everything; what it would have told is left as it was"
            );
        } else if report.errors == 0 && failed_before {
            tracing::info!("discovery reads everything again");
        }
        let changes = report.segments_added + report.segments_changed + report.segments_removed;
        if changes > 0 || report.pass == 1 {
            tracing::info!(
                pass = report.pass,
                added = report.segments_added,
                changed = report.segments_changed,
                removed = report.segments_removed,
                dirs_listed = report.dirs_listed,
                dirs_skipped = report.dirs_skipped,
                took_ms = report.took_ms,
                "discovery pass"
            );
        }
    }

    /// Directories and segments of shipped files that may be of no use; each is told once by each pass that
    /// lists it.
    pub fn take_strays(&self) -> BTreeSet<(Arc<str>, SegmentId)> {
        std::mem::take(&mut *self.strays.lock())
    }

    /// Uploads by their directories; each is told once by each pass that lists it.
    pub fn take_uploads(&self) -> BTreeMap<(Arc<str>, UploadName), Facts> {
        std::mem::take(&mut *self.uploads.lock())
    }

    fn note_upload(&self, directory: &Arc<str>, name: UploadName, facts: Facts) {
        let mut uploads = self.uploads.lock();
        if uploads.len() < STRAYS_MAX {
            uploads.insert((directory.clone(), name), facts);
        }
    }

    fn note_shipped(&self, directory: &Arc<str>, name: ShippedName) {
        let held = self.state.ledger().lock(&name.id).is_some_and(|lock| lock.token == name.token);
        if held {
            return;
        }
        let mut strays = self.strays.lock();
        if strays.len() < STRAYS_MAX {
            strays.insert((directory.clone(), name.id));
        }
    }

    fn log_bad_name(&self, directory: &str, name: &str) {
        let path = format!("{}/{name}", directory.trim_end_matches('/'));
        let mut logged = self.logged.lock();
        if logged.len() < LOGGED_NAMES_MAX && logged.insert(path.clone()) {
            tracing::warn!(path, "not in the catalog: the name is no segment id");
        }
    }
}
