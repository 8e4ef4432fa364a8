//! What the store said of paths lately, and how long that is good.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    error::{ErrorKind, Result},
    store::{Metadata, Store, StorePath},
};

/// Most answers remembered, however much memory there is.
const STATS_MAX: u64 = 65_536;

/// Users whose answers about one path are remembered.
const USERS_MAX: usize = 16;

/// Answers are given back to the memory after this long, whatever the freshness.
const KEEP_MAX: Duration = Duration::from_secs(60);

/// An answer of the store about one path.
#[derive(Debug, Clone)]
pub(super) struct Stat {
    /// What is there; `None`: nothing.
    pub(super) found: Option<Arc<Metadata>>,
    /// When the question was put, so that age is never understated.
    pub(super) asked: Instant,
}

/// Answers no older than the freshness, negative ones too. Each user has his own: what one may see says
/// nothing about another.
#[derive(Debug)]
pub(super) struct Stats {
    known: moka::sync::Cache<Arc<StorePath>, Arc<Vec<(u32, Stat)>>>,
    /// When this mount last changed something: an answer to a question from before is not remembered.
    changed: Mutex<Option<Instant>>,
}

impl Stats {
    pub(super) fn new(stats_max: u64) -> Self {
        let known = moka::sync::Cache::builder()
            .max_capacity(stats_max.min(STATS_MAX))
            // Only to give memory back: `moka` has a clock of its own, so age is judged here.
            .time_to_live(KEEP_MAX)
            .build();
        Self { known, changed: Mutex::default() }
    }

    /// Whether [`Stats::get`] would answer from memory.
    pub(super) fn is_fresh(&self, user: u32, path: &Arc<StorePath>, freshness: Duration) -> bool {
        let fresh = |known: Arc<Vec<(u32, Stat)>>| {
            known.iter().any(|(of, stat)| *of == user && stat.asked.elapsed() < freshness)
        };
        self.known.get(path).is_some_and(fresh)
    }

    /// What was said of the file at `path` last, however long ago.
    pub(super) fn last(&self, user: u32, path: &Arc<StorePath>) -> Option<Arc<Metadata>> {
        let known = self.known.get(path)?;
        known.iter().find(|(of, _)| *of == user).and_then(|(_, stat)| stat.found.clone())
    }

    /// What is at `path` as `user` sees it, from memory while it is no older than `freshness`.
    pub(super) async fn get(
        &self,
        store: &dyn Store,
        user: u32,
        path: &Arc<StorePath>,
        freshness: Duration,
    ) -> Result<Stat> {
        if let Some(known) = self.known.get(path)
            && let Some((_, stat)) = known.iter().find(|(of, _)| *of == user)
            && stat.asked.elapsed() < freshness
        {
            return Ok(stat.clone());
        }
        let asked = Instant::now();
        let found = match store.stat(path).await {
            Ok(metadata) => Some(Arc::new(metadata)),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let stat = Stat { found, asked };
        self.put(user, path.clone(), stat.clone());
        Ok(stat)
    }

    pub(super) fn put(&self, user: u32, path: Arc<StorePath>, stat: Stat) {
        // Under the lock, so that no change comes between.
        let changed = self.changed.lock();
        if changed.is_some_and(|at| stat.asked < at) {
            return;
        }
        let others = self.known.get(&path).unwrap_or_default();
        // What came later, asked for sooner, would take that back.
        if others.iter().any(|(of, known)| *of == user && stat.asked < known.asked) {
            return;
        }
        let others = others.iter().filter(|(of, _)| *of != user).take(USERS_MAX - 1).cloned();
        self.known.insert(path, Arc::new(std::iter::once((user, stat)).chain(others).collect()));
    }

    /// Whether this mount has changed anything since `asked`.
    pub(super) fn changed_since(&self, asked: Instant) -> bool {
        self.changed.lock().is_some_and(|at| asked < at)
    }

    /// The paths of which somebody was told lately that they lead nowhere.
    pub(super) fn absent(&self) -> Vec<Arc<StorePath>> {
        let gone = |known: &[(u32, Stat)]| known.iter().any(|(_, stat)| stat.found.is_none());
        self.known.iter().filter(|(_, known)| gone(known)).map(|(path, _)| path.as_ref().clone()).collect()
    }

    /// What was known of `path` is not true any more.
    pub(super) fn forget(&self, path: &Arc<StorePath>) {
        let mut changed = self.changed.lock();
        *changed = Some(Instant::now());
        self.known.invalidate(path);
    }

    /// The same of every path.
    pub(super) fn forget_all(&self) {
        let mut changed = self.changed.lock();
        *changed = Some(Instant::now());
        self.known.invalidate_all();
    }
}
