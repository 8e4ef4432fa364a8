//! The block cache: hot blocks in RAM, reads of the store shared by all who wait, readahead apart.
//!
//! Three places can hold a block, asked in this order: the cache (`moka`, blocks of random reads only),
//! what is in flight or was read ahead for any handle, and the store. Readahead never enters the cache:
//! one scan would push the hot set out of it, and its admission policy would throw most of the scan
//! away unread. All memory is bounded by `cache_bytes` + `readahead_bytes` + the reads in flight.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use prometheus::Registry;
use tokio::runtime::Handle;

use self::{
    counters::CacheCounters,
    flight::{Ahead, Budget, Flight, Index},
    pins::Pins,
};
pub use self::{counters::CacheSnapshot, purpose::Purpose, stream::Stream};
use crate::{
    error::{Error, ErrorKind, Result},
    store::Reader,
};

mod counters;
mod flight;
mod pins;
mod purpose;
mod stream;
#[cfg(test)]
mod tests;

/// Memory that an entry costs beside its bytes, as `moka` keeps it.
const ENTRY_OVERHEAD_BYTES: u32 = 160;

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
    blocks: moka::sync::Cache<BlockKey, Bytes>,
    pins: Pins,
    index: Arc<Index>,
    budget: Arc<Budget>,
    counters: Arc<CacheCounters>,
    in_flight: Arc<AtomicU64>,
    runtime: Handle,
}

/// One block's part of a read.
enum Part {
    Here(Bytes),
    Coming(Arc<Flight>, Range<u64>),
}

/// What covers a range: in order, without gap, the first and the last possibly beyond it.
struct Launched {
    flights: Vec<Arc<Flight>>,
    /// How much of it was not joined but started.
    started_bytes: u64,
}

impl BlockCache {
    /// An empty cache that reads the store on `runtime`.
    pub fn new(settings: CacheSettings, runtime: Handle) -> Result<Self> {
        if !settings.block_bytes.is_power_of_two() || !(4 << 10..=4 << 20).contains(&settings.block_bytes) {
            let message = format!(
                "a cache block of {} bytes: a power of two from 4 KiB to 4 MiB",
                settings.block_bytes
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let counters =
            CacheCounters::new().map_err(|e| Error::new(ErrorKind::Other, format!("cache metrics: {e}")))?;
        let blocks = moka::sync::Cache::builder()
            .max_capacity(settings.cache_bytes)
            .weigher(|_, block: &Bytes| {
                u32::try_from(block.len()).unwrap_or(u32::MAX).saturating_add(ENTRY_OVERHEAD_BYTES)
            })
            .build();
        Ok(Self {
            blocks,
            settings,
            pins: Pins::default(),
            index: Arc::default(),
            budget: Arc::new(Budget::new(settings.readahead_bytes)),
            counters: Arc::new(counters),
            in_flight: Arc::default(),
            runtime,
        })
    }

    /// Exactly the bytes of `offset..offset + len` that the file has.
    ///
    /// Safe to drop: a read of the store that was begun goes on for those who share it, until the
    /// deadline at the latest.
    pub async fn read(&self, source: &Source, offset: u64, len: usize) -> Result<Bytes> {
        let wanted = clamp(offset, len, source.len());
        if wanted.is_empty() {
            return Ok(Bytes::new());
        }
        if let Some(bytes) = self.pins.get(source.file, &wanted) {
            self.counters.hits.inc();
            return Ok(bytes);
        }
        // What a sequential reader asks for lies in one flight, and is a slice of it: no copy.
        if let Some(flight) = self.covering(source, &wanted) {
            return self.take(&flight, &wanted).await;
        }
        // All parts are on their way before the first is waited for.
        let mut parts = self.parts(source, &wanted);
        if parts.len() == 1
            && let Some(only) = parts.pop()
        {
            return match only {
                Part::Here(bytes) => Ok(bytes),
                Part::Coming(flight, range) => flight.wait(&range).await,
            };
        }
        let mut whole = BytesMut::with_capacity((wanted.end - wanted.start) as usize);
        for part in parts {
            match part {
                Part::Here(bytes) => whole.extend_from_slice(&bytes),
                Part::Coming(flight, range) => whole.extend_from_slice(&flight.wait(&range).await?),
            }
        }
        Ok(whole.freeze())
    }

    /// The bytes of each of `ranges` in its order, fetched together where they are not here, for
    /// `purpose`. What follows from one that fails is the caller's choice: the others are still given.
    pub async fn fetch(
        &self,
        source: &Source,
        ranges: &[Range<u64>],
        purpose: Purpose,
    ) -> Vec<Result<Bytes>> {
        let _ = purpose;
        let reads = ranges.iter().map(|r| self.read(source, r.start, (r.end - r.start) as usize));
        futures::future::join_all(reads).await
    }

    /// Starts fetching `ranges` into the readahead buffer of `stream`, without waiting: they are likely
    /// to be read next. Stops at the first that the budget does not cover; gives how many were taken.
    pub fn look_ahead(&self, source: &Source, stream: &Stream, ranges: &[Range<u64>]) -> usize {
        stream.hold(self, source, ranges)
    }

    /// Keeps one page of `page_bytes` at `offset` (a multiple of it) outside of the cache, where nothing
    /// pushes it out. `false`: there is no room for it.
    pub fn pin(&self, source: &Source, page_bytes: u64, offset: u64, page: Bytes) -> bool {
        self.pins.pin(source.file, page_bytes, offset, page, self.settings.pinned_bytes)
    }

    /// Gives up the pinned pages of a file.
    pub fn unpin(&self, file: u128) {
        self.pins.unpin(file);
    }

    /// The figures now.
    pub fn snapshot(&self) -> CacheSnapshot {
        self.blocks.run_pending_tasks();
        CacheSnapshot {
            hits: self.counters.hits.get(),
            readahead_hits: self.counters.readahead_hits.get(),
            misses: self.counters.misses.get(),
            store_reads: self.counters.store_reads.get(),
            bytes_fetched: self.counters.bytes_fetched.get(),
            bytes_wasted: self.counters.bytes_wasted.get(),
            cached_bytes: self.blocks.weighted_size(),
            pinned_bytes: self.pins.bytes(),
            cache_bytes_max: self.settings.cache_bytes,
            readahead_bytes: self.budget.taken(),
            readahead_bytes_max: self.budget.max(),
            in_flight: self.in_flight.load(Relaxed),
        }
    }

    /// Shows the counters in `registry`.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        self.counters.register(registry)
    }

    fn blocks_of(&self, range: &Range<u64>) -> Range<u64> {
        range.start / self.settings.block_bytes..range.end.div_ceil(self.settings.block_bytes)
    }

    fn bytes_of(&self, blocks: &Range<u64>, file_len: u64) -> Range<u64> {
        let size = self.settings.block_bytes;
        blocks.start * size..blocks.end.saturating_mul(size).min(file_len)
    }

    /// Where each block of `wanted` is; starts reads for those that are nowhere.
    fn parts(&self, source: &Source, wanted: &Range<u64>) -> Vec<Part> {
        let blocks = self.blocks_of(wanted);
        let mut parts = Vec::with_capacity((blocks.end - blocks.start) as usize);
        let mut missing: Option<Range<u64>> = None;
        for block in blocks {
            if let Some(part) = self.find(source, block, wanted) {
                self.fetch_missing(source, missing.take(), wanted, &mut parts);
                parts.push(part);
            } else {
                missing = Some(missing.map_or(block..block + 1, |run| run.start..block + 1));
            }
        }
        self.fetch_missing(source, missing, wanted, &mut parts);
        parts
    }

    /// The flight that covers all of `wanted`, which is not empty.
    fn covering(&self, source: &Source, wanted: &Range<u64>) -> Option<Arc<Flight>> {
        let key = BlockKey { file: source.file, block: wanted.start / self.settings.block_bytes };
        let flight = self.index.lock().get(&key)?.upgrade()?;
        (flight.range.end >= wanted.end).then_some(flight)
    }

    /// The bytes of `wanted`, all of which `flight` covers.
    async fn take(&self, flight: &Arc<Flight>, wanted: &Range<u64>) -> Result<Bytes> {
        let blocks = self.blocks_of(wanted);
        let blocks = blocks.end - blocks.start;
        match flight.peek(wanted) {
            Some(Ok(bytes)) => {
                let hits =
                    if flight.is_ahead() { &self.counters.readahead_hits } else { &self.counters.hits };
                hits.inc_by(blocks);
                Ok(bytes)
            }
            landing => {
                self.counters.misses.inc_by(blocks);
                // One that failed a moment ago: told to this reader as to the others.
                match landing {
                    Some(failed) => failed,
                    None => flight.wait(wanted).await,
                }
            }
        }
    }

    fn find(&self, source: &Source, block: u64, wanted: &Range<u64>) -> Option<Part> {
        let key = BlockKey { file: source.file, block };
        let range = self.bytes_of(&(block..block + 1), source.len());
        let range = range.start.max(wanted.start)..range.end.min(wanted.end);
        if let Some(bytes) = self.blocks.get(&key) {
            self.counters.hits.inc();
            let start = (range.start - block * self.settings.block_bytes) as usize;
            return Some(Part::Here(bytes.slice(start..start + (range.end - range.start) as usize)));
        }
        let flight = self.index.lock().get(&key)?.upgrade()?;
        Some(match flight.peek(&range) {
            Some(Ok(bytes)) => {
                if flight.is_ahead() { &self.counters.readahead_hits } else { &self.counters.hits }.inc();
                Part::Here(bytes)
            }
            // A flight that failed a moment ago: told to this reader as to the others.
            Some(Err(_)) | None => {
                self.counters.misses.inc();
                Part::Coming(flight, range)
            }
        })
    }

    fn fetch_missing(
        &self,
        source: &Source,
        missing: Option<Range<u64>>,
        wanted: &Range<u64>,
        parts: &mut Vec<Part>,
    ) {
        let Some(blocks) = missing else { return };
        self.counters.misses.inc_by(blocks.end - blocks.start);
        let range = self.bytes_of(&blocks, source.len());
        for flight in self.launch(source, range.clone(), false).flights {
            // One that was joined may cover more than what is missing here.
            let start = flight.range.start.max(range.start).max(wanted.start);
            let end = flight.range.end.min(range.end).min(wanted.end);
            parts.push(Part::Coming(flight, start..end));
        }
    }

    /// Starts reading `range` (whole blocks), except what another flight covers by now: those are
    /// joined. For readahead the caller has taken the range from the budget.
    fn launch(&self, source: &Source, range: Range<u64>, ahead: bool) -> Launched {
        // Flights let go under the index's lock would wait for it themselves: both lists keep them.
        let mut flights: Vec<Arc<Flight>> = Vec::new();
        let mut started = Vec::new();
        let mut started_bytes = 0;
        let mut index = self.index.lock();
        let mut start = range.start;
        while start < range.end {
            let block = start / self.settings.block_bytes;
            let joined = index.get(&BlockKey { file: source.file, block }).and_then(|f| f.upgrade());
            if let Some(flight) = joined {
                start = flight.range.end;
                flights.push(flight);
                continue;
            }
            // As far as nobody else reads.
            let blocks = self.blocks_of(&(start..range.end));
            let end = blocks.clone().skip(1).find(|&block| {
                let key = BlockKey { file: source.file, block };
                index.get(&key).is_some_and(|flight| flight.strong_count() > 0)
            });
            let bytes = self.bytes_of(&(blocks.start..end.unwrap_or(blocks.end)), source.len());
            start = bytes.end;
            started_bytes += bytes.end - bytes.start;
            let hold = ahead.then(|| Ahead {
                budget: self.budget.clone(),
                counters: self.counters.clone(),
                bytes: bytes.end - bytes.start,
                used: AtomicU64::new(0),
            });
            let flight = Arc::new(Flight::new(
                source.file,
                bytes,
                self.settings.block_bytes,
                self.index.clone(),
                hold,
            ));
            for key in flight.keys() {
                index.insert(key, Arc::downgrade(&flight));
            }
            started.push(flight.clone());
            flights.push(flight);
        }
        drop(index);
        for flight in started {
            self.fly(source, flight);
        }
        Launched { flights, started_bytes }
    }

    /// Reads in a task of its own, so that no reader's end is the end of another's read.
    fn fly(&self, source: &Source, flight: Arc<Flight>) {
        self.counters.store_reads.inc();
        let reader = source.reader.clone();
        let (counters, deadline) = (self.counters.clone(), self.settings.deadline);
        let blocks = (!flight.is_ahead()).then(|| self.blocks.clone());
        let block_bytes = self.settings.block_bytes as usize;
        let guard = InFlight::new(self.in_flight.clone(), flight);
        self.runtime.spawn(async move {
            let flight = &guard.flight;
            let read = reader.read_at(flight.range.start, flight.len());
            let outcome = tokio::time::timeout(deadline, read).await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::TimedOut, format!("no answer to a read within {deadline:?}")))
            });
            if let Ok(bytes) = &outcome {
                counters.bytes_fetched.inc_by(bytes.len() as u64);
                if let Some(blocks) = blocks.filter(|_| bytes.len() == flight.len()) {
                    for (key, block) in flight.keys().zip(bytes.chunks(block_bytes)) {
                        // A copy: a slice would keep the whole read alive after its neighbours went.
                        blocks.insert(key, Bytes::copy_from_slice(block));
                    }
                }
            }
            flight.land(outcome);
        });
    }
}

/// Counts a flight, and lands it if its task ends without a result (a panic, the end of the runtime):
/// nobody waits for ever.
struct InFlight {
    count: Arc<AtomicU64>,
    flight: Arc<Flight>,
}

impl InFlight {
    fn new(count: Arc<AtomicU64>, flight: Arc<Flight>) -> Self {
        count.fetch_add(1, Relaxed);
        Self { count, flight }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Relaxed);
        if !self.flight.has_landed() {
            self.flight.land(Err(Error::new(ErrorKind::Other, "a read of the store was given up")));
        }
    }
}

/// The part of `offset..offset + len` inside a file.
fn clamp(offset: u64, len: usize, file_len: u64) -> Range<u64> {
    offset.min(file_len)..offset.saturating_add(len as u64).min(file_len)
}
