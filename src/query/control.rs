//! Why a running query has to stop: its deadline, a client that went away, a worker that shuts down.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;
use rusqlite::InterruptHandle;

/// Why a query was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The deadline passed.
    Deadline,
    /// Nobody waits for the answer any more.
    Cancelled,
    /// The engine is ending.
    ShuttingDown,
}

/// Shared by the client's side and the SQLite thread of one query. SQLite asks it through the progress
/// handler, every few hundred instructions, and whenever it wants much memory; see [`Control::interrupt`]
/// for the rest.
pub(super) struct Control {
    deadline: Instant,
    cancelled: AtomicBool,
    ending: Arc<AtomicBool>,
    /// Of the connection that works for this query now.
    connection: Mutex<Option<InterruptHandle>>,
}

impl Control {
    pub(super) fn new(deadline: Instant, ending: Arc<AtomicBool>) -> Self {
        Self { deadline, cancelled: AtomicBool::new(false), ending, connection: Mutex::new(None) }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.interrupt();
    }

    /// Ends an instruction that reads for long without asking: `count(*)` walks a whole table in one.
    pub(super) fn interrupt(&self) {
        if let Some(connection) = &*self.connection.lock() {
            connection.interrupt();
        }
    }

    /// Which connection to interrupt from now on. Taken away before another query gets the connection,
    /// so that it is not the other one that ends.
    pub(super) fn set_connection(&self, connection: Option<InterruptHandle>) {
        *self.connection.lock() = connection;
    }

    /// Whether to stop now, and why.
    pub(super) fn stop(&self) -> Option<Stop> {
        if self.cancelled.load(Ordering::Relaxed) {
            Some(Stop::Cancelled)
        } else if self.ending.load(Ordering::Relaxed) {
            Some(Stop::ShuttingDown)
        } else if crate::clock::now() >= self.deadline {
            Some(Stop::Deadline)
        } else {
            None
        }
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("deadline", &self.deadline).field("stop", &self.stop()).finish()
    }
}

/// Cancels its query when the client's side drops it.
#[derive(Debug)]
pub(super) struct CancelOnDrop(pub(super) Arc<Control>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
