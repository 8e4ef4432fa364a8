//! Copying a segment from the store.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use springhouse_fuse::{
    error::{Error, ErrorKind},
    store::{Generation, Store, StorePath},
};
use springhouse_gateway::api::error::{ApiError, ErrorCode};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Hot,
    pace::give_way,
    part::Part,
    record::CopyRecord,
    room::Room,
    segment::{Progress, Segment},
};
use crate::clock::{Busy, Thread, Turn};

/// Asked of the store at once; two such reads are under way.
const READ_BYTES: usize = 4 << 20;
const READS: usize = 2;

/// Why a segment could not be copied.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no room: it waits for some.
    Full(String),
    /// Nobody wants it any more.
    Stopped,
    /// The store or the disk; tried again later.
    Failed(Error),
}

impl Failure {
    /// For whoever waits for it.
    pub(super) fn into_api(self) -> ApiError {
        match self {
            Self::Full(why) => ApiError::new(ErrorCode::NoRoom, why),
            Self::Stopped => ApiError::new(ErrorCode::ShuttingDown, "the copy was stopped"),
            Self::Failed(error) => of_store(error),
        }
    }

    /// For `reason`.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Full(why) => why.clone(),
            Self::Stopped => "the copy was stopped".into(),
            Self::Failed(error) => error.message().to_owned(),
        }
    }
}

/// The API's error for the store's.
pub(super) fn of_store(error: Error) -> ApiError {
    let code = match error.kind() {
        ErrorKind::NotFound => ErrorCode::SegmentNotFound,
        ErrorKind::Stale => ErrorCode::SegmentReplaced,
        ErrorKind::Corrupt => ErrorCode::SegmentCorrupt,
        ErrorKind::NoSpace => ErrorCode::NoRoom,
        _ => ErrorCode::StoreUnavailable,
    };
    ApiError::new(code, error.message())
}

/// Bytes on their way to the thread that writes them.
struct Feed {
    thread: Arc<Thread>,
    send: mpsc::Sender<(Bytes, Busy)>,
    /// For what the thread does after the last of them.
    last: Arc<Mutex<Option<Busy>>>,
}

impl Feed {
    #[allow(clippy::type_complexity)] // taken apart where it is made
    fn new(thread: Arc<Thread>) -> (Self, mpsc::Receiver<(Bytes, Busy)>, Arc<Mutex<Option<Busy>>>) {
        let (send, receive) = mpsc::channel(READS);
        let last = Arc::<Mutex<Option<Busy>>>::default();
        (Self { thread, send, last: Arc::clone(&last) }, receive, last)
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), ()> {
        // Room first: what is given can be taken.
        let permit = self.send.reserve().await.map_err(drop)?;
        permit.send((bytes, self.thread.busy()));
        Ok(())
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        *self.last.lock() = Some(self.thread.busy());
    }
}

/// Copies `generation` of the segment at `path` into its part, verified and durable. `urgent`: somebody
/// waits for it, so it gives way to nobody. The caller has the segment's turn.
pub(super) async fn fetch(
    hot: &Hot,
    segment: &Segment,
    path: &str,
    generation: &str,
    urgent: bool,
    stop: &Arc<AtomicBool>,
) -> Result<(CopyRecord, Room), Failure> {
    let path = StorePath::parse(path).map_err(Failure::Failed)?;
    let wanted = Generation::parse(generation).ok_or_else(|| {
        Failure::Failed(Error::new(ErrorKind::InvalidArgument, format!("{generation:?} is no generation")))
    })?;
    let store: &Arc<dyn Store> = &hot.settings.store;
    let reader = store.open(&path, Some(wanted)).await.map_err(Failure::Failed)?;
    let size = reader.metadata().len;
    if let Some(ending) = find_log(store.as_ref(), &path).await.map_err(Failure::Failed)? {
        let why = format!(
            "there is a {ending} file beside {path}: whoever wrote it has not finished; open it once with sqlite3 \
             and set journal_mode=DELETE"
        );
        return Err(Failure::Failed(Error::new(ErrorKind::Corrupt, why)));
    }
    // It may take the place of one that is here: both are, for a while.
    let room = hot.room.take(&hot.data, size).map_err(Failure::Full)?;
    let permit = hot.copies.acquire().await.map_err(|_| Failure::Stopped)?;
    let started = Instant::now();
    segment.state.lock().fetching = Some(Progress { fetched: 0, size });
    hot.publish(segment);

    let thread = Arc::new(Thread::default());
    let (mut feed, mut receive, last) = Feed::new(Arc::clone(&thread));
    let (data, id, text) = (hot.data.clone(), segment.id.clone(), generation.to_owned());
    let (begun, began) = tokio::sync::oneshot::channel();
    let (ended, end) = tokio::sync::oneshot::channel();
    let (busy, stopped) = (thread.busy(), Arc::clone(stop));
    let written = move |own: &Thread, turn: &mut Turn| -> Result<String, Error> {
        let disk = |error: std::io::Error| Error::from_io(&error, "the copy on the worker's disk");
        let mut part = Part::open(&data, &id, &text, size).map_err(disk)?;
        let _ = begun.send(part.done());
        busy.end();
        loop {
            turn.next(own);
            let Some((bytes, _busy)) = receive.blocking_recv() else { break };
            if stopped.load(Relaxed) {
                break;
            }
            part.write(&bytes).map_err(disk)?;
        }
        if part.done() < size {
            // Stopped, or the store failed: what came is not fetched again.
            part.save().map_err(disk)?;
            return Ok(String::new());
        }
        part.finish()
    };
    let own = Arc::clone(&thread);
    let thread = std::thread::Builder::new().name("copy".into()).spawn(move || {
        if !urgent {
            give_way();
        }
        let mut turn = own.turn();
        let written = written(&own, &mut turn);
        let _busy = last.lock().take();
        let _ = ended.send(written);
    });
    if let Err(error) = thread {
        return Err(Failure::Failed(Error::new(ErrorKind::Other, format!("no more threads: {error}"))));
    }
    let from = began.await.unwrap_or(size); // it failed, and `end` says why
    hot.metrics.resumed_bytes.inc_by(if from < size { from } else { 0 });
    let offsets = (from..size).step_by(READ_BYTES);
    let read = |offset| {
        let reader = Arc::clone(&reader);
        async move {
            if !urgent {
                hot.pace.wait(READ_BYTES.min(usize::try_from(size - offset).unwrap_or(READ_BYTES))).await;
            }
            reader.read_at(offset, READ_BYTES).await
        }
    };
    let mut reads = std::pin::pin!(stream::iter(offsets).map(read).buffered(READS));
    let mut failed = None;
    while let Some(read) = reads.next().await {
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) => {
                failed = Some(Failure::Failed(error));
                break;
            }
        };
        if stop.load(Relaxed) {
            failed = Some(Failure::Stopped);
            break;
        }
        if let Err(why) = room.still(&hot.data) {
            failed = Some(Failure::Full(why));
            break;
        }
        let count = bytes.len() as u64;
        if feed.send(bytes).await.is_err() {
            break; // the disk failed, and `end` says how
        }
        hot.metrics.fetched_bytes.inc_by(count);
        if let Some(progress) = &mut segment.state.lock().fetching {
            progress.fetched = progress.fetched.max(from) + count;
        }
    }
    drop(feed);
    let outcome = end.await;
    drop(permit);
    segment.state.lock().fetching = None;
    match (failed, outcome) {
        (_, Ok(Err(error))) if error.kind() == ErrorKind::NoSpace => {
            Err(Failure::Full("the worker's disk is full".into()))
        }
        (Some(failure), _) => Err(failure),
        (None, Ok(Ok(checksum))) if !checksum.is_empty() => {
            hot.speed.copied(size.saturating_sub(from), started.elapsed());
            Ok((CopyRecord::copied(generation.to_owned(), size, checksum), room))
        }
        (None, Ok(Ok(_))) if stop.load(Relaxed) => Err(Failure::Stopped),
        (None, Ok(Ok(_))) => Err(Failure::Failed(Error::new(
            ErrorKind::Corrupt,
            "the store gave fewer bytes than the file has",
        ))),
        (None, Ok(Err(error))) => {
            if error.kind() == ErrorKind::Corrupt {
                // From here it would go on with bytes that are not to be believed.
                let _ = hot.data.remove_part(&segment.id);
                let why = format!("{path} in the store cannot be used: {}", error.message());
                return Err(Failure::Failed(Error::new(ErrorKind::Corrupt, why)));
            }
            Err(Failure::Failed(error))
        }
        (None, Err(_)) => {
            Err(Failure::Failed(Error::new(ErrorKind::Other, "the copy's thread ended by a defect")))
        }
    }
}

/// A database with a log beside it is not whole by itself: the ending of one that is there.
pub(super) async fn find_log(store: &dyn Store, path: &StorePath) -> Result<Option<&'static str>, Error> {
    for ending in ["-wal", "-journal"] {
        match store.stat(&StorePath::parse(&format!("{path}{ending}"))?).await {
            Ok(_) => return Ok(Some(ending)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
