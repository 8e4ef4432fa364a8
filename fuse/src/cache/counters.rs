//! What the cache did since start.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry, core::Collector};
use serde::{Deserialize, Serialize};

use super::Purpose;
use crate::disk::DiskSnapshot;

/// Counters of one block cache.
#[derive(Debug)]
pub(super) struct CacheCounters {
    pub(super) hits: IntCounter,
    pub(super) pinned_hits: IntCounter,
    pub(super) readahead_hits: IntCounter,
    pub(super) misses: IntCounter,
    pub(super) store_reads: IntCounter,
    pub(super) bytes_fetched: IntCounter,
    pub(super) bytes_wasted: IntCounter,
    pub(super) admitted: IntCounter,
    pub(super) evictions: IntCounter,
    reads: IntCounterVec,
    bytes: IntCounterVec,
}

/// Reads of the store for one purpose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurposeUse {
    /// Reads.
    pub reads: u64,
    /// Bytes that they gave.
    pub bytes: u64,
}

/// Reads of the store by purpose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ByPurpose {
    /// See [`Purpose::Demand`].
    pub demand: PurposeUse,
    /// See [`Purpose::Interior`].
    pub interior: PurposeUse,
    /// See [`Purpose::Lookahead`].
    pub lookahead: PurposeUse,
    /// See [`Purpose::Readahead`].
    pub readahead: PurposeUse,
    /// See [`Purpose::Warm`].
    pub warm: PurposeUse,
}

/// The figures of a cache at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheSnapshot {
    /// Blocks found in RAM.
    pub hits: u64,
    /// Reads answered from pinned pages; not part of `hits`.
    pub pinned_hits: u64,
    /// Blocks found in what was read ahead.
    pub readahead_hits: u64,
    /// Blocks that had to be waited for: fetched, or being fetched for another reader.
    pub misses: u64,
    /// Reads sent to the store.
    pub store_reads: u64,
    /// Bytes that these reads gave.
    pub bytes_fetched: u64,
    /// The same two by purpose.
    pub by_purpose: ByPurpose,
    /// Bytes read ahead and thrown away unused.
    pub bytes_wasted: u64,
    /// Blocks of readahead that were read again and so offered to the cache.
    pub admitted: u64,
    /// Blocks given up for lack of room.
    pub evictions: u64,
    /// Bytes of the cached blocks.
    pub cached_bytes: u64,
    /// Bytes of the pinned pages.
    pub pinned_bytes: u64,
    /// Bound of `pinned_bytes`.
    pub pinned_bytes_max: u64,
    /// Bound of `cached_bytes`.
    pub cache_bytes_max: u64,
    /// Bytes of readahead buffers, filled or being filled.
    pub readahead_bytes: u64,
    /// Bound of `readahead_bytes`.
    pub readahead_bytes_max: u64,
    /// Store reads that are running now.
    pub in_flight: u64,
    /// Bytes of reads that somebody waits for.
    pub in_flight_bytes: u64,
    /// Most reads in the background at once, as the store's latency suggests.
    pub background_reads_max: u64,
    /// The disk cache; `None`: there is none.
    pub disk: Option<DiskSnapshot>,
}

impl CacheCounters {
    pub(super) fn new() -> prometheus::Result<Self> {
        let counter =
            |name: &str, help: &str| IntCounter::new(format!("springhouse_cache_{name}_total"), help);
        let by_purpose = |name: &str, help: &str| {
            IntCounterVec::new(Opts::new(format!("springhouse_cache_{name}_total"), help), &["purpose"])
        };
        let counters = Self {
            hits: counter("hits", "Blocks found in the block cache")?,
            pinned_hits: counter("pinned_hits", "Reads answered from pinned pages")?,
            readahead_hits: counter("readahead_hits", "Blocks found in readahead buffers")?,
            misses: counter("misses", "Blocks that had to be waited for")?,
            store_reads: counter("store_reads", "Reads that the cache sent to the store")?,
            bytes_fetched: counter("fetched_bytes", "Bytes fetched from the store")?,
            bytes_wasted: counter("wasted_bytes", "Bytes read ahead and thrown away unused")?,
            admitted: counter("admitted", "Blocks of readahead read again and offered to the block cache")?,
            evictions: counter("evictions", "Blocks given up for lack of room")?,
            reads: by_purpose("store_reads_by_purpose", "Reads that the cache sent to the store")?,
            bytes: by_purpose("fetched_bytes_by_purpose", "Bytes fetched from the store")?,
        };
        for purpose in Purpose::ALL {
            counters.reads.with_label_values(&[purpose.name()]);
            counters.bytes.with_label_values(&[purpose.name()]);
        }
        Ok(counters)
    }

    pub(super) fn store_read(&self, purpose: Purpose) {
        self.store_reads.inc();
        self.reads.with_label_values(&[purpose.name()]).inc();
    }

    pub(super) fn fetched(&self, purpose: Purpose, bytes: u64) {
        self.bytes_fetched.inc_by(bytes);
        self.bytes.with_label_values(&[purpose.name()]).inc_by(bytes);
    }

    pub(super) fn by_purpose(&self) -> ByPurpose {
        let of = |purpose: Purpose| PurposeUse {
            reads: self.reads.with_label_values(&[purpose.name()]).get(),
            bytes: self.bytes.with_label_values(&[purpose.name()]).get(),
        };
        ByPurpose {
            demand: of(Purpose::Demand),
            interior: of(Purpose::Interior),
            lookahead: of(Purpose::Lookahead),
            readahead: of(Purpose::Readahead),
            warm: of(Purpose::Warm),
        }
    }

    pub(super) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        let counters = [
            &self.hits,
            &self.pinned_hits,
            &self.readahead_hits,
            &self.misses,
            &self.store_reads,
            &self.bytes_fetched,
            &self.bytes_wasted,
            &self.admitted,
            &self.evictions,
        ];
        counters
            .into_iter()
            .map(|counter| Box::new(counter.clone()) as Box<dyn Collector>)
            .chain([&self.reads, &self.bytes].map(|vec| Box::new(vec.clone()) as Box<dyn Collector>))
            .try_for_each(|collector| registry.register(collector))
    }
}
