//! Leaves of one tree read in its order: what comes next, wherever it lies in the file.

use std::collections::HashMap;

use super::trees::{Place, TreeId, Trees};

/// First window in leaves, and the largest.
const WINDOW: (usize, usize) = (4, 256);

/// Requests in order before anything is guessed.
const START: u32 = 2;

/// Leaves that may be left out between two requests: the kernel had read them with the one before.
const SKIP_MAX: usize = 4;

#[derive(Debug)]
struct Scan {
    last: Place,
    forward: bool,
    /// Requests in order so far.
    run: u32,
    window: usize,
    /// The farthest leaf that was guessed, and how many leaves it is away.
    farthest: Place,
    left: usize,
}

/// Pages of other kinds that may stand between neighbours: readahead goes over them.
const GAP_MAX: u32 = 8;

/// The last scan of each tree.
#[derive(Debug, Default)]
pub(super) struct Scans {
    scans: HashMap<TreeId, Scan>,
}

impl Scans {
    /// A leaf is asked for; gives those to fetch, in the order in which they will be read. None if they
    /// follow each other in the file: readahead by offset has those.
    pub(super) fn observe(&mut self, trees: &Trees, place: Place) -> Vec<u32> {
        let fresh = Scan { last: place, forward: true, run: 0, window: 0, farthest: place, left: 0 };
        let Some(scan) = self.scans.get_mut(&place.tree) else {
            self.scans.insert(place.tree, fresh);
            return Vec::new();
        };
        if scan.last == place {
            return Vec::new();
        }
        let distance = |forward| {
            let mut at = scan.last;
            (1..=SKIP_MAX).find(|_| match trees.neighbour(at, forward) {
                Some(next) => {
                    at = next;
                    at == place
                }
                None => false,
            })
        };
        let (forward, steps) = match (distance(scan.forward), scan.run) {
            (Some(steps), _) => (scan.forward, steps),
            // Only a scan that has not begun may turn round.
            (None, 0) => match distance(!scan.forward) {
                Some(steps) => (!scan.forward, steps),
                None => return self.restart(fresh),
            },
            (None, _) => return self.restart(fresh),
        };
        scan.forward = forward;
        scan.last = place;
        scan.run += 1;
        scan.left = scan.left.saturating_sub(steps);
        if scan.left == 0 {
            scan.farthest = place;
        }
        if scan.run < START || scan.left > scan.window / 2 {
            return Vec::new();
        }
        scan.window = (scan.window * 2).clamp(WINDOW.0, WINDOW.1);
        let mut pages = Vec::new();
        while scan.left < scan.window {
            let Some(next) = trees.neighbour(scan.farthest, forward) else { break };
            scan.farthest = next;
            scan.left += 1;
            pages.push(trees.page_at(next));
        }
        if forward && contiguous(trees.page_at(place), &pages) {
            pages.clear();
        }
        pages
    }

    fn restart(&mut self, fresh: Scan) -> Vec<u32> {
        self.scans.insert(fresh.last.tree, fresh);
        Vec::new()
    }
}

/// Whether nearly all of `pages` follow each other closely; interior pages stand between.
fn contiguous(from: u32, pages: &[u32]) -> bool {
    let mut last = from;
    let mut jumps = 0;
    for &page in pages {
        if page <= last || page - last > GAP_MAX {
            jumps += 1;
        }
        last = page;
    }
    jumps * 4 <= pages.len()
}
