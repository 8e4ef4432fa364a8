//! The port for reading, 6444.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};

use http_body_util::{BodyExt, Limited};

use super::{
    Backend, Ports, Settings,
    answer::{answer, server_error},
    request::{segment_of, text_of},
    select::is_one_select,
};
use crate::api::error::{ApiError, ErrorBody, ErrorCode};

/// Longest error of a worker that is read, in bytes.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Any method and any path is a query.
pub fn read_router(backend: Arc<dyn Backend>, settings: Settings) -> Router {
    Router::new().fallback(read).with_state(Ports { backend, settings: Arc::new(settings) })
}

async fn read(State(ports): State<Ports>, request: Request) -> Response {
    match rows(&ports, request).await {
        Ok(response) => response,
        Err(message) => server_error(&message),
    }
}

async fn rows(ports: &Ports, request: Request) -> Result<Response, String> {
    let (parts, body) = request.into_parts();
    let sql = text_of(ports, body).await?;
    // Before anything is known about the segment, as Trough does.
    if !is_one_select(&sql) {
        return Err("Exactly one SELECT query per request, please.".into());
    }
    let segment = segment_of(&parts)?;
    let rows = ports.backend.read(segment, sql).await.map_err(|e| e.message)?;
    Ok(answer(StatusCode::OK, "application/json", rows))
}

/// What a worker's answer to a query that accepts [`super::ROWS_CONTENT_TYPE`] is to [`Backend::read`]: the
/// rows as they come, or the error that it holds.
pub async fn rows_of(answer: Response) -> Result<Body, ApiError> {
    let (head, body) = answer.into_parts();
    if head.status.is_success() {
        return Ok(body);
    }
    let read = Limited::new(body, ERROR_BYTES_MAX).collect().await.ok();
    let known = read.and_then(|body| serde_json::from_slice::<ErrorBody>(&body.to_bytes()).ok());
    Err(known.map_or_else(
        || ApiError::new(ErrorCode::WorkerLost, format!("the worker answered {}", head.status)),
        |body| body.error,
    ))
}
