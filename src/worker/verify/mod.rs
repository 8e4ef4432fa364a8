//! Files looked at for whoever asks whether they are as they should be: what the store has, and the copies
//! here. `file` looks at bytes on this host; `hot::verify` knows the copies.
//!
//! It gives way to all other work, and ends when the one who asked goes away.

use std::{
    collections::BTreeMap,
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use springhouse_fuse::error::ErrorKind;
use springhouse_gateway::{
    api::{
        error::{ApiError, ErrorCode},
        verify::{Check, Depth, FileVerified, Flaw},
        work::Work,
    },
    segment::SegmentId,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use self::file::{Looked, Target, look};
use super::hot::{CopyLook, Hot, give_way};
use crate::{
    clock::Thread,
    mount::{ControlClient, api::Paths},
    query::{Content, SegmentFiles, replaced},
};

mod file;

/// Files looked at at once: each reads as fast as the disk or the store gives.
const AT_ONCE: usize = 2;

/// See the module.
#[derive(Debug)]
pub(super) struct Verifier {
    files: Arc<dyn SegmentFiles>,
    /// Whether `files` has what the store has.
    cold: bool,
    hot: Option<Arc<Hot>>,
    /// The own mount, which `files` is behind.
    mount: Option<ControlClient>,
    jobs: Mutex<BTreeMap<u64, Arc<Job>>>,
    next: AtomicU64,
    at_once: Arc<Semaphore>,
}

/// One look at a file.
#[derive(Debug)]
pub(super) struct Job {
    segment: SegmentId,
    step: Mutex<(&'static str, u64, u64)>,
    stop: Arc<AtomicBool>,
}

impl Job {
    fn new(segment: SegmentId) -> Self {
        Self { segment, step: Mutex::new(("waiting", 0, 0)), stop: Arc::default() }
    }

    /// What is being done, and how far that is in bytes.
    pub(super) fn at(&self, what: &'static str, done: u64, total: u64) {
        *self.step.lock() = (what, done, total);
    }

    /// Told to all who do something for it.
    pub(super) fn stop(&self) -> &Arc<AtomicBool> {
        &self.stop
    }

    /// An error as soon as nobody wants it any more.
    pub(super) fn go_on(&self) -> Result<(), ApiError> {
        match self.stop.load(Relaxed) {
            true => Err(ApiError::new(ErrorCode::ShuttingDown, "the verification was stopped")),
            false => Ok(()),
        }
    }
}

/// A job under way. Whoever drops it wants no answer any more.
struct Running<'v> {
    verifier: &'v Verifier,
    number: u64,
    job: Arc<Job>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.job.stop.store(true, Relaxed);
        self.verifier.jobs.lock().remove(&self.number);
    }
}

impl Verifier {
    pub(super) fn new(
        files: Arc<dyn SegmentFiles>,
        cold: bool,
        hot: Option<Arc<Hot>>,
        mount: Option<ControlClient>,
    ) -> Self {
        Self {
            files,
            cold,
            hot,
            mount,
            jobs: Mutex::default(),
            next: AtomicU64::new(0),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// What is under way, and what waits.
    pub(super) fn work(&self) -> Vec<Work> {
        let shown = |job: &Arc<Job>| {
            let (what, done, total) = *job.step.lock();
            let segment = job.segment.to_string();
            Work { segment, worker: String::new(), what: what.to_owned(), done, total }
        };
        self.jobs.lock().values().map(shown).collect()
    }

    /// Ends all of it.
    pub(super) fn shutdown(&self) {
        self.jobs.lock().values().for_each(|job| job.stop.store(true, Relaxed));
    }

    fn begin(&self, id: &SegmentId) -> Running<'_> {
        let (job, number) = (Arc::new(Job::new(id.clone())), self.next.fetch_add(1, Relaxed));
        self.jobs.lock().insert(number, Arc::clone(&job));
        Running { verifier: self, number, job }
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let turn = Arc::clone(&self.at_once).acquire_owned().await;
        turn.map_err(|_| ApiError::new(ErrorCode::ShuttingDown, "the worker is shutting down"))
    }

    /// Looks at what the store has at `path`.
    pub(super) async fn in_store(
        &self,
        id: &SegmentId,
        path: &str,
        depth: Depth,
    ) -> Result<FileVerified, ApiError> {
        let running = self.begin(id);
        let turn = self.turn().await?;
        let job = Arc::clone(&running.job);
        if !self.cold {
            let hot = self.hot.as_ref().ok_or_else(|| {
                ApiError::new(ErrorCode::NoWorker, "this worker has no way to what the store has")
            })?;
            let spooled = hot.spool(id, path, depth, &job).await?;
            let target = Target::Fixed { file: spooled.file, path: spooled.path, len: spooled.size };
            let generation = spooled.generation.to_string();
            let logs = spooled.log.into_iter().collect();
            let looked = on_thread(turn, move || {
                let _goes_at_the_end = spooled.scratch;
                look(target, depth, &job)
            })
            .await?;
            return Ok(of_store(looked, generation, logs));
        }
        if depth != Depth::Header {
            self.forget(path).await?;
        }
        let (files, path) = (Arc::clone(&self.files), path.to_owned());
        on_thread(turn, move || {
            let opened = files.open(&path)?;
            let generation = opened.generation;
            let Content::Fixed { len, file } = opened.content else {
                return Err(ApiError::new(ErrorCode::Internal, "the store's file is open for writing"));
            };
            let mut logs = Vec::new();
            for ending in ["-wal", "-journal"] {
                if files.exists(&format!("{path}{ending}"))? {
                    logs.push(has_log(ending));
                }
            }
            let looked = look(Target::Fixed { file, path: opened.path, len }, depth, &job)?;
            // A file that somebody wrote to in place is another one now.
            if files.generation(&path)? != generation {
                return Err(replaced());
            }
            files.verify(&path, generation)?;
            Ok(of_store(looked, generation.to_string(), logs))
        })
        .await
    }

    /// Has the mount give up what it has cached of a file: it is the store's bytes that are asked about.
    async fn forget(&self, path: &str) -> Result<(), ApiError> {
        let Some(mount) = &self.mount else { return Ok(()) };
        let paths = Paths { paths: vec![path.to_owned()], ..Paths::default() };
        match mount.drop_paths(&paths).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(replaced()),
            Err(error) => Err(ApiError::new(
                ErrorCode::StoreUnavailable,
                format!("the worker's mount does not give up what it has cached: {error}"),
            )),
        }
    }

    /// Looks at the copy of `id` here, and takes it out if it is not what was copied.
    pub(super) async fn copy(&self, id: &SegmentId, depth: Depth) -> Result<FileVerified, ApiError> {
        let hot = self
            .hot
            .as_ref()
            .ok_or_else(|| ApiError::new(ErrorCode::SegmentNotFound, "this worker has no copies at all"))?;
        let running = self.begin(id);
        let turn = self.turn().await?;
        let copy = hot.copy_to_look_at(id)?;
        let job = Arc::clone(&running.job);
        let (looked, copy) = on_thread(turn, move || {
            let mut looked = look(target_of(&copy)?, depth, &job)?;
            if depth == Depth::Header && !copy.is_written && !looked.flaws.is_empty() {
                // Whether it has to go is decided by its checksum.
                looked = look(target_of(&copy)?, Depth::Quick, &job)?;
            }
            Ok((looked, copy))
        })
        .await?;
        let mut found = FileVerified {
            generation: copy.generation.clone(),
            kept: copy.checksum.clone(),
            ..of_store(looked, String::new(), Vec::new())
        };
        compare(&mut found, &copy);
        let differs = |flaw: &Flaw| matches!(flaw.check, Check::Read | Check::Length | Check::Checksum);
        let is_damaged = !copy.is_written && found.flaws.iter().any(differs);
        match hot.settle_look(&copy, is_damaged).await {
            Some(taken_out) => found.taken_out = taken_out,
            None => return Err(replaced()),
        }
        Ok(found)
    }
}

/// What was written down with the copy against what is there.
fn compare(found: &mut FileVerified, copy: &CopyLook) {
    if copy.is_written {
        return;
    }
    if found.size != copy.size {
        let text = format!("has {} bytes, and {} were copied", found.size, copy.size);
        found.flaws.insert(0, Flaw { check: Check::Length, text });
    }
    if let (Some(read), Some(kept)) = (&found.checksum, &copy.checksum)
        && read != kept
    {
        let text = format!("has the checksum {read}, and {kept} was copied");
        found.flaws.insert(0, Flaw { check: Check::Checksum, text });
    }
}

fn target_of(copy: &CopyLook) -> Result<Target, ApiError> {
    if copy.is_written {
        return Ok(Target::Live { path: copy.path.clone() });
    }
    let disk = |error: std::io::Error| {
        ApiError::new(ErrorCode::Internal, format!("the copy on the worker's disk: {error}"))
    };
    let file = File::open(&copy.path).map_err(disk)?;
    let len = file.metadata().map_err(disk)?.len();
    Ok(Target::Fixed { file, path: copy.path.clone(), len })
}

fn of_store(looked: Looked, generation: String, mut flaws: Vec<Flaw>) -> FileVerified {
    flaws.extend(looked.flaws);
    FileVerified {
        generation: (!generation.is_empty()).then_some(generation),
        size: looked.size,
        checksum: looked.checksum,
        kept: None,
        checked: looked.checked,
        flaws,
        taken_out: false,
    }
}

/// A database with a log beside it is not whole by itself.
pub(super) fn has_log(ending: &str) -> Flaw {
    let text = format!("has a {ending} file beside it: nobody reads what is in that; checkpoint it");
    Flaw { check: Check::Header, text }
}

/// Runs `work` on a thread that may wait for a mount or a disk, and that gives way to others.
async fn on_thread<T: Send + 'static>(
    turn: OwnedSemaphorePermit,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let (send, done) = oneshot::channel();
    let one = Thread::default();
    let busy = one.busy();
    let thread = std::thread::Builder::new().name("verify".into()).spawn(move || {
        give_way();
        let _turn = one.turn();
        let outcome = work();
        drop(turn);
        let _ = send.send(outcome); // nobody may want it any more
        busy.end();
    });
    if let Err(error) = thread {
        return Err(ApiError::new(ErrorCode::Internal, format!("no more threads: {error}")));
    }
    done.await
        .unwrap_or_else(|_| Err(ApiError::new(ErrorCode::Internal, "it ended by a defect; the log has more")))
}
