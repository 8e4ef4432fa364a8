//! How fast a segment is written: `cargo run --release --example writes [DIR]`.
//!
//! Through the worker's HTTP service, without a network: single rows from 64 clients, which share
//! commits; and batches of rows from one. Every answer is durable. DIR is on the disk to be measured.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::Request,
};
use springhouse::worker::{HotSettings, Worker, WorkerSettings};
use springhouse_fuse::store::memory::MemoryStore;
use springhouse_gateway::api::{
    client::{ClientError, Registrar},
    hot::{Assignment, Manifest, ManifestAnswer, TOKEN_HEADER},
    types::{LeaseAnswer, LeaseRequest},
};
use tower::ServiceExt;

const CLIENTS: usize = 64;
const TIME: Duration = Duration::from_secs(5);
const BATCH_ROWS: usize = 10_000;

/// A gateway that knows no hot tier.
struct Alone;

#[async_trait]
impl Registrar for Alone {
    async fn renew(&self, _: &str, _: &LeaseRequest) -> Result<LeaseAnswer, ClientError> {
        Ok(LeaseAnswer { ttl_ms: 60_000, gateway_epoch: 1, assignment_version: None, manifest_version: None })
    }

    async fn release(&self, _: &str, _: u64) -> Result<(), ClientError> {
        Ok(())
    }

    async fn manifest(&self, _: &str, _: &Manifest) -> Result<ManifestAnswer, ClientError> {
        Ok(ManifestAnswer { send_all: false, fenced: Vec::new() })
    }

    async fn assignment(&self, _: &str, _: u64, _: Option<u64>) -> Result<Assignment, ClientError> {
        Ok(Assignment { version: 0, base: None, hold: Vec::new(), drop: Vec::new() })
    }
}

async fn post(router: &Router, what: &str, key: Option<String>, body: String) {
    let mut request = Request::post(format!("/v1/hot/bench/{what}")).header(TOKEN_HEADER, "1");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let request = request.body(Body::from(body)).expect("a request");
    let response = router.clone().oneshot(request).await.expect("infallible");
    let status = response.status();
    let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    assert!(status.is_success(), "{what}: {status} {}", String::from_utf8_lossy(&body));
}

/// Transactions a second, and the time of the slowest of a hundred, in ms.
async fn single_rows(router: &Router, keys: bool) -> (f64, f64) {
    let begun = Instant::now();
    let clients = (0..CLIENTS).map(|client| {
        let router = router.clone();
        tokio::spawn(async move {
            let mut times = Vec::new();
            while begun.elapsed() < TIME {
                let number = times.len();
                let body = format!(
                    r#"{{"statements":[{{"sql":"INSERT INTO t(a,b,c) VALUES (?,?,?)","params":[{client},{number},"some text of a crawler"]}}]}}"#
                );
                let asked = Instant::now();
                post(&router, "execute", keys.then(|| format!("{client}-{number}")), body).await;
                times.push(asked.elapsed());
            }
            times
        })
    });
    let mut times = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        times.extend(client.await.expect("a client"));
    }
    times.sort_unstable();
    let slow = times[times.len() * 99 / 100];
    (times.len() as f64 / begun.elapsed().as_secs_f64(), slow.as_secs_f64() * 1e3)
}

/// Rows a second.
async fn batches(router: &Router) -> f64 {
    let rows: Vec<String> =
        (0..BATCH_ROWS).map(|row| format!(r#"[{row},{},"some text of a crawler"]"#, row * 7)).collect();
    let body = format!(
        r#"{{"statements":[{{"sql":"INSERT INTO t(a,b,c) VALUES (?,?,?)","rows":[{}]}}]}}"#,
        rows.join(",")
    );
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < TIME {
        post(router, "execute", None, body.clone()).await;
        count += BATCH_ROWS;
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let parent = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    let dir = tempfile::tempdir_in(parent)?;
    let url = "file:///memory".parse().expect("a URL");
    let mut settings = WorkerSettings::new("bench", url, "http://127.0.0.1:1", "/nowhere");
    settings.cold = false;
    settings.hot = Some(HotSettings::new(dir.path(), Arc::new(MemoryStore::new())));
    let worker = Worker::start(settings, Arc::new(Alone)).await.expect("a worker");
    let router = worker.router();
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, a INT, b INT, c TEXT)";
    let body = format!(r#"{{"path":"/be/bench.sqlite","generation":null,"schema_sql":"{schema}"}}"#);
    post(&router, "provision", None, body).await;

    let (plain, plain_slow) = single_rows(&router, false).await;
    let (keyed, keyed_slow) = single_rows(&router, true).await;
    let rows = batches(&router).await;
    worker.shutdown().await;
    let mut out = io::stdout().lock();
    writeln!(out, "| {CLIENTS} clients, single rows | transactions/s | p99 ms |\n|---|---|---|")?;
    writeln!(out, "| without idempotency keys | {plain:.0} | {plain_slow:.1} |")?;
    writeln!(out, "| with | {keyed:.0} | {keyed_slow:.1} |\n")?;
    writeln!(out, "| 1 client, {BATCH_ROWS} rows in a request | rows/s |\n|---|---|\n| | {rows:.0} |")
}
