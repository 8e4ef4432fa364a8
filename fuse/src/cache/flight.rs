//! One read of the store and everyone who waits for it.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::{
    BlockKey, Purpose,
    budget::{Budget, Waste},
    counters::CacheCounters,
    ram::Ram,
};
use crate::error::{Error, ErrorKind, Result};

/// Which flight covers what. Flights leave it by themselves when the last holder lets go, or when they
/// fail, so an error is told to those who waited and to nobody after them.
///
/// Never drop a flight while it is locked: the flight would wait for the lock itself.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) blocks: HashMap<BlockKey, Weak<Flight>>,
    /// Exact ranges by file and start: end and flight.
    exact: HashMap<u128, BTreeMap<u64, (u64, Weak<Flight>)>>,
}

impl Index {
    pub(super) fn block(&self, key: &BlockKey) -> Option<Arc<Flight>> {
        self.blocks.get(key)?.upgrade()
    }

    /// A flight of an exact range that covers `wanted`.
    pub(super) fn exact(&self, file: u128, wanted: &Range<u64>) -> Option<Arc<Flight>> {
        let (_, (end, flight)) = self.exact.get(&file)?.range(..=wanted.start).next_back()?;
        if *end >= wanted.end { flight.upgrade() } else { None }
    }

    pub(super) fn add_exact(&mut self, flight: &Arc<Flight>) {
        let range = &flight.range;
        let of = self.exact.entry(flight.file).or_default();
        of.insert(range.start, (range.end, Arc::downgrade(flight)));
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.exact.is_empty()
    }
}

/// The bytes of a range, on their way or there.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) file: u128,
    /// Bytes of the file. Of whole blocks, unless `exact`: starts at a block's start and ends at one's
    /// end or the file's.
    pub(super) range: Range<u64>,
    pub(super) purpose: Purpose,
    pub(super) exact: bool,
    block_bytes: u64,
    outcome: watch::Sender<Option<Result<Bytes>>>,
    /// Told when somebody begins to wait for what was fetched on suspicion.
    pub(super) urgent: Notify,
    index: Arc<Mutex<Index>>,
    /// Set for what lies in the buffer of a handle.
    ahead: Option<Ahead>,
}

/// The part of the readahead budget that a flight holds.
#[derive(Debug)]
pub(super) struct Ahead {
    pub(super) budget: Arc<Budget>,
    pub(super) counters: Arc<CacheCounters>,
    pub(super) ram: Arc<Ram>,
    pub(super) bytes: u64,
    /// Of the handle and of all.
    pub(super) waste: [Arc<Waste>; 2],
    /// Of each block: how far into it was read; 0: not at all, [`ADMITTED`]: it went to the cache.
    pub(super) read_to: Box<[AtomicU32]>,
}

/// See [`Ahead::read_to`]; more than any block has bytes.
const ADMITTED: u32 = u32::MAX;

impl Flight {
    pub(super) fn new(
        file: u128,
        range: Range<u64>,
        block_bytes: u64,
        purpose: Purpose,
        index: Arc<Mutex<Index>>,
        ahead: Option<Ahead>,
    ) -> Self {
        let (outcome, _) = watch::channel(None);
        let urgent = Notify::new();
        Self { file, range, purpose, exact: false, block_bytes, outcome, urgent, index, ahead }
    }

    /// A read of just these bytes.
    pub(super) fn exact(
        file: u128,
        range: Range<u64>,
        block_bytes: u64,
        purpose: Purpose,
        index: Arc<Mutex<Index>>,
    ) -> Self {
        let mut flight = Self::new(file, range, block_bytes, purpose, index, None);
        flight.exact = true;
        flight
    }

    /// The block numbers that the range touches.
    pub(super) fn blocks(&self) -> Range<u64> {
        self.range.start / self.block_bytes..self.range.end.div_ceil(self.block_bytes)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = BlockKey> + use<> {
        let file = self.file;
        self.blocks().map(move |block| BlockKey { file, block })
    }

    pub(super) fn len(&self) -> usize {
        (self.range.end - self.range.start) as usize
    }

    /// Ends the flight. A result of another length than was asked for is the store's mistake.
    pub(super) fn land(&self, outcome: Result<Bytes>) {
        let outcome = outcome.and_then(|bytes| {
            if bytes.len() == self.len() {
                return Ok(bytes);
            }
            let message = format!("the store gave {} bytes instead of {}", bytes.len(), self.len());
            Err(Error::new(ErrorKind::Other, message))
        });
        if outcome.is_err() {
            self.leave_index();
        }
        self.outcome.send_replace(Some(outcome));
    }

    /// The bytes of `wanted`, which must lie inside; `None` while on the way.
    pub(super) fn peek(&self, wanted: &Range<u64>) -> Option<Result<Bytes>> {
        let outcome = self.outcome.borrow();
        Some(match outcome.as_ref()? {
            Ok(bytes) => Ok(self.cut(bytes, wanted)),
            Err(error) => Err(error.clone()),
        })
    }

    /// Waits for the bytes of `wanted`, which must lie inside. With `urgently` it no longer waits for a
    /// lane.
    pub(super) async fn wait(&self, wanted: &Range<u64>, urgently: bool) -> Result<Bytes> {
        if urgently {
            self.urgent.notify_one();
        }
        let mut outcome = self.outcome.subscribe();
        // The sender lives as long as `self`, so it cannot be closed here.
        let landed = outcome.wait_for(Option::is_some).await;
        match landed.as_deref() {
            Ok(Some(Ok(bytes))) => Ok(self.cut(bytes, wanted)),
            Ok(Some(Err(error))) => Err(error.clone()),
            Ok(None) | Err(_) => Err(Error::new(ErrorKind::Other, "a read of the store was given up")),
        }
    }

    fn cut(&self, bytes: &Bytes, wanted: &Range<u64>) -> Bytes {
        if let Some(ahead) = &self.ahead {
            self.touch(ahead, bytes, wanted);
        }
        self.slice(bytes, wanted)
    }

    fn slice(&self, bytes: &Bytes, wanted: &Range<u64>) -> Bytes {
        let start = (wanted.start - self.range.start) as usize;
        bytes.slice(start..start + (wanted.end - wanted.start) as usize)
    }

    /// Notes what is read, and offers a block to the cache when it is read again: the second block that
    /// a query wants of a looked-ahead one, or bytes that a sequential reader had before.
    fn touch(&self, ahead: &Ahead, bytes: &Bytes, wanted: &Range<u64>) {
        let first = self.range.start / self.block_bytes;
        for block in wanted.start / self.block_bytes..wanted.end.div_ceil(self.block_bytes) {
            let Some(read_to) = ahead.read_to.get((block - first) as usize) else { continue };
            let start = block * self.block_bytes;
            let from = wanted.start.saturating_sub(start) as u32;
            let to = (wanted.end - start).min(self.block_bytes) as u32;
            let before = read_to.fetch_max(to, Relaxed);
            let again = before > 0 && (self.purpose == Purpose::Lookahead || from < before);
            if again && before != ADMITTED && read_to.swap(ADMITTED, Relaxed) != ADMITTED {
                let whole = start..(start + self.block_bytes).min(self.range.end);
                // A copy: a slice would keep the whole read alive.
                let copy = Bytes::copy_from_slice(&self.slice(bytes, &whole));
                ahead.counters.admitted.inc();
                ahead.ram.insert(BlockKey { file: self.file, block }, copy);
            }
        }
    }

    pub(super) fn has_landed(&self) -> bool {
        self.outcome.borrow().is_some()
    }

    pub(super) fn is_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    /// Whether it lies in a handle's buffer and every block was read to its end.
    pub(super) fn is_used_up(&self) -> bool {
        let len = self.range.end - self.range.start;
        self.ahead.as_ref().is_some_and(|ahead| {
            (0..).zip(&ahead.read_to).all(|(block, read_to): (u64, _)| {
                let block_len = (len - block * self.block_bytes).min(self.block_bytes);
                u64::from(read_to.load(Relaxed)) >= block_len
            })
        })
    }

    fn leave_index(&self) {
        let mut index = self.index.lock();
        let is_this = |flight: &Weak<Flight>| std::ptr::eq(flight.as_ptr(), self);
        if self.exact {
            if let Some(of) = index.exact.get_mut(&self.file) {
                if of.get(&self.range.start).is_some_and(|(_, flight)| is_this(flight)) {
                    of.remove(&self.range.start);
                }
                if of.is_empty() {
                    index.exact.remove(&self.file);
                }
            }
            return;
        }
        for key in self.keys() {
            if index.blocks.get(&key).is_some_and(is_this) {
                index.blocks.remove(&key);
            }
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.leave_index();
        if let Some(ahead) = &self.ahead {
            ahead.budget.give_back(ahead.bytes);
            if matches!(&*self.outcome.borrow(), Some(Ok(_))) {
                let untouched = ahead.read_to.iter().filter(|to| to.load(Relaxed) == 0).count() as u64;
                let wasted = (untouched * self.block_bytes).min(ahead.bytes);
                ahead.counters.bytes_wasted.inc_by(wasted);
                ahead.waste.iter().for_each(|waste| waste.note(ahead.bytes, wasted));
            }
        }
    }
}
