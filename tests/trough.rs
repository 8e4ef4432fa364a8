//! Trough's clients: its three ports, answers byte for byte; docs/SEMANTICS.md.

use std::path::Path;

use rusqlite::Connection;
use serde_json::json;

use crate::{
    harness::{
        cluster::{Gateway, Worker},
        eventually, file_url,
        process::Signal,
        scratch, segments,
        trough::{Answer, Ports, Trough, exchange, send},
    },
    registry::tests,
};

tests! {
    [] statements_that_pass, segment_by_parameter_or_host, rows_byte_for_byte, regular_expressions,
       a_query_that_fails, writes, scripts_that_fail, provisioned, promoted, schemas, schemas_refused, deleted,
       methods, write_urls, in_roles_of_their_own;
}

const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

/// A segment in the store, with table `t`.
fn store(ids: &[&str]) -> tempfile::TempDir {
    let root = scratch();
    ids.iter().for_each(|id| make(root.path(), id));
    root
}

fn make(root: &Path, id: &str) {
    let path = root.join(segments::relative_path(id));
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    let database = Connection::open(path).expect("a database");
    database
        .execute_batch(
            "create table t (a integer primary key, b);
             insert into t values (1, 'one'), (2, 2.0), (3, null), (4, x'616263'), (5, x'ff00'),
               (6, 'ä/\"\\ 😀' || char(9)), (7, 'http://example.org/a');",
        )
        .expect("rows");
}

fn ok(answer: &Answer) {
    assert_eq!(answer.whole(), (200, "text/plain", "OK\n"));
}

/// Of the ports for reading and writing.
#[track_caller]
fn error(answer: &Answer, message: &str) {
    assert_eq!(answer.whole(), (500, "text/plain", format!("500 Server Error: {message}\n").as_str()));
}

/// A page of the manager, with a reason.
#[track_caller]
fn page(answer: &Answer, status: u16, reason: &str) {
    assert_eq!(
        (answer.status, answer.content_type.as_str()),
        (status, "text/html; charset=utf-8"),
        "{answer:?}"
    );
    let reason = reason.replace('<', "&lt;");
    assert!(!reason.is_empty() && answer.text().contains(&reason), "{reason:?} is not in {}", answer.text());
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

fn provisioned() {
    let root = store(&["1001"]);
    let trough = Trough::of(root.path());
    let ports = &trough.ports;
    let sql = "CREATE TABLE test (id INTEGER PRIMARY KEY AUTOINCREMENT, test varchar(4));\nINSERT INTO test (test) VALUES (\"test\");";
    assert_eq!(ports.manage("PUT", "/schema/test1/sql", sql).status, 201);
    let host = ports.manager.rsplit_once(':').expect("a port").0.to_owned();
    let port = ports.write.rsplit_once(':').expect("a port").1.to_owned();
    let whole = |segment: &str, size: u64, schema: &str| {
        format!(
            r#"{{"write_url":"http:\/\/{host}:{port}\/?segment={segment}","result":"success","size":{size},"schema":"{schema}"}}"#
        )
    };
    let new = ports.provision(r#"{"segment": "new0003"}"#);
    assert_eq!(new.whole(), (200, "application/json", whole("new0003", 0, "default").as_str()));
    let again = ports.provision(r#"{"segment": "new0003", "schema": "default"}"#);
    assert_eq!(again.whole(), new.whole(), "idempotent");
    let with_schema = ports.provision(r#"{"segment": "new0004", "schema": "test1"}"#);
    assert_eq!(with_schema.whole(), (200, "application/json", whole("new0004", 12288, "test1").as_str()));
    assert_eq!(ports.rows("new0004", "select * from test"), "[{\"id\":1,\"test\":\"test\"}]\n");
    // What it has is what it keeps; the answer says what was asked for, as Trough's.
    let asked = ports.provision(r#"{"segment": "new0004", "schema": "unheard/of"}"#);
    assert_eq!(asked.whole(), (200, "application/json", whole("new0004", 12288, "unheard\\/of").as_str()));
    let stored = ports.provision(r#"{"segment": "1001"}"#);
    assert_eq!(stored.whole(), (200, "application/json", whole("1001", 8192, "default").as_str()));
    assert_eq!(ports.rows("1001", "select count(*) as n from t"), "[{\"n\":7}]\n", "fetched first");
    ok(&ports.write("new0003", "create table t (a)"));
    assert_eq!(ports.provision(r#"{"segment": "new0003"}"#).text(), whole("new0003", 8192, "default"));
    // A new one of an unknown schema fails, and leaves nothing behind.
    page(&ports.provision(r#"{"segment": "new0005", "schema": "none"}"#), 500, "there is no schema \"none\"");
    assert_eq!(ports.provision(r#"{"segment": "new0005"}"#).status, 200);
    // Without a content type, and a number for an id.
    let bare = send(&ports.manager, "POST", "/provision", &ports.manager, &[], br#"{"segment": 77001}"#);
    assert_eq!(bare.text(), whole("77001", 0, "default"));
    for (body, status) in [("{", 400), ("", 400), ("{}", 500), ("[]", 500), (r#"{"segment": ".."}"#, 500)] {
        page(&ports.manage("POST", "/provision", body), status, ".");
    }
    // The old way: the id is the body, a form for all that its type says.
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let old = send(&ports.manager, "POST", "/", &ports.manager, &form, b"new0003");
    let url = format!("http://{host}:{port}/?segment=new0003");
    assert_eq!(old.whole(), (200, "text/plain; charset=utf-8", url.as_str()));
    page(
        &send(&ports.manager, "POST", "/", &ports.manager, &form, b"/etc/passwd"),
        500,
        "is not a segment id",
    );
}

fn promoted() {
    let root = scratch();
    let trough = Trough::of(root.path());
    let ports = &trough.ports;
    page(
        &ports.manage("POST", "/promote", r#"{"segment": "new0006"}"#),
        500,
        "is not provisioned for writing",
    );
    ports.provision(r#"{"segment": "new0006"}"#);
    ok(&ports.write("new0006", "create table foo (bar varchar(100));\ninsert into foo (bar) values (\"testing segment promotion\");\n"));
    let file = root.path().join("new0/new0006.sqlite");
    assert!(!file.exists());
    let expected = format!(r#"{{"remote_path":"{}"}}"#, file.display().to_string().replace('/', "\\/"));
    for text in ["testing segment promotion", "and once more"] {
        ok(&ports.write("new0006", &format!("update foo set bar = '{text}'")));
        let answer = ports.manage("POST", "/promote", r#"{"segment": "new0006"}"#);
        assert_eq!(answer.whole(), (200, "application/json", expected.as_str()));
        let there = Connection::open(&file).expect("a database");
        let bar: String = there.query_row("select bar from foo", [], |row| row.get(0)).expect("a row");
        assert_eq!(bar, text);
    }
    // The lock stays; nothing changed is promoted all the same, and no content type is needed.
    let bare = send(&ports.manager, "POST", "/promote", "x", &[], br#"{"segment": "new0006"}"#);
    assert_eq!(bare.whole(), (200, "application/json", expected.as_str()));
    ok(&ports.write("new0006", "insert into foo values ('on it goes')"));
    for bad in ["{", "", "[]", "{}", r#"{"segment": null}"#] {
        page(&ports.manage("POST", "/promote", bad), 500, ".");
    }
}

fn schemas() {
    let root = scratch();
    let trough = Trough::of(root.path());
    let ports = &trough.ports;
    let get = |path: &str| ports.manage("GET", path, "");
    let html = "text/html; charset=utf-8";
    assert_eq!(get("/schema").whole(), (200, "application/json", "[\"default\"]"));
    assert_eq!(get("/schema/default").whole(), (200, "application/json", r#"{"id":"default","sql":""}"#));
    assert_eq!(get("/schema/default/sql").whole(), (200, "application/sql", ""));
    page(&get("/schema/schema1"), 404, "There is no schema schema1.");
    page(&get("/schema/schema1/sql"), 404, "There is no schema schema1.");
    let sql = "create table foo (bar varchar(100)); -- ä/";
    assert_eq!(ports.manage("PUT", "/schema/schema1/sql", sql).whole(), (201, html, ""));
    assert_eq!(get("/schema/schema1/sql").whole(), (200, "application/sql", sql));
    let shown = r#"{"id":"schema1","sql":"create table foo (bar varchar(100)); -- \u00e4\/"}"#;
    assert_eq!(get("/schema/schema1").whole(), (200, "application/json", shown));
    assert_eq!(ports.manage("PUT", "/schema/schema1/sql", sql).whole(), (204, html, ""));
    let body = json!({"id": "schema2", "sql": "create table t (a)"}).to_string();
    assert_eq!(ports.manage("PUT", "/schema/schema2", &body).whole(), (201, html, ""));
    let bare =
        send(&ports.manager, "PUT", "/schema/schema2", "x", &[], body.replace("(a)", "(b)").as_bytes());
    assert_eq!(bare.whole(), (204, html, ""));
    assert_eq!(get("/schema").text(), r#"["default","schema1","schema2"]"#);
    ports.provision(r#"{"segment": "new0007", "schema": "schema2"}"#);
    assert_eq!(ports.rows("new0007", "select name from pragma_table_info('t')"), "[{\"name\":\"b\"}]\n");
    // The one that everybody gets who names none is no other.
    assert_eq!(ports.manage("PUT", "/schema/default/sql", "create table d (x)").whole(), (204, html, ""));
    ports.provision(r#"{"segment": "new0008"}"#);
    assert_eq!(ports.rows("new0008", "select name from pragma_table_info('d')"), "[{\"name\":\"x\"}]\n");
}

fn schemas_refused() {
    let root = scratch();
    let trough = Trough::of(root.path());
    let ports = &trough.ports;
    let put = |body: &str| ports.manage("PUT", "/schema/s", body);
    for (body, message) in [
        ("]]}what the not valid json", "input could not be parsed as json"),
        ("", "input could not be parsed as json"),
        (r#"{"id": "b", "sql": ""}"#, "id in json 'b' does not match id in url 's'"),
        (r#"{"id": "s"}"#, "input json has keys {'id'} (should be {'id', 'sql'})"),
        (r#"{"sql": ""}"#, "input json has keys {'sql'} (should be {'id', 'sql'})"),
        ("{}", "input json has keys set() (should be {'id', 'sql'})"),
        (
            r#"{"id": "s", "sql": "create create table table blah"}"#,
            "schema sql failed validation: near \"create\": syntax error",
        ),
        (
            r#"{"id": "s", "sql": "create table t (a); insert into u values (1)"}"#,
            "schema sql failed validation: no such table: u",
        ),
    ] {
        assert_eq!(put(body).whole(), (400, "text/plain; charset=utf-8", message), "{body}");
    }
    let plain = ports.manage("PUT", "/schema/s/sql", "creat table t (a)");
    let message = "schema sql failed validation: near \"creat\": syntax error";
    assert_eq!(plain.whole(), (400, "text/plain; charset=utf-8", message));
    for body in ["[]", "5", r#"{"id": "s", "sql": 5}"#] {
        page(&put(body), 500, ".");
    }
    assert_eq!(ports.manage("GET", "/schema", "").text(), "[\"default\"]", "nothing was stored");
}

fn deleted() {
    let root = store(&["1001", "1002"]);
    let trough = Trough::of(root.path());
    let ports = &trough.ports;
    let delete = |id: &str| ports.manage("DELETE", &format!("/segment/{id}"), "");
    page(&delete("none"), 404, "there is no segment none");
    page(&delete(".."), 404, "is not a segment id");
    assert_eq!(delete("1001").whole(), (204, "text/html; charset=utf-8", ""));
    assert!(!root.path().join("1/1001.sqlite").exists());
    error(&ports.read("1001", "select 1"), "there is no segment 1001");
    page(&delete("1001"), 404, "there is no segment 1001");
    ports.provision(r#"{"segment": "1002"}"#);
    page(&delete("1002"), 400, "segment 1002 is locked for writing by");
    assert!(root.path().join("1/1002.sqlite").exists());
    // Trough has no call that gives a lock back; ours has.
    let headers = [("content-type", "application/json")];
    let path = "/v1/segments/1002/release";
    let released = trough.serve.api().send(reqwest::Method::POST, path, &headers, None).expect("an answer");
    assert_eq!(released.status, 204, "{}", released.body);
    assert_eq!(delete("1002").status, 204);
}

fn methods() {
    let root = scratch();
    let trough = Trough::of(root.path());
    let ports = &trough.ports;
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/provision"),
        ("PUT", "/provision"),
        ("GET", "/promote"),
        ("DELETE", "/promote"),
        ("POST", "/schema"),
        ("POST", "/schema/s"),
        ("DELETE", "/schema/s"),
        ("POST", "/schema/s/sql"),
        ("GET", "/segment/1001"),
    ] {
        page(&ports.manage(method, path, ""), 405, method);
    }
    for path in ["/nothing", "/schema/", "/segment/", "/schema/a/b", "/provision/"] {
        page(&ports.manage("GET", path, ""), 404, "There is no such path.");
    }
    for (path, allowed) in [("/", "post"), ("/schema/s", "get"), ("/segment/1001", "delete")] {
        let options = ports.manage("OPTIONS", path, "");
        assert_eq!(options.whole(), (200, "text/html; charset=utf-8", ""));
        let allow = options.head.lines().find(|line| line.starts_with("allow: ")).unwrap_or_default();
        assert!(allow.contains(allowed), "{options:?}");
    }
    for (path, status) in [("/schema", 200), ("/schema/default", 200), ("/schema/none", 404), ("/", 405)] {
        let head = ports.manage("HEAD", path, "");
        assert_eq!((head.status, head.text()), (status, ""), "{path}");
    }
}

/// A client goes where it is told to write: to the host that it reached.
fn write_urls() {
    let root = scratch();
    let trough = Trough::of(root.path());
    let ports = &trough.ports;
    ports.provision(r#"{"segment": "new0009"}"#);
    let port = ports.write.rsplit_once(':').expect("a port").1;
    let told = |ports: &Ports, host: &str| {
        let headers = [("content-type", "application/json")];
        let answer = send(&ports.manager, "POST", "/provision", host, &headers, br#"{"segment": "new0009"}"#);
        answer.json()["write_url"].as_str().expect("a url").to_owned()
    };
    for host in ["trough.example.org", "10.1.2.3", "[2001:db8::1]", "localhost"] {
        assert_eq!(told(ports, &format!("{host}:6111")), format!("http://{host}:{port}/?segment=new0009"));
        assert_eq!(told(ports, host), format!("http://{host}:{port}/?segment=new0009"));
    }
    let url = told(ports, &ports.manager);
    assert_eq!(url, format!("http://{}/?segment=new0009", ports.write));
    drop(trough);
    for (host, expected) in [
        ("write.example.org:80", "http://write.example.org:80/?segment=new0009".to_owned()),
        ("write.example.org", "http://write.example.org:PORT/?segment=new0009".to_owned()),
    ] {
        let root = scratch();
        let named = Trough::with(root.path(), &["--trough-host", host]);
        named.ports.provision(r#"{"segment": "new0009"}"#);
        let port = named.ports.write.rsplit_once(':').expect("a port").1;
        assert_eq!(told(&named.ports, "other:6111"), expected.replace("PORT", port));
    }
}

/// Gateway and workers on their own; `[trough]` in the gateway's file; stopped like all the rest.
fn in_roles_of_their_own() {
    let root = store(&["1001"]);
    let url = file_url(root.path());
    let (dir, ports) = (scratch(), Ports::free());
    let local = crate::harness::cluster::free_address();
    let file = dir.path().join("gateway.toml");
    let text = format!(
        "[trough]\nread = \"{}\"\nwrite = \"{}\"\nmanager = \"{}\"\nlocal = \"{local}\"\n",
        ports.read, ports.write, ports.manager
    );
    std::fs::write(&file, text).expect("a file");
    let mut gateway = Gateway::with(&url, &["--config", &file.display().to_string()]);
    let shown = gateway
        .process()
        .stdout_line("its ports", LIMIT, |line| line.contains("trough").then(|| line.to_owned()));
    for address in [&ports.read, &ports.write, &ports.manager, &local] {
        assert!(shown.contains(&format!("http://{address}")), "{shown}");
    }
    let _cold = Worker::with(&url, &gateway, "cold", &["--access", "direct"]);
    let _hot = Worker::hot(&url, &gateway, "hot");
    gateway.wait_workers(&["cold", "hot"]);
    eventually("the segment is known", LIMIT, || {
        (ports.read("1001", "select 1").status == 200).then_some(())
    });
    assert_eq!(ports.rows("1001", "select count(*) as n from t"), "[{\"n\":7}]\n");
    ports.provision(r#"{"segment": "1001"}"#);
    ok(&ports.write("1001", "insert into t values (8, 'eight')"));
    assert_eq!(
        ports.rows("1001", "select b from t where a = 8"),
        "[{\"b\":\"eight\"}]\n",
        "asked of its writer"
    );
    let by_local = send(&local, "POST", "/promote", "x", &[], br#"{"segment": "1001"}"#);
    assert_eq!(by_local.status, 200, "{by_local:?}");
    assert!(gateway.api().metric("springhouse_gateway_requests_total", "trough read") >= 2.0);
    gateway.process().signal(Signal::Term);
    let ended = gateway.process().wait(LIMIT).expect("it stops");
    assert!(ended.success(), "{ended}");
    assert!(std::net::TcpStream::connect(&ports.read).is_err(), "nobody listens");
}
