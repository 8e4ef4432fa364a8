//! The port for writing, 6222.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};

use super::{
    Backend, Ports, Settings,
    answer::{plain, server_error},
    request::{segment_of, text_of},
};

/// Any method and any path is a script.
pub fn write_router(backend: Arc<dyn Backend>, settings: Settings) -> Router {
    Router::new().fallback(write).with_state(Ports { backend, settings: Arc::new(settings) })
}

async fn write(State(ports): State<Ports>, request: Request) -> Response {
    match script(&ports, request).await {
        Ok(()) => plain(StatusCode::OK, "OK\n"),
        Err(message) => server_error(&message),
    }
}

async fn script(ports: &Ports, request: Request) -> Result<(), String> {
    let (parts, body) = request.into_parts();
    let segment = segment_of(&parts)?;
    let sql = text_of(ports, body).await?;
    if sql.trim().is_empty() {
        return Err("No query provided.".into());
    }
    ports.backend.write(segment, sql).await.map_err(|e| e.message)
}
