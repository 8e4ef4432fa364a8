//! Who should hold what: carries the decisions of `placement/copies.rs` to the workers' desks.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{CopyRules, HotWorker, desk::Desk, manifests::Manifests};
use crate::{
    api::hot::AssignedSegment,
    placement::{
        WorkerSeed,
        copies::{Intake, Node, Wish, place},
    },
    registry::{catalog::Located, state::State},
    segment::SegmentId,
};

/// A worker that was silent for so long is forgotten, with what it said and was given.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

/// What a segment shall have, and what it is.
#[derive(Debug, Clone)]
pub(super) struct Wished {
    pub(super) copies: usize,
    pub(super) pins: BTreeSet<String>,
    pub(super) located: Located,
}

/// Where a segment was placed, and with how many bytes.
#[derive(Debug)]
struct Placed {
    size: u64,
    workers: Vec<Arc<str>>,
}

/// Desks of all workers, and what is placed on them.
#[derive(Debug)]
pub(super) struct Plans {
    first_version: u64,
    pub(super) desks: HashMap<Arc<str>, Desk>,
    nodes: Vec<Node>,
    index: HashMap<Arc<str>, usize>,
    used: Vec<u64>,
    places: HashMap<SegmentId, Placed>,
    seen: HashMap<Arc<str>, Instant>,
}

impl Plans {
    pub(super) fn new(first_version: u64) -> Self {
        Self {
            first_version,
            desks: HashMap::new(),
            nodes: Vec::new(),
            index: HashMap::new(),
            used: Vec::new(),
            places: HashMap::new(),
            seen: HashMap::new(),
        }
    }

    /// The desk of a worker, made at its first mention.
    pub(super) fn desk(&mut self, name: &str) -> &mut Desk {
        if !self.desks.contains_key(name) {
            self.desks.insert(name.into(), Desk::new(self.first_version));
        }
        self.desks.get_mut(name).expect("inserted just above")
    }

    pub(super) fn knows(&self, name: &str) -> bool {
        self.desks.contains_key(name)
    }

    /// Workers that are to hold `id`, and what of it.
    pub(super) fn assigned<'a>(
        &'a self,
        id: &'a SegmentId,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a AssignedSegment)> {
        let workers = self.places.get(id).map(|placed| placed.workers.as_slice()).unwrap_or_default();
        workers.iter().filter_map(|worker| self.desks.get(worker)?.held(id).map(|held| (worker, held)))
    }

    /// Takes up which workers there are; `true` if that may change places.
    pub(super) fn set_nodes(
        &mut self,
        live: &[HotWorker],
        draining: &[bool],
        rules: &CopyRules,
        manifests: &Manifests,
        state: &State,
        now: Instant,
    ) -> bool {
        for worker in live {
            self.seen.insert(worker.name.clone(), now);
            self.desk(&worker.name);
        }
        let mut nodes: Vec<Node> = live
            .iter()
            .zip(draining)
            .map(|(worker, draining)| Node {
                name: worker.name.clone(),
                seed: WorkerSeed::of(&worker.name),
                quota: worker.report.quota_bytes,
                taken: self.taken(&worker.name, manifests),
                zone: rules.zones.get(&*worker.name).map(|zone| zone.as_str().into()),
                intake: match (*draining, worker.report.full) {
                    (true, _) => Intake::Gone,
                    (false, true) => Intake::Closed,
                    (false, false) => Intake::Open,
                },
            })
            .collect();
        // A worker that restarts must not make its share move twice.
        for node in &self.nodes {
            let silent = live.iter().all(|worker| worker.name != node.name);
            let in_grace = self.seen.get(&node.name).is_some_and(|seen| now < *seen + rules.grace);
            if silent && in_grace && node.intake != Intake::Gone && !state.ledger().is_draining(&node.name) {
                nodes.push(Node { intake: Intake::Closed, ..node.clone() });
            }
        }
        nodes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let key = |node: &Node| (node.name.clone(), node.quota, node.zone.clone(), node.intake);
        let changed = !nodes.iter().map(key).eq(self.nodes.iter().map(key));
        if changed {
            self.index = nodes.iter().enumerate().map(|(n, node)| (node.name.clone(), n)).collect();
            self.used = vec![0; nodes.len()];
        }
        self.nodes = nodes;
        changed
    }

    /// Bytes on a worker that are written there, or kept, without being placed there.
    fn taken(&self, name: &str, manifests: &Manifests) -> u64 {
        let held = |id: &SegmentId| self.desks.get(name).is_some_and(|desk| desk.held(id).is_some());
        let own = manifests.writable(name).filter(|(id, _)| !held(id));
        own.filter_map(|(id, _)| manifests.copy(name, id)).map(|copy| copy.size()).sum()
    }

    /// Places everything anew. `ids` in an order that does not change.
    pub(super) fn place_all(&mut self, ids: &[SegmentId], wish: impl Fn(&SegmentId) -> Option<Wished>) {
        self.used.fill(0);
        let mut former = std::mem::take(&mut self.places);
        for id in ids {
            let before = former.remove(id).map(|placed| placed.workers).unwrap_or_default();
            self.place(id, wish(id), &before);
        }
        for (id, placed) in former {
            self.place(&id, None, &placed.workers);
        }
        for desk in self.desks.values_mut() {
            desk.reconsider_all();
        }
    }

    /// Places one segment anew; the others stay where they are.
    pub(super) fn place_one(&mut self, id: &SegmentId, wished: Option<Wished>) {
        let before = match self.places.remove(id) {
            Some(placed) => {
                for worker in &placed.workers {
                    if let Some(&node) = self.index.get(worker) {
                        self.used[node] = self.used[node].saturating_sub(placed.size);
                    }
                }
                placed.workers
            }
            None => Vec::new(),
        };
        self.place(id, wished, &before);
    }

    fn place(&mut self, id: &SegmentId, wished: Option<Wished>, before: &[Arc<str>]) {
        let mut workers = Vec::new();
        if let Some(wished) = wished {
            let facts = wished.located.facts;
            let pins: Vec<usize> =
                wished.pins.iter().filter_map(|name| self.index.get(name.as_str()).copied()).collect();
            let former: Vec<usize> = before.iter().filter_map(|name| self.index.get(name).copied()).collect();
            let wish = Wish { id, size: facts.size, copies: wished.copies, pins: &pins, former: &former };
            let chosen = place(wish, &self.nodes, &mut self.used);
            workers.extend(chosen.into_iter().map(|node| self.nodes[node].name.clone()));
            let segment = AssignedSegment {
                id: id.to_string(),
                path: id.path_in(&wished.located.directory),
                generation: facts.generation.to_string(),
                size: facts.size,
            };
            for worker in &workers {
                self.desk(worker).set(id, Some(segment.clone()));
            }
            self.places.insert(id.clone(), Placed { size: facts.size, workers: workers.clone() });
        }
        for worker in before.iter().filter(|worker| !workers.contains(worker)) {
            self.desk(worker).set(id, None);
        }
    }

    /// Forgets workers that were silent for an hour.
    pub(super) fn forget(&mut self, now: Instant, is_live: impl Fn(&str) -> bool) {
        for name in self.desks.keys() {
            if !self.seen.contains_key(name) {
                self.seen.insert(name.clone(), now);
            }
        }
        let gone: Vec<Arc<str>> = self
            .seen
            .iter()
            .filter(|(name, seen)| !is_live(name) && now >= **seen + FORGET_AFTER)
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.seen.remove(&name);
            self.desks.remove(&name);
        }
    }
}
