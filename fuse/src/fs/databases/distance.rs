//! How far away the store is: as far as its quickest answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    error::Result,
    store::{Metadata, Reader},
};

/// Reads of up to this many bytes tell of the latency rather than of the bandwidth.
const SMALL_READ_BYTES: usize = 64 << 10;

/// A store whose reads take longer is far: a round trip costs more than some reads too many.
const FAR: Duration = Duration::from_millis(3);

/// How long a small read or a question takes. Waiting behind others is no distance.
#[derive(Debug, Default)]
pub(super) struct Distance {
    /// In microseconds; 0: not known yet.
    known: AtomicU64,
    /// Reads under way.
    reads: AtomicU64,
}

impl Distance {
    /// Whether a round trip costs more than some bytes too many.
    pub(super) fn is_far(&self) -> bool {
        u128::from(self.known.load(Relaxed)) > FAR.as_micros()
    }

    /// `reader`, of whose small reads it is noted how long they take.
    pub(super) fn time(self: &Arc<Self>, reader: Arc<dyn Reader>) -> Arc<dyn Reader> {
        Arc::new(Timed { reader, distance: self.clone() })
    }

    /// Something took so long while `others` were under way. Down at once; up slowly, because one slow answer
    /// does not make a store far, and only by what had the store nearly for itself.
    pub(super) fn observe(&self, took: Duration, others: u64) {
        let sample = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let _ = self.known.fetch_update(Relaxed, Relaxed, |known| {
            if known == 0 || sample < known {
                Some(sample)
            } else if others <= 1 {
                Some(known + (sample - known) / 8)
            } else {
                None
            }
        });
    }

    /// Reads under way.
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Relaxed)
    }
}

/// A read under way, until dropped.
struct UnderWay<'a>(&'a Distance);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.reads.fetch_sub(1, Relaxed);
    }
}

#[derive(Debug)]
struct Timed {
    reader: Arc<dyn Reader>,
    distance: Arc<Distance>,
}

#[async_trait]
impl Reader for Timed {
    fn metadata(&self) -> &Metadata {
        self.reader.metadata()
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let started = Instant::now();
        let others = self.distance.reads.fetch_add(1, Relaxed);
        let _under_way = UnderWay(&self.distance);
        let outcome = self.reader.read_at(offset, len).await;
        if outcome.is_ok() && len <= SMALL_READ_BYTES {
            self.distance.observe(started.elapsed(), others);
        }
        outcome
    }

    async fn confirm(&self) -> Result<()> {
        self.reader.confirm().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_in_a_crowd_is_no_distance() {
        let (near, slow) = (Duration::from_micros(400), Duration::from_millis(20));
        let distance = Distance::default();
        distance.observe(near, 0);
        (0..100).for_each(|_| distance.observe(slow, 6));
        assert!(!distance.is_far());
        distance.observe(slow, 0);
        assert!(!distance.is_far(), "one slow answer");
        (0..10).for_each(|_| distance.observe(slow, 1));
        assert!(distance.is_far());
        distance.observe(near, 6);
        assert!(!distance.is_far());
    }
}
