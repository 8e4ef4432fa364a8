//! Which hot workers should hold copies of a segment. Pure: the same workers, wishes and former places
//! give the same places.
//!
//! Each segment ranks all workers by weighted rendezvous hashing, the weight being the capacity, and takes
//! the first that may have it. So a worker that joins or leaves moves no more than its own share, and
//! shares follow capacities. What a worker has room for bounds what it gets, always.

use std::{cmp::Ordering, sync::Arc};

use super::{WorkerSeed, score_by};
use crate::segment::SegmentId;

/// Bytes that weigh as much as one in the ranking: capacities differ in GiB, not in bytes.
const WEIGHT_BYTES: f64 = 1_048_576.0;

/// What a worker may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intake {
    /// Anything it has room for.
    Open,
    /// Nothing new; it keeps what it was given: it is full, or was silent for a moment.
    Closed,
    /// Nothing, and what it was given goes elsewhere: dead or draining.
    Gone,
}

/// A worker as placement sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Its name, hashed.
    pub seed: WorkerSeed,
    /// Bytes that it may hold.
    pub quota: u64,
    /// Bytes of it that placement has no say in: segments that are written there and not placed.
    pub taken: u64,
    /// Copies of a segment go to different zones as long as there are some.
    pub zone: Option<Arc<str>>,
    /// What it may be given.
    pub intake: Intake,
}

/// What one segment shall have.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The segment.
    pub id: &'a SegmentId,
    /// Its length in bytes.
    pub size: u64,
    /// How many copies.
    pub copies: usize,
    /// Workers, as indices, that shall have one whatever the ranking says; they count among the copies.
    pub pins: &'a [usize],
    /// Workers, as indices, that were to hold it until now.
    pub former: &'a [usize],
}

/// Places one segment and adds its bytes to `used` (bytes placed on each node). Fewer than wished: no
/// other may have it.
pub fn place(wish: Wish<'_>, nodes: &[Node], used: &mut [u64]) -> Vec<usize> {
    let mut chosen: Vec<usize> = Vec::with_capacity(wish.copies.max(wish.pins.len()));
    let may = |index: usize, used: &[u64]| {
        let node = &nodes[index];
        let open = match node.intake {
            Intake::Open => true,
            Intake::Closed => wish.former.contains(&index),
            Intake::Gone => false,
        };
        open && node.taken.saturating_add(used[index]).saturating_add(wish.size) <= node.quota
    };
    for &pin in wish.pins {
        // A pin is a wish of an operator, but no disk is larger for it.
        if !chosen.contains(&pin) && may(pin, used) {
            chosen.push(pin);
        }
    }
    if chosen.len() < wish.copies {
        let mut ranked: Vec<(f64, usize)> = (0..nodes.len())
            .filter(|index| !chosen.contains(index) && may(*index, used))
            .map(|index| {
                (score_by(wish.id, nodes[index].seed, nodes[index].quota as f64 / WEIGHT_BYTES), index)
            })
            .collect();
        let better = |a: &(f64, usize), b: &(f64, usize)| {
            let by_name = || nodes[a.1].name.cmp(&nodes[b.1].name);
            b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then_with(by_name)
        };
        // Only zones need more of the ranking than its head.
        let wanted = wish.copies - chosen.len();
        if ranked.len() > wanted && nodes.iter().all(|node| node.zone.is_none()) {
            ranked.select_nth_unstable_by(wanted, better);
            ranked.truncate(wanted);
        }
        ranked.sort_unstable_by(better);
        let zone_is_new = |index: usize, chosen: &[usize]| match &nodes[index].zone {
            Some(zone) => chosen.iter().all(|other| nodes[*other].zone.as_ref() != Some(zone)),
            None => true,
        };
        for any_zone in [false, true] {
            for &(_, index) in &ranked {
                if chosen.len() >= wish.copies {
                    break;
                }
                if !chosen.contains(&index) && (any_zone || zone_is_new(index, &chosen)) {
                    chosen.push(index);
                }
            }
        }
    }
    for &index in &chosen {
        used[index] += wish.size;
    }
    chosen
}

/// Places all segments. Where room is short, those that come first in `wishes` have it: give them in an
/// order that does not change, such as that of their ids.
pub fn plan(wishes: &[Wish<'_>], nodes: &[Node]) -> Vec<Vec<usize>> {
    let mut used = vec![0; nodes.len()];
    wishes.iter().map(|wish| place(*wish, nodes, &mut used)).collect()
}

#[cfg(test)]
mod tests;
