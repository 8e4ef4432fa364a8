//! A worker as the gateway sees it: its router, over a local store opened directly.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use axum::{
    body::Body,
    http::{Method, Request, StatusCode, header},
    response::Response,
};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use springhouse_gateway::api::{
    client::{ClientError, Registrar},
    hot::{Assignment, Manifest, ManifestAnswer},
    types::{
        DEADLINE_HEADER, EXPECTED_GENERATION_HEADER, GENERATION_HEADER, LeaseAnswer, LeaseRequest,
        PATH_HEADER, WORKER_HEADER,
    },
};
use tempfile::TempDir;
use tower::ServiceExt;

use super::*;
use crate::query;

/// Grants every lease and remembers what was said.
#[derive(Debug, Default)]
struct Granting {
    leases: Mutex<Vec<LeaseRequest>>,
    released: Mutex<Vec<u64>>,
    asked: tokio::sync::Notify,
}

#[async_trait]
impl Registrar for Granting {
    async fn renew(&self, _: &str, request: &LeaseRequest) -> Result<LeaseAnswer, ClientError> {
        self.leases.lock().push(request.clone());
        self.asked.notify_one();
        Ok(LeaseAnswer { ttl_ms: 10_000, gateway_epoch: 1, assignment_version: None, manifest_version: None })
    }

    async fn release(&self, _: &str, epoch: u64) -> Result<(), ClientError> {
        self.released.lock().push(epoch);
        Ok(())
    }

    async fn manifest(&self, _: &str, _: &Manifest) -> Result<ManifestAnswer, ClientError> {
        Ok(ManifestAnswer { send_all: false, fenced: Vec::new() })
    }

    async fn assignment(&self, _: &str, _: u64, _: Option<u64>) -> Result<Assignment, ClientError> {
        Ok(Assignment { version: 0, base: None, hold: vec![], drop: vec![] })
    }
}

struct Bench {
    dir: TempDir,
    worker: Worker,
    registrar: Arc<Granting>,
}

async fn start(secret: Option<&str>) -> Bench {
    query::init().expect("SQLite fits");
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("1234")).expect("mkdir");
    database(&dir.path().join("1234/1234567.sqlite"), "from the place of the layout");
    database(&dir.path().join("other.sqlite"), "from the root");
    let store = format!("file://{}", dir.path().display()).parse().expect("a URL");
    let mut settings = WorkerSettings::new("w-1", store, "http://127.0.0.1:1", "/nowhere");
    settings.access = Access::Direct;
    settings.cluster_secret = secret.map(Into::into);
    settings.query.threads = 2;
    let registrar = Arc::new(Granting::default());
    let worker = Worker::start(settings, registrar.clone()).await.expect("a worker");
    Bench { dir, worker, registrar }
}

fn database(path: &Path, text: &str) {
    crate::query::make_test_database(path, &format!("CREATE TABLE t AS SELECT '{text}' AS a"));
}

impl Bench {
    async fn send(&self, request: Request<Body>) -> (StatusCode, Response<()>, String) {
        let response = self.worker.router().oneshot(request).await.expect("infallible");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(body.to_vec()).expect("UTF-8");
        (parts.status, Response::from_parts(parts, ()), text)
    }

    async fn ask(&self, id: &str, headers: &[(&str, &str)], body: Json) -> (StatusCode, Response<()>, Json) {
        let mut request = Request::post(format!("/v1/segments/{id}/query"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_string())).expect("a request");
        let (status, response, text) = self.send(request).await;
        (status, response, serde_json::from_str(&text).unwrap_or(Json::String(text)))
    }
}

#[tokio::test]
async fn a_query_over_http() {
    let bench = start(None).await;
    let (status, response, body) = bench.ask("1234567", &[], json!({"sql": "SELECT a FROM t"})).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["rows"], json!([["from the place of the layout"]]));
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    assert_eq!(response.headers()[WORKER_HEADER], "w-1");
    assert_eq!(body["generation"], response.headers()[GENERATION_HEADER].to_str().expect("ASCII"));
    assert!(response.headers().contains_key("springhouse-elapsed-us"));

    let headers = [
        (PATH_HEADER, "/other.sqlite"),
        (EXPECTED_GENERATION_HEADER, "00000000000000000000000000000000"),
        (DEADLINE_HEADER, "5000"),
        ("accept", "application/x-ndjson"),
        ("content-type", "application/json; charset=utf-8"),
    ];
    let body = json!({"sql": "SELECT a, ? FROM t", "params": [7]});
    let (status, response, body) = bench.ask("other", &headers, body).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/x-ndjson");
    let lines: Vec<&str> = body.as_str().expect("lines").lines().collect();
    assert_eq!(lines[1], r#"["from the root",7]"#);
    assert_eq!(lines[2], r#"{"end":{"rows":1,"truncated":false}}"#);
}

#[tokio::test]
async fn errors_have_their_status_and_never_a_path_of_the_host() {
    let bench = start(None).await;
    let sql = json!({"sql": "SELECT a FROM t"});
    for (id, headers, body, status, code) in [
        ("none", &[][..], sql.clone(), 404, "segment_not_found"),
        (".hidden", &[], sql.clone(), 400, "bad_request"),
        ("%2e%2e%2fx", &[], sql.clone(), 400, "bad_request"),
        ("other", &[(PATH_HEADER, "/../other.sqlite")], sql.clone(), 400, "bad_request"),
        ("other", &[(PATH_HEADER, "//other.sqlite")], sql.clone(), 400, "bad_request"),
        ("other", &[(PATH_HEADER, "/1234/1234567.sqlite")], sql.clone(), 400, "bad_request"),
        ("other", &[(PATH_HEADER, "/etc/passwd")], sql.clone(), 400, "bad_request"),
        ("other", &[(EXPECTED_GENERATION_HEADER, "x")], sql.clone(), 400, "bad_request"),
        ("other", &[(DEADLINE_HEADER, "soon")], sql.clone(), 400, "bad_request"),
        ("other", &[("accept", "text/html")], sql.clone(), 406, "not_acceptable"),
        ("other", &[("content-type", "text/plain")], sql.clone(), 415, "unsupported_media_type"),
        ("other", &[(PATH_HEADER, "/other.sqlite")], json!({"sql": "SELEC"}), 400, "sql_error"),
        ("other", &[(PATH_HEADER, "/other.sqlite")], json!({"sql": "DROP TABLE t"}), 403, "sql_forbidden"),
        ("other", &[(PATH_HEADER, "/other.sqlite")], json!({"sql": "SELECT 1", "x": 1}), 400, "bad_request"),
        (
            "other",
            &[(PATH_HEADER, "/other.sqlite"), (DEADLINE_HEADER, "0")],
            sql.clone(),
            504,
            "deadline_exceeded",
        ),
        ("other", &[], json!([]), 400, "bad_request"),
        ("other", &[], json!({"sql": "x".repeat(17 << 20)}), 413, "request_too_large"),
    ] {
        let (got, response, body) = bench.ask(id, headers, body).await;
        assert_eq!(
            (got.as_u16(), body["error"]["code"].as_str()),
            (status, Some(code)),
            "{id} {headers:?} {body}"
        );
        assert_eq!(response.headers()[WORKER_HEADER], "w-1");
        assert!(!body.to_string().contains(bench.dir.path().to_str().expect("UTF-8")), "{body}");
    }
    let get = Request::builder().method(Method::GET);
    let request = get.uri("/v1/segments/other/query").body(Body::empty()).expect("a request");
    assert_eq!(bench.send(request).await.0, StatusCode::METHOD_NOT_ALLOWED);
    let request = Request::get("/nothing").body(Body::empty()).expect("a request");
    assert_eq!(bench.send(request).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_cluster_secret_guards_queries_only() {
    let bench = start(Some("s3cret")).await;
    let sql = json!({"sql": "SELECT a FROM t"});
    for (header, expected) in [
        (None, StatusCode::UNAUTHORIZED),
        (Some("Bearer s3creT"), StatusCode::UNAUTHORIZED),
        (Some("Bearer s3cret1"), StatusCode::UNAUTHORIZED),
        (Some("s3cret"), StatusCode::UNAUTHORIZED),
        (Some("Bearer s3cret"), StatusCode::OK),
    ] {
        let headers: Vec<_> = header.map(|value| ("authorization", value)).into_iter().collect();
        assert_eq!(bench.ask("1234567", &headers, sql.clone()).await.0, expected, "{header:?}");
    }
    let request = Request::get("/livez").body(Body::empty()).expect("a request");
    assert_eq!(bench.send(request).await.0, StatusCode::OK);
}

#[tokio::test]
async fn lease_health_figures_and_a_clean_stop() {
    let bench = start(None).await;
    let get = |path: &str| Request::get(path).body(Body::empty()).expect("a request");
    while bench.registrar.leases.lock().is_empty() {
        bench.registrar.asked.notified().await;
    }
    bench.ask("1234567", &[], json!({"sql": "SELECT a FROM t"})).await;
    bench.ask("1234567", &[], json!({"sql": "DROP TABLE t"})).await;
    let lease = bench.registrar.leases.lock()[0].clone();
    assert_eq!((lease.tier, lease.access.as_str(), lease.weight), (Tier::Cold, "direct", 100));
    let mut state = bench.worker.service.lease.clone();
    state.wait_for(|state| *state == LeaseState::Held).await.expect("held");
    assert_eq!(bench.send(get("/readyz")).await.0, StatusCode::OK);
    let (_, _, figures) = bench.send(get("/metrics")).await;
    for line in [
        r#"springhouse_queries_total{outcome="ok"} 1"#,
        r#"springhouse_queries_total{outcome="sql_forbidden"} 1"#,
        "springhouse_query_rows_total 1",
        "springhouse_pool_opens_total 1",
    ] {
        assert!(figures.contains(line), "{line} in {figures}");
    }
    let (router, registrar) = (bench.worker.router(), Arc::clone(&bench.registrar));
    bench.worker.shutdown().await;
    assert_eq!(*registrar.released.lock(), [lease.epoch]);
    let response = router.oneshot(get("/readyz")).await.expect("infallible");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

/// A client that sends half of its request and waits must not hold anything for ever.
#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_come_ends_with_its_deadline() {
    let bench = start(None).await;
    let body = Body::from_stream(futures::stream::pending::<Result<&str, std::convert::Infallible>>());
    let request = Request::post("/v1/segments/other/query").header(DEADLINE_HEADER, "2000").body(body);
    let (status, _, text) = bench.send(request.expect("a request")).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{text}");
}
