//! Which connection answers, and what that costs.

use serde_json::json;

use super::*;

fn replace(bench: &Bench, name: &str, sql: &str) {
    let next = bench.path("next");
    make_database(&next, sql);
    std::fs::rename(next, bench.path(name)).expect("a rename");
}

#[tokio::test]
async fn a_warm_query_asks_the_file_system_nothing() {
    let bench = Bench::new();
    bench.database("a.sqlite", "CREATE TABLE t AS SELECT 1 AS a");
    let (generation, _) = bench.raw(query("/a.sqlite", "SELECT a FROM t")).await.expect("cold");
    let cold = bench.files.calls.load(Ordering::Relaxed);
    for _ in 0..20 {
        let warm = Query { expected: Some(generation), ..query("/a.sqlite", "SELECT a FROM t") };
        assert_eq!(bench.raw(warm).await.expect("warm").0, generation);
    }
    assert_eq!(bench.files.calls.load(Ordering::Relaxed), cold);
    assert_eq!(bench.counter("springhouse_pool_opens_total"), 1.0);
    assert_eq!(bench.counter("springhouse_pool_hits_total"), 20.0);
}

#[tokio::test]
async fn an_answer_names_the_generation_that_it_comes_from() {
    let bench = Bench::new();
    bench.database("a.sqlite", "CREATE TABLE t AS SELECT 'old' AS a");
    let (old, _) = bench.raw(query("/a.sqlite", "SELECT a FROM t")).await.expect("old");
    replace(&bench, "a.sqlite", "CREATE TABLE t AS SELECT 'new' AS a");
    // The catalog still says old, and an idle connection of it is there: one generation, not a mix.
    let expected = Query { expected: Some(old), ..query("/a.sqlite", "SELECT a FROM t") };
    let (generation, body) = bench.raw(expected.clone()).await.expect("old");
    assert!(generation == old && body.contains("old"), "{body}");
    // Nobody expects anything: what the store has now.
    let (new, body) = bench.raw(query("/a.sqlite", "SELECT a FROM t")).await.expect("new");
    assert!(new != old && body.contains("new"), "{body}");
    // The old one is gone from the pool: the new one answers and says so.
    bench.engine.close_idle();
    let (generation, body) = bench.raw(expected).await.expect("new");
    assert!(generation == new && body.contains("new") && body.contains(&new.to_string()), "{body}");
}

#[tokio::test]
async fn open_files_are_bounded_and_the_coldest_goes() {
    let bench = Bench::with(QuerySettings { threads: 1, connections_max: 3, ..settings() });
    for number in 0..10 {
        bench.database(&format!("{number}.sqlite"), &format!("CREATE TABLE t AS SELECT {number} AS a"));
    }
    for number in (0..10).chain([9, 8]) {
        let answer = bench.json(query(&format!("/{number}.sqlite"), "SELECT a FROM t")).await;
        assert_eq!(answer.expect("an answer")["rows"], json!([[number]]));
        assert!(bench.counter("springhouse_pool_connections") <= 3.0);
    }
    assert_eq!(bench.counter("springhouse_pool_opens_total"), 10.0, "9 and 8 were still open");
    assert_eq!(bench.counter("springhouse_pool_evictions_total"), 7.0);
}

#[tokio::test]
async fn idle_memory_is_bounded() {
    let bench = Bench::with(QuerySettings { idle_memory_bytes: 600_000, ..settings() });
    for number in 0..8 {
        bench.database(
            &format!("{number}.sqlite"),
            "CREATE TABLE t (a); WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
             INSERT INTO t SELECT hex(randomblob(50)) FROM n",
        );
    }
    for number in 0..8 {
        bench.json(query(&format!("/{number}.sqlite"), "SELECT max(a) FROM t")).await.expect("an answer");
        let idle = bench.counter("springhouse_pool_idle_memory_bytes");
        assert!((0.0..=600_000.0).contains(&idle), "{idle}");
    }
    assert!(bench.counter("springhouse_pool_evictions_total") >= 5.0);
}

#[tokio::test]
async fn a_new_epoch_makes_old_connections_useless() {
    let bench = Bench::new();
    bench.database("a.sqlite", "CREATE TABLE t AS SELECT 1 AS a");
    let (generation, _) = bench.raw(query("/a.sqlite", "SELECT a FROM t")).await.expect("first");
    bench.files.epoch.store(1, Ordering::Relaxed);
    let again = Query { expected: Some(generation), ..query("/a.sqlite", "SELECT a FROM t") };
    bench.raw(again).await.expect("second");
    assert_eq!(bench.counter("springhouse_pool_opens_total"), 2.0);
}

#[tokio::test]
async fn many_at_once_on_one_file() {
    let bench = Bench::with(QuerySettings { threads: 8, connections_per_file_max: 4, ..settings() });
    bench.database("a.sqlite", "CREATE TABLE t AS SELECT 1 AS a");
    let answers = futures::future::join_all((0..100).map(|n| {
        let sql = format!("SELECT a + {n} FROM t");
        let bench = &bench;
        async move { bench.rows(&sql).await }
    }))
    .await;
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer, Ok(json!([[n + 1]])));
    }
    assert!(bench.counter("springhouse_pool_connections") <= 4.0, "idle ones of one file are bounded");
}

/// What a mount does with a replaced file: its old inode answers ESTALE. Here the store says so once.
#[tokio::test]
async fn a_segment_replaced_while_it_is_opened_is_opened_again() {
    let bench = Bench::new();
    bench.database("a.sqlite", "CREATE TABLE t AS SELECT 1 AS a");
    bench.files.stale.store(1, Ordering::Relaxed);
    assert_eq!(bench.rows("SELECT a FROM t").await, Ok(json!([[1]])));
    bench.engine.close_idle();
    // But not for ever.
    bench.files.stale.store(1000, Ordering::Relaxed);
    let error = bench.rows("SELECT a FROM t").await.expect_err("never the same");
    assert_eq!(error.code, ErrorCode::SegmentReplaced);
    assert!(error.retry);
}

/// A deleted file takes disk space as long as it is open, and nobody may ever ask for it again.
#[tokio::test]
async fn connections_of_an_old_generation_are_closed_when_a_new_one_is_opened() {
    let bench = Bench::new();
    bench.database("a.sqlite", "CREATE TABLE t AS SELECT 1 AS a");
    bench.database("b.sqlite", "CREATE TABLE t AS SELECT 1 AS a");
    bench.rows("SELECT a FROM t").await.expect("first");
    bench.json(query("/b.sqlite", "SELECT a FROM t")).await.expect("another file");
    for n in 2..10 {
        replace(&bench, "a.sqlite", &format!("CREATE TABLE t AS SELECT {n} AS a"));
        assert_eq!(bench.rows("SELECT a FROM t").await, Ok(json!([[n]])));
        assert_eq!(bench.counter("springhouse_pool_connections"), 2.0, "a.sqlite's and b.sqlite's");
    }
}

/// Where files can be written in place, a connection of the generation that the catalog expects may
/// stand on other bytes by now, and its page cache on bytes of before.
#[tokio::test]
async fn a_file_written_in_place_is_another_generation() {
    let bench = Bench::new();
    bench.files.verifies.store(1, Ordering::Relaxed);
    bench.database("a.sqlite", "CREATE TABLE t AS SELECT 'old' AS a");
    let (old, _) = bench.raw(query("/a.sqlite", "SELECT a FROM t")).await.expect("old");
    make_database(&bench.path("next"), "CREATE TABLE t AS SELECT 'new' AS a");
    std::fs::copy(bench.path("next"), bench.path("a.sqlite")).expect("the same inode");
    let expected = Query { expected: Some(old), ..query("/a.sqlite", "SELECT a FROM t") };
    let (new, body) = bench.raw(expected).await.expect("new");
    assert!(new != old && body.contains("new"), "{body}");
}

#[tokio::test]
async fn rows_of_a_file_that_changes_meanwhile_are_not_sent() {
    let bench = Bench::new();
    bench.files.verifies.store(1, Ordering::Relaxed);
    let sql = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    for format in [Format::Json, Format::Ndjson] {
        replace(&bench, "a.sqlite", "CREATE TABLE t AS SELECT 'old' AS a");
        let answer = bench.engine.query(Query { format, ..query("/a.sqlite", sql) }).await.expect("rows");
        // The queue is full and the thread waits: what it has ready is not verified yet.
        std::fs::write(bench.path("a.sqlite"), b"other").expect("write");
        let chunks: Vec<_> = answer.into_stream().collect().await;
        let body: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.expect("infallible")).collect();
        let last: Json = match format {
            Format::Json => serde_json::from_slice(&body).expect("JSON"),
            Format::Ndjson => {
                let line = body.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
                serde_json::from_slice(line.expect("a line")).expect("JSON")
            }
            Format::Trough => unreachable!("it has no words for it"),
        };
        assert_eq!(last["error"]["code"], "segment_replaced", "{format:?}");
    }
}
