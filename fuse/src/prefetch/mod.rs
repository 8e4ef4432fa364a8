//! How far to read ahead: pure decisions, no I/O, no clock.
//!
//! One [`Window`] and one [`Strides`] watch the reads of one handle. The kernel sends a sequential reader's requests in
//! pieces of 128 KiB or less, several at a time and slightly out of order; everything here is about
//! telling that from random access.

use std::ops::Range;

pub use self::strides::{StrideAdvice, Strides};

mod strides;
#[cfg(test)]
mod tests;

/// A run this long is a sequential reader. More than two of the kernel's largest requests, so that one
/// random read of an application, which the kernel cuts in pieces, is not taken for one.
pub const START_BYTES: u64 = 256 << 10;

/// First readahead of a run; it doubles each time the reader has come half-way through it.
pub const WINDOW_BYTES_MIN: u64 = 256 << 10;

/// How far out of order the requests of one sequential reader may arrive.
pub const REORDER_BYTES: u64 = 512 << 10;

/// What to do about one read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Advice {
    /// The reader went elsewhere: what was fetched ahead for it is of no use.
    pub seek: bool,
    /// Fetch this now. Ranges of one run follow each other without gap or overlap.
    pub fetch: Option<Range<u64>>,
}

/// The readahead state of one handle.
#[derive(Debug)]
pub struct Window {
    /// Largest window; 0: never read ahead.
    max: u64,
    /// Current window; 0: not sequential.
    size: u64,
    /// Where the run ends, that is, where its next read should start.
    next: u64,
    /// Length of the run.
    run: u64,
    /// Everything of the run before this has been fetched or asked for.
    ahead: u64,
}

impl Window {
    /// A window that grows to `max` bytes; with 0 it advises nothing.
    pub fn new(max: u64) -> Self {
        Self { max, size: 0, next: 0, run: 0, ahead: 0 }
    }

    /// Changes the largest window from the next read on.
    pub fn set_max(&mut self, max: u64) {
        self.max = max;
        self.size = self.size.min(max);
    }

    /// Everything before this offset is behind the reader, late requests included.
    pub fn behind(&self) -> u64 {
        self.next.saturating_sub(REORDER_BYTES)
    }

    /// Takes note of a read of `len` bytes at `offset` of a file of `file_len` bytes.
    pub fn observe(&mut self, offset: u64, len: u64, file_len: u64) -> Advice {
        let end = offset.saturating_add(len).min(file_len);
        // Only an established run is forgiven gaps: random reads are often near each other.
        let slack = if self.size > 0 { REORDER_BYTES } else { 0 };
        if offset > self.next.saturating_add(slack) || end < self.next.saturating_sub(REORDER_BYTES) {
            return self.restart(offset, end);
        }
        if end <= self.next {
            // Late, or a second look at what was just read.
            return Advice::default();
        }
        if self.size == 0 && offset < self.next && self.run > 0 {
            // Overlapping but not following: a random reader in a small place.
            return self.restart(offset, end);
        }
        self.run = self.run.saturating_add(end - self.next);
        self.next = end;
        Advice { seek: false, fetch: self.advance(file_len) }
    }

    /// Takes back the last advice from `from` on: it could not be followed, so it is given again later.
    pub fn give_back(&mut self, from: u64) {
        self.ahead = self.ahead.min(from.max(self.next));
    }

    fn restart(&mut self, offset: u64, end: u64) -> Advice {
        let seek = self.size > 0;
        *self = Self { max: self.max, size: 0, next: end, run: end.saturating_sub(offset), ahead: 0 };
        Advice { seek, fetch: None }
    }

    fn advance(&mut self, file_len: u64) -> Option<Range<u64>> {
        if self.max == 0 || self.run <= START_BYTES {
            return None;
        }
        let start = self.ahead.max(self.next);
        if self.size == 0 {
            self.size = WINDOW_BYTES_MIN.min(self.max);
        } else if start - self.next > self.size / 2 {
            return None;
        } else {
            self.size = self.size.saturating_mul(2).min(self.max);
        }
        let end = self.next.saturating_add(self.size).min(file_len);
        (start < end).then(|| {
            self.ahead = end;
            start..end
        })
    }
}
