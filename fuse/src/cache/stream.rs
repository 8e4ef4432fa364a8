//! Readahead of one handle: its window and what was fetched for it.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    BlockCache, BlockKey, Purpose, Source,
    budget::{Budget, Waste},
    clamp,
    flight::Flight,
};
use crate::prefetch::{Strides, Window};

/// One handle's lookahead holds at most this part of the budget.
const LOOKAHEAD_SHARE: u64 = 2;

/// Buffers of steps, in steps: what was fetched further back than this is behind the reader.
const STRIDE_FLIGHTS_MAX: usize = 64;

/// The sequential side of one open handle. Dropping it lets go of everything read ahead.
#[derive(Debug)]
pub struct Stream {
    state: Mutex<State>,
    waste: Arc<Waste>,
}

#[derive(Debug)]
struct State {
    /// Largest window that the handle was opened with.
    readahead_bytes_max: u64,
    window: Window,
    strides: Strides,
    /// What follows the reader.
    buffer: VecDeque<Arc<Flight>>,
    /// The steps that a striding reader will take.
    steps: VecDeque<Arc<Flight>>,
    /// What [`BlockCache::look_ahead`] was told of.
    looked: VecDeque<Arc<Flight>>,
    looked_bytes: u64,
    /// Everything of this run before it was fetched or found in the cache.
    fetched: u64,
    touched: Instant,
    /// Set while a share of the budget is set aside for this handle.
    holds: Option<Arc<Budget>>,
}

impl State {
    /// Counts the handle among those that share the budget, for as long as it holds any.
    fn settle(&mut self, budget: &Arc<Budget>) {
        let holds = !(self.buffer.is_empty() && self.steps.is_empty());
        match (&self.holds, holds) {
            (None, true) => {
                budget.join();
                self.holds = Some(budget.clone());
            }
            (Some(held), false) => {
                held.leave();
                self.holds = None;
            }
            _ => {}
        }
    }

    fn let_go(&mut self) {
        self.buffer.clear();
        self.steps.clear();
        self.looked.clear();
        self.looked_bytes = 0;
        if let Some(held) = self.holds.take() {
            held.leave();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.state.get_mut().let_go();
    }
}

impl Stream {
    /// A handle that was just opened; `readahead_bytes_max` is the largest window.
    pub fn new(readahead_bytes_max: u64) -> Self {
        let state = State {
            readahead_bytes_max,
            window: Window::new(readahead_bytes_max),
            strides: Strides::default(),
            buffer: VecDeque::new(),
            steps: VecDeque::new(),
            looked: VecDeque::new(),
            looked_bytes: 0,
            fetched: 0,
            touched: Instant::now(),
            holds: None,
        };
        Self { state: Mutex::new(state), waste: Arc::default() }
    }

    pub(super) fn hold(&self, cache: &BlockCache, source: &Source, ranges: &[Range<u64>]) -> usize {
        let mut state = self.state.lock();
        state.touched = Instant::now();
        let max = cache.budget.max() / LOOKAHEAD_SHARE;
        // Only what was there before this call gives way.
        let mut old = state.looked.len();
        for (taken, range) in ranges.iter().enumerate() {
            let range = range.start.min(source.len())..range.end.min(source.len());
            if range.is_empty() {
                continue;
            }
            let blocks = cache.bytes_of(&cache.blocks_of(&range), source.len());
            for part in cache.uncached(source, blocks) {
                let bytes = part.end - part.start;
                let flights = loop {
                    let fits = state.looked_bytes + bytes <= max;
                    if fits
                        && let Some(flights) =
                            cache.launch_ahead(source, part.clone(), Purpose::Lookahead, &self.waste)
                    {
                        break flights;
                    }
                    if old == 0 {
                        return taken;
                    }
                    old -= 1;
                    let freed = state.looked.pop_front().map_or(0, |oldest| oldest.len() as u64);
                    state.looked_bytes -= freed;
                };
                for flight in flights {
                    state.looked_bytes += flight.len() as u64;
                    state.looked.push_back(flight);
                }
            }
        }
        ranges.len()
    }

    /// Lets go of what was read ahead if nobody has read for `idle`: a reader that stopped half-way must
    /// not keep the budget from others.
    pub fn relax(&self, idle: Duration) {
        let mut state = self.state.lock();
        if state.touched.elapsed() >= idle {
            state.let_go();
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
        let bytes = wanted.end - wanted.start;
        let max = self.window_max(&state, &stream.waste, bytes);
        state.window.set_max(max);
        let advice = state.window.observe(wanted.start, bytes, file_len);
        if advice.seek {
            state.buffer.clear();
            state.fetched = 0;
        }
        let behind = state.window.behind().min(wanted.start);
        // What was read to its end goes at once, the rest when no late request can want it: both are
        // room for other readers.
        state.buffer.retain(|flight| {
            flight.range.end > behind && (flight.range.end > wanted.start || !flight.is_used_up())
        });
        if let Some(fetch) = advice.fetch {
            self.read_ahead(source, stream, &mut state, &fetch);
        }
        let steps = state.strides.observe(wanted, file_len, max);
        if steps.broken {
            state.steps.clear();
        }
        for step in steps.fetch {
            self.step_ahead(source, stream, &mut state, &step);
        }
        state.settle(&self.budget);
    }

    /// The largest window now: what is configured, this handle's share of the budget, less for one that
    /// wastes, and for all when all waste.
    fn window_max(&self, state: &State, waste: &Waste, read: u64) -> u64 {
        let configured = match self.readahead_bytes_max.load(Relaxed) {
            u64::MAX => state.readahead_bytes_max,
            changed => changed,
        };
        let max = configured.min(self.budget.share());
        for of in [waste, &*self.waste] {
            if of.temper(max) == 0 {
                of.forgive(read);
            }
        }
        self.waste.temper(waste.temper(max))
    }

    fn read_ahead(&self, source: &Source, stream: &Stream, state: &mut State, fetch: &Range<u64>) {
        // Advice is in bytes, flights are of whole blocks: a block is fetched when its first byte is
        // advised, so the next advice may begin inside of one that is on its way.
        let (block, file_len) = (self.settings.block_bytes, source.len());
        let start = state.fetched.max(fetch.start / block * block);
        let end = fetch.end.next_multiple_of(block).min(file_len);
        state.fetched = state.fetched.max(end);
        for range in self.uncached(source, start..end) {
            let from = range.start;
            match self.launch_ahead(source, range, Purpose::Readahead, &stream.waste) {
                Some(flights) => state.buffer.extend(flights),
                None => {
                    state.fetched = from;
                    state.window.give_back(from);
                    return;
                }
            }
        }
    }

    fn step_ahead(&self, source: &Source, stream: &Stream, state: &mut State, step: &Range<u64>) {
        let blocks = self.bytes_of(&self.blocks_of(step), source.len());
        for range in self.uncached(source, blocks) {
            // Small steps meet the same block again.
            let there =
                |flight: &&Arc<Flight>| flight.range.start <= range.start && flight.range.end >= range.end;
            if state.steps.iter().rev().take(2).any(|flight| there(&flight)) {
                continue;
            }
            let Some(flights) = self.launch_ahead(source, range, Purpose::Readahead, &stream.waste) else {
                return;
            };
            state.steps.extend(flights);
            while state.steps.len() > STRIDE_FLIGHTS_MAX {
                state.steps.pop_front();
            }
        }
    }

    /// The parts of `range` (whole blocks) that are not cached, each at most one extent long.
    fn uncached(&self, source: &Source, range: Range<u64>) -> Vec<Range<u64>> {
        let extent = self.settings.extent_bytes.max(self.settings.block_bytes);
        let mut parts: Vec<Range<u64>> = Vec::new();
        for block in self.blocks_of(&range) {
            if self.shared.ram.contains(&BlockKey { file: source.file, block }) {
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
