//! The writer of one segment: a queue, and a thread that commits what waits in it together.
//!
//! A commit costs one `fsync`, however many requests are in it. So the thread takes what has come while
//! the last commit was under way, applies each in a savepoint, and answers all of them after the commit.
//! It never waits for more to come: a single client has its answer after one `fsync`.

use std::{
    collections::VecDeque,
    ffi::CString,
    panic::{AssertUnwindSafe, catch_unwind},
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
    hot::{ExecuteAnswer, ExecuteRequest, StatementResult, Token},
};
use tokio::sync::oneshot;

use super::{
    super::{
        QuerySettings,
        answer::GRACE,
        control::Control,
        errors::{self, SqliteError},
        files::Seen,
        sandbox::{Purpose, Sandbox},
    },
    keys::{Applied, Keys},
    marker::Marker,
    metrics::WriteMetrics,
    run::{Refusal, Run},
};
use crate::{
    clock::{self, Busy},
    failpoint,
};

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

    /// What a reader sees now.
    pub fn seen(&self) -> Seen {
        // In this order: of a commit between the two loads a reader may see anything, and is told so.
        let done = self.done.load(Ordering::SeqCst);
        Seen { done, begun: self.begun.load(Ordering::SeqCst) }
    }

    /// Sets both, when a file is opened.
    fn set(&self, change: u64) {
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

/// A request of more bytes goes into no group with others.
const ALONE_BYTES: usize = 256 << 10;

#[derive(Debug)]
struct Job {
    execute: Execute,
    control: Arc<Control>,
    reply: oneshot::Sender<Result<ExecuteAnswer, ApiError>>,
    _busy: Busy,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Takes no more; ends when it is empty.
    closed: bool,
    /// The thread has ended.
    ended: bool,
    /// Since it was closed.
    ending: Option<Busy>,
}

#[derive(Debug)]
struct Shared {
    token: Token,
    settings: WriteSettings,
    queue: Mutex<Queue>,
    work: Condvar,
    ended: tokio::sync::Notify,
    ending: Arc<AtomicBool>,
    changes: Arc<Changes>,
    metrics: WriteMetrics,
    /// Since when nothing was asked of it.
    idle_since: Mutex<Instant>,
}

/// See the module. Dropping it lets what waits end, without waiting for that.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
}

impl Writer {
    /// Opens the database at `database`, which a crash may have left in any state, and starts the thread.
    /// `base`: a transaction that it has, at most 2^31 - 1 before its last one. Blocks.
    ///
    /// # Errors
    /// The file cannot be opened or is damaged; no more threads.
    pub fn open(
        database: PathBuf,
        keys: PathBuf,
        token: Token,
        base: u64,
        changes: Arc<Changes>,
        settings: WriteSettings,
        metrics: WriteMetrics,
    ) -> Result<Self, ApiError> {
        let ending = Arc::new(AtomicBool::new(false));
        let opened = Opened::open(&database, &keys, base, &settings, &ending)?;
        changes.set(opened.change);
        let shared = Arc::new(Shared {
            token,
            settings,
            queue: Mutex::default(),
            work: Condvar::new(),
            ended: tokio::sync::Notify::new(),
            ending,
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
            queue.jobs.push_back(Job { execute, control, reply, _busy: Busy::begin() });
        }
        self.shared.work.notify_one();
        match tokio::time::timeout_at((deadline + 4 * GRACE).into(), answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(unknown("the writer ended before its commit was certain")),
            Err(_) => Err(unknown("the deadline passed while it was being committed")),
        }
    }

    /// Whether it takes no more requests: it was closed, or has ended by itself after a failure that only
    /// opening the database anew can clear up.
    pub fn is_closed(&self) -> bool {
        self.shared.queue.lock().closed
    }

    /// How long nothing was asked of it.
    pub fn idle(&self) -> Duration {
        let queue = self.shared.queue.lock();
        if queue.jobs.is_empty() {
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

fn closing() -> ApiError {
    ApiError::new(ErrorCode::ShuttingDown, "the segment is being closed for writing; ask again")
}

/// A failure after which nobody knows whether the request took place.
fn unknown(why: &str) -> ApiError {
    ApiError::new(
        ErrorCode::Internal,
        format!(
            "{why}: it is not known whether the request took place; with an idempotency key it can be sent again"
        ),
    )
}

/// The database and what belongs to it, on the writer's thread.
struct Opened {
    sandbox: Sandbox,
    keys: Keys,
    change: u64,
}

impl Opened {
    fn open(
        database: &std::path::Path,
        keys: &std::path::Path,
        base: u64,
        settings: &WriteSettings,
        ending: &Arc<AtomicBool>,
    ) -> Result<Self, ApiError> {
        let control = Arc::new(Control::new(clock::now() + settings.limits.timeout_max, Arc::clone(ending)));
        let failed = |error: SqliteError| errors::from_sqlite(&error, errors::Context::default());
        let sandbox = Sandbox::open(database, Purpose::Write, &settings.limits, &control).map_err(failed)?;
        // Also the first look at the file: a log that a crash left is recovered here.
        let mode = sandbox.run_own(c"PRAGMA journal_mode = WAL").and_then(|_| {
            let wal = sandbox.run_own(c"SELECT journal_mode = 'wal' FROM pragma_journal_mode")?;
            sandbox.run_own(c"PRAGMA default_cache_size").map(|marker| (wal == Some(1), marker))
        });
        sandbox.rest();
        let (wal, marker) = mode.map_err(failed)?;
        if !wal {
            return Err(ApiError::new(ErrorCode::Internal, "the database cannot be put into WAL mode"));
        }
        // For 0 SQLite tells its own default, which is negative.
        let change = Marker(marker.and_then(|n| u32::try_from(n).ok()).unwrap_or(0)).change(base);
        let keys = Keys::open(keys, change)
            .map_err(|e| ApiError::new(ErrorCode::Internal, format!("the file of idempotency keys: {e}")))?;
        Ok(Self { sandbox, keys, change })
    }
}

/// What happened to a job of a group that is not committed yet.
struct Done {
    job: Job,
    results: Vec<StatementResult>,
    change: u64,
    repeated: bool,
}

impl Done {
    fn answer(self) {
        let Self { job, results, change, repeated } = self;
        let _ = job.reply.send(Ok(ExecuteAnswer { results, change, repeated })); // nobody may be there
    }
}

impl Shared {
    fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        if !queue.ended {
            queue.ending.get_or_insert_with(Busy::begin);
        }
        drop(queue);
        self.work.notify_all();
    }

    fn serve(&self, mut opened: Opened) {
        while let Some(job) = self.wait() {
            let _busy = Busy::begin(); // also for what follows the answer
            let worked = catch_unwind(AssertUnwindSafe(|| self.commit_group(&mut opened, job)));
            *self.idle_since.lock() = clock::now();
            if !matches!(worked, Ok(true)) {
                break; // what is in the connection is not to be trusted; what is in the file is
            }
        }
        drop(opened);
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.ended = true;
        for job in queue.jobs.drain(..) {
            let _ = job.reply.send(Err(closing()));
        }
        let _busy = queue.ending.take();
        drop(queue);
        self.ended.notify_waiters();
    }

    fn wait(&self) -> Option<Job> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            self.work.wait(&mut queue);
        }
    }

    /// Commits `first` and what else waits. `false`: the database has to be opened anew.
    fn commit_group(&self, opened: &mut Opened, first: Job) -> bool {
        let mut todo = VecDeque::from([first]);
        loop {
            let begun = Instant::now();
            if let Err(error) = opened.sandbox.run_own(c"BEGIN IMMEDIATE") {
                let error = errors::from_sqlite(&error, errors::Context::default());
                todo.into_iter().for_each(|job| self.refuse(job, error.clone()));
                return opened.sandbox.handle().is_autocommit();
            }
            match self.apply_all(opened, todo, begun) {
                Applies::All(done) => return self.commit(opened, done),
                Applies::Again(rest) if rest.is_empty() => return true,
                Applies::Again(rest) => todo = rest,
            }
        }
    }

    fn apply_all(&self, opened: &Opened, mut todo: VecDeque<Job>, begun: Instant) -> Applies {
        let mut done: Vec<Done> = Vec::new();
        let mut change = opened.change;
        while let Some(job) = todo.pop_front().or_else(|| self.more(&done, begun)) {
            if job.reply.is_closed() {
                continue;
            }
            if let Some(stop) = job.control.stop() {
                self.refuse(job, errors::stopped(stop));
                continue;
            }
            match repeated(opened, &done, &job) {
                Some(Ok((results, change))) => {
                    done.push(Done { job, results, change, repeated: true });
                    continue;
                }
                Some(Err(error)) => {
                    self.refuse(job, error);
                    continue;
                }
                None => {}
            }
            let run =
                Run { sandbox: &opened.sandbox, settings: &self.settings.limits, control: &job.control };
            match run.apply(&job.execute.request) {
                Ok(results) => {
                    change += 1;
                    done.push(Done { job, results, change, repeated: false });
                }
                Err(Refusal::Alone(error)) => self.refuse(job, error),
                Err(Refusal::All(error)) => {
                    // SQLite rolls all back where a statement that writes is interrupted or finds no
                    // room. The others are not to blame: once more, without it.
                    self.refuse(job, error);
                    if !opened.sandbox.handle().is_autocommit() {
                        let _ = opened.sandbox.run_own(c"ROLLBACK");
                    }
                    let before = done.into_iter().map(|done| done.job);
                    return Applies::Again(before.chain(todo).collect());
                }
            }
        }
        Applies::All(done)
    }

    /// The next job of a group that has `done` so far, if it may have one more.
    fn more(&self, done: &[Done], begun: Instant) -> Option<Job> {
        let great = |job: &Job| job.execute.size > ALONE_BYTES;
        if done.len() >= self.settings.group_max
            || begun.elapsed() >= self.settings.group_time
            || done.iter().any(|done| great(&done.job))
        {
            return None;
        }
        let mut queue = self.queue.lock();
        if queue.jobs.front().is_some_and(|job| great(job) && !done.is_empty()) {
            return None;
        }
        queue.jobs.pop_front()
    }

    fn refuse(&self, job: Job, error: ApiError) {
        self.metrics.refused.inc();
        let _ = job.reply.send(Err(error));
    }

    /// Makes what is `done` durable, and answers. `false`: the database has to be opened anew.
    fn commit(&self, opened: &mut Opened, done: Vec<Done>) -> bool {
        let change = done.iter().filter(|done| !done.repeated).map(|done| done.change).max();
        let Some(change) = change else {
            let rolled_back = opened.sandbox.run_own(c"ROLLBACK").is_ok();
            self.metrics.repeated.inc_by(done.len() as u64);
            done.into_iter().for_each(Done::answer);
            return rolled_back;
        };
        let applied: Vec<Applied> = done.iter().filter_map(Applied::of).collect();
        let started = Instant::now();
        failpoint::hit("write.before_commit");
        if let Err(failure) = self.commit_now(opened, &applied, change) {
            tracing::error!(error = %failure.error, "a commit failed");
            let undone =
                opened.sandbox.handle().is_autocommit() || opened.sandbox.run_own(c"ROLLBACK").is_ok();
            // Numbers that were not used will be: nothing may be left that is called by them.
            let forgotten = opened.keys.roll_back();
            for done in done {
                self.refuse(done.job, failure.error.clone());
            }
            self.changes.set(opened.change);
            return failure.certain && undone && forgotten.is_ok();
        }
        failpoint::hit("write.after_commit");
        opened.change = change;
        self.changes.done.store(change, Ordering::SeqCst);
        if let Err(error) = opened.keys.commit(applied) {
            tracing::warn!(%error, "the file of idempotency keys could not be made smaller");
        }
        self.metrics.commit.observe(started.elapsed().as_secs_f64());
        let (mut new, mut rows) = (0, 0);
        for done in &done {
            if done.repeated {
                self.metrics.repeated.inc();
            } else {
                new += 1;
                rows += done.results.iter().map(|result| result.rows_affected).sum::<u64>();
            }
        }
        self.metrics.groups.observe(new as f64);
        self.metrics.transactions.inc_by(new);
        self.metrics.rows.inc_by(rows);
        done.into_iter().for_each(Done::answer);
        true
    }

    fn commit_now(&self, opened: &mut Opened, applied: &[Applied], change: u64) -> Result<(), CommitFailure> {
        let of_sqlite = |error: SqliteError| {
            let full = error.code & 0xff == rusqlite::ffi::SQLITE_FULL;
            CommitFailure {
                // The last frame of the log was not written, so nothing can take it for committed.
                certain: full,
                error: if full {
                    errors::from_sqlite(&error, errors::Context::default())
                } else {
                    unknown(&format!("the commit failed: {error}"))
                },
            }
        };
        if !applied.is_empty() {
            opened.keys.append(applied).map_err(|error| CommitFailure {
                certain: true,
                error: ApiError::new(ErrorCode::NoRoom, format!("idempotency keys cannot be kept: {error}")),
            })?;
        }
        failpoint::hit("write.after_keys");
        let marker = format!("PRAGMA default_cache_size = {}", Marker::of(change).0);
        let cache = format!("PRAGMA cache_size = -{}", self.settings.limits.page_cache_bytes / 1024);
        for sql in [marker, cache] {
            // The first also sets the size of this connection's cache: the second sets it back.
            let sql = CString::new(sql).expect("no NUL in a number");
            opened.sandbox.run_own(&sql).map_err(of_sqlite)?;
        }
        self.changes.begun.store(change, Ordering::SeqCst);
        opened.sandbox.run_own(c"COMMIT").map(drop).map_err(of_sqlite)
    }
}

struct CommitFailure {
    /// Nothing of it took place, and a restart cannot change that.
    certain: bool,
    error: ApiError,
}

enum Applies {
    All(Vec<Done>),
    /// The transaction is gone; these have to be applied in a new one.
    Again(VecDeque<Job>),
}

impl Applied {
    fn of(done: &Done) -> Option<Self> {
        let key = done.job.execute.key.as_ref().filter(|_| !done.repeated)?;
        Some(Self {
            key: key.text.clone(),
            change: done.change,
            digest: key.digest,
            results: done.results.clone(),
        })
    }
}

type Repeated = Result<(Vec<StatementResult>, u64), ApiError>;

/// What `job` was answered before, if it was applied before: earlier, or a moment ago in this group.
fn repeated(opened: &Opened, done: &[Done], job: &Job) -> Option<Repeated> {
    let key = job.execute.key.as_ref()?;
    let in_group = done.iter().find(|done| {
        !done.repeated && done.job.execute.key.as_ref().is_some_and(|other| other.text == key.text)
    });
    let (digest, results, change) =
        match (in_group.map(|done| (&done.job.execute.key, done)), opened.keys.get(&key.text)) {
            (Some((Some(other), done)), _) => (other.digest, &done.results, done.change),
            (_, Some(applied)) => (applied.digest, &applied.results, applied.change),
            _ => return None,
        };
    Some(if digest == key.digest {
        Ok((results.clone(), change))
    } else {
        Err(ApiError::new(
            ErrorCode::Conflict,
            "another request was applied under this idempotency key; choose a new one for each request",
        ))
    })
}
