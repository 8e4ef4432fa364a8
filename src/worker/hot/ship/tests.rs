//! What was shipped, put together again, is the database at one commit: random scripts on many kinds of
//! databases, with files made at random moments. And whole workers that take over from each other.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus::Registry;
use proptest::prelude::*;
use springhouse_gateway::api::hot::{ExecuteRequest, Script};

use super::{
    format::{Encoder, Header, Shipped},
    made_ready,
};
use crate::query::{
    QuerySettings, init,
    write::{
        Changes, Execute, Key, PageSet, Pages, Unshipped, WriteMetrics, WriteSettings, Writer, WrittenFiles,
        create, prepare, quick_check,
    },
};

mod kills;
mod workers;

/// For statements that end by something else: longer than a busy machine takes.
const LONG: Duration = Duration::from_secs(300);

const SCHEMAS: [&str; 6] = [
    "CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t(b)",
    "PRAGMA page_size = 512; CREATE TABLE t(a INTEGER PRIMARY KEY, b) ",
    "PRAGMA auto_vacuum = FULL; CREATE TABLE t(a INTEGER PRIMARY KEY, b)",
    "PRAGMA page_size = 65536; PRAGMA encoding = 'UTF-16'; CREATE TABLE t(a INTEGER PRIMARY KEY, b)",
    "CREATE TABLE t(a INTEGER PRIMARY KEY, b) WITHOUT ROWID",
    "CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE VIRTUAL TABLE f USING fts5(b)",
];

#[derive(Debug, Clone)]
enum Step {
    Insert {
        rows: u16,
        bytes: u16,
    },
    Update(u8),
    Delete(u8),
    NewTable,
    DropTables,
    /// Refused: nothing of it may be seen.
    Fails(u16),
    /// The writer is closed and opened again.
    Reopen,
    Ship,
    /// A file of which the upload fails.
    ShipInVain,
    /// A new head.
    Anew,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u16..60, 0_u16..3000).prop_map(|(rows, bytes)| Step::Insert { rows, bytes }),
        2 => any::<u8>().prop_map(Step::Update),
        2 => any::<u8>().prop_map(Step::Delete),
        1 => Just(Step::NewTable),
        1 => Just(Step::DropTables),
        1 => (1_u16..200).prop_map(Step::Fails),
        1 => Just(Step::Reopen),
        4 => Just(Step::Ship),
        1 => Just(Step::ShipInVain),
        1 => Just(Step::Anew),
    ]
}

/// Everything that is in a database, as text.
fn contents(path: &Path) -> Vec<String> {
    let connection = rusqlite::Connection::open(path).expect("a database");
    let names = |sql: &str| -> Vec<String> {
        let mut statement = connection.prepare(sql).expect(sql);
        let rows = statement.query_map([], |row| row.get(0)).expect(sql);
        rows.map(|row| row.expect("a text")).collect()
    };
    let mut all = names("SELECT type || name || coalesce(sql, '') FROM sqlite_schema ORDER BY 1");
    let tables =
        names("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'f_%' ORDER BY 1");
    for table in tables {
        let mut statement = connection.prepare(&format!("SELECT * FROM \"{table}\"")).expect("a table");
        let columns = statement.column_count();
        let mut rows: Vec<String> = Vec::new();
        let mut found = statement.query([]).expect("rows");
        while let Some(row) = found.next().expect("a row") {
            let values: Vec<String> =
                (0..columns).map(|at| format!("{:?}", row.get_ref(at).expect("a value"))).collect();
            rows.push(format!("{table}: {}", values.join(", ")));
        }
        rows.sort();
        all.extend(rows);
    }
    assert_eq!(names("PRAGMA integrity_check"), ["ok"]);
    all
}

struct Bench {
    dir: tempfile::TempDir,
    writer: Option<Writer>,
    unshipped: Arc<Unshipped>,
    /// Pages that differ from the plain file `base`.
    differ: Option<PageSet>,
    chain: Vec<PathBuf>,
    last: Option<(u64, String)>,
    next: u64,
    rows: u64,
}

fn limits() -> QuerySettings {
    QuerySettings { timeout_max: LONG, ..QuerySettings::default() }
}

impl Bench {
    /// `based`: its head holds what differs from the file as it was before it was written.
    fn new(schema: &str, based: bool) -> Self {
        init().expect("SQLite fits");
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.sqlite");
        create(&path, schema, &limits()).expect("created");
        fs::copy(&path, dir.path().join("base")).expect("a base");
        prepare(&path, 0, &limits()).expect("prepared");
        let unshipped = if based { Unshipped::from(PageSet::default(), 0) } else { Unshipped::unknown() };
        let mut bench = Self {
            dir,
            writer: None,
            unshipped: Arc::new(unshipped),
            differ: based.then(made_ready),
            chain: Vec::new(),
            last: None,
            next: 1,
            rows: 0,
        };
        bench.open();
        bench
    }

    fn open(&mut self) {
        let dir = self.dir.path();
        let writer = Writer::open(
            WrittenFiles { database: dir.join("a.sqlite"), keys: dir.join("a.keys") },
            7,
            0,
            Changes::at(0),
            Some(Arc::clone(&self.unshipped)),
            WriteSettings::new(limits()),
            WriteMetrics::new(&Registry::new()).expect("metrics"),
        );
        self.writer = Some(writer.expect("a writer"));
    }

    async fn run(&self, sql: &str) -> bool {
        let request = ExecuteRequest::Script(Script { sql: sql.into(), timeout_ms: None });
        let key = Some(Key { text: format!("k{}", xxhash_rust::xxh3::xxh3_64(sql.as_bytes())), digest: 1 });
        let deadline = Instant::now() + LONG;
        let writer = self.writer.as_ref().expect("open");
        writer.execute(Execute { request, key, deadline, size: 10 }).await.is_ok()
    }

    async fn step(&mut self, at: usize, step: &Step) {
        match step {
            Step::Insert { rows, bytes } => {
                let sql = format!(
                    "INSERT INTO t WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows})
                     SELECT {} + n, hex(randomblob({bytes})) FROM n",
                    self.rows
                );
                assert!(self.run(&sql).await);
                self.rows += u64::from(*rows);
            }
            Step::Update(n) => {
                self.run(&format!("UPDATE t SET b = b || 'x{at}' WHERE a % 7 = {}", n % 7)).await;
            }
            Step::Delete(n) => {
                self.run(&format!("DELETE FROM t WHERE a % 3 = {} AND a > 0{at}", n % 3)).await;
            }
            Step::NewTable => {
                self.run(&format!("CREATE TABLE u{at} AS SELECT * FROM t LIMIT 40")).await;
            }
            Step::DropTables => {
                for old in at.saturating_sub(6)..at {
                    self.run(&format!("DROP TABLE IF EXISTS u{old}; SELECT {at}")).await;
                }
            }
            Step::Fails(rows) => {
                let sql = format!(
                    "INSERT INTO t WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows})
                     SELECT 1000000 + n, randomblob(2000) FROM n; SELECT {at}; INSERT INTO nowhere VALUES (1)"
                );
                assert!(!self.run(&sql).await);
            }
            Step::Reopen => {
                self.writer.take().expect("open").close().await;
                self.open();
            }
            Step::Anew => (self.last, self.differ) = (None, None),
            Step::Ship | Step::ShipInVain => self.ship(matches!(step, Step::Ship)).await,
        }
    }

    /// What the worker does, with files in a directory.
    async fn ship(&mut self, arrives: bool) {
        let writer = self.writer.as_ref().expect("open");
        let (pinned, taken) =
            writer.pin(self.last.as_ref().map(|(change, _)| *change)).await.expect("pinned");
        // It is another moment by now.
        self.run(&format!("UPDATE t SET b = 'later{}' WHERE a < 3", self.next)).await;
        if *taken.pages() == Pages::All {
            self.last = None;
        }
        let (head, pages) = (self.last.is_none(), taken.pages().clone());
        let pages = match (&mut self.differ, pages) {
            (Some(differ), Pages::These(changed)) => {
                differ.extend(&changed);
                Pages::These(if head { differ.clone() } else { changed })
            }
            (None, Pages::These(changed)) if !head => Pages::These(changed),
            _ => {
                self.differ = None;
                Pages::All
            }
        };
        let change = pinned.change;
        let sequence = self.next;
        let first = if head { sequence } else { sequence - self.chain.len() as u64 };
        let previous = self.last.as_ref().map(|(_, checksum)| checksum.clone());
        let base = self.differ.as_ref().map(|_| "base".to_owned());
        let mut encoder = Encoder::new(pinned, &pages, |pinned, page_count| Header {
            segment: "a".into(),
            token: 7,
            sequence,
            first,
            base,
            previous,
            change,
            page_bytes: pinned.page_bytes(),
            pages: pinned.pages(),
            page_count,
            keys_bytes: pinned.keys.len() as u64,
            field: 0,
        })
        .expect("encoded");
        let mut bytes = Vec::new();
        while let Some(chunk) = encoder.next().expect("read") {
            bytes.extend(chunk);
        }
        if !arrives {
            return; // what was taken goes back
        }
        if head {
            self.chain.clear();
        }
        let path = self.dir.path().join(format!("shipped.{sequence}"));
        fs::write(&path, &bytes).expect("written");
        self.chain.push(path);
        self.last = Some((change, encoder.checksum()));
        self.next += 1;
        taken.shipped();
    }

    /// The chain, put together; at which transaction it is.
    fn replay(&self) -> Option<(PathBuf, u64)> {
        let (change, checksum) = self.last.as_ref()?;
        let part = self.dir.path().join("part");
        let mut changed = PageSet::default();
        let mut found = None;
        for (at, path) in self.chain.iter().enumerate() {
            let shipped = Shipped::open(File::open(path).expect("a file")).expect("read").expect("whole");
            if at == 0 {
                match shipped.header.base {
                    Some(_) => drop(fs::copy(self.dir.path().join("base"), &part).expect("a base")),
                    None => fs::write(&part, []).expect("a part"),
                }
            }
            let target = File::options().write(true).open(&part).expect("the part");
            shipped.apply(&target, &mut changed).expect("applied");
            found = Some((shipped.checksum.clone(), shipped.header.change));
        }
        assert_eq!(found, Some((checksum.clone(), *change)));
        quick_check(&part, &limits()).expect("sound");
        Some((part, *change))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_replay_is_the_database_at_one_commit(
        schema in 0..SCHEMAS.len(),
        based: bool,
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut bench = Bench::new(SCHEMAS[schema], based);
            // Contents after each transaction; the last of them is what a chain that ends there must be.
            let mut history: Vec<(u64, Vec<String>)> = vec![(0, contents(&bench.dir.path().join("a.sqlite")))];
            for (at, step) in steps.iter().enumerate() {
                if matches!(step, Step::Ship | Step::ShipInVain) {
                    let change = bench.last.as_ref().map_or(0, |(change, _)| *change);
                    let before = contents(&bench.dir.path().join("a.sqlite"));
                    bench.step(at, step).await;
                    let now = bench.last.as_ref().map_or(0, |(change, _)| *change);
                    if now != change {
                        history.push((now, before));
                    }
                    if let Some((part, change)) = bench.replay() {
                        let expected = history.iter().rfind(|(n, _)| *n == change).expect("a commit");
                        prop_assert_eq!(&contents(&part), &expected.1, "after step {}", at);
                        for beside in ["part-wal", "part-shm"] {
                            let _ = fs::remove_file(bench.dir.path().join(beside));
                        }
                    }
                } else {
                    bench.step(at, step).await;
                }
            }
            bench.writer.take().expect("open").close().await;
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_file_that_is_not_whole_is_not_believed() {
    let mut bench = Bench::new(SCHEMAS[0], false);
    bench.step(1, &Step::Insert { rows: 100, bytes: 500 }).await;
    bench.step(2, &Step::Ship).await;
    let whole = fs::read(&bench.chain[0]).expect("a file");
    let why = |bytes: &[u8]| {
        let path = bench.dir.path().join("bad");
        fs::write(&path, bytes).expect("written");
        Shipped::open(File::open(path).expect("a file")).expect("read").map(drop)
    };
    assert_eq!(why(&whole), Ok(()));
    for cut in [0, 10, 40, 300, whole.len() / 2, whole.len() - 1] {
        assert!(why(&whole[..cut]).is_err(), "cut at {cut}");
    }
    for at in [0, 30, 60, whole.len() / 2, whole.len() - 20, whole.len() - 1] {
        let mut rotten = whole.clone();
        rotten[at] ^= 1;
        assert!(why(&rotten).is_err(), "rotten at {at}");
    }
}
