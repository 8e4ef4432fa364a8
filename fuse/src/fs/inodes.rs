//! Inode numbers: which number stands for which generation of which path, and for how long.
//!
//! A number is a hash of path and generation, so it is the same after the kernel forgot it and after a
//! remount, and another one as soon as the file is replaced. Pages that the kernel caches under a
//! number are therefore never stale. Directories are numbered by path alone: their entries change, their
//! identity does not.
//!
//! A file that is being written has no generation to be named by yet. It gets a fresh number that was
//! never used for anything else, a *live* node, which settles on a generation when its last writer has
//! closed it. Nobody who has an older generation open shares a number, and so the kernel's pages, with a
//! writer. What moves takes its number along; what is deleted or replaced keeps its number to itself
//! until the kernel forgets it.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry},
    sync::Arc,
};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{live::Live, recall::Recalled};
use crate::store::{Generation, StorePath};

/// The root's number, fixed by the kernel.
pub const ROOT: u64 = 1;

/// What a number stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeKey {
    /// Where it is.
    pub path: Arc<StorePath>,
    /// Which version of a file; `None` for a directory. Of a live file: that from which it goes on.
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
    /// What is being written under this number.
    live: Option<Arc<Live>>,
    /// The kernel may hold pages from the time when it was live: the next open has to drop them.
    written: bool,
    /// `false`: deleted, replaced or given up. Its path leads elsewhere.
    attached: bool,
}

/// The numbers that the kernel knows. Its size is the kernel's choice: one entry for each inode that the
/// kernel holds; [`InodeTable::victims`] names those it should be asked to give up.
#[derive(Debug)]
pub struct InodeTable {
    nodes: HashMap<u64, Node>,
    /// The attached nodes of each path: usually one, more while older generations are open.
    paths: HashMap<Arc<StorePath>, Vec<u64>>,
    /// Live nodes; few.
    live: HashSet<u64>,
    /// Numbers in the order of their first lookup; some are forgotten by now.
    order: VecDeque<u64>,
    fresh: u64,
    hash: fn(&NodeKey) -> u64,
}

impl Default for InodeTable {
    fn default() -> Self {
        Self::with_hash(NodeKey::number)
    }
}

impl InodeTable {
    fn with_hash(hash: fn(&NodeKey) -> u64) -> Self {
        let path = Arc::new(StorePath::root());
        let root = NodeKey { path: path.clone(), generation: None };
        // The kernel never looks the root up and never forgets it.
        let root = Node { key: root, lookups: 1, live: None, written: false, attached: true };
        Self {
            nodes: HashMap::from([(ROOT, root)]),
            paths: HashMap::from([(path, vec![ROOT])]),
            live: HashSet::new(),
            order: VecDeque::new(),
            fresh: 0,
            hash,
        }
    }

    /// What `ino` stands for; `None` if the kernel does not know it.
    pub fn get(&self, ino: u64) -> Option<&NodeKey> {
        self.nodes.get(&ino).map(|node| &node.key)
    }

    /// Whether the path of `ino` still leads to it, as far as this mount did not change that itself.
    pub fn attached(&self, ino: u64) -> bool {
        self.nodes.get(&ino).is_some_and(|node| node.attached)
    }

    /// The number that `key` has or would get. Not counted as a lookup.
    pub fn number(&self, key: &NodeKey) -> u64 {
        match self.find(key) {
            Some(ino) => ino,
            None => self.vacant((self.hash)(key)),
        }
    }

    fn find(&self, key: &NodeKey) -> Option<u64> {
        let same = |ino: &&u64| {
            self.nodes.get(ino).is_some_and(|n| n.key.generation == key.generation && n.live.is_none())
        };
        // The youngest: an older one may be a writer that changed nothing.
        self.paths.get(&key.path)?.iter().rev().find(same).copied()
    }

    fn vacant(&self, mut ino: u64) -> u64 {
        // 0 means "no entry" to the kernel, 1 is the root; another key in the place is a collision.
        while ino <= ROOT || self.nodes.contains_key(&ino) {
            ino = ino.wrapping_add(1);
        }
        ino
    }

    /// The number of `key`, counted as told to the kernel once more.
    pub fn look_up(&mut self, key: NodeKey) -> u64 {
        let ino = self.number(&key);
        match self.nodes.get_mut(&ino) {
            Some(node) => node.lookups += 1,
            None => self.insert(ino, Node { key, lookups: 1, live: None, written: false, attached: true }),
        }
        ino
    }

    fn insert(&mut self, ino: u64, node: Node) {
        self.paths.entry(node.key.path.clone()).or_default().push(ino);
        self.nodes.insert(ino, node);
        self.order.push_back(ino);
        // Forgotten ones are passed over by `victims`; most kernels never come that far.
        if self.order.len() > 2 * self.nodes.len() + 1024 {
            self.order.retain(|ino| self.nodes.contains_key(ino));
        }
    }

    /// Counts a number that is known as told to the kernel once more.
    pub(super) fn look_up_again(&mut self, ino: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.lookups += 1;
        }
    }

    /// The kernel takes back `count` lookups of `ino`.
    pub fn forget(&mut self, ino: u64, count: u64) {
        if ino == ROOT {
            return;
        }
        let Entry::Occupied(mut node) = self.nodes.entry(ino) else { return };
        node.get_mut().lookups = node.get().lookups.saturating_sub(count);
        // A live one goes when it settles: its writer may still be at work.
        if node.get().lookups == 0 && node.get().live.is_none() {
            let node = node.remove();
            self.unlist(&node.key.path, ino);
        }
    }

    fn unlist(&mut self, path: &Arc<StorePath>, ino: u64) {
        if let Entry::Occupied(mut inos) = self.paths.entry(path.clone()) {
            inos.get_mut().retain(|other| *other != ino);
            if inos.get().is_empty() {
                inos.remove();
            }
        }
    }

    /// A live node of `path` with a number of its own, in the place of what was there. Its lookups are
    /// not counted yet.
    pub(super) fn begin(&mut self, key: NodeKey, live: Arc<Live>) -> u64 {
        self.fresh += 1;
        let seed = NodeKey { path: key.path.clone(), generation: None }.number();
        let ino = self.vacant(seed.wrapping_add(self.fresh.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        self.insert(ino, Node { key, lookups: 0, live: Some(live), written: true, attached: true });
        self.live.insert(ino);
        ino
    }

    /// `key` stands for bytes that this mount just made: other numbers of it, which are of older ones, are
    /// given up; gives them. `now`: the numbers of the new bytes.
    pub(super) fn supersede(&mut self, key: &NodeKey, now: &[u64]) -> Vec<u64> {
        let mut old = self.paths.get(&key.path).cloned().unwrap_or_default();
        old.retain(|ino| {
            let same = |node: &Node| node.live.is_none() && node.key.generation == key.generation;
            !now.contains(ino) && self.nodes.get(ino).is_some_and(same)
        });
        old.iter().for_each(|ino| self.detach_node(*ino));
        old
    }

    /// What is being written under this number.
    pub(super) fn live(&self, ino: u64) -> Option<&Arc<Live>> {
        self.nodes.get(&ino)?.live.as_ref()
    }

    /// What is being written at this path.
    pub(super) fn live_at(&self, path: &Arc<StorePath>) -> Option<(u64, &Arc<Live>)> {
        self.paths.get(path)?.iter().rev().find_map(|ino| Some((*ino, self.live(*ino)?)))
    }

    /// All that is being written.
    pub(super) fn all_live(&self) -> Vec<(u64, Arc<Live>)> {
        self.live.iter().filter_map(|ino| Some((*ino, self.live(*ino)?.clone()))).collect()
    }

    /// The live node `ino` is of `generation` from now on; `None`: nobody knows of which.
    pub(super) fn settle(&mut self, ino: u64, generation: Option<Generation>) {
        self.live.remove(&ino);
        let Some(node) = self.nodes.get_mut(&ino) else { return };
        node.live = None;
        match generation {
            Some(_) => node.key.generation = generation,
            None => self.detach_node(ino),
        }
        self.forget(ino, 0);
    }

    /// Whether the kernel has to drop its pages at this open; asked once.
    pub(super) fn take_written(&mut self, ino: u64) -> bool {
        self.nodes.get_mut(&ino).is_some_and(|node| std::mem::take(&mut node.written))
    }

    /// The file has new attributes and therefore another generation, but the same bytes.
    pub(super) fn renew(&mut self, ino: u64, generation: Generation) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.key.generation = Some(generation);
        }
    }

    fn detach_node(&mut self, ino: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.attached = false;
            let path = node.key.path.clone();
            self.unlist(&path, ino);
        }
    }

    /// Nothing that is known of `path` is there any more. Gives what was being written there.
    pub(super) fn detach(&mut self, path: &Arc<StorePath>) -> Vec<Arc<Live>> {
        let inos = self.paths.get(path).cloned().unwrap_or_default();
        let live = inos.iter().filter_map(|ino| self.live(*ino).cloned()).collect();
        for ino in inos.into_iter().filter(|ino| *ino != ROOT) {
            self.detach_node(ino);
        }
        live
    }

    /// `from` and all below it is at `to` from now on. Gives the files of it, with their numbers.
    ///
    /// For a directory this walks the whole table under its lock: 50 ms for a million inodes, once for
    /// each directory that is renamed.
    pub(super) fn rename(&mut self, from: &Arc<StorePath>, to: &Arc<StorePath>) -> Vec<u64> {
        let is_dir = |ino: &u64| self.nodes.get(ino).is_some_and(|n| n.key.generation.is_none());
        let directory = self.paths.get(from).is_none_or(|inos| inos.iter().any(is_dir));
        let mut moved = Vec::new();
        if directory {
            let below = format!("{from}/");
            let inside = self.paths.keys().filter(|path| path.as_str().starts_with(&below)).cloned();
            for old in inside.collect::<Vec<_>>() {
                // What was a path below `from` is one below `to`, unless it gets too long for the store.
                match StorePath::parse(&format!("{to}{}", &old.as_str()[from.as_str().len()..])) {
                    Ok(new) => self.put(&old, &Arc::new(new), &mut moved),
                    Err(_) => drop(self.detach(&old)),
                }
            }
        }
        self.put(from, to, &mut moved);
        moved
    }

    fn put(&mut self, from: &Arc<StorePath>, to: &Arc<StorePath>, moved: &mut Vec<u64>) {
        let Some(inos) = self.paths.remove(from) else { return };
        for ino in &inos {
            if let Some(node) = self.nodes.get_mut(ino) {
                node.key.path = to.clone();
                if let Some(live) = &node.live {
                    live.moved(to.clone());
                }
                if node.key.generation.is_some() {
                    moved.push(*ino);
                }
            }
        }
        self.paths.entry(to.clone()).or_default().extend(inos);
    }

    /// The number of the directory that `path` lies in, if the kernel holds it.
    pub(super) fn directory_of(&self, path: &StorePath) -> Option<u64> {
        let parent = Arc::new(path.parent()?);
        self.find(&NodeKey { path: parent, generation: None })
    }

    /// Everything that the kernel holds under a number, and the name that leads there. What is being
    /// written is left out: the kernel keeps nothing of it.
    pub(super) fn entries(&self) -> Vec<Recalled> {
        let settled = self.nodes.iter().filter(|(_, node)| node.live.is_none());
        settled
            .map(|(&ino, node)| {
                let path = &node.key.path;
                let directory = if node.attached { self.directory_of(path) } else { None };
                Recalled { ino: Some(ino), entry: directory.map(|number| (number, path.clone())) }
            })
            .collect()
    }

    /// How many numbers the kernel holds, the root included.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Up to `count` nodes, not in `keep`, that the kernel may be asked to give up, each as the number
    /// of its directory and its path: those it was told first. Directories only if it has nothing else,
    /// because their entries have to go before them. Looks at no more than `4 * count` nodes.
    pub fn victims(&mut self, count: usize, keep: &HashSet<u64>) -> Vec<(u64, Arc<StorePath>)> {
        let mut victims = Vec::with_capacity(count);
        let mut directories = Vec::new();
        for _ in 0..self.order.len().min(4 * count) {
            if victims.len() == count {
                break;
            }
            let Some(ino) = self.order.pop_front() else { break };
            let Some(node) = self.nodes.get(&ino) else { continue };
            // It comes again if the kernel does not give it up.
            self.order.push_back(ino);
            if keep.contains(&ino) || node.live.is_some() || !node.attached {
                continue;
            }
            let Some(parent) = self.directory_of(&node.key.path) else { continue };
            let victim = (parent, node.key.path.clone());
            if node.key.generation.is_some() { &mut victims } else { &mut directories }.push(victim);
        }
        let room = count - victims.len();
        victims.extend(directories.into_iter().take(room));
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
