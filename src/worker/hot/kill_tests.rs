//! Killed at each named point of copy, provision and promotion: what was acknowledged is somewhere, what is
//! in the store is whole, and the next token goes on.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use axum::{body::Body, http::Request};
use http_body_util::BodyExt;
use serde_json::{Value as Json, json};
use springhouse_fuse::store::{LocalStore, Store, StorePath};
use springhouse_gateway::api::hot::TOKEN_HEADER;
use tower::ServiceExt;

use super::{
    super::{Worker, WorkerSettings},
    HotSettings,
    tests::Gateway,
};

/// Names the directory to a child.
const CHILD: &str = "SPRINGHOUSE_TEST_HOT_DIR";
const FILE: &str = "/1/1234.sqlite";
const SQL: &str = "SELECT a FROM t ORDER BY a";

struct Bench {
    store: Arc<LocalStore>,
    worker: Worker,
}

impl Bench {
    async fn start(dir: &Path) -> Self {
        let store = Arc::new(LocalStore::new(dir.join("store")));
        let mut settings =
            WorkerSettings::new("w", "file:///x".parse().expect("a URL"), "http://127.0.0.1:1", "/nowhere");
        settings.cold = false;
        settings.query.threads = 2;
        let mut hot = HotSettings::new(dir.join("data"), store.clone());
        hot.quota_bytes = Some(1 << 30);
        settings.hot = Some(hot);
        let worker = Worker::start(settings, Arc::new(Gateway::default())).await.expect("a worker");
        Self { store, worker }
    }

    async fn post(&self, what: &str, token: u64, body: Json) -> (bool, Json) {
        let request = Request::post(format!("/v1/hot/1234/{what}")).header(TOKEN_HEADER, token.to_string());
        let request = request.body(Body::from(body.to_string())).expect("a request");
        let response = self.worker.router().oneshot(request).await.expect("infallible");
        let good = response.status().is_success();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (good, serde_json::from_slice(&body).unwrap_or(Json::Null))
    }

    async fn good(&self, what: &str, token: u64, body: Json) -> Json {
        let (good, body) = self.post(what, token, body).await;
        assert!(good, "{what}: {body}");
        body
    }

    async fn generation(&self) -> Option<String> {
        let path = StorePath::parse(FILE).expect("a path");
        self.store.stat(&path).await.ok().map(|there| there.generation.to_string())
    }

    async fn provision(&self, token: u64) {
        let generation = self.generation().await;
        let body = json!({"path": FILE, "generation": generation, "schema_sql": "CREATE TABLE t(a)"});
        self.good("provision", token, body).await;
    }

    /// Writes `value` and says so once it is acknowledged.
    async fn insert(&self, token: u64, value: u64) {
        self.good("execute", token, json!({"sql": format!("INSERT INTO t VALUES ({value})")})).await;
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nwrote {value}").and_then(|()| out.flush()).expect("told");
    }

    /// What gateway and worker do for a promotion.
    async fn promote(&self, token: u64) {
        let temporary = format!("{FILE}._COPYING_.{token}");
        let uploaded = self.good("upload", token, json!({"temporary": temporary})).await;
        let path = |text: &str| StorePath::parse(text).expect("a path");
        self.store.rename(&path(&temporary), &path(FILE), true).await.expect("renamed");
        let generation = self.generation().await.expect("there");
        self.good("promoted", token, json!({"generation": generation, "change": uploaded["change"]})).await;
    }
}

/// Not a test of its own: the process that is killed.
#[tokio::test]
async fn child() {
    let Some(dir) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let bench = Bench::start(&dir).await;
    bench.provision(1).await;
    bench.insert(1, 1).await;
    bench.promote(1).await;
    bench.insert(1, 2).await;
    // Somebody else replaces it in the store.
    let foreign = dir.join("foreign.sqlite");
    crate::query::make_test_database(&foreign, "CREATE TABLE t(a); INSERT INTO t VALUES (100)");
    std::fs::rename(foreign, dir.join("store").join(&FILE[1..])).expect("replaced");
    bench.provision(2).await;
    bench.insert(2, 3).await;
    bench.promote(2).await;
    bench.insert(2, 4).await;
    bench.good("release", 2, json!({"force": true})).await;
}

fn killed_at(dir: &Path, point: &str) -> Vec<i64> {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["worker::hot::kill_tests::child", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .env("SPRINGHOUSE_FAILPOINTS", format!("{point}*abort"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let wrote = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("wrote ")?.parse().ok());
    let wrote = wrote.collect();
    assert!(!child.wait().expect("its end").success(), "it was to be killed at {point}");
    wrote
}

/// Rows of all databases in `dir`, each of which has to be whole.
fn rows_below(dir: &Path) -> Vec<i64> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let databases = paths.filter(|path| path.extension().is_some_and(|ending| ending == "sqlite"));
    databases.flat_map(|path| crate::query::test_numbers(&path, SQL)).collect()
}

#[tokio::test]
async fn nothing_acknowledged_is_lost() {
    for point in [
        "provision.after_fence=1",
        "provision.after_copy=1",
        "provision.after_record=1",
        "provision.after_fence=2",
        "provision.after_copy=2",
        "provision.after_record=2",
        "copy.before_rename=1",
        "copy.after_rename=1",
        "copy.saved=1",
        "copy.before_rename=2",
        "copy.after_rename=2",
        "keep.before_rename=1",
        "keep.after_rename=1",
        "keep.before_rename=2",
        "keep.after_rename=2",
        "release.after_record=1",
        "promote.after_copy=1",
        "promote.chunk=1",
        "promote.after_upload=1",
        "promote.before_record=1",
        "promote.after_record=1",
        "promote.after_upload=2",
        "promote.before_record=2",
        "write.after_commit=2",
        "write.before_commit=3",
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("store")).expect("a store");
        let wrote = killed_at(dir.path(), point);
        // Whole at every moment, whoever looks.
        let stored = rows_below(&dir.path().join("store/1"));
        let bench = Bench::start(dir.path()).await;
        bench.provision(3).await;
        let (good, _) = bench.post("execute", 2, json!({"sql": "DELETE FROM t"})).await;
        assert!(!good, "{point}: an old token");
        let answer = bench.good("query", 3, json!({"sql": SQL})).await;
        let rows =
            answer["rows"].as_array().expect("rows").iter().map(|row| row[0].as_i64().expect("a number"));
        let mut found: Vec<i64> = rows.chain(stored).collect();
        found.extend(rows_below(&dir.path().join("data/kept")));
        for value in wrote {
            // What the foreign file replaced in the store after it had been promoted is that file's matter.
            assert!(found.contains(&value) || value == 1, "{point}: {value} is not in {found:?}");
        }
        bench.good("execute", 3, json!({"sql": "INSERT INTO t VALUES (50)"})).await;
        bench.promote(3).await;
        assert!(rows_below(&dir.path().join("store/1")).contains(&50), "{point}");
        bench.worker.shutdown().await;
    }
}
