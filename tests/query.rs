//! What a query promises; docs/SEMANTICS.md and docs/HTTP.md.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use crate::{
    harness::{
        cluster::Serve,
        eventually, file_url as url,
        hdfs::Hdfs,
        http::RawQuery,
        scratch,
        segments::{self, CrawledUrl, Dedup},
    },
    registry::tests,
};

tests! {
    [] names_its_generation, values_survive, parameters, limits, formats, errors_say_what_to_do, health_and_metrics;
    [Fuse, Hdfs] answers_from_hdfs;
}

/// For what is waited for.
const LIMIT: Duration = Duration::from_secs(60);
const EVERY_300_MS: [&str; 2] = ["--discovery-interval", "300ms"];

fn answers_from_hdfs() {
    let root = scratch();
    segments::crawl_statistics(root.path(), "1700123", 3, 4_000);
    segments::dedup(root.path(), "dedup-1", 4, 40_000);
    let dir = Hdfs::shared().dir("query");
    dir.put_tree(root.path(), Some(64 << 10));
    let serve = Serve::of(&dir.url());
    let api = serve.api();

    let wanted = Dedup::of(4, 31_111, 40_000);
    let found = api.ask(
        "dedup-1",
        json!({ "sql": "select url, date from dedup where digest_key = ?", "params": [wanted.digest_key] }),
    );
    assert_eq!(found.expect("an answer").rows, [[json!(wanted.url), json!(wanted.date)]]);

    let rows: Vec<CrawledUrl> = (0..4_000).map(|i| CrawledUrl::of(3, i)).collect();
    let per_status = api
        .query("1700123", "select status_code, count(*), sum(size) from crawled_url group by 1 order by 1");
    for row in &per_status.rows {
        let of_status = || rows.iter().filter(|r| json!(r.status_code) == row[0]);
        assert_eq!(row[1], json!(of_status().count()));
        assert_eq!(row[2], json!(of_status().map(|r| r.size).sum::<i64>()));
    }
    assert_eq!(per_status.rows.len(), 5);
}

fn names_its_generation() {
    let root = scratch();
    let value =
        |n: u32| format!("create table t (n integer); insert into t select {n} from (values (1), (2), (3));");
    segments::from_sql(root.path(), "seg1", &value(0));
    let serve = Serve::with(&url(root.path()), &EVERY_300_MS);
    let api = serve.api();
    let first = api.query("seg1", "select n from t");
    assert_eq!(first.generation.len(), 32);
    assert_eq!(
        api.query("seg1", "select 1").generation,
        first.generation,
        "the same as long as it is the same"
    );

    // Replaced again and again while it is asked: every answer is of one version, and names it.
    let mut named = std::collections::HashMap::from([(first.generation, json!(0))]);
    for n in 1..=20 {
        let other = scratch();
        let made = segments::from_sql(other.path(), "seg1", &value(n));
        let copy = root.path().join("s/seg1.sqlite._COPYING_.1");
        fs::copy(made, &copy).expect("a copy beside it");
        fs::rename(&copy, root.path().join("s/seg1.sqlite")).expect("rename over");
        for _ in 0..10 {
            match api.ask("seg1", json!({ "sql": "select n from t" })) {
                Ok(answer) => {
                    let values: Vec<&Value> = answer.rows.iter().map(|row| &row[0]).collect();
                    assert!(values.len() == 3 && values.iter().all(|v| *v == values[0]), "a mix: {values:?}");
                    let known = named.entry(answer.generation).or_insert_with(|| values[0].clone());
                    assert_eq!(known, values[0], "a generation is one version");
                }
                Err(refusal) => assert!(refusal.retry, "{refusal:?}"),
            }
        }
    }
    eventually("the last version is answered", LIMIT, || {
        let answer = api.ask("seg1", json!({ "sql": "select max(n) from t" })).ok()?;
        (answer.rows == [[json!(20)]]).then_some(())
    });
}

fn values_survive() {
    let root = scratch();
    segments::from_sql(
        root.path(),
        "values",
        "create table v (i INTEGER, r REAL, t TEXT, b BLOB);
         insert into v values (9223372036854775807, 0.1, 'ünï \"q\" \\ ' || char(0, 10, 128512), x'00ff80');
         insert into v values (-9223372036854775808, 1e308 * 10, '', x'');
         insert into v values (9007199254740993, -1e308 * 10, null, null);
         insert into v values (0, 5e-324, 'x', zeroblob(3));
         insert into v values (1, 1.0, 'y', null);",
    );
    let serve = Serve::of(&url(root.path()));
    let answer = serve.api().query("values", "select i, r, t, b, i as i, typeof(r) from v order by rowid");
    let columns: Vec<(&str, Option<&str>)> =
        answer.columns.iter().map(|(name, declared)| (name.as_str(), declared.as_deref())).collect();
    assert_eq!(
        columns,
        [
            ("i", Some("INTEGER")),
            ("r", Some("REAL")),
            ("t", Some("TEXT")),
            ("b", Some("BLOB")),
            ("i", Some("INTEGER")),
            ("typeof(r)", None),
        ]
    );
    let rows = answer.rows;
    assert_eq!(rows[0][0].as_i64(), Some(i64::MAX));
    assert_eq!(rows[0][1], json!(0.1));
    assert_eq!(rows[0][2], json!("ünï \"q\" \\ \0\n😀"));
    assert_eq!(rows[0][3], json!({ "$base64": "AP+A" }));
    assert_eq!(rows[1][0].as_i64(), Some(i64::MIN));
    assert_eq!(rows[1][1], json!({ "$float": "Infinity" }));
    assert_eq!((&rows[1][2], &rows[1][3]), (&json!(""), &json!({ "$base64": "" })));
    assert_eq!(rows[2][0].as_i64(), Some(9_007_199_254_740_993), "more than a double holds");
    assert_eq!(rows[2][1], json!({ "$float": "-Infinity" }));
    assert_eq!((&rows[2][2], &rows[2][3]), (&Value::Null, &Value::Null));
    assert_eq!(rows[3][1].as_f64().map(f64::to_bits), Some(1), "the smallest real");
    assert!(rows[4][1].is_f64(), "a whole real is not an integer: {}", rows[4][1]);
}

fn parameters() {
    let root = scratch();
    segments::from_sql(root.path(), "params", "create table t (n)");
    let serve = Serve::of(&url(root.path()));
    let ask = |sql: &str, params: Value| serve.api().ask("params", json!({ "sql": sql, "params": params }));
    let row = |sql: &str, params: Value| {
        ask(sql, params).unwrap_or_else(|e| panic!("{sql}: {e:?}")).rows[0].clone()
    };
    assert_eq!(row("select ?, ?2", json!([1, "two"])), [json!(1), json!("two")]);
    assert_eq!(
        row("select :a, @b, $c", json!({ ":a": 1, "b": 2.5, "$c": null })),
        [json!(1), json!(2.5), Value::Null]
    );
    assert_eq!(
        row("select typeof(?), hex(?1)", json!([{ "$base64": "AP8=" }])),
        [json!("blob"), json!("00FF")]
    );
    assert_eq!(row("select ?", json!([i64::MIN])), [json!(i64::MIN)]);
    for (sql, params) in [
        ("select ?", json!([])),
        ("select 1", json!([1])),
        ("select :a", json!({ "b": 1 })),
        ("select ?", json!([[1]])),
        ("select ?", json!([{ "$base64": "not base64!" }])),
    ] {
        let refusal = ask(sql, params.clone()).expect_err(sql);
        assert_eq!(refusal.status, 400, "{sql} {params}: {refusal:?}");
    }
}

fn limits() {
    let root = scratch();
    segments::from_sql(root.path(), "limits", "create table t (n)");
    let args = [
        "--rows-max",
        "1000",
        "--answer-size-max",
        "200KiB",
        "--query-memory",
        "8MiB",
        "--page-cache",
        "1MiB",
        "--sql-value-size-max",
        "4MiB",
    ];
    let serve = Serve::with(&url(root.path()), &args);
    let api = serve.api();
    let numbers = |n: u64| {
        format!("with recursive c(n) as (select 1 union all select n + 1 from c limit {n}) select n from c")
    };

    let cut = api.ask("limits", json!({ "sql": numbers(500), "max_rows": 10 })).expect("an answer");
    assert_eq!((cut.rows.len(), cut.truncated), (10, true));
    let whole = api.ask("limits", json!({ "sql": numbers(10), "max_rows": 10 })).expect("an answer");
    assert_eq!((whole.rows.len(), whole.truncated), (10, false));

    let refused = |code: &str, request: Value| {
        let refusal = api.ask("limits", request.clone()).expect_err("over a limit");
        assert_eq!(refusal.code, code, "{request}: {refusal:?}");
        refusal
    };
    assert_eq!(
        refused("row_limit", json!({ "sql": numbers(1_001) })).rows,
        1_000,
        "rows up to the limit came"
    );
    let wide = "with recursive c(n) as (select 1 union all select n + 1 from c limit 900) select printf('%1000d', n) from c";
    assert!(refused("byte_limit", json!({ "sql": wide })).rows > 100);
    let endless = "with recursive c(n) as (select 1 union all select n + 1 from c) select count(*) from c";
    refused("deadline_exceeded", json!({ "sql": endless, "timeout_ms": 300 }));
    let sort = "with recursive c(n) as (select 1 union all select n + 1 from c limit 900000)
                select printf('%100d', n) as t from c order by t desc limit 1 offset 800000";
    refused("memory_limit", json!({ "sql": sort }));
    refused("memory_limit", json!({ "sql": "select length(printf('%5000000d', 1))" }));
    let long = format!("select {}", "1 + ".repeat(100_000) + "1");
    let refusal = api.ask("limits", json!({ "sql": long })).expect_err("too long or too deep");
    assert_eq!((refusal.status, refusal.code.as_str()), (400, "sql_error"));
    let big = json!({ "sql": "select 1", "params": ["x".repeat(2 << 20)] });
    refused("request_too_large", big);

    // A client that goes away takes its query with it.
    let running = || api.metric("springhouse_queries_running", "");
    let left = RawQuery::send(api.address(), "limits", &json!({ "sql": endless }), "application/json");
    eventually("the query runs", LIMIT, || (running() >= 1.0).then_some(()));
    drop(left);
    eventually("the query has ended", LIMIT, || (running() == 0.0).then_some(()));
}

fn formats() {
    let root = scratch();
    segments::from_sql(root.path(), "format", "create table t (n integer); insert into t values (1), (2);");
    let serve = Serve::of(&url(root.path()));
    let ask = |accept: &str| {
        let request = json!({ "sql": "select n from t" });
        serve.api().post_query("format", &request, accept).expect("a whole answer")
    };
    let lines = ask("application/x-ndjson");
    assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<Value> =
        lines.body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[0]["columns"], json!([{ "name": "n", "type": "INTEGER" }]));
    assert_eq!(lines[1..3], [json!([1]), json!([2])]);
    assert_eq!(lines[3], json!({ "end": { "rows": 2, "truncated": false } }));
    assert_eq!(lines.len(), 4);
    for accept in ["application/json", "*/*", "text/html, application/json;q=0.9", "application/*"] {
        assert_eq!(ask(accept).header("content-type"), Some("application/json"), "{accept}");
    }
    let none = ask("text/csv");
    assert_eq!((none.status, &none.json()["error"]["code"]), (406, &json!("not_acceptable")));
}

fn errors_say_what_to_do() {
    let root = scratch();
    segments::from_sql(root.path(), "errors", "create table t (n integer)");
    let serve = Serve::of(&url(root.path()));
    let api = serve.api();
    for (segment, sql, status, code) in [
        ("errors", "selekt 1", 400, "sql_error"),
        ("errors", "select * from missing", 400, "sql_error"),
        ("errors", "select 1; select 2", 400, "sql_error"),
        ("errors", "", 400, "sql_error"),
        ("missing", "select 1", 404, "segment_not_found"),
        ("..%2f..%2fetc%2fpasswd", "select 1", 400, "bad_request"),
        (".hidden", "select 1", 400, "bad_request"),
        ("a%00b", "select 1", 400, "bad_request"),
    ] {
        let refusal = api.refused(segment, sql);
        assert_eq!(
            (refusal.status, refusal.code.as_str(), refusal.retry),
            (status, code, false),
            "{segment} {sql}"
        );
        assert!(!refusal.message.is_empty() && !refusal.message.contains('\n'), "{refusal:?}");
        let host_path = root.path().display().to_string();
        assert!(!refusal.message.contains(&host_path), "no path of the host: {refusal:?}");
    }
    let send = |method: reqwest::Method, path: &str, kind: &str, body: &str| {
        let reply = api.send(method, path, &[("content-type", kind)], Some(body.into())).expect("an answer");
        (reply.status, reply.json()["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    use reqwest::Method;
    let path = "/v1/segments/errors/query";
    let of = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(send(Method::POST, path, "application/json", "{"), of(400, "bad_request"));
    assert_eq!(
        send(Method::POST, path, "application/json", "{\"sql\": \"select 1\", \"x\": 1}"),
        of(400, "bad_request")
    );
    assert_eq!(send(Method::POST, path, "text/plain", "select 1"), of(415, "unsupported_media_type"));
    assert_eq!(send(Method::PUT, path, "application/json", "{}"), of(405, "method_not_allowed"));
    assert_eq!(send(Method::GET, "/nowhere", "application/json", ""), of(404, "not_found"));
}

fn health_and_metrics() {
    let root = scratch();
    segments::from_sql(root.path(), "health", "create table t (n)");
    let serve = Serve::of(&url(root.path()));
    let api = serve.api();
    for path in ["/livez", "/readyz"] {
        assert_eq!(api.get(path).status, 200, "{path}");
    }
    let before = api.metric("springhouse_queries_total", "");
    api.query("health", "select 1");
    api.refused("health", "select");
    assert_eq!(api.metric("springhouse_queries_total", "") - before, 2.0);
    let workers = api.get("/v1/workers").json();
    let worker = &workers["workers"][0];
    assert_eq!(
        (&worker["live"], &worker["tier"], &worker["store"]),
        (&json!(true), &json!("cold"), &json!(url(root.path())))
    );
}
