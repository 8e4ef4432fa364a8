//! Hot copies: what workers say they have (`manifests.rs`), and what they should have (`assign.rs`).
//! In memory only: workers tell it again after a restart of the gateway.
//!
//! Both sides are versioned and go over the wire as changes, so a heartbeat costs the same whatever the
//! number of segments, and a change costs what has changed.

mod assign;
mod desk;
mod manifests;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use self::{assign::Plans, manifests::Manifests};
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        hot::{Assignment, CopyState, HotReport, Manifest, ManifestAnswer},
        types::CopyInfo,
    },
    registry::{
        catalog::{Located, Lookup},
        state::State,
    },
    segment::SegmentId,
    store::Generation,
};

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
#[derive(Debug, Clone)]
pub struct CopyRules {
    /// A copy is given up only with so many other live ones.
    pub minimum: u32,
    /// For so long a worker that is silent keeps what it was given.
    pub grace: Duration,
    /// Zone of each worker that has one.
    pub zones: BTreeMap<String, String>,
}

/// Manifests and assignments of all hot workers. One lock: each call holds it for as long as what it
/// changes takes.
pub struct Copies {
    state: Arc<State>,
    rules: CopyRules,
    inner: Mutex<Inner>,
}

struct Inner {
    manifests: Manifests,
    plans: Plans,
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
        let inner = Inner { manifests: Manifests::default(), plans: Plans::new(first_version) };
        Self { state, rules, inner: Mutex::new(inner) }
    }

    /// What a heartbeat of a hot worker is answered with: version of its assignment, and of its manifest
    /// here. Costs the same whatever it holds.
    pub fn beat(&self, name: &str, epoch: u64) -> (u64, Option<u64>) {
        let mut inner = self.inner.lock();
        (inner.plans.desk(name).version(), inner.manifests.version(name, epoch))
    }

    /// Takes up a manifest.
    pub fn publish(&self, name: &str, manifest: &Manifest) -> Result<ManifestAnswer, ApiError> {
        let segments = manifests::parse(manifest).map_err(|e| ApiError::new(ErrorCode::BadRequest, e))?;
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let Some(changed) = inner.manifests.apply(name, manifest, segments) else {
            return Ok(ManifestAnswer { send_all: true, fenced: Vec::new() });
        };
        let ledger = self.state.ledger();
        let mut fenced = Vec::new();
        for id in &changed {
            // What another worker gives up may have waited for this copy.
            for (worker, _) in inner.manifests.copies(id) {
                if &**worker != name {
                    inner.plans.desk(worker).reconsider(id);
                }
            }
            let entry = inner.manifests.copy(name, id);
            if let Some(token) = entry.and_then(|entry| entry.token)
                && ledger.damage(id).is_none()
                && ledger.lock(id).is_none_or(|lock| lock.token != token || lock.worker != name)
            {
                fenced.push(id.to_string());
            }
            inner.plans.desk(name).reported(id, entry.is_some());
        }
        Ok(ManifestAnswer { send_all: false, fenced })
    }

    /// The highest token in a manifest.
    pub fn highest_token(manifest: &Manifest) -> Option<u64> {
        manifest.segments.iter().filter_map(|segment| segment.token).max()
    }

    /// Segments that `name` says it can write under another token than the lock's, in all of its manifest.
    pub fn fenced(&self, name: &str) -> Vec<SegmentId> {
        let inner = self.inner.lock();
        let ledger = self.state.ledger();
        let writable = inner.manifests.writable(name);
        writable
            .filter(|(id, token)| {
                ledger.damage(id).is_none()
                    && ledger.lock(id).is_none_or(|lock| lock.token != *token || lock.worker != name)
            })
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// What `name` should hold, as far as it has not been told: `since` is the version that it has.
    pub fn assignment(&self, name: &str, since: Option<u64>, live: &[HotWorker]) -> Assignment {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let manifests = &inner.manifests;
        let may_go = |id: &SegmentId| self.may_go(manifests, name, id, live);
        inner.plans.desk(name).tell(since, may_go, |id| manifests.copy(name, id).is_some())
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
        let Some(raise) = ledger.raise(id) else { return true };
        let Lookup::Found(Located { facts, .. }) = self.state.catalog().lookup(id) else { return true };
        let serving = manifests.copies(id).filter(|(worker, entry)| {
            &***worker != name
                && entry.state == CopyState::Available
                && entry.generation == Some(facts.generation)
                && live.iter().any(|w| w.name == **worker && manifests.epoch(worker) == Some(w.epoch))
        });
        let here = manifests.copy(name, id);
        let serves_here =
            here.is_some_and(|entry| matches!(entry.state, CopyState::Available | CopyState::Stale));
        !serves_here || serving.count() >= self.rules.minimum.min(raise.copies) as usize
    }

    /// Something changed that may let workers give up their copies of `id`: a lock, a wish, a deletion.
    pub fn reconsider(&self, id: &SegmentId) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        for (worker, _) in inner.manifests.copies(id) {
            inner.plans.desk(worker).reconsider(id);
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
        for (worker, segment) in inner.plans.assigned(id) {
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
        let mut names: Vec<String> = inner.plans.assigned(id).map(|(worker, _)| worker.to_string()).collect();
        names.sort();
        names
    }

    /// Number of segments that `worker` is to hold.
    pub fn assigned_count(&self, worker: &str) -> u64 {
        self.inner.lock().plans.desks.get(worker).map_or(0, |desk| desk.hold_count() as u64)
    }

    /// Places again what moved, and everything if the workers did. Cheap if nothing did; otherwise it
    /// costs what is raised times the workers.
    pub fn refresh(&self, live: &[HotWorker], now: Instant) {
        let moved = self.state.take_moved();
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let draining: Vec<bool> = {
            let ledger = self.state.ledger();
            live.iter().map(|worker| ledger.is_draining(&worker.name)).collect()
        };
        let nodes_changed =
            inner.plans.set_nodes(live, &draining, &self.rules, &inner.manifests, &self.state, now);
        if nodes_changed {
            let wished: Vec<SegmentId> = self.state.ledger().wished().cloned().collect();
            inner.plans.place_all(&wished, |id| self.wish(id));
        } else {
            for id in &moved {
                inner.plans.place_one(id, self.wish(id));
            }
        }
        for id in moved {
            for (worker, _) in inner.manifests.copies(&id) {
                inner.plans.desk(worker).reconsider(&id);
            }
        }
        let known: HashMap<&str, ()> = live.iter().map(|worker| (&*worker.name, ())).collect();
        inner.plans.forget(now, |name| known.contains_key(name));
        inner.manifests.forget(|name| inner.plans.knows(name));
    }

    /// What is wished for `id`, and where it lies; `None`: nothing, or it is not in the store.
    fn wish(&self, id: &SegmentId) -> Option<assign::Wished> {
        let (copies, pins) = {
            let ledger = self.state.ledger();
            if ledger.is_deleting(id) {
                return None;
            }
            let copies = ledger.raise(id).map_or(0, |raise| raise.copies as usize);
            (copies, ledger.pins(id).cloned().unwrap_or_default())
        };
        if copies == 0 && pins.is_empty() {
            return None;
        }
        let Lookup::Found(located) = self.state.catalog().lookup(id) else { return None };
        Some(assign::Wished { copies, pins, located })
    }
}
