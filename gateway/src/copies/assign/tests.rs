use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::{api::hot::HotReport, rules::Rules, store::Generation};

#[test]
fn quotas_are_rounded_down_a_little() {
    for quota in [0, 1, 99, 127, 128, 1000, 123_456_789, u64::MAX] {
        let rounded = steady(quota);
        assert!(rounded <= quota && quota - rounded <= quota / 64, "{quota} {rounded}");
    }
    assert_eq!(steady(1_000_000_000), steady(1_000_900_000));
}

const WORKERS: usize = 3;
const SEGMENTS: usize = 8;

/// What the planner is told, and what it told the workers.
struct World {
    planner: Planner,
    rules: CopyRules,
    quotas: [u64; WORKERS],
    taken: [u64; WORKERS],
    full: [bool; WORKERS],
    wishes: BTreeMap<SegmentId, Wished>,
    held: RefCell<BTreeMap<String, BTreeSet<SegmentId>>>,
}

fn id(n: usize) -> SegmentId {
    SegmentId::parse(&n.to_string()).expect("digits are an id")
}

fn name(n: usize) -> String {
    format!("w{n}")
}

impl World {
    fn new() -> Self {
        Self {
            planner: Planner::default(),
            rules: CopyRules {
                rules: Arc::new(Rules::new(Vec::new(), 1, 4).expect("no rules")),
                grace: Duration::from_secs(60),
                clock: Arc::new(|| 0),
            },
            quotas: [100; WORKERS],
            taken: [0; WORKERS],
            full: [false; WORKERS],
            wishes: BTreeMap::new(),
            held: RefCell::default(),
        }
    }

    /// As `Copies::refresh` does it; `moved` is what was wished otherwise.
    fn refresh(&mut self, moved: &[SegmentId]) {
        let live: Vec<HotWorker> = (0..WORKERS)
            .map(|n| HotWorker {
                name: name(n).into(),
                epoch: 1,
                report: HotReport { quota_bytes: self.quotas[n], full: self.full[n], ..Default::default() },
            })
            .collect();
        let (wishes, held) = (&self.wishes, &self.held);
        let wish = |id: &SegmentId| wishes.get(id).cloned();
        let set = |id: &SegmentId, workers: &[Arc<str>], segment: Option<&AssignedSegment>| {
            for worker in workers {
                let mut held = held.borrow_mut();
                let has = held.entry(worker.to_string()).or_default();
                if segment.is_some() {
                    has.insert(id.clone())
                } else {
                    has.remove(id)
                };
            }
        };
        let now = Instant::now();
        if self.planner.set_nodes(&live, &[false; WORKERS], &self.taken, &self.rules, now) {
            let ids: Vec<SegmentId> = wishes.keys().cloned().collect();
            self.planner.place_all(&ids, wish, set);
        } else {
            for id in moved {
                self.planner.place_one(id, wish(id), set);
            }
        }
        self.planner.fill_room(wish, set);
    }

    fn wish(&mut self, n: usize, size: u64, copies: usize, pin: Option<usize>) {
        if copies == 0 && pin.is_none() {
            self.wishes.remove(&id(n));
            return;
        }
        let facts = Facts { generation: Generation(u128::from(size).to_be_bytes()), size, mtime_ms: 0 };
        let located = Located { directory: "/".into(), facts };
        let pins = pin.into_iter().map(name).collect();
        self.wishes.insert(id(n), Wished { copies, pins, located });
    }

    fn holders(&self, id: &SegmentId) -> Vec<usize> {
        let held = self.held.borrow();
        (0..WORKERS).filter(|n| held.get(&name(*n)).is_some_and(|has| has.contains(id))).collect()
    }

    /// Room that `n` has for another copy.
    fn room(&self, n: usize) -> Option<u64> {
        let held = self.held.borrow();
        let used: u64 =
            held.get(&name(n)).into_iter().flatten().map(|id| self.wishes[id].located.facts.size).sum();
        steady(self.quotas[n]).checked_sub(used + self.taken[n]).filter(|_| !self.full[n])
    }
}

fn steps() -> impl Strategy<Value = Vec<(usize, usize, u64, usize, usize)>> {
    // What happens, to whom, two numbers, a worker to pin to.
    prop::collection::vec((0usize..10, 0..SEGMENTS, 0u64..70, 0usize..4, 0..2 * WORKERS), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever changes, a few looks later nobody wants a copy, or misses a pin, that there is room for.
    #[test]
    fn no_room_is_left_that_somebody_wants(steps in steps()) {
        let mut world = World::new();
        world.refresh(&[]);
        for (what, n, number, copies, pin) in steps {
            let worker = n % WORKERS;
            let mut moved = Vec::new();
            match what {
                0..=6 => {
                    world.wish(n, number, copies, Some(pin).filter(|pin| *pin < WORKERS && what > 4));
                    moved.push(id(n));
                }
                7 | 8 => world.taken[worker] = number,
                _ if number < 20 => world.full[worker] = !world.full[worker],
                _ => world.quotas[worker] = number,
            }
            world.refresh(&moved);
            // Who gives a copy up because a worker holds too much makes room for the next look.
            for _ in 0..SEGMENTS {
                world.refresh(&[]);
            }
            for (id, wished) in &world.wishes {
                let holders = world.holders(id);
                let size = wished.located.facts.size;
                let fits = |n: &usize| !holders.contains(n) && world.room(*n).is_some_and(|room| size <= room);
                if holders.len() < wished.copies {
                    prop_assert_eq!((0..WORKERS).find(fits), None, "{} {:?} {:?}", id, wished, holders);
                }
                let mut pins = (0..WORKERS).filter(|n| wished.pins.contains(&name(*n)));
                prop_assert_eq!(pins.find(fits), None, "pin of {} {:?} {:?}", id, wished, holders);
            }
        }
    }
}
