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

/// Reads elsewhere that an established run is forgiven before it is given up. A database reads an interior
/// page now and then while it goes from leaf to leaf, and looks up rows of another table while it scans
/// one: giving up at the first such read meant to fetch up to a quarter of a scan twice.
const STRAYS_MAX: u32 = 16;

/// The kernel sends requests this long only to a sequential reader. A few of those in a row, upwards and
/// with small gaps, are a run too: what lies between came from its page cache, because another process
/// reads the same file.
const LONG_BYTES: u64 = 64 << 10;

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
    /// Reads since the last one of the run, which were elsewhere.
    strays: u32,
    /// The last of them, and those that it continues.
    stray: Range<u64>,
}

impl Window {
    /// A window that grows to `max` bytes; with 0 it advises nothing.
    pub fn new(max: u64) -> Self {
        Self { max, size: 0, next: 0, run: 0, ahead: 0, strays: 0, stray: 0..0 }
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
        let offset = offset.min(file_len);
        let end = offset.saturating_add(len).min(file_len);
        // Random reads are often near each other: gaps are forgiven to an established run, as far as was
        // read ahead for it, and to requests that only a sequential reader causes.
        let slack = match self.size {
            0 if len >= LONG_BYTES && self.run > 0 => REORDER_BYTES,
            0 => 0,
            _ => REORDER_BYTES.max(self.ahead.saturating_sub(self.next)),
        };
        if offset > self.next.saturating_add(slack) || end < self.next.saturating_sub(REORDER_BYTES) {
            return self.elsewhere(offset, end, file_len);
        }
        self.strays = 0;
        if end <= self.next {
            // Late, or a second look at what was just read.
            return Advice::default();
        }
        if self.size == 0 && offset < self.next && self.run > 0 {
            // Overlapping but not following: a random reader in a small place.
            return self.restart(offset..end);
        }
        self.run = self.run.saturating_add(end - self.next.max(offset));
        self.next = end;
        Advice { seek: false, fetch: self.advance(file_len) }
    }

    /// Takes back the last advice from `from` on: it could not be followed, so it is given again later.
    pub fn give_back(&mut self, from: u64) {
        self.ahead = self.ahead.min(from.max(self.next));
    }

    /// A read that is not of the run: the run goes on after a few such, unless they become one.
    fn elsewhere(&mut self, offset: u64, end: u64, file_len: u64) -> Advice {
        if self.size == 0 {
            return self.restart(offset..end);
        }
        let follows = self.strays > 0 && offset == self.stray.end;
        self.stray = if follows { self.stray.start..end } else { offset..end };
        self.strays += 1;
        let run = self.stray.end.saturating_sub(self.stray.start);
        if self.strays <= STRAYS_MAX && run <= START_BYTES {
            return Advice::default();
        }
        let advice = self.restart(self.stray.clone());
        Advice { fetch: self.advance(file_len), ..advice }
    }

    fn restart(&mut self, run: Range<u64>) -> Advice {
        let seek = self.size > 0;
        let len = run.end.saturating_sub(run.start);
        *self = Self { next: run.end, run: len, ..Self::new(self.max) };
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
