//! From index to table: which rows will be looked up after those that were.
//!
//! An index scan reads a leaf of the index and then, one after the other, the table's leaves that its
//! entries name, which lie anywhere. When a leaf of the table is asked for that holds the row of an entry
//! of an index leaf read shortly before, the entry is found again here, and its neighbours are guessed:
//! all that have the same key at once, else a window that doubles while the guess comes true.

use std::collections::VecDeque;

use super::{
    header::Header,
    page::{Entry, Page},
    trees::{Place, TreeId, Trees},
};

/// Index leaves remembered for each database; one for each concurrent index scan, and its next.
const LEAVES_MAX: usize = 8;

/// Leaves of tables asked for last, to tell neighbours that needed no request from those skipped.
const RECENT_MAX: usize = 64;

/// Rows asked for at once because they have the same key.
const RUN_MAX: usize = 1024;

/// First window of rows with different keys.
const WINDOW_MIN: usize = 4;

/// What to fetch because of a match.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Guess {
    /// Rows of a table.
    pub(super) rows: Vec<(TreeId, i64)>,
    /// Index leaf to go on in.
    pub(super) index_leaf: Option<u32>,
}

/// A scan that goes on into an index leaf that is being fetched.
#[derive(Debug, Clone, Copy)]
struct Onward {
    page: u32,
    forward: bool,
    /// Of the run that goes on.
    key: Option<u64>,
    window: usize,
    matches: u32,
}

#[derive(Debug)]
struct IndexLeaf {
    page: u32,
    place: Place,
    table: TreeId,
    /// Parsed when a row of the table is asked for: most leaves of a scan of the index alone never are.
    bytes: Box<[u8]>,
    entries: Option<Vec<Entry>>,
    /// Entry matched last; -1 and the number of entries: just outside.
    at: Option<isize>,
    forward: bool,
    matches: u32,
    window: usize,
    /// Entries whose rows were asked for.
    asked: std::ops::Range<usize>,
    /// Whether the next leaf was asked for.
    onward: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lookahead {
    leaves: VecDeque<IndexLeaf>,
    recent: VecDeque<(TreeId, i64, i64)>,
    onward: Vec<Onward>,
}

impl Lookahead {
    /// A leaf of an index on `table` was read.
    pub(super) fn index_leaf(&mut self, place: Place, table: TreeId, page: u32, bytes: &[u8]) {
        if let Some(known) = self.leaves.iter().position(|leaf| leaf.page == page) {
            if let Some(leaf) = self.leaves.remove(known) {
                self.leaves.push_front(leaf);
            }
            return;
        }
        self.leaves.truncate(LEAVES_MAX - 1);
        self.leaves.push_front(IndexLeaf {
            page,
            place,
            table,
            bytes: bytes.into(),
            entries: None,
            at: None,
            forward: true,
            matches: 0,
            window: 0,
            asked: 0..0,
            onward: false,
        });
    }

    /// Whether `page` was asked for by [`Guess::index_leaf`] and did not come yet.
    pub(super) fn awaits(&self, page: u32) -> bool {
        self.onward.iter().any(|onward| onward.page == page)
    }

    /// The index leaf that a scan goes on in has come (and was told to [`Lookahead::index_leaf`]).
    pub(super) fn arrived(&mut self, header: &Header, page: u32) -> Guess {
        let mut guess = Guess::default();
        let Some(which) = self.onward.iter().position(|onward| onward.page == page) else { return guess };
        let onward = self.onward.swap_remove(which);
        let Some(leaf) = self.leaves.iter_mut().find(|leaf| leaf.page == page) else { return guess };
        leaf.parse(header);
        let entries = leaf.entries.as_deref().unwrap_or_default();
        let count = entries.len();
        if leaf.at.is_some() || count == 0 {
            return guess;
        }
        let same = |entry: &&Entry| Some(entry.key) == onward.key;
        let wanted = if onward.forward {
            let run = entries.iter().take_while(same).count().min(RUN_MAX);
            0..run.max(onward.window).min(count)
        } else {
            let run = entries.iter().rev().take_while(same).count().min(RUN_MAX);
            count - run.max(onward.window).min(count)..count
        };
        leaf.at = Some(if onward.forward { -1 } else { count as isize });
        leaf.forward = onward.forward;
        leaf.matches = onward.matches;
        leaf.window = onward.window.max(WINDOW_MIN);
        leaf.ask(wanted, &mut guess);
        guess
    }

    /// A leaf of a table is asked for that holds rows above `low` up to `high`.
    pub(super) fn table_leaf(
        &mut self,
        trees: &Trees,
        header: &Header,
        table: TreeId,
        (low, high): (i64, i64),
    ) -> Guess {
        let mut guess = Guess::default();
        let Self { leaves, recent, onward } = self;
        for leaf in leaves.iter_mut().filter(|leaf| leaf.table == table) {
            leaf.parse(header);
            let Some(i) = leaf.find(low, high) else { continue };
            leaf.matched(i, |row| {
                recent.iter().any(|&(t, low, high)| t == table && low < row && row <= high)
            });
            leaf.guess(i, &mut guess);
            if let Some(next) = leaf.go_on(trees, i, &mut guess)
                && onward.len() < LEAVES_MAX
            {
                guess.index_leaf = Some(next.page);
                onward.push(next);
            }
            break;
        }
        recent.truncate(RECENT_MAX - 1);
        recent.push_front((table, low, high));
        guess
    }
}

impl IndexLeaf {
    fn parse(&mut self, header: &Header) {
        if self.entries.is_none() {
            let entries = Page::parse(header, self.page, &self.bytes).and_then(|page| page.entries());
            self.entries = Some(entries.unwrap_or_default());
            self.bytes = Box::default();
        }
    }

    fn entries(&self) -> &[Entry] {
        self.entries.as_deref().unwrap_or_default()
    }

    /// The entry whose row lies in the range: the nearest to the one matched last, in its direction.
    fn find(&self, low: i64, high: i64) -> Option<usize> {
        let inside = |i: &usize| self.entries()[*i].rowid.is_some_and(|row| low < row && row <= high);
        let count = self.entries().len();
        let at = self.at.map_or(0, |at| at.clamp(0, count as isize) as usize);
        let (mut after, mut before) = (at..count, (0..at).rev());
        if self.forward {
            after.find(inside).or_else(|| before.find(inside))
        } else {
            // The last match itself is not before itself.
            (at < count && inside(&at))
                .then_some(at)
                .or_else(|| before.find(inside))
                .or_else(|| after.find(inside))
        }
    }

    /// Takes note that entry `i` is being looked up. It follows the last one if all between them are in
    /// leaves that were read already, which the kernel does not ask for again.
    fn matched(&mut self, i: usize, was_read: impl Fn(i64) -> bool) {
        let here = i as isize;
        if let Some(at) = self.at {
            let between = at.min(here) + 1..at.max(here);
            let follows = between.into_iter().all(|j| {
                let entry = usize::try_from(j).ok().and_then(|j| self.entries().get(j));
                entry.and_then(|entry| entry.rowid).is_none_or(&was_read)
            });
            if at == here {
                return;
            }
            if follows {
                if self.matches > 1 && self.forward != (here > at) {
                    (self.matches, self.window, self.asked) = (1, 0, i..i);
                }
                self.matches += 1;
                self.forward = here > at;
            } else {
                (self.matches, self.window, self.asked) = (1, 0, i..i);
            }
        } else {
            (self.matches, self.asked) = (1, i..i);
        }
        self.at = Some(here);
    }

    fn guess(&mut self, i: usize, guess: &mut Guess) {
        let run = self.run(i);
        if run.len() > 1 {
            self.ask(run, guess);
        } else if self.matches >= 2 {
            let count = self.entries().len();
            let left = if self.forward {
                self.asked.end.saturating_sub(i + 1)
            } else {
                i.saturating_sub(self.asked.start)
            };
            if left <= self.window / 2 {
                self.window = (self.window * 2).clamp(WINDOW_MIN, count.max(WINDOW_MIN));
                let wanted = if self.forward {
                    i + 1..(i + 1 + self.window).min(count)
                } else {
                    i.saturating_sub(self.window)..i
                };
                self.ask(wanted, guess);
            }
        }
    }

    /// Entries around `i` with its key.
    fn run(&self, i: usize) -> std::ops::Range<usize> {
        let entries = self.entries();
        let same = |entry: &&Entry| entry.rowid.is_some() && entry.key == entries[i].key;
        let before = entries[..i].iter().rev().take(RUN_MAX).take_while(same).count();
        let after = entries[i + 1..].iter().take(RUN_MAX).take_while(same).count();
        i - before..i + 1 + after
    }

    /// Asks for the rows of `wanted` that were not asked for, in the order in which they will be read.
    fn ask(&mut self, wanted: std::ops::Range<usize>, guess: &mut Guess) {
        let asked = self.asked.clone();
        let new = |i: &usize| !asked.contains(i);
        let table = self.table;
        let row = |i: usize| self.entries()[i].rowid.map(|row| (table, row));
        if self.forward {
            guess.rows.extend(wanted.clone().filter(new).filter_map(row));
        } else {
            guess.rows.extend(wanted.clone().rev().filter(new).filter_map(row));
        }
        self.asked = if asked.is_empty() || wanted.end < asked.start || asked.end < wanted.start {
            wanted
        } else {
            asked.start.min(wanted.start)..asked.end.max(wanted.end)
        };
    }

    /// Into the neighbouring leaf, when everything up to the edge was asked for.
    fn go_on(&mut self, trees: &Trees, i: usize, guess: &mut Guess) -> Option<Onward> {
        let entries = self.entries();
        let edge = if self.forward { self.asked.end >= entries.len() } else { self.asked.start == 0 };
        if self.onward || self.asked.is_empty() || !edge {
            return None;
        }
        let run = self.run(i);
        let runs_on = run.len() > 1 && if self.forward { run.end == entries.len() } else { run.start == 0 };
        if !runs_on && self.matches < 2 {
            return None;
        }
        let key = runs_on.then_some(entries[i].key);
        let left = if self.forward { entries.len() - i } else { i };
        let next = trees.neighbour(self.place, self.forward)?;
        self.onward = true;
        // The entry between two leaves stands above them.
        let between = if self.forward { self.place } else { next };
        guess.rows.extend(trees.row_after(between).map(|row| (self.table, row)));
        let window = if key.is_some() { 0 } else { self.window.saturating_sub(left) };
        Some(Onward { page: trees.page_at(next), forward: self.forward, key, window, matches: self.matches })
    }
}
