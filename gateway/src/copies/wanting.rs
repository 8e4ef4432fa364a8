//! Segments that found no room for all of their copies, and when it is worth trying them again.
//!
//! Room on one worker makes a difference only to segments that did not fit there before and do now. So for
//! each worker the least room is kept that it had since all that want were tried on it; once there is more,
//! those whose size lies between are tried, smallest first. A look that finds no more room than before
//! costs a comparison for each worker.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use crate::segment::SegmentId;

/// Segments looked at in one go; the others are looked at in the next.
pub(super) const LOOKS_MAX: usize = 10_000;

/// The room of a worker is given as the smallest size that does not fit: 0 if nothing does.
#[derive(Debug, Default)]
pub(super) struct Wanting {
    by_size: BTreeMap<u64, BTreeSet<SegmentId>>,
    least_room: Vec<u64>,
    /// There is room that has not been offered to all: on from this size, behind this segment of it.
    from: Option<(u64, Option<SegmentId>)>,
    looks_left: usize,
}

impl Wanting {
    /// Nobody wants anything of so many workers: all is about to be placed anew.
    pub(super) fn clear(&mut self, workers: usize) {
        *self = Self { least_room: vec![u64::MAX; workers], ..Self::default() };
    }

    /// `id` was tried and wants more than it got.
    pub(super) fn insert(&mut self, size: u64, id: SegmentId, room: impl Iterator<Item = u64>) {
        self.by_size.entry(size).or_default().insert(id);
        self.tried(room);
    }

    /// `id` is about to be tried, or wants nothing any more.
    pub(super) fn remove(&mut self, size: u64, id: &SegmentId) {
        if let Some(ids) = self.by_size.get_mut(&size) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_size.remove(&size);
            }
        }
    }

    /// Whoever was tried until now was tried with so much room on each worker, or less.
    pub(super) fn tried(&mut self, room: impl Iterator<Item = u64>) {
        for (least, room) in self.least_room.iter_mut().zip(room) {
            *least = (*least).min(room);
        }
    }

    /// Takes up how much room each worker has by now; what it is enough for is told by [`Self::next`].
    pub(super) fn offer(&mut self, room: impl Iterator<Item = u64>) {
        self.looks_left = LOOKS_MAX;
        for (least, room) in self.least_room.iter_mut().zip(room) {
            if room > *least && self.from.as_ref().is_none_or(|(size, _)| *least <= *size) {
                self.from = Some((*least, None));
            }
            *least = room;
        }
        if self.by_size.is_empty() {
            self.from = None;
        }
    }

    /// Whether [`Self::next`] may have one.
    pub(super) fn is_offered(&self) -> bool {
        self.from.is_some()
    }

    /// The next one to try that `may_fit`, given its size. `room`: no worker has more.
    pub(super) fn next(&mut self, room: u64, may_fit: impl Fn(u64, &SegmentId) -> bool) -> Option<SegmentId> {
        loop {
            let (size, last) = self.from.as_ref()?;
            let Some((size, id)) = self.on_from(*size, last.as_ref()).filter(|(size, _)| *size < room) else {
                self.from = None;
                return None;
            };
            let id = id.clone();
            self.looks_left = self.looks_left.checked_sub(1)?;
            self.from = Some((size, Some(id.clone())));
            if may_fit(size, &id) {
                return Some(id);
            }
        }
    }

    fn on_from(&self, size: u64, last: Option<&SegmentId>) -> Option<(u64, &SegmentId)> {
        let behind = (last.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let of_this = self.by_size.get(&size).and_then(|ids| ids.range::<SegmentId, _>(behind).next());
        of_this.map(|id| (size, id)).or_else(|| {
            let (size, ids) = self.by_size.range((Bound::Excluded(size), Bound::Unbounded)).next()?;
            ids.first().map(|id| (*size, id))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> SegmentId {
        SegmentId::parse(&n.to_string()).expect("digits are an id")
    }

    fn wanting(sizes: &[u64], room: u64) -> Wanting {
        let mut wanting = Wanting::default();
        wanting.clear(1);
        for (n, size) in sizes.iter().enumerate() {
            wanting.insert(*size, id(n), [room].into_iter());
        }
        wanting
    }

    /// Those that are offered `room`, with how often somebody was asked whether it fits.
    fn offered(wanting: &mut Wanting, room: u64) -> (Vec<SegmentId>, usize) {
        let looks = std::cell::Cell::new(0);
        let may_fit = |_: u64, _: &SegmentId| {
            looks.set(looks.get() + 1);
            true
        };
        wanting.offer([room].into_iter());
        let found: Vec<SegmentId> = std::iter::from_fn(|| wanting.next(room, may_fit)).collect();
        (found, looks.get())
    }

    #[test]
    fn only_those_that_did_not_fit_before_are_looked_at() {
        // 5 is large enough and is missing a worker for another reason.
        let mut wanting = wanting(&[5, 20, 10, 30], 10);
        assert_eq!(offered(&mut wanting, 10), (vec![], 0), "no more room than before");
        assert_eq!(offered(&mut wanting, 20), (vec![id(2)], 1));
        assert_eq!(offered(&mut wanting, 20), (vec![], 0), "it was tried");
        // Less is seen, then as much as before.
        wanting.tried([3].into_iter());
        assert_eq!(offered(&mut wanting, 20), (vec![id(0), id(2)], 2));
        wanting.remove(20, &id(1));
        assert_eq!(offered(&mut wanting, 100), (vec![id(3)], 1));
    }

    #[test]
    fn one_go_looks_at_so_many_and_the_next_goes_on() {
        let sizes: Vec<u64> = (0..LOOKS_MAX as u64 + 10).map(|n| 10 + n / 100).collect();
        let mut wanting = wanting(&sizes, 0);
        let (first, looks) = offered(&mut wanting, 1_000);
        assert_eq!((first.len(), looks), (LOOKS_MAX, LOOKS_MAX));
        assert!(wanting.is_offered());
        let (rest, looks) = offered(&mut wanting, 1_000);
        assert_eq!((rest.len(), looks), (10, 10));
        let all: BTreeSet<SegmentId> = first.into_iter().chain(rest).collect();
        assert_eq!(all.len(), sizes.len());
        assert_eq!(offered(&mut wanting, 1_000), (vec![], 0));
    }

    #[test]
    fn room_that_is_taken_meanwhile_ends_the_search() {
        let mut wanting = wanting(&[5, 6, 7], 0);
        wanting.offer([8].into_iter());
        assert_eq!(wanting.next(8, |_, _| true), Some(id(0)));
        assert_eq!(wanting.next(3, |_, _| true), None);
        assert!(!wanting.is_offered());
    }
}
