//! A writer as a whole: against a plain SQLite, many clients at once, restarts, and what is refused.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus::Registry;
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use springhouse_gateway::api::{
    error::{ApiError, ErrorCode},
    hot::{ExecuteAnswer, ExecuteRequest, Script, Statement, Statements},
};
use tempfile::TempDir;

use super::*;

mod kill;
mod trough;
use crate::query::{QuerySettings, init};

struct Bench {
    dir: TempDir,
    changes: Arc<Changes>,
    writer: Writer,
}

/// For statements that end by something else: longer than a busy machine takes.
const LONG: Duration = Duration::from_secs(300);

fn limits() -> QuerySettings {
    QuerySettings { timeout_max: LONG, ..QuerySettings::default() }
}

impl Bench {
    fn new(schema: &str) -> Self {
        Self::with(schema, limits())
    }

    fn with(schema: &str, limits: QuerySettings) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        make(dir.path(), schema, &limits);
        let (changes, writer) = open(dir.path(), limits);
        Self { dir, changes, writer }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("a.sqlite")
    }

    /// As after a stop of the process.
    async fn restart(self) -> Self {
        self.writer.close().await;
        let (changes, writer) = open(self.dir.path(), limits());
        Self { dir: self.dir, changes, writer }
    }

    async fn execute(&self, request: ExecuteRequest, key: Option<&str>) -> Result<ExecuteAnswer, ApiError> {
        let digest = xxhash_rust::xxh3::xxh3_128(format!("{request:?}").as_bytes());
        let key = key.map(|text| Key { text: text.into(), digest });
        let deadline = Instant::now() + LONG;
        self.writer.execute(Execute { request, key, deadline, size: 100 }).await
    }

    async fn script(&self, sql: &str) -> Result<ExecuteAnswer, ApiError> {
        self.execute(script(sql), None).await
    }

    /// The first value of the first row.
    fn number(&self, sql: &str) -> i64 {
        let connection = rusqlite::Connection::open(self.path()).expect("a database");
        connection.query_row(sql, [], |row| row.get(0)).expect(sql)
    }
}

fn make(dir: &Path, schema: &str, limits: &QuerySettings) {
    init().expect("SQLite fits");
    create(&dir.join("a.sqlite"), schema, limits).expect("created");
    prepare(&dir.join("a.sqlite"), 0, limits).expect("prepared");
}

fn open(dir: &Path, limits: QuerySettings) -> (Arc<Changes>, Writer) {
    let changes = Changes::at(0);
    let writer = Writer::open(
        WrittenFiles { database: dir.join("a.sqlite"), keys: dir.join("a.keys") },
        7,
        0,
        Arc::clone(&changes),
        None,
        WriteSettings::new(limits),
        WriteMetrics::new(&Registry::new()).expect("metrics"),
    );
    (changes, writer.expect("a writer"))
}

fn script(sql: &str) -> ExecuteRequest {
    ExecuteRequest::Script(Script { sql: sql.into(), timeout_ms: None })
}

fn statements(json: Json) -> ExecuteRequest {
    let statements: Vec<Statement> = serde_json::from_value(json).expect("statements");
    ExecuteRequest::Statements(Statements { statements, timeout_ms: None })
}

#[tokio::test]
async fn counts_rows_and_numbers() {
    let bench = Bench::new(
        "CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE TABLE log(b);
        CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.b); END",
    );
    let answer = bench
        .execute(
            statements(json!([
                {"sql": "INSERT INTO t(b) VALUES (?)", "rows": [["x"], [{"$base64": "AP8="}], [9007199254740993_i64]]},
                {"sql": "UPDATE t SET b = :b WHERE a > 1;", "params": {"b": null}},
                {"sql": "CREATE TABLE u(x)"},
                {"sql": "INSERT INTO t(b) SELECT b FROM t RETURNING a"},
                {"sql": "DELETE FROM t WHERE a = 99"},
                {"sql": "SELECT * FROM t"},
            ])),
            None,
        )
        .await
        .expect("applied");
    let results: Vec<_> = answer.results.iter().map(|r| (r.rows_affected, r.last_insert_rowid)).collect();
    assert_eq!(results, [(3, Some(3)), (2, None), (0, None), (3, Some(6)), (0, None), (0, None)]);
    assert_eq!((answer.change, answer.repeated), (1, false));
    assert_eq!(
        bench.script("INSERT INTO u VALUES (1); INSERT INTO u VALUES (2)").await.expect("applied").change,
        2
    );
    assert_eq!(bench.number("SELECT count(*) FROM log"), 6);
    assert_eq!(bench.changes.seen(), crate::query::Seen { done: 2, begun: 2 });
    let bench = bench.restart().await;
    assert_eq!(bench.changes.seen().done, 2);
    assert_eq!(bench.script("INSERT INTO u VALUES (3)").await.expect("applied").change, 3);
}

#[tokio::test]
async fn what_is_refused_and_leaves_nothing() {
    let bench = Bench::new("CREATE TABLE t(a INTEGER PRIMARY KEY)");
    for (sql, code, hint) in [
        ("INSERT INTO t VALUES (1); INSERT INTO t VALUES (1)", ErrorCode::SqlError, "UNIQUE"),
        ("INSERT INTO t VALUES (1); SELEC", ErrorCode::SqlError, "syntax"),
        ("INSERT INTO t VALUES (1); ATTACH 'x' AS x", ErrorCode::SqlForbidden, "ATTACH"),
        ("DETACH x", ErrorCode::SqlForbidden, "DETACH"),
        ("VACUUM", ErrorCode::SqlError, "VACUUM"),
        ("VACUUM INTO '/tmp/never'", ErrorCode::SqlError, "VACUUM"),
        ("BEGIN", ErrorCode::SqlForbidden, "transaction"),
        ("INSERT INTO t VALUES (1); COMMIT", ErrorCode::SqlForbidden, "transaction"),
        ("ROLLBACK", ErrorCode::SqlForbidden, "transaction"),
        ("SAVEPOINT x", ErrorCode::SqlForbidden, "transaction"),
        ("RELEASE request", ErrorCode::SqlForbidden, "transaction"),
        ("ROLLBACK TO request", ErrorCode::SqlForbidden, "transaction"),
        ("CREATE TEMP TABLE x(a)", ErrorCode::SqlForbidden, "temporary"),
        ("CREATE TEMP VIEW x AS SELECT 1", ErrorCode::SqlForbidden, "temporary"),
        ("PRAGMA journal_mode = DELETE", ErrorCode::SqlForbidden, "journal_mode"),
        ("PRAGMA synchronous = OFF", ErrorCode::SqlForbidden, "synchronous"),
        ("PRAGMA default_cache_size = 3", ErrorCode::SqlForbidden, "default_cache_size"),
        ("PRAGMA schema_version = 3", ErrorCode::SqlForbidden, "schema_version"),
        ("PRAGMA writable_schema = ON", ErrorCode::SqlForbidden, "writable_schema"),
        ("UPDATE sqlite_schema SET sql = ''", ErrorCode::SqlError, "may not be modified"),
        ("SELECT load_extension('x')", ErrorCode::SqlForbidden, "load_extension"),
        ("CREATE VIRTUAL TABLE v USING dbstat", ErrorCode::SqlError, "dbstat"),
        (" -- nothing", ErrorCode::SqlError, "no statement"),
    ] {
        let error = bench.script(sql).await.expect_err(sql);
        assert_eq!(error.code, code, "{sql}: {error}");
        assert!(error.message.contains(hint), "{sql}: {error}");
        assert_eq!(bench.number("SELECT count(*) FROM t"), 0, "{sql}");
    }
    let rows = json!([{"sql": "INSERT INTO t VALUES (?)", "rows": [[1], [2], [1]]}]);
    let error = bench.execute(statements(rows), None).await.expect_err("twice");
    assert!(error.message.starts_with("statement 1: row 3: UNIQUE"), "{error}");
    let both = json!([{"sql": "INSERT INTO t VALUES (1)"}, {"sql": "SELECT 1; SELECT 2"}]);
    let error = bench.execute(statements(both), None).await.expect_err("two in one");
    assert!(error.message.starts_with("statement 2: there is more than one"), "{error}");
    assert_eq!(bench.number("SELECT count(*) FROM t"), 0);
    assert_eq!(bench.changes.seen().done, 0);
    for sql in [
        "PRAGMA user_version = 7; PRAGMA application_id = 9",
        "ALTER TABLE t ADD COLUMN b; ALTER TABLE t RENAME COLUMN b TO c; ALTER TABLE t DROP COLUMN c",
        "ALTER TABLE t RENAME TO u; CREATE INDEX i ON u(a); REINDEX; ANALYZE; DROP TABLE u",
        "CREATE VIRTUAL TABLE f USING fts5(x); INSERT INTO f VALUES ('a b'); INSERT INTO f(f) VALUES ('optimize'); DROP TABLE f",
        "CREATE VIRTUAL TABLE r USING rtree(id, a, b); INSERT INTO r VALUES (1, 2, 3); DELETE FROM r",
        "CREATE VIEW v AS SELECT 1; DROP VIEW v",
    ] {
        bench.script(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    assert_eq!(bench.number("PRAGMA user_version"), 7);
}

#[tokio::test]
async fn a_key_applies_once_also_after_a_restart() {
    let bench = Bench::new("CREATE TABLE t(a)");
    let insert = || script("INSERT INTO t VALUES (1)");
    let first = bench.execute(insert(), Some("k1")).await.expect("applied");
    let again = bench.execute(insert(), Some("k1")).await.expect("known");
    assert_eq!((first.change, first.repeated, again.repeated), (1, false, true));
    assert_eq!((again.change, &again.results), (1, &first.results));
    // Many at once: they meet in groups.
    let all = (0..40).map(|n| bench.execute(insert(), Some(if n % 2 == 0 { "k2" } else { "k3" })));
    let answers = futures::future::join_all(all).await;
    assert_eq!(answers.iter().filter(|a| !a.as_ref().expect("an answer").repeated).count(), 2);
    let other = bench.execute(script("DELETE FROM t"), Some("k1")).await.expect_err("another request");
    assert_eq!(other.code, ErrorCode::Conflict);
    // A request that was refused has used no key.
    bench.execute(script("INSERT INTO none VALUES (1)"), Some("k4")).await.expect_err("no table");
    let bench = bench.restart().await;
    assert!(bench.execute(insert(), Some("k1")).await.expect("known").repeated);
    assert!(!bench.execute(insert(), Some("k4")).await.expect("applied").repeated);
    assert_eq!(bench.number("SELECT count(*) FROM t"), 4);
}

/// SQLite rolls the whole group back where it interrupts a statement that writes.
#[tokio::test]
async fn one_that_takes_too_long_takes_nobody_along() {
    let bench = Bench::new("CREATE TABLE t(a)");
    let endless =
        "INSERT INTO t WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n";
    let late = async {
        let deadline = Instant::now() + Duration::from_millis(300);
        bench.writer.execute(Execute { request: script(endless), key: None, deadline, size: 10 }).await
    };
    let others = futures::future::join_all((0..50).map(|_| bench.script("INSERT INTO t VALUES (1)")));
    let (late, others) = tokio::join!(late, others);
    assert_eq!(late.expect_err("endless").code, ErrorCode::DeadlineExceeded);
    let numbers: Vec<u64> = others.into_iter().map(|answer| answer.expect("applied").change).collect();
    assert_eq!(numbers, (1..=50).collect::<Vec<_>>());
    assert_eq!(bench.number("SELECT count(*) FROM t"), 50);
}

#[tokio::test]
async fn one_that_takes_too_much_memory_fails_alone() {
    let few = QuerySettings { query_memory_bytes: 8 << 20, page_cache_bytes: 1 << 20, ..limits() };
    let few =
        QuerySettings { sql: crate::query::SqlLimits { value_bytes: 4 << 20, ..few.sql.clone() }, ..few };
    let bench = Bench::with("CREATE TABLE t(a)", few);
    let heavy = "INSERT INTO t WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 300000) \
                 SELECT x || randomblob(100) FROM n ORDER BY 1";
    let others = futures::future::join_all((0..20).map(|_| bench.script("INSERT INTO t VALUES (1)")));
    let (heavy, others) = tokio::join!(bench.script(heavy), others);
    assert_eq!(heavy.expect_err("heavy").code, ErrorCode::MemoryLimit);
    assert!(others.iter().all(Result::is_ok), "{others:?}");
    assert_eq!(bench.number("SELECT count(*) FROM t"), 20);
}

#[tokio::test]
async fn a_copy_is_of_one_transaction_while_writes_go_on() {
    let bench = Bench::new("CREATE TABLE t(a, b); INSERT INTO t VALUES (0, 0)");
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let target = bench.dir.path().join("copy's.sqlite");
    for n in 1..=20_u64 {
        // Both columns of all rows always have the number of the transaction.
        let sql = format!("UPDATE t SET a = {n}, b = {n}; INSERT INTO t VALUES ({n}, {n})");
        let (path, to, off) = (bench.path(), target.clone(), Arc::clone(&stop));
        let copying = tokio::task::spawn_blocking(move || copy(&path, &to, 0, Marker(0), &off, &limits()));
        let (written, copied) = tokio::join!(bench.script(&sql), copying);
        written.expect("applied");
        let copied = copied.expect("a thread").expect("copied");
        assert!(copied.change == n || copied.change == n - 1, "{} at {n}", copied.change);
        assert_eq!(copied.size, target.metadata().expect("there").len());
        let header = std::fs::read(&target).expect("a file");
        assert_eq!((&header[18..20], &header[48..52]), (&[1, 1][..], &[0; 4][..]));
        let connection = rusqlite::Connection::open(&target).expect("a database");
        let sql =
            format!("SELECT count(*) = {0} + 1 AND min(a) = {0} AND max(b) = {0} FROM t", copied.change);
        assert!(connection.query_row(&sql, [], |row| row.get::<_, bool>(0)).expect("a row"), "{sql}");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(copy(&bench.path(), &target, 0, Marker(0), &stop, &limits()).is_err(), "stopped");
}

/// One client's request in the model.
#[derive(Debug, Clone)]
enum Step {
    Insert(i64, i64),
    Update(i64),
    Delete(i64),
    /// Two statements, the second of which may fail.
    Both(i64, i64),
    Bad,
}

impl Step {
    fn sql(&self) -> String {
        match self {
            Self::Insert(a, b) => format!("INSERT INTO t VALUES ({a}, {b})"),
            Self::Update(a) => format!("UPDATE t SET b = b + 1 WHERE a >= {a}"),
            Self::Delete(a) => format!("DELETE FROM t WHERE a = {a}"),
            Self::Both(a, b) => format!("UPDATE t SET b = -b; INSERT INTO t VALUES ({a}, {b})"),
            Self::Bad => "DELETE FROM t; INSERT INTO none VALUES (1)".into(),
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<(Step, bool)>> {
    let step = prop_oneof![
        4 => (0_i64..12, 0_i64..100).prop_map(|(a, b)| Step::Insert(a, b)),
        2 => (0_i64..12).prop_map(Step::Update),
        2 => (0_i64..12).prop_map(Step::Delete),
        3 => (0_i64..12, 0_i64..100).prop_map(|(a, b)| Step::Both(a, b)),
        1 => Just(Step::Bad),
    ];
    prop::collection::vec((step, any::<bool>()), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Requests in order, some sent at once so that they share a commit, give what a plain SQLite gives that
    /// runs each in a transaction.
    #[test]
    fn a_writer_is_a_plain_sqlite(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let schema = "CREATE TABLE t(a INTEGER PRIMARY KEY, b CHECK (b < 90))";
            let bench = Bench::new(schema);
            let mut plain = rusqlite::Connection::open_in_memory().expect("memory");
            plain.execute_batch(schema).expect("a schema");
            let mut change = 0;
            for group in steps.split_inclusive(|(_, wait)| *wait) {
                // In this order into the queue: join_all polls from the first on.
                let answers = futures::future::join_all(
                    group.iter().map(|(step, _)| async { bench.script(&step.sql()).await })).await;
                for ((step, _), answer) in group.iter().zip(answers) {
                    let transaction = plain.transaction().expect("a transaction");
                    let fits = transaction.execute_batch(&step.sql()).is_ok();
                    if fits { transaction.commit().expect("a commit"); } else { drop(transaction); }
                    assert_eq!(answer.is_ok(), fits, "{step:?}: {answer:?}");
                    if let Ok(answer) = answer {
                        change += 1;
                        assert_eq!(answer.change, change);
                    }
                }
            }
            let all = |connection: &rusqlite::Connection| {
                let sql = "SELECT group_concat(a || ':' || b, ' ' ORDER BY a) FROM t";
                connection.query_row(sql, [], |row| row.get::<_, Option<String>>(0)).expect("rows")
            };
            let bench = bench.restart().await;
            assert_eq!(bench.changes.seen().done, change);
            assert_eq!(all(&rusqlite::Connection::open(bench.path()).expect("a database")), all(&plain));
        });
    }
}
