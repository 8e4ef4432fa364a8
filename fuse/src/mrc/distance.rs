//! How many different keys were referred to since a time: a Fenwick tree over times.

/// Times at which a key was last referred to.
#[derive(Debug, Default)]
pub(super) struct Recency {
    /// Fenwick tree; index 0 is unused.
    tree: Vec<u32>,
    present: u64,
}

impl Recency {
    /// Adds `time`, which is later than all before.
    pub(super) fn insert(&mut self, time: u64) {
        let index = time as usize;
        while self.tree.len() <= index {
            // A new node covers the nodes that it is the parent of.
            let new = self.tree.len();
            let mut sum = 0;
            let mut child = 1;
            while new > 0 && child < new & new.wrapping_neg() {
                sum += self.tree[new - child];
                child <<= 1;
            }
            self.tree.push(sum);
        }
        self.add(index, true);
        self.present += 1;
    }

    pub(super) fn remove(&mut self, time: u64) {
        self.add(time as usize, false);
        self.present -= 1;
    }

    /// How many times later than `time` are present.
    pub(super) fn since(&self, time: u64) -> u64 {
        let mut index = time as usize;
        let mut before = 0;
        while index > 0 {
            before += u64::from(self.tree[index]);
            index &= index - 1;
        }
        self.present - before
    }

    /// Whether so many places are empty that numbering anew pays.
    pub(super) fn is_worn(&self, keys: usize) -> bool {
        self.tree.len() > 4 * keys + 1024
    }

    fn add(&mut self, mut index: usize, more: bool) {
        while index < self.tree.len() {
            if more {
                self.tree[index] += 1;
            } else {
                self.tree[index] -= 1;
            }
            index += index & index.wrapping_neg();
        }
    }
}
