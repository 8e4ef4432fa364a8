//! Figures of the hot tier.

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use springhouse_gateway::api::hot::CopyState;

use super::Hot;

/// Registered once with a worker's registry.
#[derive(Debug)]
pub(super) struct Metrics {
    copies: IntGaugeVec,
    stored: IntGauge,
    quota: IntGauge,
    locked: IntGauge,
    unpromoted: IntGauge,
    unpromoted_changes: IntGauge,
    unpromoted_age: IntGauge,
    pub(super) fetched_bytes: IntCounter,
    pub(super) resumed_bytes: IntCounter,
    pub(super) fetches: IntCounterVec,
    pub(super) uploads: IntCounterVec,
    pub(super) upload_seconds: Histogram,
    pub(super) damaged: IntCounter,
    pub(super) kept: IntCounter,
    shipped_segments: IntGauge,
    unshipped_age: Gauge,
    pub(super) shipped_files: IntCounter,
    pub(super) shipped_bytes: IntCounter,
    pub(super) ship_failures: IntCounter,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone())).map(|()| gauge)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        let by = |name: &str, help: &str, label: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        let copies = IntGaugeVec::new(Opts::new("springhouse_hot_copies", "Copies by state."), &["state"])?;
        registry.register(Box::new(copies.clone()))?;
        let upload_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "springhouse_hot_upload_seconds",
                "Time of an upload with its copy and check.",
            )
            .buckets(vec![0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0]),
        )?;
        registry.register(Box::new(upload_seconds.clone()))?;
        let unshipped_age = Gauge::new(
            "springhouse_hot_unshipped_age_seconds",
            "Of segments that are shipped: age of the oldest acknowledged transaction that is on this disk \
             alone. What the loss of this worker would take now.",
        )?;
        registry.register(Box::new(unshipped_age.clone()))?;
        Ok(Self {
            copies,
            stored: gauge("springhouse_hot_stored_bytes", "Bytes of copies, here or on their way.")?,
            quota: gauge("springhouse_hot_quota_bytes", "Most bytes of copies.")?,
            locked: gauge("springhouse_hot_locked", "Segments that are writable here.")?,
            unpromoted: gauge("springhouse_hot_unpromoted_segments", "Segments with unpromoted writes.")?,
            unpromoted_changes: gauge(
                "springhouse_hot_unpromoted_transactions",
                "Transactions that exist on this disk alone.",
            )?,
            unpromoted_age: gauge(
                "springhouse_hot_unpromoted_age_seconds",
                "Age of the oldest of them: what the loss of this disk would take.",
            )?,
            fetched_bytes: counter("springhouse_hot_fetched_bytes_total", "Bytes copied from the store.")?,
            resumed_bytes: counter(
                "springhouse_hot_resumed_bytes_total",
                "Bytes that were there when a copy was resumed.",
            )?,
            fetches: by("springhouse_hot_fetches_total", "Copies from the store by outcome.", "outcome")?,
            uploads: by("springhouse_hot_uploads_total", "Uploads for promotion by outcome.", "outcome")?,
            upload_seconds,
            damaged: counter("springhouse_hot_damaged_total", "Copies taken out: their bytes had changed.")?,
            shipped_segments: gauge(
                "springhouse_hot_ship_segments",
                "Segments whose writes are shipped to the store before they are promoted.",
            )?,
            unshipped_age,
            shipped_files: counter("springhouse_hot_shipped_files_total", "Files of shipped writes.")?,
            shipped_bytes: counter("springhouse_hot_shipped_bytes_total", "Bytes of them.")?,
            ship_failures: counter("springhouse_hot_ship_failures_total", "Attempts to ship that failed.")?,
            kept: counter("springhouse_hot_kept_total", "Files of unpromoted writes kept aside.")?,
        })
    }
}

impl Hot {
    /// Sets what is not counted as it happens.
    pub(in crate::worker) fn update_metrics(&self) {
        let metrics = &self.metrics;
        let mut states = [0_i64; 5];
        let (mut locked, mut unpromoted, mut changes) = (0, 0, 0_u64);
        let mut oldest: Option<u64> = None;
        let (mut shipped, mut unshipped) = (0, 0.0_f64);
        for segment in self.segments.read().values() {
            let shown = segment.show();
            let at = match shown.state {
                CopyState::Assigned => 0,
                CopyState::Fetching => 1,
                CopyState::Available => 2,
                CopyState::Stale => 3,
                CopyState::Refused => 4,
                CopyState::Gone => continue,
            };
            states[at] += 1;
            locked += i64::from(shown.token.is_some());
            if let Some(shipping) = segment.state.lock().shipping.clone() {
                shipped += 1;
                unshipped = unshipped.max(shipping.age().map_or(0.0, |age| age.as_secs_f64()));
            }
            let ahead = shown.change.saturating_sub(shown.promoted_change);
            unpromoted += i64::from(ahead > 0);
            changes += ahead;
            if ahead > 0
                && let Some(since) = segment.state.lock().unpromoted_since_ms
            {
                oldest = Some(oldest.map_or(since, |oldest| oldest.min(since)));
            }
        }
        for (state, count) in ["assigned", "fetching", "available", "stale", "refused"].iter().zip(states) {
            metrics.copies.with_label_values(&[state]).set(count);
        }
        let gauge = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge(&metrics.stored, self.room.stored());
        gauge(&metrics.quota, self.room.quota());
        metrics.locked.set(locked);
        metrics.shipped_segments.set(shipped);
        metrics.unshipped_age.set(unshipped);
        metrics.unpromoted.set(unpromoted);
        gauge(&metrics.unpromoted_changes, changes);
        gauge(
            &metrics.unpromoted_age,
            oldest.map_or(0, |since| super::tend::now_ms().saturating_sub(since) / 1000),
        );
    }
}
