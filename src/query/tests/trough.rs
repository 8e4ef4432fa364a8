//! Answers for Trough's clients, byte for byte.

use super::*;

async fn ask(bench: &Bench, sql: &str) -> Result<String, ApiError> {
    let query = Query { format: Format::Trough, ..query("/a.sqlite", sql) };
    bench.raw(query).await.map(|(_, body)| body)
}

fn bench() -> Bench {
    let bench = Bench::new();
    bench.database(
        "a.sqlite",
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b);
         INSERT INTO t VALUES (1, 'one'), (2, 2.0), (3, NULL), (4, x'616263'), (5, x'ff00'), (6, 'ä/\"\\ 😀' || char(9));",
    );
    bench
}

#[tokio::test]
async fn rows_are_objects_a_line_each() {
    let bench = bench();
    for (sql, expected) in [
        (
            "select * from t where a < 4",
            "[{\"a\":1,\"b\":\"one\"},\n{\"a\":2,\"b\":2.0},\n{\"a\":3,\"b\":null}]\n",
        ),
        ("select * from t where a > 9", "[]\n"),
        ("select a from t where a = 1;", "[{\"a\":1}]\n"),
        ("select b from t where a = 4", "[{\"b\":\"abc\"}]\n"),
        ("select b from t where a = 5", "[{\"b\":{\"$base64\":\"/wA=\"}}]\n"),
        ("select b from t where a = 6", "[{\"b\":\"\\u00e4/\\\"\\\\ \\ud83d\\ude00\\t\"}]\n"),
        ("select 1 as x, 2 as y, 3 as x", "[{\"x\":3,\"y\":2}]\n"),
        (
            "select 0.00001, 1e-7 as b, 1e16 as c, 1e21 as d",
            "[{\"0.00001\":0.00001,\"b\":1e-7,\"c\":10000000000000000.0,\"d\":1e21}]\n",
        ),
        ("select -9223372036854775808 as i, 1e999 as f", "[{\"i\":-9223372036854775808,\"f\":1e999}]\n"),
        ("select name from pragma_table_info('t')", "[{\"name\":\"a\"},\n{\"name\":\"b\"}]\n"),
    ] {
        assert_eq!(ask(&bench, sql).await.as_deref(), Ok(expected), "{sql}");
    }
}

#[tokio::test]
async fn errors_are_in_sqlites_words() {
    let bench = bench();
    for (sql, expected) in [
        ("select * from nowhere", "no such table: nowhere"),
        ("select nix from t", "no such column: nix"),
        ("select * frm t", "near \"frm\": syntax error"),
    ] {
        assert_eq!(ask(&bench, sql).await.map_err(|e| e.message), Err(expected.into()), "{sql}");
    }
}

#[tokio::test]
async fn double_quotes_may_hold_a_text_for_troughs_clients_only() {
    let bench = bench();
    let sql = "select a from t where b = \"one\"";
    for _ in 0..2 {
        // The same text, the same connection, and the statement of the one is not kept for the other.
        assert_eq!(ask(&bench, sql).await.as_deref(), Ok("[{\"a\":1}]\n"));
        assert!(bench.ask(sql).await.expect_err("no column").message.contains("no such column"));
    }
}

#[tokio::test]
async fn regular_expressions_are_pythons() {
    let bench = bench();
    for (sql, expected) in [
        ("select a from t where a < 4 and typeof(b) <> 'real' and b regexp '^o(?=n)'", "[{\"a\":1}]\n"),
        ("select regexp('(.)\\1', 'hello') as r, null regexp 'a' as n", "[{\"r\":1,\"n\":0}]\n"),
    ] {
        assert_eq!(ask(&bench, sql).await.as_deref(), Ok(expected), "{sql}");
    }
    // The last one after a row that was not sent yet.
    for sql in ["select 'a' regexp null", "select 'a' regexp '('", "select a from t where b regexp 'o'"] {
        let error = ask(&bench, sql).await.expect_err("raised");
        assert_eq!(error.message, "user-defined function raised exception", "{sql}");
    }
}

#[tokio::test]
async fn an_answer_that_fails_in_the_middle_is_not_taken_for_whole() {
    let bench = Bench::with(QuerySettings { rows_max: 1500, ..settings() });
    bench.database("a.sqlite", "CREATE TABLE t (a)");
    let sql =
        "with recursive n(i) as (select 1 union all select i + 1 from n) select i, hex(zeroblob(50)) from n";
    let body = ask(&bench, sql).await.expect("rows");
    assert!(body.starts_with("[{\"i\":1,"), "{}", &body[..40]);
    assert!(
        body.ends_with("\n500 Server Error: the answer has more than 1500 rows; the rows before are here\n")
    );
    assert!(serde_json::from_str::<Json>(&body).is_err());
}
