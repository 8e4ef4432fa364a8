//! One read of the store and everyone who waits for it.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{BlockKey, counters::CacheCounters};
use crate::error::{Error, ErrorKind, Result};

/// Which flight covers a block. Flights leave it by themselves when the last holder lets go, or when
/// they fail, so an error is told to those who waited and to nobody after them.
pub(super) type Index = Mutex<HashMap<BlockKey, Weak<Flight>>>;

/// The bytes of some neighbouring blocks, on their way or there.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) file: u128,
    /// Bytes of the file; starts at a block's start and ends at one's end or the file's.
    pub(super) range: Range<u64>,
    block_bytes: u64,
    outcome: watch::Sender<Option<Result<Bytes>>>,
    index: Arc<Index>,
    /// Set for readahead: what it takes from the budget.
    ahead: Option<Ahead>,
}

/// The part of the readahead budget that a flight holds.
#[derive(Debug)]
pub(super) struct Ahead {
    pub(super) budget: Arc<Budget>,
    pub(super) counters: Arc<CacheCounters>,
    pub(super) bytes: u64,
    pub(super) used: AtomicU64,
}

impl Flight {
    pub(super) fn new(
        file: u128,
        range: Range<u64>,
        block_bytes: u64,
        index: Arc<Index>,
        ahead: Option<Ahead>,
    ) -> Self {
        let (outcome, _) = watch::channel(None);
        Self { file, range, block_bytes, outcome, index, ahead }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = BlockKey> + use<> {
        let file = self.file;
        (self.range.start / self.block_bytes..self.range.end.div_ceil(self.block_bytes))
            .map(move |block| BlockKey { file, block })
    }

    pub(super) fn len(&self) -> usize {
        (self.range.end - self.range.start) as usize
    }

    /// Ends the flight. A result of another length than was asked for is the store's mistake.
    pub(super) fn land(self: &Arc<Self>, outcome: Result<Bytes>) {
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

    /// Waits for the bytes of `wanted`, which must lie inside.
    pub(super) async fn wait(&self, wanted: &Range<u64>) -> Result<Bytes> {
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
            ahead.used.fetch_add(wanted.end - wanted.start, Relaxed);
        }
        let start = (wanted.start - self.range.start) as usize;
        bytes.slice(start..start + (wanted.end - wanted.start) as usize)
    }

    pub(super) fn has_landed(&self) -> bool {
        self.outcome.borrow().is_some()
    }

    pub(super) fn is_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    fn leave_index(&self) {
        let mut index = self.index.lock();
        for key in self.keys() {
            if index.get(&key).is_some_and(|flight| std::ptr::eq(flight.as_ptr(), self)) {
                index.remove(&key);
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
                ahead.counters.bytes_wasted.inc_by(ahead.bytes.saturating_sub(ahead.used.load(Relaxed)));
            }
        }
    }
}

/// Bytes that all readahead together may hold.
#[derive(Debug)]
pub(super) struct Budget {
    max: u64,
    taken: AtomicU64,
}

impl Budget {
    pub(super) fn new(max: u64) -> Self {
        Self { max, taken: AtomicU64::new(0) }
    }

    /// Takes `bytes`, all or nothing.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let fits = |taken: u64| taken.checked_add(bytes).filter(|&sum| sum <= self.max);
        self.taken.fetch_update(Relaxed, Relaxed, fits).is_ok()
    }

    pub(super) fn give_back(&self, bytes: u64) {
        self.taken.fetch_sub(bytes, Relaxed);
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    pub(super) fn max(&self) -> u64 {
        self.max
    }
}
