//! Schemas.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, State, rejection::PathRejection},
    http::{Request, StatusCode},
};
use tokio::time::Instant;

use super::{
    error::ApiError,
    hot::{SchemaInfo, SchemaList, SchemaRequest},
    segments::{bad_request, check_content_type, read_body},
    writes::going_on,
};
use crate::{
    gateway::Core,
    writing::schemas::{Put, SCHEMA_BYTES_MAX},
};

type Name = Result<Path<String>, PathRejection>;

/// `GET /v1/schemas`
pub(super) async fn list(State(core): State<Arc<Core>>) -> Json<SchemaList> {
    Json(core.writing.schemas())
}

/// `GET /v1/schemas/{name}`
pub(super) async fn get(State(core): State<Arc<Core>>, name: Name) -> Result<Json<SchemaInfo>, ApiError> {
    core.writing.schema(&text(name)?).map(Json)
}

/// `GET /v1/schemas/{name}/versions`
pub(super) async fn versions(
    State(core): State<Arc<Core>>,
    name: Name,
) -> Result<Json<SchemaList>, ApiError> {
    core.writing.schema_versions(&text(name)?).map(Json)
}

/// `PUT /v1/schemas/{name}`
pub(super) async fn put(
    State(core): State<Arc<Core>>,
    name: Name,
    request: Request<Body>,
) -> Result<(StatusCode, Json<SchemaInfo>), ApiError> {
    let name = text(name)?;
    going_on(&core)?;
    let (parts, body) = request.into_parts();
    check_content_type(&parts.headers)?;
    // JSON escapes: a schema may take more room on the wire than it has bytes.
    let deadline = Instant::now() + core.settings.deadline_default;
    let body = read_body(body, 2 * SCHEMA_BYTES_MAX, deadline).await?;
    let request: SchemaRequest =
        serde_json::from_slice(&body).map_err(|e| bad_request(format!("schema: {e}")))?;
    Ok(match core.writing.put_schema(&name, request.sql).await? {
        Put::Created(schema) => (StatusCode::CREATED, Json(schema)),
        Put::Replaced(schema) | Put::Same(schema) => (StatusCode::OK, Json(schema)),
    })
}

fn text(name: Name) -> Result<String, ApiError> {
    let Path(name) = name.map_err(|e| bad_request(e.body_text()))?;
    Ok(name)
}
