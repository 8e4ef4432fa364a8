//! The hot tier of a worker: local copies that are read, and written under a fencing token.
//!
//! `http` (requests) and `tend` (assignment, manifest, upkeep) → `provision`, `promote`, `fetch` (what is
//! done with one segment) → `segment` (what is known of it) → `record`, `data`, `part` (what is on disk).
//! `files` is how the query engine sees the copies.
//!
//! Whoever changes which file a segment is has its turn, one at a time. The record on disk is changed
//! before what it allows happens: a token is refused because it is durably known that a higher one exists.
//!
//! A copy is offered as soon as a start finds it with the length of its record; each is then read once in
//! the background and taken out if its checksum is another. Until then SQLite sees damage as it would on
//! any disk.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use parking_lot::{Mutex, RwLock};
use prometheus::Registry;
use springhouse_fuse::error::{Error, ErrorKind};
use springhouse_gateway::{
    api::{
        error::{ApiError, ErrorCode},
        hot::{HotReport, HotSegment, Token},
        work::Work,
    },
    segment::SegmentId,
};
use tokio::sync::{Notify, Semaphore};

mod data;
mod fences;
mod fetch;
mod files;
pub(super) mod http;
mod keep;
#[cfg(test)]
mod kill_tests;
mod load;
mod manifest;
mod metrics;
mod optimize;
mod pace;
mod part;
mod promote;
mod provision;
mod queue;
mod record;
mod room;
mod segment;
mod settings;
mod ship;
mod speed;
mod tend;
#[cfg(test)]
mod tests;
mod told;
mod verify;

pub use self::settings::HotSettings;
use self::{
    data::Data, manifest::Entries, metrics::Metrics, pace::Pace, queue::Queue, room::Rooms, segment::Segment,
    speed::Speed,
};
pub(super) use self::{files::Files, pace::give_way, part::check_header, tend::Loops, verify::CopyLook};
use crate::query::{
    Engine, QuerySettings,
    write::{Execute, WriteMetrics, WriteSettings, Writer, WrittenFiles},
};

/// Files that are shipped at once: more would take the store's time from each other.
const SHIPS_MAX: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Hot {
    data: Data,
    fences: fences::Fences,
    settings: HotSettings,
    segments: RwLock<HashMap<String, Arc<Segment>>>,
    /// Ids of copies that are in WAL mode: what has to be looked at now and then.
    written: Mutex<HashSet<String>>,
    entries: Mutex<Entries>,
    /// The manifest changed.
    changed: Notify,
    room: Rooms,
    copies: Semaphore,
    /// Files shipped at once.
    ships: Semaphore,
    pace: Pace,
    speed: Speed,
    queue: Queue,
    write: WriteSettings,
    write_metrics: WriteMetrics,
    metrics: Metrics,
    /// Set once; its files hold this.
    engine: OnceLock<Weak<Engine>>,
    stopping: AtomicBool,
}

impl Hot {
    /// Opens the data directory and takes up what is in it. Blocks.
    ///
    /// # Errors
    /// One line: the directory cannot be used.
    pub(super) fn open(
        settings: HotSettings,
        limits: QuerySettings,
        registry: &Registry,
    ) -> Result<Arc<Self>, Error> {
        let failed = |error: std::io::Error| Error::from_io(&error, settings.data.display());
        let data = Data::open(&settings.data).map_err(failed)?;
        let other = |error: prometheus::Error| Error::new(ErrorKind::Other, error.to_string());
        let room = Rooms::new(&data, settings.quota_bytes).map_err(failed)?;
        let ids = data.ids().map_err(failed)?;
        let fences = fences::Fences::open(data.fence()).map_err(failed)?;
        let hot = Arc::new(Self {
            data,
            fences,
            segments: RwLock::default(),
            written: Mutex::default(),
            entries: Mutex::default(),
            changed: Notify::new(),
            room,
            copies: Semaphore::new(settings.copy_parallelism.max(1)),
            ships: Semaphore::new(SHIPS_MAX),
            pace: Pace::new(settings.copy_bandwidth),
            speed: Speed::default(),
            queue: Queue::default(),
            write: WriteSettings::new(limits),
            write_metrics: WriteMetrics::new(registry).map_err(other)?,
            metrics: Metrics::new(registry).map_err(other)?,
            engine: OnceLock::new(),
            stopping: AtomicBool::new(false),
            settings,
        });
        for id in ids {
            hot.load(id);
        }
        hot.remove_strange_parts();
        hot.room.look(&hot.data);
        Ok(hot)
    }

    /// Number of this start of the worker; see [`Data::next_epoch`].
    pub(super) async fn next_epoch(&self, clock: u64) -> Result<u64, Error> {
        let data = self.data.clone();
        let written = springhouse_gateway::blocking::run(move || data.next_epoch(clock)).await;
        let written = written.unwrap_or_else(|_| Err(std::io::Error::other("a defect")));
        written.map_err(|error| Error::from_io(&error, self.settings.data.join("epoch").display()))
    }

    /// Whose connections have to be closed when a file goes.
    pub(super) fn set_engine(&self, engine: &Arc<Engine>) {
        let _ = self.engine.set(Arc::downgrade(engine)); // set once, by the one who starts both
    }

    fn close_connections(&self, segment: &Segment) {
        if let Some(engine) = self.engine.get().and_then(Weak::upgrade) {
            engine.close_path(&segment.engine_path());
        }
    }

    /// What is known of a segment.
    fn find(&self, id: &str) -> Option<Arc<Segment>> {
        self.segments.read().get(id).cloned()
    }

    /// The same, made if nothing is known.
    fn find_or_make(&self, id: &SegmentId, path: &str) -> Arc<Segment> {
        let mut segments = self.segments.write();
        let make = || {
            let mut record = record::Record::new(path);
            record.fence = self.fences.floor();
            Arc::new(Segment::new(id.clone(), record))
        };
        Arc::clone(segments.entry(id.as_str().to_owned()).or_insert_with(make))
    }

    /// What the worker adds to its heartbeat.
    pub(super) fn report(&self) -> HotReport {
        HotReport {
            quota_bytes: self.room.quota(),
            stored_bytes: self.room.stored(),
            full: self.room.is_full(),
            manifest_version: self.entries.lock().version(),
            zone: self.settings.zone.clone(),
            copy_bytes_per_s: self.speed.bytes_per_s(),
        }
    }

    /// Tells the gateway, in time, what is known of `segment` now.
    fn publish(&self, segment: &Segment) {
        if self.entries.lock().put(segment.show()) {
            self.changed.notify_one();
        }
    }

    /// Takes a new look at the size of the copy.
    fn measure(&self, segment: &Segment) {
        let now = self.data.size(&segment.id);
        let before = std::mem::replace(&mut segment.state.lock().size, now);
        self.room.change(before, now);
    }

    /// Applies a request that writes, under `token`.
    async fn execute(
        &self,
        id: &SegmentId,
        token: Token,
        execute: Execute,
    ) -> Result<springhouse_gateway::api::hot::ExecuteAnswer, ApiError> {
        let segment = self.find(id.as_str()).ok_or_else(not_provisioned)?;
        let writer = self.writer(&segment, token).await?;
        writer.execute(execute).await
    }

    /// The writer of `segment`, opened if it is not.
    async fn writer(&self, segment: &Arc<Segment>, token: Token) -> Result<Arc<Writer>, ApiError> {
        let ready = |segment: &Segment| {
            let state = segment.state.lock();
            state.check_token(token)?;
            let open = state.writer.as_ref().filter(|writer| !writer.is_closed() && writer.token() == token);
            Ok::<_, ApiError>(open.cloned())
        };
        if let Some(writer) = ready(segment)? {
            return Ok(writer);
        }
        let _opening = segment.opening.lock().await;
        if let Some(writer) = ready(segment)? {
            return Ok(writer);
        }
        if self.stopping.load(Relaxed) {
            return Err(ApiError::new(ErrorCode::ShuttingDown, "the worker is shutting down"));
        }
        let old = segment.state.lock().writer.take();
        if let Some(old) = old {
            // It ended by itself: its file is still open until it says so.
            old.close().await;
        }
        let (base, changes, unshipped) = {
            let state = segment.state.lock();
            let copy = state.record.copy.as_ref().ok_or_else(not_provisioned)?;
            let open = state.open.as_ref().ok_or_else(not_provisioned)?;
            let unshipped = state.shipping.as_ref().map(|shipping| Arc::clone(&shipping.unshipped));
            (copy.change, Arc::clone(&open.changes), unshipped)
        };
        let files =
            WrittenFiles { database: self.data.segment(&segment.id), keys: self.data.keys(&segment.id) };
        let (settings, metrics) = (self.write.clone(), self.write_metrics.clone());
        let opened =
            blocking(move || Writer::open(files, token, base, changes, unshipped, settings, metrics)).await?;
        let writer = Arc::new(opened);
        segment.state.lock().writer = Some(Arc::clone(&writer));
        Ok(writer)
    }

    /// Ends writing for now: what was accepted is committed, and the log copied into the database.
    async fn close_writer(&self, segment: &Segment) {
        drop(self.hold_writer_closed(segment).await);
    }

    /// [`Hot::close_writer`], and it stays closed as long as the guard is held.
    async fn hold_writer_closed<'s>(&self, segment: &'s Segment) -> tokio::sync::MutexGuard<'s, ()> {
        let opening = segment.opening.lock().await;
        let writer = segment.state.lock().writer.take();
        if let Some(writer) = writer {
            // Before the writer: the last one that closes a database leaves no log.
            self.close_connections(segment);
            writer.close().await;
        }
        opening
    }

    /// Finishes writes, closes databases. Nothing may be asked of it afterwards.
    pub(super) async fn shutdown(self: &Arc<Self>, loops: Option<Loops>) {
        let segments: Vec<_> = self.segments.read().values().cloned().collect();
        self.ship_the_rest(&segments).await;
        self.stopping.store(true, Relaxed);
        self.queue.close();
        for segment in &segments {
            segment.state.lock().stop_work();
        }
        if let Some(loops) = loops {
            loops.end().await;
        }
        futures::future::join_all(segments.iter().map(|segment| self.end_shipping(segment))).await;
        let writing = segments.iter().filter(|segment| segment.state.lock().writer.is_some());
        futures::future::join_all(writing.map(|segment| self.close_writer(segment))).await;
    }

    /// Nothing is looked at any more.
    #[cfg(test)]
    pub(super) fn die(&self) {
        self.stopping.store(true, Relaxed);
        self.queue.close();
    }

    /// All segments that something is known of, by id.
    fn list(&self) -> Vec<HotSegment> {
        let mut list: Vec<_> = self.segments.read().values().map(|segment| segment.show()).collect();
        list.retain(|segment| segment.state != springhouse_gateway::api::hot::CopyState::Gone);
        list.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        list
    }
}

impl Hot {
    /// What is under way, by segment.
    pub(super) fn work(&self) -> Vec<Work> {
        let of = |segment: &Arc<Segment>| {
            let state = segment.state.lock();
            let (what, done, total) = match (&state.work, &state.fetching) {
                (Some(work), _) => (work.what.clone(), work.done, work.total),
                (None, Some(progress)) => ("fetching".to_owned(), progress.fetched, progress.size),
                (None, None) => return None,
            };
            Some(Work { segment: segment.id.to_string(), worker: String::new(), what, done, total })
        };
        let mut work: Vec<Work> = self.segments.read().values().filter_map(of).collect();
        work.sort_unstable_by(|a, b| a.segment.cmp(&b.segment));
        work
    }
}

fn not_provisioned() -> ApiError {
    ApiError::new(ErrorCode::NotProvisioned, "the segment is not provisioned here; provision it first")
}

/// The API's error for the worker's own disk.
fn of_disk(error: std::io::Error) -> ApiError {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => ApiError::new(ErrorCode::NoRoom, "the worker's disk is full"),
        _ => ApiError::new(ErrorCode::Internal, format!("the worker's disk: {error}")),
    }
}

/// Runs `work` where it may wait for a disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match springhouse_gateway::blocking::run(work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ApiError::new(ErrorCode::Internal, "a step ended by a defect; the log has more")),
    }
}
