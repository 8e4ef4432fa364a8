use std::collections::HashSet;

use proptest::prelude::*;
use rusqlite::Connection;

use super::{
    testing::{Walked, database, fill, interior_first, page_of, reserve_bytes, roots, rowids},
    *,
};

const ROOM: u64 = 64 << 20;

fn header(file: &[u8]) -> Header {
    Header::parse(file, file.len() as u64).expect("a database")
}

/// A reader of `file` whose every wish is granted at once.
struct Reader<'a> {
    file: &'a [u8],
    database: Database,
    /// Interior pages that were kept.
    kept: HashSet<u32>,
    /// What was fetched as interior pages.
    fetched: Vec<u32>,
    /// Everything that was fetched ahead.
    ahead: Vec<u32>,
    /// Pages that a reader asked for and that were not there.
    misses: Vec<u32>,
    far: bool,
}

impl<'a> Reader<'a> {
    fn new(file: &'a [u8], far: bool) -> Self {
        let mut new = Self {
            file,
            database: Database::new(header(file), ROOM),
            kept: HashSet::new(),
            fetched: Vec::new(),
            ahead: Vec::new(),
            misses: Vec::new(),
            far,
        };
        new.learn(1, false);
        new.work();
        new
    }

    fn learn(&mut self, page: u32, asked: bool) {
        let bytes = page_of(self.database.header(), self.file, page);
        if self.database.wants(page, bytes) && self.database.arrived(page, bytes, asked) == Arrived::Keep {
            assert!(self.kept.insert(page), "{page} is told once");
        }
    }

    fn work(&mut self) {
        for _ in 0..10_000 {
            let work = self.database.work(self.far);
            if work.is_empty() {
                return;
            }
            let pages = self.database.header().pages;
            self.fetched.extend(&work.interior);
            for page in work.interior.into_iter().chain(work.index_leaves) {
                assert!((1..=pages).contains(&page));
                self.learn(page, true);
            }
            assert!(work.ahead.iter().all(|page| (1..=pages).contains(page)));
            self.ahead.extend(work.ahead);
        }
        panic!("work without end");
    }

    fn read(&mut self, page: u32) {
        if !self.kept.contains(&page) && !self.ahead.contains(&page) {
            self.misses.push(page);
        }
        self.database.requested(page);
        self.work();
        self.learn(page, true);
        self.work();
    }
}

/// Every interior page of every tree of `file` becomes known, and no other page is kept.
fn check_all_known(file: &[u8]) {
    let mut reader = Reader::new(file, true);
    let all = roots(file);
    let hinted: Vec<u32> = all.iter().map(|(root, _)| *root).collect();
    reader.database.hint(&hinted);
    reader.work();
    // A hinted tree whose root was not known then is one now.
    reader.database.hint(&hinted);
    reader.work();
    let mut interior: Vec<u32> =
        all.iter().flat_map(|(root, _)| Walked::new(&header(file), file, *root).interior).collect();
    let mut kept: Vec<u32> = reader.kept.into_iter().collect();
    interior.sort_unstable();
    kept.sort_unstable();
    assert_eq!(kept, interior);
    assert!(interior.len() > 2, "a test of something");
}

#[test]
fn interior_pages_of_every_page_size_are_known() {
    for size in [512, 1024, 4096, 16_384, 65_536] {
        check_all_known(&database(&format!("pragma page_size={size}"), |c| fill(c, 20_000, 50)));
    }
}

#[test]
fn interior_pages_of_every_dialect_are_known() {
    let small = "pragma page_size=1024;";
    for pragma in ["pragma encoding='UTF-16le'", "pragma encoding='UTF-16be'", "pragma auto_vacuum=full"] {
        check_all_known(&database(&format!("{small} {pragma}"), |c| fill(c, 3000, 10)));
    }
    check_all_known(&database(small, |c| {
        reserve_bytes(c, 32);
        fill(c, 3000, 10);
    }));
    check_all_known(&database(small, |c| {
        c.execute_batch(
            "create table w (k text primary key, v) without rowid; create index w_v on w (v);
             with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000)
             insert into w select 'key' || i, i % 100 from n;",
        )
        .expect("filled");
    }));
    check_all_known(&database(small, |c| {
        // More tables than one page of the schema holds.
        for i in 0..100 {
            c.execute_batch(&format!("create table table_{i} (a, b unique)")).expect("a table");
        }
        fill(c, 3000, 10);
    }));
    check_all_known(&database(small, |c| {
        c.execute_batch(
            "create virtual table f using fts5(body);
             with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000)
             insert into f select 'word' || i || ' and word' || (i % 97) from n;",
        )
        .expect("filled");
    }));
}

/// Reads the pages of an index scan that gives `rows`, each once, as they pass the kernel's cache; gives
/// how many of them had to be waited for.
fn scan(reader: &mut Reader<'_>, index: &Walked, table: &Walked, rows: &[i64]) -> usize {
    let mut seen = HashSet::from([1]);
    for row in rows {
        for page in index.path_of(*row).into_iter().chain(table.path_of(*row)) {
            if seen.insert(page) {
                reader.read(page);
            }
        }
    }
    reader.misses.len()
}

struct Fixture {
    file: Vec<u8>,
    table: u32,
    by_key: u32,
    by_n: u32,
}

impl Fixture {
    fn new(rows: i64, same: i64) -> Self {
        let file = database("pragma page_size=1024", |c| fill(c, rows, same));
        let roots = roots(&file);
        let root = |name: &str| roots.iter().find(|(_, n)| n == name).expect("a tree").0;
        let (table, by_key, by_n) = (root("t"), root("sqlite_autoindex_t_1"), root("by_n"));
        Self { file, table, by_key, by_n }
    }

    fn walked(&self, root: u32) -> Walked {
        Walked::new(&header(&self.file), &self.file, root)
    }
}

#[test]
fn rows_of_one_key_are_fetched_together() {
    let fixture = Fixture::new(40_000, 600);
    let (index, table) = (fixture.walked(fixture.by_n), fixture.walked(fixture.table));
    let rows = rowids(&fixture.file, "select rowid from t where n = 33 order by rowid");
    assert_eq!(rows.len(), 600);
    for far in [true, false] {
        let mut reader = Reader::new(&fixture.file, far);
        let misses = scan(&mut reader, &index, &table, &rows);
        let pages: HashSet<u32> = rows.iter().flat_map(|row| table.path_of(*row)).collect();
        assert!(pages.len() > 500, "scattered rows");
        assert!(misses <= 16, "{misses} waits, far: {far}");
        let leaves: HashSet<u32> =
            rows.iter().filter_map(|row| table.path_of(*row).last().copied()).collect();
        let wasted = reader.ahead.iter().filter(|page| !leaves.contains(page)).count();
        assert!(wasted <= 8, "{wasted} pages for nothing");
    }
}

#[test]
fn a_range_of_an_index_is_fetched_in_growing_windows_in_both_directions() {
    let fixture = Fixture::new(40_000, 1);
    let (index, table) = (fixture.walked(fixture.by_key), fixture.walked(fixture.table));
    for forward in [true, false] {
        let mut rows: Vec<i64> = index.rows[10_000..10_600].to_vec();
        if !forward {
            rows.reverse();
        }
        let mut reader = Reader::new(&fixture.file, true);
        let misses = scan(&mut reader, &index, &table, &rows);
        assert!(misses <= 40, "{misses} waits, forward: {forward}");
    }
}

#[test]
fn single_lookups_fetch_no_leaves() {
    let fixture = Fixture::new(40_000, 1);
    let (index, table) = (fixture.walked(fixture.by_key), fixture.walked(fixture.table));
    let rows: Vec<i64> = (0..200).map(|i| index.rows[i * 190]).collect();
    let mut reader = Reader::new(&fixture.file, true);
    scan(&mut reader, &index, &table, &rows);
    assert!(reader.ahead.is_empty());
}

#[test]
fn a_lookup_by_index_fetches_no_large_level_of_the_table_also_far_away() {
    let file = database("pragma page_size=512", |c| fill(c, 40_000, 50));
    let walked = |name: &str| {
        let root = roots(&file).iter().find(|(_, of)| of == name).expect("there").0;
        Walked::new(&header(&file), &file, root)
    };
    let (index, table) = (walked("sqlite_autoindex_t_1"), walked("t"));
    assert!(table.interior.len() > 150, "a large level: {}", table.interior.len());
    let known = |reader: &Reader<'_>| table.interior.iter().filter(|page| reader.kept.contains(page)).count();
    let mut reader = Reader::new(&file, true);
    scan(&mut reader, &index, &table, &index.rows[20_000..20_001]);
    assert!(known(&reader) <= 20, "{} interior pages of the table", known(&reader));
    let schema = walked("sqlite_schema").leaves;
    let leaves = reader.fetched.iter().filter(|page| !reader.kept.contains(page) && !schema.contains(page));
    assert!(leaves.count() <= 1, "leaves of one small level, not one of each tree, only to see what it is");
    for i in 1..20 {
        scan(&mut reader, &index, &table, &index.rows[i * 1_000..i * 1_000 + 1]);
    }
    assert_eq!(known(&reader), table.interior.len(), "of a table that is used often all");
    // Next door what the rows of the index leaves that were read lead to, and not the whole level.
    let mut reader = Reader::new(&file, false);
    let rows: Vec<i64> = (0..20).map(|i| index.rows[i * 1_000]).collect();
    scan(&mut reader, &index, &table, &rows);
    assert!(known(&reader) * 3 < table.interior.len() * 2, "{} of {}", known(&reader), table.interior.len());
}

#[test]
fn leaves_in_tree_order_are_fetched_wherever_they_lie() {
    // Inserted in another order than that of the key, and not vacuumed: leaves lie scattered.
    let file = super::testing::unvacuumed("pragma page_size=1024", |c| fill(c, 20_000, 10));
    let roots = roots(&file);
    let root = roots.iter().find(|(_, name)| name == "sqlite_autoindex_t_1").expect("an index").0;
    let index = Walked::new(&header(&file), &file, root);
    for forward in [true, false] {
        let mut leaves = index.leaves[10..210].to_vec();
        if !forward {
            leaves.reverse();
        }
        let mut reader = Reader::new(&file, true);
        reader.database.hint(&[root]);
        reader.work();
        for leaf in leaves {
            reader.read(leaf);
        }
        assert!(reader.misses.len() <= 12, "{} waits, forward: {forward}", reader.misses.len());
        assert!(reader.ahead.len() <= 200 + 256);
    }
}

#[test]
fn leaves_that_follow_each_other_are_left_to_readahead() {
    let fixture = Fixture::new(40_000, 1);
    let table = fixture.walked(fixture.table);
    let mut reader = Reader::new(&fixture.file, true);
    for leaf in &table.leaves[..300] {
        reader.read(*leaf);
    }
    assert!(reader.ahead.is_empty());
}

#[test]
fn overflow_chains_are_guessed() {
    let file = database("pragma page_size=1024", |c| {
        c.execute_batch(
            "create table blobs (id integer primary key, body blob);
             with recursive n(i) as (select 1 union all select i + 1 from n where i < 100)
             insert into blobs select i, zeroblob(100000) from n;",
        )
        .expect("filled");
    });
    let root = roots(&file)[1].0;
    let table = Walked::new(&header(&file), &file, root);
    let leaf = *table.path_of(50).last().expect("a leaf");
    let (first, length) =
        table.chains.iter().find(|(at, _, _)| *at == leaf).map(|c| (c.1, c.2)).expect("one");
    let mut reader = Reader::new(&file, true);
    for page in table.path_of(50) {
        reader.read(page);
    }
    reader.read(first);
    let chain: Vec<u32> = (first + 1..first + length).collect();
    assert!(length > 90 && reader.ahead.ends_with(&chain), "{:?}", reader.ahead);
}

#[test]
fn interior_pages_first_are_recognised() {
    let fixture = Fixture::new(40_000, 600);
    let all: Vec<u32> = roots(&fixture.file).into_iter().map(|(root, _)| root).collect();
    let file = interior_first(&fixture.file, &all);
    let header = header(&file);
    let interior: usize =
        roots(&file).iter().map(|(root, _)| Walked::new(&header, &file, *root).interior.len()).sum();
    let head_pages = 16;
    let recognise = |file: &[u8]| {
        let mut reader = Reader::new(file, true);
        for page in 2..=head_pages {
            reader.learn(page, false);
        }
        reader.database.interior_first(head_pages)
    };
    let last = recognise(&file).expect("recognised") as usize;
    assert!(last >= interior && last <= interior + interior / 8 + 2, "{last} for {interior}");
    assert_eq!(recognise(&fixture.file), None, "an ordinary file");
}

#[test]
fn memory_has_a_bound() {
    let fixture = Fixture::new(40_000, 600);
    let header = header(&fixture.file);
    let room = 100 << 10;
    let mut reader = Reader::new(&fixture.file, true);
    reader.database = Database::new(header, room);
    reader.kept.clear();
    reader.learn(1, false);
    reader.database.hint(&[fixture.table, fixture.by_key, fixture.by_n]);
    reader.work();
    assert!(reader.database.bytes() <= Database::bytes_min(&header) + room);
    assert!(!reader.kept.is_empty());
}

#[test]
fn what_is_no_database_is_refused() {
    let file = database("", |c| fill(c, 10, 1));
    assert!(Header::parse(&file[..99], file.len() as u64).is_none());
    assert!(Header::parse(&file, 100).is_none(), "not even one page");
    for at in [0, 15, 16, 17, 18, 19, 21, 22, 23] {
        let mut odd = file.clone();
        odd[at] = 0x5a;
        assert!(Header::parse(&odd, odd.len() as u64).is_none(), "byte {at}");
    }
    let mut odd = file;
    odd[59] = 9;
    assert!(Header::parse(&odd, odd.len() as u64).is_none(), "encoding");
}

fn victims() -> &'static [Vec<u8>] {
    static FILES: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
    FILES.get_or_init(|| {
        let fill = |c: &Connection| fill(c, 3000, 20);
        vec![
            database("pragma page_size=512", fill),
            database("pragma page_size=1024; pragma auto_vacuum=full; pragma encoding='UTF-16le'", fill),
            database("pragma page_size=65536", |c| super::testing::fill(c, 20_000, 20)),
        ]
    })
}

proptest! {
    /// Whatever a file says: no panic, no page outside of it, an end, and memory within the bound.
    #[test]
    fn damaged_files_do_no_harm(
        which in 0_usize..3,
        bytes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..60),
        links in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
        reads in prop::collection::vec(any::<prop::sample::Index>(), 1..60),
        hints in prop::collection::vec(1_u32..20, 0..4),
        far in any::<bool>(),
    ) {
        let mut file = victims()[which].clone();
        let size = header(&file).page_bytes as usize;
        for (at, byte) in bytes {
            // The schema and the pages' own headers most of all: elsewhere it is data.
            let at = at.index(file.len());
            let at = if at % 2 == 0 { at / size * size + at % 32 } else { at };
            if at >= 100 {
                file[at] = byte;
            }
        }
        for (from, to) in links {
            // Children that are anywhere, parents and themselves included.
            let page = from.index(file.len() / size);
            let target = to.index(file.len() / size + 2) as u32;
            let at = page * size + if page == 0 { 108 } else { 8 };
            file[at..at + 4].copy_from_slice(&target.to_be_bytes());
        }
        if let Some(cut) = cut {
            file.truncate(size.max(cut.index(file.len()) / size * size));
        }
        let Some(header) = Header::parse(&file, file.len() as u64) else { return Ok(()) };
        let mut reader = Reader::new(&file, far);
        reader.database.hint(&hints);
        reader.work();
        for read in reads {
            reader.read(read.index(header.pages as usize) as u32 + 1);
        }
        prop_assert!(reader.kept.len() <= header.pages as usize);
        prop_assert!(reader.database.bytes() <= Database::bytes_min(&header) + ROOM);
    }
}
