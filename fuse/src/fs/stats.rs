//! What the store said of paths lately, and how long that is good.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    error::{ErrorKind, Result},
    store::{Metadata, Store, StorePath},
};

/// Most answers remembered, however much memory there is.
const STATS_MAX: u64 = 65_536;

/// An answer of the store about one path.
#[derive(Debug, Clone)]
pub(super) struct Stat {
    /// What is there; `None`: nothing.
    pub(super) found: Option<Arc<Metadata>>,
    /// When the question was put, so that age is never understated.
    pub(super) asked: Instant,
}

/// Answers no older than the freshness, negative ones too.
#[derive(Debug)]
pub(super) struct Stats {
    known: moka::sync::Cache<Arc<StorePath>, Stat>,
    freshness: Duration,
}

impl Stats {
    pub(super) fn new(freshness: Duration, stats_max: u64) -> Self {
        let known = moka::sync::Cache::builder()
            .max_capacity(stats_max.min(STATS_MAX))
            // Only to give memory back: `moka` has a clock of its own, so age is judged here.
            .time_to_live(freshness.max(Duration::from_secs(1)))
            .build();
        Self { known, freshness }
    }

    /// How much longer an answer from `asked` is good.
    pub(super) fn ttl(&self, asked: Instant) -> Duration {
        self.freshness.saturating_sub(asked.elapsed())
    }

    /// Whether [`Stats::get`] would answer from memory.
    pub(super) fn is_fresh(&self, path: &Arc<StorePath>) -> bool {
        self.known.get(path).is_some_and(|stat| !self.ttl(stat.asked).is_zero())
    }

    /// What is at `path`, from memory while it is fresh.
    pub(super) async fn get(&self, store: &dyn Store, path: &Arc<StorePath>) -> Result<Stat> {
        if let Some(stat) = self.known.get(path)
            && !self.ttl(stat.asked).is_zero()
        {
            return Ok(stat);
        }
        let asked = Instant::now();
        let found = match store.stat(path).await {
            Ok(metadata) => Some(Arc::new(metadata)),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let stat = Stat { found, asked };
        self.put(path.clone(), stat.clone());
        Ok(stat)
    }

    pub(super) fn put(&self, path: Arc<StorePath>, stat: Stat) {
        if !self.freshness.is_zero() {
            self.known.insert(path, stat);
        }
    }

    pub(super) fn forget(&self, path: &Arc<StorePath>) {
        self.known.invalidate(path);
    }
}
