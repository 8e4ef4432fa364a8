//! The writer of one segment as others see it: a queue, and what may be asked of it. The thread behind it
//! is in `group`.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use springhouse_gateway::api::{
    error::{ApiError, ErrorCode},
    hot::{ExecuteAnswer, ExecuteRequest, Token},
};
use tokio::sync::oneshot;

use super::{
    super::{
        QuerySettings,
        answer::GRACE,
        control::Control,
        errors::{self, SqliteError},
        files::Seen,
    },
    group::Opened,
    log::{Pin, Pinned},
    metrics::WriteMetrics,
    pages::{Taken, Unshipped},
};
use crate::clock::{self, Busy};

/// Settings of writers.
#[derive(Debug, Clone)]
pub struct WriteSettings {
    /// Limits of one request, as of a query.
    pub limits: QuerySettings,
    /// Requests that may wait for one segment before new ones are refused as overloaded.
    pub queue_max: usize,
    /// Most requests of one commit.
    pub group_max: usize,
    /// A group that took so long is committed before more is taken in.
    pub group_time: Duration,
}

impl WriteSettings {
    /// The defaults, with the limits of queries.
    pub fn new(limits: QuerySettings) -> Self {
        Self { limits, queue_max: 1024, group_max: 512, group_time: Duration::from_millis(20) }
    }
}

/// Which transactions took place. Shared with readers, who need it for the name of what they read.
#[derive(Debug, Default)]
pub struct Changes {
    done: AtomicU64,
    begun: AtomicU64,
}

impl Changes {
    /// At `change`, with nothing under way.
    pub fn at(change: u64) -> Arc<Self> {
        Arc::new(Self { done: change.into(), begun: change.into() })
    }

    /// `change` is about to be committed.
    pub(super) fn begin(&self, change: u64) {
        self.begun.store(change, Ordering::SeqCst);
    }

    /// It was.
    pub(super) fn end(&self, change: u64) {
        self.done.store(change, Ordering::SeqCst);
    }

    /// What a reader sees now.
    pub fn seen(&self) -> Seen {
        // In this order: of a commit between the two loads a reader may see anything, and is told so.
        let done = self.done.load(Ordering::SeqCst);
        Seen { done, begun: self.begun.load(Ordering::SeqCst) }
    }

    /// Sets both, when a file is opened.
    pub(super) fn set(&self, change: u64) {
        self.begun.store(change, Ordering::SeqCst);
        self.done.store(change, Ordering::SeqCst);
    }
}

/// An idempotency key, and what was asked with it.
#[derive(Debug, Clone)]
pub struct Key {
    /// As the client sent it.
    pub text: String,
    /// xxh3-128 of the request's body.
    pub digest: u128,
}

/// One request.
#[derive(Debug)]
pub struct Execute {
    /// What to do.
    pub request: ExecuteRequest,
    /// Makes a retry harmless.
    pub key: Option<Key>,
    /// When it must be done, its time in the queue included.
    pub deadline: Instant,
    /// Bytes of its body: a great one is committed alone, so that small ones do not wait for it.
    pub size: usize,
}

/// Files of a written segment.
#[derive(Debug, Clone)]
pub struct WrittenFiles {
    /// The database.
    pub database: PathBuf,
    /// Idempotency keys of what was applied to it.
    pub keys: PathBuf,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) execute: Execute,
    pub(super) control: Arc<Control>,
    pub(super) reply: oneshot::Sender<Result<ExecuteAnswer, ApiError>>,
    _busy: Busy,
}

/// Somebody wants to see the database as of one commit.
#[derive(Debug)]
pub(super) struct PinJob {
    pub(super) pin: Pin,
    /// Wants the idempotency keys of later transactions than this one; `None`: all.
    pub(super) keys_after: Option<u64>,
    pub(super) reply: oneshot::Sender<Result<(Pinned, Taken), SqliteError>>,
    _busy: Busy,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) jobs: VecDeque<Job>,
    pub(super) pins: Vec<PinJob>,
    /// Takes no more; ends when it is empty.
    pub(super) closed: bool,
    /// The thread has ended.
    pub(super) ended: bool,
    /// Since it was closed.
    pub(super) ending: Option<Busy>,
}

#[derive(Debug)]
pub(super) struct Shared {
    token: Token,
    files: WrittenFiles,
    pub(super) settings: WriteSettings,
    pub(super) queue: Mutex<Queue>,
    pub(super) work: Condvar,
    pub(super) ended: tokio::sync::Notify,
    ending: Arc<AtomicBool>,
    pub(super) thread: clock::Thread,
    pub(super) changes: Arc<Changes>,
    pub(super) metrics: WriteMetrics,
    /// Since when nothing was asked of it.
    pub(super) idle_since: Mutex<Instant>,
}

/// See the module. Dropping it lets what waits end, without waiting for that.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
}

impl Writer {
    /// Opens the database, which a crash may have left in any state, and starts the thread. `base`: a
    /// transaction that it has, at most 2^31 - 1 before its last one. `unshipped`: is told what each commit
    /// changes. Blocks.
    ///
    /// # Errors
    /// The file cannot be opened or is damaged; no more threads.
    pub fn open(
        files: WrittenFiles,
        token: Token,
        base: u64,
        changes: Arc<Changes>,
        unshipped: Option<Arc<Unshipped>>,
        settings: WriteSettings,
        metrics: WriteMetrics,
    ) -> Result<Self, ApiError> {
        let ending = Arc::new(AtomicBool::new(false));
        let opened = Opened::open(&files, base, unshipped, &settings, &ending)?;
        changes.set(opened.change);
        let shared = Arc::new(Shared {
            token,
            files,
            settings,
            queue: Mutex::default(),
            work: Condvar::new(),
            ended: tokio::sync::Notify::new(),
            ending,
            thread: clock::Thread::default(),
            changes,
            metrics,
            idle_since: Mutex::new(clock::now()),
        });
        let own = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("sqlite-writer".into())
            .spawn(move || own.serve(opened))
            .map_err(|e| ApiError::new(ErrorCode::Overloaded, format!("no more threads: {e}")))?;
        Ok(Self { shared })
    }

    /// The token that it writes under.
    pub fn token(&self) -> Token {
        self.shared.token
    }

    /// Applies a request. The answer comes after it is durable. Dropping the future takes a request out
    /// that has not begun; one that has goes on.
    pub async fn execute(&self, execute: Execute) -> Result<ExecuteAnswer, ApiError> {
        let deadline = execute.deadline.min(clock::now() + self.shared.settings.limits.timeout_max);
        let control = Arc::new(Control::new(deadline, Arc::clone(&self.shared.ending)));
        let (reply, answer) = oneshot::channel();
        {
            let mut queue = self.shared.queue.lock();
            if queue.closed {
                return Err(closing());
            }
            if queue.jobs.len() >= self.shared.settings.queue_max {
                queue.jobs.retain(|job| !job.reply.is_closed() && job.control.stop().is_none());
            }
            if queue.jobs.len() >= self.shared.settings.queue_max {
                let message = format!("{} writes wait already for this segment", queue.jobs.len());
                return Err(ApiError::new(ErrorCode::Overloaded, message));
            }
            queue.jobs.push_back(Job { execute, control, reply, _busy: self.shared.thread.busy() });
        }
        self.shared.work.notify_one();
        match tokio::time::timeout_at((deadline + 4 * GRACE).into(), answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(unknown("the writer ended before its commit was certain")),
            Err(_) => Err(unknown("the deadline passed while it was being committed")),
        }
    }

    /// A view of the database as of one commit that lasts, with what was not shipped, which is taken out.
    /// Given while writes go on: none is held up but for the begin of a transaction.
    ///
    /// # Errors
    /// SQLite's; the writer is being closed; it tells nobody of its commits.
    pub async fn pin(&self, keys_after: Option<u64>) -> Result<(Pinned, Taken), ApiError> {
        let (database, limits) = (self.shared.files.database.clone(), self.shared.settings.limits.clone());
        let of_sqlite = |error: SqliteError| errors::from_sqlite(&error, errors::Context::default());
        let pin = match springhouse_gateway::blocking::run(move || Pin::open(&database, &limits)).await {
            Ok(pin) => pin.map_err(of_sqlite)?,
            Err(_) => {
                return Err(ApiError::new(ErrorCode::Internal, "opening the database ended by a defect"));
            }
        };
        let (reply, answer) = oneshot::channel();
        {
            let mut queue = self.shared.queue.lock();
            if queue.closed {
                return Err(closing());
            }
            queue.pins.push(PinJob { pin, keys_after, reply, _busy: self.shared.thread.busy() });
        }
        self.shared.work.notify_one();
        answer.await.map_err(|_| closing())?.map_err(of_sqlite)
    }

    /// Whether it takes no more requests: it was closed, or has ended by itself after a failure that only
    /// opening the database anew can clear up.
    pub fn is_closed(&self) -> bool {
        self.shared.queue.lock().closed
    }

    /// How long nothing was asked of it.
    pub fn idle(&self) -> Duration {
        let queue = self.shared.queue.lock();
        if queue.jobs.is_empty() && queue.pins.is_empty() {
            clock::now().saturating_duration_since(*self.shared.idle_since.lock())
        } else {
            Duration::ZERO
        }
    }

    /// Takes no more requests, ends those that wait, copies the log into the database and closes it.
    pub async fn close(&self) {
        self.shared.close();
        loop {
            let ended = self.shared.ended.notified();
            if self.shared.queue.lock().ended {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.close();
    }
}

pub(super) fn closing() -> ApiError {
    ApiError::new(ErrorCode::ShuttingDown, "the segment is being closed for writing; ask again")
}

/// A failure after which nobody knows whether the request took place.
pub(super) fn unknown(why: &str) -> ApiError {
    ApiError::new(
        ErrorCode::Internal,
        format!(
            "{why}: it is not known whether the request took place; with an idempotency key it can be sent again"
        ),
    )
}

impl Shared {
    fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        if !queue.ended {
            queue.ending.get_or_insert_with(|| self.thread.busy());
        }
        drop(queue);
        self.work.notify_all();
    }
}
