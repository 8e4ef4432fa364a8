//! What changes a running mount: only at the control socket, never over TCP.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Query, State, rejection::JsonRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::stream;
use serde::Deserialize;
use springhouse_fuse::{
    cache::{Dropped, FileUse},
    error::{Error, ErrorKind},
    store::{Generation, StorePath},
};
use tokio::sync::mpsc;

use super::{
    super::api::{Changed, Hint, PARALLELISM_MAX, PATHS_MAX, Paths, Pinned, ROOTS_MAX, Refusal, Settings},
    Status,
};

/// Pieces that `/warm` reads at the same time unless told otherwise.
const PARALLELISM: usize = 4;

/// Reports of `/warm` that may wait for their reader.
const REPORTS_AHEAD: usize = 4;

/// Files that `/top` names unless told otherwise.
const TOP: usize = 20;

/// Most bytes of a request.
const BODY_BYTES_MAX: usize = 4 << 20;

/// An answer that is no success.
pub(super) struct Refused(Error);

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match self.0.kind() {
            ErrorKind::InvalidArgument | ErrorKind::NameTooLong => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnly => StatusCode::FORBIDDEN,
            ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            ErrorKind::TimedOut | ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::NotEmpty
            | ErrorKind::Busy
            | ErrorKind::CrossDevice
            | ErrorKind::Stale => StatusCode::CONFLICT,
            ErrorKind::Corrupt | ErrorKind::Other => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(Refusal::from(&self.0))).into_response()
    }
}

type Body_<T> = Result<Json<T>, JsonRejection>;

/// `/warm`, `/hint` and their like.
pub(super) fn router() -> Router<Arc<Status>> {
    Router::new()
        .route("/warm", post(warm))
        .route("/hint", post(hint))
        .route("/pin", post(pin))
        .route("/unpin", post(unpin))
        .route("/drop", post(drop_cached))
        .route("/settings", get(settings).post(change))
        .route("/advise", get(async |State(status): State<Arc<Status>>| Json(status.fs.advise())))
        .route("/top", get(top))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

fn taken<T>(body: Body_<T>) -> Result<T, Refused> {
    body.map(|Json(body)| body)
        .map_err(|rejection| Error::new(ErrorKind::InvalidArgument, rejection.body_text()).into())
}

fn store_paths(paths: &[String]) -> Result<Vec<StorePath>, Refused> {
    if paths.is_empty() || paths.len() > PATHS_MAX {
        let message = format!("{} paths; give from 1 to {PATHS_MAX}", paths.len());
        return Err(Error::new(ErrorKind::InvalidArgument, message).into());
    }
    Ok(paths.iter().map(|path| StorePath::parse(path)).collect::<Result<_, _>>()?)
}

/// A line of JSON for each report. The work ends when the reader goes away.
async fn warm(State(status): State<Arc<Status>>, body: Body_<Paths>) -> Result<Response, Refused> {
    let body = taken(body)?;
    let paths = store_paths(&body.paths)?;
    let parallelism = body.parallelism.unwrap_or(PARALLELISM).clamp(1, PARALLELISM_MAX);
    let (tell, reports) = mpsc::channel(REPORTS_AHEAD);
    let fs = status.fs.clone();
    status.io.spawn(async move { fs.warm(paths, parallelism, tell).await });
    let lines = stream::unfold(reports, |mut reports| async {
        let report = reports.recv().await?;
        let line = serde_json::to_vec(&report).map(|mut line| {
            line.push(b'\n');
            line
        });
        Some((line, reports))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// Answers before anything is fetched.
async fn hint(State(status): State<Arc<Status>>, body: Body_<Hint>) -> Result<StatusCode, Refused> {
    let Hint { path, generation, roots } = taken(body)?;
    let path = StorePath::parse(&path)?;
    let wrong = |what: String| Error::new(ErrorKind::InvalidArgument, what);
    let generation = Generation::parse(&generation)
        .ok_or_else(|| wrong(format!("{generation:?} is no generation: 32 hexadecimal digits")))?;
    if roots.len() > ROOTS_MAX {
        return Err(wrong(format!("{} root pages; at most {ROOTS_MAX}", roots.len())).into());
    }
    // What is fetched ahead is fetched by tasks, which need the file system's runtime.
    let _inside = status.io.enter();
    if status.fs.hint_generation(&path, generation, &roots) {
        status.gauges.hints.inc();
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Work of the file system runs where it belongs, and goes on if the caller leaves.
async fn on_io<T: Send + 'static>(
    status: &Status,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Refused> {
    let failed = |error: tokio::task::JoinError| Error::new(ErrorKind::Other, error.to_string());
    Ok(status.io.spawn(work).await.map_err(failed)?)
}

async fn pin(State(status): State<Arc<Status>>, body: Body_<Paths>) -> Result<Json<Pinned>, Refused> {
    let paths = store_paths(&taken(body)?.paths)?;
    let fs = status.fs.clone();
    let (files, outcome) = on_io(&status, async move { fs.pin(paths).await }).await?;
    Ok(Json(Pinned { files, refused: outcome.err().as_ref().map(Refusal::from) }))
}

async fn unpin(State(status): State<Arc<Status>>, body: Body_<Paths>) -> Result<Json<Pinned>, Refused> {
    let paths = store_paths(&taken(body)?.paths)?;
    Ok(Json(Pinned { files: status.fs.unpin(&paths), refused: None }))
}

async fn drop_cached(
    State(status): State<Arc<Status>>,
    body: Body_<Paths>,
) -> Result<Json<Dropped>, Refused> {
    let body = taken(body)?;
    let (paths, disk) = (store_paths(&body.paths)?, body.disk);
    let fs = status.fs.clone();
    Ok(Json(on_io(&status, async move { fs.drop_cached(&paths, disk).await }).await??))
}

async fn settings(State(status): State<Arc<Status>>) -> Json<Settings> {
    Json(status.tuner.settings())
}

async fn change(
    State(status): State<Arc<Status>>,
    body: Body_<Settings>,
) -> Result<Json<BTreeMap<String, Changed>>, Refused> {
    let wanted = taken(body)?;
    let changed = status.tuner.change(&status.fs, &wanted)?;
    for (key, Changed { old, new }) in &changed {
        tracing::info!(key, old, new, "a setting was changed");
    }
    Ok(Json(changed))
}

#[derive(Deserialize)]
struct HowMany {
    n: Option<usize>,
}

async fn top(State(status): State<Arc<Status>>, Query(HowMany { n }): Query<HowMany>) -> Json<Vec<FileUse>> {
    Json(status.fs.top_files(n.unwrap_or(TOP)))
}
