use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use proptest::prelude::*;
use rusqlite::types::Value;
use springhouse_fuse::sqlite::Header;

use super::{
    source::Source,
    testing::{Place, Recipe, Table, any_recipe, ask, dump, open, places, questions, recognised},
    *,
};
use crate::query;

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        query::init().expect("SQLite fits");
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("listed");
        let mut names: Vec<String> =
            entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn prepare(&self, live: &str) -> Result<Prepared, RelayoutError> {
        prepare(&self.path(live), self.0.path(), &Arc::default())
    }

    /// A closed, vacuumed file.
    fn closed(&self, recipe: &Recipe) -> PathBuf {
        let (live, copy) = (self.path("closing"), self.path("closed"));
        let _ = std::fs::remove_file(&copy);
        drop(recipe.make(&live));
        query::vacuum_into(&live, &copy, &(Arc::new(|| false) as query::Stop)).expect("copied");
        std::fs::remove_file(live).expect("removed");
        copy
    }
}

fn integrity(path: &Path) -> Vec<Vec<Value>> {
    ask(&open(path), "PRAGMA integrity_check")
}

fn ok() -> Vec<Vec<Value>> {
    vec![vec![Value::Text("ok".into())]]
}

/// Every promise about where pages are, by SQLite's own account of them; the last page of those that come first.
fn check_layout(path: &Path, report: &Report) -> u32 {
    let header = Source::open(path).expect("a database").header;
    assert_eq!(header.pages, report.pages_after);
    let places = places(&open(path));
    let interior: BTreeSet<u32> =
        places.iter().filter(|p| p.kind == "internal" && p.page > 1).map(|p| p.page).collect();
    assert_eq!(interior.len(), report.interior_pages as usize);
    let mut first = interior.clone();
    if header.auto_vacuum {
        let roots = places.iter().filter(|p| p.path == "/" && p.page > 1).map(|p| p.page);
        let roots: BTreeSet<u32> = roots.collect();
        // SQLite takes for granted that the roots come before all else.
        let expected: BTreeSet<u32> =
            (2..).filter(|&page| !header.is_fixed(page)).take(roots.len()).collect();
        assert_eq!(roots, expected);
        first.extend(roots);
    }
    let expected: BTreeSet<u32> = (2..).filter(|&page| !header.is_fixed(page)).take(first.len()).collect();
    assert_eq!(first, expected, "interior pages follow page 1");
    let used = places.iter().map(|p| p.page).collect::<BTreeSet<u32>>();
    let all: BTreeSet<u32> = (1..=header.pages).filter(|&page| !header.is_fixed(page)).collect();
    assert_eq!(used, all, "no page is free");
    let mut trees: Vec<&str> = places.iter().map(|p| p.tree.as_str()).collect();
    trees.dedup();
    assert_eq!(trees.len(), report.trees as usize);
    for tree in trees {
        check_tree(&header, places.iter().filter(|p| p.tree == tree), &first);
    }
    first.last().copied().unwrap_or(1)
}

/// Leaves of a tree in key order, each followed by its chains; no page of another tree between.
fn check_tree<'a>(header: &Header, places: impl Iterator<Item = &'a Place>, first: &BTreeSet<u32>) {
    let (mut leaf, mut pages) = (0, Vec::new());
    // Path of the last leaf, and where what belongs to it ends so far.
    let mut tail: Option<(&str, u32)> = None;
    for place in places.filter(|p| p.kind != "internal" && !first.contains(&p.page) && p.page > 1) {
        pages.push(place.page);
        match tail {
            _ if place.kind == "leaf" => {
                assert!(place.page > leaf, "{place:?} comes before {leaf}");
                leaf = place.page;
                tail = Some((&place.path, leaf));
            }
            Some((path, last)) if place.path.starts_with(path) => {
                let next = (last + 1..).find(|&page| !header.is_fixed(page));
                assert_eq!(Some(place.page), next, "{place:?} goes on from {last}");
                tail = Some((path, place.page));
            }
            // Of an interior cell: `dbstat` sorts it before the child that it lies behind.
            _ => {}
        }
    }
    let (Some(low), Some(high)) = (pages.iter().min(), pages.iter().max()) else { return };
    let fixed = (*low..=*high).filter(|&page| header.is_fixed(page)).count();
    assert_eq!((high - low + 1) as usize - fixed, pages.len(), "the tree's pages lie together");
}

fn check(recipe: &Recipe) -> Report {
    let scratch = Scratch::new();
    let live = recipe.make(&scratch.path("live"));
    let prepared = scratch.prepare("live").expect("prepared");
    let bytes = std::fs::read(&prepared.path).expect("read");
    assert_eq!(bytes.len() as u64, prepared.file.size);
    assert_eq!(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&bytes)), prepared.file.checksum);
    assert_eq!(bytes[18..20], [1, 1]);
    assert_eq!(integrity(&prepared.path), ok());
    let new = open(&prepared.path);
    // As anybody finds it: what a connection was told of an encoding is in no file before there is a table.
    let found = rusqlite::Connection::open(scratch.path("live")).expect("opened");
    assert_eq!(dump(&new), dump(&found));
    for question in questions(recipe) {
        assert_eq!(ask(&new, &question), ask(&live, &question), "{question}");
    }
    let report = prepared.file.report;
    let front = check_layout(&prepared.path, &report);
    check_recognised(&bytes, &report, front);
    check_writable(&prepared.path, recipe);
    report
}

/// The mount recognises the layout: from a head with everything up to page `front` in it where that ends, from
/// a shorter one that interior pages come first.
fn check_recognised(file: &[u8], report: &Report, front: u32) {
    // A mount reads no more than this part of a file with the head.
    if !(6..=report.pages_after / 64 + 64).contains(&front) {
        return;
    }
    let seen = recognised(file, front).expect("recognised");
    assert!(seen >= front, "{seen} is before {front}");
    assert!(recognised(file, front.min(16)).is_some());
}

/// Whoever goes on writing to it finds everything as SQLite wants it.
fn check_writable(path: &Path, recipe: &Recipe) {
    let db = rusqlite::Connection::open(path).expect("opened");
    let run = |sql: String| db.execute_batch(&sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    run("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY; PRAGMA foreign_keys = OFF".into());
    for (number, table) in recipe.tables.iter().enumerate() {
        run(format!("INSERT INTO t{number} (a, b) VALUES ('brand new', 'value')"));
        if table.kind == 0 {
            run(format!("DROP INDEX i{number}; DELETE FROM t{number} WHERE id % 2"));
        }
    }
    if recipe.empty > 1 {
        run("DROP TABLE empty0; CREATE TABLE fresh (a, b UNIQUE)".into());
    }
    run("PRAGMA incremental_vacuum".into());
    assert_eq!(ask(&db, "PRAGMA integrity_check"), ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn contents_stay_and_interior_pages_come_first(recipe in any_recipe()) {
        check(&recipe);
    }

    /// Whatever is done to a file, it is laid out or refused, and nothing is left of a failure.
    #[test]
    fn damaged_files_do_no_harm(
        mut recipe in any_recipe(),
        blows in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        recipe.tables.truncate(2);
        let scratch = Scratch::new();
        let path = scratch.closed(&recipe);
        let mut bytes = std::fs::read(&path).expect("read");
        for (at, value) in blows {
            // Mostly where structure is: in heads of pages.
            let at = at.index(bytes.len());
            let at = if value % 2 == 0 { at / recipe.page_bytes as usize * recipe.page_bytes as usize + at % 16 } else { at };
            bytes[at] = value;
        }
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
        std::fs::write(&path, &bytes).expect("written");
        let to = scratch.path("to");
        let laid = relayout(&path, &to, &Watch::default());
        prop_assert_eq!(to.exists(), laid.is_ok());
    }
}

#[test]
fn deep_trees_of_small_pages() {
    let report = check(&Recipe {
        tables: vec![Table { kind: 0, rows: 30_000, long: 5 }, Table { kind: 3, rows: 3000, long: 700 }],
        ..Recipe::simple(512, 0)
    });
    assert!(report.interior_pages > 100, "{report:?}");
    assert!(report.cold_before.reads > 8 * report.cold_after.reads, "{report:?}");
    assert!(report.cold_after.reads <= 3, "{report:?}");
}

#[test]
fn a_schema_of_many_pages() {
    for auto_vacuum in ["none", "full"] {
        let recipe = Recipe { empty: 400, comment: 3000, auto_vacuum, ..Recipe::simple(512, 3000) };
        let report = check(&recipe);
        // The schema, the table, its index, the noted table, and each empty one with its index.
        assert_eq!(report.trees, 4 + 800);
    }
}

#[test]
fn the_schema_grows_onto_other_pages_when_roots_get_longer() {
    // The numbers of roots behind thousands of interior pages are a byte or two longer.
    for empty in 1..14 {
        check(&Recipe { empty, ..Recipe::simple(512, 9000) });
    }
}

#[test]
fn a_database_of_nothing() {
    for auto_vacuum in ["none", "incremental"] {
        let report = check(&Recipe { tables: Vec::new(), auto_vacuum, ..Recipe::simple(4096, 0) });
        assert_eq!((report.trees, report.interior_pages), (1, 0));
    }
}

#[test]
fn free_pages_and_a_laid_out_file_are_taken_too() {
    let scratch = Scratch::new();
    let path = scratch.path("d");
    let db = Recipe::simple(1024, 4000).make(&path);
    db.execute_batch("DELETE FROM t0 WHERE id % 3 > 0").expect("deleted");
    let before = dump(&db);
    drop(db);
    let (once, twice) = (scratch.path("once"), scratch.path("twice"));
    let first = relayout(&path, &once, &Watch::default()).expect("laid out");
    assert!(first.pages_after < first.pages_before, "{first:?}");
    let second = relayout(&once, &twice, &Watch::default()).expect("laid out");
    assert_eq!((second.pages_before, second.pages_after), (first.pages_after, first.pages_after));
    assert_eq!(std::fs::read(&once).expect("read"), std::fs::read(&twice).expect("read"), "nothing moves");
    assert_eq!(dump(&open(&twice)), before);
    check_layout(&twice, &second);
}

#[test]
fn what_is_not_a_closed_database_is_refused() {
    let scratch = Scratch::new();
    let (path, to) = (scratch.path("d"), scratch.path("to"));
    let why = |path: &Path| {
        let error = relayout(path, &to, &Watch::default()).expect_err("refused").to_string();
        assert!(!to.exists());
        error
    };
    assert!(why(&path).contains("No such file"), "{}", why(&path));
    std::fs::write(&path, b"").expect("written");
    assert!(why(&path).contains("0 bytes"));
    std::fs::write(&path, vec![b'x'; 4096]).expect("written");
    assert!(why(&path).contains("does not begin like a database"));
    std::fs::remove_file(&path).expect("removed");
    let db = Recipe { wal: true, ..Recipe::simple(4096, 10) }.make(&path);
    assert!(why(&path).contains("wal file beside it"), "{}", why(&path));
    drop(db);
    assert!(why(&path).contains("WAL mode"), "{}", why(&path));
    let closed = scratch.closed(&Recipe::simple(4096, 100));
    let mut bytes = std::fs::read(&closed).expect("read");
    bytes.truncate(bytes.len() - 4096);
    std::fs::write(&closed, &bytes).expect("written");
    // The header's count is then not the file's.
    assert!(why(&closed).contains("damaged"), "{}", why(&closed));
    std::fs::write(&to, b"mine").expect("written");
    let error = relayout(&scratch.closed(&Recipe::simple(512, 9)), &to, &Watch::default());
    assert!(error.expect_err("refused").to_string().contains("exists"));
    assert_eq!(std::fs::read(&to).expect("read"), b"mine", "not ours, not touched");
}

#[test]
fn uncommitted_rows_stay_out_and_writers_go_on() {
    let scratch = Scratch::new();
    let live = Recipe { wal: true, ..Recipe::simple(4096, 500) }.make(&scratch.path("live"));
    let before = dump(&live);
    live.execute_batch("BEGIN IMMEDIATE; DELETE FROM t0").expect("deleted");
    let prepared = scratch.prepare("live").expect("prepared");
    assert_eq!(dump(&open(&prepared.path)), before);
    live.execute_batch("INSERT INTO t0 (a) VALUES ('later'); COMMIT").expect("committed");
    assert_eq!(ask(&live, "SELECT count(*) FROM t0"), [[Value::Integer(1)]]);
    // The copy changed nothing of the live database: what is committed is in its WAL.
    assert!(scratch.names().contains(&"live-wal".to_owned()));
}

#[test]
fn a_failure_leaves_nothing() {
    let scratch = Scratch::new();
    Recipe::simple(4096, 500).make(&scratch.path("live"));
    let watch = Arc::<Watch>::default();
    watch.cancel();
    let error = prepare(&scratch.path("live"), scratch.0.path(), &watch).expect_err("cancelled");
    assert!(matches!(error, RelayoutError::Cancelled), "{error}");
    assert_eq!(scratch.names(), ["live"]);
    std::fs::write(scratch.path("live"), vec![b'x'; 8192]).expect("written");
    let error = scratch.prepare("live").expect_err("refused");
    assert!(error.to_string().contains("not a database"), "{error}");
    assert_eq!(scratch.names(), ["live"]);
}

#[test]
fn a_result_that_nobody_keeps_is_removed() {
    let scratch = Scratch::new();
    let live = Recipe::simple(4096, 50).make(&scratch.path("live"));
    drop(live);
    let prepared = scratch.prepare("live").expect("prepared");
    assert_eq!(scratch.names().len(), 2);
    assert!(scratch.names()[0].starts_with(SCRATCH_PREFIX));
    drop(prepared);
    assert_eq!(scratch.names(), ["live"]);
}

#[test]
fn every_phase_can_be_cancelled_and_tells_how_far_it_is() {
    let scratch = Scratch::new();
    let path = scratch.closed(&Recipe::simple(1024, 3000));
    let watch = Watch::default();
    relayout(&path, &scratch.path("to"), &watch).expect("laid out");
    let progress = watch.progress();
    assert_eq!(progress.phase, Phase::Write);
    assert_eq!(progress.bytes_done, progress.bytes);
    assert_eq!(progress.bytes, std::fs::metadata(scratch.path("to")).expect("there").len());
    watch.cancel();
    let error = relayout(&path, &scratch.path("again"), &watch).expect_err("cancelled");
    assert!(matches!(error, RelayoutError::Cancelled));
    let stop = Arc::new(|| true) as query::Stop;
    assert!(matches!(query::verify_copy(&path, &scratch.path("to"), &stop), Err(query::CopyError::Stopped)));
}

#[test]
fn a_copy_that_differs_is_found() {
    let scratch = Scratch::new();
    let old = scratch.closed(&Recipe::simple(4096, 300));
    let stop = Arc::new(|| false) as query::Stop;
    let changed = |sql: &str| {
        let new = scratch.path("new");
        std::fs::copy(&old, &new).expect("copied");
        let db = rusqlite::Connection::open(&new).expect("opened");
        db.execute_batch(&format!("PRAGMA journal_mode = MEMORY; {sql}")).expect("changed");
        drop(db);
        query::verify_copy(&old, &new, &stop).map_err(|e| e.to_string())
    };
    assert_eq!(changed(""), Ok(()));
    assert!(changed("DELETE FROM t0 WHERE id = 7").expect_err("found").contains("table t0 has"));
    assert!(changed("PRAGMA user_version = 3").expect_err("found").contains("user_version"));
    assert!(changed("CREATE VIEW more AS SELECT 1").expect_err("found").contains("schema"));
}

/// So many roots that they reach beyond the first 64 KiB, and a schema that says only then where they are.
#[test]
fn many_roots_in_front_are_recognised() {
    let table = |rows, long| Table { kind: 2, rows, long };
    check(&Recipe {
        encoding: "UTF-16le",
        auto_vacuum: "full",
        tables: vec![table(960, 2327), table(811, 1823)],
        empty: 60,
        ..Recipe::simple(512, 0)
    });
}

/// The lock-byte page at 1 GiB, and a pointer map beside it: needs 3 GB of disk and some 20 s.
#[test]
fn a_file_beyond_the_lock_byte() {
    let scratch = Scratch::new();
    for auto_vacuum in ["none", "full"] {
        let recipe = Recipe { auto_vacuum, ..Recipe::simple(65_536, 0) };
        let live = recipe.make(&scratch.path("live"));
        live.execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 18000)
             INSERT INTO t0 (a, b) SELECT i, zeroblob(60000) FROM n",
        )
        .expect("filled");
        let prepared = scratch.prepare("live").expect("prepared");
        assert!(prepared.file.size > (1 << 30) + 65_536);
        check_layout(&prepared.path, &prepared.file.report);
        assert_eq!(
            ask(&open(&prepared.path), "SELECT count(*), sum(a) FROM t0"),
            [[Value::Integer(18_000), Value::Integer(9000 * 18_001)]]
        );
        drop(live);
        std::fs::remove_file(scratch.path("live")).expect("removed");
    }
}
