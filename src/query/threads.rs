//! SQLite's threads, and one that watches over them.
//!
//! A query that was stopped ends within microseconds nearly always. What SQLite does in one long
//! instruction (a function over a great text, a sort, a read that the store does not answer) cannot be
//! ended from outside, and statements can be made of many such. Their clients have their error by then;
//! so that others do not wait, the watch puts another thread in the place of one that is stuck, up to as
//! many again, and lets the stuck one go on at the lowest priority and end with its query.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::MutexGuard;

use super::{Query, answer::Sender, control::Control, engine::Shared};
use crate::clock::Busy;

/// How often the watch looks: a stopped query is taken to be stuck at the second look.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// A connection that nobody wanted for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How often unwanted connections are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// A query on its way to a thread.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) query: Query,
    pub(super) control: Arc<Control>,
    pub(super) sender: Sender,
    pub(super) arrived: Instant,
    pub(super) _busy: Busy,
}

/// What waits and what runs.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) jobs: VecDeque<Job>,
    pub(super) closed: bool,
    running: Vec<Running>,
}

/// A query on a thread.
#[derive(Debug)]
struct Running {
    control: Arc<Control>,
    thread: i32,
    /// Was stopped when the watch looked last.
    stopped: bool,
    /// Its thread has been replaced.
    replaced: bool,
}

impl Queue {
    /// Queries on a thread.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }
}

impl Shared {
    /// Starts all threads.
    pub(super) fn start_threads(self: &Arc<Self>) -> Result<(), String> {
        for _ in 0..self.settings.threads {
            self.start_thread("sqlite", Self::serve)?;
        }
        self.start_thread("sqlite-watch", Self::watch)
    }

    fn start_thread(self: &Arc<Self>, name: &str, life: fn(&Arc<Self>)) -> Result<(), String> {
        let shared = Arc::clone(self);
        let started = std::thread::Builder::new().name(name.into()).spawn(move || life(&shared));
        started.map(drop).map_err(|e| format!("cannot start thread {name}: {e}"))
    }

    /// The life of a thread that runs SQLite.
    fn serve(self: &Arc<Self>) {
        let thread = nix::unistd::gettid().as_raw();
        loop {
            let (_turn, job) = {
                let mut queue = self.queue.lock();
                loop {
                    if queue.jobs.is_empty() {
                        if queue.closed {
                            return;
                        }
                        self.work.wait(&mut queue);
                        continue;
                    }
                    let turn = MutexGuard::unlocked(&mut queue, || self.threads.turn());
                    if let Some(job) = queue.jobs.pop_front() {
                        let control = Arc::clone(&job.control);
                        queue.running.push(Running { control, thread, stopped: false, replaced: false });
                        self.metrics.queued.set(queue.jobs.len() as i64);
                        self.metrics.running.set(queue.running.len() as i64);
                        break (turn, job);
                    }
                }
            };
            self.work_on(job);
            let replaced = {
                let mut queue = self.queue.lock();
                let at = queue.running.iter().position(|running| running.thread == thread);
                let replaced = at.is_some_and(|at| queue.running.swap_remove(at).replaced);
                self.metrics.running.set(queue.running.len() as i64);
                replaced
            };
            self.ended.notify_waiters();
            if replaced {
                return;
            }
        }
    }

    /// The life of the watch.
    fn watch(self: &Arc<Self>) {
        let mut swept = Instant::now();
        let mut queue = self.queue.lock();
        while !queue.closed {
            self.closed.wait_for(&mut queue, WATCH_EVERY);
            self.replace_stuck(&mut queue);
            if swept.elapsed() >= SWEEP_EVERY {
                swept = Instant::now();
                MutexGuard::unlocked(&mut queue, || self.pool.close_unused(IDLE_MAX));
            }
        }
    }

    fn replace_stuck(self: &Arc<Self>, queue: &mut Queue) {
        let mut spare =
            self.settings.threads.saturating_sub(queue.running.iter().filter(|r| r.replaced).count());
        for running in &mut queue.running {
            if !running.is_stuck() {
                continue;
            }
            if spare == 0 {
                tracing::error!("a query does not end at its deadline, and no spare thread is left");
                continue;
            }
            spare -= 1;
            match self.start_thread("sqlite", Self::serve) {
                Ok(()) => {
                    running.replaced = true;
                    self.metrics.threads_replaced.inc();
                    lower_priority(running.thread);
                    tracing::warn!("a query does not end at its deadline: another thread takes its place");
                }
                Err(error) => tracing::error!("a stuck thread is not replaced: {error}"),
            }
        }
    }
}

impl Running {
    /// Looks at it; true from the second time on that it should have ended.
    fn is_stuck(&mut self) -> bool {
        if self.control.stop().is_none() {
            return false;
        }
        self.control.interrupt();
        std::mem::replace(&mut self.stopped, true) && !self.replaced
    }
}

/// So that the query, whose answer nobody awaits, takes the least from those that are awaited.
#[allow(unsafe_code)] // `nix` has no call for it
fn lower_priority(thread: i32) {
    const LOWEST: i32 = 19;
    // SAFETY: numbers only. On Linux a thread's number names that thread alone; this one still runs.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, thread.unsigned_abs(), LOWEST) };
}
