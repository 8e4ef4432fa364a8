//! Who should hold what: carries the decisions of `placement/copies.rs` out.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use super::{CopyRules, HotWorker, wanting::Wanting};
use crate::{
    api::hot::AssignedSegment,
    placement::{
        WorkerSeed,
        copies::{Intake, Node, Wish, place},
    },
    registry::{catalog::Located, packed::Facts},
    segment::SegmentId,
};

/// What a segment shall have, and what it is.
#[derive(Debug, Clone)]
pub(super) struct Wished {
    pub(super) copies: usize,
    pub(super) pins: BTreeSet<String>,
    pub(super) located: Located,
}

/// Where a segment was placed, and in which version.
#[derive(Debug)]
struct Placed {
    facts: Facts,
    /// How many were wished for; there may have been no room for all.
    copies: usize,
    workers: Vec<Arc<str>>,
}

/// The workers, and what is placed on them.
#[derive(Debug, Default)]
pub(super) struct Planner {
    nodes: Vec<Node>,
    index: HashMap<Arc<str>, usize>,
    used: Vec<u64>,
    places: HashMap<SegmentId, Placed>,
    /// Those of them that have fewer copies than they shall.
    wanting: Wanting,
    /// When a worker was alive last.
    seen: HashMap<Arc<str>, Instant>,
}

impl Planner {
    /// Takes up which workers there are, with what is `taken` of each; `true` if that may change places.
    pub(super) fn set_nodes(
        &mut self,
        live: &[HotWorker],
        draining: &[bool],
        taken: &[u64],
        rules: &CopyRules,
        now: Instant,
    ) -> bool {
        let alive = live.iter().zip(draining).zip(taken).map(|((worker, draining), taken)| Node {
            name: worker.name.clone(),
            seed: WorkerSeed::of(&worker.name),
            quota: steady(worker.report.quota_bytes),
            taken: *taken,
            zone: worker.report.zone.as_deref().map(Into::into),
            intake: match (*draining, worker.report.full) {
                (true, _) => Intake::Gone,
                (false, true) => Intake::Closed,
                (false, false) => Intake::Open,
            },
        });
        let mut nodes: Vec<Node> = alive.collect();
        self.seen.extend(live.iter().map(|worker| (worker.name.clone(), now)));
        self.seen.retain(|_, seen| now < *seen + rules.grace);
        // A worker that restarts must not make its share move twice.
        for node in &self.nodes {
            let silent = live.iter().all(|worker| worker.name != node.name);
            if silent && self.seen.contains_key(&node.name) && node.intake != Intake::Gone {
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

    /// Places everything anew. `ids` in an order that does not change. `set`: tells workers to hold a
    /// segment, or not to.
    pub(super) fn place_all(
        &mut self,
        ids: &[SegmentId],
        wish: impl Fn(&SegmentId) -> Option<Wished>,
        set: impl Fn(&SegmentId, &[Arc<str>], Option<&AssignedSegment>),
    ) {
        self.used.fill(0);
        self.wanting.clear(self.nodes.len());
        let mut former = std::mem::take(&mut self.places);
        for id in ids {
            let before = former.remove(id);
            self.place(id, wish(id), before, &set);
        }
        for (id, placed) in former {
            set(&id, &placed.workers, None);
        }
    }

    /// Places one segment anew; the others stay where they are.
    pub(super) fn place_one(
        &mut self,
        id: &SegmentId,
        wished: Option<Wished>,
        set: impl Fn(&SegmentId, &[Arc<str>], Option<&AssignedSegment>),
    ) {
        let before = self.places.remove(id);
        if let Some(placed) = &before {
            self.wanting.remove(placed.facts.size, id);
            for worker in &placed.workers {
                if let Some(&node) = self.index.get(worker) {
                    self.used[node] = self.used[node].saturating_sub(placed.facts.size);
                }
            }
        }
        self.place(id, wished, before, &set);
    }

    /// Places what found no room for all of its copies, where there is room by now. Costs little if no worker
    /// has more room than when they were tried last.
    pub(super) fn fill_room(
        &mut self,
        wish: impl Fn(&SegmentId) -> Option<Wished>,
        set: impl Fn(&SegmentId, &[Arc<str>], Option<&AssignedSegment>),
    ) {
        self.wanting.offer(room(&self.nodes, &self.used));
        while self.wanting.is_offered() {
            let most = room(&self.nodes, &self.used).max().unwrap_or(0);
            let may_fit = |size: u64, id: &SegmentId| {
                let holders = self.places.get(id).map(|placed| placed.workers.as_slice()).unwrap_or_default();
                let mut open = self.nodes.iter().zip(room(&self.nodes, &self.used));
                open.any(|(node, room)| size < room && !holders.contains(&node.name))
            };
            let Some(id) = self.wanting.next(most, may_fit) else { break };
            self.place_one(&id, wish(&id), &set);
        }
        self.wanting.tried(room(&self.nodes, &self.used));
    }

    fn place(
        &mut self,
        id: &SegmentId,
        wished: Option<Wished>,
        before: Option<Placed>,
        set: &impl Fn(&SegmentId, &[Arc<str>], Option<&AssignedSegment>),
    ) {
        let former_workers = before.as_ref().map(|placed| placed.workers.as_slice()).unwrap_or_default();
        let mut workers = Vec::new();
        if let Some(wished) = wished {
            let facts = wished.located.facts;
            let pins: Vec<usize> =
                wished.pins.iter().filter_map(|name| self.index.get(name.as_str()).copied()).collect();
            let former: Vec<usize> =
                former_workers.iter().filter_map(|name| self.index.get(name).copied()).collect();
            let wish = Wish { id, size: facts.size, copies: wished.copies, pins: &pins, former: &former };
            let chosen = place(wish, &self.nodes, &mut self.used);
            workers.extend(chosen.into_iter().map(|node| self.nodes[node].name.clone()));
            if before.as_ref().is_none_or(|placed| placed.facts != facts || placed.workers != workers) {
                let segment = AssignedSegment {
                    id: id.to_string(),
                    path: id.path_in(&wished.located.directory),
                    generation: facts.generation.to_string(),
                    size: facts.size,
                };
                set(id, &workers, Some(&segment));
            }
            let pinned = |pin: &usize| workers.contains(&self.nodes[*pin].name);
            if workers.len() < wished.copies || !pins.iter().all(pinned) {
                self.wanting.insert(facts.size, id.clone(), room(&self.nodes, &self.used));
            }
            self.places.insert(id.clone(), Placed { facts, copies: wished.copies, workers: workers.clone() });
        }
        let gone: Vec<Arc<str>> =
            former_workers.iter().filter(|worker| !workers.contains(worker)).cloned().collect();
        if !gone.is_empty() {
            set(id, &gone, None);
        }
    }
}

impl Planner {
    /// Copies for which `id` was placed; `None`: it is not.
    pub(super) fn copies(&self, id: &SegmentId) -> Option<usize> {
        self.places.get(id).map(|placed| placed.copies)
    }

    /// To try what would be placed where.
    pub(super) fn trial(&self) -> Trial {
        let held = |placed: &Placed| {
            let nodes = placed.workers.iter().filter_map(|worker| self.index.get(worker).copied());
            (placed.facts.size, nodes.collect())
        };
        Trial {
            nodes: self.nodes.clone(),
            used: self.used.clone(),
            places: self.places.iter().map(|(id, placed)| (id.clone(), held(placed))).collect(),
        }
    }
}

/// Placement as it is, to try changes on: nobody is told to hold anything.
#[derive(Debug, Clone)]
pub struct Trial {
    nodes: Vec<Node>,
    used: Vec<u64>,
    /// Size of each segment that is placed, and the indices of its workers.
    places: HashMap<SegmentId, (u64, Vec<usize>)>,
}

impl Trial {
    /// Workers on which `copies` of a segment of `size` bytes would be, in order of preference; fewer: there
    /// is no room for more. What was tried before has its room.
    pub fn place(&mut self, id: &SegmentId, size: u64, copies: usize) -> Vec<Arc<str>> {
        let former = self.take_away(id);
        let wish = Wish { id, size, copies, pins: &[], former: &former };
        let chosen = place(wish, &self.nodes, &mut self.used);
        self.places.insert(id.clone(), (size, chosen.clone()));
        chosen.into_iter().map(|node| self.nodes[node].name.clone()).collect()
    }

    /// Frees what a segment has; the workers that had it.
    pub fn take_away(&mut self, id: &SegmentId) -> Vec<usize> {
        let Some((size, nodes)) = self.places.remove(id) else { return Vec::new() };
        for node in &nodes {
            self.used[*node] = self.used[*node].saturating_sub(size);
        }
        nodes
    }
}

/// For each worker the smallest size that it has no room for.
fn room<'a>(nodes: &'a [Node], used: &'a [u64]) -> impl Iterator<Item = u64> + 'a {
    nodes.iter().zip(used).map(|(node, used)| match node.intake {
        Intake::Open => {
            node.quota.checked_sub(node.taken.saturating_add(*used)).map_or(0, |free| free.saturating_add(1))
        }
        Intake::Closed | Intake::Gone => 0,
    })
}

/// A quota rounded down, by less than 2 %: one that follows the disk's free space must not make
/// everything be placed anew with each heartbeat.
fn steady(quota: u64) -> u64 {
    let drop_bits = (u64::BITS - quota.leading_zeros()).saturating_sub(7);
    quota >> drop_bits << drop_bits
}

#[cfg(test)]
mod tests;
