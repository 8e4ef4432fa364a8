//! Figures of writers.

use prometheus::{Histogram, HistogramOpts, IntCounter, Registry};

/// Figures of all writers.
#[derive(Debug, Clone)]
pub struct WriteMetrics {
    pub(super) transactions: IntCounter,
    pub(super) refused: IntCounter,
    pub(super) repeated: IntCounter,
    pub(super) rows: IntCounter,
    pub(super) groups: Histogram,
    pub(super) commit: Histogram,
}

impl WriteMetrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(histogram.clone())).map(|()| histogram)
        };
        Ok(Self {
            transactions: counter("springhouse_write_transactions_total", "Requests that were committed.")?,
            refused: counter("springhouse_write_refused_total", "Requests that changed nothing.")?,
            repeated: counter(
                "springhouse_write_repeated_total",
                "Requests that had been applied before under the same idempotency key.",
            )?,
            rows: counter("springhouse_write_rows_total", "Rows inserted, updated or deleted.")?,
            groups: histogram(
                "springhouse_write_group_requests",
                "Requests in one commit.",
                [1, 2, 4, 8, 16, 32, 64, 128, 256, 512].map(f64::from).to_vec(),
            )?,
            commit: histogram(
                "springhouse_write_commit_seconds",
                "Time of a commit: the log is written and synchronised.",
                vec![0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5],
            )?,
        })
    }
}
