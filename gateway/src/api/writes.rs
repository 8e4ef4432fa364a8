//! Segments that are written: provision, execute, promote, release, delete, locks.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, Request, StatusCode},
    response::Response,
};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::{
    error::{ApiError, ErrorCode},
    hot::{
        IDEMPOTENCY_HEADER, LockList, PromoteAnswer, PromoteRequest, ProvisionAnswer, ProvisionRequest,
        ReleaseRequest, TOKEN_HEADER, Token,
    },
    segments::{bad_request, check_content_type, deadline_for, read_body, segment_id},
};
use crate::{gateway::Core, writing::execute::Write};

/// Most bytes of a request that only says what to do.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Longest idempotency key in bytes.
const KEY_BYTES_MAX: usize = 200;

type Id = Result<Path<String>, PathRejection>;

/// `POST /v1/segments/{id}/provision`
pub(super) async fn provision(
    State(core): State<Arc<Core>>,
    id: Id,
    request: Request<Body>,
) -> Result<Json<ProvisionAnswer>, ApiError> {
    let id = segment_id(id)?;
    going_on(&core)?;
    let (_, body) = small_json::<ProvisionRequest>(request, &core).await?;
    core.writing.provision(id, body).await.map(Json)
}

/// `POST /v1/segments/{id}/execute`
pub(super) async fn execute(
    State(core): State<Arc<Core>>,
    id: Id,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let received = Instant::now();
    let segment = segment_id(id)?;
    going_on(&core)?;
    let (parts, body) = request.into_parts();
    check_content_type(&parts.headers)?;
    let idempotency = idempotency_key(&parts.headers)?;
    let token = token(&parts.headers)?;
    let settings = &core.settings;
    // A client that sends tens of MiB gets the time that it may ask for.
    let body = read_body(body, settings.write_bytes_max, received + settings.deadline_max).await?;
    let deadline = received + deadline_for(&body, settings.deadline_default, settings.deadline_max);
    core.writing.execute(Write { segment, body, idempotency, token, accept: None, deadline }).await
}

/// `POST /v1/segments/{id}/promote`
pub(super) async fn promote(
    State(core): State<Arc<Core>>,
    id: Id,
    request: Request<Body>,
) -> Result<Json<PromoteAnswer>, ApiError> {
    let id = segment_id(id)?;
    going_on(&core)?;
    let (headers, body) = small_json::<PromoteRequest>(request, &core).await?;
    core.writing.promote(id, body, token(&headers)?).await.map(Json)
}

/// `POST /v1/segments/{id}/release`
pub(super) async fn release(
    State(core): State<Arc<Core>>,
    id: Id,
    request: Request<Body>,
) -> Result<StatusCode, ApiError> {
    let id = segment_id(id)?;
    going_on(&core)?;
    let (headers, body) = small_json::<ReleaseRequest>(request, &core).await?;
    core.writing.release(id, body, token(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /v1/segments/{id}`
pub(super) async fn delete(State(core): State<Arc<Core>>, id: Id) -> Result<StatusCode, ApiError> {
    let id = segment_id(id)?;
    going_on(&core)?;
    core.writing.delete(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v1/locks`
pub(super) async fn locks(State(core): State<Arc<Core>>) -> Json<LockList> {
    Json(LockList { locks: core.writing.locks(None), superseded: core.writing.superseded(None) })
}

pub(super) fn going_on(core: &Core) -> Result<(), ApiError> {
    if core.stopping.load(Ordering::Relaxed) {
        return Err(ApiError::new(ErrorCode::ShuttingDown, "this gateway is shutting down"));
    }
    Ok(())
}

/// Headers and body of a request that says what to do; no body is the default.
pub(super) async fn small_json<T: DeserializeOwned + Default>(
    request: Request<Body>,
    core: &Core,
) -> Result<(HeaderMap, T), ApiError> {
    let (parts, body) = request.into_parts();
    check_content_type(&parts.headers)?;
    let body: Bytes =
        read_body(body, BODY_BYTES_MAX, Instant::now() + core.settings.deadline_default).await?;
    if body.trim_ascii().is_empty() {
        return Ok((parts.headers, T::default()));
    }
    let value = serde_json::from_slice(&body).map_err(|e| bad_request(format!("request: {e}")))?;
    Ok((parts.headers, value))
}

/// The fencing token that a client sends to be sure that it is still the one it was given.
fn token(headers: &HeaderMap) -> Result<Option<Token>, ApiError> {
    let Some(value) = headers.get(TOKEN_HEADER) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|text| text.parse().ok());
    parsed.map(Some).ok_or_else(|| bad_request(format!("{TOKEN_HEADER} must be a number")))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<HeaderValue>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_HEADER) else { return Ok(None) };
    let good =
        (1..=KEY_BYTES_MAX).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic);
    if good {
        Ok(Some(value.clone()))
    } else {
        Err(bad_request(format!("{IDEMPOTENCY_HEADER} must be 1 to {KEY_BYTES_MAX} bytes of visible ASCII")))
    }
}
