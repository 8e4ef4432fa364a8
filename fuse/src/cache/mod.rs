//! The block cache: pinned pages, hot blocks in RAM, blocks on disk, reads of the store shared by all
//! who wait, readahead apart.
//!
//! A read looks in this order: pinned pages; what is in flight or was read ahead for any handle; the
//! blocks in RAM, of random reads only; the disk; the store. Readahead never enters the blocks in RAM,
//! unless it is read a second time: one scan would push the hot set out of them, or their admission
//! policy would throw most of the scan away unread.
//!
//! All memory is bounded: blocks by `cache_bytes`, pins by `pinned_bytes`, readahead by
//! `readahead_bytes`, reads in flight by [`Tiers::in_flight_bytes`], blocks on their way to the disk by
//! its queue. Who finds no room waits, reads less ahead, or is not written to disk.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed},
        },
    },
    time::Duration,
};

use parking_lot::Mutex;
use prometheus::Registry;
use tokio::runtime::Handle;

use self::{
    advice::Curves,
    budget::{Budget, Waste},
    counters::CacheCounters,
    flight::Index,
    lanes::Lanes,
    launch::Shared,
    pins::Pins,
    ram::Ram,
    top::Top,
};
pub use self::{
    advice::{Advice, AdvicePoint, TierAdvice},
    counters::{ByPurpose, CacheSnapshot, PurposeUse},
    kept::KeptFile,
    operate::{Dropped, Resize},
    purpose::Purpose,
    stream::Stream,
    top::FileUse,
};
use crate::{
    disk::{DiskCache, DiskKey},
    error::{Error, ErrorKind, Result},
    memory::ByteSemaphore,
    store::Reader,
};

mod advice;
mod budget;
mod counters;
mod fetch;
mod flight;
mod kept;
mod lanes;
mod launch;
mod operate;
mod pins;
mod purpose;
mod ram;
mod read;
mod stream;
#[cfg(test)]
mod tests;
mod top;

/// Blocks of a file up to which it is looked whether all of it is there.
const HELD_BLOCKS_MAX: u64 = 64;

/// Sizes of a block cache, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheSettings {
    /// Bound of the cached blocks; 0 caches nothing.
    pub cache_bytes: u64,
    /// The cached unit.
    pub block_bytes: u64,
    /// Bound of the pinned pages; 0 pins nothing.
    pub pinned_bytes: u64,
    /// Bound of all readahead buffers together; 0 reads nothing ahead.
    pub readahead_bytes: u64,
    /// Largest single read of readahead; rounded up to whole blocks.
    pub extent_bytes: u64,
    /// Longest time that one read of the store may take.
    pub deadline: Duration,
}

/// What a cache has beside its blocks in RAM.
#[derive(Debug, Clone)]
pub struct Tiers {
    /// Blocks on disk; `None`: nothing outlives the process.
    pub disk: Option<Arc<DiskCache>>,
    /// Stands for the store in the keys of the disk, which several stores may share: a hash of its URL.
    pub store: u64,
    /// Bound of the reads that somebody waits for, in bytes.
    pub in_flight_bytes: u64,
}

impl Default for Tiers {
    fn default() -> Self {
        Self { disk: None, store: 0, in_flight_bytes: 64 << 20 }
    }
}

/// One block of one generation of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct BlockKey {
    file: u128,
    block: u64,
}

/// A file that can be read through the cache.
#[derive(Debug, Clone)]
pub struct Source {
    /// Stands for path and generation ([`crate::fs::NodeKey::digest`]).
    pub file: u128,
    /// Reads what is not cached.
    pub reader: Arc<dyn Reader>,
}

impl Source {
    /// Length of the file in bytes.
    pub fn len(&self) -> u64 {
        self.reader.metadata().len
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// See the module.
#[derive(Debug)]
pub struct BlockCache {
    settings: CacheSettings,
    shared: Arc<Shared>,
    pins: Pins,
    pinned_bytes_max: AtomicU64,
    /// Largest window of a handle; `u64::MAX`: as it was opened with.
    readahead_bytes_max: AtomicU64,
    index: Arc<Mutex<Index>>,
    budget: Arc<Budget>,
    waste: Arc<Waste>,
    in_flight_bytes: ByteSemaphore,
    top: Top,
    runtime: Handle,
}

impl BlockCache {
    /// An empty cache in RAM that reads the store on `runtime`.
    pub fn new(settings: CacheSettings, runtime: Handle) -> Result<Self> {
        Self::with_tiers(settings, Tiers::default(), runtime)
    }

    /// A cache that also looks in other tiers before it reads the store on `runtime`.
    pub fn with_tiers(settings: CacheSettings, tiers: Tiers, runtime: Handle) -> Result<Self> {
        if !settings.block_bytes.is_power_of_two() || !(4 << 10..=4 << 20).contains(&settings.block_bytes) {
            let message = format!(
                "a cache block of {} bytes: a power of two from 4 KiB to 4 MiB",
                settings.block_bytes
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let counters =
            CacheCounters::new().map_err(|e| Error::new(ErrorKind::Other, format!("cache metrics: {e}")))?;
        let counters = Arc::new(counters);
        let ram = Arc::new(Ram::new(settings.cache_bytes, settings.block_bytes, counters.evictions.clone())?);
        let curves = Curves::new(tiers.disk.is_some());
        let shared = Shared {
            block_bytes: settings.block_bytes,
            deadline: settings.deadline,
            ram,
            counters,
            disk: tiers.disk,
            store: tiers.store,
            lanes: Arc::new(Lanes::default()),
            in_flight: AtomicU64::new(0),
            curves,
        };
        Ok(Self {
            settings,
            shared: Arc::new(shared),
            pins: Pins::default(),
            pinned_bytes_max: AtomicU64::new(settings.pinned_bytes),
            readahead_bytes_max: AtomicU64::new(u64::MAX),
            index: Arc::default(),
            budget: Arc::new(Budget::new(settings.readahead_bytes)),
            waste: Arc::default(),
            in_flight_bytes: ByteSemaphore::new(tiers.in_flight_bytes),
            top: Top::default(),
            runtime,
        })
    }

    /// Keeps one page of `page_bytes` at `offset` (a multiple of it) outside of the cache, where nothing
    /// pushes it out. `false`: there is no room for it.
    pub fn pin(&self, source: &Source, page_bytes: u64, offset: u64, page: bytes::Bytes) -> bool {
        let room = self.pinned_bytes_max.load(Relaxed).saturating_sub(self.shared.ram.kept.bytes());
        self.pins.pin(source.file, page_bytes, offset, page, room)
    }

    /// Gives up the pinned pages of a file.
    pub fn unpin(&self, file: u128) {
        self.pins.unpin(file);
    }

    /// Whether all of a file of `len` bytes is in RAM. Only small files are looked at.
    pub fn holds(&self, file: u128, len: u64) -> bool {
        let blocks = len.div_ceil(self.settings.block_bytes);
        blocks <= HELD_BLOCKS_MAX
            && (0..blocks).all(|block| self.shared.ram.contains(&BlockKey { file, block }))
    }

    /// The figures now.
    pub fn snapshot(&self) -> CacheSnapshot {
        let Shared { counters, ram, .. } = &*self.shared;
        CacheSnapshot {
            hits: counters.hits.get(),
            pinned_hits: counters.pinned_hits.get(),
            readahead_hits: counters.readahead_hits.get(),
            misses: counters.misses.get(),
            store_reads: counters.store_reads.get(),
            bytes_fetched: counters.bytes_fetched.get(),
            by_purpose: counters.by_purpose(),
            bytes_wasted: counters.bytes_wasted.get(),
            admitted: counters.admitted.get(),
            cached_bytes: ram.bytes(),
            evictions: counters.evictions.get(),
            pinned_bytes: self.pins.bytes() + ram.kept.bytes(),
            pinned_bytes_max: self.pinned_bytes_max.load(Relaxed),
            cache_bytes_max: ram.bytes_max(),
            readahead_bytes: self.budget.taken(),
            readahead_bytes_max: self.budget.max(),
            in_flight: self.shared.in_flight.load(Acquire),
            in_flight_bytes: self.in_flight_bytes.taken(),
            background_reads_max: self.shared.lanes.limit(),
            disk: self.shared.disk.as_ref().map(|disk| disk.snapshot()),
        }
    }

    /// Shows the counters in `registry`.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        self.shared.counters.register(registry)?;
        self.shared.disk.as_ref().map_or(Ok(()), |disk| disk.register(registry))
    }

    fn blocks_of(&self, range: &Range<u64>) -> Range<u64> {
        range.start / self.settings.block_bytes..range.end.div_ceil(self.settings.block_bytes)
    }

    fn bytes_of(&self, blocks: &Range<u64>, file_len: u64) -> Range<u64> {
        let size = self.settings.block_bytes;
        blocks.start * size..blocks.end.saturating_mul(size).min(file_len)
    }

    fn disk_key(&self, source: &Source) -> DiskKey {
        self.shared.disk_key(source)
    }
}

/// The part of `offset..offset + len` inside a file.
fn clamp(offset: u64, len: usize, file_len: u64) -> Range<u64> {
    offset.min(file_len)..offset.saturating_add(len as u64).min(file_len)
}
