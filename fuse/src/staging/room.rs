//! How much may lie staged, and how much does.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Room is counted in units of this many bytes. Disks give it in smaller ones; but what is known of them
/// has to stay small for large files as well.
pub(super) const UNIT_BYTES: u64 = 16 << 10;

/// A bound of bytes, and what of it is taken.
#[derive(Debug)]
pub struct Room {
    bytes_max: u64,
    taken: AtomicU64,
}

impl Room {
    /// An empty one.
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, taken: AtomicU64::new(0) }
    }

    /// The bound in bytes.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Bytes that are taken; more than the bound only after it was made smaller.
    pub fn bytes(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    /// Takes `units`, or nothing if there is no room for all of them.
    pub(super) fn take(&self, units: u64) -> bool {
        let bytes = units.saturating_mul(UNIT_BYTES);
        let fits = |taken: u64| taken.checked_add(bytes).filter(|sum| bytes == 0 || *sum <= self.bytes_max);
        self.taken.fetch_update(Relaxed, Relaxed, fits).is_ok()
    }

    /// Takes `units` that lie there already.
    pub(super) fn take_anyway(&self, units: u64) {
        self.taken.fetch_add(units * UNIT_BYTES, Relaxed);
    }

    pub(super) fn give(&self, units: u64) {
        self.taken.fetch_sub(units * UNIT_BYTES, Relaxed);
    }
}

/// Which units of a file take room: those that were written to. Holes take none.
#[derive(Debug, Default)]
pub struct Units {
    /// 64 units in each: at most one entry per unit, about one per MiB in files written in runs.
    groups: BTreeMap<u64, u64>,
    count: u64,
}

impl Units {
    /// Units that take room.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many more it would be if the bytes from `start` to `end` were written.
    pub fn missing(&self, start: u64, end: u64) -> u64 {
        let known = |(group, mask): (u64, u64)| {
            let there = self.groups.get(&group).copied().unwrap_or_default();
            u64::from((mask & !there).count_ones())
        };
        masks(start, end).map(known).sum()
    }

    /// The bytes from `start` to `end` are written.
    pub fn add(&mut self, start: u64, end: u64) {
        self.count += self.missing(start, end);
        for (group, mask) in masks(start, end) {
            *self.groups.entry(group).or_default() |= mask;
        }
    }

    /// The file is cut to `len` bytes. Gives the number of units that take no room any more.
    pub fn cut(&mut self, len: u64) -> u64 {
        let first = len.div_ceil(UNIT_BYTES);
        let mut gone = 0;
        for mask in self.groups.split_off(&(first / 64 + 1)).into_values() {
            gone += u64::from(mask.count_ones());
        }
        if let Some(mask) = self.groups.get_mut(&(first / 64)) {
            let keep = (1_u64 << (first % 64)) - 1;
            gone += u64::from((*mask & !keep).count_ones());
            *mask &= keep;
        }
        self.count -= gone;
        gone
    }
}

/// The units that the bytes from `start` to `end` touch, as groups and bits in them.
fn masks(start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    let (first, past) = (start / UNIT_BYTES, if end > start { end.div_ceil(UNIT_BYTES) } else { 0 });
    let groups = if past > first { first / 64..past.div_ceil(64) } else { 0..0 };
    groups.map(move |group| {
        let low = first.max(group * 64) - group * 64;
        let high = past.min((group + 1) * 64) - group * 64;
        (group, (u64::MAX << low) & (u64::MAX >> (64 - high)))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn units_are_those_of_a_plain_set(
            steps in prop::collection::vec((any::<bool>(), 0_u64..4 << 20, 0_u64..2 << 20), 1..40),
        ) {
            let (mut units, mut model) = (Units::default(), BTreeSet::new());
            for (cut, start, len) in steps {
                if cut {
                    let before = model.len();
                    model.retain(|unit| unit * UNIT_BYTES < start);
                    prop_assert_eq!(units.cut(start), (before - model.len()) as u64);
                } else {
                    let touched = (start..start + len).step_by(1024).chain([start + len - 1]);
                    let touched: BTreeSet<u64> = touched.filter(|_| len > 0).map(|at| at / UNIT_BYTES).collect();
                    prop_assert_eq!(units.missing(start, start + len), touched.difference(&model).count() as u64);
                    units.add(start, start + len);
                    model.extend(touched);
                }
                prop_assert_eq!(units.count(), model.len() as u64);
            }
        }
    }

    #[test]
    fn no_more_than_the_bound() {
        let room = Room::new(4 * UNIT_BYTES);
        assert!(room.take(3) && !room.take(2) && room.take(1) && room.take(0));
        room.give(2);
        assert_eq!(room.bytes(), 2 * UNIT_BYTES);
        room.take_anyway(9);
        assert!(!room.take(1) && room.take(0));
    }
}
