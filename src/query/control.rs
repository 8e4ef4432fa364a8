//! Why a running query has to stop: its deadline, a client that went away, a worker that shuts down.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

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
/// handler, every few hundred instructions.
#[derive(Debug)]
pub(super) struct Control {
    deadline: Instant,
    cancelled: AtomicBool,
    ending: Arc<AtomicBool>,
}

impl Control {
    pub(super) fn new(deadline: Instant, ending: Arc<AtomicBool>) -> Self {
        Self { deadline, cancelled: AtomicBool::new(false), ending }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether to stop now, and why.
    pub(super) fn stop(&self) -> Option<Stop> {
        if self.cancelled.load(Ordering::Relaxed) {
            Some(Stop::Cancelled)
        } else if self.ending.load(Ordering::Relaxed) {
            Some(Stop::ShuttingDown)
        } else if Instant::now() >= self.deadline {
            Some(Stop::Deadline)
        } else {
            None
        }
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
