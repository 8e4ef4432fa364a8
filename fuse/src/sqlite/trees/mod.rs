//! What is known of the b-trees of one database: their interior pages, in memory that is bounded.
//!
//! A page is learnt only as the child of a page that was learnt, from the schema's root down, and has one
//! parent: so there are no cycles, and the work is bounded by the file. A tree with anything odd is given
//! up: its pages are read like those of any file.

use std::{
    collections::{HashMap, HashSet},
    mem::size_of,
};

pub(super) use self::navigate::{Found, Place};
use super::{
    header::Header,
    page::{Kind, Page},
    schema::{Object, SCHEMA_ROOT, objects},
};

mod navigate;

/// Interior levels of a tree; SQLite's own cursors go no deeper.
const LEVELS_MAX: usize = 20;

/// Trees of one database that are looked at.
const TREES_MAX: usize = 4096;

/// Leaves of the schema that are fetched before SQLite does.
const SCHEMA_PAGES_MAX: usize = 64;

/// Pages up to which interior ones are noted whose tree is not known yet: the head of a file. With
/// `auto_vacuum` all roots are there, of pages as small as 512 bytes; 4 KiB of memory for each file.
const EARLY_MAX: u32 = 1024;

/// Memory of one child beside its entry in a node: a slot of the map, with its share of empty ones.
const CHILD_BYTES: u64 = 20;

/// Index of a tree in [`Trees`].
pub(super) type TreeId = usize;

/// Index of an interior page in [`Trees`].
type NodeId = u32;

/// One b-tree.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) root: u32,
    /// Of an index: the tree of its table.
    pub(super) table: Option<TreeId>,
    /// Stored like an index; known with its root.
    pub(super) is_index: Option<bool>,
    /// How many levels of interior pages it has; known with its first leaf.
    interior_levels: Option<usize>,
    /// Learnt interior pages by level, the root's first.
    levels: Vec<Vec<NodeId>>,
    /// Anything was not as it must be.
    odd: bool,
    /// A statement reads it, or is about to.
    pub(super) used: bool,
}

/// One interior page.
#[derive(Debug)]
struct Node {
    page: u32,
    tree: TreeId,
    level: usize,
    children: Box<[u32]>,
    /// See [`super::page::Interior`].
    rowids: Box<[i64]>,
}

/// What a page turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Learnt {
    /// An interior page that was not known: to be kept.
    Interior,
    /// A leaf.
    Leaf(Kind),
    /// Known before, of no known tree, odd, or beyond the bound.
    Nothing,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Trees {
    header: Header,
    trees: Vec<Tree>,
    roots: HashMap<u32, TreeId>,
    nodes: Vec<Node>,
    node_of: HashMap<u32, NodeId>,
    parents: HashMap<u32, NodeId>,
    /// Leaves of the schema's tree that were read.
    schema_seen: HashSet<u32>,
    /// Tables by name, and indexes whose table was not seen yet.
    tables: HashMap<String, TreeId>,
    orphans: Vec<(TreeId, String)>,
    /// Interior pages at the start of the file that were seen before the leaves of the schema, which tell
    /// where trees begin, if those do not fit on page 1.
    early: HashSet<u32>,
    bytes: u64,
    bytes_max: u64,
}

impl Trees {
    pub(super) fn new(header: Header, bytes_max: u64) -> Self {
        let mut new = Self {
            header,
            trees: Vec::new(),
            roots: HashMap::new(),
            nodes: Vec::new(),
            node_of: HashMap::new(),
            parents: HashMap::new(),
            schema_seen: HashSet::new(),
            tables: HashMap::new(),
            orphans: Vec::new(),
            early: HashSet::new(),
            bytes: 0,
            bytes_max,
        };
        new.add_tree(SCHEMA_ROOT);
        new.mark_used(0);
        new
    }

    /// Memory of what is known, the interior pages themselves included.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn tree(&self, id: TreeId) -> &Tree {
        &self.trees[id]
    }

    pub(super) fn tree_of_root(&self, root: u32) -> Option<TreeId> {
        self.roots.get(&root).copied()
    }

    /// The tree that `page` is known to belong to.
    pub(super) fn tree_of(&self, page: u32) -> Option<TreeId> {
        let parent = self.parents.get(&page).map(|&node| self.nodes[node as usize].tree);
        parent.or_else(|| self.tree_of_root(page))
    }

    /// Marks a tree, and an index's table with it, as used; tells whether that is new.
    pub(super) fn mark_used(&mut self, id: TreeId) -> bool {
        let table = self.trees[id].table;
        let mut new = false;
        for id in [Some(id), table].into_iter().flatten() {
            new |= !std::mem::replace(&mut self.trees[id].used, true);
        }
        new
    }

    /// Whether the bytes of `page` could teach anything.
    pub(super) fn wants(&self, page: u32) -> bool {
        match self.tree_of(page) {
            Some(id) => !self.node_of.contains_key(&page) && !self.trees[id].odd,
            None => self.may_be_early(page),
        }
    }

    fn may_be_early(&self, page: u32) -> bool {
        let schema_is_large = self.node_of.contains_key(&SCHEMA_ROOT);
        schema_is_large && page <= EARLY_MAX && !self.early.contains(&page)
    }

    /// Takes note of the bytes of a page.
    pub(super) fn learn(&mut self, number: u32, bytes: &[u8]) -> Learnt {
        if !self.wants(number) {
            return Learnt::Nothing;
        }
        let parent = self.parents.get(&number).map(|&node| &self.nodes[node as usize]);
        let level = parent.map_or(0, |node| node.level + 1);
        let Some(id) = self.tree_of(number) else {
            // With `auto_vacuum` roots come first, leaves or not.
            let early = |page: Page<'_>| self.header.auto_vacuum || !page.kind.is_leaf();
            if Page::parse(&self.header, number, bytes).is_some_and(early) {
                self.early.insert(number);
            }
            return Learnt::Nothing;
        };
        let Some(page) = Page::parse(&self.header, number, bytes) else { return self.give_up(id) };
        let tree = &mut self.trees[id];
        if *tree.is_index.get_or_insert(page.kind.is_index()) != page.kind.is_index() {
            return self.give_up(id);
        }
        if page.kind.is_leaf() {
            let interior_above = tree.levels.get(level).is_some_and(|nodes| !nodes.is_empty());
            if *tree.interior_levels.get_or_insert(level) != level || interior_above {
                return self.give_up(id);
            }
            if id == 0 && self.schema_seen.insert(number) {
                self.add_objects(objects(&page, self.header.encoding));
            }
            return Learnt::Leaf(page.kind);
        }
        let too_deep = tree.interior_levels.map_or(level >= LEVELS_MAX, |levels| level >= levels);
        let Some(interior) = page.interior().filter(|_| !too_deep) else { return self.give_up(id) };
        let children: HashSet<u32> = interior.children.iter().copied().collect();
        let good = |child: &u32| {
            (2..=self.header.pages).contains(child)
                && !self.parents.contains_key(child)
                && !self.roots.contains_key(child)
                && *child != number
        };
        if children.len() != interior.children.len() || !children.iter().all(good) {
            return self.give_up(id);
        }
        let memory = u64::from(self.header.page_bytes)
            + size_of::<Node>() as u64
            + interior.children.len() as u64 * (CHILD_BYTES + 4 + 8);
        if self.bytes + memory > self.bytes_max {
            return Learnt::Nothing;
        }
        self.bytes += memory;
        let node = self.nodes.len() as NodeId;
        for &child in &interior.children {
            self.parents.insert(child, node);
        }
        self.node_of.insert(number, node);
        let tree = &mut self.trees[id];
        // Levels are learnt from the root down, so at most one is new.
        if tree.levels.len() <= level {
            tree.levels.push(Vec::new());
        }
        tree.levels[level].push(node);
        self.nodes.push(Node {
            page: number,
            tree: id,
            level,
            children: interior.children.into(),
            rowids: interior.rowids.into(),
        });
        Learnt::Interior
    }

    /// How many trees there are.
    pub(super) fn count(&self) -> usize {
        self.trees.len()
    }

    /// Interior pages that are not known and worth fetching now, except those in `asked`: of each
    /// tree levels of up to `largest` pages (0: it is not used), of the others, if `eager`, levels of up to
    /// `small` pages, which come first. Of such a level whose pages may be leaves only one, to see.
    pub(super) fn missing(
        &self,
        small: usize,
        eager: bool,
        largest: impl Fn(TreeId) -> usize,
        asked: &HashSet<u32>,
    ) -> Vec<u32> {
        let (mut first, mut then) = (Vec::new(), Vec::new());
        for (id, tree) in self.trees.iter().enumerate().filter(|(_, tree)| !tree.odd) {
            let largest = if tree.used { largest(id) } else { 0 };
            if largest == 0 && !eager {
                continue;
            }
            if tree.levels.is_empty() && tree.interior_levels.is_none() && !asked.contains(&tree.root) {
                first.push(tree.root);
            }
            for (above, nodes) in tree.levels.iter().enumerate() {
                let level = above + 1;
                if tree.interior_levels.is_some_and(|levels| level >= levels) {
                    break;
                }
                let children =
                    || nodes.iter().flat_map(|&node| self.nodes[node as usize].children.iter().copied());
                let unknown = || children().filter(|page| !self.node_of.contains_key(page));
                if tree.levels.get(level).is_none_or(Vec::is_empty) {
                    let wanted = children().nth(small.max(largest)).is_none();
                    if wanted && !unknown().any(|page| asked.contains(&page)) {
                        first.extend(unknown().next());
                    }
                } else if children().nth(small).is_none() {
                    first.extend(unknown().filter(|page| !asked.contains(page)));
                } else if children().nth(largest).is_none() {
                    then.extend(unknown().filter(|page| !asked.contains(page)));
                }
            }
        }
        // By place in the file: neighbours become one read.
        then.sort_unstable();
        first.extend(then);
        first
    }

    /// The largest page number up to which all interior pages seem to lie, if the file is laid out with
    /// them first: then the first `head_pages` are all interior ones (with `auto_vacuum` roots and pointer
    /// maps, too), and so are all pages before the first leaf.
    pub(super) fn interior_first(&self, head_pages: u32) -> Option<u32> {
        // The roots of some tables follow page 1 in any fresh file: that alone says nothing.
        const ENOUGH: u32 = 5;
        let belongs_here = |page: u32| {
            let of_auto_vacuum = || self.header.is_fixed(page) || self.roots.contains_key(&page);
            self.node_of.contains_key(&page)
                || self.early.contains(&page)
                || self.header.auto_vacuum && of_auto_vacuum()
        };
        if head_pages < ENOUGH || !(2..=head_pages).all(belongs_here) {
            return None;
        }
        // Interior pages are at most so many, at the smallest fan-out that is seen.
        let most = self.header.pages / 64 + 64;
        // Roots beyond are of tables so small that they are leaves.
        let mut last = self.roots.keys().copied().filter(|&root| root <= most).max().unwrap_or(1);
        let mut first_leaf = self.header.pages + 1;
        for tree in &self.trees {
            for (above, nodes) in tree.levels.iter().enumerate() {
                let interior = tree.levels.get(above + 1).is_some_and(|nodes| !nodes.is_empty());
                for child in nodes.iter().flat_map(|&node| &self.nodes[node as usize].children) {
                    if interior || self.node_of.contains_key(child) {
                        last = last.max(*child);
                    } else {
                        first_leaf = first_leaf.min(*child);
                    }
                }
            }
        }
        let end = if last < first_leaf { first_leaf - 1 } else { last };
        [end, last].into_iter().find(|&end| end <= most)
    }

    /// Leaves of the schema that were not read.
    pub(super) fn schema_missing(&self, asked: &HashSet<u32>) -> Vec<u32> {
        let tree = &self.trees[0];
        let Some(above) = tree.interior_levels.and_then(|levels| levels.checked_sub(1)) else {
            return Vec::new();
        };
        let nodes = tree.levels.get(above).filter(|_| !tree.odd).into_iter().flatten();
        let leaves = nodes.flat_map(|&node| self.nodes[node as usize].children.iter().copied());
        let missing = leaves.filter(|page| !self.schema_seen.contains(page) && !asked.contains(page));
        missing.take(SCHEMA_PAGES_MAX).collect()
    }

    fn give_up(&mut self, id: TreeId) -> Learnt {
        self.trees[id].odd = true;
        Learnt::Nothing
    }

    fn add_tree(&mut self, root: u32) -> Option<TreeId> {
        if root > self.header.pages || self.trees.len() >= TREES_MAX || self.parents.contains_key(&root) {
            return None;
        }
        if let Some(&id) = self.roots.get(&root) {
            return Some(id);
        }
        let id = self.trees.len();
        self.roots.insert(root, id);
        self.trees.push(Tree {
            root,
            table: None,
            is_index: None,
            interior_levels: None,
            levels: Vec::new(),
            odd: false,
            used: false,
        });
        Some(id)
    }

    fn add_objects(&mut self, objects: Vec<Object>) {
        for object in objects {
            let Some(id) = self.add_tree(object.root) else { continue };
            if object.is_index {
                self.orphans.push((id, object.table));
            } else {
                self.tables.insert(object.table, id);
            }
        }
        let (trees, tables) = (&mut self.trees, &self.tables);
        self.orphans.retain(|(index, table)| {
            trees[*index].table = tables.get(table).copied();
            trees[*index].table.is_none()
        });
    }
}
