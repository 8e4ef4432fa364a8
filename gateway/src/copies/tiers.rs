//! What tiers ask of placement: which segments rules keep hot, whether wishes still mean what was placed, and
//! where copies would go.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::{Arc, Weak},
};

use super::{Copies, assign::Trial};
use crate::{
    registry::{
        catalog::{Directory, Lookup},
        ledger::in_order,
        packed::Facts,
    },
    rules::TierRule,
    segment::SegmentId,
};

/// What rules keep hot without anybody's wish, and what of the catalog was looked at for it.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// By segment, in the version that placement was told of.
    pub(super) segments: BTreeMap<SegmentId, Facts>,
    /// Directories as they were looked at, with those of their segments that are kept. A directory is
    /// replaced as a whole when it changes, so the same one is an unchanged one.
    seen: HashMap<Arc<str>, (Weak<Directory>, Vec<SegmentId>)>,
}

impl Copies {
    /// Looks for segments that rules keep hot, in the directories that changed since the last call, or in
    /// all: the age of segments changes by itself. What is new, changed or gone is placed at the next
    /// [`Copies::refresh`]. Blocks, for a time in proportion to what is looked at.
    pub fn follow_rules(&self, all: bool) {
        if !self.rules.rules.keep_some_hot() {
            return;
        }
        let directories: Vec<(Arc<str>, Arc<Directory>)> = {
            let catalog = self.state.catalog();
            catalog.directories().map(|(path, directory)| (path.clone(), directory.clone())).collect()
        };
        let now_ms = (self.rules.clock)();
        let mut moved = BTreeSet::new();
        let mut kept = self.kept.lock();
        let mut before = std::mem::take(&mut kept.seen);
        for (path, directory) in directories {
            let known = before.remove(&path);
            if let Some((seen, ids)) = known {
                if !all && std::ptr::eq(seen.as_ptr(), Arc::as_ptr(&directory)) {
                    kept.seen.insert(path, (seen, ids));
                    continue;
                }
                moved.extend(ids);
            }
            let mut ids = Vec::new();
            for (id, facts) in directory.segments.iter() {
                let terms = self.rules.rules.terms(id, Some(facts.mtime_ms), now_ms);
                if terms.tier == TierRule::Hot
                    && let Ok(id) = SegmentId::parse(id)
                {
                    ids.push(id);
                }
            }
            moved.extend(ids.iter().cloned());
            kept.seen.insert(path, (Arc::downgrade(&directory), ids));
        }
        moved.extend(before.into_values().flat_map(|(_, ids)| ids));
        self.take_up(&mut kept, moved);
    }

    /// Brings `segments` up to date for those ids that may have changed; tells placement of those that did.
    fn take_up(&self, kept: &mut Kept, ids: BTreeSet<SegmentId>) {
        let mut changed = Vec::new();
        for id in ids {
            // Ambiguous ones have no place to be copied from.
            let found = match self.state.catalog().lookup(&id) {
                Lookup::Found(located) => Some(located.facts),
                _ => None,
            };
            let facts = found.filter(|facts| self.terms_of(&id, Some(facts)).tier == TierRule::Hot);
            let before = match facts {
                Some(facts) => kept.segments.insert(id.clone(), facts),
                None => kept.segments.remove(&id),
            };
            if before != facts {
                changed.push(id);
            }
        }
        self.state.note_moved(changed);
    }

    /// Finds what was placed otherwise than rules say by now: segments that grew old. Costs a little for each
    /// segment that is raised or pinned.
    pub fn follow_age(&self) {
        if !self.rules.rules.depend_on_age() {
            return;
        }
        let wished: Vec<SegmentId> = self.state.ledger().wished().cloned().collect();
        let planner = self.planner.lock();
        let differs = |id: &SegmentId| self.wish(id).map(|wish| wish.copies) != planner.copies(id);
        let differing: Vec<SegmentId> = wished.into_iter().filter(differs).collect();
        drop(planner);
        self.state.note_moved(differing);
    }

    /// To try where copies would go.
    pub fn trial(&self) -> Trial {
        self.planner.lock().trial()
    }

    /// How many segments rules keep hot.
    pub fn kept_count(&self) -> usize {
        self.kept.lock().segments.len()
    }

    /// Segments that rules keep hot, without those that have a wish of their own.
    pub fn kept(&self) -> Vec<SegmentId> {
        let mut kept: Vec<SegmentId> = self.kept.lock().segments.keys().cloned().collect();
        let ledger = self.state.ledger();
        kept.retain(|id| !ledger.is_wished(id.as_str()));
        kept
    }

    /// Whether `id` is raised, pinned, lowered by hand, or kept hot by a rule.
    pub fn is_wanted(&self, id: &SegmentId) -> bool {
        self.kept.lock().segments.contains_key(id) || self.state.ledger().is_wished(id.as_str())
    }

    /// Such segments after `after`, by id, at most `limit` of those that `takes` lets through. Costs what is
    /// passed over and taken, whatever the number of segments.
    pub fn wanted_after(
        &self,
        after: Option<&SegmentId>,
        limit: usize,
        takes: impl Fn(&SegmentId) -> bool,
    ) -> Vec<SegmentId> {
        let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let kept = self.kept.lock();
        let ledger = self.state.ledger();
        let by_rule = kept.segments.range::<SegmentId, _>(from).map(|(id, _)| id);
        in_order(by_rule, ledger.wished_after(after)).filter(|id| takes(id)).take(limit).cloned().collect()
    }

    /// How many such segments there are.
    pub fn wanted_count(&self) -> u64 {
        let kept = self.kept.lock();
        let ledger = self.state.ledger();
        let wished = ledger.wished_count();
        // What is in both is counted once. Few have a wish where rules keep many, or the other way round.
        let both = if (kept.segments.len() as u64) < wished {
            kept.segments.keys().filter(|id| ledger.is_wished(id.as_str())).count()
        } else {
            ledger.wished().filter(|id| kept.segments.contains_key(*id)).count()
        };
        kept.segments.len() as u64 + wished - both as u64
    }
}
