//! The segments of one directory in three arrays: at 10 million segments every byte counts, and an
//! object per segment would cost several times as much.

use std::cmp::Ordering;

use crate::store::Generation;

/// Most segments of one directory, so that offsets fit 32 bits: 2³² bytes / 200 bytes an id, rounded
/// down. HDFS allows 1,048,576 entries.
pub const DIRECTORY_SEGMENTS_MAX: usize = 16_000_000;

/// What the catalog knows of a segment besides its name and place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Which version.
    pub generation: Generation,
    /// Length in bytes.
    pub size: u64,
    /// Last modification, ms since 1970.
    pub mtime_ms: i64,
}

/// Segments in order of their ids (bytewise), each id once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    /// All ids, one after the other.
    ids: String,
    /// End of each id in `ids`.
    ends: Vec<u32>,
    facts: Vec<Facts>,
}

/// One difference between two versions of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// Only in the new version, at this index of it.
    Added(usize),
    /// In both with other facts, at this index of the new version.
    Changed(usize),
    /// Only in the old version, at this index of it.
    Removed(usize),
}

impl Packed {
    /// From any order. Of an id that comes twice (no store lists a name twice) the last stays.
    pub fn from_unsorted(mut segments: Vec<(String, Facts)>) -> Self {
        segments.sort_by(|a, b| a.0.cmp(&b.0));
        segments.truncate(DIRECTORY_SEGMENTS_MAX);
        let mut packed = Self {
            ids: String::with_capacity(segments.iter().map(|(id, _)| id.len()).sum()),
            ends: Vec::with_capacity(segments.len()),
            facts: Vec::with_capacity(segments.len()),
        };
        for (id, facts) in segments {
            if packed.last() == Some(id.as_str()) {
                packed.pop();
            }
            packed.push(&id, facts);
        }
        packed
    }

    /// Appends; `false` and nothing done if `id` is not above the last one or there is no room.
    pub fn push(&mut self, id: &str, facts: Facts) -> bool {
        if self.last().is_some_and(|last| last >= id) || self.len() >= DIRECTORY_SEGMENTS_MAX {
            return false;
        }
        let Ok(end) = u32::try_from(self.ids.len() + id.len()) else { return false };
        self.ids.push_str(id);
        self.ends.push(end);
        self.facts.push(facts);
        true
    }

    /// Inserts, or replaces the facts.
    pub fn put(&mut self, id: &str, facts: Facts) {
        match self.find(id) {
            Ok(index) => self.facts[index] = facts,
            Err(index) => self.rebuild(|new, old| {
                old.copy_into(new, 0..index);
                new.push(id, facts);
                old.copy_into(new, index..old.len());
            }),
        }
    }

    /// Removes `id` if it is there.
    pub fn remove(&mut self, id: &str) {
        if let Ok(index) = self.find(id) {
            self.rebuild(|new, old| {
                old.copy_into(new, 0..index);
                old.copy_into(new, index + 1..old.len());
            });
        }
    }

    /// Number of segments.
    pub fn len(&self) -> usize {
        self.facts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    /// The id at `index`, which must be below `len`.
    pub fn id(&self, index: usize) -> &str {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        &self.ids[start..self.ends[index] as usize]
    }

    /// The facts at `index`, which must be below `len`.
    pub fn facts(&self, index: usize) -> Facts {
        self.facts[index]
    }

    /// The facts of `id`.
    pub fn get(&self, id: &str) -> Option<Facts> {
        self.find(id).ok().map(|index| self.facts[index])
    }

    /// Index of `id`, or where it would be.
    pub fn find(&self, id: &str) -> Result<usize, usize> {
        let at = self.lower_bound(id);
        if at < self.len() && self.id(at) == id { Ok(at) } else { Err(at) }
    }

    /// Index of the first id that is not below `text`.
    pub fn lower_bound(&self, text: &str) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.id(middle) < text { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// All in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Facts)> {
        (0..self.len()).map(|index| (self.id(index), self.facts[index]))
    }

    /// What has to happen to `old` to make it `self`, in order of ids.
    pub fn differences<'a>(&'a self, old: &'a Self) -> impl Iterator<Item = Difference> + 'a {
        let (mut i, mut j) = (0, 0);
        std::iter::from_fn(move || {
            loop {
                let order = match (i < self.len(), j < old.len()) {
                    (false, false) => return None,
                    (true, false) => Ordering::Less,
                    (false, true) => Ordering::Greater,
                    (true, true) => self.id(i).cmp(old.id(j)),
                };
                match order {
                    Ordering::Less => {
                        i += 1;
                        return Some(Difference::Added(i - 1));
                    }
                    Ordering::Greater => {
                        j += 1;
                        return Some(Difference::Removed(j - 1));
                    }
                    Ordering::Equal => {
                        (i, j) = (i + 1, j + 1);
                        if self.facts[i - 1] != old.facts[j - 1] {
                            return Some(Difference::Changed(i - 1));
                        }
                    }
                }
            }
        })
    }

    /// Whether `self[range]` equals `other[other_range]`.
    pub fn same(
        &self,
        range: std::ops::Range<usize>,
        other: &Self,
        other_range: std::ops::Range<usize>,
    ) -> bool {
        self.facts[range.clone()] == other.facts[other_range.clone()]
            && range.zip(other_range).all(|(i, j)| self.id(i) == other.id(j))
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.ids.capacity() + self.ends.capacity() * 4 + self.facts.capacity() * size_of::<Facts>()
    }

    /// Gives unused room back.
    pub fn shrink(&mut self) {
        self.ids.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.facts.shrink_to_fit();
    }

    fn last(&self) -> Option<&str> {
        self.len().checked_sub(1).map(|index| self.id(index))
    }

    fn pop(&mut self) {
        if let Some(index) = self.len().checked_sub(1) {
            let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
            self.ids.truncate(start);
            self.ends.truncate(index);
            self.facts.truncate(index);
        }
    }

    fn copy_into(&self, new: &mut Self, range: std::ops::Range<usize>) {
        for index in range {
            new.push(self.id(index), self.facts[index]);
        }
    }

    fn rebuild(&mut self, build: impl FnOnce(&mut Self, &Self)) {
        let mut new = Self {
            ids: String::with_capacity(self.ids.len() + 200),
            ends: Vec::with_capacity(self.len() + 1),
            facts: Vec::with_capacity(self.len() + 1),
        };
        build(&mut new, self);
        new.shrink();
        *self = new;
    }
}
