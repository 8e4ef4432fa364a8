//! Hot copies: what workers say they have (`manifests.rs`), and what they should have (`assign.rs`).
//! In memory only: workers tell it again after a restart of the gateway.
//!
//! Both sides are versioned and go over the wire as changes, so a heartbeat costs the same whatever the
//! number of segments, and a change costs what has changed.

pub(crate) mod adopt;
mod assign;
mod desk;
mod manifests;
#[cfg(test)]
mod tests;
mod tiers;
mod verify;
mod wanting;

pub use self::manifests::Written;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
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
};
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        hot::{AssignedSegment, Assignment, CopyState, HotReport, Manifest, ManifestAnswer, Token},
        types::CopyInfo,
    },
    registry::{
        catalog::{Located, Lookup},
        ledger::Raise,
        packed::Facts,
        state::State,
    },
    rules::{Rules, Terms, TierRule},
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

    /// Places again what moved, what had no room where there is room now, and everything if the workers
    /// changed. Costs little if nothing did, otherwise what is raised times the workers: not for a thread that serves requests. `live`: asked in its turn,
    /// because a list from before a wait would undo what was placed with a later one.
    pub fn refresh(&self, live: impl FnOnce() -> (Vec<HotWorker>, Instant)) {
        let mut planner = self.planner.lock();
        let (live, now) = live();
        let live = live.as_slice();
        let moved = self.state.take_moved();
        let draining: Vec<bool> = {
            let ledger = self.state.ledger();
            live.iter().map(|worker| ledger.is_draining(&worker.name)).collect()
        };
        let taken: Vec<u64> = {
            let inner = self.inner.lock();
            live.iter().map(|worker| inner.taken(&worker.name)).collect()
        };
        let changes = planner.set_nodes(live, &draining, &taken, &self.rules, now);
        let set = |id: &SegmentId, workers: &[Arc<str>], segment: Option<&AssignedSegment>| {
            let mut inner = self.inner.lock();
            for worker in workers {
                inner.desks.of(worker).set(id, segment.cloned());
            }
        };
        if changes {
            let mut wished: Vec<SegmentId> = self.state.ledger().wished().cloned().collect();
            wished.extend(self.kept());
            planner.place_all(&wished, |id| self.wish(id), set);
        } else {
            // What frees room comes before what may need it.
            let mut wishes: Vec<(&SegmentId, Option<assign::Wished>)> =
                moved.iter().map(|id| (id, self.wish(id))).collect();
            wishes.sort_unstable_by(|a, b| (a.1.is_some(), a.0).cmp(&(b.1.is_some(), b.0)));
            for (id, wish) in wishes {
                planner.place_one(id, wish, set);
            }
        }
        planner.fill_room(|id| self.wish(id), set);
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if changes {
            // Who lives decides what may be given up.
            inner.desks.reconsider_all();
        }
        for id in moved {
            for (worker, _) in inner.manifests.copies(&id) {
                inner.desks.of(worker).reconsider(&id);
            }
        }
        let live: HashSet<&str> = live.iter().map(|worker| &*worker.name).collect();
        inner.desks.forget(now, |name| live.contains(name));
        inner.manifests.forget(|name| inner.desks.knows(name));
        let ledger = self.state.ledger();
        let is_held = |id: &SegmentId, token: Token| ledger.lock(id).is_some_and(|lock| lock.token == token);
        self.acknowledged.lock().retain(|id, (token, _)| is_held(id, *token));
    }

    /// What is wished for `id`, and where it lies; `None`: nothing, or it is not in the store.
    fn wish(&self, id: &SegmentId) -> Option<assign::Wished> {
        let (raise, pins) = {
            let ledger = self.state.ledger();
            if ledger.is_deleting(id) {
                return None;
            }
            (ledger.wish(id), ledger.pins(id).cloned().unwrap_or_default())
        };
        let Lookup::Found(located) = self.state.catalog().lookup(id) else { return None };
        let terms = self.terms_of(id, Some(&located.facts));
        let copies = copies_of(raise, terms) as usize;
        if terms.tier == TierRule::Cold || (copies == 0 && pins.is_empty()) {
            return None;
        }
        Some(assign::Wished { copies, pins, located })
    }

    /// What the rules say of `id` as it lies in the store.
    pub fn terms(&self, id: &SegmentId) -> Terms {
        match self.state.catalog().lookup(id) {
            Lookup::Found(located) => self.terms_of(id, Some(&located.facts)).clone(),
            _ => self.terms_of(id, None).clone(),
        }
    }

    fn terms_of(&self, id: &SegmentId, facts: Option<&Facts>) -> &Terms {
        self.rules.rules.terms(id.as_str(), facts.map(|facts| facts.mtime_ms), (self.rules.clock)())
    }

    /// Hot copies that `id` shall have; 0: none but where it is pinned.
    pub fn wished_copies(&self, id: &SegmentId) -> u32 {
        let wish = self.state.ledger().wish(id);
        copies_of(wish, &self.terms(id))
    }
}

/// Hot copies that a segment shall have: by somebody's wish, by heat's, or because a rule keeps it hot.
fn copies_of(wish: Option<Raise>, terms: &Terms) -> u32 {
    match (terms.tier, wish) {
        (TierRule::Cold, _) => 0,
        (_, Some(wish)) => terms.clamp(wish.copies),
        (TierRule::Hot, None) => terms.copies_minimum,
        (_, None) => 0,
    }
}

impl Inner {
    /// Bytes on a worker that are written there without being assigned to it.
    fn taken(&self, worker: &str) -> u64 {
        let own = self.manifests.writable(worker).filter(|(id, _)| !self.desks.holds(worker, id));
        own.filter_map(|(id, _)| self.manifests.copy(worker, id)).map(|copy| copy.size()).sum()
    }
}
