//! What one worker shall give up, told piece by piece: a request looks at what is new, and at a bounded number
//! of others, however many copies wait.
//!
//! ```text
//! pending ── event ──► due ── looked at: it may go ──► told ── heard, and nothing is there ──► forgotten
//!                          └─ it may not ──► waits for the next event, or for its turn
//! ```
//! Workers say what they have in their manifests: what is still there stays pending, whatever was told.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
};

use crate::segment::SegmentId;

/// Segments that one request looks at, at most: some milliseconds under a lock that queries want.
pub(super) const LOOK_MAX: usize = 5_000;
/// Of those that nothing happened to, as many are looked at in turn with each request: so whatever a worker
/// has forgotten, or nobody told us of, is said again at last.
pub(super) const TURN: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Drops {
    /// Not to be held, and perhaps still there; with the version in which the worker was told so last.
    pending: BTreeMap<SegmentId, Option<u64>>,
    /// Those of them to which something happened.
    due: BTreeSet<SegmentId>,
    /// What was told, by rising version, until the worker has asked with that version.
    told: VecDeque<(u64, SegmentId)>,
    /// Last one that was looked at in turn.
    turn: Option<SegmentId>,
    /// So many are to be looked at in turn without waiting: something happened to all.
    left: usize,
}

impl Drops {
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn contains(&self, id: &SegmentId) -> bool {
        self.pending.contains_key(id)
    }

    /// `id` is to be given up, or what kept it may have gone.
    pub(super) fn add(&mut self, id: &SegmentId) {
        if self.pending.insert(id.clone(), None).is_none() && self.left > 0 {
            self.left += 1; // it may be in the way of the others
        }
        self.due.insert(id.clone());
    }

    /// `id` is to be held, or is gone.
    pub(super) fn remove(&mut self, id: &SegmentId) {
        self.pending.remove(id);
        self.due.remove(id);
    }

    /// Something happened to all.
    pub(super) fn all(&mut self) {
        self.left = self.pending.len();
    }

    /// What is to be told in `version` to a worker that has heard of `base` (`None`: of nothing), and whether
    /// there is more to look at. `may_go`: whether a copy may be given up now; `is_there`: whether the
    /// worker's manifest has it.
    pub(super) fn tell(
        &mut self,
        base: Option<u64>,
        version: u64,
        may_go: impl Fn(&SegmentId) -> bool,
        is_there: impl Fn(&SegmentId) -> bool,
    ) -> (Vec<String>, bool) {
        if base.is_none() {
            self.told.clear();
            self.all();
        }
        for (of, id) in std::mem::take(&mut self.told) {
            let last = self.pending.get(&id) == Some(&Some(of));
            match base {
                // Told again since, or not to be given up any more.
                _ if !last => {}
                Some(base) if of <= base => {
                    if !is_there(&id) {
                        self.remove(&id); // neither there nor coming
                    }
                }
                // That answer was lost.
                _ => drop(self.due.insert(id)),
            }
        }
        let mut looked: Vec<SegmentId> = std::iter::from_fn(|| self.due.pop_first()).take(LOOK_MAX).collect();
        let turns = self.left.max(TURN).min(LOOK_MAX - looked.len());
        self.take_turns(turns, &mut looked);
        looked.sort_unstable();
        looked.dedup();
        looked.retain(may_go);
        for id in &looked {
            self.pending.insert(id.clone(), Some(version));
            self.told.push_back((version, id.clone()));
        }
        let drop = looked.iter().map(ToString::to_string).collect();
        (drop, !self.due.is_empty() || self.left > 0)
    }

    /// The next `count` in turn.
    fn take_turns(&mut self, count: usize, into: &mut Vec<SegmentId>) {
        let waiting = self.pending.len();
        let count = count.min(waiting);
        self.left = if count == waiting { 0 } else { self.left.min(waiting).saturating_sub(count) };
        let from = self.turn.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.pending.range::<SegmentId, _>((from, Bound::Unbounded)).chain(&self.pending);
        into.extend(rest.take(count).map(|(id, _)| id.clone()));
        if count > 0 {
            self.turn = into.last().cloned();
        }
    }
}

#[cfg(test)]
mod tests;
