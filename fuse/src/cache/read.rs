//! Reads that somebody waits for.

use std::{ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{BlockCache, BlockKey, Purpose, Source, clamp, flight::Flight};
use crate::{error::Result, memory::BytesPermit};

/// One block's part of a read.
enum Part {
    Here(Bytes),
    Coming(Arc<Flight>, Range<u64>),
}

impl BlockCache {
    /// Exactly the bytes of `offset..offset + len` that the file has.
    ///
    /// Safe to drop: a read of the store that was begun goes on for those who share it, until the
    /// deadline at the latest.
    pub async fn read(&self, source: &Source, offset: u64, len: usize) -> Result<Bytes> {
        let wanted = clamp(offset, len, source.len());
        if wanted.is_empty() {
            return Ok(Bytes::new());
        }
        let bytes = wanted.end - wanted.start;
        if let Some(here) = self.quick(source, &wanted) {
            self.top.read(source.file, true, bytes);
            return Ok(here);
        }
        // What a sequential reader asks for lies in one flight, and is a slice of it: no copy.
        if let Some(flight) = self.covering(source, &wanted) {
            self.top.read(source.file, flight.has_landed(), bytes);
            return self.take(&flight, &wanted).await;
        }
        self.read_blocks(source, wanted, Purpose::Demand).await
    }

    /// Reads whole blocks around `wanted`, which is not empty, and keeps them in RAM.
    pub(super) async fn read_blocks(
        &self,
        source: &Source,
        wanted: Range<u64>,
        purpose: Purpose,
    ) -> Result<Bytes> {
        // One permit for all of it: whoever holds one never waits for another.
        let blocks = self.bytes_of(&self.blocks_of(&wanted), source.len());
        let permit = Arc::new(self.in_flight_bytes.acquire(blocks.end - blocks.start).await);
        // All parts are on their way before the first is waited for.
        let mut parts = self.parts(source, &wanted, purpose, &permit);
        let urgently = purpose == Purpose::Demand;
        if urgently {
            let hit = parts.iter().all(|part| matches!(part, Part::Here(_)));
            self.top.read(source.file, hit, wanted.end - wanted.start);
        }
        if parts.len() == 1
            && let Some(only) = parts.pop()
        {
            return match only {
                Part::Here(bytes) => Ok(bytes),
                Part::Coming(flight, range) => flight.wait(&range, urgently).await,
            };
        }
        let mut whole = BytesMut::with_capacity((wanted.end - wanted.start) as usize);
        for part in parts {
            match part {
                Part::Here(bytes) => whole.extend_from_slice(&bytes),
                Part::Coming(flight, range) => {
                    whole.extend_from_slice(&flight.wait(&range, urgently).await?);
                }
            }
        }
        Ok(whole.freeze())
    }

    /// The bytes of `wanted` if they lie in one pinned page or one block in RAM.
    fn quick(&self, source: &Source, wanted: &Range<u64>) -> Option<Bytes> {
        if let Some(bytes) = self.pins.get(source.file, wanted) {
            self.shared.counters.pinned_hits.inc();
            return Some(bytes);
        }
        let blocks = self.blocks_of(wanted);
        if blocks.end - blocks.start != 1 {
            return None;
        }
        let key = BlockKey { file: source.file, block: blocks.start };
        let block = self.shared.ram.get(&key)?;
        self.shared.curves.ram(&key);
        self.shared.counters.hits.inc();
        let start = (wanted.start - blocks.start * self.settings.block_bytes) as usize;
        Some(block.slice(start..start + (wanted.end - wanted.start) as usize))
    }

    /// The flight that covers all of `wanted`, which is not empty.
    pub(super) fn covering(&self, source: &Source, wanted: &Range<u64>) -> Option<Arc<Flight>> {
        let key = BlockKey { file: source.file, block: wanted.start / self.settings.block_bytes };
        let index = self.index.lock();
        if let Some(flight) = index.block(&key) {
            drop(index);
            return (flight.range.end >= wanted.end).then_some(flight);
        }
        index.exact(source.file, wanted)
    }

    /// The bytes of `wanted`, all of which `flight` covers.
    async fn take(&self, flight: &Arc<Flight>, wanted: &Range<u64>) -> Result<Bytes> {
        let blocks = self.blocks_of(wanted);
        let count = blocks.end - blocks.start;
        if !flight.is_ahead() {
            blocks.for_each(|block| self.shared.curves.ram(&BlockKey { file: flight.file, block }));
        }
        let counters = &self.shared.counters;
        match flight.peek(wanted) {
            Some(Ok(bytes)) => {
                if flight.is_ahead() { &counters.readahead_hits } else { &counters.hits }.inc_by(count);
                Ok(bytes)
            }
            landing => {
                counters.misses.inc_by(count);
                // One that failed a moment ago: told to this reader as to the others.
                match landing {
                    Some(failed) => failed,
                    None => flight.wait(wanted, true).await,
                }
            }
        }
    }

    /// Where each block of `wanted` is; starts reads for those that are nowhere.
    fn parts(
        &self,
        source: &Source,
        wanted: &Range<u64>,
        purpose: Purpose,
        permit: &Arc<BytesPermit>,
    ) -> Vec<Part> {
        let blocks = self.blocks_of(wanted);
        let mut parts = Vec::with_capacity((blocks.end - blocks.start) as usize);
        let mut missing: Option<Range<u64>> = None;
        let fetch = |missing: Option<Range<u64>>, parts: &mut Vec<Part>| {
            let Some(blocks) = missing else { return };
            self.shared.counters.misses.inc_by(blocks.end - blocks.start);
            let range = self.bytes_of(&blocks, source.len());
            for flight in self.launch(source, range.clone(), purpose, Some(permit)) {
                // One that was joined may cover more than what is missing here.
                let start = flight.range.start.max(range.start).max(wanted.start);
                let end = flight.range.end.min(range.end).min(wanted.end);
                parts.push(Part::Coming(flight, start..end));
            }
        };
        for block in blocks {
            if let Some(part) = self.find(source, block, wanted) {
                fetch(missing.take(), &mut parts);
                parts.push(part);
            } else {
                missing = Some(missing.map_or(block..block + 1, |run| run.start..block + 1));
            }
        }
        fetch(missing, &mut parts);
        parts
    }

    fn find(&self, source: &Source, block: u64, wanted: &Range<u64>) -> Option<Part> {
        let key = BlockKey { file: source.file, block };
        let range = self.bytes_of(&(block..block + 1), source.len());
        let range = range.start.max(wanted.start)..range.end.min(wanted.end);
        let counters = &self.shared.counters;
        let cached = self.shared.ram.get(&key);
        let flight = if cached.is_some() { None } else { self.index.lock().block(&key) };
        if flight.as_ref().is_none_or(|flight| !flight.is_ahead()) {
            self.shared.curves.ram(&key);
        }
        if let Some(bytes) = cached {
            counters.hits.inc();
            let start = (range.start - block * self.settings.block_bytes) as usize;
            return Some(Part::Here(bytes.slice(start..start + (range.end - range.start) as usize)));
        }
        let flight = flight?;
        Some(match flight.peek(&range) {
            Some(Ok(bytes)) => {
                if flight.is_ahead() { &counters.readahead_hits } else { &counters.hits }.inc();
                Part::Here(bytes)
            }
            // A flight that failed a moment ago: told to this reader as to the others.
            Some(Err(_)) | None => {
                counters.misses.inc();
                Part::Coming(flight, range)
            }
        })
    }
}
