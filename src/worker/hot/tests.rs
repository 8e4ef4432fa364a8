//! The hot tier as the gateway sees it: a worker's router, over a store in memory that can fail.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    body::Body,
    http::{Method, Request, StatusCode},
};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use springhouse_fuse::{
    error::ErrorKind,
    store::{
        Operation, Store, StorePath,
        memory::{Fault, Injection, MemoryStore},
    },
};
use springhouse_gateway::api::{
    client::{ClientError, Registrar},
    hot::{AssignedSegment, Assignment, IDEMPOTENCY_HEADER, Manifest, ManifestAnswer, TOKEN_HEADER, Token},
    types::{GENERATION_HEADER, LeaseAnswer, LeaseRequest},
};
use tempfile::TempDir;
use tower::ServiceExt;

use super::{
    super::{Worker, WorkerSettings},
    HotSettings,
};

mod lost;
mod superseded;

/// A gateway that grants, listens, and assigns what it is told to.
#[derive(Debug, Default)]
pub(super) struct Gateway {
    assignment: Mutex<Option<Assignment>>,
    manifests: Mutex<Vec<Manifest>>,
    leases: Mutex<Vec<LeaseRequest>>,
    /// What the next manifest is told to be fenced.
    fenced: Mutex<Vec<String>>,
    /// What every manifest is told to be fenced.
    lost: Mutex<Vec<String>>,
    /// The worker said something; it does so twenty times a second, and after each change.
    heard: tokio::sync::Notify,
}

impl Gateway {
    /// Waits until `is` gives something; looks again whenever the worker says something.
    async fn until<T>(&self, mut is: impl AsyncFnMut() -> Option<T>) -> Option<T> {
        let seen = async {
            loop {
                if let Some(seen) = is().await {
                    return seen;
                }
                self.heard.notified().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), seen).await.ok()
    }
}

#[async_trait]
impl Registrar for Gateway {
    async fn renew(&self, _: &str, request: &LeaseRequest) -> Result<LeaseAnswer, ClientError> {
        self.leases.lock().push(request.clone());
        self.heard.notify_one();
        let assignment_version = self.assignment.lock().as_ref().map(|assignment| assignment.version);
        let manifest_version = self.manifests.lock().last().map(|manifest| manifest.version);
        Ok(LeaseAnswer { ttl_ms: 150, gateway_epoch: 1, assignment_version, manifest_version })
    }

    async fn release(&self, _: &str, _: u64) -> Result<(), ClientError> {
        Ok(())
    }

    async fn manifest(&self, _: &str, manifest: &Manifest) -> Result<ManifestAnswer, ClientError> {
        let mut manifests = self.manifests.lock();
        let known = manifests.last().map(|manifest| manifest.version);
        let send_all = manifest.base.is_some() && manifest.base != known;
        if !send_all {
            manifests.push(manifest.clone());
        }
        self.heard.notify_one();
        let mut fenced = if send_all { Vec::new() } else { std::mem::take(&mut *self.fenced.lock()) };
        fenced.extend(self.lost.lock().iter().filter(|_| !send_all).cloned());
        Ok(ManifestAnswer { send_all, fenced })
    }

    async fn assignment(&self, _: &str, _: u64, _: Option<u64>) -> Result<Assignment, ClientError> {
        Ok(self.assignment.lock().clone().expect("asked only when there is one"))
    }
}

struct Bench {
    dir: TempDir,
    store: MemoryStore,
    gateway: Arc<Gateway>,
    worker: Worker,
}

const PATH: &str = "/1234/1234567.sqlite";
const SQL: &str = "SELECT a FROM t ORDER BY a";

fn path(text: &str) -> StorePath {
    StorePath::parse(text).expect("a path")
}

fn database(sql: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.sqlite");
    crate::query::make_test_database(&path, sql);
    std::fs::read(path).expect("a file")
}

async fn start(dir: &TempDir, store: &MemoryStore, gateway: &Arc<Gateway>, quota: Option<u64>) -> Worker {
    let url = "file:///memory".parse().expect("a URL");
    let mut settings = WorkerSettings::new("w-1", url, "http://127.0.0.1:1", "/nowhere");
    settings.cold = false;
    settings.query.threads = 2;
    settings.query.timeout_max = Duration::from_secs(300);
    let hot = HotSettings::new(dir.path(), Arc::new(store.clone()));
    settings.hot = Some(HotSettings { quota_bytes: quota, ..hot });
    Worker::start(settings, gateway.clone()).await.expect("a worker")
}

impl Bench {
    async fn new() -> Self {
        let (dir, store, gateway) =
            (tempfile::tempdir().expect("a directory"), MemoryStore::new(), Arc::<Gateway>::default());
        let worker = start(&dir, &store, &gateway, Some(1 << 30)).await;
        Self { dir, store, gateway, worker }
    }

    /// Stops the worker and starts another on the same directory.
    async fn restart(self) -> Self {
        self.worker.shutdown().await;
        let worker = start(&self.dir, &self.store, &self.gateway, Some(1 << 30)).await;
        Self { worker, ..self }
    }

    async fn send(
        &self,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: Json,
    ) -> (StatusCode, Option<String>, Json) {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request = request.body(body).expect("a request");
        let response = self.worker.router().oneshot(request).await.expect("infallible");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(body.to_vec()).expect("UTF-8");
        let generation = parts.headers.get(GENERATION_HEADER);
        let generation = generation.map(|value| value.to_str().expect("ASCII").to_owned());
        (parts.status, generation, serde_json::from_str(&text).unwrap_or(Json::String(text)))
    }

    async fn post(&self, what: &str, token: Token, body: Json) -> (StatusCode, Json) {
        let uri = format!("/v1/hot/1234567/{what}");
        let (status, _, body) =
            self.send(Method::POST, &uri, &[(TOKEN_HEADER, &token.to_string())], body).await;
        (status, body)
    }

    async fn good(&self, what: &str, token: Token, body: Json) -> Json {
        let (status, body) = self.post(what, token, body).await;
        assert_eq!(status, StatusCode::OK, "{what}: {body}");
        body
    }

    async fn refused(&self, what: &str, token: Token, body: Json) -> String {
        let (status, body) = self.post(what, token, body).await;
        assert!(!status.is_success(), "{what}: {body}");
        body["error"]["code"].as_str().expect("a code").to_owned()
    }

    async fn provision(&self, token: Token, generation: Option<&str>) -> Json {
        let schema = "CREATE TABLE t(a)";
        self.good("provision", token, json!({"path": PATH, "generation": generation, "schema_sql": schema}))
            .await
    }

    async fn insert(&self, token: Token, value: u64) -> Json {
        self.good("execute", token, json!({"sql": format!("INSERT INTO t VALUES ({value})")})).await
    }

    /// Rows and the name of what they were read from.
    async fn rows(&self) -> (Json, String) {
        let uri = "/v1/hot/1234567/query";
        let (status, generation, body) = self.send(Method::POST, uri, &[], json!({"sql": SQL})).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        (body["rows"].clone(), generation.expect("a generation"))
    }

    async fn show(&self) -> Json {
        self.send(Method::GET, "/v1/hot/1234567", &[], Json::Null).await.2
    }

    /// What the gateway does with an upload.
    async fn promote(&self, token: Token) -> String {
        let temporary = format!("{PATH}._COPYING_.{token}");
        let uploaded = self.good("upload", token, json!({"temporary": temporary})).await;
        self.store.rename(&path(&temporary), &path(PATH), true).await.expect("renamed");
        let there = self.store.stat(&path(PATH)).await.expect("there");
        assert_eq!(uploaded["size"], there.len);
        let generation = there.generation.to_string();
        let body = json!({"generation": generation, "change": uploaded["change"]});
        self.good("promoted", token, body).await;
        generation
    }

    async fn rows_in_store(&self) -> Vec<i64> {
        let reader = self.store.open(&path(PATH), None).await.expect("there");
        let bytes = reader.read_at(0, usize::MAX >> 1).await.expect("read");
        rows_of(&bytes)
    }

    fn kept(&self) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(self.dir.path().join("kept")).expect("a directory");
        entries.map(|entry| entry.expect("an entry").path()).collect()
    }

    fn assign(&self, version: u64, hold: &[(&str, String, u64)], drop: &[&str]) {
        let hold = hold.iter().map(|(path, generation, size)| AssignedSegment {
            id: path.rsplit('/').next().expect("a name").trim_end_matches(".sqlite").into(),
            path: (*path).into(),
            generation: generation.clone(),
            size: *size,
        });
        let drop = drop.iter().map(|id| (*id).to_owned()).collect();
        *self.gateway.assignment.lock() =
            Some(Assignment { version, base: Some(0), hold: hold.collect(), drop });
    }

    /// Waits until the segment is as `is` wants it.
    async fn until(&self, is: impl Fn(&Json) -> bool) -> Json {
        let shown = self.gateway.until(async || Some(self.show().await).filter(|shown| is(shown))).await;
        match shown {
            Some(shown) => shown,
            None => panic!("it is still {}", self.show().await),
        }
    }
}

fn rows_of(bytes: &[u8]) -> Vec<i64> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.sqlite");
    std::fs::write(&path, bytes).expect("written");
    crate::query::test_numbers(&path, SQL)
}

#[tokio::test]
async fn provision_write_read_promote_release() {
    let bench = Bench::new().await;
    let shown = bench.provision(5, None).await;
    assert_eq!(
        (&shown["state"], &shown["token"], &shown["change"]),
        (&json!("available"), &json!(5), &json!(0))
    );
    assert_eq!(bench.provision(5, None).await["token"], 5, "again");
    assert_eq!(bench.rows().await.0, json!([]));
    let answer = bench.insert(5, 1).await;
    assert_eq!(
        answer,
        json!({"results": [{"rows_affected": 1, "last_insert_rowid": 1}], "change": 1, "repeated": false})
    );
    let (rows, first) = bench.rows().await;
    assert_eq!(rows, json!([[1]]), "an acknowledged write is seen");
    bench.insert(5, 2).await;
    let (_, second) = bench.rows().await;
    assert_ne!(first, second, "other contents have another name");
    assert_eq!(bench.rows().await.1, second);

    let generation = bench.promote(5).await;
    assert_eq!(bench.rows_in_store().await, [1, 2]);
    assert_eq!(bench.rows().await, (json!([[1], [2]]), generation.clone()), "the same as in the store");
    bench.insert(5, 3).await;
    assert_ne!(bench.rows().await.1, generation);
    assert_eq!(bench.refused("release", 5, Json::Null).await, "unpromoted");
    bench.insert(5, 4).await;
    let generation = bench.promote(5).await;
    assert_eq!(bench.rows_in_store().await, [1, 2, 3, 4]);
    let shown = bench.good("release", 5, Json::Null).await;
    assert_eq!((&shown["token"], &shown["generation"]), (&Json::Null, &json!(generation)));
    assert_eq!(bench.rows().await, (json!([[1], [2], [3], [4]]), generation.clone()));
    assert_eq!(bench.refused("execute", 5, json!({"sql": "DELETE FROM t"})).await, "not_provisioned");
    assert_eq!(bench.kept(), Vec::<std::path::PathBuf>::new());

    // And again, from what is here.
    bench.provision(6, Some(&generation)).await;
    assert_eq!(bench.insert(6, 5).await["change"], 5);
    assert_eq!(bench.store.calls(Operation::Open), 2 + 2, "it was not fetched");
    let bench = bench.restart().await;
    assert_eq!(bench.show().await["change"], 5);
    bench.insert(6, 6).await;
    assert_eq!(bench.rows().await.0, json!([[1], [2], [3], [4], [5], [6]]));
    bench.worker.shutdown().await;
}

#[tokio::test]
async fn a_fence_outlives_its_record() {
    let bench = Bench::new().await;
    bench.provision(10, None).await;
    let token = [(TOKEN_HEADER, "11")];
    let (status, _, body) = bench.send(Method::DELETE, "/v1/hot/1234567", &token, Json::Null).await;
    assert!(status.is_success(), "{body}");
    let record = || {
        let all = std::fs::read_dir(bench.dir.path().join("segments")).expect("a directory").flatten();
        let shards = all.filter_map(|shard| std::fs::read_dir(shard.path()).ok());
        shards.flatten().flatten().any(|entry| entry.file_name() == "1234567.json")
    };
    let prune = |keep| {
        let hot = bench.worker.hot.clone().expect("a hot worker");
        hot.prune(keep).expect("disk")
    };
    assert!(record(), "it says which tokens are old");
    assert_eq!((prune(Duration::from_secs(3600)), record()), (0, true), "too young");
    assert_eq!((prune(Duration::ZERO), record()), (1, false));
    let body = json!({"path": PATH, "generation": null, "schema_sql": ""});
    assert_eq!(bench.refused("provision", 10, body.clone()).await, "fenced");
    let bench = bench.restart().await;
    assert_eq!(bench.refused("provision", 10, body).await, "fenced");
    bench.provision(12, None).await;
}

#[tokio::test]
async fn an_existing_generation_is_fetched_first_and_old_tokens_change_nothing() {
    let bench = Bench::new().await;
    let bytes = database("CREATE TABLE t(a); INSERT INTO t VALUES (7)");
    let generation = bench.store.put(&path(PATH), bytes).expect("put").to_string();
    let body = json!({"path": PATH, "generation": null, "schema_sql": ""});
    assert_eq!(bench.refused("provision", 5, body).await, "conflict", "the store has one");
    bench.provision(10, Some(&generation)).await;
    assert_eq!(bench.rows().await, (json!([[7]]), generation.clone()));
    bench.insert(10, 8).await;
    for (what, body) in [
        ("execute", json!({"sql": "DELETE FROM t"})),
        ("upload", json!({"temporary": format!("{PATH}._COPYING_.9")})),
        ("promoted", json!({"generation": generation, "change": 1})),
        ("release", json!({"force": true})),
        ("provision", json!({"path": PATH, "generation": generation, "schema_sql": ""})),
    ] {
        assert_eq!(bench.refused(what, 9, body).await, "fenced", "{what}");
    }
    for (what, body) in [
        ("execute", json!({"sql": "DELETE FROM t"})),
        ("upload", json!({"temporary": format!("{PATH}._COPYING_.11")})),
    ] {
        assert_eq!(bench.refused(what, 11, body).await, "not_provisioned", "{what}");
    }
    let (status, _, _) = bench.send(Method::DELETE, "/v1/hot/1234567", &[], Json::Null).await;
    assert_eq!(status, StatusCode::CONFLICT, "locked");

    // A higher token for the same generation goes on with what is here.
    bench.provision(12, Some(&generation)).await;
    assert_eq!(bench.rows().await.0, json!([[7], [8]]));
    assert_eq!(bench.refused("execute", 10, json!({"sql": "DELETE FROM t"})).await, "fenced");
    // Somebody else has replaced it in the store: our writes are kept, and not mixed with theirs.
    let bytes = database("CREATE TABLE t(a); INSERT INTO t VALUES (100)");
    let newer = bench.store.put(&path(PATH), bytes).expect("put").to_string();
    bench.provision(13, Some(&newer)).await;
    assert_eq!(bench.rows().await, (json!([[100]]), newer));
    let kept = bench.kept();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(kept[0].file_name().expect("a name").to_string_lossy().starts_with("1234567.12."), "{kept:?}");
    assert_eq!(crate::query::test_numbers(&kept[0], SQL), [7, 8]);
    let query = json!({"sql": SQL});
    assert_eq!(bench.refused("query", 12, query.clone()).await, "fenced", "it wants to see every write");
    bench.good("query", 13, query).await;
    let bench = bench.restart().await;
    assert_eq!(bench.refused("execute", 12, json!({"sql": "DELETE FROM t"})).await, "fenced");
    bench.insert(13, 101).await;
    assert_eq!(bench.good("release", 13, json!({"force": true})).await["state"], "gone");
    assert_eq!(bench.kept().len(), 2);
    assert_eq!(
        bench.refused("provision", 12, json!({"path": PATH, "generation": null, "schema_sql": ""})).await,
        "fenced"
    );
}

#[tokio::test]
async fn keys_limits_and_what_is_wrong_with_a_request() {
    let bench = Bench::new().await;
    bench.provision(5, None).await;
    let insert = json!({"sql": "INSERT INTO t VALUES (1)"});
    let headers = [(TOKEN_HEADER, "5"), (IDEMPOTENCY_HEADER, "abc")];
    for repeated in [false, true, true] {
        let (status, _, body) =
            bench.send(Method::POST, "/v1/hot/1234567/execute", &headers, insert.clone()).await;
        assert_eq!(
            (status, &body["repeated"], &body["change"]),
            (StatusCode::OK, &json!(repeated), &json!(1))
        );
    }
    for (headers, body, status, code) in [
        (&[][..], insert.clone(), 400, "bad_request"),
        (&[(TOKEN_HEADER, "x")], insert.clone(), 400, "bad_request"),
        (&[(TOKEN_HEADER, "5"), (IDEMPOTENCY_HEADER, "a b")], insert.clone(), 400, "bad_request"),
        (&headers, json!({"sql": "INSERT INTO t VALUES (2)"}), 409, "conflict"),
        (&[(TOKEN_HEADER, "5")], json!({}), 400, "bad_request"),
        (&[(TOKEN_HEADER, "5")], json!({"sql": "x", "statements": []}), 400, "bad_request"),
        (&[(TOKEN_HEADER, "5")], json!({"sql": "x", "params": []}), 400, "bad_request"),
        (
            &[(TOKEN_HEADER, "5")],
            json!({"statements": [{"sql": "SELECT ?", "params": [[1]]}]}),
            400,
            "bad_request",
        ),
        (&[(TOKEN_HEADER, "5")], json!({"sql": "ATTACH 'x' AS y"}), 403, "sql_forbidden"),
        (&[(TOKEN_HEADER, "5")], json!({"sql": "SELEC"}), 400, "sql_error"),
        (&[(TOKEN_HEADER, "5"), ("springhouse-deadline-ms", "0")], insert.clone(), 504, "deadline_exceeded"),
    ] {
        let (got, _, answer) =
            bench.send(Method::POST, "/v1/hot/1234567/execute", headers, body.clone()).await;
        assert_eq!((got.as_u16(), answer["error"]["code"].as_str()), (status, Some(code)), "{body} {answer}");
        assert!(!answer.to_string().contains(bench.dir.path().to_str().expect("UTF-8")), "{answer}");
    }
    let temporary = json!({"temporary": "/1234/other.sqlite._COPYING_.5"});
    assert_eq!(bench.refused("upload", 5, temporary).await, "bad_request");
    let other = json!({"path": "/1234/other.sqlite", "generation": null, "schema_sql": ""});
    assert_eq!(bench.refused("provision", 6, other).await, "bad_request");
    let (status, _, _) = bench.send(Method::GET, "/v1/hot/none", &[], Json::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _, why) = bench.send(Method::GET, "/health/none", &[], Json::Null).await;
    assert_eq!((status.as_u16(), why), (500, json!("nothing is known of it on this worker\n")));
    let (status, _, _) = bench.send(Method::GET, "/health/1234567", &[], Json::Null).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _, body) = bench.send(Method::POST, "/v1/hot/none/query", &[], json!({"sql": SQL})).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (503, &json!("no_worker")));
    // A schema that does not hold leaves nothing.
    let bad = json!({"path": "/1/1234.sqlite", "generation": null, "schema_sql": "CREATE TABLE a(b); SELEC"});
    let (status, _, body) =
        bench.send(Method::POST, "/v1/hot/1234/provision", &[(TOKEN_HEADER, "1")], bad).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (400, &json!("sql_error")));
    let (_, _, list) = bench.send(Method::GET, "/v1/hot", &[], Json::Null).await;
    assert_eq!(list["segments"].as_array().expect("a list").len(), 1);
    let (_, _, figures) = bench.send(Method::GET, "/metrics", &[], Json::Null).await;
    for line in [
        "springhouse_write_transactions_total 1",
        "springhouse_write_repeated_total 2",
        r#"springhouse_hot_copies{state="available"} 1"#,
        "springhouse_hot_unpromoted_transactions 1",
    ] {
        assert!(figures.as_str().expect("text").contains(line), "{line} in {figures}");
    }
}

#[tokio::test]
async fn copies_follow_the_assignment_and_outlive_the_store() {
    let bench = Bench::new().await;
    let put = |n: i64| {
        let bytes = database(&format!("CREATE TABLE t(a); INSERT INTO t VALUES ({n})"));
        let size = bytes.len() as u64;
        (bench.store.put(&path(PATH), bytes).expect("put").to_string(), size)
    };
    let (first, size) = put(1);
    bench.assign(1, &[(PATH, first.clone(), size), ("/no/none.sqlite", first.clone(), 5)], &[]);
    let shown = bench.until(|shown| shown["state"] == "available").await;
    assert_eq!((&shown["generation"], &shown["size"]), (&json!(first), &json!(size)));
    assert_eq!(shown["checksum"].as_str().map(str::len), Some(32));
    assert_eq!(bench.rows().await, (json!([[1]]), first.clone()));
    // In the meantime it has been told, and what failed as well.
    let told = || {
        let manifests = bench.gateway.manifests.lock();
        manifests.iter().flat_map(|m| m.segments.clone()).map(|s| (s.id, s.state)).collect::<Vec<_>>()
    };
    use springhouse_gateway::api::hot::CopyState as S;
    for expected in [("1234567".to_owned(), S::Available), ("none".to_owned(), S::Refused)] {
        let said = bench.gateway.until(async || told().contains(&expected).then_some(())).await;
        assert!(said.is_some(), "{expected:?} in {:?}", told());
    }
    let (second, size) = put(2);
    bench.assign(2, &[(PATH, second.clone(), size)], &[]);
    bench.until(|shown| shown["generation"] == json!(second)).await;
    assert_eq!(bench.rows().await, (json!([[2]]), second.clone()));

    let _down = bench.store.inject(Injection::new(Fault::Fail(ErrorKind::Unavailable)));
    let bench = bench.restart().await;
    let rows = bench.rows().await;
    assert_eq!(rows, (json!([[2]]), second), "{}", bench.show().await);
    bench.assign(3, &[], &["1234567"]);
    let gone = |shown: &Json| shown["state"] == "gone" || !shown["error"].is_null();
    bench.until(gone).await;
    assert_eq!(std::fs::read_dir(bench.dir.path().join("parts")).expect("a directory").count(), 0);
    let lease = bench.gateway.leases.lock().last().cloned().expect("a lease");
    let report = lease.hot.expect("a report");
    assert_eq!((report.quota_bytes, report.full), (1 << 30, false));
}

#[tokio::test]
async fn a_damaged_copy_is_taken_out_and_fetched_again() {
    let bench = Bench::new().await;
    let bytes = database("CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    let size = bytes.len() as u64;
    let generation = bench.store.put(&path(PATH), bytes).expect("put").to_string();
    bench.assign(1, &[(PATH, generation.clone(), size)], &[]);
    bench.until(|shown| shown["state"] == "available").await;
    bench.worker.shutdown().await;
    let shards = std::fs::read_dir(bench.dir.path().join("segments")).expect("a directory");
    let file = shards
        .map(|shard| shard.expect("a shard").path().join("1234567.sqlite"))
        .find(|file| file.exists())
        .expect("the copy");
    use std::os::unix::fs::FileExt;
    let copy = std::fs::OpenOptions::new().write(true).open(&file).expect("the copy");
    copy.write_all_at(b"rotten", size - 6).expect("rot");
    let worker = start(&bench.dir, &bench.store, &bench.gateway, None).await;
    let bench = Bench { worker, ..bench };
    let opens = bench.store.calls(Operation::Open);
    let fetched = async || {
        let again = bench.store.calls(Operation::Open) > opens;
        (again && bench.show().await["state"] == "available").then_some(())
    };
    bench.gateway.until(fetched).await;
    assert!(bench.store.calls(Operation::Open) > opens, "{}", bench.show().await);
    assert_eq!(bench.rows().await, (json!([[1]]), generation));
}

#[tokio::test]
async fn what_has_no_room_or_no_database_in_it_is_refused_with_the_reason() {
    let bench = Bench::new().await;
    bench.worker.shutdown().await;
    let worker = start(&bench.dir, &bench.store, &bench.gateway, Some(100)).await;
    let bench = Bench { worker, ..bench };
    let generation = bench.store.put(&path(PATH), vec![b'x'; 8192]).expect("put").to_string();
    bench.assign(1, &[(PATH, generation.clone(), 8192)], &[]);
    let shown = bench.until(|shown| shown["state"] == "refused").await;
    assert!(shown["reason"].as_str().expect("why").contains("quota of 100"), "{shown}");
    let body = json!({"path": PATH, "generation": generation, "schema_sql": ""});
    assert_eq!(bench.refused("provision", 5, body.clone()).await, "no_room");
    let bench = bench.restart().await;
    let (status, answer) = bench.post("provision", 5, body).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (422, &json!("segment_corrupt")), "{answer}");
}

#[tokio::test]
async fn a_copy_follows_the_store_after_it_was_promoted_from_here() {
    let bench = Bench::new().await;
    bench.provision(5, None).await;
    bench.insert(5, 1).await;
    bench.promote(5).await;
    bench.good("release", 5, json!({})).await;
    let bytes = database("CREATE TABLE t(a); INSERT INTO t VALUES (7)");
    let size = bytes.len() as u64;
    let generation = bench.store.put(&path(PATH), bytes).expect("put").to_string();
    bench.assign(1, &[(PATH, generation.clone(), size)], &[]);
    bench.until(|shown| shown["generation"] == generation && shown["state"] == "available").await;
    assert_eq!(bench.rows().await, (json!([[7]]), generation));
}

#[tokio::test]
async fn an_upload_is_made_once() {
    let bench = Bench::new().await;
    bench.provision(5, None).await;
    bench.insert(5, 1).await;
    let temporary = format!("{PATH}._COPYING_.5.7");
    let asked = json!({"temporary": temporary});
    bench.good("upload", 5, asked.clone()).await;
    let there = bench.store.stat(&path(&temporary)).await.expect("there");
    bench.insert(5, 2).await;
    assert_eq!(bench.refused("upload", 5, asked.clone()).await, "conflict");
    let bench = bench.restart().await;
    assert_eq!(bench.refused("upload", 5, asked).await, "conflict", "whatever happened in between");
    assert_eq!(bench.store.stat(&path(&temporary)).await.expect("there").generation, there.generation);
    bench.good("upload", 5, json!({"temporary": format!("{PATH}._COPYING_.5.8")})).await;
}
