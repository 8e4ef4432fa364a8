//! Round trips are told by the paused clock: every call to the store takes 10 ms of it, and nothing else
//! takes any.

use std::collections::HashSet;

use super::*;
use crate::{
    fs::{Caller, DiskSettings, FileSystem, FsSettings, ROOT},
    sqlite::testing::{Walked, database, fill, interior_first, roots, rowids},
    store::{Operation, Store, StoreOptions, StorePath, decorate, memory::MemoryStore},
};

const ROUND_TRIP: Duration = Duration::from_millis(10);
const PAGE: u64 = 4096;

fn memory(name: &str, file: &[u8]) -> MemoryStore {
    let store = MemoryStore::new();
    store.put(&StorePath::parse(name).expect("a path"), Bytes::copy_from_slice(file)).expect("put");
    store
}

fn far(store: &MemoryStore, sqlite: bool) -> FileSystem {
    let options = StoreOptions { added_latency: ROUND_TRIP, ..StoreOptions::default() };
    let opened = decorate(Arc::new(store.clone()), &options).expect("decorated");
    mount(opened.store, FsSettings { sqlite, ..FsSettings::default() })
}

fn mount(store: Arc<dyn Store>, settings: FsSettings) -> FileSystem {
    FileSystem::new(store, settings, Handle::current()).expect("good settings")
}

async fn open(fs: &FileSystem, name: &str) -> u64 {
    let looked = fs.lookup(Caller::own(), ROOT, name).await.expect("looked up").attr.expect("there");
    fs.open(Caller::own(), looked.ino).await.expect("opened").fh
}

struct Fixture {
    file: Vec<u8>,
    table: Walked,
    by_key: Walked,
    by_n: Walked,
}

impl Fixture {
    fn new() -> Self {
        Self::of(database("pragma page_size=4096", |c| fill(c, 150_000, 600)))
    }

    fn of(file: Vec<u8>) -> Self {
        let header = Header::parse(&file, file.len() as u64).expect("a database");
        let all = roots(&file);
        let tree = |name: &str| {
            let root = all.iter().find(|(_, known)| known == name).expect("a tree").0;
            Walked::new(&header, &file, root)
        };
        let (table, by_key, by_n) = (tree("t"), tree("sqlite_autoindex_t_1"), tree("by_n"));
        Self { file, table, by_key, by_n }
    }

    /// Pages of lookups of `rows` by way of `trees`, each once, as they pass the kernel's cache.
    fn pages(&self, trees: &[&Walked], rows: &[i64]) -> Vec<u32> {
        let mut seen = HashSet::new();
        let all = rows.iter().flat_map(|&row| trees.iter().flat_map(move |tree| tree.path_of(row)));
        std::iter::once(1).chain(all).filter(|&page| seen.insert(page)).collect()
    }

    /// Opens the file and reads `pages`, all right; how many round trips that took.
    async fn round_trips(&self, fs: &FileSystem, pages: &[u32]) -> f64 {
        let started = tokio::time::Instant::now();
        let fh = open(fs, "d.sqlite").await;
        self.round_trips_from(started, fs, fh, pages).await
    }

    /// The same by all that SQLite does, by its system calls: it looks at each directory of the path, opens
    /// the file, reads its header, and looks for each journal.
    async fn round_trips_of_sqlite(&self, fs: &FileSystem, pages: &[u32]) -> f64 {
        let started = tokio::time::Instant::now();
        fs.getattr(Caller::own(), ROOT).await.expect("the root");
        let fh = open(fs, "d.sqlite").await;
        assert_eq!(fs.read(fh, 0, 100).await.expect("read"), self.file[..100]);
        for journal in ["d.sqlite-journal", "d.sqlite-wal"] {
            assert_eq!(fs.lookup(Caller::own(), ROOT, journal).await.expect("looked up").attr, None);
        }
        self.round_trips_from(started, fs, fh, pages).await
    }

    async fn round_trips_from(
        &self,
        started: tokio::time::Instant,
        fs: &FileSystem,
        fh: u64,
        pages: &[u32],
    ) -> f64 {
        for &page in pages {
            let at = u64::from(page - 1) * PAGE;
            let bytes = fs.read(fh, at, PAGE as usize).await.expect("read");
            assert_eq!(bytes, self.file[at as usize..(at + PAGE) as usize], "page {page}");
        }
        let took = started.elapsed();
        fs.release(fh).await;
        took.as_secs_f64() / ROUND_TRIP.as_secs_f64()
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_database_comes_whole_with_its_first_page() {
    let file = database("pragma page_size=4096", |c| fill(c, 2000, 20));
    assert!((file.len() as u64) < WHOLE_BYTES_MAX && file.len() > 200_000);
    let store = memory("/d.sqlite", &file);
    let fs = far(&store, true);
    let fh = open(&fs, "d.sqlite").await;
    for at in (0..file.len()).step_by(PAGE as usize) {
        assert_eq!(fs.read(fh, at as u64, PAGE as usize).await.expect("read"), file[at..at + PAGE as usize]);
    }
    assert_eq!(store.calls(Operation::Read), 1);
}

#[tokio::test(start_paused = true)]
async fn lookups_take_few_round_trips() {
    let fixture = Fixture::new();
    let store = memory("/d.sqlite", &fixture.file);
    let row = fixture.by_key.rows[70_000];
    let by_rowid = fixture.pages(&[&fixture.table], &[row]);
    // Name and open, head, interior page, leaf.
    let trips = fixture.round_trips(&far(&store, true), &by_rowid).await;
    assert_eq!(trips, 4.0, "by rowid");
    // Name and open, head, one interior page and the leaf of the index, the leaf of the table: its
    // interior pages came meanwhile.
    let by_key = fixture.pages(&[&fixture.by_key, &fixture.table], &[row]);
    let trips = fixture.round_trips(&far(&store, true), &by_key).await;
    assert_eq!(trips, 5.0, "by key");
}

#[tokio::test(start_paused = true)]
async fn what_sqlite_asks_for_on_its_way_costs_no_round_trip() {
    let fixture = Fixture::new();
    let store = memory("/d.sqlite", &fixture.file);
    let row = fixture.by_key.rows[70_000];
    let by_rowid = fixture.pages(&[&fixture.table], &[row]);
    let by_key = fixture.pages(&[&fixture.by_key, &fixture.table], &[row]);
    // Each first touch of a mount, which has asked for its root when it started.
    for (pages, expected) in [(&by_rowid, 4.0), (&by_key, 5.0)] {
        let asked = tokio::time::Instant::now();
        let root = store.stat(&StorePath::root()).await.expect("the root");
        let fs = far(&store, true).with_root(root, asked);
        assert_eq!(fixture.round_trips_of_sqlite(&fs, pages).await, expected);
    }
    // Later the root is asked for once more.
    let fs = far(&store, true);
    assert_eq!(fixture.round_trips_of_sqlite(&fs, &by_rowid).await, 5.0);
}

#[tokio::test(start_paused = true)]
async fn the_head_of_a_database_is_read_before_it_is_opened() {
    let fixture = Fixture::new();
    let store = memory("/d.sqlite", &fixture.file);
    store.put(&StorePath::parse("/plain.txt").expect("a path"), fixture.file.clone()).expect("put");
    let fs = far(&store, true);
    for name in ["d.sqlite", "plain.txt"] {
        fs.lookup(Caller::own(), ROOT, name).await.expect("looked up");
    }
    tokio::time::sleep(2 * ROUND_TRIP).await;
    assert_eq!(store.calls(Operation::Open), 2);
    let read_ahead = store.calls(Operation::Read);
    assert!(read_ahead > 0, "of the database");
    // All that is left to do is to say that it is open.
    let started = tokio::time::Instant::now();
    let fh = open(&fs, "d.sqlite").await;
    assert_eq!(fs.read(fh, 0, 100).await.expect("read"), fixture.file[..100]);
    assert_eq!(started.elapsed(), Duration::ZERO);
    let fh = open(&fs, "plain.txt").await;
    fs.read(fh, 0, 100).await.expect("read");
    assert_eq!(started.elapsed(), 2 * ROUND_TRIP, "asked which generation it is, and read");
}

#[tokio::test(start_paused = true)]
async fn rows_of_an_index_come_together() {
    let fixture = Fixture::new();
    let store = memory("/d.sqlite", &fixture.file);
    let rows = rowids(&fixture.file, "select rowid from t where n = 100 order by rowid");
    let pages = fixture.pages(&[&fixture.by_n, &fixture.table], &rows);
    assert!(pages.len() > 550, "scattered");
    let with = fixture.round_trips(&far(&store, true), &pages).await;
    let without = fixture.round_trips(&far(&store, false), &pages).await;
    assert!(with <= 25.0, "{with} round trips");
    assert!(without >= 8.0 * with, "{without} without, {with} with");
}

#[tokio::test(start_paused = true)]
async fn scattered_lookups_fetch_little_beside_their_pages() {
    let fixture = Fixture::new();
    let store = memory("/d.sqlite", &fixture.file);
    let rows: Vec<i64> = fixture.by_key.rows.iter().copied().step_by(1_501).collect();
    let pages = fixture.pages(&[&fixture.by_key, &fixture.table], &rows);
    let fs = mount(Arc::new(store), FsSettings::default());
    fixture.round_trips(&fs, &pages).await;
    let interior = fixture.table.interior.len() + fixture.by_key.interior.len() + fixture.by_n.interior.len();
    // A page costs at most the four of its block.
    let most = HEAD_BYTES + (4 * pages.len() + interior) as u64 * PAGE;
    let fetched = fs.snapshot().cache.bytes_fetched;
    assert!(pages.len() > 150 && fetched <= most, "{fetched} bytes for {} pages, not {most}", pages.len());
}

#[tokio::test(start_paused = true)]
async fn interior_pages_first_are_one_read() {
    let fixture = Fixture::new();
    let all: Vec<u32> = roots(&fixture.file).into_iter().map(|(root, _)| root).collect();
    let fixture = Fixture::of(interior_first(&fixture.file, &all));
    let store = memory("/d.sqlite", &fixture.file);
    store.put(&StorePath::parse("/e.sqlite").expect("a path"), fixture.file.clone()).expect("put");
    let fs = far(&store, true);
    let fh = open(&fs, "e.sqlite").await;
    fs.read(fh, 0, 100).await.expect("read");
    tokio::time::sleep(10 * ROUND_TRIP).await;
    let interior = fixture.table.interior.len() + fixture.by_key.interior.len() + fixture.by_n.interior.len();
    assert_eq!(fs.snapshot().cache.pinned_bytes, interior as u64 * PAGE);
    // The head, the rest of the interior pages, and one leaf of each tree to see that it is one.
    assert!(store.calls(Operation::Read) <= 2 + 3, "{} reads", store.calls(Operation::Read));
    // The next file of the mount is taken for one of the same kind: name and open, head, leaf.
    let row = fixture.by_key.rows[70_000];
    let trips = fixture.round_trips(&fs, &fixture.pages(&[&fixture.table], &[row])).await;
    assert_eq!(trips, 3.0, "by rowid");
}

#[tokio::test(start_paused = true)]
async fn switched_off_it_does_nothing() {
    let file = database("pragma page_size=4096", |c| fill(c, 50_000, 600));
    let store = memory("/d.sqlite", &file);
    let fs = far(&store, false);
    let fh = open(&fs, "d.sqlite").await;
    fs.read(fh, 0, 4096).await.expect("read");
    tokio::time::sleep(10 * ROUND_TRIP).await;
    assert_eq!((store.calls(Operation::Read), fs.snapshot().cache.pinned_bytes), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn whole_files_go_when_there_are_too_many() {
    let file = database("pragma page_size=4096", |c| fill(c, 50_000, 600));
    let store = MemoryStore::new();
    for i in 0..40 {
        let path = StorePath::parse(&format!("/{i}.sqlite")).expect("a path");
        store.put(&path, file.clone()).expect("put");
    }
    let cache = Arc::new(
        BlockCache::new(
            crate::cache::CacheSettings {
                cache_bytes: 8 << 20,
                block_bytes: 64 << 10,
                pinned_bytes: 1 << 20,
                readahead_bytes: 1 << 20,
                extent_bytes: 1 << 20,
                deadline: Duration::from_secs(10),
            },
            Handle::current(),
        )
        .expect("good settings"),
    );
    let databases = Databases::new(cache.clone(), Handle::current(), 1 << 20);
    for i in 0..40_u128 {
        let path = StorePath::parse(&format!("/{i}.sqlite")).expect("a path");
        let source = Source { file: i, reader: store.open(&path, None).await.expect("opened") };
        databases.open(&source, path.name());
        tokio::time::sleep(ROUND_TRIP).await;
    }
    let known = databases.inner.known.lock();
    let bytes: u64 = known.values().map(|slot| slot.bytes.load(Relaxed)).sum();
    assert!(bytes <= 1 << 20 && known.len() > 2 && known.len() < 40, "{} files, {bytes} bytes", known.len());
    assert!(known.contains_key(&39), "the last one is among them");
    assert!(cache.snapshot().pinned_bytes <= bytes);
}

#[tokio::test]
async fn what_was_learnt_outlives_the_mount() {
    let fixture = Fixture::new();
    let store = memory("/d.sqlite", &fixture.file);
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Some(DiskSettings { dir: dir.path().join("cache"), bytes_max: 1 << 30 });
    let settings = FsSettings { disk, ..FsSettings::default() };
    let rows: Vec<i64> = fixture.by_key.rows.iter().copied().step_by(10_000).collect();
    let pages = fixture.pages(&[&fixture.by_key, &fixture.table], &rows);
    let first = mount(Arc::new(store.clone()), settings.clone());
    fixture.round_trips(&first, &pages).await;
    let pinned = first.snapshot().cache.pinned_bytes;
    assert!(pinned >= 10 * PAGE);
    // Once more, so that what the first release did not see is kept too.
    let fh = open(&first, "d.sqlite").await;
    first.release(fh).await;
    first.cache().disk().expect("a disk cache").flushed().await;
    drop(first);

    let again = mount(Arc::new(store), settings);
    let fh = open(&again, "d.sqlite").await;
    again.read(fh, 0, 100).await.expect("read");
    let all_there = async {
        while again.snapshot().cache.pinned_bytes < pinned {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all_there).await.expect("pinned again");
}
