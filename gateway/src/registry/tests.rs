use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use proptest::prelude::*;

use super::{
    Meta, Registry, RowChange,
    catalog::{Catalog, Lookup},
    memory::MemoryRegistry,
    packed::{Facts, Packed},
    rows::{DirState, Key, ROW_SEGMENTS_MAX, decode_segments, unseal},
    sled::SledRegistry,
    state::{Change, State},
};
use crate::{segment::SegmentId, store::Generation};

pub(super) fn meta() -> Meta {
    Meta::new("0".repeat(32))
}

pub(super) fn facts(version: u8) -> Facts {
    Facts { generation: Generation([version; 16]), size: u64::from(version), mtime_ms: -i64::from(version) }
}

pub(super) fn id(text: &str) -> SegmentId {
    SegmentId::parse(text).expect(text)
}

fn state(quiet: bool) -> DirState {
    DirState { seen: Some((1, Generation([9; 16]))), has_subdirs: false, quiet, bad_names: 2 }
}

pub(super) fn listed(path: &str, segments: impl IntoIterator<Item = (String, Facts)>) -> Change {
    let segments = Packed::from_unsorted(segments.into_iter().collect());
    Change::Listed { path: path.into(), state: state(true), segments }
}

pub(super) type Model = BTreeMap<String, BTreeMap<String, Facts>>;

#[derive(Debug, Clone)]
pub(super) enum Op {
    List { dir: usize, first: u32, count: u32, step: u32, version: u8 },
    Remove { dir: usize },
    Put { dir: usize, n: u32, version: u8 },
    Drop { dir: usize, n: u32 },
}

/// Canonical for ids of 3, 5 and 6 digits, and two where nothing belongs.
const DIRS: [&str; 5] = ["/", "/10", "/100", "/x/y", "/x y"];

pub(super) fn ops() -> impl Strategy<Value = Vec<Vec<Op>>> {
    let dir = 0..DIRS.len();
    let n = prop_oneof![0u32..30, 10_000..10_030u32, 100_000..103_000u32];
    let op = prop_oneof![
        2 => (dir.clone(), n.clone(), prop_oneof![0u32..20, 900..3500u32], 1u32..3, 0u8..4)
            .prop_map(|(dir, first, count, step, version)| Op::List { dir, first, count, step, version }),
        1 => dir.clone().prop_map(|dir| Op::Remove { dir }),
        4 => (dir.clone(), n.clone(), 0u8..4).prop_map(|(dir, n, version)| Op::Put { dir, n, version }),
        2 => (dir, n).prop_map(|(dir, n)| Op::Drop { dir, n }),
    ];
    prop::collection::vec(prop::collection::vec(op, 1..4), 1..10)
}

pub(super) fn change(op: &Op, model: &mut Model) -> Change {
    match *op {
        Op::List { dir, first, count, step, version } => {
            let segments: BTreeMap<String, Facts> =
                (0..count).map(|i| (format!("{:03}", first + i * step), facts(version))).collect();
            model.insert(DIRS[dir].into(), segments.clone());
            listed(DIRS[dir], segments)
        }
        Op::Remove { dir } => {
            model.remove(DIRS[dir]);
            Change::Removed(DIRS[dir].into())
        }
        Op::Put { dir, n, version } => {
            let text = format!("{n:03}");
            model.entry(DIRS[dir].into()).or_default().insert(text.clone(), facts(version));
            Change::Segment { directory: DIRS[dir].into(), id: id(&text), facts: Some(facts(version)) }
        }
        Op::Drop { dir, n } => {
            let text = format!("{n:03}");
            if let Some(segments) = model.get_mut(DIRS[dir]) {
                segments.remove(&text);
            }
            Change::Segment { directory: DIRS[dir].into(), id: id(&text), facts: None }
        }
    }
}

fn check(catalog: &Catalog, model: &Model) {
    let expected: Vec<(String, String, Facts)> = model
        .iter()
        .flat_map(|(dir, segments)| segments.iter().map(|(id, f)| (dir.clone(), id.clone(), *f)))
        .collect();
    assert_eq!(catalog.segment_count(), expected.len() as u64);
    assert_eq!(catalog.directory_count(), model.len() as u64);

    // Walked in pages, whatever their size, the catalog is the model.
    let mut walked = Vec::new();
    loop {
        let after = walked.last().map(|(dir, id, _): &(String, String, Facts)| (dir.clone(), id.clone()));
        let after = after.as_ref().map(|(dir, id)| (dir.as_str(), id.as_str()));
        let (page, more) = catalog.page("", after, 997);
        walked.extend(page.into_iter().map(|(dir, id, f)| (dir.to_string(), id, f)));
        if !more {
            break;
        }
    }
    assert!(walked == expected);
    let with_prefix = expected.iter().filter(|(_, id, _)| id.starts_with("1000")).count();
    assert_eq!(catalog.page("1000", None, usize::MAX).0.len(), with_prefix);

    let mut by_id = BTreeMap::<&str, Vec<(&str, Facts)>>::new();
    for (dir, id, f) in &expected {
        by_id.entry(id).or_default().push((dir, *f));
    }
    for (text, places) in by_id.iter().step_by(7).chain(by_id.iter().take(20)) {
        match (catalog.lookup(&id(text)), places.as_slice()) {
            (Lookup::Found(found), [(dir, f)]) => assert_eq!((&*found.directory, found.facts), (*dir, *f)),
            (Lookup::Ambiguous(paths), many) if many.len() > 1 => {
                let mut expected: Vec<_> = many.iter().map(|(dir, _)| id(text).path_in(dir)).collect();
                expected.sort();
                assert_eq!(paths, expected);
            }
            (lookup, places) => panic!("{text}: {lookup:?}, expected {places:?}"),
        }
    }
    assert_eq!(catalog.lookup(&id("nowhere")), Lookup::Absent);
}

fn same(a: &Catalog, b: &Catalog) -> bool {
    a.directories().eq(b.directories())
        && a.bad_names() == b.bad_names()
        && a.misplaced_count() == b.misplaced_count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_catalog_is_its_model_and_comes_back_from_its_rows(batches in ops()) {
        let registry = MemoryRegistry::default();
        let catalog = State::open(Box::new(registry.clone()), meta).expect("memory opens");
        let mut model = Model::new();
        for ops in &batches {
            let before = model.clone();
            let changes = ops.iter().map(|op| change(op, &mut model)).collect();
            let delta = catalog.commit(changes).expect("memory takes it");
            check(&catalog.catalog(), &model);
            prop_assert_eq!(
                delta.added as i64 - delta.removed as i64,
                count(&model) - count(&before)
            );
            for (key, value) in registry.rows.lock().iter() {
                let payload = unseal(key, value).expect("sealed by us");
                if let Ok(Key::Segments(_, lower)) = Key::decode(key) {
                    let mut row = Packed::default();
                    prop_assert_eq!(decode_segments(payload, lower, &mut row), Ok(()));
                    prop_assert!((1..=ROW_SEGMENTS_MAX).contains(&row.len()));
                }
            }
            let again = State::open(Box::new(registry.clone()), meta).expect("memory opens");
            prop_assert!(same(&again.catalog(), &catalog.catalog()));
        }
    }
}

fn count(model: &Model) -> i64 {
    model.values().map(|segments| segments.len() as i64).sum()
}

pub(super) fn numbered(from: u32, to: u32, version: u8) -> Vec<(String, Facts)> {
    (from..to).map(|n| (format!("{n:08}"), facts(version))).collect()
}

#[test]
fn a_small_change_writes_one_row() {
    let registry = MemoryRegistry::default();
    let state = State::open(Box::new(registry.clone()), meta).expect("memory opens");
    state.commit(vec![listed("/flat", numbered(0, 100_000, 1))]).expect("memory takes it");
    let rows = registry.rows.lock().len();
    assert!((101..=130).contains(&rows), "{rows}");
    let mut next = numbered(0, 100_000, 1);
    next[55_555].1 = facts(2);
    let delta = state.commit(vec![listed("/flat", next.clone())]).expect("memory takes it");
    assert_eq!((delta.added, delta.changed, delta.removed), (0, 1, 0));
    assert_eq!(registry.commits.lock().last().map(Vec::len), Some(1));
    // The same listing once more writes nothing.
    state.commit(vec![listed("/flat", next)]).expect("memory takes it");
    assert_eq!(registry.commits.lock().last(), Some(&Vec::new()));
    // Deleting nearly all leaves few rows, not a hundred tiny ones.
    state.commit(vec![listed("/flat", numbered(0, 100_000, 1).into_iter().step_by(1000))]).expect("taken");
    assert_eq!(registry.rows.lock().len(), 2);
}

#[test]
fn a_full_disk_changes_nothing() {
    let registry = MemoryRegistry::default();
    let state = State::open(Box::new(registry.clone()), meta).expect("memory opens");
    state.commit(vec![listed("/", [("1".into(), facts(1))])]).expect("memory takes it");
    registry.full.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(state.commit(vec![listed("/", [("2".into(), facts(1))])]).is_err());
    assert!(matches!(state.catalog().lookup(&id("1")), Lookup::Found(_)));
    assert_eq!(state.catalog().lookup(&id("2")), Lookup::Absent);
}

#[test]
fn a_damaged_row_is_dropped_and_its_directory_listed_again() {
    let registry = MemoryRegistry::default();
    let first = State::open(Box::new(registry.clone()), meta).expect("memory opens");
    first
        .commit(vec![listed("/00001", numbered(1000, 2000, 1)), listed("/big", numbered(5000, 8000, 1))])
        .expect("memory takes it");
    let damaged = {
        let mut rows = registry.rows.lock();
        let (key, value) = rows
            .iter_mut()
            .find(
                |(key, _)| matches!(Key::decode(key), Ok(Key::Segments("/big", lower)) if !lower.is_empty()),
            )
            .expect("3,000 segments take several rows");
        let last = value.len() - 1;
        value[last] ^= 1;
        let key = key.clone();
        rows.insert(b"no key of ours".to_vec(), b"?".to_vec());
        key
    };
    let again = State::open(Box::new(registry.clone()), meta).expect("memory opens");
    let catalog = again.catalog();
    let big = catalog.directory("/big").expect("the rest of it is there");
    assert_eq!(big.state.seen, None);
    assert!((1..3000).contains(&big.segments.len()));
    assert_eq!(catalog.directory("/00001").map(|d| (d.state, d.segments.len())), Some((state(true), 1000)));
    assert!(!registry.rows.lock().contains_key(&damaged));
    assert!(!registry.rows.lock().contains_key(&b"no key of ours"[..]));
}

#[test]
fn a_segment_costs_at_most_120_bytes_in_memory() {
    let registry = MemoryRegistry::default();
    let state = State::open(Box::new(registry), meta).expect("memory opens");
    for dir in 0..20u32 {
        let ids = (0..1000u32).map(|n| (format!("{:011}{n:03}", 10_000 + dir), facts(1)));
        state.commit(vec![listed(&format!("/{:011}", 10_000 + dir), ids)]).expect("memory takes it");
    }
    let catalog = state.catalog();
    let bytes: usize = catalog
        .directories()
        // Two Arcs, two entries of the maps with their slack, the path.
        .map(|(path, d)| d.segments.heap_bytes() + size_of_val(&**d) + path.len() + 200)
        .sum();
    let each = bytes / 20_000;
    assert_eq!(catalog.misplaced_count(), 0);
    assert!(each <= 60, "{each} bytes a segment of a 14-byte id");
}

#[test]
fn sled_keeps_what_was_acknowledged() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let open = |path: &std::path::Path| {
        let registry = SledRegistry::open(path, 1 << 20).expect("sled opens");
        State::open(Box::new(registry), meta).expect("a registry")
    };
    let live = home.path().join("live");
    let first = open(&live);
    first
        .commit(vec![listed("/00001", numbered(1000, 2000, 1)), listed("/b", numbered(0, 2500, 3))])
        .expect("disk");
    first.update_meta(|meta| meta.discovered = true).expect("disk");
    first
        .commit(vec![
            Change::Removed("/b".into()),
            Change::Segment { directory: "/00001".into(), id: id("00001007"), facts: Some(facts(7)) },
        ])
        .expect("disk");
    // What a kill leaves: the files as they are now, nothing flushed on the way out.
    let crashed = home.path().join("crashed");
    copy(&live, &crashed);
    let second = open(&crashed);
    assert!(same(&first.catalog(), &second.catalog()));
    assert_eq!((second.meta().epoch, second.discovered()), (2, true));
    assert_eq!(second.meta().registry_id, first.meta().registry_id);
    assert!(
        matches!(second.catalog().lookup(&id("00001007")), Lookup::Found(found) if found.facts == facts(7))
    );
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[test]
fn a_registry_in_use_says_so() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let _held = SledRegistry::open(home.path(), 1 << 20).expect("sled opens");
    match SledRegistry::open(home.path(), 1 << 20).map(drop) {
        Err(super::RegistryError::InUse(text)) => assert!(text.contains("another process"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sled_rows_come_in_order() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let registry = SledRegistry::open(home.path(), 1 << 20).expect("sled opens");
    let keys: Vec<Vec<u8>> = (0..500u32).rev().map(|n| format!("/{n:04}\0d").into_bytes()).collect();
    registry.commit(keys.iter().map(|k| RowChange::Put(k.clone(), vec![1])).collect()).expect("disk");
    registry.commit(vec![RowChange::Delete(keys[0].clone())]).expect("disk");
    let mut seen = Vec::new();
    let each = &mut |key: &[u8], _: &[u8]| {
        seen.push(key.to_vec());
        ControlFlow::Continue(())
    };
    registry.scan(b"", Some(b"~"), each).expect("disk");
    let mut expected = keys[1..].to_vec();
    expected.sort();
    assert_eq!(seen, expected);
    let _: Arc<dyn Registry> = Arc::new(registry);
}

/// A listing that was begun before a promotion, and ends after it, does not take it back.
#[test]
fn what_came_after_a_listing_began_stays() {
    let state = State::open(Box::new(MemoryRegistry::default()), meta).expect("memory opens");
    let versions = |all: &[(&str, u8)]| -> Vec<(String, Facts)> {
        all.iter().map(|(id, version)| ((*id).to_owned(), facts(*version))).collect()
    };
    let put = |name: &str, facts| {
        let change = Change::Segment { directory: "/a".into(), id: id(name), facts };
        state.commit(vec![change]).expect("memory commits");
    };
    state.commit(vec![listed("/a", versions(&[("1", 1), ("2", 1), ("3", 1)]))]).expect("memory commits");
    let before = [("/a".into(), state.catalog().directory("/a").cloned())].into();
    put("1", Some(facts(2)));
    put("2", None);
    put("4", Some(facts(2)));
    // As it was seen before all that, but for what somebody else has changed.
    let seen = vec![listed("/a", versions(&[("1", 1), ("2", 1), ("3", 7)]))];
    state.commit_listed(seen.clone(), &before).expect("memory commits");
    let known = || {
        let catalog = state.catalog();
        let directory = catalog.directory("/a").expect("it is there");
        let segments: Vec<_> = directory.segments.iter().map(|(id, facts)| (id.to_owned(), facts)).collect();
        (segments, directory.state.quiet)
    };
    assert_eq!(known(), (versions(&[("1", 2), ("3", 7), ("4", 2)]), false), "and is listed again");
    // Nothing came in between: the listing is right.
    let before = [("/a".into(), state.catalog().directory("/a").cloned())].into();
    state.commit_listed(seen, &before).expect("memory commits");
    assert_eq!(known(), (versions(&[("1", 1), ("2", 1), ("3", 7)]), true));
}
