//! Two workers and a store: one ships, the other takes over.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, http::Request};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value as Json, json};
use springhouse_fuse::{
    error::ErrorKind,
    store::{
        Operation, Store, StorePath,
        memory::{Fault, Injected, Injection, MemoryStore},
    },
};
use springhouse_gateway::{api::hot::TOKEN_HEADER, segment::SegmentId, shipped::ShippedName};
use tower::ServiceExt;

use crate::worker::{Worker, WorkerSettings, hot::HotSettings, hot::tests::Gateway};

pub(super) const PATH: &str = "/1/1234.sqlite";
const SQL: &str = "SELECT a FROM t ORDER BY a";

pub(super) struct Bench {
    dir: tempfile::TempDir,
    pub(super) worker: Worker,
}

async fn start(dir: tempfile::TempDir, store: &MemoryStore) -> Bench {
    let mut settings =
        WorkerSettings::new("w", "file:///x".parse().expect("a URL"), "http://127.0.0.1:1", "/nowhere");
    settings.cold = false;
    settings.query.threads = 2;
    let mut hot = HotSettings::new(dir.path(), Arc::new(store.clone()));
    hot.quota_bytes = Some(1 << 30);
    settings.hot = Some(hot);
    let worker = Worker::start(settings, Arc::new(Gateway::default())).await.expect("a worker");
    Bench { dir, worker }
}

pub(super) async fn fresh(store: &MemoryStore) -> Bench {
    start(tempfile::tempdir().expect("a directory"), store).await
}

impl Bench {
    pub(super) async fn call(&self, method: &str, what: &str, token: u64, body: Json) -> (bool, Json) {
        let request = Request::builder().method(method).uri(format!("/v1/hot/1234{what}"));
        let request = request.header(TOKEN_HEADER, token.to_string());
        let request = request.body(Body::from(body.to_string())).expect("a request");
        let response = self.worker.router().oneshot(request).await.expect("infallible");
        let good = response.status().is_success();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (good, serde_json::from_slice(&body).unwrap_or(Json::Null))
    }

    pub(super) async fn good(&self, what: &str, token: u64, body: Json) -> Json {
        let (good, body) = self.call("POST", what, token, body).await;
        assert!(good, "{what}: {body}");
        body
    }

    async fn insert(&self, token: u64, value: u64, key: Option<&str>) -> Json {
        self.execute(token, &format!("INSERT INTO t VALUES ({value})"), key).await
    }

    pub(super) async fn execute(&self, token: u64, sql: &str, key: Option<&str>) -> Json {
        let body = json!({"sql": sql});
        let mut request = Request::post("/v1/hot/1234/execute").header(TOKEN_HEADER, token.to_string());
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let request = request.body(Body::from(body.to_string())).expect("a request");
        let response = self.worker.router().oneshot(request).await.expect("infallible");
        assert!(response.status().is_success());
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        serde_json::from_slice(&body).expect("JSON")
    }

    pub(super) async fn values(&self, token: u64) -> Vec<i64> {
        let answer = self.good("/query", token, json!({"sql": SQL})).await;
        let rows = answer["rows"].as_array().expect("rows");
        rows.iter().map(|row| row[0].as_i64().expect("a number")).collect()
    }

    pub(super) async fn status(&self) -> Json {
        self.call("GET", "", 0, Json::Null).await.1
    }

    /// Ships what there is, now.
    pub(super) async fn ship(&self) {
        let hot = self.worker.hot.as_ref().expect("a hot worker");
        let segment = hot.find("1234").expect("the segment");
        let shipping = segment.state.lock().shipping.clone().expect("it is shipped");
        hot.ship(&segment, &shipping).await.expect("the store works");
    }

    /// Waits for the round of shipping after which `look` finds what it wants.
    async fn round<T>(&self, what: &str, look: impl AsyncFn() -> Option<T>) -> T {
        let hot = self.worker.hot.as_ref().expect("a hot worker");
        let segment = hot.find("1234").expect("the segment");
        let shipping = segment.state.lock().shipping.clone().expect("it is shipped");
        let mut rounds = shipping.rounds.subscribe();
        let found = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                rounds.changed().await.expect("it goes on");
            }
        };
        tokio::time::timeout(Duration::from_secs(60), found).await.expect(what)
    }

    /// Waits until all up to `change` is in the store.
    async fn shipped(&self, change: u64) {
        let all = async || {
            let ship = &self.status().await["ship"];
            let is_all = ship["shipped_change"].as_u64() >= Some(change) && ship["unshipped_ms"].is_null();
            is_all.then_some(())
        };
        self.round("shipped", all).await;
    }

    /// Loses the disk: nothing is shipped any more, nothing is finished.
    fn lose(self) {
        std::mem::forget(self.worker);
    }

    async fn promote(&self, store: &MemoryStore, token: u64) -> String {
        let temporary = format!("{PATH}._COPYING_.{token}");
        let uploaded = self.good("/upload", token, json!({"temporary": temporary})).await;
        store.rename(&path(&temporary), &path(PATH), true).await.expect("renamed");
        let generation = generation(store).await.expect("there");
        self.good("/promoted", token, json!({"generation": generation, "change": uploaded["change"]})).await;
        generation
    }
}

pub(super) fn path(text: &str) -> StorePath {
    StorePath::parse(text).expect("a path")
}

pub(super) async fn generation(store: &MemoryStore) -> Option<String> {
    store.stat(&path(PATH)).await.ok().map(|there| there.generation.to_string())
}

async fn files(store: &MemoryStore) -> Vec<ShippedName> {
    use futures::TryStreamExt;
    let entries: Vec<_> = match store.list(&path("/1")).try_collect::<Vec<_>>().await {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("{error}"),
    };
    let mut names: Vec<_> = entries.iter().filter_map(|entry| ShippedName::parse(&entry.name)).collect();
    names.sort_by_key(|name| (name.token, name.sequence));
    names
}

pub(super) fn provision(generation: Option<String>) -> Json {
    json!({
        "path": PATH, "generation": generation, "schema_sql": "CREATE TABLE t(a)",
        "ship": {"every_ms": 50},
    })
}

pub(super) fn takeover(generation: Option<String>, old: u64, promoted: u64) -> Json {
    let mut body = provision(generation);
    body["recover"] = json!({"token": old, "from": old, "promoted_change": promoted});
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_shipped_is_taken_over() {
    let store = MemoryStore::new();
    let first = fresh(&store).await;
    first.good("/provision", 1, provision(None)).await;
    for value in 1..=3 {
        first.insert(1, value, Some(&format!("key{value}"))).await;
        first.shipped(value).await;
    }
    assert!(files(&store).await.len() >= 3, "a head and changes");
    first.lose();

    let second = fresh(&store).await;
    let made = second.good("/provision", 2, takeover(None, 1, 0)).await;
    assert_eq!((&made["recovered"]["change"], &made["recovered"]["token"]), (&json!(3), &json!(1)), "{made}");
    assert_eq!(second.values(2).await, [1, 2, 3]);
    // What was applied is known under its key.
    let again = second.insert(2, 2, Some("key2")).await;
    assert_eq!((&again["repeated"], &again["change"]), (&json!(true), &json!(2)));
    assert_eq!(second.insert(2, 4, None).await["change"], 4);
    second.shipped(4).await;
    second.lose();

    let third = fresh(&store).await;
    third.good("/provision", 3, takeover(None, 2, 0)).await;
    assert_eq!(third.values(3).await, [1, 2, 3, 4]);
    // Once its own chain is whole, those before it go.
    third.insert(3, 5, None).await;
    third.shipped(5).await;
    let gone = async || files(&store).await.iter().all(|name| name.token == 3).then_some(());
    third.round("collected", gone).await;
    assert_eq!(third.promote(&store, 3).await, generation(&store).await.expect("there"));
    let gone = async || files(&store).await.is_empty().then_some(());
    third.round("collected after the promotion", gone).await;
    drop(third.dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_generation_and_after_its_promotion() {
    let store = MemoryStore::new();
    let first = fresh(&store).await;
    // A segment that is large beside what is changed in it.
    first.good("/provision", 1, provision(None)).await;
    let many = "INSERT INTO t WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM n WHERE n < 20000)
                SELECT n FROM n";
    first.good("/execute", 1, json!({"sql": many})).await;
    let base = first.promote(&store, 1).await;
    first.good("/release", 1, json!({})).await;

    first.good("/provision", 5, provision(Some(base.clone()))).await;
    first.insert(5, 20_001, None).await;
    first.lose();

    // Fetched anew by another: only what differs is shipped.
    let second = fresh(&store).await;
    second.good("/provision", 6, provision(Some(base.clone()))).await;
    second.insert(6, 20_001, None).await;
    second.shipped(1).await;
    let name = files(&store).await.into_iter().rfind(|name| name.token == 6).expect("shipped");
    let size = store.stat(&path(&name.path_in("/1"))).await.expect("there").len;
    let whole = store.stat(&path(PATH)).await.expect("there").len;
    assert!(size * 4 < whole, "{size} of {whole}");

    let third = fresh(&store).await;
    let made = third.good("/provision", 7, takeover(Some(base.clone()), 6, 0)).await;
    assert_eq!(made["recovered"]["change"], 1, "{made}");
    assert_eq!(third.values(7).await.len(), 20_001);
    third.insert(7, 20_002, None).await;
    third.shipped(2).await;
    // A promotion in the middle of writing: what comes after it is shipped with all pages.
    let base = third.promote(&store, 7).await;
    assert_eq!(third.insert(7, 20_003, None).await["change"], 3);
    third.shipped(3).await;
    third.lose();
    let fourth = fresh(&store).await;
    let made = fourth.good("/provision", 8, takeover(Some(base), 7, 2)).await;
    assert_eq!((&made["recovered"]["change"], &made["promoted_change"]), (&json!(3), &json!(2)), "{made}");
    assert_eq!(fourth.values(8).await.len(), 20_003);
    second.lose();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_grows_while_the_store_is_away() {
    let store = MemoryStore::new();
    let first = fresh(&store).await;
    first.good("/provision", 1, provision(None)).await;
    first.insert(1, 1, None).await;
    first.shipped(1).await;
    let away = store.inject(Injection::new(Fault::Fail(ErrorKind::TimedOut)).on(Operation::Create));
    for value in 2..=5 {
        first.insert(1, value, None).await;
    }
    let failed = async || {
        let status = first.status().await;
        status["ship"]["error"].is_string().then_some(status)
    };
    let status = first.round("it says so", failed).await;
    assert_eq!(status["ship"]["shipped_change"], 1, "{status}");
    assert!(status["ship"]["unshipped_ms"].is_u64(), "{status}");
    away.release();
    first.shipped(5).await;
    first.lose();
    let second = fresh(&store).await;
    second.good("/provision", 2, takeover(None, 1, 0)).await;
    assert_eq!(second.values(2).await, [1, 2, 3, 4, 5]);
}

/// The lock went to somebody else, and this worker has not heard yet that it is to give up what it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_ships_nothing_under_a_lock_that_is_not_the_newest() {
    let store = MemoryStore::new();
    let bench = fresh(&store).await;
    bench.good("/provision", 1, provision(None)).await;
    let away = store.inject(Injection::new(Fault::Fail(ErrorKind::TimedOut)).on(Operation::Create));
    bench.insert(1, 1, None).await;
    // Its token is written down, and the generation that it names is not there.
    let nowhere = provision(Some(format!("{:032x}", 7)));
    let (good, body) = bench.call("POST", "/provision", 2, nowhere).await;
    assert!(!good, "{body}");
    let Bench { dir, worker } = bench;
    worker.shutdown().await;
    away.release();
    let bench = start(dir, &store).await;
    let status = bench.status().await;
    assert_eq!((&status["token"], &status["ship"]), (&json!(1), &Json::Null), "{status}");
}

/// What a store does that makes a file late: a create of an attempt before, between the close and the rename.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_made_late_is_not_taken_for_what_was_shipped() {
    let id = SegmentId::parse("1234").expect("an id");
    let store = MemoryStore::new();
    // The head of a chain, and a change after one.
    let late: Vec<_> = [1, 3]
        .into_iter()
        .map(|sequence| {
            let part = ShippedName { whole: false, ..ShippedName::new(&id, 1, sequence) };
            let empty = Injection::new(Fault::Replace(Bytes::new()));
            store.inject(empty.on(Operation::Rename).at(&path(&part.path_in("/1"))).times(1))
        })
        .collect();
    let first = fresh(&store).await;
    first.good("/provision", 1, provision(None)).await;
    for value in 1..=3 {
        first.insert(1, value, None).await;
        first.shipped(value).await;
    }
    assert_eq!(late.iter().map(Injected::hits).sum::<u64>(), 2, "both were made late");
    let there = files(&store).await;
    for name in &there {
        let size = store.stat(&path(&name.path_in("/1"))).await.expect("there").len;
        assert!(size > 0, "{name:?} of {there:?}");
    }
    first.lose();
    let second = fresh(&store).await;
    let made = second.good("/provision", 2, takeover(None, 1, 0)).await;
    assert_eq!(
        (&made["recovered"]["change"], &made["recovered"]["unused"]),
        (&json!(3), &Json::Null),
        "{made}"
    );
    assert_eq!(second.values(2).await, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_with_the_chain() {
    let store = MemoryStore::new();
    let first = fresh(&store).await;
    first.good("/provision", 1, provision(None)).await;
    let ballast = "CREATE TABLE ballast AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 999) \
                   SELECT n, hex(randomblob(50)) FROM c";
    first.good("/execute", 1, json!({"sql": ballast})).await;
    first.insert(1, 1, None).await;
    // What is left is shipped before it ends.
    first.worker.shutdown().await;
    let before = files(&store).await;
    assert!(!before.is_empty());
    let first = start(first.dir, &store).await;
    first.insert(1, 2, None).await;
    first.shipped(3).await;
    let after = files(&store).await;
    assert_eq!(after.len(), before.len() + 1, "{after:?}");
    let last = &after[after.len() - 1];
    let small = store.stat(&path(&last.path_in("/1"))).await.expect("there").len;
    let head = store.stat(&path(&after[0].path_in("/1"))).await.expect("there").len;
    assert!(small < head, "changes, not all: {small} and {head}");
    first.lose();
    // The last file is damaged: all before it is there, and the answer says so.
    store.put(&path(&last.path_in("/1")), b"rot".to_vec()).expect("damaged");
    let second = fresh(&store).await;
    let made = second.good("/provision", 2, takeover(None, 1, 0)).await;
    assert_eq!(made["recovered"]["change"], 2, "{made}");
    let damaged = format!("file {}", after.len());
    assert!(made["recovered"]["unused"].as_str().expect("said").contains(&damaged), "{made}");
    assert_eq!(second.values(2).await, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_its_data_makes_nothing_anew_under_a_token_it_had() {
    let store = MemoryStore::new();
    let first = fresh(&store).await;
    first.good("/provision", 1, provision(None)).await;
    first.insert(1, 1, None).await;
    first.shipped(1).await;
    let again = {
        let mut body = provision(None);
        body["again"] = json!(true);
        body
    };
    first.good("/provision", 1, again.clone()).await;
    first.lose();
    let back = fresh(&store).await;
    let (good, body) = back.call("POST", "/provision", 1, again).await;
    assert_eq!((good, &body["error"]["code"]), (false, &json!("segment_not_found")), "{body}");
    // Nor is what it does not know of counted as written to its end.
    let (good, body) = back.call("POST", "/release", 1, json!({})).await;
    assert_eq!((good, &body["error"]["code"]), (false, &json!("segment_not_found")), "{body}");
    back.good("/provision", 2, takeover(None, 1, 0)).await;
    assert_eq!(back.values(2).await, [1]);
}
