use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn id(n: usize) -> SegmentId {
    SegmentId::parse(&format!("{n:08}")).expect("digits are an id")
}

fn node(name: String, quota: u64) -> Node {
    let seed = WorkerSeed::of(&name);
    Node { name: name.into(), seed, quota, taken: 0, zone: None, intake: Intake::Open }
}

const GIB: u64 = 1 << 30;

/// Places segments `0..count` of `size` bytes on `nodes`.
fn placed(count: usize, size: u64, copies: usize, nodes: &[Node]) -> Vec<Vec<usize>> {
    let ids: Vec<SegmentId> = (0..count).map(id).collect();
    let wishes: Vec<Wish<'_>> =
        ids.iter().map(|id| Wish { id, size, copies, pins: &[], former: &[] }).collect();
    plan(&wishes, nodes)
}

fn named(places: &[Vec<usize>], nodes: &[Node]) -> Vec<BTreeSet<Arc<str>>> {
    places.iter().map(|place| place.iter().map(|index| nodes[*index].name.clone()).collect()).collect()
}

/// Copies that are on other workers than before.
fn moved(before: &[BTreeSet<Arc<str>>], after: &[BTreeSet<Arc<str>>]) -> usize {
    before.iter().zip(after).map(|(before, after)| after.difference(before).count()).sum()
}

#[test]
fn a_thousand_nodes_move_little_more_than_the_share_of_those_that_join_or_leave() {
    const SEGMENTS: usize = 30_000;
    const COPIES: usize = 2;
    // Three kinds of machines.
    let nodes: Vec<Node> =
        (0..1_000).map(|n| node(format!("node-{n}"), [500, 1_000, 2_000][n % 3] * GIB)).collect();
    let total: u64 = nodes.iter().map(|node| node.quota).sum();
    // 70 % full.
    let size = total * 7 / 10 / (SEGMENTS * COPIES) as u64;
    let before = placed(SEGMENTS, size, COPIES, &nodes);
    assert!(before.iter().all(|place| place.len() == COPIES), "all have room");
    let before = named(&before, &nodes);

    let mut more = nodes.clone();
    more.extend((1_000..1_060).map(|n| node(format!("node-{n}"), [500, 1_000, 2_000][n % 3] * GIB)));
    let joined: u64 = more[1_000..].iter().map(|node| node.quota).sum();
    let ideal = (SEGMENTS * COPIES) as f64 * joined as f64 / (total + joined) as f64;
    let seen = moved(&before, &named(&placed(SEGMENTS, size, COPIES, &more), &more)) as f64;
    assert!(seen <= 1.2 * ideal, "join: {seen} moved, {ideal:.0} ideal");
    assert!(seen >= 0.8 * ideal, "join: the new ones get their share: {seen} of {ideal:.0}");

    let fewer: Vec<Node> = nodes.iter().skip(60).cloned().collect();
    let gone: u64 = nodes[..60].iter().map(|node| node.quota).sum();
    let ideal = (SEGMENTS * COPIES) as f64 * gone as f64 / total as f64;
    let seen = moved(&before, &named(&placed(SEGMENTS, size, COPIES, &fewer), &fewer)) as f64;
    assert!(seen <= 1.2 * ideal, "leave: {seen} moved, {ideal:.0} ideal");
}

#[test]
fn shares_follow_capacity() {
    let nodes: Vec<Node> =
        [100, 200, 400, 800].map(|gib| node(format!("n{gib}"), gib * GIB)).into_iter().collect();
    let places = placed(30_000, 1, 1, &nodes);
    for (index, node) in nodes.iter().enumerate() {
        let seen = places.iter().filter(|place| place.contains(&index)).count() as f64;
        let expected = 30_000.0 * (node.quota / GIB) as f64 / 1_500.0;
        assert!((seen - expected).abs() <= 5.0 * expected.sqrt(), "{}: {seen} for {expected}", node.name);
    }
}

#[test]
fn pins_come_first_and_respect_the_quota() {
    let nodes = vec![node("a".into(), 100), node("b".into(), 100), node("c".into(), 5)];
    let segment = id(1);
    let at = |pins: &[usize], copies, size| {
        let wish = Wish { id: &segment, size, copies, pins, former: &[] };
        place(wish, &nodes, &mut [0, 0, 0])
    };
    let ranked = at(&[], 1, 5)[0];
    let other = if ranked == 0 { 1 } else { 0 };
    assert_eq!(at(&[other], 1, 5), [other], "instead of the best");
    assert_eq!(at(&[other], 0, 5), [other], "also if it is not raised");
    assert_eq!(at(&[2], 1, 6).len(), 1);
    assert!(!at(&[2], 1, 6).contains(&2), "it has no room");
    assert_eq!(at(&[0, 1, 2], 1, 5), [0, 1, 2]);
    assert_eq!(at(&[], 9, 5).len(), 3, "there are no more");
}

#[test]
fn zones_differ_as_long_as_there_are_some() {
    let mut nodes: Vec<Node> = (0..6).map(|n| node(format!("n{n}"), GIB)).collect();
    for (index, node) in nodes.iter_mut().enumerate() {
        node.zone = Some(if index < 4 { "east".into() } else { "west".into() });
    }
    for places in placed(200, 1, 2, &nodes) {
        assert!(places.iter().any(|n| *n < 4) && places.iter().any(|n| *n >= 4), "{places:?}");
    }
    assert!(placed(50, 1, 4, &nodes).iter().all(|places| places.len() == 4), "more copies than zones");
}

/// Number, size, copies, pins, former places.
type Segment = (usize, u64, usize, Vec<usize>, Vec<usize>);

#[derive(Debug, Clone)]
struct Case {
    nodes: Vec<Node>,
    segments: Vec<Segment>,
}

fn cases() -> impl Strategy<Value = Case> {
    let intake = prop_oneof![3 => Just(Intake::Open), 1 => Just(Intake::Closed), 1 => Just(Intake::Gone)];
    let zone = prop::option::of(prop_oneof![Just("x"), Just("y")]);
    let nodes = prop::collection::vec((1u64..200, 0u64..60, intake, zone), 1..8);
    (nodes, prop::collection::vec(any::<u64>(), 0..30)).prop_map(|(nodes, seeds)| {
        let nodes: Vec<Node> = nodes
            .into_iter()
            .enumerate()
            .map(|(n, (quota, taken, intake, zone))| Node {
                taken,
                intake,
                zone: zone.map(Into::into),
                ..node(format!("n{n}"), quota)
            })
            .collect();
        let count = nodes.len();
        let segments = seeds
            .iter()
            .enumerate()
            .map(|(n, seed)| {
                let pick = |shift: u32, every: u64| {
                    (0..count)
                        .filter(|k| (seed >> shift).rotate_right(*k as u32).is_multiple_of(every))
                        .collect()
                };
                (n, seed % 50, (seed >> 8) as usize % 4, pick(16, 7), pick(32, 3))
            })
            .collect();
        Case { nodes, segments }
    })
}

proptest! {
    #[test]
    fn nothing_is_placed_where_it_may_not_be(case in cases()) {
        let ids: Vec<SegmentId> = case.segments.iter().map(|(n, ..)| id(*n)).collect();
        let wishes: Vec<Wish<'_>> = case.segments.iter().zip(&ids)
            .map(|((_, size, copies, pins, former), id)| Wish { id, size: *size, copies: *copies, pins, former })
            .collect();
        let places = plan(&wishes, &case.nodes);
        let mut used = vec![0; case.nodes.len()];
        for (wish, place) in wishes.iter().zip(&places) {
            let distinct: BTreeSet<_> = place.iter().collect();
            prop_assert_eq!(distinct.len(), place.len());
            prop_assert!(place.len() <= wish.copies.max(wish.pins.len()));
            for &index in place {
                used[index] += wish.size;
                match case.nodes[index].intake {
                    Intake::Open => {}
                    Intake::Closed => prop_assert!(wish.former.contains(&index)),
                    Intake::Gone => prop_assert!(false, "placed on a node that is gone"),
                }
            }
        }
        for (node, used) in case.nodes.iter().zip(&used) {
            prop_assert!(*used == 0 || node.taken + used <= node.quota, "over quota");
        }
        // The order in which the workers are named changes nothing.
        let reversed: Vec<Node> = case.nodes.iter().rev().cloned().collect();
        let turn = |indices: &[usize]| indices.iter().map(|i| case.nodes.len() - 1 - i).collect::<Vec<_>>();
        let turned: Vec<(Vec<usize>, Vec<usize>)> =
            wishes.iter().map(|wish| (turn(wish.pins), turn(wish.former))).collect();
        let again: Vec<Wish<'_>> = wishes.iter().zip(&turned)
            .map(|(wish, (pins, former))| Wish { pins, former, ..*wish })
            .collect();
        prop_assert_eq!(named(&plan(&again, &reversed), &reversed), named(&places, &case.nodes));
    }

    #[test]
    fn with_room_a_leaving_worker_moves_only_its_own(
        count in 2usize..12, leaver in any::<prop::sample::Index>(), copies in 1usize..4,
    ) {
        let nodes: Vec<Node> = (0..count).map(|n| node(format!("n{n}"), GIB)).collect();
        let leaver = leaver.index(count);
        let mut without = nodes.clone();
        without[leaver].intake = Intake::Gone;
        let before = placed(100, 1, copies, &nodes);
        let after = placed(100, 1, copies, &without);
        for (before, after) in before.iter().zip(&after) {
            let stayed: Vec<_> = before.iter().filter(|n| **n != leaver).collect();
            prop_assert!(stayed.iter().all(|n| after.contains(n)));
            if !before.contains(&leaver) {
                prop_assert_eq!(before, after);
            }
            prop_assert_eq!(after.len(), copies.min(count - 1));
        }
    }
}
