//! The engine: SQLite on threads of its own, a bounded queue before them.
//!
//! A query blocks its thread wherever SQLite reads; on a thread of the asynchronous runtime it would
//! block the very daemon or connection that it waits for.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use prometheus::Registry;
use springhouse_gateway::api::error::{ApiError, ErrorCode};
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
};

use super::{
    Query, QuerySettings,
    answer::{Answer, GRACE, Sender},
    control::{CancelOnDrop, Control, Stop},
    errors,
    files::SegmentFiles,
    memory,
    metrics::Metrics,
    pool::Pool,
    run::{Failure, Outcome, Run},
    sandbox,
    threads::{Job, Queue},
};
use crate::clock;

/// Prepares SQLite for this process; before any other use of it.
///
/// # Errors
/// One line: SQLite was used already, or was not built as the sandbox needs it.
pub fn init() -> Result<(), String> {
    memory::install()?;
    sandbox::check_build()
}

/// See the module.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: QuerySettings,
    pub(super) pool: Pool,
    pub(super) metrics: Metrics,
    pub(super) queue: Mutex<Queue>,
    /// A job was queued, or the queue was closed.
    pub(super) work: Condvar,
    /// The queue was closed.
    pub(super) closed: Condvar,
    /// A query ended.
    pub(super) ended: Notify,
    /// Stops every query.
    ending: Arc<AtomicBool>,
    pub(super) threads: clock::Thread,
}

impl Engine {
    /// Starts the threads.
    ///
    /// # Errors
    /// One line: a setting out of its range, an unfit build of SQLite, no more threads.
    pub fn start(
        settings: QuerySettings,
        files: Arc<dyn SegmentFiles>,
        registry: &Registry,
    ) -> Result<Self, String> {
        settings.check()?;
        init()?;
        let metrics = Metrics::new(registry).map_err(|e| e.to_string())?;
        let shared = Arc::new(Shared {
            pool: Pool::new(settings.clone(), files, metrics.clone()),
            settings,
            metrics,
            queue: Mutex::default(),
            work: Condvar::new(),
            closed: Condvar::new(),
            ended: Notify::new(),
            ending: Arc::default(),
            threads: clock::Thread::default(),
        });
        let engine = Self { shared }; // its drop ends the threads that did start
        engine.shared.start_threads()?;
        Ok(engine)
    }

    /// Runs a query. Returns when its first rows are there or it has failed; dropping this future, or
    /// the answer, cancels it.
    pub async fn query(&self, query: Query) -> Result<Answer, ApiError> {
        let arrived = clock::now();
        if let Some(rows) = query.rows_max
            && rows > self.shared.settings.rows_max
        {
            return Err(ApiError::new(
                ErrorCode::BadRequest,
                format!("max_rows is {rows}; at most {} are allowed", self.shared.settings.rows_max),
            ));
        }
        let format = query.format;
        let deadline = query.deadline.min(arrived + self.shared.settings.timeout_max);
        let control = Arc::new(Control::new(deadline, Arc::clone(&self.shared.ending)));
        let cancel = CancelOnDrop(Arc::clone(&control));
        let (reply, head) = oneshot::channel();
        let sender = Sender::new(reply, Arc::clone(&control), Handle::current());
        let busy = self.shared.threads.busy();
        self.shared.push(Job { query, control, sender, arrived, _busy: busy })?;
        match tokio::time::timeout_at((deadline + GRACE).into(), head).await {
            Ok(Ok(Ok(head))) => Ok(Answer::new(head, format, cancel)),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) => Err(ApiError::new(ErrorCode::Internal, "the query ended without an answer")),
            // The thread is stuck in a read or the queue does not move.
            Err(_) => Err(errors::stopped(Stop::Deadline)),
        }
    }

    /// Queries on a thread now.
    pub fn running(&self) -> usize {
        self.shared.queue.lock().running()
    }

    /// Closes all idle connections, for instance because the mount that they were on is gone.
    pub fn close_idle(&self) {
        self.shared.pool.clear();
    }

    /// Closes the idle connections to the segment at `path`, whose file goes.
    pub fn close_path(&self, path: &str) {
        self.shared.pool.forget_path(path);
    }

    /// Refuses new queries, waits up to `grace` for those that were accepted, then stops them.
    pub async fn shutdown(&self, grace: Duration) {
        self.shared.close();
        let drained = async {
            loop {
                let ended = self.shared.ended.notified();
                {
                    let queue = self.shared.queue.lock();
                    if queue.running() == 0 && queue.jobs.is_empty() {
                        return;
                    }
                }
                ended.await;
            }
        };
        tokio::pin!(drained);
        if tokio::time::timeout(grace, &mut drained).await.is_err() {
            self.shared.ending.store(true, Ordering::Relaxed);
            // They see it within microseconds, unless stuck in a read: that ends by the store's deadline.
            let _ = tokio::time::timeout(GRACE, drained).await;
        }
        self.shared.pool.clear();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Relaxed);
        self.shared.close();
    }
}

impl Shared {
    fn push(&self, job: Job) -> Result<(), ApiError> {
        let mut queue = self.queue.lock();
        if queue.closed {
            return Err(errors::stopped(Stop::ShuttingDown));
        }
        if queue.jobs.len() >= self.settings.queue_max {
            // Those whose clients went away or gave up count no more.
            queue.jobs.retain(|job| job.control.stop().is_none());
        }
        if queue.jobs.len() >= self.settings.queue_max {
            self.metrics.outcome("overloaded");
            return Err(ApiError::new(
                ErrorCode::Overloaded,
                format!("{} queries wait already", queue.jobs.len()),
            ));
        }
        queue.jobs.push_back(job);
        self.metrics.queued.set(queue.jobs.len() as i64);
        drop(queue);
        self.work.notify_one();
        Ok(())
    }

    fn close(&self) {
        self.queue.lock().closed = true;
        self.work.notify_all();
        self.closed.notify_all();
    }

    /// Runs a query to its end.
    pub(super) fn work_on(&self, mut job: Job) {
        let result = match job.control.stop() {
            Some(stop) => Err(Failure::from(errors::stopped(stop))),
            // A defect in one query must not take the thread from all others; its connection is gone.
            None => catch_unwind(AssertUnwindSafe(|| self.execute(&mut job))).unwrap_or_else(|_| {
                Err(ApiError::new(ErrorCode::Internal, "the query failed by a defect; the log has more")
                    .into())
            }),
        };
        // Counted before the client has the end, so that figures never lag behind what it knows.
        let error = match &result {
            Ok(outcome) => {
                self.metrics.rows.inc_by(outcome.rows);
                self.metrics.bytes.inc_by(outcome.bytes);
                outcome.error
            }
            Err(failure) => {
                tracing::debug!(path = %job.query.path, error = %failure.error, "query failed");
                Some(failure.error.code)
            }
        };
        self.metrics.seconds.observe(clock::now().saturating_duration_since(job.arrived).as_secs_f64());
        match error.map(serde_json::to_value) {
            None => self.metrics.outcome("ok"),
            Some(_) if job.control.stop() == Some(Stop::Cancelled) => self.metrics.outcome("cancelled"),
            Some(Ok(serde_json::Value::String(code))) => self.metrics.outcome(&code),
            Some(_) => self.metrics.outcome("internal"),
        }
        match result {
            Ok(Outcome { last: Some(last), .. }) => job.sender.finish(last),
            Ok(_) => {} // nobody reads it any more
            Err(failure) => job.sender.refuse(failure.error),
        }
    }

    fn execute(&self, job: &mut Job) -> Result<Outcome, Failure> {
        let mut expected = job.query.expected;
        let mut retried = false;
        loop {
            // One for each run, so that a connection that is closed takes nothing along.
            let memory = memory::Scope::enter(self.settings.query_memory_bytes, &job.control);
            let pooled = self.pool.check_out(&job.query.path, expected, &job.control)?;
            pooled.sandbox().work_for(&job.control);
            let generation = pooled.generation();
            let run = Run {
                settings: &self.settings,
                pool: &self.pool,
                query: &job.query,
                control: &job.control,
                pooled: &pooled,
            };
            let mut result = run.run(&mut job.sender);
            // Whatever went wrong, bytes of two generations may be why.
            if let Err(failure) = &mut result
                && let Err(changed) = self.pool.verify(&pooled)
            {
                *failure = Failure { error: changed, spoilt: true };
            }
            let (hits, misses) = pooled.sandbox().take_page_counts();
            self.metrics.page_hits.inc_by(hits);
            self.metrics.page_misses.inc_by(misses);
            pooled.sandbox().rest();
            let replaced =
                result.as_ref().is_err_and(|failure| failure.error.code == ErrorCode::SegmentReplaced);
            let spoilt = match &result {
                Ok(outcome) => outcome.spoilt,
                Err(failure) => failure.spoilt,
            };
            if spoilt {
                drop(pooled);
            } else {
                self.pool.give_back(pooled, memory.held());
            }
            // Of a mount that went away every connection is dead, not only this one.
            if result.as_ref().is_err_and(|failure| failure.error.code == ErrorCode::StoreUnavailable) {
                self.pool.forget(&job.query.path, generation);
            }
            if !replaced {
                return result;
            }
            self.pool.forget(&job.query.path, generation);
            if retried {
                return result;
            }
            // Nothing was answered yet: once more, on what the store has now.
            retried = true;
            expected = None;
        }
    }
}
