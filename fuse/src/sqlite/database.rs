//! One database: what was seen of it, and what to fetch because of it.

use std::{
    collections::{HashMap, HashSet},
    mem::take,
};

use super::{
    header::Header,
    lookahead::{Guess, Lookahead},
    page::Page,
    scan::Scans,
    trees::{Found, Learnt, TreeId, Trees},
};

/// A level of at most so many interior pages is fetched as soon as it is known.
const SMALL_LEVEL: usize = 16;

/// Trees up to which small levels of trees that nobody used yet are fetched too.
const EAGER_TREES_MAX: usize = 16;

/// Requests in one tree before its large levels are fetched: a single lookup needs one page of each.
const ACTIVE_USES: u32 = 8;

/// Next door a larger level is not fetched as a whole: what a query needs of it is asked for by its rows, and
/// the rest costs as much processor time at both ends as the query itself (measured: 0.45 ms a read).
const NEAR_LEVEL: usize = 128;

/// A level of at most so many interior pages of a table is fetched when an index of it is used far away.
/// More cost a single lookup longer than the one round trip that they save, and a count of the index
/// needs none of them; a range of the index asks for those that its rows need.
const IMPLIED_LEVEL: usize = 128;

/// Rows whose leaf waits for interior pages.
const WAITING_MAX: usize = 4096;

/// Overflow chains of leaves read lately.
const CHAINS_MAX: usize = 256;

/// Pages of a chain fetched at once; shorter than `CHAIN_MIN` the kernel's own readahead has them.
const CHAIN_MAX: u32 = 1024;
const CHAIN_MIN: u32 = 8;

/// Pages to fetch, each list in the order of need.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Interior pages: to be told to [`Database::arrived`], and kept if it says so.
    pub interior: Vec<u32>,
    /// Leaves of indexes: to be told to [`Database::arrived`].
    pub index_leaves: Vec<u32>,
    /// Pages that will be asked for.
    pub ahead: Vec<u32>,
}

impl Work {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.interior.is_empty() && self.index_leaves.is_empty() && self.ahead.is_empty()
    }
}

/// What to do with a page that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// An interior page, seen for the first time.
    Keep,
    /// Anything else.
    Pass,
}

/// See the module.
#[derive(Debug)]
pub struct Database {
    header: Header,
    trees: Trees,
    lookahead: Lookahead,
    scans: Scans,
    /// Requests in each tree.
    uses: HashMap<TreeId, u32>,
    /// Tables whose index is used.
    implied: HashSet<TreeId>,
    /// Interior pages that are being fetched.
    asked: HashSet<u32>,
    /// Something was learnt or used, so other pages may be worth fetching.
    stirred: bool,
    waiting: Vec<(TreeId, i64)>,
    /// Overflow chains by first page: how many pages follow.
    chains: HashMap<u32, u32>,
    ahead: Vec<u32>,
    index_leaves: Vec<u32>,
}

impl Database {
    /// A database of which nothing but its header is known; `bytes_max` bounds the memory of what will
    /// be learnt of it, kept interior pages included.
    pub fn new(header: Header, bytes_max: u64) -> Self {
        Self {
            header,
            trees: Trees::new(header, bytes_max),
            lookahead: Lookahead::default(),
            scans: Scans::default(),
            uses: HashMap::new(),
            implied: HashSet::new(),
            asked: HashSet::new(),
            stirred: true,
            waiting: Vec::new(),
            chains: HashMap::new(),
            ahead: Vec::new(),
            index_leaves: Vec::new(),
        }
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Memory of what is known, in bytes.
    pub fn bytes(&self) -> u64 {
        Self::bytes_min(&self.header) + self.trees.bytes()
    }

    /// Memory of a database of which nothing is known yet: index leaves remembered, and the tables.
    pub fn bytes_min(header: &Header) -> u64 {
        (4 << 10) + 16 * u64::from(header.page_bytes)
    }

    /// A statement that is about to run reads the trees with these roots.
    pub fn hint(&mut self, roots: &[u32]) {
        for id in roots.iter().filter_map(|&root| self.trees.tree_of_root(root)).collect::<Vec<_>>() {
            self.stirred |= self.trees.mark_used(id);
            self.uses.insert(id, ACTIVE_USES);
            if let Some(table) = self.trees.tree(id).table {
                self.uses.insert(table, ACTIVE_USES);
            }
        }
    }

    /// A reader asks for `page`.
    pub fn requested(&mut self, page: u32) {
        if let Some(length) = self.chains.remove(&page) {
            let end = page.saturating_add(length.min(CHAIN_MAX)).min(self.header.pages + 1);
            self.ahead.extend(page + 1..end);
            return;
        }
        let Some(tree) = self.trees.tree_of(page) else { return };
        // Page 1 is read by whoever opens the file.
        if tree != 0 {
            self.used(tree);
        }
        let Some(place) = self.trees.place(page) else { return };
        let scanned = self.scans.observe(&self.trees, place);
        self.ahead.extend(scanned);
        if let Some(rows) = self.trees.rows_of(place) {
            let guess = self.lookahead.table_leaf(&self.trees, &self.header, tree, rows);
            self.take(guess);
        }
    }

    /// Whether [`Database::arrived`] wants to see `page`, which begins with `bytes`.
    pub fn wants(&self, page: u32, bytes: &[u8]) -> bool {
        let start = if page == 1 { super::HEADER_BYTES } else { 0 };
        matches!(bytes.get(start), Some(0x02 | 0x05 | 0x0a | 0x0d)) && self.trees.wants(page)
    }

    /// A page has come. `asked`: this one was asked for, it did not just come along with another.
    pub fn arrived(&mut self, page: u32, bytes: &[u8], asked: bool) -> Arrived {
        match self.trees.learn(page, bytes) {
            Learnt::Interior => {
                self.stirred = true;
                self.asked.remove(&page);
                Arrived::Keep
            }
            Learnt::Leaf(kind) => {
                self.stirred |= self.asked.remove(&page);
                if asked && kind.is_index() {
                    self.index_leaf(page, bytes);
                } else if asked {
                    self.remember_chains(page, bytes);
                }
                Arrived::Pass
            }
            Learnt::Nothing => {
                if self.asked.contains(&page) && self.trees.wants(page) {
                    self.failed(page);
                }
                Arrived::Pass
            }
        }
    }

    /// A page of [`Database::work`] did not come, or is of no use: nothing waits for it any more.
    pub fn failed(&mut self, page: u32) {
        self.asked.remove(&page);
        self.waiting.clear();
    }

    /// What to fetch now. Everything is said once. `far`: a round trip to the store costs more than some
    /// bytes too many.
    pub fn work(&mut self, far: bool) -> Work {
        let mut work = Work {
            ahead: take(&mut self.ahead),
            index_leaves: take(&mut self.index_leaves),
            ..Work::default()
        };
        self.resolve(&mut work);
        if take(&mut self.stirred) {
            // Whoever opens a database reads the schema: that tree comes first.
            let eager = far && self.trees.count() <= EAGER_TREES_MAX;
            let largest = |tree: TreeId| {
                if tree == 0 {
                    usize::MAX
                } else if self.uses.get(&tree).is_some_and(|&uses| uses >= ACTIVE_USES) {
                    if far { usize::MAX } else { NEAR_LEVEL }
                } else if far && self.implied.contains(&tree) {
                    IMPLIED_LEVEL
                } else {
                    0
                }
            };
            let schema = self.trees.schema_missing(&self.asked);
            self.asked.extend(&schema);
            work.interior.extend(schema);
            let missing = self.trees.missing(SMALL_LEVEL, eager, largest, &self.asked);
            self.asked.extend(&missing);
            work.interior.extend(missing);
        }
        work
    }

    /// If interior pages seem to stand first in the file: the last page of them. To be asked when the
    /// first `head_pages` have come.
    pub fn interior_first(&self, head_pages: u32) -> Option<u32> {
        self.trees.interior_first(head_pages)
    }

    fn used(&mut self, tree: TreeId) {
        self.stirred |= self.trees.mark_used(tree);
        let uses = self.uses.entry(tree).or_default();
        *uses = uses.saturating_add(1);
        self.stirred |= *uses == ACTIVE_USES;
        if let Some(table) = self.trees.tree(tree).table {
            // There is time until its turn comes, and which of its pages will be needed is not known.
            self.stirred |= !self.implied.contains(&table);
            self.implied.insert(table);
        }
    }

    fn index_leaf(&mut self, page: u32, bytes: &[u8]) {
        let Some(place) = self.trees.place(page) else { return };
        let Some(table) = self.trees.tree(place.tree).table else { return };
        self.lookahead.index_leaf(place, table, page, bytes);
        if self.lookahead.awaits(page) {
            let guess = self.lookahead.arrived(&self.header, page);
            self.take(guess);
        }
    }

    fn take(&mut self, guess: Guess) {
        let room = WAITING_MAX - self.waiting.len().min(WAITING_MAX);
        self.waiting.extend(guess.rows.into_iter().take(room));
        self.index_leaves.extend(guess.index_leaf);
    }

    /// Rows become leaves, or the interior pages that have to come first.
    fn resolve(&mut self, work: &mut Work) {
        let mut seen: HashSet<u32> = work.ahead.iter().copied().collect();
        let (trees, asked) = (&self.trees, &mut self.asked);
        self.waiting.retain(|&(table, row)| match trees.leaf_of(table, row) {
            Found::Leaf(page) => {
                if seen.insert(page) {
                    work.ahead.push(page);
                }
                false
            }
            Found::Missing(page) => {
                if asked.insert(page) {
                    work.interior.push(page);
                }
                true
            }
            Found::Unknown => false,
        });
    }

    fn remember_chains(&mut self, page: u32, bytes: &[u8]) {
        let Some(page) = Page::parse(&self.header, page, bytes) else { return };
        if self.chains.len() >= CHAINS_MAX {
            self.chains.clear();
        }
        self.chains.extend(page.overflows().into_iter().filter(|&(_, length)| length >= CHAIN_MIN));
    }
}
