//! Readahead of one handle: its window and what was fetched for it.

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{BlockCache, BlockKey, Source, clamp, flight::Flight};
use crate::prefetch::Window;

/// The sequential side of one open handle. Dropping it lets go of everything read ahead.
#[derive(Debug)]
pub struct Stream {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    window: Window,
    buffer: VecDeque<Arc<Flight>>,
    /// Everything of this run before it was fetched or found in the cache.
    fetched: u64,
    touched: Instant,
}

impl Stream {
    /// A handle that was just opened; `readahead_bytes_max` is the largest window.
    pub fn new(readahead_bytes_max: u64) -> Self {
        let window = Window::new(readahead_bytes_max);
        let (buffer, touched) = (VecDeque::new(), Instant::now());
        Self { state: Mutex::new(State { window, buffer, fetched: 0, touched }) }
    }

    pub(super) fn hold(&self, cache: &BlockCache, source: &Source, ranges: &[Range<u64>]) -> usize {
        let mut state = self.state.lock();
        for (taken, range) in ranges.iter().enumerate() {
            let blocks = cache.bytes_of(&cache.blocks_of(range), source.len());
            for part in cache.uncached(source, blocks) {
                let bytes = part.end - part.start;
                if !cache.budget.take(bytes) {
                    return taken;
                }
                let launched = cache.launch(source, part, true);
                cache.budget.give_back(bytes - launched.started_bytes);
                state.buffer.extend(launched.flights);
            }
        }
        ranges.len()
    }

    /// Lets go of what was read ahead if nobody has read for `idle`: a reader that stopped half-way must
    /// not keep the budget from others.
    pub fn relax(&self, idle: Duration) {
        let mut state = self.state.lock();
        if !state.buffer.is_empty() && state.touched.elapsed() >= idle {
            state.buffer.clear();
        }
    }
}

impl BlockCache {
    /// Takes note of a read by `stream`'s handle, before it is made, and reads ahead if it pays.
    pub fn observe(&self, source: &Source, stream: &Stream, offset: u64, len: usize) {
        let file_len = source.len();
        let wanted = clamp(offset, len, file_len);
        if wanted.is_empty() {
            return;
        }
        let mut state = stream.state.lock();
        state.touched = Instant::now();
        let advice = state.window.observe(wanted.start, wanted.end - wanted.start, file_len);
        if advice.seek {
            state.buffer.clear();
            state.fetched = 0;
        }
        let behind = state.window.behind().min(wanted.start);
        state.buffer.retain(|flight| flight.range.end > behind);
        let Some(fetch) = advice.fetch else { return };
        // Advice is in bytes, flights are of whole blocks: a block is fetched when its first byte is
        // advised, so the next advice may begin inside of one that is on its way.
        let block = self.settings.block_bytes;
        let start = state.fetched.max(fetch.start / block * block);
        let end = fetch.end.next_multiple_of(block).min(file_len);
        state.fetched = state.fetched.max(end);
        for range in self.uncached(source, start..end) {
            let bytes = range.end - range.start;
            if !self.budget.take(bytes) {
                state.fetched = range.start;
                state.window.give_back(range.start);
                return;
            }
            let launched = self.launch(source, range, true);
            // What another reader's flight covers is charged to that one.
            self.budget.give_back(bytes - launched.started_bytes);
            state.buffer.extend(launched.flights);
        }
    }

    /// The parts of `range` (whole blocks) that are not cached, each at most one extent long.
    fn uncached(&self, source: &Source, range: Range<u64>) -> Vec<Range<u64>> {
        let extent = self.settings.extent_bytes.max(self.settings.block_bytes);
        let mut parts: Vec<Range<u64>> = Vec::new();
        for block in self.blocks_of(&range) {
            if self.blocks.contains_key(&BlockKey { file: source.file, block }) {
                continue;
            }
            let bytes = self.bytes_of(&(block..block + 1), source.len());
            match parts.last_mut() {
                Some(last) if last.end == bytes.start && bytes.end - last.start <= extent => {
                    last.end = bytes.end;
                }
                _ => parts.push(bytes),
            }
        }
        parts
    }
}
