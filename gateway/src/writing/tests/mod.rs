//! A gateway over a registry and a store in memory, with hot workers that exist in name only.

mod at_once;
mod copies;
mod crash;
mod delete;
mod over_http;
mod promote;
mod provision;
mod shipped;
mod supersede;
mod tiers;
mod uploads;
mod worker;

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use self::worker::FakeHot;
use super::SchemaCheck;
use crate::{
    Gateway, Settings,
    api::{
        hot::HotReport,
        tests::{code, lease},
        types::{LeaseAnswer, LeaseRequest, Tier},
    },
    crash::Crash,
    discovery::{memory_store::MemoryStore, system_clock},
    registry::memory::MemoryRegistry,
};

/// Accepts statements that do not contain `wrong`.
struct NoWrong;

#[async_trait::async_trait]
impl SchemaCheck for NoWrong {
    async fn check(&self, sql: &str) -> Result<(), String> {
        if sql.contains("wrong") { Err("near \"wrong\": syntax error".into()) } else { Ok(()) }
    }
}

struct Home {
    store: Arc<MemoryStore>,
    registry: MemoryRegistry,
    gateway: Gateway,
    workers: Vec<Arc<FakeHot>>,
    change: fn(&mut Settings),
}

fn report(quota_bytes: u64) -> HotReport {
    HotReport { quota_bytes, ..HotReport::default() }
}

fn hot_lease(epoch: u64, report: HotReport) -> LeaseRequest {
    LeaseRequest { tier: Tier::Hot, hot: Some(report), ..lease(epoch, "local") }
}

impl Home {
    /// Segments 1001 to 1005 of 10 bytes in the store, and `workers` hot workers `h0`, `h1` … with room.
    async fn new(workers: usize) -> Self {
        Self::with(workers, |_| {}).await
    }

    async fn with(workers: usize, change: fn(&mut Settings)) -> Self {
        let store = MemoryStore::new();
        for n in 1001..=1005 {
            store.write(&format!("/1/{n}.sqlite"), 10, 1000);
        }
        let registry = MemoryRegistry::default();
        *store.crash.lock() = registry.crash.clone();
        let workers: Vec<_> = (0..workers).map(|n| FakeHot::new(&format!("h{n}"), &store)).collect();
        let gateway = open(&store, &registry, change).await;
        let home = Self { store, registry, gateway, workers, change };
        home.greet().await;
        home
    }

    fn crash(&self) -> &Crash {
        &self.registry.crash
    }

    /// Leases for all workers, and a pass of discovery.
    async fn greet(&self) {
        self.gateway.check_schemas_with(Arc::new(NoWrong));
        for worker in &self.workers {
            self.gateway.attach_local(&worker.name, worker.router());
            self.beat(worker, report(1000)).await;
        }
        self.send("POST", "/v1/discovery", json!({})).await;
    }

    async fn beat(&self, worker: &FakeHot, report: HotReport) -> LeaseAnswer {
        self.gateway.registrar().renew(&worker.name, &hot_lease(1, report)).await.expect("a lease")
    }

    /// The gateway's process dies and starts again.
    async fn restart(&mut self) {
        self.gateway.shutdown().await;
        self.crash().disarm();
        self.gateway = open(&self.store, &self.registry, self.change).await;
        self.greet().await;
    }

    async fn send(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        self.send_with(method, path, &[], body).await
    }

    async fn send_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> (StatusCode, Value) {
        let (parts, body) = self.raw(method, path, headers, body).await;
        (parts.status, body)
    }

    async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> (axum::http::response::Parts, Value) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_string())).expect("a request");
        let response = self.gateway.router().oneshot(request).await.expect("infallible");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a whole body").to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        (parts, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn provision(&self, id: &str) -> Value {
        let (status, answer) = self.send("POST", &format!("/v1/segments/{id}/provision"), json!({})).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    async fn execute(&self, id: &str) -> (StatusCode, Value) {
        self.send("POST", &format!("/v1/segments/{id}/execute"), json!({"sql": "insert"})).await
    }

    async fn promote(&self, id: &str) -> (StatusCode, Value) {
        self.send("POST", &format!("/v1/segments/{id}/promote"), json!({})).await
    }

    async fn query(&self, id: &str) -> (StatusCode, Value) {
        self.send("POST", &format!("/v1/segments/{id}/query"), json!({"sql": "select 1"})).await
    }

    async fn show(&self, id: &str) -> Value {
        self.send("GET", &format!("/v1/segments/{id}"), json!({})).await.1
    }

    async fn locks(&self) -> Vec<Value> {
        let (_, answer) = self.send("GET", "/v1/locks", json!({})).await;
        answer["locks"].as_array().expect("a list").clone()
    }

    /// A whole pass of discovery, and what follows from it for locks.
    async fn look_around(&self) {
        self.send("POST", "/v1/discovery?full=true", json!({})).await;
        let writing = &self.gateway.core().writing;
        writing.supersede_all().await;
        // The gateway's own upkeep may have been at it: then this waits for its turn.
        for id in ["1001", "1002", "new1"] {
            drop(writing.turns.take(&crate::segment::SegmentId::parse(id).expect("an id")).await);
        }
        writing.supersede_all().await;
    }

    /// Names of temporary files in the store.
    fn temporaries(&self) -> Vec<String> {
        self.store.files().into_iter().filter(|name| name.contains("_COPYING_")).collect()
    }

    fn worker(&self, name: &Value) -> &Arc<FakeHot> {
        self.workers.iter().find(|worker| *name == *worker.name).expect("one of ours")
    }
}

async fn open(store: &Arc<MemoryStore>, registry: &MemoryRegistry, change: fn(&mut Settings)) -> Gateway {
    let mut settings = Settings::new("/nowhere");
    settings.discovery_interval = Duration::from_secs(3600);
    change(&mut settings);
    let registry = registry.clone();
    Gateway::start_with(settings, store.clone(), || Ok(Box::new(registry)), system_clock())
        .await
        .expect("a gateway")
}
