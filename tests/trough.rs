//! Trough's clients: queries and scripts, answers byte for byte; docs/SEMANTICS.md.

use rusqlite::Connection;
use serde_json::json;

use crate::{
    harness::{
        scratch,
        trough::{Trough, error, exchange, ok, send, store},
    },
    registry::tests,
};

tests! {
    [] statements_that_pass, segment_by_parameter_or_host, rows_byte_for_byte, regular_expressions,
       a_query_that_fails, writes, scripts_that_fail;
}

/// The check of SELECT comes before the look for the segment; any method and any path is a query.
fn statements_that_pass() {
    let root = store(&["1001"]);
    let trough = Trough::of(root.path());
    for sql in [
        "select 1 as n",
        "select 1 as n;",
        "select 1 as n; -- c",
        "-- c\nselect 1 as n",
        "/* c */ select 1 as n",
        "with x as (select 1 as n) select * from x",
        "with recursive x(n) as (select 1 union all select n + 1 from x) select n from x limit 1",
        "SELECT count(*) AS n FROM pragma_table_info('t') WHERE name = 'a'",
        "select 1 as n union select 1",
    ] {
        assert_eq!(trough.ports.rows("1001", sql), "[{\"n\":1}]\n", "{sql}");
    }
    for sql in [
        "",
        " ",
        ";",
        "; select 1",
        "select 1;;",
        "select 1; select 2",
        "select 1; /* c */",
        "(select 1)",
        "\u{feff}select 1",
        "explain select 1",
        "values (1)",
        "pragma table_info(t)",
        "insert into t values (9, 9)",
        "delete from t",
        "attach 'x' as y",
    ] {
        for segment in ["1001", "none", "/etc/passwd"] {
            error(&trough.ports.read(segment, sql), "Exactly one SELECT query per request, please.");
        }
    }
    let address = &trough.ports.read;
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "WHATEVER"] {
        let answer = send(address, method, "/any/path?segment=1001", address, &[], b"select 1 as n");
        assert_eq!(answer.whole(), (200, "application/json", "[{\"n\":1}]\n"), "{method}");
    }
    let head = send(address, "HEAD", "/?segment=1001", address, &[], b"select 1 as n");
    assert_eq!(head.whole(), (200, "application/json", ""));
    // Without a body there is no query, whatever the method; a chunked one is read.
    let none = exchange(address, b"GET /?segment=1001 HTTP/1.0\r\n\r\n");
    error(&none, "Exactly one SELECT query per request, please.");
    let chunked = exchange(
        address,
        b"POST /?segment=1001 HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
          7\r\nselect \r\n6\r\n1 as n\r\n0\r\n\r\n",
    );
    assert_eq!(chunked.whole(), (200, "application/json", "[{\"n\":1}]\n"));
}

fn segment_by_parameter_or_host() {
    let root = store(&["1001", "1002"]);
    Connection::open(root.path().join("1/1002.sqlite"))
        .and_then(|database| database.execute("delete from t where a > 1", []))
        .expect("a smaller one");
    let trough = Trough::of(root.path());
    let address = &trough.ports.read;
    for (target, host, count) in [
        ("/?segment=1001", "any.host:6444", 7),
        ("/?segment=1002", "1001.any.host:6444", 1),
        ("/?segment=1002&segment=1001", "x", 1),
        ("/?x=y&segment=%31%30%302", "x", 1),
        ("/", "1001.any.host:6444", 7),
        ("/?segment=", "1002.any.host", 1),
        ("/a/b/c", "1002.localhost", 1),
        ("http://1002.any.host/", "1002.any.host", 1),
    ] {
        let answer = send(address, "POST", target, host, &[], b"select count(*) as n from t");
        assert_eq!(
            answer.whole(),
            (200, "application/json", format!("[{{\"n\":{count}}}]\n").as_str()),
            "{target}"
        );
    }
    // By host on the write port too.
    trough.ports.provision(r#"{"segment": "1002"}"#);
    ok(&send(
        &trough.ports.write,
        "POST",
        "/",
        "1002.any.host:6222",
        &[],
        b"insert into t values (2, 'two')",
    ));
    assert_eq!(trough.ports.rows("1002", "select b from t where a = 2"), "[{\"b\":\"two\"}]\n");
}

fn rows_byte_for_byte() {
    let root = store(&["1001"]);
    let trough = Trough::of(root.path());
    let check = |when: &str| {
        for (sql, expected) in [
            ("select * from t where a < 4", r#"[{"a":1,"b":"one"},|{"a":2,"b":2.0},|{"a":3,"b":null}]"#),
            ("select * from t where a > 99", "[]"),
            ("select b from t where a = 4", r#"[{"b":"abc"}]"#),
            ("select b from t where a = 5", r#"[{"b":{"$base64":"/wA="}}]"#),
            ("select b from t where a = 6", r#"[{"b":"\u00e4/\"\\ \ud83d\ude00\t"}]"#),
            ("select b from t where a = 7", r#"[{"b":"http://example.org/a"}]"#),
            ("select 1 as x, 2 as y, 3 as x", r#"[{"x":3,"y":2}]"#),
            ("select 1 as \"ä/\"", r#"[{"\u00e4/":1}]"#),
            ("select 1, 'a', max(a) from t", r#"[{"1":1,"'a'":"a","max(a)":7}]"#),
            (
                "select 0.00001 as a, 1e-7 as b, 1e16 as c, 1e21 as d",
                r#"[{"a":0.00001,"b":1e-7,"c":10000000000000000.0,"d":1e21}]"#,
            ),
            ("select 1.0 as a, -0.0 as b, 100.0 as c, 0.1 as d", r#"[{"a":1.0,"b":-0.0,"c":100.0,"d":0.1}]"#),
            (
                "select 1.0/3 as a, 1e20 as b, 123456.789 as c",
                r#"[{"a":0.3333333333333333,"b":100000000000000000000.0,"c":123456.789}]"#,
            ),
            ("select 1e999 - 1e999 as a, 1e999 as b, -1e999 as c", r#"[{"a":null,"b":1e999,"c":-1e999}]"#),
            (
                "select 9223372036854775807 as a, -9223372036854775808 as b",
                r#"[{"a":9223372036854775807,"b":-9223372036854775808}]"#,
            ),
            (
                "select x'' as a, '' as b, char(0) as c, char(31) as d, char(127) as e",
                "[{\"a\":\"\",\"b\":\"\",\"c\":\"\\u0000\",\"d\":\"\\u001f\",\"e\":\"\u{7f}\"}]",
            ),
            ("select a from t where b = \"one\"", r#"[{"a":1}]"#),
            ("select true as a, false as b", r#"[{"a":1,"b":0}]"#),
            (
                "select seedcrawledstatus(200) as a, SEEDCRAWLEDSTATUS(-9998) as b, seedcrawledstatus(null) as c",
                r#"[{"a":"Crawled","b":"Not crawled (blocked by robots)","c":"Not crawled (None)"}]"#,
            ),
            (
                "select buildredirectarray('http://a/', 301, 'RR', '[1]') as a",
                r#"[{"a":"[1, {\"seed\": \"http://a/\", \"status\": \"Redirected\"}]"}]"#,
            ),
        ] {
            // Lines are between rows and at the end.
            assert_eq!(
                trough.ports.rows("1001", sql),
                format!("{}\n", expected.replace('|', "\n")),
                "{sql} {when}"
            );
        }
    };
    check("in place");
    // The same from the copy of a hot worker that may be written.
    trough.ports.provision(r#"{"segment": "1001"}"#);
    check("from its writer");
    let many = "with recursive n(i) as (select 1 union all select i + 1 from n) select i from n limit 20000";
    let rows = trough.ports.rows("1001", many);
    assert_eq!((rows.lines().count(), rows.lines().last()), (20_000, Some("{\"i\":20000}]")));
}

fn regular_expressions() {
    let root = store(&["1001"]);
    let trough = Trough::of(root.path());
    for (sql, expected) in [
        ("'hello' regexp 'l+'", "1"),
        ("'hello' regexp '^l'", "0"),
        ("'hello' regexp 'l(?=o)'", "1"),
        ("'hello' regexp 'h(?!e)'", "0"),
        ("regexp('(.)\\1', 'hello')", "1"),
        ("'héllo' regexp '^\\w+$'", "1"),
        ("'HELLO' regexp '(?i)hello'", "1"),
        ("null regexp 'a'", "0"),
    ] {
        assert_eq!(
            trough.ports.rows("1001", &format!("select {sql} as r")),
            format!("[{{\"r\":{expected}}}]\n"),
            "{sql}"
        );
    }
    for sql in ["select 'a' regexp null", "select 'a' regexp '('", "select 5 regexp 'a'"] {
        error(&trough.ports.read("1001", sql), "user-defined function raised exception");
    }
}

fn a_query_that_fails() {
    let root = store(&["1001"]);
    let trough = Trough::of(root.path());
    for (sql, message) in [
        ("select * from nowhere", "no such table: nowhere"),
        ("select nix from t", "no such column: nix"),
        ("select * frm t", "near \"frm\": syntax error"),
        ("select ?", "there is 1 parameter, and 0 values are given"),
    ] {
        let answer = trough.ports.read("1001", sql);
        assert_eq!((answer.status, answer.content_type.as_str()), (500, "text/plain"));
        // Words about parameters are ours.
        if !sql.contains('?') {
            error(&answer, message);
        }
    }
    error(&trough.ports.read("none", "select 1"), "there is no segment none");
    for outside in ["/etc/passwd", "../../x", ".hidden", "a%00b"] {
        let answer = trough.ports.read(outside, "select 1");
        assert_eq!(answer.status, 500, "{answer:?}");
        assert!(answer.text().contains("is not a segment id"), "{answer:?}");
    }
    let address = &trough.ports.read;
    let by_address = send(address, "POST", "/", "127.0.0.1:6444", &[], b"select 1");
    error(&by_address, "there is no segment 127");
    let bytes = send(address, "POST", "/?segment=1001", "x", &[], b"select '\xff'");
    error(&bytes, "'utf-8' codec can't decode byte 0xff in position 8: invalid start byte");
    // What a query may not do is refused by the sandbox, not by the words that it begins with.
    for sql in [
        "select load_extension('x')",
        "select * from pragma_database_list",
        "with a as (select 1) select writefile('/tmp/x', 'y')",
    ] {
        assert_eq!(trough.ports.read("1001", sql).status, 500, "{sql}");
    }
}

fn writes() {
    let root = scratch();
    let trough = Trough::of(root.path());
    let ports = &trough.ports;
    let refused = ports.write("new0001", "create table t (a)");
    assert_eq!((refused.status, refused.content_type.as_str()), (500, "text/plain"));
    assert!(refused.text().contains("is not provisioned for writing"), "{refused:?}");
    ports.provision(r#"{"segment": "new0001"}"#);
    ok(&ports.write(
        "new0001",
        "create table t (a, b);\ninsert into t values (1, 'x');\n\ninsert into t values (2, \"y\")",
    ));
    assert_eq!(
        ports.rows("new0001", "select a, b from t"),
        "[{\"a\":1,\"b\":\"x\"},\n{\"a\":2,\"b\":\"y\"}]\n"
    );
    for sql in [
        "select * from t",
        "insert into t values (3, ?)",
        "insert into t values (4, 'z'); -- and no more",
        "update t set b = 'q' where a = 1;   \n",
        "pragma user_version = 7",
        "delete from t where a = 99",
    ] {
        ok(&ports.write("new0001", sql));
    }
    assert_eq!(
        ports.rows("new0001", "select b from t where a = 3"),
        "[{\"b\":null}]\n",
        "an unbound ? is NULL"
    );
    let address = &ports.write;
    ok(&send(address, "PUT", "/any/path?segment=new0001", "x", &[], b"insert into t values (5, 'put')"));
    ok(&send(address, "GET", "/", "new0001.any:6222", &[], b"insert into t values (6, 'get')"));
    assert_eq!(ports.rows("new0001", "select count(*) as n from t"), "[{\"n\":6}]\n");
    // As the client sends batches: thousands of rows in one statement.
    let rows: Vec<String> =
        (0..20_000).map(|n| format!("({n}, 'http://example.org/{n}/{}')", "x".repeat(20))).collect();
    let batch = format!("create table urls (id, url); insert into urls (id, url) values {}", rows.join(", "));
    assert!(batch.len() > 1 << 20, "{}", batch.len());
    ok(&ports.write("new0001", &batch));
    let terms: Vec<String> = (0..400).map(|n| format!("select {n}, 'u'")).collect();
    ok(&ports.write("new0001", &format!("insert into urls {}", terms.join(" union all "))));
    assert_eq!(ports.rows("new0001", "select count(*) as n from urls"), "[{\"n\":20400}]\n");
    // A client of our own API sees the same, and is told from Trough's by its request alone.
    assert_eq!(trough.serve.api().query("new0001", "select count(*) from t").rows[0][0], 6);
    let other = json!({ "sql": "insert into t values (9, \"name\")" }).to_string();
    let reply = trough.serve.api().send(
        reqwest::Method::POST,
        "/v1/segments/new0001/execute",
        &[("content-type", "application/json")],
        Some(other),
    );
    assert_eq!(reply.expect("an answer").status, 400, "a name is a name there");
}

fn scripts_that_fail() {
    let root = scratch();
    let trough = Trough::of(root.path());
    let ports = &trough.ports;
    ports.provision(r#"{"segment": "new0002"}"#);
    ok(&ports.write("new0002", "create table t (a unique)"));
    for (sql, message) in [
        ("", "No query provided."),
        (" \n\t ", "No query provided."),
        ("insert into nowhere values (1)", "no such table: nowhere"),
        ("insert int t values (1)", "near \"int\": syntax error"),
        ("insert into t values (1); insert into t values (1)", "UNIQUE constraint failed: t.a"),
        ("insert into t values (2); insert into nowhere values (2)", "no such table: nowhere"),
    ] {
        error(&ports.write("new0002", sql), message);
    }
    for sql in [
        "begin; insert into t values (1); commit",
        "commit",
        "vacuum",
        "pragma journal_mode = delete",
        "attach '/tmp/x' as y",
        "create temp table x (a)",
        "-- nothing",
    ] {
        let answer = ports.write("new0002", sql);
        assert_eq!((answer.status, answer.content_type.as_str()), (500, "text/plain"), "{sql}: {answer:?}");
        assert!(answer.text().len() > "500 Server Error: \n".len(), "a reason: {answer:?}");
    }
    assert_eq!(ports.rows("new0002", "select a from t"), "[]\n", "all or nothing");
    ok(&ports.write("new0002", "insert into t values (1)"));
    let bytes = send(&ports.write, "POST", "/?segment=new0002", "x", &[], b"\xfe");
    error(&bytes, "'utf-8' codec can't decode byte 0xfe in position 0: invalid start byte");
    let outside = ports.write("/tmp/x", "create table t (a)");
    assert!(outside.status == 500 && outside.text().contains("is not a segment id"), "{outside:?}");
}
