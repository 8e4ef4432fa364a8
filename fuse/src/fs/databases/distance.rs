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

/// How long a small read or a question takes, in microseconds; 0: not known yet.
#[derive(Debug, Default)]
pub(super) struct Distance(AtomicU64);

impl Distance {
    /// Whether a round trip costs more than some bytes too many.
    pub(super) fn is_far(&self) -> bool {
        u128::from(self.0.load(Relaxed)) > FAR.as_micros()
    }

    /// `reader`, of whose small reads it is noted how long they take.
    pub(super) fn time(self: &Arc<Self>, reader: Arc<dyn Reader>) -> Arc<dyn Reader> {
        Arc::new(Timed { reader, distance: self.clone() })
    }

    /// Down at once, up slowly: one slow read does not make a store far.
    pub(super) fn observe(&self, took: Duration) {
        let sample = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let _ = self.0.fetch_update(Relaxed, Relaxed, |known| {
            Some(if known == 0 || sample < known { sample } else { known + (sample - known) / 8 })
        });
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
        let outcome = self.reader.read_at(offset, len).await;
        if outcome.is_ok() && len <= SMALL_READ_BYTES {
            self.distance.observe(started.elapsed());
        }
        outcome
    }

    async fn confirm(&self) -> Result<()> {
        self.reader.confirm().await
    }
}
