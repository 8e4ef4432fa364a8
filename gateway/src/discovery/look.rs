//! Looks at one segment in the store when a request cannot wait for the next pass: an id that is not in
//! the catalog may have been promoted a moment ago, and a worker may have seen a newer generation.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use tokio::time::Instant;

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
/// Of a second's looks, those kept for requests that wait: refreshes beyond the others are left to the
/// next pass.
const LOOKS_FOR_REQUESTS: f64 = LOOKS_PER_S / 2.0;
/// For so long an id that was not there is believed not to be there, and one that was refreshed needs
/// no refresh.
const BELIEVED_FOR: Duration = Duration::from_secs(1);
/// Ids of which it is remembered what the last look found.
const RECENT_MAX: usize = 4096;

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
    /// When a segment was looked at, and whether it was there.
    recent: HashMap<SegmentId, (Instant, bool)>,
    tokens: f64,
    filled: Instant,
}

impl Looker {
    /// Nothing looked at yet.
    pub fn new(store: Arc<dyn SegmentStore>, state: Arc<State>, metrics: Arc<Metrics>) -> Self {
        let inner = Inner {
            running: HashMap::new(),
            recent: HashMap::new(),
            tokens: LOOKS_PER_S,
            filled: Instant::now(),
        };
        Self { store, state, metrics, inner: Mutex::new(inner) }
    }

    /// Makes the catalog right for `id` in `directory`. An error: the store did not tell.
    pub async fn look(self: &Arc<Self>, id: &SegmentId, directory: Arc<str>) -> Result<Looked, StoreFailure> {
        let believed = |there: bool| !there;
        self.finish(self.start(id, directory, Instant::now(), 0.0, believed)).await
    }

    /// The same where no request waits: a worker says that the catalog is behind. It may be wrong, and
    /// say so with every answer: that costs one look per segment and second, and never the looks that
    /// requests need.
    pub async fn refresh(
        self: &Arc<Self>,
        id: &SegmentId,
        directory: Arc<str>,
    ) -> Result<Looked, StoreFailure> {
        let believed = |_there: bool| true;
        self.finish(self.start(id, directory, Instant::now(), LOOKS_FOR_REQUESTS, believed)).await
    }

    async fn finish(&self, look: Option<Look>) -> Result<Looked, StoreFailure> {
        let Some(look) = look else {
            self.metrics.looks.with_label_values(&["limited"]).inc();
            return Ok(Looked::Limited);
        };
        look.await.map(|()| Looked::Done)
    }

    /// `None`: at most `reserve` looks are left. `believed`: whether a recent look that found the segment
    /// there, or not, is good enough.
    fn start(
        self: &Arc<Self>,
        id: &SegmentId,
        directory: Arc<str>,
        now: Instant,
        reserve: f64,
        believed: impl Fn(bool) -> bool,
    ) -> Option<Look> {
        let mut inner = self.inner.lock();
        if let Some(running) = inner.running.get(id) {
            return Some(running.clone());
        }
        let recent = inner.recent.get(id);
        if recent
            .is_some_and(|(at, there)| believed(*there) && now.saturating_duration_since(*at) < BELIEVED_FOR)
        {
            return Some(async { Ok(()) }.boxed().shared());
        }
        let earned = now.saturating_duration_since(inner.filled).as_secs_f64() * LOOKS_PER_S;
        inner.tokens = (inner.tokens + earned).min(LOOKS_PER_S);
        inner.filled = now;
        if inner.tokens < 1.0 + reserve {
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
            if let Ok(there) = result {
                if inner.recent.len() >= RECENT_MAX {
                    inner.recent.clear();
                }
                inner.recent.insert(id, (Instant::now(), there));
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
            crate::blocking::run(move || state.commit(vec![change]))
                .await
                .map_err(|e| StoreFailure::Other(e.to_string()))?
                .map_err(|e| StoreFailure::Other(e.to_string()))?;
        }
        Ok(facts.is_some())
    }
}
