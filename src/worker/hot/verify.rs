//! Copies against what was written down when they were made: each once after a start, and those that somebody
//! asks about. One that is not what was copied is taken out; the assignment brings it back.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use springhouse_fuse::{
    error::{Error, ErrorKind},
    store::{Generation, StorePath},
};
use springhouse_gateway::{
    api::{
        error::{ApiError, ErrorCode},
        verify::{Depth, Flaw},
    },
    segment::SegmentId,
};

use super::{
    Hot, blocking,
    fetch::{find_log, of_store},
    of_disk,
    pace::give_way,
    part,
    promote::Scratch,
    room::Room,
    segment::Segment,
};
use crate::{
    clock::Thread,
    worker::verify::{Job, has_log},
};

/// Asked of the store at once.
const READ_BYTES: usize = 4 << 20;
/// So much of a file is its header.
const HEADER_BYTES: usize = 100;

/// A copy as it is at one moment.
#[derive(Debug)]
pub(in crate::worker) struct CopyLook {
    segment: Arc<Segment>,
    key: Generation,
    /// Keeps it from being removed.
    _held: Arc<()>,
    /// Where it lies.
    pub(in crate::worker) path: PathBuf,
    /// Whether it is, or was, made ready for writing: then nothing but SQLite may open it.
    pub(in crate::worker) is_written: bool,
    /// Generation in the store that it stands for.
    pub(in crate::worker) generation: Option<String>,
    /// Bytes that were copied.
    pub(in crate::worker) size: u64,
    /// Their checksum.
    pub(in crate::worker) checksum: Option<String>,
}

/// What the store has, in a file here.
#[derive(Debug)]
pub(in crate::worker) struct Spooled {
    /// Removed when this goes.
    pub(in crate::worker) scratch: (Scratch, Room),
    pub(in crate::worker) file: File,
    pub(in crate::worker) path: PathBuf,
    pub(in crate::worker) generation: Generation,
    pub(in crate::worker) size: u64,
    /// A log beside it, which is none of the segment's.
    pub(in crate::worker) log: Option<Flaw>,
}

impl Hot {
    /// Reads every copy once that the store has too, and compares its checksum.
    pub(super) async fn verify_all(self: &Arc<Self>) {
        let segments: Vec<Arc<Segment>> = self.segments.read().values().cloned().collect();
        for segment in segments {
            if self.stopping.load(Relaxed) {
                return;
            }
            self.verify(&segment).await;
        }
    }

    /// Compares the copy of one segment with its checksum, if it has one; takes it out if it is another.
    pub(super) async fn verify(self: &Arc<Self>, segment: &Arc<Segment>) {
        let Ok(copy) = self.look_of(segment) else { return };
        let Some(expected) = copy.checksum.clone() else { return };
        if segment.state.lock().verified {
            return;
        }
        let path = copy.path.clone();
        let (send, read) = tokio::sync::oneshot::channel();
        let one = Thread::default();
        let busy = one.busy();
        let started = std::thread::Builder::new().name("verify".into()).spawn(move || {
            give_way();
            let _turn = one.turn();
            let _ = send.send(part::checksum(&path));
            busy.end();
        });
        let found = match (started, read.await) {
            (Ok(_), Ok(found)) => found,
            _ => return,
        };
        let good = matches!(&found, Ok((len, checksum)) if *len == copy.size && *checksum == expected);
        if good {
            // What was read says nothing of a file that came meanwhile.
            let mut state = segment.state.lock();
            if state.open.as_ref().is_some_and(|open| open.key == copy.key) {
                state.verified = true;
            }
            return;
        }
        tracing::debug!(segment = %segment.id, ?found, expected, "a copy is not what was copied");
        self.settle_look(&copy, true).await;
    }

    /// The copy of `id`, as it is now.
    pub(in crate::worker) fn copy_to_look_at(&self, id: &SegmentId) -> Result<CopyLook, ApiError> {
        let gone =
            || ApiError::new(ErrorCode::SegmentNotFound, "this worker has no copy of it that can be read");
        let segment = self.find(id.as_str()).ok_or_else(gone)?;
        self.look_of(&segment).map_err(|_| gone())
    }

    fn look_of(&self, segment: &Arc<Segment>) -> Result<CopyLook, ApiError> {
        let held = segment.hold();
        let state = segment.state.lock();
        let key = state.readable()?.key;
        let copy = state.record.copy.as_ref().ok_or_else(super::not_provisioned)?;
        Ok(CopyLook {
            key,
            _held: held,
            path: self.data.segment(&segment.id),
            is_written: copy.checksum.is_none() || copy.field.is_some() || copy.written,
            generation: copy.generation.clone(),
            size: copy.size,
            checksum: copy.checksum.clone(),
            segment: Arc::clone(segment),
        })
    }

    /// The look at a copy is over: it is taken out if it is damaged. Whether it was; `None`: it is another one
    /// by now, of which the look says nothing.
    pub(in crate::worker) async fn settle_look(
        self: &Arc<Self>,
        copy: &CopyLook,
        is_damaged: bool,
    ) -> Option<bool> {
        let segment = &copy.segment;
        let is_same = || {
            let state = segment.state.lock();
            let still_plain = state.record.copy.as_ref().is_some_and(|now| now.checksum == copy.checksum);
            state.open.as_ref().is_some_and(|open| open.key == copy.key) && still_plain
        };
        if !is_damaged {
            return is_same().then_some(false);
        }
        let _turn = segment.turn.lock().await;
        if !is_same() {
            return None;
        }
        tracing::error!(segment = %segment.id, "a copy is not what was copied; it is taken out");
        self.metrics.damaged.inc();
        let outcome = self.drop_copy(segment).await;
        segment.state.lock().refused = Some(match outcome {
            Ok(()) => "the copy was damaged on the worker's disk".into(),
            Err(error) => error.message,
        });
        self.publish(segment);
        self.queue.push(segment.id.as_str());
        Some(true)
    }

    /// Brings what the store has at `path` here, to be looked at: a worker that answers from copies only sees
    /// the store in no other way.
    pub(in crate::worker) async fn spool(
        &self,
        id: &SegmentId,
        path: &str,
        depth: Depth,
        job: &Job,
    ) -> Result<Spooled, ApiError> {
        let path = StorePath::parse(path).map_err(of_store)?;
        let reader = self.settings.store.open(&path, None).await.map_err(of_store)?;
        let (size, generation) = (reader.metadata().len, reader.metadata().generation);
        let log = match find_log(self.settings.store.as_ref(), &path).await {
            Ok(ending) => ending.map(has_log),
            Err(error) => return Err(of_store(error)),
        };
        let wanted = if depth == Depth::Header { size.min(HEADER_BYTES as u64) } else { size };
        let room = self.room.take(&self.data, wanted).map_err(|why| ApiError::new(ErrorCode::NoRoom, why))?;
        static SPOOLED: AtomicU64 = AtomicU64::new(0);
        let local = self.data.looked_at(id, SPOOLED.fetch_add(1, Relaxed));
        let scratch = Scratch(local.clone());
        let created = local.clone();
        let file = blocking(move || {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(true).open(&created).map_err(of_disk)
        })
        .await?;
        let (mut file, mut at) = (file, 0);
        while at < wanted {
            job.go_on()?;
            job.at("reading", at, wanted);
            let most = usize::try_from(wanted - at).unwrap_or(READ_BYTES).min(READ_BYTES);
            let bytes = reader.read_at(at, most).await.map_err(of_store)?;
            if bytes.is_empty() {
                let cut = format!("{path} is cut short");
                return Err(of_store(Error::new(ErrorKind::Corrupt, cut)));
            }
            let (from, count) = (at, bytes.len() as u64);
            file = blocking(move || {
                file.write_all_at(&bytes, from).map_err(of_disk)?;
                Ok(file)
            })
            .await?;
            at += count;
            room.still(&self.data).map_err(|why| ApiError::new(ErrorCode::NoRoom, why))?;
        }
        Ok(Spooled { scratch: (scratch, room), file, path: local, generation, size, log })
    }
}
