//! Reads of disk and store: each in a task of its own, shared by all who wait.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Relaxed, Release},
        },
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::{
    BlockCache, BlockKey, Purpose, Source,
    advice::Curves,
    budget::Waste,
    counters::CacheCounters,
    flight::{Ahead, Flight},
    lanes::{Lanes, SMALL_READ_BYTES},
    ram::Ram,
};
use crate::{
    disk::{DiskCache, DiskKey, Run},
    error::{Error, ErrorKind, Result},
    memory::BytesPermit,
};

/// A file may fill this part of the disk by being read once from end to end; a larger one gets in only
/// by what is asked for at random.
const SCAN_SHARE: u64 = 4;

/// What reads have in common that are under way after the cache was dropped.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) block_bytes: u64,
    pub(super) deadline: Duration,
    pub(super) ram: Arc<Ram>,
    pub(super) counters: Arc<CacheCounters>,
    pub(super) disk: Option<Arc<DiskCache>>,
    pub(super) store: u64,
    pub(super) lanes: Arc<Lanes>,
    /// Flights on their way.
    pub(super) in_flight: AtomicU64,
    pub(super) curves: Curves,
}

impl BlockCache {
    /// Starts reading `range` (whole blocks) for the cache, except what another flight covers by now:
    /// those are joined. What covers it comes back in order, without gap, the first and the last
    /// possibly beyond it.
    pub(super) fn launch(
        &self,
        source: &Source,
        range: Range<u64>,
        purpose: Purpose,
        permit: Option<&Arc<BytesPermit>>,
    ) -> Vec<Arc<Flight>> {
        self.launch_with(source, range, purpose, permit, None)
    }

    /// As [`Self::launch`], into the buffer of a handle. `None`: the budget does not cover it.
    pub(super) fn launch_ahead(
        &self,
        source: &Source,
        range: Range<u64>,
        purpose: Purpose,
        waste: &Arc<Waste>,
    ) -> Option<Vec<Arc<Flight>>> {
        let bytes = range.end - range.start;
        if !self.budget.take(bytes) {
            return None;
        }
        let flights = self.launch_with(source, range, purpose, None, Some(waste));
        Some(flights)
    }

    fn launch_with(
        &self,
        source: &Source,
        range: Range<u64>,
        purpose: Purpose,
        permit: Option<&Arc<BytesPermit>>,
        ahead: Option<&Arc<Waste>>,
    ) -> Vec<Arc<Flight>> {
        // Flights let go under the index's lock would wait for it themselves: both lists keep them.
        let mut flights: Vec<Arc<Flight>> = Vec::new();
        let mut started = Vec::new();
        let mut started_bytes = 0;
        let mut index = self.index.lock();
        let mut start = range.start;
        while start < range.end {
            let block = start / self.settings.block_bytes;
            if let Some(flight) = index.block(&BlockKey { file: source.file, block }) {
                start = flight.range.end;
                flights.push(flight);
                continue;
            }
            // As far as nobody else reads.
            let blocks = self.blocks_of(&(start..range.end));
            let end = blocks.clone().skip(1).find(|&block| {
                let key = BlockKey { file: source.file, block };
                index.blocks.get(&key).is_some_and(|flight| flight.strong_count() > 0)
            });
            let blocks = blocks.start..end.unwrap_or(blocks.end);
            let bytes = self.bytes_of(&blocks, source.len());
            start = bytes.end;
            started_bytes += bytes.end - bytes.start;
            let ahead = ahead.map(|waste| Ahead {
                budget: self.budget.clone(),
                counters: self.shared.counters.clone(),
                ram: self.shared.ram.clone(),
                bytes: bytes.end - bytes.start,
                waste: [Arc::clone(waste), self.waste.clone()],
                read_to: blocks.map(|_| AtomicU32::new(0)).collect(),
            });
            let flight = Arc::new(Flight::new(
                source.file,
                bytes,
                self.settings.block_bytes,
                purpose,
                self.index.clone(),
                ahead,
            ));
            for key in flight.keys() {
                index.blocks.insert(key, Arc::downgrade(&flight));
            }
            started.push(flight.clone());
            flights.push(flight);
        }
        drop(index);
        for flight in started {
            self.fly(source, flight, permit.cloned());
        }
        if ahead.is_some() {
            // What another reader's flight covers is charged to that one.
            self.budget.give_back((range.end - range.start).saturating_sub(started_bytes));
        }
        flights
    }

    /// Reads in a task of its own, so that no reader's end is the end of another's read. The permit is
    /// held until then.
    pub(super) fn fly(&self, source: &Source, flight: Arc<Flight>, permit: Option<Arc<BytesPermit>>) {
        let source = source.clone();
        let guard = InFlight::new(self.shared.clone(), flight);
        self.runtime.spawn(async move {
            let (shared, flight) = (&guard.shared.0, &guard.flight.0);
            let outcome = shared.bring(&source, flight).await;
            if let Ok(bytes) = &outcome
                && !flight.exact
                && !flight.is_ahead()
            {
                shared.keep(flight, bytes);
            }
            flight.land(outcome);
            drop(permit);
        });
    }
}

impl Shared {
    pub(super) fn disk_key(&self, source: &Source) -> DiskKey {
        DiskKey::new(self.store, source.file, self.block_bytes, source.len())
    }

    /// The bytes of a flight: from the disk what is there, from the store the rest.
    async fn bring(&self, source: &Source, flight: &Flight) -> Result<Bytes> {
        // Before the disk is asked: what nobody waits for gives way there too.
        let waits = flight.purpose == Purpose::Demand;
        let _demand = waits.then(|| self.lanes.demand());
        let mut found = Vec::new();
        if let Some(disk) = &self.disk {
            let blocks = flight.blocks();
            blocks.clone().for_each(|block| self.curves.disk(&BlockKey { file: flight.file, block }));
            found = disk.read(self.disk_key(source), blocks).await;
        }
        let pieces = self.pieces(&flight.range, found);
        if let [Piece::Here(bytes)] = pieces.as_slice() {
            return Ok(bytes.clone());
        }
        let _lane = if waits {
            None
        } else {
            tokio::select! {
                lane = self.lanes.enter() => Some(lane),
                // Somebody waits for it now.
                () = flight.urgent.notified() => None,
            }
        };
        let reads = pieces.into_iter().map(|piece| async {
            match piece {
                Piece::Here(bytes) => Ok(bytes),
                Piece::Missing(range) => self.read_store(source, flight, range).await,
            }
        });
        let mut parts = futures::future::try_join_all(reads).await?;
        if parts.len() == 1
            && let Some(only) = parts.pop()
        {
            return Ok(only);
        }
        let mut whole = BytesMut::with_capacity(flight.len());
        parts.iter().for_each(|part| whole.extend_from_slice(part));
        Ok(whole.freeze())
    }

    /// `range` as what was found on disk and what has to be read, in order.
    fn pieces(&self, range: &Range<u64>, found: Vec<Run>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        for run in found {
            let start = run.blocks.start * self.block_bytes;
            let end = start + run.bytes.len() as u64;
            // Of an exact range the ends may be within a block.
            let part = start.max(at)..end.min(range.end);
            if part.is_empty() {
                continue;
            }
            if at < part.start {
                pieces.push(Piece::Missing(at..part.start));
            }
            let slice = (part.start - start) as usize..(part.end - start) as usize;
            pieces.push(Piece::Here(run.bytes.slice(slice)));
            at = part.end;
        }
        if at < range.end {
            pieces.push(Piece::Missing(at..range.end));
        }
        pieces
    }

    async fn read_store(&self, source: &Source, flight: &Flight, range: Range<u64>) -> Result<Bytes> {
        let (purpose, len) = (flight.purpose, range.end - range.start);
        self.counters.store_read(purpose);
        let others = self.in_flight.load(Relaxed).saturating_sub(1);
        let (began, deadline) = (Instant::now(), self.deadline);
        let read = source.reader.read_at(range.start, len as usize);
        let bytes = tokio::time::timeout(deadline, read).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::TimedOut, format!("no answer to a read within {deadline:?}")))
        })?;
        if len <= SMALL_READ_BYTES {
            self.lanes.learn(began.elapsed(), others);
        }
        self.counters.fetched(purpose, bytes.len() as u64);
        if let Some(disk) = &self.disk
            && !flight.exact
            && bytes.len() as u64 == len
            && (purpose != Purpose::Readahead || source.len() <= disk.bytes_max() / SCAN_SHARE)
        {
            let (key, first) = (self.disk_key(source), range.start / self.block_bytes);
            match purpose {
                Purpose::Warm => disk.write_surely(key, first, bytes.clone()).await,
                _ => disk.write(key, first, bytes.clone()),
            }
        }
        Ok(bytes)
    }

    fn keep(&self, flight: &Flight, bytes: &Bytes) {
        if bytes.len() != flight.len() {
            return;
        }
        let blocks = flight.blocks();
        if blocks.end - blocks.start == 1 {
            let key = BlockKey { file: flight.file, block: blocks.start };
            return self.ram.insert(key, bytes.clone());
        }
        for (key, block) in flight.keys().zip(bytes.chunks(self.block_bytes as usize)) {
            // A copy: a slice would keep the whole read alive after its neighbours went.
            self.ram.insert(key, Bytes::copy_from_slice(block));
        }
    }
}

enum Piece {
    Here(Bytes),
    Missing(Range<u64>),
}

/// A flight under way. Its flight is let go before it is no longer counted.
struct InFlight {
    flight: Landing,
    shared: Counted,
}

impl InFlight {
    fn new(shared: Arc<Shared>, flight: Arc<Flight>) -> Self {
        shared.in_flight.fetch_add(1, Relaxed);
        Self { flight: Landing(flight), shared: Counted(shared) }
    }
}

/// Lands a flight if its task ends without a result (a panic, the end of the runtime): nobody waits for
/// ever.
struct Landing(Arc<Flight>);

impl Drop for Landing {
    fn drop(&mut self) {
        if !self.0.has_landed() {
            self.0.land(Err(Error::new(ErrorKind::Other, "a read of the store was given up")));
        }
    }
}

struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Release);
    }
}
