//! The figures: what a store was asked, how often, and how long it took.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
    core::{Collector, Metric},
    proto::Histogram as Buckets,
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
#[cfg(doc)]
use crate::store::{Reader, Store, Writer};

/// What can be asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// [`Store::stat`].
    Stat,
    /// [`Store::list`]; counted once at its end, or where it was given up.
    List,
    /// [`Store::open`].
    Open,
    /// [`Reader::read_at`]; counts bytes.
    Read,
    /// [`Store::create`].
    Create,
    /// [`Writer::write`]; counts bytes.
    Write,
    /// [`Writer::sync`].
    Sync,
    /// [`Writer::close`].
    Close,
    /// [`Store::rename`].
    Rename,
    /// [`Store::delete`].
    Delete,
    /// [`Store::create_dir`].
    CreateDir,
    /// [`Store::append`].
    Append,
    /// [`Store::truncate`].
    Truncate,
    /// [`Store::set_attributes`].
    SetAttributes,
    /// [`Store::make_dir`].
    MakeDir,
    /// [`Store::usage`].
    Usage,
}

impl Operation {
    /// All of them, in the order of the snapshot.
    pub const ALL: [Self; 16] = [
        Self::Stat,
        Self::List,
        Self::Open,
        Self::Read,
        Self::Create,
        Self::Write,
        Self::Sync,
        Self::Close,
        Self::Rename,
        Self::Delete,
        Self::CreateDir,
        Self::Append,
        Self::Truncate,
        Self::SetAttributes,
        Self::MakeDir,
        Self::Usage,
    ];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stat => "stat",
            Self::List => "list",
            Self::Open => "open",
            Self::Read => "read",
            Self::Create => "create",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Close => "close",
            Self::Rename => "rename",
            Self::Delete => "delete",
            Self::CreateDir => "create_dir",
            Self::Append => "append",
            Self::Truncate => "truncate",
            Self::SetAttributes => "set_attributes",
            Self::MakeDir => "make_dir",
            Self::Usage => "usage",
        }
    }
}

/// Upper bounds of the latency buckets in seconds: from a warm local read to the deadline.
pub(super) const BUCKETS_S: [f64; 16] =
    [1e-5, 2.5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 0.25, 1.0, 2.5, 5.0, 10.0];

/// What one operation came to since start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationSnapshot {
    /// Which.
    pub operation: Operation,
    /// Calls that ended, well or badly; one that was given up (dropped) counts as an error too.
    pub count: u64,
    /// Calls that failed. That nothing has a name is an answer, not a failure.
    pub errors: u64,
    /// Bytes read or written; 0 of the others.
    pub bytes: u64,
    /// Sum of the time the calls took, in seconds.
    pub seconds: f64,
    /// Latency: upper bound in seconds, and how many calls took at most that long.
    pub buckets: Vec<(f64, u64)>,
}

/// What a store was asked since start, by operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// In the order of [`Operation::ALL`].
    pub operations: Vec<OperationSnapshot>,
    /// Calls that the breaker refused without asking the store.
    pub refused: u64,
    /// Reads that were tried again.
    pub retries: u64,
    /// Stats and opens that shared another one's answer.
    pub shared: u64,
    /// Calls that are running now.
    pub running: u64,
}

impl Snapshot {
    /// The figures of `operation`.
    pub fn of(&self, operation: Operation) -> Option<&OperationSnapshot> {
        self.operations.iter().find(|found| found.operation == operation)
    }
}

/// Counters of one store. Read them by [`Counters::snapshot`] or through Prometheus.
pub struct Counters {
    seconds: HistogramVec,
    errors: IntCounterVec,
    bytes: IntCounterVec,
    by_operation: [OneOperation; Operation::ALL.len()],
    pub(in crate::store) refused: IntCounter,
    pub(in crate::store) retries: IntCounter,
    pub(in crate::store) shared: IntCounter,
    running: AtomicU64,
}

/// Looked up once: the labelled families take a lock and a hash at each use.
struct OneOperation {
    seconds: Histogram,
    errors: IntCounter,
    bytes: IntCounter,
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}

impl Counters {
    /// All at 0.
    pub fn new() -> Result<Self> {
        Self::build().map_err(|e| Error::new(ErrorKind::Other, format!("store metrics: {e}")))
    }

    fn build() -> prometheus::Result<Self> {
        let labels = ["operation"];
        let seconds = HistogramOpts::new("springhouse_store_seconds", "Time of calls to the segment store");
        let seconds = HistogramVec::new(seconds.buckets(BUCKETS_S.to_vec()), &labels)?;
        let counter = |name: &str, help: &str| IntCounterVec::new(Opts::new(name, help), &labels);
        let errors = counter("springhouse_store_errors_total", "Failed calls to the segment store")?;
        let bytes =
            counter("springhouse_store_bytes_total", "Bytes read from and written to the segment store")?;
        let by_operation = Operation::ALL.map(|operation| {
            let label = [operation.name()];
            OneOperation {
                seconds: seconds.with_label_values(&label),
                errors: errors.with_label_values(&label),
                bytes: bytes.with_label_values(&label),
            }
        });
        let single = |name: &str, help: &str| IntCounter::new(name, help);
        Ok(Self {
            seconds,
            errors,
            bytes,
            by_operation,
            refused: single("springhouse_store_refused_total", "Calls refused by the breaker")?,
            retries: single("springhouse_store_retries_total", "Reads tried again")?,
            shared: single("springhouse_store_shared_total", "Stats and opens that shared an answer")?,
            running: AtomicU64::new(0),
        })
    }

    /// Shows them in `registry`. Two stores need two registries, or one with different constant labels.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        let all: [Box<dyn Collector>; 6] = [
            Box::new(self.seconds.clone()),
            Box::new(self.errors.clone()),
            Box::new(self.bytes.clone()),
            Box::new(self.refused.clone()),
            Box::new(self.retries.clone()),
            Box::new(self.shared.clone()),
        ];
        all.into_iter().try_for_each(|collector| registry.register(collector))
    }

    /// The figures now.
    pub fn snapshot(&self) -> Snapshot {
        let operations = Operation::ALL.iter().zip(&self.by_operation).map(|(operation, counted)| {
            let metric = counted.seconds.metric();
            let histogram: &Buckets = metric.get_histogram();
            OperationSnapshot {
                operation: *operation,
                count: histogram.get_sample_count(),
                errors: counted.errors.get(),
                bytes: counted.bytes.get(),
                seconds: histogram.get_sample_sum(),
                buckets: histogram
                    .get_bucket()
                    .iter()
                    .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
                    .collect(),
            }
        });
        Snapshot {
            operations: operations.collect(),
            refused: self.refused.get(),
            retries: self.retries.get(),
            shared: self.shared.get(),
            running: self.running.load(Relaxed),
        }
    }

    /// Calls to the store that are running now; back to 0 when all ended or were dropped.
    pub fn running(&self) -> u64 {
        self.running.load(Relaxed)
    }

    /// Counts a call from now until the guard goes.
    pub(super) fn start(&self, operation: Operation) -> Call<'_> {
        self.running.fetch_add(1, Relaxed);
        Call { counters: self, operation, started: Instant::now(), ended: false }
    }

    fn end(&self, operation: Operation, took: Duration, failed: bool) {
        self.running.fetch_sub(1, Relaxed);
        let counted = &self.by_operation[operation as usize];
        counted.seconds.observe(took.as_secs_f64());
        if failed {
            counted.errors.inc();
        }
    }
}

/// A call that is running.
pub(super) struct Call<'a> {
    counters: &'a Counters,
    operation: Operation,
    started: Instant,
    ended: bool,
}

impl Call<'_> {
    pub(super) fn done<T>(mut self, outcome: Result<T>) -> Result<T> {
        self.ended = true;
        let failed = outcome.as_ref().is_err_and(|e| e.kind() != ErrorKind::NotFound);
        self.counters.end(self.operation, self.started.elapsed(), failed);
        outcome
    }

    pub(super) fn bytes(&self, bytes: usize) {
        self.counters.by_operation[self.operation as usize].bytes.inc_by(bytes as u64);
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.counters.end(self.operation, self.started.elapsed(), true);
        }
    }
}
