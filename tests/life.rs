//! The life of a segment: provisioned, written, promoted, raised, deleted, and nothing lost;
//! docs/SEMANTICS.md.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst},
    thread,
    time::Duration,
};

use reqwest::Method;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use crate::{
    harness::{
        cluster::{Gateway, Serve, Worker},
        eventually, file_url as url,
        hdfs::Hdfs,
        http::{Api, Reply},
        scratch, segments,
    },
    registry::tests,
};

tests! {
    [] written_and_promoted, all_or_nothing, repeated_requests, acknowledged_writes_survive_kill,
       holder_lost_and_taken_over, killed_in_a_promotion, foreign_generation, deleted, raised_and_lowered,
       schemas;
    [Fuse, Hdfs] on_hdfs;
}

const LIMIT: Duration = Duration::from_secs(120);

/// Gateway, cold and hot worker in one process.
fn serve(store: &str) -> Serve {
    Serve::with(store, &["--tier", "hot,cold", "--lease-ttl", "12s", "--discovery-interval", "300ms"])
}

pub fn post(api: &Api, path: &str, body: &Value) -> Reply {
    send(api, Method::POST, path, &[], Some(body))
}

pub fn send(api: &Api, method: Method, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Reply {
    let headers = [headers, &[("content-type", "application/json")]].concat();
    api.send(method, path, &headers, body.map(Value::to_string)).expect("an answer")
}

pub fn good(reply: &Reply) -> Value {
    assert!((200..300).contains(&reply.status), "{} {}", reply.status, reply.body);
    reply.json()
}

/// Code of an error, after its status.
pub fn refused(reply: &Reply) -> (u16, String) {
    let code = reply.json()["error"]["code"].as_str().map(str::to_owned);
    (reply.status, code.unwrap_or_else(|| panic!("no error: {} {}", reply.status, reply.body)))
}

pub fn of(segment: &str, what: &str) -> String {
    format!("/v1/segments/{segment}/{what}")
}

/// Makes the segment writable; waits for a worker that takes it.
pub fn provision(api: &Api, segment: &str, request: &Value) -> Value {
    eventually("the segment is writable", LIMIT, || {
        let reply = post(api, &of(segment, "provision"), request);
        match reply.status {
            503 => None,
            _ => Some(good(&reply)),
        }
    })
}

pub fn execute(api: &Api, segment: &str, sql: &str) -> Reply {
    post(api, &of(segment, "execute"), &json!({ "sql": sql }))
}

fn count(api: &Api, segment: &str) -> i64 {
    api.query(segment, "select count(*) from t").rows[0][0].as_i64().expect("a number")
}

/// Opens what the store has, as any program would.
fn open(file: &Path) -> Connection {
    Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("a database")
}

pub fn number(database: &Connection, sql: &str) -> i64 {
    database.query_row(sql, [], |row| row.get(0)).expect(sql)
}

fn in_store(root: &Path, segment: &str) -> PathBuf {
    root.join(segments::relative_path(segment))
}

pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory").flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Name of the database of `segment` that was kept aside below a worker's `copies`; it may have a log beside it.
pub fn kept(copies: &Path, segment: &str) -> Option<String> {
    let mut names = names(&copies.join("kept"));
    names.retain(|name| name.starts_with(&format!("{segment}.")) && name.ends_with(".sqlite"));
    names.pop()
}

/// New, written, read before it is promoted, promoted, written again, promoted and released, read in place.
fn written_and_promoted() {
    let root = scratch();
    let serve = serve(&url(root.path()));
    let api = serve.api();
    let first = provision(api, "new0001", &json!({}));
    assert_eq!((&first["granted"], &first["created"]), (&json!(true), &json!(true)), "{first}");
    let again = provision(api, "new0001", &json!({}));
    assert_eq!(
        (&again["granted"], &again["token"], &again["worker"]),
        (&json!(false), &first["token"], &first["worker"])
    );
    good(&execute(
        api,
        "new0001",
        "create table t (id integer primary key, name text); create index i on t (name)",
    ));
    let rows: Vec<Value> = (0..5_000).map(|n| json!([n, format!("name {}", n * 7919 % 5_000)])).collect();
    let batch = json!({ "statements": [{ "sql": "insert into t values (?, ?)", "rows": rows }] });
    let answer = good(&post(api, &of("new0001", "execute"), &batch));
    assert_eq!(answer["results"][0]["rows_affected"], 5_000);
    assert_eq!(count(api, "new0001"), 5_000, "read before it is promoted");
    let file = in_store(root.path(), "new0001");
    assert!(!file.exists());

    let promoted = good(&post(api, &of("new0001", "promote"), &json!({})));
    let bytes = fs::read(&file).expect("it is in the store");
    assert_eq!(
        (bytes.len() as u64, &bytes[18..20]),
        (promoted["size"].as_u64().expect("a size"), &[1, 1][..])
    );
    assert_eq!(promoted["path"], "/new0/new0001.sqlite");
    let there = open(&file);
    let check: String = there.query_row("pragma integrity_check", [], |row| row.get(0)).expect("a check");
    assert_eq!((check.as_str(), number(&there, "select count(*) from t")), ("ok", 5_000));
    assert_eq!(names(file.parent().expect("a directory")), ["new0001.sqlite"], "no temporary is left");
    let shown = api.get("/v1/segments/new0001").json();
    assert_eq!((&shown["generation"], &shown["checksum"]), (&promoted["generation"], &promoted["checksum"]));
    assert_eq!(shown["lock"]["token"], first["token"], "promotion keeps the lock");

    good(&execute(api, "new0001", "insert into t values (-1, 'later')"));
    assert_eq!((count(api, "new0001"), number(&open(&file), "select count(*) from t")), (5_001, 5_000));
    let unpromoted = post(api, &of("new0001", "release"), &json!({}));
    assert_eq!(refused(&unpromoted), (409, "unpromoted".into()));
    let last = good(&post(api, &of("new0001", "promote"), &json!({ "release": true })));
    assert_eq!(last["released"], true);
    assert_eq!(number(&open(&file), "select count(*) from t"), 5_001);
    assert_eq!(api.get("/v1/locks").json()["locks"], json!([]));
    assert_eq!(refused(&execute(api, "new0001", "delete from t")), (409, "not_provisioned".into()));
    assert_eq!(count(api, "new0001"), 5_001);
    let answer = api.query("new0001", "select id from t where name = 'later'");
    assert_eq!((answer.rows, json!(answer.generation)), (vec![vec![json!(-1)]], last["generation"].clone()));

    // What exists is fetched before it is written, never made anew.
    let second = provision(api, "new0001", &json!({ "schema": "default" }));
    assert!(second["token"].as_u64() > first["token"].as_u64(), "{second}");
    assert_eq!((&second["created"], count(api, "new0001")), (&json!(false), 5_001));
}

/// A transaction is all or nothing, and SQL for writing stays inside the segment.
fn all_or_nothing() {
    let root = scratch();
    let serve = serve(&url(root.path()));
    let api = serve.api();
    provision(api, "seg001", &json!({}));
    good(&execute(api, "seg001", "create table t (id integer primary key); insert into t values (1)"));
    for (sql, status, code) in [
        ("insert into t values (2); insert into t values (1)", 400, "sql_error"),
        ("insert into t values (2); nonsense", 400, "sql_error"),
        ("insert into t values (2); commit; begin", 403, "sql_forbidden"),
        ("insert into t values (2); attach '/tmp/x' as x", 403, "sql_forbidden"),
        ("insert into t values (2); pragma journal_mode = off", 403, "sql_forbidden"),
        ("insert into t values (2); select load_extension('x')", 400, "sql_error"),
    ] {
        let reply = execute(api, "seg001", sql);
        let (found, found_code) = refused(&reply);
        // Some are refused by the sandbox, some unknown to SQLite: never done.
        assert!(found == status || matches!(found, 400 | 403), "{sql}: {}", reply.body);
        assert!(found_code == code || found_code.starts_with("sql_"), "{sql}: {}", reply.body);
        assert_eq!(count(api, "seg001"), 1, "{sql}");
    }
    let mixed = json!({ "statements": [
        { "sql": "insert into t values (?)", "rows": [[7], [8], [9]] },
        { "sql": "update t set id = id + 100 where id > :least", "params": { "least": 7 } },
        { "sql": "delete from t where id = 1" },
    ] });
    let done = good(&post(api, &of("seg001", "execute"), &mixed));
    let changed: Vec<u64> = done["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|result| result["rows_affected"].as_u64().expect("a number"))
        .collect();
    assert_eq!(changed, [3, 2, 1]);
    assert_eq!(
        api.query("seg001", "select id from t order by id").rows,
        [[json!(7)], [json!(108)], [json!(109)]]
    );
}

/// A request that is sent again with its key is applied once, also after a crash.
fn repeated_requests() {
    let root = scratch();
    let store = url(root.path());
    let gateway = Gateway::of(&store);
    let mut worker = Worker::hot(&store, &gateway, "repeats");
    let api = gateway.api();
    provision(api, "seg001", &json!({}));
    good(&execute(api, "seg001", "create table t (id integer primary key, n)"));
    let with_key = |key: &str| {
        let body = json!({ "sql": "insert into t (n) values (1)" });
        send(api, Method::POST, &of("seg001", "execute"), &[("idempotency-key", key)], Some(&body))
    };
    let once = good(&with_key("a"));
    let twice = good(&with_key("a"));
    assert_eq!((&once["repeated"], &twice["repeated"]), (&json!(false), &json!(true)));
    assert_eq!((&once["change"], &once["results"]), (&twice["change"], &twice["results"]));
    worker.kill();
    worker.start_again();
    let after = eventually("the worker is back", LIMIT, || {
        let reply = with_key("a");
        (reply.status == 200).then(|| reply.json())
    });
    assert_eq!((&after["repeated"], count(api, "seg001")), (&json!(true), 1));
    assert_eq!((good(&with_key("b"))["repeated"].clone(), count(api, "seg001")), (json!(false), 2));
}

/// Clients write while the worker is killed, again and again: every acknowledged row is there.
fn acknowledged_writes_survive_kill() {
    const CLIENTS: i64 = 8;
    let root = scratch();
    let store = url(root.path());
    let gateway = Gateway::of(&store);
    let mut worker = Worker::hot(&store, &gateway, "dies");
    let api = gateway.api();
    let lock = provision(api, "seg001", &json!({}));
    good(&execute(api, "seg001", "create table t (id integer primary key)"));
    let (over, known) = (AtomicBool::new(false), AtomicI64::new(0));
    let acknowledged: Vec<i64> = thread::scope(|scope| {
        let write = |client: i64| {
            let mut acknowledged = Vec::new();
            for n in 0.. {
                if over.load(SeqCst) {
                    break;
                }
                let id = n * CLIENTS + client;
                let body = json!({ "sql": format!("insert into t values ({id})") }).to_string();
                let headers = [("content-type", "application/json")];
                let reply = api.send(Method::POST, &of("seg001", "execute"), &headers, Some(body));
                if reply.is_ok_and(|reply| reply.status == 200) {
                    acknowledged.push(id);
                    known.fetch_add(1, SeqCst);
                }
            }
            acknowledged
        };
        let clients: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || write(client))).collect();
        for _ in 0..3 {
            count_when_back(api);
            let before = known.load(SeqCst);
            eventually("some are acknowledged", LIMIT, || (known.load(SeqCst) > before + 20).then_some(()));
            worker.kill();
            worker.start_again();
        }
        over.store(true, SeqCst);
        clients.into_iter().flat_map(|client| client.join().expect("no panic")).collect()
    });
    count_when_back(api);
    let there: std::collections::HashSet<i64> = api
        .query("seg001", "select id from t")
        .rows
        .iter()
        .map(|row| row[0].as_i64().expect("a number"))
        .collect();
    let lost: Vec<&i64> = acknowledged.iter().filter(|id| !there.contains(id)).collect();
    assert!(acknowledged.len() > 60 && lost.is_empty(), "{} acknowledged, lost {lost:?}", acknowledged.len());
    let again = provision(api, "seg001", &json!({}));
    assert_eq!(
        (&again["token"], &again["granted"]),
        (&lock["token"], &json!(false)),
        "the lock outlives all"
    );
    good(&post(api, &of("seg001", "promote"), &json!({})));
    assert_eq!(number(&open(&in_store(root.path(), "seg001")), "select count(*) from t"), there.len() as i64);
}

fn count_when_back(api: &Api) -> i64 {
    eventually("the segment answers", LIMIT, || {
        let rows = api.ask("seg001", json!({ "sql": "select count(*) from t" })).ok()?;
        rows.rows[0][0].as_i64()
    })
}

/// The holder dies: reads go on with the last generation and say so, writes wait for it; somebody takes
/// over, and the old holder can change nothing any more, but keeps what it had.
fn holder_lost_and_taken_over() {
    let root = scratch();
    let store = url(root.path());
    let gateway = Gateway::of(&store);
    let api = gateway.api();
    let _cold = Worker::of(&store, &gateway, "cold1");
    let mut hot = [Worker::hot(&store, &gateway, "taken1"), Worker::hot(&store, &gateway, "taken2")];
    gateway.wait_workers(&["cold1", "taken1", "taken2"]);
    let lock = provision(api, "seg001", &json!({}));
    let holder = usize::from(lock["worker"] == "taken2");
    good(&execute(api, "seg001", "create table t (id integer primary key); insert into t values (1)"));
    good(&post(api, &of("seg001", "promote"), &json!({})));
    good(&execute(api, "seg001", "insert into t values (2)"));
    hot[holder].kill();
    eventually("the lock is suspended", LIMIT, || {
        (api.get("/v1/locks").json()["locks"][0]["state"] == "suspended").then_some(())
    });
    assert_eq!(refused(&execute(api, "seg001", "insert into t values (3)")), (503, "lock_suspended".into()));
    let read = api.post_query("seg001", &json!({ "sql": "select id from t" }), "application/json");
    let read = read.expect("an answer");
    assert_eq!(read.header("springhouse-lock"), Some("suspended"));
    assert_eq!(read.json()["rows"], json!([[1]]), "what was promoted");
    let refusal = post(api, &of("seg001", "provision"), &json!({}));
    assert!(refusal.status >= 400 && refusal.body.contains("takeover"), "{}", refusal.body);

    let taken = provision(api, "seg001", &json!({ "takeover": true }));
    assert_ne!(taken["worker"], lock["worker"]);
    assert!(taken["token"].as_u64() > lock["token"].as_u64(), "{taken}");
    good(&execute(api, "seg001", "insert into t values (4)"));
    hot[holder].start_again();
    let name = lock["worker"].as_str().expect("a name");
    let old = eventually("the old holder is back", LIMIT, || {
        let workers = api.get("/v1/workers").json();
        let old = workers["workers"].as_array()?.iter().find(|w| w["name"] == name && w["live"] == true)?;
        old["url"].as_str().map(Api::new)
    });
    // It is told, and gives its copy up; until then it does not know better, and the gateway asks it nothing.
    let token = lock["token"].to_string();
    eventually("the old holder writes no more", LIMIT, || {
        let body = json!({ "sql": "insert into t values (5)" });
        let reply =
            send(&old, Method::POST, "/v1/hot/seg001/execute", &[("springhouse-token", &token)], Some(&body));
        (reply.status == 409).then_some(())
    });
    assert_eq!(api.query("seg001", "select id from t order by id").rows, [[json!(1)], [json!(4)]]);
    good(&post(api, &of("seg001", "promote"), &json!({})));
    let there = open(&in_store(root.path(), "seg001"));
    assert_eq!(number(&there, "select count(*) from t where id in (1, 4)"), 2);
    assert_eq!(number(&there, "select count(*) from t"), 2);
    // What the old holder had and nobody promoted.
    let aside = eventually("it is kept aside", LIMIT, || kept(&hot[holder].copies(), "seg001"));
    let aside = Connection::open(hot[holder].copies().join("kept").join(aside)).expect("a database");
    assert_eq!(number(&aside, "select count(*) from t where id in (1, 2)"), 2);
}

/// Killed at any point of a promotion: the old generation or the new one is there, whole; the next
/// promotion ends well and nothing is left over.
fn killed_in_a_promotion() {
    let root = scratch();
    let store = url(root.path());
    let gateway = Gateway::of(&store);
    let api = gateway.api();
    let mut worker = Worker::hot(&store, &gateway, "promotes");
    provision(api, "seg001", &json!({}));
    good(&execute(api, "seg001", "create table t (id integer primary key); insert into t values (0)"));
    good(&post(api, &of("seg001", "promote"), &json!({})));
    let file = in_store(root.path(), "seg001");
    for (nth, point) in ["promote.after_copy", "promote.after_upload"].into_iter().enumerate() {
        worker.kill();
        worker.start_again_with(&[("SPRINGHOUSE_FAILPOINTS", &format!("{point}=abort"))]);
        count_when_back(api);
        good(&execute(api, "seg001", &format!("insert into t values ({})", nth + 1)));
        let failed = post(api, &of("seg001", "promote"), &json!({}));
        assert!(failed.status >= 500, "{point}: {} {}", failed.status, failed.body);
        let before = number(&open(&file), "select count(*) from t");
        assert_eq!(before, nth as i64 + 1, "{point}: the old generation");
        worker.start_again();
        count_when_back(api);
        eventually("it is promoted", LIMIT, || {
            (post(api, &of("seg001", "promote"), &json!({})).status == 200).then_some(())
        });
        assert_eq!(number(&open(&file), "select count(*) from t"), nth as i64 + 2, "{point}");
        assert_eq!(names(file.parent().expect("a directory")), ["seg001.sqlite"], "{point}");
    }
}

/// Somebody else replaces the file while it is provisioned: the lock ends, and what was not promoted is kept
/// aside under a name that everybody is told.
fn foreign_generation() {
    let root = scratch();
    let serve = serve(&url(root.path()));
    let api = serve.api();
    provision(api, "seg001", &json!({}));
    good(&execute(api, "seg001", "create table t (id integer primary key); insert into t values (1)"));
    good(&post(api, &of("seg001", "promote"), &json!({})));
    good(&execute(api, "seg001", "insert into t values (2)"));
    let file = in_store(root.path(), "seg001");
    let theirs = scratch();
    let made = theirs.path().join("theirs");
    Connection::open(&made)
        .expect("a database")
        .execute_batch("create table t (id); insert into t values (9)")
        .expect("SQL");
    fs::copy(&made, file.with_extension("new"))
        .and_then(|_| fs::rename(file.with_extension("new"), &file))
        .expect("replaced");
    let refusal = post(api, &of("seg001", "promote"), &json!({}));
    assert_eq!(refused(&refusal), (409, "superseded".into()), "{}", refusal.body);
    assert_eq!(number(&open(&file), "select id from t"), 9, "theirs stays");
    let over = eventually("the file with the writes is named", LIMIT, || {
        let over = api.get("/v1/locks").json()["superseded"][0].clone();
        over["kept"].as_str().map(str::to_owned)
    });
    let write = execute(api, "seg001", "insert into t values (3)");
    assert_eq!(refused(&write), (409, "superseded".into()));
    assert!(write.body.contains(&over) && write.body.contains("provision"), "{}", write.body);
    let kept = serve.data().join("data/hot/kept").join(&over);
    assert_eq!(number(&Connection::open(kept).expect("a database"), "select sum(id) from t"), 3, "1 and 2");
    assert_eq!(api.query("seg001", "select id from t").rows, [[json!(9)]], "theirs is what is asked");
    // Whoever provisions again builds upon theirs.
    provision(api, "seg001", &json!({}));
    good(&execute(api, "seg001", "insert into t values (10)"));
    good(&post(api, &of("seg001", "promote"), &json!({})));
    assert_eq!(number(&open(&file), "select sum(id) from t"), 19);
}

/// Refused under a lock; then gone everywhere, and nothing brings it back.
fn deleted() {
    let root = scratch();
    let serve = serve(&url(root.path()));
    let api = serve.api();
    provision(api, "seg001", &json!({}));
    good(&execute(api, "seg001", "create table t (id integer primary key); insert into t values (1)"));
    let delete = || send(api, Method::DELETE, "/v1/segments/seg001", &[], None);
    assert_eq!(refused(&delete()), (409, "locked".into()));
    good(&post(api, &of("seg001", "promote"), &json!({ "release": true })));
    let file = in_store(root.path(), "seg001");
    assert!(file.exists());
    let gone = delete();
    assert!((200..300).contains(&gone.status), "{} {}", gone.status, gone.body);
    assert!(!file.exists());
    assert_eq!(refused(&api.get("/v1/segments/seg001")), (404, "segment_not_found".into()));
    post(api, "/v1/discovery?full=true", &json!({}));
    assert_eq!(api.refused("seg001", "select 1").code, "segment_not_found");
    let new = provision(api, "seg001", &json!({}));
    assert_eq!(new["created"], true, "{new}");
    let empty = api.query("seg001", "select count(*) from sqlite_schema");
    assert_eq!(empty.rows, [[json!(0)]]);
}

/// A raised segment has a copy that answers also while the store is away; a lowered one has none.
fn raised_and_lowered() {
    let home = scratch();
    let root = home.path().join("store");
    fs::create_dir(&root).expect("a directory");
    segments::from_sql(
        &root,
        "seg001",
        "create table t (id integer primary key); insert into t values (1), (2)",
    );
    let serve = serve(&url(&root));
    let api = serve.api();
    assert_eq!(count(api, "seg001"), 2);
    good(&post(api, &of("seg001", "raise"), &json!({ "copies": 1 })));
    let state = || api.get("/v1/segments/seg001").json()["copies"][0]["state"].clone();
    eventually("the copy is there", LIMIT, || (state() == "available").then_some(()));
    assert_eq!(count(api, "seg001"), 2);
    let away = home.path().join("away");
    fs::rename(&root, &away).expect("the store goes away");
    assert_eq!(api.query("seg001", "select max(id) from t").rows, [[json!(2)]], "the copy answers");
    fs::rename(&away, &root).expect("and comes back");
    good(&post(api, &of("seg001", "lower"), &json!({})));
    eventually("the copy goes", LIMIT, || {
        let copies = api.get("/v1/segments/seg001").json()["copies"].clone();
        copies.as_array().is_none_or(Vec::is_empty).then_some(())
    });
    assert_eq!(count(api, "seg001"), 2);
}

/// Registered, checked, versioned; a new segment has the newest.
fn schemas() {
    let root = scratch();
    let serve = serve(&url(root.path()));
    let api = serve.api();
    let put = |sql: &str| send(api, Method::PUT, "/v1/schemas/pages", &[], Some(&json!({ "sql": sql })));
    let wrong = put("create table page (id,, url)");
    assert!(wrong.status == 400 && wrong.body.contains("syntax error"), "{}", wrong.body);
    assert_eq!(good(&put("create table page (id)"))["version"], 1);
    assert_eq!(good(&put("create table page (id integer primary key, url text)"))["version"], 2);
    let all = api.get("/v1/schemas/pages/versions").json();
    assert_eq!(all["schemas"].as_array().map(Vec::len), Some(2));
    let unknown = post(api, &of("seg001", "provision"), &json!({ "schema": "unknown" }));
    assert_eq!(refused(&unknown), (404, "schema_not_found".into()));
    assert_eq!(api.get("/v1/locks").json()["locks"], json!([]), "no lock is left behind");
    provision(api, "seg001", &json!({ "schema": "pages" }));
    good(&execute(api, "seg001", "insert into page (url) values ('http://example.org/')"));
    assert_eq!(api.query("seg001", "select url from page").rows, [[json!("http://example.org/")]]);
}

/// The same over HDFS, read through a mount.
fn on_hdfs() {
    let hdfs = Hdfs::shared();
    let dir = hdfs.dir("life");
    let serve = serve(&dir.url());
    let api = serve.api();
    let lock = provision(api, "new0001", &json!({}));
    assert_eq!(lock["created"], true);
    good(&execute(api, "new0001", "create table t (id integer primary key, name text)"));
    let rows: Vec<Value> = (0..20_000).map(|n| json!([n, format!("name {n}")])).collect();
    let batch = json!({ "statements": [{ "sql": "insert into t values (?, ?)", "rows": rows }] });
    good(&post(api, &of("new0001", "execute"), &batch));
    let first = good(&post(api, &of("new0001", "promote"), &json!({})));
    good(&execute(api, "new0001", "delete from t where id >= 10000"));
    let second = good(&post(api, &of("new0001", "promote"), &json!({ "release": true })));
    assert_ne!(first["generation"], second["generation"]);
    let answer = api.query("new0001", "select count(*), max(name) from t");
    assert_eq!(
        (answer.rows, json!(answer.generation)),
        (vec![vec![json!(10_000), json!("name 9999")]], second["generation"].clone())
    );
    assert_eq!(second["size"], api.get("/v1/segments/new0001").json()["size"]);
}
