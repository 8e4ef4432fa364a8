//! The thread of a writer, which commits together what waits for it.
//!
//! A commit costs one `fsync`, however many requests are in it. So the thread takes what has come while
//! the last commit was under way, applies each in a savepoint, and answers all of them after the commit.
//! It never waits for more to come: a single client has its answer after one `fsync`.

use std::{
    collections::VecDeque,
    ffi::CString,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use parking_lot::MutexGuard;
use springhouse_gateway::api::{
    error::{ApiError, ErrorCode},
    hot::{ExecuteAnswer, StatementResult},
};

use super::{
    super::{
        control::Control,
        errors::{self, SqliteError},
        sandbox::{Purpose, Sandbox},
    },
    keys::{Applied, Keys},
    log::Capture,
    marker::Marker,
    pages::{Pages, Unshipped},
    run::{Refusal, Run},
    writer::{Job, PinJob, Shared, WriteSettings, WrittenFiles, closing, unknown},
};
use crate::{
    clock::{self, Turn},
    failpoint,
};

/// A request of more bytes goes into no group with others.
const ALONE_BYTES: usize = 256 << 10;

/// The database and what belongs to it, on the writer's thread.
pub(super) struct Opened {
    sandbox: Sandbox,
    keys: Keys,
    pub(super) change: u64,
    capture: Option<(Capture, Arc<Unshipped>)>,
}

impl Opened {
    pub(super) fn open(
        files: &WrittenFiles,
        base: u64,
        unshipped: Option<Arc<Unshipped>>,
        settings: &WriteSettings,
        ending: &Arc<AtomicBool>,
    ) -> Result<Self, ApiError> {
        let control = Arc::new(Control::new(clock::now() + settings.limits.timeout_max, Arc::clone(ending)));
        let failed = |error: SqliteError| errors::from_sqlite(&error, errors::Context::default());
        let sandbox =
            Sandbox::open(&files.database, Purpose::Write, &settings.limits, &control).map_err(failed)?;
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
        let keys = Keys::open(&files.keys, change)
            .map_err(|e| ApiError::new(ErrorCode::Internal, format!("the file of idempotency keys: {e}")))?;
        let capture = unshipped.map(|unshipped| {
            (Capture::new(Arc::clone(&unshipped), &files.database, &sandbox, change), unshipped)
        });
        Ok(Self { sandbox, keys, change, capture })
    }

    fn pin(&self, job: PinJob) {
        let pinned = match &self.capture {
            Some((_, unshipped)) => {
                let taken = unshipped.take();
                let keys_after = job.keys_after.filter(|_| *taken.pages() != Pages::All);
                let keys = self.keys.after(keys_after.unwrap_or(0));
                job.pin.begin(self.change, keys).map(|pinned| (pinned, taken))
            }
            None => Err(SqliteError::new(rusqlite::ffi::SQLITE_MISUSE, "nobody keeps what is unshipped")),
        };
        let _ = job.reply.send(pinned); // if nobody is there what was taken goes back
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
    pub(super) fn serve(&self, mut opened: Opened) {
        let _last = loop {
            let (next, turn) = self.wait();
            let job = match next {
                Next::Job(job) => job,
                Next::Pin(job) => {
                    opened.pin(*job);
                    continue;
                }
                Next::End => break turn,
            };
            let worked = catch_unwind(AssertUnwindSafe(|| self.commit_group(&mut opened, job)));
            *self.idle_since.lock() = clock::now();
            if !matches!(worked, Ok(true)) {
                break turn; // what is in the connection is not to be trusted; what is in the file is
            }
        };
        drop(opened);
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.ended = true;
        for job in queue.jobs.drain(..) {
            let _ = job.reply.send(Err(closing()));
        }
        queue.pins.clear(); // who waits for them is told by that
        let _busy = queue.ending.take();
        drop(queue);
        self.ended.notify_waiters();
    }

    fn wait(&self) -> (Next, Turn) {
        let mut queue = self.queue.lock();
        loop {
            if queue.jobs.is_empty() && queue.pins.is_empty() && !queue.closed {
                self.work.wait(&mut queue);
                continue;
            }
            let turn = MutexGuard::unlocked(&mut queue, || self.thread.turn());
            if let Some(job) = queue.pins.pop() {
                return (Next::Pin(Box::new(job)), turn);
            }
            if let Some(job) = queue.jobs.pop_front() {
                return (Next::Job(job), turn);
            }
            if queue.closed {
                return (Next::End, turn);
            }
        }
    }

    /// Commits `first` and what else waits. `false`: the database has to be opened anew.
    fn commit_group(&self, opened: &mut Opened, first: Job) -> bool {
        let mut todo = VecDeque::from([first]);
        loop {
            let begun = clock::now();
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
            || clock::now().saturating_duration_since(begun) >= self.settings.group_time
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
        self.changes.end(change);
        if let Some((capture, _)) = &mut opened.capture {
            capture.committed(&opened.sandbox, change);
        }
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
        self.changes.begin(change);
        opened.sandbox.run_own(c"COMMIT").map(drop).map_err(of_sqlite)
    }
}

struct CommitFailure {
    /// Nothing of it took place, and a restart cannot change that.
    certain: bool,
    error: ApiError,
}

enum Next {
    Job(Job),
    Pin(Box<PinJob>),
    End,
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
