//! Progress and cancellation, seen from another thread.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
};

use super::RelayoutError;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// SQLite copies the database in use.
    Copy,
    /// The pages of the copy are found.
    Walk,
    /// The new file is written.
    Write,
    /// SQLite checks the new file.
    Check,
    /// The checksum is computed.
    Checksum,
}

const PHASES: [Phase; 5] = [Phase::Copy, Phase::Walk, Phase::Write, Phase::Check, Phase::Checksum];

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Bytes of this phase that are done. `Check` has no figures: SQLite gives none.
    pub bytes_done: u64,
    /// Bytes of this phase, about.
    pub bytes: u64,
}

/// One thread works, others look and may cancel. The figures are for people: each is right, two of them
/// may be of different moments.
#[derive(Debug, Default)]
pub struct Watch {
    cancelled: Arc<AtomicBool>,
    phase: AtomicU8,
    done: AtomicU64,
    total: AtomicU64,
}

impl Watch {
    /// One that ends the work also once `stop` is set.
    pub fn stopped_by(stop: Arc<AtomicBool>) -> Self {
        Self { cancelled: stop, ..Self::default() }
    }

    /// Ends the work at its next look, within milliseconds of computing or one read or write.
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    /// Whether [`Watch::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        Progress {
            phase: PHASES[usize::from(self.phase.load(Relaxed))],
            bytes_done: self.done.load(Relaxed),
            bytes: self.total.load(Relaxed),
        }
    }

    pub(super) fn begin(&self, phase: Phase, bytes: u64) {
        self.phase.store(phase as u8, Relaxed);
        self.done.store(0, Relaxed);
        self.total.store(bytes, Relaxed);
    }

    pub(super) fn set_done(&self, bytes: u64) {
        self.done.store(bytes, Relaxed);
    }

    /// `bytes` more are done.
    pub(super) fn step(&self, bytes: u64) -> Result<(), RelayoutError> {
        self.done.fetch_add(bytes, Relaxed);
        self.check()
    }

    pub(super) fn check(&self) -> Result<(), RelayoutError> {
        if self.is_cancelled() { Err(RelayoutError::Cancelled) } else { Ok(()) }
    }
}
