//! The worker's HTTP service.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::{Body, Bytes, to_bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::StreamExt;
use prometheus::{Registry, TextEncoder};
use springhouse_fuse::store::{Generation, StorePath};
use springhouse_gateway::{
    api::{
        error::{ApiError, ErrorCode},
        types::{
            DEADLINE_HEADER, EXPECTED_GENERATION_HEADER, GENERATION_HEADER, PATH_HEADER, QueryRequest,
            WORKER_HEADER,
        },
        verify::{FileVerified, FileVerify},
        work::WorkList,
    },
    segment::SegmentId,
};
use tokio::sync::watch;

use super::{
    accept::negotiate,
    hot::{self, Hot},
    lease::LeaseState,
    verify::Verifier,
};
use crate::{
    clock,
    mount::ControlClient,
    query::{Engine, Query, SegmentFiles},
};

/// Answer header: time to the first row (to the end, for a small answer), in us.
const ELAPSED_HEADER: HeaderName = HeaderName::from_static("springhouse-elapsed-us");
/// Most bytes of a request: the statement and its parameters.
const BODY_BYTES_MAX: usize = 16 << 20;

/// What the handlers share.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: HeaderValue,
    pub(super) engine: Arc<Engine>,
    pub(super) files: Arc<dyn SegmentFiles>,
    pub(super) registry: Registry,
    pub(super) secret: Option<String>,
    pub(super) timeout_max: Duration,
    pub(super) lease: watch::Receiver<LeaseState>,
    pub(super) stopping: AtomicBool,
    /// Of the own mount, whose figures are shown with the worker's.
    pub(super) mount: Option<ControlClient>,
    /// Copies, if it has some.
    pub(super) hot: Option<Arc<Hot>>,
    /// Whether it also answers in place.
    pub(super) cold: bool,
    pub(super) verifier: Verifier,
}

pub(super) fn router(service: Arc<Service>) -> Router {
    let hot = match &service.hot {
        Some(hot) => hot::http::router(Arc::clone(hot)).route("/v1/hot/{id}/query", post(query_copy)),
        None => Router::new(),
    };
    Router::new()
        .route("/v1/segments/{id}/query", post(query))
        .route("/v1/segments/{id}/verify", post(verify))
        .route("/v1/hot/{id}/verify", post(verify_copy))
        .route("/v1/work", get(work))
        .merge(hot)
        .route_layer(middleware::from_fn_with_state(Arc::clone(&service), authorize))
        .merge(match &service.hot {
            Some(hot) => hot::http::health(Arc::clone(hot)),
            None => Router::new(),
        })
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .method_not_allowed_fallback(|| async {
            ApiError::new(ErrorCode::MethodNotAllowed, "this path exists, but not for this method")
        })
        .fallback(|| async { ApiError::new(ErrorCode::NotFound, "a worker has no such path") })
        .with_state(service)
}

/// Only who knows the cluster secret may ask; compared in a time that tells nothing about it.
async fn authorize(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    if let Some(secret) = &service.secret {
        let given = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
            .unwrap_or_default();
        let same = given.len() == secret.len()
            && given.iter().zip(secret.as_bytes()).fold(0, |bits, (a, b)| bits | (a ^ b)) == 0;
        if !same {
            return ApiError::new(ErrorCode::Unauthorized, "the cluster secret is missing or wrong")
                .into_response();
        }
    }
    next.run(request).await
}

/// From the store; a worker that has copies only answers from those.
async fn query(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let from = if service.cold { Source::Store } else { Source::Copy };
    respond(&service, from, &id, &headers, body).await
}

async fn query_copy(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    respond(&service, Source::Copy, &id, &headers, body).await
}

/// What a query is answered from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Store,
    Copy,
}

async fn respond(service: &Service, from: Source, id: &str, headers: &HeaderMap, body: Body) -> Response {
    let arrived = clock::now();
    let mut response = match answer(service, from, id, headers, body, arrived).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    let elapsed =
        u64::try_from(clock::now().saturating_duration_since(arrived).as_micros()).unwrap_or(u64::MAX);
    response.headers_mut().insert(ELAPSED_HEADER, HeaderValue::from(elapsed));
    response.headers_mut().insert(WORKER_HEADER, service.name.clone());
    response
}

async fn answer(
    service: &Service,
    from: Source,
    id: &str,
    headers: &HeaderMap,
    body: Body,
    arrived: Instant,
) -> Result<Response, ApiError> {
    let bad = |why: String| ApiError::new(ErrorCode::BadRequest, why);
    let id = SegmentId::parse(id).map_err(|e| bad(e.to_string()))?;
    let path = path_of(&id, text(headers, PATH_HEADER)?)?;
    let mut expected = match text(headers, EXPECTED_GENERATION_HEADER)? {
        Some(digits) => {
            Some(Generation::parse(digits).ok_or_else(|| bad(format!("{digits:?} is not a generation")))?)
        }
        None => None,
    };
    let left = match text(headers, DEADLINE_HEADER)? {
        Some(digits) => Some(digits.parse::<u64>().map_err(|_| bad(format!("{digits:?} is no time in ms")))?),
        None => None,
    };
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = negotiate(accept)?;
    if let Some(kind) = text(headers, header::CONTENT_TYPE.as_str())?
        && !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
    {
        return Err(ApiError::new(
            ErrorCode::UnsupportedMediaType,
            format!("the body is {kind}; it must be application/json"),
        ));
    }
    let patience = left.map_or(service.timeout_max, Duration::from_millis).min(service.timeout_max);
    let body = tokio::time::timeout_at((arrived + patience).into(), to_bytes(body, BODY_BYTES_MAX))
        .await
        .map_err(|_| {
            ApiError::new(ErrorCode::DeadlineExceeded, "the deadline passed before the request was here")
        })?
        .map_err(|_| {
            ApiError::new(
                ErrorCode::RequestTooLarge,
                format!("the request was cut short or is longer than {BODY_BYTES_MAX} bytes"),
            )
        })?;
    let request: QueryRequest =
        serde_json::from_slice(&body).map_err(|e| bad(format!("the body is not a query: {e}")))?;
    let timeout = [left, request.timeout_ms]
        .into_iter()
        .flatten()
        .map(Duration::from_millis)
        .fold(service.timeout_max, Duration::min);
    let mut path = path;
    let mut held = None;
    if from == Source::Copy {
        let copy = service.hot.as_ref().map(|hot| hot.read(&id, headers));
        let copy =
            copy.unwrap_or_else(|| Err(ApiError::new(ErrorCode::NoWorker, "this worker has no copies")))?;
        (path, expected, held) = (copy.path, Some(copy.key), Some(copy.held));
    }
    let answer = service
        .engine
        .query(Query {
            path,
            expected,
            sql: request.sql,
            params: request.params,
            rows_max: request.max_rows,
            format,
            deadline: arrived + timeout,
        })
        .await?;
    let generation = HeaderValue::try_from(answer.generation.to_string())
        .map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))?;
    let body = match answer.whole() {
        Some(bytes) => Body::from(bytes),
        None => Body::from_stream(answer.into_stream().inspect(move |_| {
            // A copy is not removed while an answer from it is on its way.
            let _held = &held;
        })),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    response.headers_mut().insert(GENERATION_HEADER, generation);
    Ok(response)
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, ApiError> {
    match headers.get(name).map(HeaderValue::to_str) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(_)) => Err(ApiError::new(ErrorCode::BadRequest, format!("header {name} is not ASCII"))),
    }
}

/// The segment's path: as the gateway says, if it is a clean one of that segment, else where the layout
/// puts it.
fn path_of(id: &SegmentId, given: Option<&str>) -> Result<String, ApiError> {
    let Some(given) = given else { return Ok(id.path_in(&id.canonical_dir())) };
    let bad = |why: String| ApiError::new(ErrorCode::BadRequest, format!("path: {why}"));
    let path = StorePath::parse(given).map_err(|e| bad(e.to_string()))?;
    if path.as_str() != given {
        return Err(bad(format!("{given:?} is not a clean path; {path} is")));
    }
    if SegmentId::from_file_name(path.name()).as_ref() != Some(id) {
        return Err(bad(format!("{given:?} is not a path of segment {id}")));
    }
    Ok(path.as_str().to_owned())
}

async fn verify(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<FileVerified>, ApiError> {
    let (id, asked) = asked_to_verify(&id, &body)?;
    service.verifier.in_store(&id, &asked.path, asked.depth).await.map(Json)
}

async fn verify_copy(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<FileVerified>, ApiError> {
    let (id, asked) = asked_to_verify(&id, &body)?;
    service.verifier.copy(&id, asked.depth).await.map(Json)
}

fn asked_to_verify(id: &str, body: &[u8]) -> Result<(SegmentId, FileVerify), ApiError> {
    let bad = |why: String| ApiError::new(ErrorCode::BadRequest, why);
    let id = SegmentId::parse(id).map_err(|error| bad(error.to_string()))?;
    let asked: FileVerify =
        serde_json::from_slice(body).map_err(|error| bad(format!("the body: {error}")))?;
    path_of(&id, Some(&asked.path))?;
    Ok((id, asked))
}

async fn work(State(service): State<Arc<Service>>) -> Json<WorkList> {
    let mut work = service.hot.as_ref().map_or_else(Vec::new, |hot| hot.work());
    work.append(&mut service.verifier.work());
    work.sort_by(|a, b| a.segment.cmp(&b.segment));
    Json(WorkList { work, silent: Vec::new() })
}

async fn ready(State(service): State<Arc<Service>>) -> Response {
    let why = if service.stopping.load(Ordering::Relaxed) {
        "shutting down".to_owned()
    } else if let Err(error) = service.files.epoch() {
        error.message
    } else {
        match &*service.lease.borrow() {
            LeaseState::Held => return (StatusCode::OK, "ok\n").into_response(),
            LeaseState::Asking => "waiting for a lease".to_owned(),
            LeaseState::Unanswered(reason) => format!("no lease: {reason}"),
            LeaseState::Refused(reason) => format!("no lease, refused for good: {reason}"),
        }
    };
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
}

async fn metrics(State(service): State<Arc<Service>>) -> Response {
    if let Some(hot) = &service.hot {
        hot.update_metrics();
    }
    let mut body = match TextEncoder::new().encode_to_string(&service.registry.gather()) {
        Ok(body) => body,
        Err(error) => return ApiError::new(ErrorCode::Internal, error.to_string()).into_response(),
    };
    if let Some(mount) = &service.mount {
        body.push_str(&super::mount_metrics(mount).await);
    }
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], body).into_response()
}
