//! The room that all files together have for bytes on their way to the store.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, futures::Notified};

use super::pipe::CHUNK_BYTES;
use crate::error::{Error, ErrorKind, Result};

/// Bytes that all files together may have on their way, in permits of 1 KiB. Who finds no room waits,
/// and those who hold some without need are told.
#[derive(Debug, Clone)]
pub(in crate::fs) struct Budget {
    free: Arc<Semaphore>,
    permits: u32,
    shortage: Arc<Shortage>,
}

#[derive(Debug, Default)]
struct Shortage {
    waiting: AtomicUsize,
    begun: Notify,
}

/// Counts one who waits; also if he stops waiting.
struct Waits<'a>(&'a Shortage);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
    }
}

impl Budget {
    pub(in crate::fs) fn new(bytes: u64) -> Self {
        let permits = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).max((CHUNK_BYTES >> 10) as u32);
        Self { free: Arc::new(Semaphore::new(permits as usize)), permits, shortage: Arc::default() }
    }

    /// Permits for so many bytes, never more than there are.
    pub(super) fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(self.permits)
    }

    /// Permits that are free now.
    pub(super) fn try_take(&self, permits: u32) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_many_owned(permits).ok()
    }

    /// Waits for permits. Not while holding some that nobody else hands on.
    pub(super) async fn take(&self, permits: u32) -> Result<OwnedSemaphorePermit> {
        self.shortage.waiting.fetch_add(1, SeqCst);
        let _waits = Waits(&self.shortage);
        self.shortage.begun.notify_waiters();
        let taken = self.free.clone().acquire_many_owned(permits).await;
        taken.map_err(|_| Error::new(ErrorKind::Other, "the budget of writes is closed"))
    }

    /// Whether somebody waits for room.
    pub(super) fn is_short(&self) -> bool {
        self.shortage.waiting.load(SeqCst) > 0
    }

    /// Ends when somebody begins to wait for room.
    pub(super) fn shortage(&self) -> Notified<'_> {
        self.shortage.begun.notified()
    }

    /// Bytes that may be on their way, and that are.
    pub(in crate::fs) fn figures(&self) -> (u64, u64) {
        let max = u64::from(self.permits) << 10;
        (max, max.saturating_sub((self.free.available_permits() as u64) << 10))
    }
}
