//! Figures of the query engine.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector,
};

/// Registered once with a worker's registry.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    outcomes: IntCounterVec,
    pub(super) seconds: Histogram,
    pub(super) rows: IntCounter,
    pub(super) bytes: IntCounter,
    pub(super) running: IntGauge,
    pub(super) queued: IntGauge,
    pub(super) threads_replaced: IntCounter,
    pub(super) pool_hits: IntCounter,
    pub(super) pool_opens: IntCounter,
    pub(super) pool_evictions: IntCounter,
    pub(super) connections: IntGauge,
    pub(super) idle_memory: IntGauge,
    pub(super) page_hits: IntCounter,
    pub(super) page_misses: IntCounter,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        fn add<C: Collector + Clone + 'static>(
            registry: &Registry,
            metric: C,
        ) -> Result<C, prometheus::Error> {
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        }
        let counter = |name: &str, help: &str| add(registry, IntCounter::new(name, help)?);
        let gauge = |name: &str, help: &str| add(registry, IntGauge::new(name, help)?);
        Ok(Self {
            outcomes: add(
                registry,
                IntCounterVec::new(
                    Opts::new("springhouse_queries_total", "Queries by outcome: ok or an error code."),
                    &["outcome"],
                )?,
            )?,
            seconds: add(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "springhouse_query_seconds",
                        "Time of a query from its arrival to its last row, with its time in the queue.",
                    )
                    .buckets(vec![
                        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                        1.0, 2.5, 5.0, 10.0, 30.0,
                    ]),
                )?,
            )?,
            rows: counter("springhouse_query_rows_total", "Rows sent.")?,
            bytes: counter("springhouse_query_bytes_total", "Bytes of answers.")?,
            running: gauge("springhouse_queries_running", "Queries on a SQLite thread.")?,
            queued: gauge("springhouse_queries_queued", "Queries that wait for a SQLite thread.")?,
            threads_replaced: counter(
                "springhouse_query_threads_replaced_total",
                "SQLite threads stuck in a query beyond its deadline.",
            )?,
            pool_hits: counter("springhouse_pool_hits_total", "Queries that found an idle connection.")?,
            pool_opens: counter("springhouse_pool_opens_total", "Connections opened.")?,
            pool_evictions: counter("springhouse_pool_evictions_total", "Idle connections closed.")?,
            connections: gauge("springhouse_pool_connections", "Connections open, running or idle.")?,
            idle_memory: gauge(
                "springhouse_pool_idle_memory_bytes",
                "Memory that idle connections hold: page cache, schema, statements.",
            )?,
            page_hits: counter("springhouse_sqlite_page_hits_total", "Pages found in SQLite's caches.")?,
            page_misses: counter("springhouse_sqlite_page_misses_total", "Pages that SQLite read.")?,
        })
    }

    /// Counts a query by how it ended: `ok`, `cancelled` or an error code.
    pub(super) fn outcome(&self, label: &str) {
        self.outcomes.with_label_values(&[label]).inc();
    }
}
