//! Trough's clients: provisioning, promotion, schemas, deletion, and the ports themselves; docs/SEMANTICS.md.

use rusqlite::Connection;
use serde_json::json;

use crate::{
    harness::{
        cluster::{Gateway, Worker, free_address},
        eventually, file_url,
        hdfs::Hdfs,
        process::Signal,
        scratch,
        trough::{Ports, Trough, error, ok, page, send, store},
    },
    registry::tests,
};

tests! {
    [] provisioned, promoted, schemas, schemas_refused, cold_range, deleted, methods, write_urls,
       in_roles_of_their_own;
    [Fuse, Hdfs] on_hdfs;
}

const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

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
    const SQL: &str = "application/sql; charset=utf-8";
    let html = "text/html; charset=utf-8";
    assert_eq!(get("/schema").whole(), (200, "application/json", "[\"default\"]"));
    assert_eq!(get("/schema/default").whole(), (200, "application/json", r#"{"id":"default","sql":""}"#));
    assert_eq!(get("/schema/default/sql").whole(), (200, SQL, ""));
    page(&get("/schema/schema1"), 404, "There is no schema schema1.");
    page(&get("/schema/schema1/sql"), 404, "There is no schema schema1.");
    let sql = "create table foo (bar varchar(100)); -- ä/";
    assert_eq!(ports.manage("PUT", "/schema/schema1/sql", sql).whole(), (201, html, ""));
    assert_eq!(get("/schema/schema1/sql").whole(), (200, SQL, sql));
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

/// By a rule of the gateway's, as `config from-trough` writes it.
fn cold_range() {
    let (root, dir) = (store(&["1001", "700001"]), scratch());
    let file = dir.path().join("serve.toml");
    let rule = "[[rule]]\npattern = '[1-5][0-9]{5}|[1-9][0-9]{0,4}|0'\ntier = 'cold'\n";
    std::fs::write(&file, rule).expect("a file");
    let trough = Trough::with(root.path(), &["--config", &file.display().to_string()]);
    let ports = &trough.ports;
    let why = "cannot provision segment 1001 for writing because that segment id is in the read-only cold \
               storage range";
    let refused = ports.provision(r#"{"segment": "1001"}"#);
    assert_eq!(refused.whole(), (400, "application/json", format!("{{\"error\":\"{why}\"}}\n").as_str()));
    page(&ports.manage("POST", "/", "1001"), 500, why);
    assert_eq!(ports.rows("1001", "select count(*) as n from t"), "[{\"n\":7}]\n", "it is read all the same");
    assert_eq!(ports.write("1001", "delete from t").status, 500);
    assert_eq!(ports.provision(r#"{"segment": "700001"}"#).status, 200);
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
    let local = free_address();
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

/// The path in HDFS is what Trough's promotion tells.
fn on_hdfs() {
    let hdfs = Hdfs::shared();
    let dir = hdfs.dir("trough");
    let trough = Trough::at(&dir.url(), "fuse", &[]);
    let ports = &trough.ports;
    ports.provision(r#"{"segment": "new0010"}"#);
    ok(&ports.write("new0010", "create table t (a); insert into t values ('ä')"));
    let promoted = ports.manage("POST", "/promote", r#"{"segment": "new0010"}"#);
    let path = promoted.json()["remote_path"].as_str().expect("a path").to_owned();
    let url = dir.url();
    let root = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).expect("a path").1;
    assert_eq!(path, format!("/{}/new0/new0010.sqlite", root.trim_end_matches('/')));
    let headers = [("content-type", "application/json")];
    let release = "/v1/segments/new0010/release";
    let released =
        trough.serve.api().send(reqwest::Method::POST, release, &headers, None).expect("an answer");
    assert_eq!(released.status, 204, "{}", released.body);
    assert_eq!(ports.rows("new0010", "select a from t"), "[{\"a\":\"\\u00e4\"}]\n", "read in place");
    assert_eq!(ports.manage("DELETE", "/segment/new0010", "").status, 204);
    error(&ports.read("new0010", "select 1"), "there is no segment new0010");
}
