//! What one hot worker is to hold, versioned, so that it is told only what changed.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::drops::Drops;
use crate::{
    api::hot::{AssignedSegment, Assignment},
    segment::SegmentId,
};

/// Changes remembered; a worker that is further behind is told all.
const LOG_MAX: usize = 10_000;

/// A worker that was silent for so long is forgotten, with what it said and was given.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

/// The assignments of all workers.
#[derive(Debug)]
pub(super) struct Desks {
    first_version: u64,
    desks: HashMap<Arc<str>, Desk>,
    /// When a worker was alive last, or was first heard of.
    seen: HashMap<Arc<str>, Instant>,
}

impl Desks {
    /// `first_version`: above every one of the gateway's earlier starts.
    pub(super) fn new(first_version: u64) -> Self {
        Self { first_version, desks: HashMap::new(), seen: HashMap::new() }
    }

    /// The desk of a worker, made at its first mention.
    pub(super) fn of(&mut self, worker: &str) -> &mut Desk {
        if !self.desks.contains_key(worker) {
            self.desks.insert(worker.into(), Desk::new(self.first_version));
        }
        self.desks.get_mut(worker).expect("inserted just above")
    }

    pub(super) fn knows(&self, worker: &str) -> bool {
        self.desks.contains_key(worker)
    }

    /// Whether `worker` is to hold `id`.
    pub(super) fn holds(&self, worker: &str, id: &SegmentId) -> bool {
        self.desks.get(worker).is_some_and(|desk| desk.hold.contains_key(id))
    }

    /// Number of segments that `worker` is to hold.
    pub(super) fn count(&self, worker: &str) -> u64 {
        self.desks.get(worker).map_or(0, |desk| desk.hold.len() as u64)
    }

    /// Workers that are to hold `id`, and what of it.
    pub(super) fn holding<'a>(
        &'a self,
        id: &'a SegmentId,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a AssignedSegment)> {
        self.desks.iter().filter_map(|(worker, desk)| desk.hold.get(id).map(|held| (worker, held)))
    }

    /// What kept workers from giving something up may have gone.
    pub(super) fn reconsider_all(&mut self) {
        for desk in self.desks.values_mut().filter(|desk| !desk.drops.is_empty()) {
            desk.drops.all();
            desk.version += 1;
        }
    }

    /// Forgets workers that were silent for an hour.
    pub(super) fn forget(&mut self, now: Instant, is_live: impl Fn(&str) -> bool) {
        for worker in self.desks.keys() {
            if is_live(worker) || !self.seen.contains_key(worker) {
                self.seen.insert(worker.clone(), now);
            }
        }
        self.seen.retain(|_, seen| now < *seen + FORGET_AFTER);
        self.desks.retain(|worker, _| self.seen.contains_key(worker));
    }
}

/// The assignment of one worker.
#[derive(Debug)]
pub(super) struct Desk {
    version: u64,
    hold: HashMap<SegmentId, AssignedSegment>,
    /// Which segment was added or changed, and the version of that.
    log: VecDeque<(u64, SegmentId)>,
    /// The log is whole for whoever has this version or a later one.
    log_from: u64,
    drops: Drops,
}

impl Desk {
    /// Nothing to hold. `version`: above every one of the gateway's earlier starts.
    pub(super) fn new(version: u64) -> Self {
        Self {
            version,
            hold: HashMap::new(),
            log: VecDeque::new(),
            log_from: version,
            drops: Drops::default(),
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// `segment` is to be held from now on in this way, or not any more.
    pub(super) fn set(&mut self, id: &SegmentId, segment: Option<AssignedSegment>) {
        if self.hold.get(id) == segment.as_ref() {
            return;
        }
        self.version += 1;
        match segment {
            Some(segment) => {
                self.hold.insert(id.clone(), segment);
                self.drops.remove(id);
                self.log.push_back((self.version, id.clone()));
                if self.log.len() > LOG_MAX
                    && let Some((version, _)) = self.log.pop_front()
                {
                    self.log_from = version;
                }
            }
            None => {
                self.hold.remove(id);
                self.drops.add(id);
            }
        }
    }

    /// The worker's manifest says that it has something of `id`, or has it no more.
    pub(super) fn reported(&mut self, id: &SegmentId, is_there: bool) {
        if !is_there {
            self.drops.remove(id);
        } else if !self.hold.contains_key(id) && !self.drops.contains(id) {
            self.drops.add(id);
            self.version += 1;
        }
    }

    /// What kept the worker from giving `id` up may have gone.
    pub(super) fn reconsider(&mut self, id: &SegmentId) {
        if self.drops.contains(id) {
            self.drops.add(id);
            self.version += 1;
        }
    }

    /// What a worker that has version `since` does not know, and what it may give up: of that a bounded number,
    /// and the rest in the versions after. `may_go`: whether a copy may be given up now; `is_there`: whether
    /// the worker's manifest has it.
    pub(super) fn tell(
        &mut self,
        since: Option<u64>,
        may_go: impl Fn(&SegmentId) -> bool,
        is_there: impl Fn(&SegmentId) -> bool,
    ) -> Assignment {
        let version = self.version;
        let base = since.filter(|since| (self.log_from..=version).contains(since));
        let hold = match base {
            None => self.hold.values().cloned().collect(),
            Some(base) => {
                let from = self.log.partition_point(|(version, _)| *version <= base);
                let mut changed: Vec<&SegmentId> = self.log.range(from..).map(|(_, id)| id).collect();
                changed.sort_unstable();
                changed.dedup();
                changed.into_iter().filter_map(|id| self.hold.get(id).cloned()).collect()
            }
        };
        let (drop, more) = self.drops.tell(base, version, may_go, is_there);
        if more {
            self.version += 1; // it asks again
        }
        Assignment { version, base, hold, drop }
    }
}
