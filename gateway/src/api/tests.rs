use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{Request, Response, StatusCode},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{
    Gateway, Settings, StartError,
    api::types::{LeaseRequest, Tier},
    discovery::{memory_store::MemoryStore, system_clock},
    registry::memory::MemoryRegistry,
};

/// A gateway over a store in memory.
pub(crate) struct Fixture {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) gateway: Gateway,
}

impl Fixture {
    /// With segments `1001` to `1005`, discovered.
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let store = MemoryStore::new();
        for n in 1001..=1005 {
            store.write(&format!("/1/{n}.sqlite"), 10, 1000);
        }
        let gateway = start(&store, MemoryRegistry::default(), change).await.expect("a gateway");
        let fixture = Self { store, gateway };
        fixture.send("POST", "/v1/discovery", "").await;
        fixture
    }

    pub(crate) fn router(&self) -> Router {
        self.gateway.router()
    }

    /// From a loopback peer.
    pub(crate) async fn send(&self, method: &str, path: &str, body: &str) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::from(body.to_owned())).expect("a request");
        let (status, text) = self.raw(request, [127, 0, 0, 1]).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(crate) async fn raw(&self, mut request: Request<Body>, peer: [u8; 4]) -> (StatusCode, String) {
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from((peer, 5))));
        let response = self.router().oneshot(request).await.expect("infallible");
        (response.status(), text(response).await)
    }

    pub(crate) async fn register(&self, name: &str, url: &str) {
        self.gateway.registrar().renew(name, &lease(1, url)).await.expect("a lease");
    }

    pub(crate) async fn attach(&self, name: &str, router: Router) {
        self.gateway.attach_local(name, router);
        self.register(name, "local").await;
    }
}

pub(crate) async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn start(
    store: &Arc<MemoryStore>,
    registry: MemoryRegistry,
    change: impl FnOnce(&mut Settings),
) -> Result<Gateway, StartError> {
    let mut settings = Settings::new("/nowhere");
    settings.discovery_interval = Duration::from_secs(3600);
    change(&mut settings);
    Gateway::start_with(settings, store.clone(), || Ok(Box::new(registry)), system_clock()).await
}

pub(crate) fn lease(epoch: u64, url: &str) -> LeaseRequest {
    LeaseRequest {
        epoch,
        url: url.into(),
        tier: Tier::Cold,
        store: "memory:///store".into(),
        weight: 100,
        access: "direct".into(),
        version: "0".into(),
        queries_running: 0,
        hot: None,
    }
}

pub(crate) fn code(answer: &(StatusCode, Value)) -> (u16, &str) {
    (answer.0.as_u16(), answer.1["error"]["code"].as_str().unwrap_or("no error code"))
}

#[tokio::test]
async fn every_error_is_json() {
    let fixture = Fixture::with(|settings| settings.body_bytes_max = 100).await;
    let long = "x".repeat(101);
    for (method, path, body, status, expected) in [
        ("GET", "/", "", 404, "not_found"),
        ("GET", "/v2/segments", "", 404, "not_found"),
        ("GET", "/v1/segments/../livez", "", 404, "not_found"),
        ("GET", "/v1/segments/a/b", "", 404, "not_found"),
        ("PUT", "/v1/segments", "", 405, "method_not_allowed"),
        ("GET", "/v1/segments/1001/query", "", 405, "method_not_allowed"),
        ("GET", "/v1/segments/%2e%2e%2fetc", "", 400, "bad_request"),
        ("GET", "/v1/segments/%2e", "", 400, "bad_request"),
        ("GET", "/v1/segments/a%00b", "", 400, "bad_request"),
        ("GET", "/v1/segments/%ff", "", 400, "bad_request"),
        ("GET", "/v1/segments/a%2Fb", "", 400, "bad_request"),
        ("POST", "/v1/segments/..%2f..%2fx/query", "{}", 400, "bad_request"),
        ("GET", "/v1/segments/9999", "", 404, "segment_not_found"),
        ("POST", "/v1/segments/9999/query", "{}", 404, "segment_not_found"),
        ("POST", "/v1/segments/1001/query", &long, 413, "request_too_large"),
        ("POST", "/v1/segments/1001/query", "{}", 503, "warming"),
        ("GET", "/v1/segments?limit=0", "", 400, "bad_request"),
        ("GET", "/v1/segments?limit=10001", "", 400, "bad_request"),
        ("GET", "/v1/segments?limit=x", "", 400, "bad_request"),
        ("GET", "/v1/segments?after=zz", "", 400, "bad_request"),
        ("GET", "/v1/segments?after=%C3%A9", "", 400, "bad_request"),
        ("GET", "/v1/segments?colour=red", "", 400, "bad_request"),
        ("PUT", "/v1/workers/w", "{", 400, "bad_request"),
        ("PUT", "/v1/workers/w", "{}", 400, "bad_request"),
        ("DELETE", "/v1/workers/w", "", 400, "bad_request"),
        ("POST", "/v1/discovery?full=maybe", "", 400, "bad_request"),
    ] {
        let answer = fixture.send(method, path, body).await;
        assert_eq!(code(&answer), (status, expected), "{method} {path}: {}", answer.1);
        assert!(answer.1["error"]["message"].as_str().is_some_and(|m| !m.is_empty()));
    }
}

#[tokio::test]
async fn content_types() {
    let fixture = Fixture::new().await;
    for (content_type, status) in [
        ("application/json", 503),
        ("application/json; charset=utf-8", 503),
        ("application/x-www-form-urlencoded", 503),
        ("text/plain", 415),
        ("multipart/form-data; boundary=x", 415),
    ] {
        let request = Request::post("/v1/segments/1001/query").header("content-type", content_type);
        let (got, text) =
            fixture.raw(request.body(Body::from("{}")).expect("a request"), [127, 0, 0, 1]).await;
        assert_eq!(got.as_u16(), status, "{content_type}: {text}");
    }
}

#[tokio::test]
async fn the_catalog_in_pages() {
    let fixture = Fixture::new().await;
    let (_, all) = fixture.send("GET", "/v1/segments", "").await;
    assert_eq!(all["total"], 5);
    assert_eq!(all["next"], Value::Null);
    assert_eq!(all["segments"][0]["path"], "/1/1001.sqlite");
    let mut seen = Vec::new();
    let mut next = String::new();
    loop {
        let (_, page) = fixture.send("GET", &format!("/v1/segments?limit=2{next}"), "").await;
        seen.extend(page["segments"].as_array().expect("an array").clone());
        let Some(token) = page["next"].as_str() else { break };
        next = format!("&after={token}");
    }
    assert_eq!(Value::Array(seen), all["segments"]);
    let (_, some) = fixture.send("GET", "/v1/segments?prefix=1003", "").await;
    assert_eq!(some["segments"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn one_segment_and_an_ambiguous_one() {
    let fixture = Fixture::new().await;
    fixture.attach("w1", Router::new()).await;
    let (status, one) = fixture.send("GET", "/v1/segments/1003", "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&one["size"], &one["workers"]), (&json!(10), &json!(["w1"])));
    // Promoted a moment ago: found without waiting for a pass.
    fixture.store.write("/1/1009.sqlite", 3, 2000);
    assert_eq!(fixture.send("GET", "/v1/segments/1009", "").await.1["size"], 3);
    fixture.store.write("/copy/1003.sqlite", 10, 2000);
    fixture.send("POST", "/v1/discovery", "").await;
    let answer = fixture.send("GET", "/v1/segments/1003", "").await;
    assert_eq!(code(&answer), (409, "segment_ambiguous"));
    let message = answer.1["error"]["message"].to_string();
    assert!(message.contains("/1/1003.sqlite, /copy/1003.sqlite"), "{message}");
    fixture.store.down.store(true, Ordering::SeqCst);
    assert_eq!(code(&fixture.send("GET", "/v1/segments/1777", "").await), (503, "store_unavailable"));
    assert_eq!(
        fixture.send("GET", "/v1/segments/1001", "").await.0,
        StatusCode::OK,
        "known without the store"
    );
}

#[tokio::test]
async fn leases_over_http() {
    let fixture = Fixture::new().await;
    let put = |epoch, change: fn(&mut LeaseRequest)| {
        let mut request = lease(epoch, "http://10.0.0.1:6111");
        change(&mut request);
        serde_json::to_string(&request).expect("JSON")
    };
    let answer = fixture.send("PUT", "/v1/workers/w", &put(5, |_| {})).await;
    assert_eq!(answer, (StatusCode::OK, json!({"ttl_ms": 15000, "gateway_epoch": 1})));
    assert_eq!(code(&fixture.send("PUT", "/v1/workers/w", &put(4, |_| {})).await), (409, "conflict"));
    assert_eq!(code(&fixture.send("DELETE", "/v1/workers/w?epoch=4", "").await), (409, "conflict"));
    let other = fixture.send("PUT", "/v1/workers/w", &put(6, |r| r.store = "file:///other".into())).await;
    assert_eq!(code(&other), (409, "conflict"));
    let message = other.1["error"]["message"].as_str().expect("a message");
    assert!(message.contains("file:///other") && message.contains("memory:///store"), "{message}");
    for bad in [
        put(6, |r| r.weight = 0),
        put(6, |r| r.weight = 1001),
        put(6, |r| r.url = "https://h:1".into()),
        put(6, |r| r.url = "http://h:1/path".into()),
        put(6, |r| r.url = "h:1".into()),
        put(6, |r| r.access = "x".repeat(65)),
    ] {
        assert_eq!(code(&fixture.send("PUT", "/v1/workers/w", &bad).await), (400, "bad_request"), "{bad}");
    }
    assert_eq!(code(&fixture.send("PUT", "/v1/workers/a%20b", &put(1, |_| {})).await), (400, "bad_request"));
    let (_, list) = fixture.send("GET", "/v1/workers", "").await;
    assert_eq!(list["workers"].as_array().map(Vec::len), Some(1));
    assert_eq!((&list["workers"][0]["epoch"], &list["workers"][0]["live"]), (&json!(5), &json!(true)));
    assert_eq!(fixture.send("DELETE", "/v1/workers/w?epoch=5", "").await.0, StatusCode::NO_CONTENT);
    assert_eq!(fixture.send("DELETE", "/v1/workers/w?epoch=5", "").await.0, StatusCode::NO_CONTENT);
    assert_eq!(code(&fixture.send("PUT", "/v1/workers/w", &put(5, |_| {})).await), (409, "conflict"));
    assert_eq!(fixture.send("GET", "/v1/workers", "").await.1["workers"][0]["live"], false);
}

#[tokio::test]
async fn who_may_register() {
    let body = || Body::from(serde_json::to_string(&lease(1, "http://10.0.0.1:1")).expect("JSON"));
    let put = |authorization: Option<&str>| {
        let mut request = Request::put("/v1/workers/w");
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        request.body(body()).expect("a request")
    };
    let open = Fixture::new().await;
    assert_eq!(open.raw(put(None), [127, 0, 0, 9]).await.0, StatusCode::OK);
    let (status, text) = open.raw(put(None), [10, 0, 0, 9]).await;
    assert!(status == StatusCode::UNAUTHORIZED && text.contains("secret"), "{text}");
    let unknown_peer = open.router().oneshot(put(None)).await.expect("infallible");
    assert_eq!(unknown_peer.status(), StatusCode::UNAUTHORIZED);

    let closed = Fixture::with(|settings| settings.secret = Some("abc".into())).await;
    for (authorization, status) in [
        (None, 401),
        (Some("Bearer abd"), 401),
        (Some("Bearer ab"), 401),
        (Some("Basic abc"), 401),
        (Some("Bearer abc"), 200),
        (Some("bearer abc"), 200),
    ] {
        let got = closed.raw(put(authorization), [127, 0, 0, 1]).await.0.as_u16();
        assert_eq!(got, status, "{authorization:?}");
    }
    let delete = Request::delete("/v1/workers/w?epoch=1").body(Body::empty()).expect("a request");
    assert_eq!(closed.raw(delete, [127, 0, 0, 1]).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test(start_paused = true)]
async fn ready_when_it_can_answer() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.send("GET", "/livez", "").await, (StatusCode::OK, json!({"live": true})));
    let (status, body) = fixture.send("GET", "/readyz", "").await;
    assert_eq!((status.as_u16(), body["reasons"].as_array().map(Vec::len)), (503, Some(1)), "{body}");
    fixture.attach("w", Router::new()).await;
    assert_eq!(fixture.send("GET", "/readyz", "").await.1, json!({"ready": true, "reasons": []}));
    // Without a worker it is ready as well once it knows that there is none.
    tokio::time::advance(Duration::from_secs(16)).await;
    assert_eq!(fixture.send("GET", "/readyz", "").await.0, StatusCode::OK);
    fixture.gateway.shutdown().await;
    assert_eq!(fixture.send("GET", "/readyz", "").await.0.as_u16(), 503);
    assert_eq!(code(&fixture.send("POST", "/v1/segments/1001/query", "{}").await), (503, "shutting_down"));
}

#[tokio::test]
async fn metrics_and_discovery() {
    let fixture = Fixture::new().await;
    fixture.send("GET", "/v1/segments/9999", "").await;
    let (_, status) = fixture.send("GET", "/v1/discovery", "").await;
    assert_eq!((&status["segments"], &status["directories"]), (&json!(5), &json!(2)));
    assert_eq!(status["last"]["complete"], true);
    let (_, metrics) = fixture.send("GET", "/metrics", "").await;
    let metrics = metrics.as_str().expect("text");
    for line in [
        r#"springhouse_gateway_requests_total{method="GET",route="/v1/segments/{id}",status="404"} 1"#,
        r#"springhouse_gateway_catalog{kind="segments"} 5"#,
        r#"springhouse_gateway_looks_total{outcome="absent"} 1"#,
        r#"springhouse_gateway_discovery_total{what="segments_added"} 5"#,
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} not in\n{metrics}");
    }
}

#[tokio::test]
async fn what_a_start_refuses() {
    let (store, registry) = (MemoryStore::new(), MemoryRegistry::default());
    let first = start(&store, registry.clone(), |_| {}).await.expect("a gateway");
    first.shutdown().await;
    let second = start(&store, registry.clone(), |_| {}).await.expect("its own store again");
    let answer = second.registrar().renew("w", &lease(1, "http://h:1")).await.expect("a lease");
    assert_eq!(answer.gateway_epoch, 2);
    match start(&store, MemoryRegistry::default(), |_| {}).await.map(drop) {
        Err(StartError::StoreOwned(text)) => assert!(text.contains("take_over_store"), "{text}"),
        other => panic!("{other:?}"),
    }
    start(&store, MemoryRegistry::default(), |s| s.take_over_store = true).await.expect("taken over");
    assert!(matches!(start(&store, registry, |_| {}).await.map(drop), Err(StartError::StoreOwned(_))));
    store.down.store(true, Ordering::SeqCst);
    let down = start(&store, MemoryRegistry::default(), |_| {}).await.map(drop);
    assert!(matches!(down, Err(StartError::Store(_))), "{down:?}");
    let empty = start(&store, MemoryRegistry::default(), |s| s.secret = Some(String::new())).await.map(drop);
    assert!(matches!(empty, Err(StartError::Setting(_))), "{empty:?}");
}
