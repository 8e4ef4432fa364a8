use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashSet},
};

use proptest::prelude::*;

use super::*;

fn id(n: u32) -> SegmentId {
    SegmentId::parse(&format!("{n:06}")).expect("digits are an id")
}

#[test]
fn a_request_looks_at_what_is_new_however_many_wait() {
    const WAITING: u32 = 100_000;
    let mut drops = Drops::default();
    for n in 0..WAITING {
        drops.add(&id(n));
    }
    let looks = Cell::new(0);
    let free: RefCell<HashSet<SegmentId>> = RefCell::default();
    let mut version = 0;
    let mut ask = |drops: &mut Drops| {
        looks.set(0);
        let may_go = |id: &SegmentId| {
            looks.set(looks.get() + 1);
            free.borrow().contains(id)
        };
        let told = drops.tell(Some(version), version + 1, may_go, |_| {
            looks.set(looks.get() + 1);
            true
        });
        version += 1;
        (told, looks.get())
    };
    // A drain begins: none may go before it is elsewhere. All are looked at, in pieces.
    let mut requests = 1;
    loop {
        let ((told, more), looks) = ask(&mut drops);
        assert!(told.is_empty() && looks <= LOOK_MAX + TURN, "{looks}");
        if !more {
            break;
        }
        requests += 1;
    }
    assert_eq!(requests, WAITING as usize / LOOK_MAX);
    // One after the other is copied elsewhere.
    for n in (0..WAITING).rev().step_by(997) {
        free.borrow_mut().insert(id(n));
        drops.add(&id(n));
        let ((told, more), looks) = ask(&mut drops);
        assert!(told.contains(&id(n).to_string()) && !more, "{told:?}");
        // It, those in turn, and those told with the last answer.
        assert!(looks <= 2 * (TURN + 1), "{looks}");
    }
    // Who lives has changed.
    drops.all();
    let mut all = BTreeSet::new();
    loop {
        let ((told, more), looks) = ask(&mut drops);
        assert!(looks <= 2 * (LOOK_MAX + TURN), "{looks}");
        all.extend(told);
        if !more {
            break;
        }
    }
    assert_eq!(all.len(), free.borrow().len(), "all that may go, and nothing else");
}

#[derive(Debug, Clone)]
enum Step {
    Add(u32),
    Hold(u32),
    /// It may go from now on; `true`: nobody says so.
    Free(u32, bool),
    Keep(u32),
    All,
    /// A request; `true`: its answer is lost.
    Ask(bool),
    /// A new process of the worker asks.
    Anew,
    /// The worker removes what it was told, and says so.
    Remove,
}

fn step() -> impl Strategy<Value = Step> {
    let n = || 0u32..12;
    prop_oneof![
        4 => n().prop_map(Step::Add),
        1 => n().prop_map(Step::Hold),
        3 => (n(), any::<bool>()).prop_map(|(n, quiet)| Step::Free(n, quiet)),
        1 => n().prop_map(Step::Keep),
        1 => Just(Step::All),
        4 => any::<bool>().prop_map(Step::Ask),
        1 => Just(Step::Anew),
        2 => Just(Step::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is lost: what may go is told and goes, nothing else does, and nothing is left behind.
    #[test]
    fn what_may_go_is_told_at_last(steps in prop::collection::vec(step(), 0..60)) {
        let mut drops = Drops::default();
        let (mut there, mut held) = (BTreeSet::new(), BTreeSet::new());
        let (mut free, mut told): (BTreeSet<SegmentId>, BTreeSet<SegmentId>) = Default::default();
        let (mut version, mut base) = (1, None);
        let ask = |drops: &mut Drops, base: Option<u64>, version: u64, free: &BTreeSet<SegmentId>, there: &BTreeSet<SegmentId>| {
            let (names, more) = drops.tell(base, version, |id| free.contains(id), |id| there.contains(id));
            let ids: Vec<SegmentId> = names.iter().map(|name| SegmentId::parse(name).expect("an id")).collect();
            assert!(ids.iter().all(|id| free.contains(id)), "{ids:?}");
            (ids, more)
        };
        let tidy = steps.into_iter().chain([Step::Ask(false), Step::Remove, Step::Ask(false), Step::Ask(false)]);
        for step in tidy {
            match step {
                Step::Add(n) => {
                    // It has a copy, or was about to.
                    if n % 3 > 0 { there.insert(id(n)); }
                    held.remove(&id(n));
                    drops.add(&id(n));
                }
                Step::Hold(n) => {
                    held.insert(id(n));
                    told.remove(&id(n));
                    drops.remove(&id(n));
                }
                Step::Free(n, quiet) => {
                    free.insert(id(n));
                    if !quiet && drops.contains(&id(n)) { drops.add(&id(n)); }
                }
                Step::Keep(n) => drop(free.remove(&id(n))),
                Step::All => drops.all(),
                Step::Ask(lost) => {
                    version += 1;
                    let (ids, more) = ask(&mut drops, base, version, &free, &there);
                    assert!(!more, "so few are looked at together");
                    if !lost {
                        told.extend(ids);
                        base = Some(version);
                    }
                }
                Step::Anew => {
                    told.clear();
                    base = None;
                }
                Step::Remove => for id in &told {
                    if there.remove(id) {
                        drops.remove(id);
                    }
                },
            }
        }
        let left: BTreeSet<&SegmentId> = drops.pending.keys().collect();
        let expected: BTreeSet<&SegmentId> =
            drops.pending.keys().filter(|id| !free.contains(*id)).collect();
        prop_assert_eq!(&left, &expected, "all that may go has gone");
        for id in there.iter().filter(|id| !held.contains(*id)) {
            prop_assert!(left.contains(id), "{} is forgotten", id);
        }
    }
}
