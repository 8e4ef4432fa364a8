//! A query that wants too much gets its own error, and nobody else notices.

use futures::StreamExt;
use serde_json::json;

use super::*;
use crate::query::SqlLimits;

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    let kib: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    kib * 1024
}

/// Waits until no thread has a query.
async fn ended(bench: &Bench) {
    let ended = async {
        while bench.engine.running() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, ended).await.expect("queries that were stopped end");
}

const FOREVER: &str = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n)";

const MILLION: &str = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)";

#[tokio::test]
async fn memory_is_bounded_and_neighbours_go_on() {
    let bench = Bench::with(QuerySettings {
        query_memory_bytes: 48 << 20,
        answer_bytes_max: 16 << 20,
        threads: 4,
        sql: SqlLimits { value_bytes: 4 << 20, ..SqlLimits::default() },
        ..settings()
    });
    bench.database("a.sqlite", "CREATE TABLE t (a); INSERT INTO t VALUES (1)");
    let before = resident_bytes();
    for sql in [
        // Sorts, groups, temporary tables.
        &format!("{FOREVER} SELECT i FROM n ORDER BY random()"),
        // (An aggregate tells at its end only that its text grew too long: endless input would end by the
        // deadline, with the same memory.)
        &format!("{MILLION} SELECT group_concat(i) FROM n"),
        &format!("{FOREVER} SELECT count(DISTINCT i) FROM n"),
        &format!("{MILLION} SELECT json_group_array(i) FROM n"),
        &format!("{FOREVER}, m AS MATERIALIZED (SELECT i FROM n) SELECT max(i) FROM m"),
        // Values.
        "SELECT randomblob(1000000000)",
        "SELECT length(zeroblob(1000000000) || 'x')",
        "SELECT printf('%.*c', 1000000000, 'x')",
        "SELECT replace(hex(zeroblob(1000000)), '0', hex(zeroblob(1000)))",
        "WITH RECURSIVE s(x) AS (VALUES ('x') UNION ALL SELECT x || x FROM s) SELECT max(length(x)) FROM s",
        "SELECT hex(zeroblob(20000000)), hex(zeroblob(20000001))",
    ] {
        let (heavy, light) = tokio::join!(bench.rows(sql), bench.rows("SELECT a FROM t"));
        let error = heavy.expect_err(sql);
        assert_eq!(error.code, ErrorCode::MemoryLimit, "{sql}: {error}");
        assert_eq!(light, Ok(json!([[1]])), "beside {sql}");
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 600 << 20, "{grown} bytes more than before");
}

#[tokio::test]
async fn a_shared_value_cannot_be_multiplied_into_the_answer() {
    let bench = Bench::with(QuerySettings { answer_bytes_max: 8 << 20, ..settings() });
    bench.database("a.sqlite", "CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(1000000))");
    let columns = vec!["a"; 500].join(", ");
    let error = bench.rows(&format!("SELECT {columns} FROM t")).await.expect_err("500 MB");
    assert_eq!(error.code, ErrorCode::ByteLimit, "{error}");
}

#[tokio::test]
async fn the_deadline_ends_what_would_not_end() {
    let bench = Bench::new();
    bench.database("a.sqlite", "CREATE TABLE t (a); INSERT INTO t VALUES (1)");
    for sql in [
        format!("{FOREVER} SELECT max(i) FROM n"),
        format!("{FOREVER} SELECT i FROM n WHERE i < 0"),
        format!("{FOREVER} SELECT 1 FROM n, n AS m, n AS o WHERE n.i + m.i + o.i < 0"),
    ] {
        let deadline = Instant::now() + Duration::from_millis(150);
        let error = bench.json(Query { deadline, ..query("/a.sqlite", &sql) }).await.expect_err(&sql);
        assert_eq!(error.code, ErrorCode::DeadlineExceeded, "{sql}: {error}");
    }
    assert_eq!(bench.rows("SELECT a FROM t").await, Ok(json!([[1]])), "and the thread is free again");
}

#[tokio::test]
async fn rows_and_bytes_stop_with_the_rows_before_them() {
    let bench = Bench::with(QuerySettings { rows_max: 1000, answer_bytes_max: 100_000, ..settings() });
    bench.database("a.sqlite", "CREATE TABLE t (a)");
    let answer = bench.ask(&format!("{FOREVER} SELECT i FROM n")).await.expect("rows, then an error");
    assert_eq!(answer["error"]["code"], "row_limit");
    assert_eq!(answer["rows"].as_array().map(Vec::len), Some(1000));
    assert_eq!(answer.get("end"), None);
    let answer = bench
        .ask(&format!("{FOREVER} SELECT hex(zeroblob(1000)) FROM n"))
        .await
        .expect("rows, then an error");
    assert_eq!(answer["error"]["code"], "byte_limit");
    assert_eq!(answer["rows"].as_array().map(Vec::len), Some(49));

    let some = |rows_max| Query {
        rows_max: Some(rows_max),
        ..query("/a.sqlite", &format!("{FOREVER} SELECT i FROM n LIMIT 5"))
    };
    let answer = bench.json(some(3)).await.expect("an answer");
    assert_eq!(answer["end"], json!({"rows": 3, "truncated": true}));
    let answer = bench.json(some(5)).await.expect("an answer");
    assert_eq!(answer["end"], json!({"rows": 5, "truncated": false}));
    let answer = bench.json(some(0)).await.expect("an answer");
    assert_eq!(answer["end"], json!({"rows": 0, "truncated": true}));
    assert_eq!(bench.json(some(1001)).await.expect_err("too many").code, ErrorCode::BadRequest);
    let exact = bench.ask(&format!("{FOREVER} SELECT i FROM n LIMIT 1000")).await.expect("exactly the limit");
    assert_eq!(exact["end"]["rows"], 1000);
}

#[tokio::test]
async fn sql_limits_are_errors_of_the_statement() {
    let bench = Bench::new();
    bench.database("a.sqlite", "CREATE TABLE t (a)");
    for sql in [
        format!("SELECT 1{}", " + 1".repeat(1000)),
        vec!["SELECT 1"; 200].join(" UNION ALL "),
        format!("SELECT {}", vec!["1"; 2000].join(", ")),
        format!("SELECT 'x' LIKE '{}'", "%a".repeat(100)),
        format!("SELECT max({})", vec!["1"; 300].join(", ")),
        "SELECT ?20000".to_owned(),
        format!("SELECT '{}'", "x".repeat(300 << 10)),
    ] {
        let error = bench.rows(&sql).await.expect_err("a limit");
        assert_eq!(error.code, ErrorCode::SqlError, "{error}: {}", &sql[..40]);
    }
}

#[tokio::test]
async fn a_client_that_goes_away_stops_its_query() {
    let bench = Bench::with(QuerySettings { threads: 1, ..settings() });
    bench.database("a.sqlite", "CREATE TABLE t (a)");
    // Before the first row.
    let endless = format!("{FOREVER} SELECT max(i) FROM n");
    let waiting = bench.engine.query(query("/a.sqlite", &endless));
    tokio::select! {
        answer = waiting => panic!("{answer:?}"),
        () = async { while bench.engine.running() == 0 { tokio::task::yield_now().await; } } => {}
    }
    // The only thread is free for the next one.
    assert_eq!(bench.rows("SELECT 1").await, Ok(json!([[1]])));
    // In the middle of the rows.
    let answer = bench.engine.query(query("/a.sqlite", &format!("{FOREVER} SELECT i FROM n"))).await;
    let mut stream = Box::pin(answer.expect("rows").into_stream());
    assert!(stream.next().await.is_some());
    drop(stream);
    assert_eq!(bench.rows("SELECT 2").await, Ok(json!([[2]])));
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_a_thread_until_the_deadline_only() {
    let bench = Bench::with(QuerySettings { threads: 1, ..settings() });
    bench.database("a.sqlite", "CREATE TABLE t (a)");
    let endless = format!("{FOREVER} SELECT hex(zeroblob(1000)) FROM n");
    // Its first rows have to come before.
    let mut seconds = 2;
    let answer = loop {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        match bench.engine.query(Query { deadline, ..query("/a.sqlite", &endless) }).await {
            Ok(answer) => break answer,
            Err(error) => assert!(seconds < 100 && error.code == ErrorCode::DeadlineExceeded, "{error}"),
        }
        seconds *= 2;
    };
    assert_eq!(bench.rows("SELECT 1").await, Ok(json!([[1]])));
    // Whoever reads late still gets whole JSON that says what happened.
    let chunks: Vec<_> = answer.into_stream().collect().await;
    let bytes: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.expect("a chunk")).collect();
    let json: Json = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!(json["error"]["code"], "deadline_exceeded");
}

#[tokio::test]
async fn a_full_queue_refuses_and_the_queue_counts_for_the_deadline() {
    let bench = Bench::with(QuerySettings { threads: 1, queue_max: 1, ..settings() });
    bench.database("a.sqlite", "CREATE TABLE t (a)");
    let endless = format!("{FOREVER} SELECT max(i) FROM n");
    let running = bench.engine.query(query("/a.sqlite", &endless));
    tokio::pin!(running);
    tokio::select! {
        answer = &mut running => panic!("{answer:?}"),
        () = async { while bench.engine.running() == 0 { tokio::task::yield_now().await; } } => {}
    }
    let mut queued = Box::pin(bench.engine.query(query("/a.sqlite", "SELECT 1")));
    assert!(futures::poll!(&mut queued).is_pending());
    let error = bench.engine.query(query("/a.sqlite", "SELECT 2")).await.expect_err("no room");
    assert_eq!(error.code, ErrorCode::Overloaded);
    assert!(error.retry);
    // Whoever goes away makes room.
    drop(queued);
    let deadline = Instant::now() + Duration::from_millis(100);
    let late = bench.engine.query(Query { deadline, ..query("/a.sqlite", "SELECT 3") }).await;
    assert_eq!(late.expect_err("too late").code, ErrorCode::DeadlineExceeded);
    assert!(futures::poll!(&mut running).is_pending(), "and the only thread was busy all the time");
}

#[tokio::test]
async fn a_stop_waits_then_ends_what_runs() {
    let bench = Bench::new();
    bench.database("a.sqlite", "CREATE TABLE t (a)");
    let endless = format!("{FOREVER} SELECT max(i) FROM n");
    let running = bench.engine.query(query("/a.sqlite", &endless));
    let stop = async {
        while bench.engine.running() == 0 {
            tokio::task::yield_now().await;
        }
        bench.engine.shutdown(Duration::from_millis(50)).await;
    };
    let (answer, ()) = tokio::join!(running, stop);
    assert_eq!(answer.expect_err("stopped").code, ErrorCode::ShuttingDown);
    // For a thread that is kept from running nobody waits longer than a moment.
    ended(&bench).await;
    assert_eq!(bench.rows("SELECT 1").await.expect_err("closed").code, ErrorCode::ShuttingDown);
}

/// What SQLite does in one instruction, or in many without a jump, asks nobody for the time.
#[tokio::test]
async fn long_instructions_end_with_the_deadline() {
    let bench = Bench::with(QuerySettings { threads: 1, ..settings() });
    bench.database("a.sqlite", "CREATE TABLE t (a); INSERT INTO t VALUES (1)");
    let texts = "WITH c AS MATERIALIZED (SELECT replace(hex(zeroblob(1000000)), '00', 'b') AS x,
                 replace(hex(zeroblob(500000)), '0', 'a') || 'b' AS y)";
    let blobs = vec!["length(randomblob(8000000))"; 150].join(" + ");
    for sql in [
        format!("{texts} SELECT length(trim(x, y)) FROM c"),
        format!("SELECT {}", vec![blobs; 50].join(", ")),
    ] {
        let replaced = || bench.counter("springhouse_query_threads_replaced_total");
        let mut was_replaced = Vec::new();
        // The only thread is free again so soon that it is not replaced, unless the machine stands still.
        while was_replaced.last() != Some(&false) && was_replaced.len() < 10 {
            let before = replaced();
            let deadline = Instant::now() + Duration::from_millis(100);
            let error =
                bench.json(Query { deadline, ..query("/a.sqlite", &sql) }).await.expect_err("too long");
            assert_eq!(error.code, ErrorCode::DeadlineExceeded, "{error}");
            // By itself, and not after the hours that it would take.
            ended(&bench).await;
            assert_eq!(bench.rows("SELECT a FROM t").await, Ok(json!([[1]])));
            was_replaced.push(replaced() > before);
        }
        assert_eq!(was_replaced.last(), Some(&false), "each time: {was_replaced:?}");
    }
    // Hours, if each place were compared.
    let sql = format!(
        "{texts} SELECT instr(hex(zeroblob(5000000)), hex(zeroblob(2500000)) || '1'),
         length(replace(hex(zeroblob(5000000)), hex(zeroblob(2500000)) || '1', '')) FROM c"
    );
    assert_eq!(bench.rows(&sql).await, Ok(json!([[0, 10_000_000]])));
}

/// A read that the store does not answer.
#[tokio::test]
async fn a_stuck_thread_is_replaced() {
    let bench = Bench::with(QuerySettings { threads: 1, ..settings() });
    for name in ["a.sqlite", "b.sqlite"] {
        bench.database(name, "CREATE TABLE t (a); INSERT INTO t VALUES (1)");
    }
    bench.files.set_mute(Some("/b.sqlite"));
    // The deadline of some may pass before the thread takes them.
    while !bench.files.is_waited_for() {
        let deadline = Instant::now() + Duration::from_millis(100);
        let stuck = bench.engine.query(Query { deadline, ..query("/b.sqlite", "SELECT a FROM t") }).await;
        assert_eq!(stuck.expect_err("stuck").code, ErrorCode::DeadlineExceeded);
        while bench.engine.running() > 0 && !bench.files.is_waited_for() {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(bench.rows("SELECT a FROM t").await, Ok(json!([[1]])));
    assert_eq!(bench.counter("springhouse_query_threads_replaced_total"), 1.0);
    // It ends with its query, and its place is taken.
    bench.files.set_mute(None);
    ended(&bench).await;
    assert_eq!(bench.rows("SELECT a FROM t").await, Ok(json!([[1]])));
}
