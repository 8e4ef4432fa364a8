//! Looks at one segment in the store when a request cannot wait for the next pass: an id that is not in
//! the catalog may have been promoted a moment ago, and a worker may have seen a newer generation.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use tokio::task::spawn_blocking;

use crate::{
    metrics::Metrics,
    registry::{
        packed::Facts,
        state::{Change, State},
    },
    segment::SegmentId,
    store::{SegmentStore, StoreFailure},
};

/// Looks per second, so that requests for ids that do not exist are no attack on the store.
const LOOKS_PER_S: f64 = 100.0;
/// For so long an id that was not there is believed not to be there.
const ABSENT_FOR: Duration = Duration::from_secs(1);
/// Absent ids remembered.
const ABSENT_MAX: usize = 4096;

type Look = Shared<BoxFuture<'static, Result<(), StoreFailure>>>;

/// What became of a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looked {
    /// The catalog now says what the store says.
    Done,
    /// Too many looks: the catalog is as good as it was.
    Limited,
}

/// Looks, each segment once at a time.
pub struct Looker {
    store: Arc<dyn SegmentStore>,
    state: Arc<State>,
    metrics: Arc<Metrics>,
    inner: Mutex<Inner>,
}

struct Inner {
    running: HashMap<SegmentId, Look>,
    absent: HashMap<SegmentId, Instant>,
    tokens: f64,
    filled: Instant,
}

impl Looker {
    /// Nothing looked at yet.
    pub fn new(store: Arc<dyn SegmentStore>, state: Arc<State>, metrics: Arc<Metrics>) -> Self {
        let inner = Inner {
            running: HashMap::new(),
            absent: HashMap::new(),
            tokens: LOOKS_PER_S,
            filled: Instant::now(),
        };
        Self { store, state, metrics, inner: Mutex::new(inner) }
    }

    /// Makes the catalog right for `id` in `directory`. An error: the store did not tell.
    pub async fn look(self: &Arc<Self>, id: &SegmentId, directory: Arc<str>) -> Result<Looked, StoreFailure> {
        let Some(look) = self.start(id, directory, Instant::now()) else {
            self.metrics.looks.with_label_values(&["limited"]).inc();
            return Ok(Looked::Limited);
        };
        look.await.map(|()| Looked::Done)
    }

    fn start(self: &Arc<Self>, id: &SegmentId, directory: Arc<str>, now: Instant) -> Option<Look> {
        let mut inner = self.inner.lock();
        if let Some(running) = inner.running.get(id) {
            return Some(running.clone());
        }
        if inner.absent.get(id).is_some_and(|since| now.saturating_duration_since(*since) < ABSENT_FOR) {
            return Some(async { Ok(()) }.boxed().shared());
        }
        let earned = now.saturating_duration_since(inner.filled).as_secs_f64() * LOOKS_PER_S;
        inner.tokens = (inner.tokens + earned).min(LOOKS_PER_S);
        inner.filled = now;
        if inner.tokens < 1.0 {
            return None;
        }
        inner.tokens -= 1.0;
        let (this, id) = (self.clone(), id.clone());
        let key = id.clone();
        // A task of its own: it ends also when the request that began it goes away.
        let task = tokio::spawn(async move {
            let result = this.ask(&id, directory).await;
            let mut inner = this.inner.lock();
            inner.running.remove(&id);
            if let Ok(false) = result {
                if inner.absent.len() >= ABSENT_MAX {
                    inner.absent.clear();
                }
                inner.absent.insert(id, Instant::now());
            }
            result.map(drop)
        });
        let look = task
            .map(|joined| joined.unwrap_or_else(|e| Err(StoreFailure::Other(e.to_string()))))
            .boxed()
            .shared();
        inner.running.insert(key, look.clone());
        Some(look)
    }

    /// Whether it is there; the catalog says so too afterwards.
    async fn ask(&self, id: &SegmentId, directory: Arc<str>) -> Result<bool, StoreFailure> {
        let facts = match self.store.stat(&id.path_in(&directory)).await {
            Ok(entry) if !entry.is_dir => {
                Some(Facts { generation: entry.generation, size: entry.len, mtime_ms: entry.mtime_ms })
            }
            Ok(_) | Err(StoreFailure::NotFound(_)) => None,
            Err(error) => {
                self.metrics.looks.with_label_values(&["failed"]).inc();
                return Err(error);
            }
        };
        self.metrics.looks.with_label_values(&[if facts.is_some() { "found" } else { "absent" }]).inc();
        let known = self.state.catalog().directory(&directory).and_then(|d| d.segments.get(id.as_str()));
        if known != facts {
            let (state, id) = (self.state.clone(), id.clone());
            let change = Change::Segment { directory, id, facts };
            spawn_blocking(move || state.commit(vec![change]))
                .await
                .map_err(|e| StoreFailure::Other(e.to_string()))?
                .map_err(|e| StoreFailure::Other(e.to_string()))?;
        }
        Ok(facts.is_some())
    }
}
