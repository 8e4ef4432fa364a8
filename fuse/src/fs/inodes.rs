//! Inode numbers: which number stands for which generation of which path, and for how long.
//!
//! A number is a hash of path and generation, so it is the same after the kernel forgot it and after a
//! remount, and another one as soon as the file is replaced. Pages that the kernel caches under a
//! number are therefore never stale. Directories are numbered by path alone: their entries change, their
//! identity does not.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::store::{Generation, StorePath};

/// The root's number, fixed by the kernel.
pub const ROOT: u64 = 1;

/// What a number stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeKey {
    /// Where it is.
    pub path: Arc<StorePath>,
    /// Which version of a file; `None` for a directory.
    pub generation: Option<Generation>,
}

impl NodeKey {
    /// 128 bits that stand for this path and generation in the block cache.
    pub fn digest(&self) -> u128 {
        let mut hash = Xxh3::new();
        hash.update(self.path.as_str().as_bytes());
        // No path holds a NUL, so no directory's input is the beginning of a file's.
        hash.update(&[0]);
        if let Some(generation) = self.generation {
            hash.update(&generation.0);
        }
        hash.digest128()
    }

    fn number(&self) -> u64 {
        let mut input = Vec::with_capacity(self.path.as_str().len() + 17);
        input.extend_from_slice(self.path.as_str().as_bytes());
        input.push(0);
        if let Some(generation) = self.generation {
            input.extend_from_slice(&generation.0);
        }
        xxh3_64(&input)
    }
}

#[derive(Debug)]
struct Node {
    key: NodeKey,
    /// How often the kernel was told this number and has not taken it back.
    lookups: u64,
}

/// The numbers that the kernel knows. Its size is the kernel's choice: one entry for each inode that the
/// kernel holds; [`InodeTable::victims`] names those it should be asked to give up.
#[derive(Debug)]
pub struct InodeTable {
    nodes: HashMap<u64, Node>,
    numbers: HashMap<NodeKey, u64>,
    hash: fn(&NodeKey) -> u64,
}

impl Default for InodeTable {
    fn default() -> Self {
        Self::with_hash(NodeKey::number)
    }
}

impl InodeTable {
    fn with_hash(hash: fn(&NodeKey) -> u64) -> Self {
        let root = NodeKey { path: Arc::new(StorePath::root()), generation: None };
        Self {
            numbers: HashMap::from([(root.clone(), ROOT)]),
            // The kernel never looks the root up and never forgets it.
            nodes: HashMap::from([(ROOT, Node { key: root, lookups: 1 })]),
            hash,
        }
    }

    /// What `ino` stands for; `None` if the kernel does not know it.
    pub fn get(&self, ino: u64) -> Option<&NodeKey> {
        self.nodes.get(&ino).map(|node| &node.key)
    }

    /// The number that `key` has or would get. Not counted as a lookup.
    pub fn number(&self, key: &NodeKey) -> u64 {
        if let Some(&ino) = self.numbers.get(key) {
            return ino;
        }
        let mut ino = (self.hash)(key);
        // 0 means "no entry" to the kernel, 1 is the root; another key in the place is a collision.
        while ino <= ROOT || self.nodes.contains_key(&ino) {
            ino = ino.wrapping_add(1);
        }
        ino
    }

    /// The number of `key`, counted as told to the kernel once more.
    pub fn look_up(&mut self, key: NodeKey) -> u64 {
        let ino = self.number(&key);
        match self.nodes.entry(ino) {
            Entry::Occupied(mut node) => node.get_mut().lookups += 1,
            Entry::Vacant(place) => {
                self.numbers.insert(key.clone(), ino);
                place.insert(Node { key, lookups: 1 });
            }
        }
        ino
    }

    /// The kernel takes back `count` lookups of `ino`.
    pub fn forget(&mut self, ino: u64, count: u64) {
        if ino == ROOT {
            return;
        }
        if let Entry::Occupied(mut node) = self.nodes.entry(ino) {
            let lookups = &mut node.get_mut().lookups;
            *lookups = lookups.saturating_sub(count);
            if *lookups == 0 {
                let node = node.remove();
                self.numbers.remove(&node.key);
            }
        }
    }

    /// How many numbers the kernel holds, the root included.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Up to `count` nodes, not in `keep`, that the kernel may be asked to give up, each as the number
    /// of its directory and its path. Directories whose entries the kernel holds cannot go before them,
    /// so files come first.
    pub fn victims(&self, count: usize, keep: &HashSet<u64>) -> Vec<(u64, Arc<StorePath>)> {
        let mut victims = Vec::with_capacity(count);
        for files in [true, false] {
            for (ino, node) in &self.nodes {
                if victims.len() == count {
                    return victims;
                }
                if node.key.generation.is_some() == files
                    && !keep.contains(ino)
                    && let Some(parent) = node.key.path.parent()
                    && let Some(&parent) =
                        self.numbers.get(&NodeKey { path: Arc::new(parent), generation: None })
                {
                    victims.push((parent, node.key.path.clone()));
                }
            }
        }
        victims
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(path: &str, generation: Option<u8>) -> NodeKey {
        NodeKey {
            path: Arc::new(StorePath::parse(path).expect("a valid path")),
            generation: generation.map(|byte| Generation([byte; 16])),
        }
    }

    #[test]
    fn a_number_survives_forgetting_and_changes_with_the_generation() {
        let mut table = InodeTable::default();
        let first = table.look_up(key("/a", Some(1)));
        assert_eq!(table.look_up(key("/a", Some(1))), first);
        table.forget(first, 2);
        assert!(table.get(first).is_none());
        assert_eq!(table.look_up(key("/a", Some(1))), first);
        assert_ne!(table.look_up(key("/a", Some(2))), first);
        assert_ne!(table.look_up(key("/a", None)), first);
        assert_eq!(InodeTable::default().number(&key("/a", Some(1))), first, "after a remount");
        assert_eq!(table.number(&key("/", None)), ROOT);
    }

    #[test]
    fn the_root_is_never_forgotten() {
        let mut table = InodeTable::default();
        table.forget(ROOT, 1000);
        assert!(table.get(ROOT).is_some());
    }

    #[test]
    fn victims_spare_what_is_in_use() {
        let mut table = InodeTable::default();
        let dir = table.look_up(key("/d", None));
        let used = table.look_up(key("/d/used", Some(1)));
        table.look_up(key("/d/idle", Some(1)));
        let victims = table.victims(10, &HashSet::from([used]));
        assert_eq!(victims[0], (dir, key("/d/idle", None).path));
        assert!(victims.iter().all(|(_, path)| path.name() != "used"));
    }

    proptest! {
        /// With a hash of four values nearly everything collides: every key still has one number of its
        /// own for as long as the kernel holds it, and counts are kept.
        #[test]
        fn collisions_are_told_apart(
            steps in prop::collection::vec((0_u8..12, any::<bool>(), 1_u64..3), 1..200),
        ) {
            let mut table = InodeTable::with_hash(|key| key.number() % 4);
            let mut model: HashMap<NodeKey, (u64, u64)> = HashMap::new();
            for (which, look_up, count) in steps {
                let key = key(&format!("/f{}", which / 3), (which % 3 > 0).then_some(which % 3));
                if look_up {
                    let ino = table.look_up(key.clone());
                    let entry = model.entry(key).or_insert((ino, 0));
                    prop_assert_eq!(entry.0, ino);
                    entry.1 += 1;
                } else if let Some((ino, held)) = model.get_mut(&key) {
                    table.forget(*ino, count);
                    *held = held.saturating_sub(count);
                    if *held == 0 {
                        model.remove(&key);
                    }
                }
                let numbers: HashSet<u64> = model.values().map(|(ino, _)| *ino).collect();
                prop_assert_eq!(numbers.len(), model.len());
                prop_assert!(!numbers.contains(&0) && !numbers.contains(&ROOT));
                prop_assert_eq!(table.count(), model.len() + 1);
                for (key, (ino, _)) in &model {
                    prop_assert_eq!(table.get(*ino), Some(key));
                }
            }
        }
    }
}
