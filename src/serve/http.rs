//! Listening, and the routes that concern a whole process.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, Uri, header},
    response::Response,
    routing::{MethodRouter, get},
};
use prometheus::{Registry, TextEncoder};
use springhouse_fuse::store::OpenedStore;
use springhouse_gateway::api::server;
use tokio::net::TcpListener;
use tower::ServiceExt;

use crate::{
    error::{Exit, Failure},
    shutdown::Shutdown,
};

/// Longest text that one part's `/metrics` or `/readyz` may have, in bytes.
const PART_BYTES_MAX: usize = 16 << 20;

/// Listens on `address`, which `flag` gave. Clients that come before [`serve`] wait in the kernel's queue.
pub(super) async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| Failure::listen(address, flag, &error))
}

/// Where `listener` really listens, when it was asked for any free port.
pub(super) fn local_address(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().map_err(|error| Failure::new(Exit::Failed, format!("own address: {error}")))
}

/// The URL of what listens on `address`; this host where that is every address.
pub(super) fn url(address: SocketAddr) -> String {
    let mut reachable = address;
    if address.ip().is_unspecified() {
        reachable.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{reachable}")
}

/// Answers on `listener` until the process is told to stop, and then lets running answers end for at
/// most `drain_max`.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: &Shutdown,
    drain_max: Duration,
) -> Result<(), Failure> {
    server::serve(listener, router, shutdown.clone().requested(), drain_max)
        .await
        .map_err(|error| Failure::new(Exit::Failed, format!("HTTP: {error}")))
}

/// Text of one part's metrics.
pub(super) type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

/// What the gateway's own `store` counts, as Prometheus has it. The mount counts calls to the same store
/// under the plain names, and a name may appear only once in an answer.
pub(super) fn store_metrics(store: &OpenedStore) -> MetricsText {
    let registry = Registry::new();
    if let Err(error) = store.counters.register(&registry) {
        tracing::error!("metrics of the store: {error}");
    }
    Arc::new(move || {
        let mut families = registry.gather();
        for family in &mut families {
            family.set_name(family.name().replace("springhouse_store_", "springhouse_gateway_store_"));
        }
        TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| format!("# {error}\n"))
    })
}

/// `part`, its `/metrics` followed by those of the store that the process asks.
pub(super) fn with_store_metrics(part: Router, store: MetricsText) -> Router {
    Router::new().route("/metrics", metrics(vec![part.clone()], store)).fallback_service(part)
}

/// The gateway's API on the outside; `/metrics` and `/readyz` for gateway and worker together. The rest
/// of the worker is reached through the gateway.
pub(super) fn both(gateway: Router, worker: Router, store: MetricsText) -> Router {
    let parts = [gateway.clone(), worker.clone()];
    let ready = get(async move || {
        let [gateway, worker] = &parts;
        let answer = ask(gateway, "/readyz").await;
        let workers = ask(worker, "/readyz").await;
        // The answer of the part that is not ready says why; where both are, it is the gateway's.
        if answer.status().is_success() && !workers.status().is_success() { workers } else { answer }
    });
    Router::new()
        .route("/metrics", metrics(vec![gateway.clone(), worker], store))
        .route("/readyz", ready)
        .fallback_service(gateway)
}

/// The metrics of all parts, one after the other: each part's names have a prefix of their own.
fn metrics(parts: Vec<Router>, store: MetricsText) -> MethodRouter {
    get(async move || {
        let mut text = String::new();
        for part in &parts {
            let answer = ask(part, "/metrics").await;
            match to_bytes(answer.into_body(), PART_BYTES_MAX).await {
                Ok(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => tracing::warn!("metrics of a part: {error}"),
            }
        }
        text.push_str(&store());
        ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text)
    })
}

/// The answer of a part of this process to `GET path`.
pub(super) async fn ask(part: &Router, path: &'static str) -> Response {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::from_static(path);
    match part.clone().oneshot(request).await {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;

    fn part(name: &'static str, ready: StatusCode) -> Router {
        Router::new()
            .route("/metrics", get(move || async move { format!("{name}_up 1\n") }))
            .route("/readyz", get(move || async move { (ready, name) }))
            .route("/name", get(move || async move { name }))
    }

    async fn text(answer: Response) -> String {
        let bytes = to_bytes(answer.into_body(), PART_BYTES_MAX).await.expect("a body");
        String::from_utf8(bytes.to_vec()).expect("UTF-8")
    }

    #[tokio::test]
    async fn one_process_answers_for_both_parts() {
        let (good, bad) = (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE);
        let store: MetricsText = Arc::new(|| "store_up 1\n".into());
        let process =
            |gateway, worker| both(part("gateway", gateway), part("worker", worker), Arc::clone(&store));
        let all = process(good, good);
        assert_eq!(text(ask(&all, "/metrics").await).await, "gateway_up 1\nworker_up 1\nstore_up 1\n");
        assert_eq!(text(ask(&all, "/name").await).await, "gateway");
        let ready = ask(&all, "/readyz").await;
        assert_eq!((ready.status(), text(ready).await.as_str()), (good, "gateway"));
        let unready = ask(&process(good, bad), "/readyz").await;
        assert_eq!(unready.status(), bad);
        assert_eq!(text(unready).await, "worker");
        assert_eq!(text(ask(&process(bad, bad), "/readyz").await).await, "gateway");
    }

    #[test]
    fn urls_can_be_reached() {
        let url = |address: &str| url(address.parse().expect("an address"));
        assert_eq!(url("0.0.0.0:6110"), "http://127.0.0.1:6110");
        assert_eq!(url("[::]:1"), "http://[::1]:1");
        assert_eq!(url("10.0.0.1:2"), "http://10.0.0.1:2");
    }
}
