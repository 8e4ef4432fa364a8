use std::time::Instant;

use super::{desk::Desk, *};
use crate::{
    api::hot::AssignedSegment,
    registry::{Meta, memory::MemoryRegistry},
};

fn id(n: u32) -> SegmentId {
    SegmentId::parse(&n.to_string()).expect("digits are an id")
}

fn segment(n: u32, size: u64) -> AssignedSegment {
    AssignedSegment { id: n.to_string(), path: format!("/{n}.sqlite"), generation: "0".repeat(32), size }
}

#[test]
fn a_worker_that_follows_the_changes_has_what_one_that_asks_for_all_has() {
    use proptest::test_runner::{Config, TestRunner};
    let operations = proptest::collection::vec((0u32..6, 0u64..4, proptest::bool::ANY), 0..60);
    TestRunner::new(Config { failure_persistence: None, ..Config::default() })
        .run(&operations, |operations| {
            let mut desk = Desk::new(100);
            let mut mine: BTreeMap<String, AssignedSegment> = BTreeMap::new();
            let mut since = None;
            for (n, size, asks) in operations {
                // Size 0: not to be held.
                desk.set(&id(n), (size > 0).then(|| segment(n, size)));
                if asks {
                    let told = desk.tell(since, |_| true, |id| mine.contains_key(id.as_str()));
                    assert!(told.version >= since.unwrap_or(0));
                    if told.base.is_none() {
                        mine.clear();
                    }
                    for gone in &told.drop {
                        mine.remove(gone);
                    }
                    mine.extend(told.hold.into_iter().map(|segment| (segment.id.clone(), segment)));
                    since = Some(told.version);
                    let all = desk.tell(None, |_| true, |_| false).hold;
                    let all: BTreeMap<_, _> = all.into_iter().map(|s| (s.id.clone(), s)).collect();
                    proptest::prop_assert_eq!(&mine, &all);
                }
            }
            Ok(())
        })
        .expect("holds");
}

#[test]
fn who_is_too_far_behind_is_told_all() {
    let mut desk = Desk::new(0);
    for round in 1..=10_002u64 {
        desk.set(&id(1), Some(segment(1, round)));
    }
    assert_eq!(desk.tell(Some(1), |_| true, |_| true).base, None);
    assert_eq!(desk.tell(Some(2), |_| true, |_| true).base, Some(2));
    assert_eq!(desk.tell(Some(99_999), |_| true, |_| true).base, None, "a version of another gateway");
    let nothing = desk.tell(Some(10_002), |_| true, |_| true);
    assert_eq!((nothing.hold.len(), nothing.drop.len()), (0, 0));
}

#[test]
fn a_copy_that_may_not_go_yet_is_named_once_it_may() {
    let mut desk = Desk::new(0);
    desk.set(&id(1), Some(segment(1, 1)));
    desk.reported(&id(1), true);
    desk.set(&id(1), None);
    let waiting = desk.tell(Some(1), |_| false, |_| true);
    assert!(waiting.drop.is_empty());
    let quiet = desk.version();
    desk.reconsider(&id(2));
    assert_eq!(desk.version(), quiet, "nothing of it is here");
    desk.reconsider(&id(1));
    assert!(desk.version() > quiet);
    assert_eq!(desk.tell(Some(quiet), |_| true, |_| true).drop, ["1"]);
    // Until the worker says that it is gone.
    assert_eq!(desk.tell(Some(desk.version()), |_| true, |_| true).drop, ["1"]);
    desk.reported(&id(1), false);
    assert!(desk.tell(Some(desk.version()), |_| true, |_| true).drop.is_empty());
    // What it has and never was to hold is named, too.
    desk.reported(&id(7), true);
    assert_eq!(desk.tell(None, |_| true, |_| true).drop, ["7"]);
}

#[test]
fn who_lives_is_asked_in_ones_turn() {
    let meta = || Meta::new("0");
    let state = State::open(Box::new(MemoryRegistry::default()), meta).expect("a registry");
    let rules = CopyRules {
        rules: Arc::new(Rules::new(Vec::new(), 1, 4).expect("no rules")),
        grace: Duration::from_secs(60),
        clock: Arc::new(|| 0),
    };
    let copies = Copies::new(Arc::new(state), rules);
    copies.refresh(|| {
        assert!(copies.planner.try_lock().is_none(), "another could place with a later list meanwhile");
        (Vec::new(), Instant::now())
    });
}
