//! The hot tier's half of the worker's HTTP service: what the gateway asks of it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::{Body, Bytes, to_bytes},
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header::ACCEPT},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde::{Deserialize, de::DeserializeOwned};
use springhouse_fuse::store::Generation;
use springhouse_gateway::{
    api::{
        error::{ApiError, ErrorCode},
        hot::{
            CHANGE_HEADER, CopyState, ExecuteAnswer, ExecuteRequest, HotAside, HotList, HotPromoted,
            HotProvision, HotSegment, HotStatus, HotUpload, HotUploaded, IDEMPOTENCY_HEADER, ReleaseRequest,
            Script, Statements, TOKEN_HEADER, Token,
        },
        optimize::{HotOptimize, HotOptimized},
        ship::HotProvisioned,
        types::DEADLINE_HEADER,
    },
    segment::SegmentId,
    trough::ROWS_CONTENT_TYPE,
};
use xxhash_rust::xxh3::xxh3_128;

use super::{Hot, files::not_here};
use crate::{
    clock,
    query::write::{Execute, Key},
};

/// Most bytes of a request that writes.
const EXECUTE_BYTES_MAX: usize = 256 << 20;
/// Most bytes of any other, a schema included.
const BODY_BYTES_MAX: usize = 4 << 20;
/// How long a body may take to come where the request has no deadline.
const BODY_TIME_MAX: Duration = Duration::from_secs(60);
/// Longest idempotency key.
const KEY_BYTES_MAX: usize = 200;
/// A body of more bytes is read on a thread that may be busy for a while.
const PARSE_BYTES: usize = 64 << 10;

/// Needs the cluster secret.
pub(in crate::worker) fn router<S: Clone + Send + Sync + 'static>(hot: Arc<Hot>) -> Router<S> {
    Router::new()
        .route("/v1/hot", get(list))
        .route("/v1/hot/{id}", get(show).delete(remove))
        .route("/v1/hot/{id}/provision", post(provision))
        .route("/v1/hot/{id}/execute", post(execute))
        .route("/v1/hot/{id}/upload", post(upload))
        .route("/v1/hot/{id}/promoted", post(promoted))
        .route("/v1/hot/{id}/optimize", post(optimize))
        .route("/v1/hot/{id}/release", post(release))
        .route("/v1/hot/{id}/superseded", post(superseded))
        .route("/v1/hot/{id}/work", delete(stop))
        .with_state(hot)
}

/// Needs none: for those who watch over workers.
pub(in crate::worker) fn health<S: Clone + Send + Sync + 'static>(hot: Arc<Hot>) -> Router<S> {
    Router::new().route("/health/{id}", get(healthy)).with_state(hot)
}

/// A copy that a query reads.
pub(in crate::worker) struct Reading {
    /// For the engine.
    pub(in crate::worker) path: String,
    /// What idle connections to it are kept by.
    pub(in crate::worker) key: Generation,
    /// Keeps it from being removed.
    pub(in crate::worker) held: Arc<()>,
}

impl Hot {
    /// The copy of `id` for a query. With a token, the query wants to see every write under it.
    pub(in crate::worker) fn read(&self, id: &SegmentId, headers: &HeaderMap) -> Result<Reading, ApiError> {
        let segment = self.find(id.as_str()).ok_or_else(|| not_here("nothing is known of it here"))?;
        let token = token_if_given(headers)?;
        let key = {
            let state = segment.state.lock();
            if let Some(token) = token {
                state.check_token(token)?;
            }
            state.readable()?.key
        };
        Ok(Reading { path: segment.engine_path(), key, held: segment.hold() })
    }
}

type Answer<T> = Result<Json<T>, ApiError>;

fn bad(why: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, why)
}

fn parse_id(id: &str) -> Result<SegmentId, ApiError> {
    SegmentId::parse(id).map_err(|error| bad(error.to_string()))
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, ApiError> {
    match headers.get(name).map(HeaderValue::to_str) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(_)) => Err(bad(format!("header {name} is not ASCII"))),
    }
}

fn token_if_given(headers: &HeaderMap) -> Result<Option<Token>, ApiError> {
    header(headers, TOKEN_HEADER)?
        .map(|text| text.parse().map_err(|_| bad(format!("header {TOKEN_HEADER}: {text:?} is no token"))))
        .transpose()
}

fn token(headers: &HeaderMap) -> Result<Token, ApiError> {
    token_if_given(headers)?.ok_or_else(|| bad(format!("header {TOKEN_HEADER} is missing")))
}

async fn read(body: Body, bytes_max: usize, until: Instant) -> Result<Bytes, ApiError> {
    tokio::time::timeout_at(until.into(), to_bytes(body, bytes_max))
        .await
        .map_err(|_| {
            ApiError::new(ErrorCode::DeadlineExceeded, "the deadline passed before the request was here")
        })?
        .map_err(|_| {
            ApiError::new(
                ErrorCode::RequestTooLarge,
                format!("the request was cut short or is longer than {bytes_max} bytes"),
            )
        })
}

/// The body as `T`; an empty one is the default where there is one.
async fn json<T: DeserializeOwned>(body: Body, empty: Option<T>) -> Result<T, ApiError> {
    let bytes = read(body, BODY_BYTES_MAX, clock::now() + BODY_TIME_MAX).await?;
    match empty {
        Some(empty) if bytes.iter().all(u8::is_ascii_whitespace) => Ok(empty),
        _ => serde_json::from_slice(&bytes).map_err(|error| bad(format!("the body: {error}"))),
    }
}

async fn list(State(hot): State<Arc<Hot>>) -> Json<HotList> {
    Json(HotList { segments: hot.list() })
}

async fn show(State(hot): State<Arc<Hot>>, Path(id): Path<String>) -> Answer<HotStatus> {
    let segment = hot
        .find(parse_id(&id)?.as_str())
        .ok_or_else(|| ApiError::new(ErrorCode::SegmentNotFound, "nothing is known of it on this worker"))?;
    let state = segment.state.lock();
    let promoted = state.record.copy.as_ref().map_or(0, |copy| copy.promoted_change);
    let (work, ship) =
        (state.work.clone(), state.shipping.as_ref().map(|shipping| shipping.status(promoted)));
    drop(state);
    Ok(Json(HotStatus { segment: segment.show(), work, ship }))
}

async fn provision(
    State(hot): State<Arc<Hot>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<HotProvisioned> {
    let (id, token) = (parse_id(&id)?, token(&headers)?);
    let asked: HotProvision = json(body, None).await?;
    hot.provision(id, token, asked).await.map(Json)
}

async fn upload(
    State(hot): State<Arc<Hot>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<HotUploaded> {
    let (id, token) = (parse_id(&id)?, token(&headers)?);
    let asked: HotUpload = json(body, None).await?;
    hot.upload(&id, token, &asked).await.map(Json)
}

async fn optimize(
    State(hot): State<Arc<Hot>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<HotOptimized> {
    let (id, token) = (parse_id(&id)?, token(&headers)?);
    let asked: HotOptimize = json(body, None).await?;
    hot.optimize(&id, token, &asked).await.map(Json)
}

async fn promoted(
    State(hot): State<Arc<Hot>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<HotSegment> {
    let (id, token) = (parse_id(&id)?, token(&headers)?);
    let asked: HotPromoted = json(body, None).await?;
    if Generation::parse(&asked.generation).is_none() {
        return Err(bad(format!("{:?} is no generation", asked.generation)));
    }
    hot.promoted(&id, token, asked).await.map(Json)
}

async fn release(
    State(hot): State<Arc<Hot>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<HotSegment> {
    let (id, token) = (parse_id(&id)?, token(&headers)?);
    let asked: ReleaseRequest = json(body, Some(ReleaseRequest::default())).await?;
    hot.release(&id, token, asked.force).await.map(Json)
}

async fn superseded(
    State(hot): State<Arc<Hot>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Answer<HotAside> {
    hot.superseded(&parse_id(&id)?, token(&headers)?).await.map(Json)
}

async fn remove(
    State(hot): State<Arc<Hot>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    hot.delete(&parse_id(&id)?, token_if_given(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends a copy or an upload that is under way.
async fn stop(State(hot): State<Arc<Hot>>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    if let Some(segment) = hot.find(parse_id(&id)?.as_str()) {
        segment.state.lock().stop_work();
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn healthy(State(hot): State<Arc<Hot>>, Path(id): Path<String>) -> Response {
    let why = match parse_id(&id).map(|id| hot.find(id.as_str()).map(|segment| segment.show())) {
        Err(error) => error.message,
        Ok(None) => "nothing is known of it on this worker".into(),
        Ok(Some(segment)) => match segment.state {
            CopyState::Available | CopyState::Stale => return (StatusCode::OK, "ok\n").into_response(),
            CopyState::Assigned => "its copy was not begun, or is being taken away".into(),
            CopyState::Fetching => format!("{} of {} bytes are copied", segment.fetched, segment.size),
            CopyState::Refused => segment.reason.unwrap_or_else(|| "refused".into()),
            CopyState::Gone => "it is not on this worker any more".into(),
        },
    };
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")).into_response()
}

/// The two kinds of [`ExecuteRequest`] as one, so that an error says what is wrong with which member.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Either {
    #[serde(default)]
    sql: Option<String>,
    #[serde(default)]
    statements: Option<Vec<springhouse_gateway::api::hot::Statement>>,
    #[serde(default)]
    timeout_ms: Option<u64>,
}

fn parse_execute(bytes: &[u8], is_trough: bool) -> Result<(ExecuteRequest, Option<u64>, u128), ApiError> {
    let Either { sql, statements, timeout_ms } =
        serde_json::from_slice(bytes).map_err(|error| bad(format!("the body: {error}")))?;
    let request = match (sql, statements) {
        (Some(sql), None) if is_trough => ExecuteRequest::Trough(sql),
        (Some(sql), None) => ExecuteRequest::Script(Script { sql, timeout_ms }),
        (None, Some(statements)) => ExecuteRequest::Statements(Statements { statements, timeout_ms }),
        _ => return Err(bad("the body has either sql or statements")),
    };
    Ok((request, timeout_ms, xxh3_128(bytes)))
}

async fn execute(
    State(hot): State<Arc<Hot>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<([(&'static str, String); 1], Json<ExecuteAnswer>), ApiError> {
    let arrived = clock::now();
    let (id, token) = (parse_id(&id)?, token(&headers)?);
    let left = header(&headers, DEADLINE_HEADER)?
        .map(|digits| digits.parse().map_err(|_| bad(format!("{digits:?} is no time in ms"))))
        .transpose()?;
    let key = header(&headers, IDEMPOTENCY_HEADER)?;
    if let Some(key) = key
        && (key.is_empty() || key.len() > KEY_BYTES_MAX || !key.bytes().all(|b| b.is_ascii_graphic()))
    {
        return Err(bad(format!("header {IDEMPOTENCY_HEADER} has 1 to {KEY_BYTES_MAX} visible characters")));
    }
    let longest = hot.write.limits.timeout_max;
    let patience = left.map_or(longest, Duration::from_millis).min(longest);
    let bytes = read(body, EXECUTE_BYTES_MAX, arrived + patience).await?;
    let size = bytes.len();
    let is_trough = header(&headers, ACCEPT.as_str())? == Some(ROWS_CONTENT_TYPE);
    let (request, timeout_ms, digest) = if size > PARSE_BYTES {
        super::blocking(move || parse_execute(&bytes, is_trough)).await?
    } else {
        parse_execute(&bytes, is_trough)?
    };
    let deadline = arrived + timeout_ms.map_or(patience, |ms| Duration::from_millis(ms).min(patience));
    let key = key.map(|text| Key { text: text.to_owned(), digest });
    let answer = hot.execute(&id, token, Execute { request, key, deadline, size }).await?;
    Ok(([(CHANGE_HEADER, answer.change.to_string())], Json(answer)))
}
