//! Hot copies: what workers say they have (`manifests.rs`), and what they should have (`assign.rs`).
//! In memory only: workers tell it again after a restart of the gateway.
//!
//! Both sides are versioned and go over the wire as changes, so a heartbeat costs the same whatever the
//! number of segments, and a change costs what has changed.

pub(crate) mod adopt;
mod assign;
mod desk;
mod drops;
mod manifests;
#[cfg(test)]
mod tests;
mod tiers;
mod verify;
mod wanting;
mod wishes;

pub use self::manifests::Written;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

pub use self::assign::Trial;
use self::{
    assign::Planner,
    desk::Desks,
    manifests::{Holding, Manifests},
    tiers::Kept,
    wishes::copies_of,
};
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        hot::{Assignment, CopyState, HotReport, Manifest, ManifestAnswer, Token},
        types::CopyInfo,
    },
    registry::{
        catalog::{Located, Lookup},
        state::State,
    },
    rules::Rules,
    segment::SegmentId,
    store::Generation,
};

/// Segments of a manifest that are looked at together: others wait for as long as that takes.
const AT_ONCE: usize = 1_000;

/// A hot worker with a lease, as the leases know it.
#[derive(Debug, Clone)]
pub struct HotWorker {
    /// Its name.
    pub name: Arc<str>,
    /// Epoch of its lease.
    pub epoch: u64,
    /// Its last report.
    pub report: HotReport,
}

/// How many copies there shall be, and where they may be.
#[derive(Clone)]
pub struct CopyRules {
    /// Which segments may have copies, and how many.
    pub rules: Arc<Rules>,
    /// For so long a worker that is silent keeps what it was given.
    pub grace: Duration,
    /// The time of day, ms since 1970: rules know the age of segments.
    pub clock: Arc<dyn Fn() -> i64 + Send + Sync>,
}

/// Manifests and assignments of all hot workers.
///
/// Two locks, taken in this order: the planner's, held while places are computed, which takes as long as
/// what is raised times the workers; and that of what workers and queries ask for, held for moments.
pub struct Copies {
    state: Arc<State>,
    rules: CopyRules,
    planner: Mutex<Planner>,
    inner: Mutex<Inner>,
    /// Last transaction of each segment that was acknowledged through this gateway, and the token that it was
    /// written under: manifests are behind.
    acknowledged: Mutex<HashMap<SegmentId, (Token, u64)>>,
    /// When placement last heard of a change, of segments that changed within the grace: their copies are to
    /// follow.
    news: Mutex<HashMap<SegmentId, Instant>>,
    started: Instant,
    /// What rules keep hot; taken after the planner's lock, and for moments by whoever places.
    kept: Mutex<Kept>,
}

struct Inner {
    manifests: Manifests,
    desks: Desks,
}

/// A copy that answers queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The worker.
    pub worker: Arc<str>,
    /// Epoch of the lease under which it said so.
    pub epoch: u64,
    /// State of the copy.
    pub state: CopyState,
    /// Its generation.
    pub generation: Option<Generation>,
}

impl Copies {
    /// No worker has said anything yet.
    pub fn new(state: Arc<State>, rules: CopyRules) -> Self {
        let first_version = state.meta().epoch << 32;
        let inner = Inner { manifests: Manifests::default(), desks: Desks::new(first_version) };
        Self {
            state,
            rules,
            planner: Mutex::default(),
            inner: Mutex::new(inner),
            acknowledged: Mutex::default(),
            news: Mutex::default(),
            started: tokio::time::Instant::now().into_std(),
            kept: Mutex::default(),
        }
    }

    /// What a heartbeat of a hot worker is answered with: version of its assignment, and of its manifest
    /// here. Costs the same whatever it holds.
    pub fn beat(&self, name: &str, epoch: u64) -> (u64, Option<u64>) {
        let mut inner = self.inner.lock();
        (inner.desks.of(name).version(), inner.manifests.version(name, epoch))
    }

    /// Takes up a manifest.
    pub fn publish(&self, name: &str, manifest: &Manifest) -> Result<ManifestAnswer, ApiError> {
        let segments = manifests::parse(manifest).map_err(|e| ApiError::new(ErrorCode::BadRequest, e))?;
        let changed = match manifest.base {
            None => self.replace(name, manifest, segments),
            Some(_) => self.inner.lock().manifests.apply(name, manifest, segments),
        };
        let Some(changed) = changed else {
            return Ok(ManifestAnswer { send_all: true, fenced: Vec::new() });
        };
        for some in changed.chunks(AT_ONCE) {
            let mut inner = self.inner.lock();
            let inner = &mut *inner;
            for id in some {
                inner.manifests.index(name, id);
                // What another worker gives up may have waited for this copy.
                for (worker, _) in inner.manifests.copies(id) {
                    if &**worker != name {
                        inner.desks.of(worker).reconsider(id);
                    }
                }
                inner.desks.of(name).reported(id, inner.manifests.copy(name, id).is_some());
            }
        }
        let inner = self.inner.lock();
        // Not only of those that changed: a lock may have been taken from it since.
        let ledger = self.state.ledger();
        let is_old = |id: &SegmentId, token: Token| {
            let lock = ledger.lock(id);
            ledger.damage(id).is_none() && lock.is_none_or(|lock| lock.token != token || lock.worker != name)
        };
        let writable = inner.manifests.writable(name).filter(|(id, token)| is_old(id, *token));
        let mut fenced: Vec<String> = writable.map(|(id, _)| id.to_string()).collect();
        fenced.sort_unstable();
        Ok(ManifestAnswer { send_all: false, fenced })
    }

    /// Takes up a whole manifest: made, compared and freed outside the lock, which heartbeats and queries
    /// want meanwhile.
    fn replace(
        &self,
        name: &str,
        manifest: &Manifest,
        segments: Vec<(SegmentId, Option<manifests::Copy>)>,
    ) -> Option<Vec<SegmentId>> {
        let Some(holding) = Holding::whole(manifest, segments) else {
            tracing::warn!(
                worker = name,
                "the digest of a whole manifest does not match; it is asked for anew"
            );
            self.inner.lock().manifests.clear(name);
            return None;
        };
        let mut changed: Vec<SegmentId> = holding.ids().cloned().collect();
        let old = self.inner.lock().manifests.replace(name, holding);
        changed.extend(old.iter().flat_map(Holding::ids).cloned());
        changed.sort_unstable();
        changed.dedup();
        Some(changed)
    }

    /// The highest token in a manifest.
    pub fn highest_token(manifest: &Manifest) -> Option<Token> {
        manifest.segments.iter().filter_map(|segment| segment.token).max()
    }

    /// What `name` should hold, as far as it has not been told: `since` is the version that it has.
    pub fn assignment(&self, name: &str, since: Option<u64>, live: &[HotWorker]) -> Assignment {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let manifests = &inner.manifests;
        let may_go = |id: &SegmentId| self.may_go(manifests, name, id, live);
        inner.desks.of(name).tell(since, may_go, |id| manifests.copy(name, id).is_some())
    }

    /// Whether `name` may give its copy of `id` up now.
    fn may_go(&self, manifests: &Manifests, name: &str, id: &SegmentId, live: &[HotWorker]) -> bool {
        let ledger = self.state.ledger();
        if ledger.is_deleting(id) {
            return true;
        }
        if ledger.damage(id).is_some() || ledger.lock(id).is_some_and(|lock| lock.worker == name) {
            return false;
        }
        // Something that was written there and not promoted is never given up by placement.
        if manifests.copy(name, id).is_some_and(|entry| entry.unpromoted) {
            return false;
        }
        let Lookup::Found(Located { facts, .. }) = self.state.catalog().lookup(id) else { return true };
        let terms = self.terms_of(id, Some(&facts));
        let copies = copies_of(ledger.wish(id), terms);
        if copies == 0 {
            return true;
        }
        let serving = manifests.copies(id).filter(|(worker, entry)| {
            &***worker != name
                && entry.state == CopyState::Available
                && entry.generation == Some(facts.generation)
                && live.iter().any(|w| w.name == **worker && manifests.epoch(worker) == Some(w.epoch))
        });
        let here = manifests.copy(name, id);
        let serves_here =
            here.is_some_and(|entry| matches!(entry.state, CopyState::Available | CopyState::Stale));
        !serves_here || serving.count() >= terms.copies_minimum.min(copies) as usize
    }

    /// Something changed that may let workers give up their copies of `id`: a lock, a wish, a deletion.
    pub fn reconsider(&self, id: &SegmentId) {
        let lock = self.state.ledger().lock(id).map(|lock| (lock.worker.clone(), lock.token));
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let mut old: Vec<Arc<str>> = Vec::new();
        for (worker, copy) in inner.manifests.copies(id) {
            inner.desks.of(worker).reconsider(id);
            // A lock that was taken from a worker whose manifest was there before: only the answer to a
            // manifest says so.
            if copy.token.is_some_and(|token| lock.as_ref() != Some(&(worker.to_string(), token))) {
                old.push(worker.clone());
            }
        }
        for worker in old {
            inner.manifests.doubt(&worker);
        }
    }

    /// Copies of `id` that answer queries.
    pub fn holders(&self, id: &SegmentId) -> Vec<Holder> {
        let inner = self.inner.lock();
        let copies = inner.manifests.copies(id);
        copies
            .filter(|(_, entry)| matches!(entry.state, CopyState::Available | CopyState::Stale))
            .filter_map(|(worker, entry)| {
                Some(Holder {
                    worker: worker.clone(),
                    epoch: inner.manifests.epoch(worker)?,
                    state: entry.state,
                    generation: entry.generation,
                })
            })
            .collect()
    }

    /// How far `worker` said to be with writing `id` under `token`, also if it is not alive any more.
    pub fn written(&self, worker: &str, id: &SegmentId, token: Token) -> Option<Written> {
        let acknowledged = self.acknowledged.lock().get(id).filter(|(of, _)| *of == token).map(|last| last.1);
        let told = {
            let inner = self.inner.lock();
            inner.manifests.copy(worker, id).filter(|copy| copy.token == Some(token)).map(|copy| copy.written)
        };
        match (told, acknowledged) {
            (Some(told), Some(change)) => Some(Written { change: told.change.max(change), ..told }),
            (None, Some(change)) => Some(Written { change, safe: 0 }),
            (told, None) => told,
        }
    }

    /// The holder of `token` acknowledged transaction `change` of `id`, and with it all before.
    pub fn acknowledged(&self, id: &SegmentId, token: Token, change: u64) {
        let mut acknowledged = self.acknowledged.lock();
        match acknowledged.get_mut(id) {
            // Answers come in any order.
            Some(last) => *last = (*last).max((token, change)),
            None => drop(acknowledged.insert(id.clone(), (token, change))),
        }
    }

    /// Workers that have anything of `id`.
    pub fn anywhere(&self, id: &SegmentId) -> Vec<Arc<str>> {
        self.inner.lock().manifests.copies(id).map(|(worker, _)| worker.clone()).collect()
    }

    /// Every copy of `id` for people, those that are assigned and not begun too.
    pub fn infos(&self, id: &SegmentId, is_live: impl Fn(&str) -> bool) -> Vec<CopyInfo> {
        let inner = self.inner.lock();
        let mut infos: BTreeMap<&str, CopyInfo> = BTreeMap::new();
        for (worker, entry) in inner.manifests.copies(id) {
            infos.insert(worker, entry.info(worker, is_live(worker)));
        }
        for (worker, segment) in inner.desks.holding(id) {
            infos.entry(worker).or_insert_with(|| CopyInfo {
                worker: worker.to_string(),
                live: is_live(worker),
                state: CopyState::Assigned,
                reason: None,
                generation: Some(segment.generation.clone()),
                size: segment.size,
                fetched: 0,
                token: None,
                unpromoted: false,
            });
        }
        infos.into_values().collect()
    }

    /// Workers that are to hold `id`.
    pub fn assigned(&self, id: &SegmentId) -> Vec<String> {
        let inner = self.inner.lock();
        let mut names: Vec<String> = inner.desks.holding(id).map(|(worker, _)| worker.to_string()).collect();
        names.sort();
        names
    }

    /// Number of segments that `worker` is to hold.
    pub fn assigned_count(&self, worker: &str) -> u64 {
        self.inner.lock().desks.count(worker)
    }
}
