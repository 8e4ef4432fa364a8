//! Wishes for copies, and carrying them out: what each segment shall have by rules, people and heat goes to
//! `assign.rs`, and what comes of it to the workers' desks.

use std::{collections::HashSet, sync::Arc, time::Instant};

use super::{Copies, HotWorker, Inner, assign};
use crate::{
    api::hot::{AssignedSegment, Token},
    registry::{catalog::Lookup, ledger::Raise, packed::Facts},
    rules::{Terms, TierRule},
    segment::SegmentId,
};

impl Copies {
    /// Places again what moved, what had no room where there is room now, and everything if the workers
    /// changed. Costs little if nothing did, otherwise what is raised times the workers: not for a thread
    /// that serves requests. `live`: asked in its turn, because a list from before a wait would undo what was
    /// placed with a later one.
    pub fn refresh(&self, live: impl FnOnce() -> (Vec<HotWorker>, Instant)) {
        let mut planner = self.planner.lock();
        let (live, now) = live();
        let live = live.as_slice();
        let moved = self.state.take_moved();
        {
            let mut news = self.news.lock();
            news.retain(|_, at| now < *at + self.rules.grace);
            news.extend(moved.iter().map(|id| (id.clone(), now)));
        }
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
    pub(super) fn wish(&self, id: &SegmentId) -> Option<assign::Wished> {
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

    pub(super) fn terms_of(&self, id: &SegmentId, facts: Option<&Facts>) -> &Terms {
        self.rules.rules.terms(id.as_str(), facts.map(|facts| facts.mtime_ms), (self.rules.clock)())
    }

    /// Hot copies that `id` shall have; 0: none but where it is pinned.
    pub fn wished_copies(&self, id: &SegmentId) -> u32 {
        let wish = self.state.ledger().wish(id);
        copies_of(wish, &self.terms(id))
    }
}

/// Hot copies that a segment shall have: by somebody's wish, by heat's, or because a rule keeps it hot.
pub(super) fn copies_of(wish: Option<Raise>, terms: &Terms) -> u32 {
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
