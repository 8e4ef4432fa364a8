//! Hostile and ordinary SQL, each with the outcome that it must have.

use serde_json::json;

use super::*;
use crate::query::authorize::FUNCTIONS;

const SCHEMA: &str = "
    CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT, c REAL, d BLOB);
    INSERT INTO t VALUES (1, 'one', 1.5, x'00ff'), (2, 'two', -0.0, NULL);
    CREATE INDEX i ON t (b);
    CREATE VIEW v AS SELECT a, upper(b) AS u FROM t;
    CREATE VIRTUAL TABLE f USING fts5 (title, body);
    INSERT INTO f VALUES ('Spring', 'cold water runs'), ('House', 'kept cold over water');
    CREATE VIRTUAL TABLE r USING rtree (id, x0, x1);
    INSERT INTO r VALUES (1, 0, 10), (2, 20, 30);
    CREATE VIRTUAL TABLE f4 USING fts4 (body);
    INSERT INTO f4 VALUES ('old words'), ('older words');
    CREATE TABLE s (x);
    CREATE TRIGGER g AFTER INSERT ON s BEGIN SELECT load_extension('x'); END;";

#[tokio::test]
async fn what_only_reads_works() {
    let bench = Bench::new();
    bench.database("a.sqlite", SCHEMA);
    for (sql, rows) in [
        ("SELECT a, b FROM t ORDER BY a", json!([[1, "one"], [2, "two"]])),
        ("SELECT c, d FROM t", json!([[1.5, {"$base64": "AP8="}], [-0.0, null]])),
        ("SELECT u FROM v WHERE a = 2", json!([["TWO"]])),
        ("  -- a comment\n SELECT 1 ; /* and after */ ; ;", json!([[1]])),
        ("VALUES (1, 'x'), (2, 'y')", json!([[1, "x"], [2, "y"]])),
        (
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT sum(i) FROM n",
            json!([[6]]),
        ),
        ("SELECT title FROM f WHERE f MATCH 'cold' ORDER BY bm25(f), title", json!([["Spring"], ["House"]])),
        ("SELECT highlight(f, 1, '<', '>') FROM f WHERE f MATCH 'runs'", json!([["cold water <runs>"]])),
        ("SELECT snippet(f, 1, '<', '>', '…', 2) FROM f('kept') ORDER BY rank", json!([["<kept> cold…"]])),
        ("SELECT snippet(f4) FROM f4 WHERE f4 MATCH 'old'", json!([["<b>old</b> words"]])),
        ("SELECT id FROM r WHERE x0 >= 5", json!([[2]])),
        ("SELECT name FROM pragma_table_info('t') LIMIT 2", json!([["a"], ["b"]])),
        ("SELECT name FROM pragma_index_list('t')", json!([["i"]])),
        ("PRAGMA table_info(s)", json!([[0, "x", "", 0, null, 0]])),
        ("SELECT json_extract('{\"a\":[1,2]}', '$.a[1]'), '[3]' ->> 0", json!([[2, 3]])),
        ("SELECT value FROM json_each('[1,\"x\"]')", json!([[1], ["x"]])),
        (
            "SELECT row_number() OVER (ORDER BY a), lag(b) OVER (ORDER BY a) FROM t",
            json!([[1, null], [2, "one"]]),
        ),
        (
            "SELECT date('2024-02-29', '+1 year'), strftime('%Y', 0, 'unixepoch')",
            json!([["2025-03-01", "1970"]]),
        ),
        ("SELECT 9223372036854775807, -9223372036854775808", json!([[i64::MAX, i64::MIN]])),
        (
            "SELECT 9e999, -9e999, 1.0, 1e300",
            json!([[{"$float": "Infinity"}, {"$float": "-Infinity"}, 1.0, 1e300]]),
        ),
        ("SELECT CAST(x'ff41' AS TEXT)", json!([[{"$base64text": "/0E="}]])),
        ("SELECT 'a' || char(0) || 'b'", json!([["a\0b"]])),
        ("SELECT a FROM t WHERE 0", json!([])),
        ("SELECT count(*) FROM sqlite_schema WHERE type = 'view'", json!([[1]])),
        ("SELECT b FROM t WHERE b LIKE 't%' OR b GLOB 'z*'", json!([["two"]])),
        ("SELECT round(7.1415, 2), abs(-3), max(1, 2), iif(1, 'y', 'n')", json!([[7.14, 3, 2, "y"]])),
    ] {
        assert_eq!(bench.rows(sql).await, Ok(rows), "{sql}");
    }
    let answer = bench.ask("EXPLAIN QUERY PLAN SELECT * FROM t WHERE b = 'x'").await.expect("a plan");
    assert!(answer["rows"].to_string().contains("USING INDEX i"), "{answer}");
    let answer = bench.ask("SELECT a, b AS a, a + 1 FROM t").await.expect("columns");
    assert_eq!(
        answer["columns"],
        json!([{"name": "a", "type": "INTEGER"}, {"name": "a", "type": "TEXT"}, {"name": "a + 1", "type": null}])
    );
    assert_eq!(answer["end"], json!({"rows": 2, "truncated": false}));
}

#[tokio::test]
async fn everything_else_is_refused_by_name() {
    let bench = Bench::new();
    bench.database("a.sqlite", SCHEMA);
    let outside = bench.path("stolen.sqlite");
    let outside = outside.display();
    use ErrorCode::{SqlError, SqlForbidden};
    for (sql, code, hint) in [
        ("INSERT INTO t (b) VALUES ('x')", SqlForbidden, "INSERT"),
        ("INSERT INTO t (b) VALUES ('x') RETURNING a", SqlForbidden, "INSERT"),
        ("UPDATE t SET b = 'x'", SqlForbidden, "UPDATE"),
        ("DELETE FROM t", SqlForbidden, "DELETE"),
        ("DELETE FROM r_node RETURNING 1", SqlError, "may not be modified"),
        ("REPLACE INTO t VALUES (1, 2, 3, 4)", SqlForbidden, "INSERT"),
        ("INSERT INTO f (f) VALUES ('optimize')", SqlForbidden, "INSERT"),
        ("CREATE TABLE x (a)", SqlForbidden, "change of the schema"),
        ("CREATE TEMP TABLE x (a)", SqlForbidden, ""),
        ("CREATE TEMP VIEW x AS SELECT 1", SqlForbidden, ""),
        ("DROP TABLE t", SqlForbidden, "change of the schema"),
        ("ALTER TABLE t RENAME TO u", SqlForbidden, ""),
        ("REINDEX", SqlForbidden, "REINDEX"),
        ("ANALYZE", SqlForbidden, ""),
        ("BEGIN", SqlForbidden, "transaction"),
        ("COMMIT", SqlForbidden, "transaction"),
        ("SAVEPOINT x", SqlForbidden, "SAVEPOINT"),
        ("VACUUM", SqlForbidden, ""),
        (&format!("VACUUM INTO '{outside}'"), SqlForbidden, ""),
        (&format!("EXPLAIN ATTACH '{outside}' AS x"), SqlForbidden, "ATTACH"),
        (&format!("ATTACH '{outside}' AS x"), SqlForbidden, "ATTACH"),
        ("ATTACH ':memory:' AS x", SqlForbidden, "ATTACH"),
        ("DETACH main", SqlForbidden, "DETACH"),
        ("PRAGMA writable_schema = ON", SqlForbidden, "PRAGMA writable_schema"),
        ("PRAGMA mmap_size = 1000000", SqlForbidden, "PRAGMA mmap_size"),
        ("PRAGMA trusted_schema = 1", SqlForbidden, "PRAGMA trusted_schema"),
        ("PRAGMA query_only = 0", SqlForbidden, "PRAGMA query_only"),
        ("pragma database_list", SqlForbidden, "database_list"),
        ("PRAGMA temp_store_directory = '/tmp'", SqlForbidden, "PRAGMA"),
        ("PRAGMA integrity_check", SqlForbidden, "PRAGMA integrity_check"),
        ("PRAGMA hard_heap_limit = 1", SqlForbidden, "PRAGMA"),
        ("SELECT * FROM pragma_database_list", SqlForbidden, "PRAGMA database_list"),
        ("SELECT * FROM pragma_database_list()", SqlForbidden, "PRAGMA database_list"),
        ("SELECT * FROM pragma_compile_options", SqlForbidden, "PRAGMA compile_options"),
        ("SELECT load_extension('/tmp/x.so')", SqlForbidden, "load_extension"),
        ("SELECT fts3_tokenizer('simple')", SqlForbidden, "fts3_tokenizer"),
        ("SELECT sqlite_log(1, 'x')", SqlForbidden, "sqlite_log"),
        ("SELECT sqlite_compileoption_get(1)", SqlForbidden, "sqlite_compileoption_get"),
        ("SELECT fts5(NULL)", SqlForbidden, "fts5()"),
        ("SELECT readfile('/etc/passwd')", SqlError, "no such function"),
        ("SELECT writefile('/tmp/x', 'y')", SqlError, "no such function"),
        ("SELECT edit('x')", SqlError, "no such function"),
        ("SELECT * FROM dbstat", SqlError, "dbstat"),
        ("SELECT * FROM sqlite_stmt", SqlError, "no such table"),
        ("SELECT * FROM sqlite_dbpage", SqlError, "no such table"),
        ("SELECT * FROM generate_series(1, 10)", SqlError, "no such table"),
        ("", SqlError, "no statement"),
        (" ; -- nothing", SqlError, "no statement"),
        ("SELECT 1; SELECT 2", SqlError, "more than one"),
        ("SELECT 1; DROP TABLE t", SqlError, "more than one"),
        ("SELECT 1; nonsense", SqlError, "more than one"),
        ("SELECT 1\0", SqlError, "NUL"),
        ("SELEC 1", SqlError, "near \"SELEC\": syntax error, at character 1"),
        ("SELECT 'ü', FORM t", SqlError, "at character"),
        ("SELECT * FROM nowhere", SqlError, "no such table: nowhere"),
        ("SELECT \"quoted\"", SqlError, "no such column"),
        ("SELECT 1 WHERE abs(-9223372036854775808)", SqlError, "integer overflow"),
    ] {
        let error = bench.rows(sql).await.expect_err(sql);
        assert_eq!(error.code, code, "{sql}: {error}");
        assert!(error.message.contains(hint), "{sql}: {error}");
        assert!(!error.message.contains(bench.dir.path().to_str().expect("UTF-8")), "{sql}: {error}");
    }
    assert!(!bench.path("stolen.sqlite").exists());
    // A refusal spoils nothing for the next one.
    assert_eq!(bench.rows("SELECT count(*) FROM t").await, Ok(json!([[2]])));
}

/// A newer SQLite with a new function fails here until somebody decides about it.
#[tokio::test]
async fn every_function_is_decided_about() {
    const REFUSED: &[&str] = &[
        "fts3_tokenizer",
        "fts5",
        "load_extension",
        "optimize",
        "rtreecheck",
        "sqlite_compileoption_get",
        "sqlite_compileoption_used",
        "sqlite_log",
    ];
    /// There if SQLite is built with SQLITE_ENABLE_MATH_FUNCTIONS and SQLITE_ENABLE_PERCENTILE.
    const OPTIONAL: &[&str] = &[
        "acos",
        "acosh",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "ceil",
        "ceiling",
        "cos",
        "cosh",
        "degrees",
        "exp",
        "floor",
        "ln",
        "log",
        "log10",
        "log2",
        "median",
        "mod",
        "percentile",
        "percentile_cont",
        "percentile_disc",
        "pi",
        "pow",
        "power",
        "radians",
        "sin",
        "sinh",
        "sqrt",
        "tan",
        "tanh",
        "trunc",
    ];
    init().expect("SQLite fits");
    let connection = rusqlite::Connection::open_in_memory().expect("a database");
    let mut statement = connection.prepare("SELECT DISTINCT name FROM pragma_function_list").expect("a list");
    let names: Vec<String> =
        statement.query_map([], |row| row.get(0)).expect("rows").map(|name| name.expect("a name")).collect();
    assert!(names.len() > 100, "{names:?}");
    let undecided: Vec<_> = names
        .iter()
        .filter(|name| !FUNCTIONS.contains(&name.as_str()) && !REFUSED.contains(&name.as_str()))
        .collect();
    assert!(undecided.is_empty(), "allowed or refused? {undecided:?}");
    let unknown: Vec<_> = FUNCTIONS
        .iter()
        .filter(|name| !names.iter().any(|known| known == *name))
        .filter(|name| !OPTIONAL.contains(name))
        // Auxiliary functions of FTS exist for their tables only, and are not in the list.
        .filter(|name| {
            !["bm25", "highlight", "snippet", "fts5_get_locale", "matchinfo", "offsets"].contains(name)
                // Ours.
                && !["regexp", "seedcrawledstatus", "buildredirectarray"].contains(name)
        })
        .collect();
    assert!(unknown.is_empty(), "allowed, but not there: {unknown:?}");
}

#[tokio::test]
async fn a_hostile_schema_gets_an_error_not_its_way() {
    let bench = Bench::new();
    let path = bench.path("a.sqlite");
    make_database(&path, "CREATE TABLE t (a); INSERT INTO t VALUES (1);
        CREATE TABLE x1 (a); CREATE TABLE x2 (a); CREATE TABLE x3 (a); CREATE TABLE x4 (a); CREATE TABLE x5(a);
        CREATE TABLE x6 (a)");
    // What SQLite itself would not write.
    let connection = rusqlite::Connection::open(&path).expect("a database");
    connection.execute_batch("PRAGMA writable_schema = ON").expect("on");
    for (name, kind, sql) in [
        ("x1", "view", "CREATE VIEW x1 AS SELECT load_extension('/tmp/x') FROM t"),
        ("x2", "view", "CREATE VIEW x2 AS SELECT * FROM x2"),
        ("x3", "table", "CREATE VIRTUAL TABLE x3 USING unknown_module(a)"),
        ("x4", "view", "CREATE VIEW x4 AS SELECT * FROM pragma_database_list"),
        ("x5", "view", "CREATE VIEW x5 AS SELECT fts3_tokenizer('simple')"),
        ("x6", "table", "CREATE VIRTUAL TABLE x6 USING dbstat(main)"),
    ] {
        connection
            .execute(
                "UPDATE sqlite_schema SET sql = ?1, type = ?2, rootpage = 0 WHERE name = ?3",
                (sql, kind, name),
            )
            .expect("an update");
    }
    drop(connection);
    assert_eq!(bench.rows("SELECT a FROM t").await, Ok(json!([[1]])));
    for (sql, hint) in [
        ("SELECT * FROM x1", "load_extension"),
        ("SELECT * FROM x2", "circularly defined"),
        ("SELECT * FROM x3", "no such module"),
        ("SELECT * FROM x4", "pragma_database_list"),
        ("SELECT * FROM x5", "fts3_tokenizer"),
        ("SELECT * FROM x6", "no such module"),
    ] {
        let error = bench.rows(sql).await.expect_err(sql);
        assert!(matches!(error.code, ErrorCode::SqlError | ErrorCode::SqlForbidden), "{sql}: {error:?}");
        assert!(error.message.contains(hint), "{sql}: {error}");
    }
}

#[tokio::test]
async fn junk_statistics_names_and_defaults_harm_nobody() {
    let bench = Bench::new();
    let path = bench.path("a.sqlite");
    make_database(
        &path,
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t (b); INSERT INTO t VALUES (1, 2);
         ANALYZE; UPDATE sqlite_stat1 SET stat = 'junk -1 99999999999999999999 unordered sz=-5';
         CREATE TABLE n (\"@@@\" \"@@@\");",
    );
    // A column name and type that are not UTF-8.
    let mut bytes = std::fs::read(&path).expect("read");
    while let Some(at) = bytes.windows(3).position(|window| window == b"@@@") {
        bytes[at..at + 3].copy_from_slice(b"\xff\xfe\x41");
    }
    std::fs::write(&path, bytes).expect("write");
    assert_eq!(bench.rows("SELECT b FROM t WHERE b > 0").await, Ok(json!([[2]])));
    let answer = bench.ask("SELECT * FROM n").await.expect("an odd name");
    assert_eq!(answer["columns"], json!([{"name": "\u{fffd}\u{fffd}A", "type": "\u{fffd}\u{fffd}A"}]));
}

#[tokio::test]
async fn odd_paths_are_opened_as_they_are() {
    let bench = Bench::new();
    for name in ["a b.sqlite", "ü?x=1&mode=rwc.sqlite", "a#b.sqlite", "%41.sqlite", "100%.sqlite"] {
        bench.database(name, &format!("CREATE TABLE t AS SELECT '{name}' AS name"));
        let answer = bench.json(query(&format!("/{name}"), "SELECT name FROM t")).await.expect(name);
        assert_eq!(answer["rows"], json!([[name]]));
    }
}

#[tokio::test]
async fn parameters_arrive_as_they_were_sent() {
    let bench = Bench::new();
    bench.database("a.sqlite", SCHEMA);
    let ask = |sql: &str, params: Json| {
        let params = serde_json::from_value(params).expect("params");
        bench.json(Query { params, ..query("/a.sqlite", sql) })
    };
    let answer = ask(
        "SELECT ?1, ?2, typeof(?2), ?3, typeof(?4), ?5",
        json!([i64::MIN, {"$base64": ""}, "x\0y", {"$base64": "AA=="}, {"$float": "Infinity"}]),
    );
    assert_eq!(
        answer.await.expect("an answer")["rows"],
        json!([[i64::MIN, {"$base64": ""}, "blob", "x\0y", "blob", {"$float": "Infinity"}]])
    );
    let answer = ask("SELECT b FROM t WHERE a = :a AND b <> $b", json!({"a": 2, "$b": "x"})).await;
    assert_eq!(answer.expect("an answer")["rows"], json!([["two"]]));
    for (sql, params, hint) in [
        ("SELECT ?", json!([]), "1 parameters, 0 were given"),
        ("SELECT :a", json!({"b": 1}), "no value for parameter :a"),
        ("SELECT 1", json!([1]), "0 parameters, 1 were given"),
    ] {
        let error = ask(sql, params).await.expect_err(sql);
        assert_eq!(error.code, ErrorCode::BadRequest);
        assert!(error.message.contains(hint), "{error}");
    }
}
