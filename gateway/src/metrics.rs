//! What the gateway counts. One registry per gateway, so that two in one process (tests) do not mix.

use prometheus::{
    Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::api::types::DiscoveryReport;

/// Seconds; a warm query takes a fraction of a millisecond, a cold scan minutes.
const BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0];

/// All metrics.
pub struct Metrics {
    registry: Registry,
    /// Requests answered, by route, method and status.
    pub requests: IntCounterVec,
    /// Time to the first byte of an answer, by route.
    pub seconds: HistogramVec,
    /// Requests being answered (up to their first byte).
    pub in_flight: IntGauge,
    /// Attempts at workers by outcome: `answered`, `unavailable`, `unreachable`, `lost`, `refused`,
    /// `timed_out`.
    pub attempts: IntCounterVec,
    /// Queries given to another worker, or again to the same one.
    pub retries: IntCounter,
    /// Answers cut after their first byte: by the worker's death or by the deadline.
    pub aborted: IntCounter,
    /// Workers passed over because of the load bound.
    pub overloaded: IntCounter,
    /// Lease messages by outcome: `taken`, `renewed`, `released`, `refused`.
    pub leases: IntCounterVec,
    /// Targeted looks at the store by outcome: `found`, `absent`, `failed`, `limited`.
    pub looks: IntCounterVec,
    /// Catalog sizes by kind, set when they are read.
    pub catalog: IntGaugeVec,
    /// Hot copies changed by rules and heat: `raised`, `lowered`, `more`, `fewer`, `freed` (a wish that ended
    /// without a copy).
    pub tier_changes: IntCounterVec,
    /// Segments by whose wish it is that they have copies, and those whose heat is known; set when they are
    /// read.
    pub tiers: IntGaugeVec,
    /// Entries of the ledger by kind, set when they are read.
    pub ledger: IntGaugeVec,
    /// Workers by state, set when they are read.
    pub workers: IntGaugeVec,
    /// Requests at each worker, set when they are read.
    pub worker_in_flight: IntGaugeVec,
    /// Bytes of the registry on disk, set when they are read.
    pub registry_bytes: IntGauge,
    passes: IntCounterVec,
    discovery: IntCounterVec,
    last_pass_seconds: Gauge,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("springhouse_gateway".into()), None)?;
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let counters =
            |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
                let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(metric.clone()))?;
                Ok(metric)
            };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, prometheus::Error> {
            let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let seconds = HistogramVec::new(
            HistogramOpts::new("request_seconds", "Time to the first byte of an answer.")
                .buckets(BUCKETS.to_vec()),
            &["route"],
        )?;
        registry.register(Box::new(seconds.clone()))?;
        let last_pass_seconds = Gauge::new("discovery_last_pass_seconds", "Duration of the last pass.")?;
        registry.register(Box::new(last_pass_seconds.clone()))?;
        Ok(Self {
            requests: counters("requests_total", "Requests answered.", &["route", "method", "status"])?,
            seconds,
            in_flight: gauge("requests_in_flight", "Requests without a first byte of answer yet.")?,
            attempts: counters("worker_attempts_total", "Attempts at workers.", &["outcome"])?,
            retries: counter("retries_total", "Queries tried once more.")?,
            aborted: counter("answers_aborted_total", "Answers cut after their first byte.")?,
            overloaded: counter("load_skips_total", "Workers passed over because of their load.")?,
            leases: counters("lease_messages_total", "Lease messages.", &["outcome"])?,
            looks: counters("looks_total", "Single segments looked up in the store.", &["outcome"])?,
            catalog: gauges("catalog", "Sizes of the catalog.", &["kind"])?,
            tier_changes: counters("tier_changes_total", "Hot copies changed by demand.", &["what"])?,
            tiers: gauges("tiers", "Segments by who decides about their copies.", &["kind"])?,
            ledger: gauges("ledger", "What the ledger holds.", &["kind"])?,
            workers: gauges("workers", "Workers.", &["state"])?,
            worker_in_flight: gauges("worker_in_flight", "Requests at each worker.", &["worker"])?,
            registry_bytes: gauge("registry_disk_bytes", "Registry on disk.")?,
            passes: counters("discovery_passes_total", "Discovery passes.", &["outcome"])?,
            discovery: counters("discovery_total", "What discovery did.", &["what"])?,
            last_pass_seconds,
            registry,
        })
    }

    /// Adds a finished pass.
    pub fn pass(&self, report: &DiscoveryReport) {
        self.passes.with_label_values(&[if report.complete { "complete" } else { "incomplete" }]).inc();
        self.last_pass_seconds.set(report.took_ms as f64 / 1e3);
        for (what, n) in [
            ("dirs_listed", report.dirs_listed),
            ("dirs_skipped", report.dirs_skipped),
            ("dirs_removed", report.dirs_removed),
            ("segments_added", report.segments_added),
            ("segments_changed", report.segments_changed),
            ("segments_removed", report.segments_removed),
            ("errors", report.errors),
        ] {
            self.discovery.with_label_values(&[what]).inc_by(n);
        }
    }

    /// In Prometheus' text format.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
