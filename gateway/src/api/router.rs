//! Paths, and what is counted of every request.

use std::sync::Arc;

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::Method,
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::{get, post, put},
};
use tokio::time::Instant;

use super::{
    copies,
    error::{ApiError, ErrorCode},
    health, optimize, registry, schemas, segments, tiers, verify, work, workers, writes,
};
use crate::gateway::Core;

/// The whole API.
pub(crate) fn router(core: Arc<Core>) -> Router {
    let paths = Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/v1/segments", get(segments::list))
        .route("/v1/segments/{id}", get(segments::get).delete(writes::delete))
        .route("/v1/segments/{id}/query", post(segments::query))
        .route("/v1/segments/{id}/provision", post(writes::provision))
        .route("/v1/segments/{id}/execute", post(writes::execute))
        .route("/v1/segments/{id}/promote", post(writes::promote))
        .route("/v1/segments/{id}/release", post(writes::release))
        .route("/v1/segments/{id}/raise", post(copies::raise))
        .route("/v1/segments/{id}/lower", post(copies::lower))
        .route("/v1/segments/{id}/pin/{worker}", put(copies::pin).delete(copies::unpin))
        .route("/v1/segments/{id}/optimize", post(optimize::optimize))
        .route("/v1/segments/{id}/verify", post(verify::verify))
        .route("/v1/segments/{id}/cancel", post(work::cancel))
        .route("/v1/work", get(work::list))
        .route("/v1/locks", get(writes::locks))
        .route("/v1/rules", get(tiers::rules))
        .route("/v1/tiers", get(tiers::list))
        .route("/v1/segments/{id}/tier", get(tiers::explain))
        .route("/v1/schemas", get(schemas::list))
        .route("/v1/schemas/{name}", get(schemas::get).put(schemas::put))
        .route("/v1/schemas/{name}/versions", get(schemas::versions))
        .route("/v1/workers", get(workers::list))
        .route("/v1/workers/{name}", put(workers::renew).delete(workers::release))
        .route("/v1/workers/{name}/manifest", put(copies::manifest))
        .route("/v1/workers/{name}/assignment", get(copies::assignment))
        .route("/v1/workers/{name}/drain", post(copies::drain).delete(copies::undrain))
        .route("/v1/registry/export", get(registry::export))
        .route("/v1/registry/verify", get(registry::verify))
        .route("/v1/discovery", get(segments::discovery).post(segments::discover))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(core.clone());
    counted(paths, core, None)
}

/// `router` with its requests counted: by the paths that they match, or all under one name.
pub(crate) fn counted(router: Router, core: Arc<Core>, name: Option<&'static str>) -> Router {
    router.layer(from_fn_with_state((core, name), count))
}

async fn no_such_path(request: Request) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no {}", request.uri().path()))
}

async fn no_such_method(method: Method, request: Request) -> ApiError {
    ApiError::new(ErrorCode::MethodNotAllowed, format!("{method} is not allowed on {}", request.uri().path()))
}

/// In flight until dropped: also when the client goes away before there is an answer.
struct Counted(prometheus::IntGauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

async fn count(
    State((core, name)): State<(Arc<Core>, Option<&'static str>)>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    // The pattern, not the path: labels must be few.
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let method = match *request.method() {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    };
    core.metrics.in_flight.inc();
    let counted = Counted(core.metrics.in_flight.clone());
    let response = next.run(request).await;
    drop(counted);
    let route = name.or(matched.as_ref().map(MatchedPath::as_str)).unwrap_or("none");
    core.metrics.requests.with_label_values(&[route, method, response.status().as_str()]).inc();
    core.metrics.seconds.with_label_values(&[route]).observe(started.elapsed().as_secs_f64());
    response
}
