//! What the cache did since start.

use prometheus::{IntCounter, Registry, core::Collector};
use serde::{Deserialize, Serialize};

/// Counters of one block cache.
#[derive(Debug)]
pub(super) struct CacheCounters {
    pub(super) hits: IntCounter,
    pub(super) readahead_hits: IntCounter,
    pub(super) misses: IntCounter,
    pub(super) store_reads: IntCounter,
    pub(super) bytes_fetched: IntCounter,
    pub(super) bytes_wasted: IntCounter,
}

/// The figures of a cache at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheSnapshot {
    /// Blocks found in the cache.
    pub hits: u64,
    /// Blocks found in what was read ahead.
    pub readahead_hits: u64,
    /// Blocks that had to be waited for: fetched, or being fetched for another reader.
    pub misses: u64,
    /// Reads sent to the store.
    pub store_reads: u64,
    /// Bytes that these reads gave.
    pub bytes_fetched: u64,
    /// Bytes read ahead and thrown away unused.
    pub bytes_wasted: u64,
    /// Bytes of the cached blocks.
    pub cached_bytes: u64,
    /// Bytes of the pinned pages.
    pub pinned_bytes: u64,
    /// Bound of `cached_bytes`.
    pub cache_bytes_max: u64,
    /// Bytes of readahead buffers, filled or being filled.
    pub readahead_bytes: u64,
    /// Bound of `readahead_bytes`.
    pub readahead_bytes_max: u64,
    /// Store reads that are running now.
    pub in_flight: u64,
}

impl CacheCounters {
    pub(super) fn new() -> prometheus::Result<Self> {
        let counter =
            |name: &str, help: &str| IntCounter::new(format!("springhouse_cache_{name}_total"), help);
        Ok(Self {
            hits: counter("hits", "Blocks found in the block cache")?,
            readahead_hits: counter("readahead_hits", "Blocks found in readahead buffers")?,
            misses: counter("misses", "Blocks that had to be waited for")?,
            store_reads: counter("store_reads", "Reads that the cache sent to the store")?,
            bytes_fetched: counter("fetched_bytes", "Bytes fetched from the store")?,
            bytes_wasted: counter("wasted_bytes", "Bytes read ahead and thrown away unused")?,
        })
    }

    pub(super) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        [
            &self.hits,
            &self.readahead_hits,
            &self.misses,
            &self.store_reads,
            &self.bytes_fetched,
            &self.bytes_wasted,
        ]
        .into_iter()
        .try_for_each(|counter| registry.register(Box::new(counter.clone()) as Box<dyn Collector>))
    }
}
