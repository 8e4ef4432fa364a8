//! What the engine tells of the trees that a statement reads.

use serde_json::json;

use super::Bench;

const SCHEMA: &str = "\
    CREATE TABLE a (id INTEGER PRIMARY KEY, x TEXT, y TEXT);
    CREATE INDEX a_x ON a (x);
    CREATE TABLE b (id TEXT PRIMARY KEY, n INTEGER) WITHOUT ROWID;
    CREATE VIRTUAL TABLE f USING fts5(t);
    INSERT INTO a VALUES (1, 'one', 'eins'), (2, 'two', 'zwei');
    INSERT INTO b VALUES ('two', 2);
    INSERT INTO f VALUES ('words of a text');";

/// Root pages by name.
async fn roots(bench: &Bench, names: &[&str]) -> Vec<u64> {
    let mut roots = Vec::new();
    for name in names {
        let sql = format!("SELECT rootpage FROM sqlite_schema WHERE name = '{name}'");
        roots.push(bench.rows(&sql).await.expect("a root page")[0][0].as_u64().expect("a number"));
    }
    roots.sort_unstable();
    roots
}

async fn told(bench: &Bench, sql: &str) -> Vec<u64> {
    *bench.files.hints.lock() = Some(Vec::new());
    bench.rows(sql).await.expect(sql);
    let hints = bench.files.hints.lock().take().expect("they were taken");
    let mut roots: Vec<_> = hints.concat().into_iter().map(u64::from).collect();
    roots.sort_unstable();
    roots
}

#[tokio::test]
async fn the_trees_of_a_statement_are_told_before_it_runs() {
    let bench = Bench::new();
    bench.database("a.sqlite", SCHEMA);
    for (sql, names) in [
        ("SELECT y FROM a WHERE id = 2", &["a"][..]),
        ("SELECT y FROM a WHERE x = 'two'", &["a", "a_x"]),
        ("SELECT x FROM a WHERE x > 'one'", &["a_x"]),
        ("SELECT n, y FROM a JOIN b ON b.id = a.x WHERE a.id = 2", &["a", "b"]),
        ("SELECT count(*) FROM (SELECT x FROM a UNION SELECT id FROM b)", &["a_x", "b"]),
        ("WITH RECURSIVE r(n) AS (VALUES(1) UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT n FROM r", &[]),
        ("EXPLAIN SELECT y FROM a", &[]),
    ] {
        assert_eq!(told(&bench, sql).await, roots(&bench, names).await, "{sql}");
    }
}

#[tokio::test]
async fn a_hint_changes_no_answer_and_a_kept_statement_gives_none() {
    let bench = Bench::new();
    bench.database("a.sqlite", SCHEMA);
    let sql = "SELECT id, y FROM a WHERE x >= 'a' ORDER BY id";
    let rows = bench.rows(sql).await.expect("rows");
    assert_eq!(rows, json!([[1, "eins"], [2, "zwei"]]));
    assert!(told(&bench, sql).await.is_empty(), "its statement was kept");
    let again = "SELECT id, y FROM a WHERE x >= 'a' ORDER BY +id";
    *bench.files.hints.lock() = Some(Vec::new());
    assert_eq!(bench.rows(again).await.expect("rows"), rows);
    assert_eq!(bench.files.hints.lock().as_ref().map(Vec::len), Some(1));
    assert!(bench.rows("SELECT t FROM f WHERE f MATCH 'text'").await.is_ok(), "virtual tables run");
}
