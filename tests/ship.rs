//! Writes beyond one disk: shipped to the store, and there for whoever takes over; docs/SEMANTICS.md.

use std::{fs, path::Path, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    harness::{
        cluster::{Gateway, Worker},
        eventually, file_url as url,
        hdfs::Hdfs,
        http::{Api, path_of},
        scratch, segments,
    },
    registry::tests,
};

tests! {
    [] taken_over_without_the_disk, back_without_its_disk, killed_while_shipping, collected;
    [Fuse, Hdfs] on_hdfs;
}

const LIMIT: Duration = Duration::from_secs(120);
const RULE: &str = "[[rule]]\nname = \"crawls\"\nprefix = \"crawl\"\nship_every = \"200ms\"\n";

fn gateway(store: &str, dir: &Path) -> Gateway {
    let file = dir.join("gateway.toml");
    fs::write(&file, RULE).expect("a file");
    Gateway::with(store, &["--config", &file.display().to_string()])
}

fn provision(api: &Api, segment: &str, request: &Value) -> Value {
    eventually("the segment is writable", LIMIT, || {
        let reply = api.post(&path_of(segment, "provision"), request);
        match reply.status {
            503 => None,
            _ => Some(reply.good()),
        }
    })
}

fn execute(api: &Api, segment: &str, sql: &str) -> Value {
    api.post(&path_of(segment, "execute"), &json!({ "sql": sql })).good()
}

fn lock(api: &Api, segment: &str) -> Value {
    let locks = api.get("/v1/locks").json();
    let all = locks["locks"].as_array().expect("locks");
    all.iter().find(|lock| lock["segment"] == segment).cloned().unwrap_or_default()
}

/// Waits until the gateway has heard that all up to `change` is in the store.
fn shipped(api: &Api, segment: &str, change: &Value) {
    eventually("what was written is in the store", LIMIT, || {
        (lock(api, segment)["safe_change"].as_u64() >= change.as_u64()).then_some(())
    });
}

fn suspended(api: &Api, segment: &str) {
    eventually("the lock is suspended", LIMIT, || (lock(api, segment)["state"] == "suspended").then_some(()));
}

fn ids(api: &Api, segment: &str) -> Vec<i64> {
    let rows = api.query(segment, "select id from t order by id").rows;
    rows.iter().map(|row| row[0].as_i64().expect("a number")).collect()
}

/// Shipped files of a segment in a local store.
fn files(root: &Path, segment: &str) -> Vec<String> {
    let dir = root.join(segments::relative_path(segment));
    let dir = dir.parent().expect("a directory");
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> =
        names.filter(|name| name.starts_with(&format!("{segment}.sqlite._SHIPPED_."))).collect();
    names.sort();
    names
}

/// The holder, and the other of two.
fn split(workers: [Worker; 2], holder: &Value, first: &str) -> (Worker, Worker) {
    let [one, other] = workers;
    if holder == first { (one, other) } else { (other, one) }
}

/// A writer whose host is gone with its disk: what it had shipped is taken over, and the answer says how much
/// that is. Idempotency keys are known there too.
fn taken_over_without_the_disk() {
    let (root, dir) = (scratch(), scratch());
    let store = url(root.path());
    let gateway = gateway(&store, dir.path());
    let api = gateway.api();
    let workers = [Worker::hot(&store, &gateway, "ship1"), Worker::hot(&store, &gateway, "ship2")];
    gateway.wait_workers(&["ship1", "ship2"]);
    // In the store already: only what differs from it is shipped.
    segments::from_sql(
        root.path(),
        "crawl001",
        "create table t (id integer primary key); insert into t values (1)",
    );
    eventually("the segment is known", LIMIT, || {
        (api.get("/v1/segments/crawl001").status == 200).then_some(())
    });
    let granted = provision(api, "crawl001", &json!({}));
    assert!(lock(api, "crawl001")["ship"]["every_ms"] == 200, "{}", lock(api, "crawl001"));
    let (mut holder, _other) = split(workers, &granted["worker"], "ship1");
    execute(api, "crawl001", "insert into t values (2)");
    let headers = [("content-type", "application/json"), ("idempotency-key", "once")];
    let body = json!({ "sql": "insert into t values (3)" }).to_string();
    let once = |body: &str| {
        api.send(Method::POST, &path_of("crawl001", "execute"), &headers, Some(body.to_owned()))
            .expect("an answer")
    };
    let last = once(&body).good()["change"].clone();
    shipped(api, "crawl001", &last);
    assert!(!files(root.path(), "crawl001").is_empty());
    holder.kill();
    fs::remove_dir_all(holder.copies()).expect("its disk is gone");
    suspended(api, "crawl001");

    let taken = provision(api, "crawl001", &json!({ "takeover": true }));
    assert_ne!(taken["worker"], granted["worker"]);
    let recovered = &taken["recovered"];
    assert_eq!((&recovered["change"], &recovered["worker"]), (&last, &granted["worker"]), "{taken}");
    assert_eq!(recovered["acknowledged"], last, "what was acknowledged is known at once: {taken}");
    assert!(taken["recovered"]["note"].as_str().is_some_and(|note| note.contains("were shipped")), "{taken}");
    assert_eq!(ids(api, "crawl001"), [1, 2, 3]);
    let again = once(&body).good();
    assert_eq!((&again["repeated"], &again["change"]), (&json!(true), &last));
    execute(api, "crawl001", "insert into t values (4)");
    api.post(&path_of("crawl001", "promote"), &json!({ "release": true })).good();
    eventually("what was shipped is removed", LIMIT, || {
        files(root.path(), "crawl001").is_empty().then_some(())
    });
}

/// A holder comes back with an empty disk: nothing is begun anew under its lock, nor is that released, until
/// somebody says so; a takeover, by itself even, has what was shipped.
fn back_without_its_disk() {
    let (root, dir) = (scratch(), scratch());
    let store = url(root.path());
    let gateway = gateway(&store, dir.path());
    let api = gateway.api();
    let mut holder = Worker::hot(&store, &gateway, "back1");
    gateway.wait_workers(&["back1"]);
    provision(api, "crawl301", &json!({}));
    let last = execute(api, "crawl301", "create table t (id integer primary key); insert into t values (1)");
    shipped(api, "crawl301", &last["change"]);
    holder.kill();
    fs::remove_dir_all(holder.copies()).expect("its disk is gone");
    suspended(api, "crawl301");
    holder.start_again_with(&[]);
    eventually("it has a lease", LIMIT, || (lock(api, "crawl301")["state"] == "held").then_some(()));
    for (what, body) in [("provision", json!({})), ("release", json!({}))] {
        let refused = api.post(&path_of("crawl301", what), &body);
        assert_eq!(refused.status, 409, "{what}");
        let message = refused.json()["error"]["message"].to_string();
        assert!(message.contains("came back without its data"), "{what}: {message}");
    }
    assert!(!files(root.path(), "crawl301").is_empty(), "what was shipped is there");
    let taken = provision(api, "crawl301", &json!({ "takeover": true }));
    assert_eq!(taken["recovered"]["change"], last["change"], "{taken}");
    assert_eq!(ids(api, "crawl301"), [1]);
}

/// Killed at each named point of shipping: the takeover has all that was known to be shipped, and nothing
/// that was not committed.
fn killed_while_shipping() {
    let (root, dir) = (scratch(), scratch());
    let store = url(root.path());
    let gateway = gateway(&store, dir.path());
    let api = gateway.api();
    for (nth, point) in ["ship.chunk", "ship.before_rename", "ship.after_rename"].into_iter().enumerate() {
        let segment = format!("crawl10{nth}");
        let name = format!("killed{nth}");
        let mut holder = Worker::hot(&store, &gateway, &name);
        gateway.wait_workers(&[&name]);
        provision(api, &segment, &json!({}));
        let first =
            execute(api, &segment, "create table t (id integer primary key); insert into t values (1)");
        shipped(api, &segment, &first["change"]);
        holder.kill();
        // A new process ships anew, and ends at its second file.
        holder.start_again_with(&[("SPRINGHOUSE_FAILPOINTS", &format!("{point}=2*abort"))]);
        // Which were tried, which acknowledged, and up to which it was known that they are in the store.
        let (mut tried, mut acknowledged, mut known) = (vec![1], vec![1], 1);
        eventually(&format!("it passes {point}"), LIMIT, || {
            let id = tried.len() as i64 + 1;
            tried.push(id);
            let sql = format!("insert into t values ({id})");
            let reply = api.post(&path_of(&segment, "execute"), &json!({ "sql": sql }));
            // Refused: it is not there again, or dead by now.
            if reply.status == 200 {
                acknowledged.push(id);
                let change = reply.json()["change"].as_u64();
                eventually("it is shipped, or its holder dead", LIMIT, || {
                    if lock(api, &segment)["safe_change"].as_u64() >= change {
                        known = id;
                        return Some(());
                    }
                    holder.process().exited().map(drop)
                });
            }
            holder.process().exited().map(drop)
        });
        suspended(api, &segment);
        fs::remove_dir_all(holder.copies()).expect("its disk is gone");
        let _other = Worker::hot(&store, &gateway, &format!("takes{nth}"));
        let taken = provision(api, &segment, &json!({ "takeover": true }));
        let there = ids(api, &segment);
        // What was committed, and shipped before its client heard of it, may be there too.
        let upto = *there.last().expect("what was known to be shipped");
        let whole = acknowledged.iter().all(|id| *id > upto || there.contains(id));
        assert!(
            whole && upto >= known && there.iter().all(|id| tried.contains(id)),
            "{point}: {there:?} of {acknowledged:?}, {known} known to be there"
        );
        assert_eq!(taken["recovered"]["change"].as_u64(), Some(there.len() as u64), "{point}: {taken}");
        // One worker at a time: the next segment must find only its own.
        assert_eq!(api.post(&path_of(&segment, "release"), &json!({ "force": true })).status, 204);
        eventually("what was shipped is removed", LIMIT, || {
            files(root.path(), &segment).is_empty().then_some(())
        });
    }
}

/// What is left in the store by a release, or found there without a lock, is removed.
fn collected() {
    let (root, dir) = (scratch(), scratch());
    let store = url(root.path());
    let gateway = gateway(&store, dir.path());
    let api = gateway.api();
    let _worker = Worker::hot(&store, &gateway, "ship1");
    gateway.wait_workers(&["ship1"]);
    provision(api, "crawl001", &json!({}));
    let made = execute(api, "crawl001", "create table t (id integer primary key)");
    shipped(api, "crawl001", &made["change"]);
    // Of another lock, long ago, and one that was cut short.
    let there = root.path().join(segments::relative_path("crawl001"));
    let there = there.parent().expect("a directory");
    fs::write(there.join("crawl001.sqlite._SHIPPED_.3.1"), "old").expect("a file");
    fs::write(there.join("crawl001.sqlite._SHIPPED_.3.2.part"), "cut").expect("a file");
    eventually("strays go", LIMIT, || {
        (!files(root.path(), "crawl001").iter().any(|name| name.contains("_SHIPPED_.3."))).then_some(())
    });
    assert!(!files(root.path(), "crawl001").is_empty(), "its own stay");
    // Not under the rule: on one disk until it is promoted.
    provision(api, "other001", &json!({}));
    execute(api, "other001", "create table t (id integer primary key)");
    assert_eq!(lock(api, "other001")["ship"], Value::Null);
    assert_eq!(api.post(&path_of("crawl001", "release"), &json!({ "force": true })).status, 204);
    eventually("what was shipped is removed", LIMIT, || {
        files(root.path(), "crawl001").is_empty().then_some(())
    });
}

/// The same on HDFS.
fn on_hdfs() {
    let hdfs = Hdfs::shared();
    let (store, dir) = (hdfs.dir("ship"), scratch());
    let gateway = gateway(&store.url(), dir.path());
    let api = gateway.api();
    let workers =
        [Worker::hot(&store.url(), &gateway, "ship1"), Worker::hot(&store.url(), &gateway, "ship2")];
    gateway.wait_workers(&["ship1", "ship2"]);
    let granted = provision(api, "crawl001", &json!({}));
    let (mut holder, _other) = split(workers, &granted["worker"], "ship1");
    execute(api, "crawl001", "create table t (id integer primary key)");
    let mut last = Value::Null;
    for id in 1..=20 {
        last = execute(api, "crawl001", &format!("insert into t values ({id})"))["change"].clone();
        if id % 10 == 0 {
            shipped(api, "crawl001", &last);
        }
    }
    holder.kill();
    fs::remove_dir_all(holder.copies()).expect("its disk is gone");
    suspended(api, "crawl001");
    let taken = provision(api, "crawl001", &json!({ "takeover": true }));
    assert_eq!(taken["recovered"]["change"], last, "{taken}");
    assert_eq!(ids(api, "crawl001"), (1..=20).collect::<Vec<_>>());
    api.post(&path_of("crawl001", "promote"), &json!({ "release": true })).good();
}
