//! One segment of the hot tier: the one owner of what is known of it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use springhouse_fuse::store::Generation;
use springhouse_gateway::{
    api::{
        error::{ApiError, ErrorCode},
        hot::{AssignedSegment, CopyState, HotSegment, HotWork, Token},
    },
    segment::SegmentId,
};
use xxhash_rust::xxh3::xxh3_128;

use super::{data::Data, files::not_here, record::Record, ship::Shipping};
use crate::query::{
    Seen,
    write::{Changes, Writer},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: SegmentId,
    /// Held by whoever changes which file this is: a copy, provision, upload, release, delete. Writes and
    /// queries go on meanwhile.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Held by whoever opens or closes its writer.
    pub(super) opening: tokio::sync::Mutex<()>,
    pub(super) state: Mutex<State>,
    /// Held by each query on it, until its answer has left.
    queries: Arc<()>,
}

/// What is known now. `record` is what is on disk: changed only by [`Segment::change_record`].
#[derive(Debug)]
pub(super) struct State {
    pub(super) record: Record,
    /// What queries read; `None`: nothing that may be read.
    pub(super) open: Option<OpenCopy>,
    pub(super) writer: Option<Arc<Writer>>,
    /// What is written goes to the store as well.
    pub(super) shipping: Option<Arc<Shipping>>,
    /// What the gateway wants here.
    pub(super) wanted: Option<AssignedSegment>,
    /// The gateway wants it gone.
    pub(super) unwanted: bool,
    pub(super) fetching: Option<Progress>,
    /// Why the last attempt to have it here failed.
    pub(super) refused: Option<String>,
    /// What is done with it, beside fetching.
    pub(super) work: Option<HotWork>,
    /// Stops what is done with it.
    pub(super) stop: Arc<AtomicBool>,
    /// Bytes on disk, as of the last look.
    pub(super) size: u64,
    /// Since when there are writes that were not promoted, ms since 1970.
    pub(super) unpromoted_since_ms: Option<u64>,
    /// Whether its bytes were compared with its checksum since the start of the process.
    pub(super) verified: bool,
}

/// A file that can be read, and what distinguishes it from any other that was or will be at its path.
#[derive(Debug, Clone)]
pub(super) struct OpenCopy {
    pub(super) key: Generation,
    pub(super) changes: Arc<Changes>,
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) fetched: u64,
    pub(super) size: u64,
}

impl Segment {
    pub(super) fn new(id: SegmentId, record: Record) -> Self {
        Self {
            id,
            turn: tokio::sync::Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            state: Mutex::new(State {
                record,
                open: None,
                writer: None,
                shipping: None,
                wanted: None,
                unwanted: false,
                fetching: None,
                refused: None,
                work: None,
                stop: Arc::default(),
                size: 0,
                unpromoted_since_ms: None,
                verified: false,
            }),
            queries: Arc::default(),
        }
    }

    /// Where the engine finds it.
    pub(super) fn engine_path(&self) -> String {
        format!("{PREFIX}{}", self.id)
    }

    /// Keeps it from being dropped for as long as this lives.
    pub(super) fn hold(&self) -> Arc<()> {
        Arc::clone(&self.queries)
    }

    /// Whether a query runs on it.
    pub(super) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.queries) > 1
    }

    /// Changes the record, on disk first. Blocks for a moment.
    pub(super) fn change_record(&self, data: &Data, change: impl FnOnce(&mut Record)) -> io::Result<()> {
        let record = self.write_record(data, change)?;
        self.state.lock().record = record;
        Ok(())
    }

    /// Changes the record on disk only: what a restart is to find, while here nothing has changed yet.
    pub(super) fn write_record(&self, data: &Data, change: impl FnOnce(&mut Record)) -> io::Result<Record> {
        let mut record = self.state.lock().record.clone();
        change(&mut record);
        data.make_shard(&self.id)?;
        record.write(&data.record(&self.id))?;
        Ok(record)
    }

    /// As `GET /v1/hot/{id}` shows it.
    pub(super) fn show(&self) -> HotSegment {
        self.state.lock().show(&self.id)
    }
}

/// Before the id in paths that the engine gets; those of the store begin with `/`.
pub(super) const PREFIX: &str = "hot:";

impl State {
    /// Whether `token` may change it.
    pub(super) fn check_token(&self, token: Token) -> Result<(), ApiError> {
        if token < self.record.fence {
            return Err(ApiError::new(
                ErrorCode::Fenced,
                format!("token {token} is not the newest: {} was seen for this segment", self.record.fence),
            ));
        }
        match self.record.copy.as_ref().and_then(|copy| copy.token) {
            Some(own) if own == token => Ok(()),
            _ => Err(ApiError::new(
                ErrorCode::NotProvisioned,
                "the segment is not provisioned here under this token; provision it first",
            )),
        }
    }

    /// Whether the upload numbered `attempt` is to be made: a request that comes twice, the second time perhaps
    /// between the look at the upload and its rename, would put another file in its place.
    pub(super) fn check_attempt(&self, attempt: Option<Token>) -> Result<(), ApiError> {
        match attempt {
            Some(attempt) if attempt <= self.record.attempt => Err(ApiError::new(
                ErrorCode::Conflict,
                format!("upload {attempt} was begun already: {} is the last one", self.record.attempt),
            )),
            _ => Ok(()),
        }
    }

    /// Last transaction of the copy.
    pub(super) fn change(&self) -> u64 {
        match &self.open {
            Some(open) => open.changes.seen().done,
            None => self.record.copy.as_ref().map_or(0, |copy| copy.change),
        }
    }

    /// Whether there are writes that were not promoted. Also where nobody can tell.
    pub(super) fn is_unpromoted(&self) -> bool {
        let Some(copy) = &self.record.copy else { return false };
        let unreadable = copy.written && self.open.is_none() && self.refused.is_some();
        unreadable || self.change() > copy.promoted_change
    }

    /// Whether what is here was written under `token`, also if a release of that was begun.
    pub(super) fn was_written_under(&self, token: Token) -> bool {
        match self.record.copy.as_ref().map(|copy| copy.token) {
            Some(Some(own)) => own == token,
            Some(None) => self.record.fence == token && self.is_unpromoted(),
            None => false,
        }
    }

    /// Stops what is being done with it; whoever begins something takes the new switch.
    pub(super) fn stop_work(&mut self) {
        self.stop.store(true, Relaxed);
        self.stop = Arc::default();
    }

    fn copy_state(&self) -> CopyState {
        let wanted = self.wanted.as_ref().map(|wanted| wanted.generation.as_str());
        let has = self.record.copy.as_ref();
        if let (Some(_), Some(copy)) = (&self.open, has) {
            let newer = copy.token.is_none() && wanted.is_some() && wanted != copy.generation.as_deref();
            return if newer { CopyState::Stale } else { CopyState::Available };
        }
        match (&self.fetching, &self.refused) {
            (Some(_), _) => CopyState::Fetching,
            (None, Some(_)) => CopyState::Refused,
            // One that is being taken away is gone when it is: its writes are kept aside then.
            (None, None) if self.wanted.is_some() || has.is_some() => CopyState::Assigned,
            (None, None) => CopyState::Gone,
        }
    }

    fn show(&self, id: &SegmentId) -> HotSegment {
        let copy = self.record.copy.as_ref();
        HotSegment {
            id: id.as_str().to_owned(),
            state: self.copy_state(),
            reason: self.refused.clone(),
            generation: match copy {
                Some(copy) => copy.generation.clone(),
                None => self.wanted.as_ref().map(|wanted| wanted.generation.clone()),
            },
            size: match (copy, self.fetching) {
                (None, Some(progress)) => progress.size,
                _ => self.size,
            },
            fetched: self.fetching.map_or(0, |progress| progress.fetched),
            checksum: copy.and_then(|copy| copy.checksum.clone()),
            token: copy.and_then(|copy| copy.token),
            change: self.change(),
            promoted_change: copy.map_or(0, |copy| copy.promoted_change),
            shipped_change: self.shipping.as_ref().and_then(|shipping| shipping.shipped_change()),
        }
    }

    /// What queries read.
    pub(super) fn readable(&self) -> Result<&OpenCopy, ApiError> {
        self.open.as_ref().ok_or_else(|| match (&self.fetching, &self.refused) {
            (Some(progress), _) => {
                not_here(&format!("{} of {} bytes are copied", progress.fetched, progress.size))
            }
            (None, Some(why)) => not_here(why),
            (None, None) => not_here("it was not begun to be copied"),
        })
    }

    /// What an answer is called that was read from the file `opened` and saw what lies between the two:
    /// the generation in the store if it saw exactly that, else a name that no other contents have.
    pub(super) fn name(&self, opened: Generation, before: Seen, after: Seen) -> Generation {
        let exact = before.done == after.begun;
        if let (Some(open), Some(copy)) = (&self.open, &self.record.copy)
            && open.key == opened
            && exact
            && after.begun == copy.promoted_change
            && let Some(generation) = copy.generation.as_deref().and_then(Generation::parse)
        {
            return generation;
        }
        let text = format!("{opened} {} {}", before.done, after.begun);
        Generation(xxh3_128(text.as_bytes()).to_be_bytes())
    }
}

impl OpenCopy {
    /// A file that is at `change`, under a key that nothing had before.
    pub(super) fn new(change: u64) -> Self {
        static OPENED: AtomicU64 = AtomicU64::new(0);
        // It also goes into the names of answers, which clients compare with those of other processes.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let text = format!("{now} {} {}", std::process::id(), OPENED.fetch_add(1, Relaxed));
        let key = Generation(xxh3_128(text.as_bytes()).to_be_bytes());
        Self { key, changes: Changes::at(change) }
    }
}
