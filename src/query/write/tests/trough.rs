//! Scripts of Trough's clients, beside those of others on the same connection.

use super::*;

async fn of_trough(bench: &Bench, sql: &str) -> Result<ExecuteAnswer, ApiError> {
    bench.execute(ExecuteRequest::Trough(sql.into()), None).await
}

#[tokio::test]
async fn what_is_understood_ends_with_the_script() {
    let bench = Bench::new("create table t (a, b)");
    // A statement that is longer than others may have, with more terms and instructions.
    let rows: Vec<String> = (0..30_000).map(|n| format!("({n}, 'row number {n}')")).collect();
    let long = format!("insert into t values {}", rows.join(", "));
    let terms: Vec<String> = (0..300).map(|n| format!("select {n}, \"text\"")).collect();
    let compound = format!("insert into t {}", terms.join(" union all "));
    for round in 1..=2 {
        of_trough(&bench, &long).await.expect("written");
        of_trough(&bench, &compound).await.expect("written");
        assert_eq!(bench.number("select count(*) from t"), round * 30_300);
        for (sql, why) in [
            (long.as_str(), "the statement is"),
            (compound.as_str(), "too many terms in compound SELECT"),
            ("insert into t values (1, \"text\")", "no such column: \"text\""),
        ] {
            let error = bench.script(sql).await.expect_err("others have limits, and names");
            assert!(error.message.contains(why), "{error}");
        }
    }
    // The same after one that fails; in SQLite's words alone.
    let error =
        of_trough(&bench, "insert into t values (1, \"text\"); insert int t").await.expect_err("no SQL");
    assert_eq!(error.message, "near \"int\": syntax error");
    let error = bench.script("insert into t values (1, \"text\")").await.expect_err("a name");
    assert!(error.message.starts_with("no such column: \"text\""), "{error}");
    assert_eq!(bench.number("select count(*) from t"), 2 * 30_300, "all or nothing");
}

#[tokio::test]
async fn nothing_more_is_allowed() {
    let bench = Bench::new("create table t (a)");
    for sql in [
        "begin",
        "commit",
        "attach 'x' as y",
        "create temp table x (a)",
        "pragma journal_mode = delete",
        "select load_extension('x')",
    ] {
        let error = of_trough(&bench, sql).await.expect_err(sql);
        assert_eq!(error.code, ErrorCode::SqlForbidden, "{sql}: {error}");
    }
    // SQLite itself refuses it: a script is one transaction.
    let error = of_trough(&bench, "vacuum").await.expect_err("vacuum");
    assert_eq!(error.message, "cannot VACUUM from within a transaction");
}
