//! Reads for a purpose: what is known to be needed soon.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use super::{BlockCache, BlockKey, Purpose, Source, Stream, clamp, flight::Flight};
use crate::error::Result;

/// Ranges closer than this are read together: at the 200-300 MB/s of one connection it costs as long to
/// read what lies between as to ask once more (0.25 ms next door, more elsewhere).
const GAP_BYTES: u64 = 64 << 10;

/// Longest read of several ranges.
const RUN_BYTES_MAX: u64 = 4 << 20;

impl BlockCache {
    /// The bytes of each of `ranges` in its order, fetched together where they are not here, for
    /// `purpose`. What follows from one that fails is the caller's choice: the others are still given.
    ///
    /// For [`Purpose::Interior`] exactly the ranges are read, without the rest of their blocks, and kept
    /// by nobody but the caller; neighbours share a read. For others it is whole blocks, which stay in
    /// RAM. Either way as many at once as the store's latency is worth, and fewer while processes wait
    /// for other reads.
    pub async fn fetch(
        &self,
        source: &Source,
        ranges: &[Range<u64>],
        purpose: Purpose,
    ) -> Vec<Result<Bytes>> {
        let within = |range: &Range<u64>| {
            clamp(range.start, range.end.saturating_sub(range.start) as usize, source.len())
        };
        let ranges: Vec<_> = ranges.iter().map(within).collect();
        if purpose != Purpose::Interior {
            let reads = ranges.into_iter().map(|range| async {
                if range.is_empty() {
                    Ok(Bytes::new())
                } else {
                    self.read_blocks(source, range, purpose).await
                }
            });
            return futures::future::join_all(reads).await;
        }
        // A page that somebody has asked for meanwhile came with its block.
        let here: Vec<_> = ranges.iter().map(|range| self.held(source, range)).collect();
        let missing: Vec<_> = ranges
            .iter()
            .zip(&here)
            .filter(|(_, here)| here.is_none())
            .map(|(range, _)| range.clone())
            .collect();
        let runs = coalesce(&missing, GAP_BYTES, RUN_BYTES_MAX);
        let reads = runs.iter().map(|run| self.fetch_run(source, run));
        let runs: Vec<_> = runs.iter().zip(futures::future::join_all(reads).await).collect();
        ranges
            .iter()
            .zip(here)
            .map(|(range, here)| {
                if let Some(bytes) = here {
                    return Ok(bytes);
                }
                let next = runs.partition_point(|(run, _)| run.start <= range.start);
                // `coalesce` puts each range into a run; the last that begins before it has it.
                let (run, bytes) = &runs[next.saturating_sub(1)];
                let bytes = bytes.as_ref().map_err(Clone::clone)?;
                let start = (range.start - run.start) as usize;
                let end = start + (range.end - range.start) as usize;
                // A copy: a page that is kept must not keep the whole run.
                Ok(Bytes::copy_from_slice(&bytes[start..end]))
            })
            .collect()
    }

    /// The bytes of `range` if they lie in one block in RAM, or if there are none.
    fn held(&self, source: &Source, range: &Range<u64>) -> Option<Bytes> {
        if range.is_empty() {
            return Some(Bytes::new());
        }
        let blocks = self.blocks_of(range);
        if blocks.end - blocks.start != 1 {
            return None;
        }
        let block = self.shared.ram.get(&BlockKey { file: source.file, block: blocks.start })?;
        let start = (range.start - blocks.start * self.settings.block_bytes) as usize;
        Some(Bytes::copy_from_slice(&block[start..start + (range.end - range.start) as usize]))
    }

    /// The bytes of one exact range.
    async fn fetch_run(&self, source: &Source, run: &Range<u64>) -> Result<Bytes> {
        let joined = self.covering(source, run);
        let flight = joined.unwrap_or_else(|| {
            let (block_bytes, index) = (self.settings.block_bytes, self.index.clone());
            let flight = Flight::exact(source.file, run.clone(), block_bytes, Purpose::Interior, index);
            let flight = Arc::new(flight);
            self.index.lock().add_exact(&flight);
            self.fly(source, flight.clone(), None);
            flight
        });
        flight.wait(run, false).await
    }

    /// Starts fetching `ranges` into the readahead buffer of `stream`, without waiting: they are likely
    /// to be read next. What does not fit pushes out what `stream` looked ahead for longest ago, as long
    /// as that is not of this call; gives how many were taken.
    pub fn look_ahead(&self, source: &Source, stream: &Stream, ranges: &[Range<u64>]) -> usize {
        stream.hold(self, source, ranges)
    }
}

/// Runs in ascending order such that each of `ranges` that is not empty lies in the last run that begins
/// at or before it. Gaps of at most `gap` are read over; no run of several ranges is longer than `max`.
fn coalesce(ranges: &[Range<u64>], gap: u64, max: u64) -> Vec<Range<u64>> {
    let mut sorted: Vec<_> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
    sorted.sort_unstable_by_key(|range| (range.start, range.end));
    let mut runs: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match runs.last_mut() {
            // One that begins inside of a run must lie in it, however long that becomes.
            Some(run)
                if range.start < run.end
                    || (range.start - run.end <= gap && range.end - run.start <= max) =>
            {
                run.end = run.end.max(range.end);
            }
            _ => runs.push(range),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_range_lies_in_the_run_that_is_looked_up(
            ranges in prop::collection::vec((0_u64..10_000, 0_u64..300), 0..60),
            gap in 0_u64..200,
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(start, len)| start..start + len).collect();
            let runs = coalesce(&ranges, gap, 1000);
            prop_assert!(runs.windows(2).all(|pair| pair[0].end <= pair[1].start));
            for range in ranges.iter().filter(|range| !range.is_empty()) {
                let next = runs.partition_point(|run| run.start <= range.start);
                prop_assert!(next > 0 && runs[next - 1].end >= range.end, "{range:?} in {runs:?}");
            }
            let covered: u64 = runs.iter().map(|run| run.end - run.start).sum();
            let mut bytes: Vec<u64> = ranges.iter().cloned().flatten().collect();
            bytes.sort_unstable();
            bytes.dedup();
            prop_assert!(covered <= bytes.len() as u64 + gap * ranges.len() as u64);
        }
    }
}
