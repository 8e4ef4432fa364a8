//! The catalog and queries.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{
        Path, Query as UrlQuery, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, Request, header},
    response::Response,
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::{
    error::{ApiError, ErrorCode},
    types::{DiscoveryReport, DiscoveryStatus, SegmentInfo, SegmentList},
};
use crate::{
    gateway::Core,
    registry::packed::Facts,
    routing::Query,
    segment::{SEGMENT_SUFFIX, SegmentId},
    store::Generation,
};

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    prefix: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/segments`
pub(super) async fn list(
    State(core): State<Arc<Core>>,
    params: Result<UrlQuery<ListParams>, QueryRejection>,
) -> Result<Json<SegmentList>, ApiError> {
    let UrlQuery(params) = params.map_err(|e| bad_request(e.body_text()))?;
    let limit = params.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(bad_request(format!("limit must be 1 to {LIMIT_MAX}")));
    }
    let after = match &params.after {
        Some(text) => {
            Some(place_of(text).ok_or_else(|| bad_request("after must be the `next` of an earlier answer"))?)
        }
        None => None,
    };
    let after = after.as_ref().map(|(directory, id)| (directory.as_str(), id.as_str()));
    let (page, total, more) = {
        let catalog = core.state.catalog();
        let (page, more) = catalog.page(params.prefix.as_deref().unwrap_or(""), after, limit);
        (page, catalog.segment_count(), more)
    };
    let next = page.last().filter(|_| more).map(|(directory, id, _)| token_of(directory, id));
    let segments = page.into_iter().map(|(directory, id, facts)| info(&directory, id, facts, None)).collect();
    Ok(Json(SegmentList { segments, next, total }))
}

/// `GET /v1/segments/{id}`
pub(super) async fn get(
    State(core): State<Arc<Core>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<SegmentInfo>, ApiError> {
    let id = segment_id(id)?;
    let lock = core.writing.locks(Some(&id)).pop();
    let located = match core.routing.resolve(&id).await {
        Ok(located) => Some(located),
        // Provisioned and never promoted: only its holder has it.
        Err(error) if error.code == ErrorCode::SegmentNotFound && lock.is_some() => None,
        Err(error) => return Err(error),
    };
    let now = Instant::now().into_std();
    let copies = core.routing.copies.infos(&id, |name| core.routing.workers.live(name, now).is_some());
    let mut answer = match &located {
        Some(located) => {
            let workers = core.routing.ranked(&id, located.facts.generation);
            info(&located.directory, id.as_str().to_owned(), located.facts, Some(workers))
        }
        None => {
            let holder =
                copies.iter().find(|copy| lock.as_ref().is_some_and(|lock| lock.worker == copy.worker));
            let facts = Facts {
                generation: Generation([0; 16]),
                size: holder.map_or(0, |copy| copy.size),
                mtime_ms: 0,
            };
            let workers = lock.iter().map(|lock| lock.worker.clone()).collect();
            let info = info(&id.canonical_dir(), id.as_str().to_owned(), facts, Some(workers));
            SegmentInfo { generation: String::new(), ..info }
        }
    };
    if let Some(located) = located {
        let (state, asked) = (core.state.clone(), id.clone());
        let checksum = crate::blocking::run(move || state.checksum(&asked)).await;
        let checksum = checksum.map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))??;
        answer.checksum =
            checksum.filter(|sum| sum.generation == located.facts.generation).map(|sum| sum.checksum);
    }
    answer.lock = lock;
    answer.superseded = core.writing.superseded(Some(&id)).pop();
    answer.copies = (!copies.is_empty()).then_some(copies);
    answer.raised = Some(core.routing.copies.wished_copies(&id)).filter(|copies| *copies > 0);
    answer.pinned = {
        let ledger = core.state.ledger();
        ledger.pins(&id).into_iter().flatten().cloned().collect()
    };
    answer.work = core.writing.work_on(&id).await;
    Ok(Json(answer))
}

/// `POST /v1/segments/{id}/query`
pub(super) async fn query(
    State(core): State<Arc<Core>>,
    id: Result<Path<String>, PathRejection>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let received = Instant::now();
    let id = segment_id(id)?;
    if core.stopping.load(Ordering::Relaxed) {
        return Err(ApiError::new(ErrorCode::ShuttingDown, "this gateway is shutting down"));
    }
    let (parts, body) = request.into_parts();
    check_content_type(&parts.headers)?;
    let body =
        read_body(body, core.settings.body_bytes_max, received + core.settings.deadline_default).await?;
    let deadline = received + deadline_for(&body, core.settings.deadline_default, core.settings.deadline_max);
    let accept = parts.headers.get_all(header::ACCEPT).iter().cloned().collect();
    core.routing.query(Query { segment: id, body, accept, deadline }).await
}

/// `GET /v1/discovery`
pub(super) async fn discovery(State(core): State<Arc<Core>>) -> Json<DiscoveryStatus> {
    Json(core.discovery.status())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DiscoverParams {
    #[serde(default)]
    full: bool,
}

/// `POST /v1/discovery`
pub(super) async fn discover(
    State(core): State<Arc<Core>>,
    params: Result<UrlQuery<DiscoverParams>, QueryRejection>,
) -> Result<Json<DiscoveryReport>, ApiError> {
    let UrlQuery(params) = params.map_err(|e| bad_request(e.body_text()))?;
    if core.stopping.load(Ordering::Relaxed) {
        return Err(ApiError::new(ErrorCode::ShuttingDown, "this gateway is shutting down"));
    }
    Ok(Json(core.discovery.run(params.full).await))
}

pub(super) fn bad_request(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, message)
}

/// Reads a body whole, within a limit and until a deadline: a client that stops sending holds nothing.
pub(super) async fn read_body(body: Body, bytes_max: usize, deadline: Instant) -> Result<Bytes, ApiError> {
    match timeout_at(deadline, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::new(
            ErrorCode::RequestTooLarge,
            format!("the request body is longer than {bytes_max} bytes"),
        )),
        Ok(Err(_)) => Err(bad_request("the request body broke off")),
        Err(_) => Err(ApiError::new(ErrorCode::DeadlineExceeded, "the request body did not come in time")),
    }
}

pub(super) fn segment_id(id: Result<Path<String>, PathRejection>) -> Result<SegmentId, ApiError> {
    let Path(text) = id.map_err(|e| bad_request(e.body_text()))?;
    SegmentId::parse(&text).map_err(|e| bad_request(e.to_string()))
}

/// JSON, nothing (a plain client), or what `curl -d` sends. Not what a form of a foreign web page can
/// send without asking.
pub(super) fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or("?").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let good = matches!(essence.as_str(), "application/json" | "application/x-www-form-urlencoded" | "")
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    if good {
        Ok(())
    } else {
        Err(ApiError::new(
            ErrorCode::UnsupportedMediaType,
            format!("the body must be JSON, not {essence:?}: send `content-type: application/json`"),
        ))
    }
}

/// The worker reads `timeout_ms` and keeps to it. Here it is enough to know whether there is one: without
/// the word the default holds, with it the most that may be asked for.
pub(super) fn deadline_for(body: &[u8], default: Duration, max: Duration) -> Duration {
    const WORD: &[u8] = b"timeout_ms";
    if body.windows(WORD.len()).any(|window| window == WORD) { max } else { default.min(max) }
}

fn info(directory: &str, id: String, facts: Facts, workers: Option<Vec<String>>) -> SegmentInfo {
    SegmentInfo {
        path: format!("{}/{id}{SEGMENT_SUFFIX}", directory.trim_end_matches('/')),
        id,
        size: facts.size,
        mtime_ms: facts.mtime_ms,
        generation: facts.generation.to_string(),
        workers,
        lock: None,
        superseded: None,
        checksum: None,
        copies: None,
        raised: None,
        pinned: Vec::new(),
        work: Vec::new(),
    }
}

/// Where a page ended, as text that needs no escaping in a URL: hexadecimal.
pub(super) fn token_of(directory: &str, id: &str) -> String {
    use std::fmt::Write;
    format!("{directory}\0{id}").bytes().fold(String::new(), |mut token, byte| {
        let _ = write!(token, "{byte:02x}");
        token
    })
}

pub(super) fn place_of(token: &str) -> Option<(String, String)> {
    if !token.is_ascii() || !token.len().is_multiple_of(2) {
        return None;
    }
    let bytes: Option<Vec<u8>> =
        (0..token.len()).step_by(2).map(|at| u8::from_str_radix(&token[at..at + 2], 16).ok()).collect();
    let text = String::from_utf8(bytes?).ok()?;
    let (directory, id) = text.split_once('\0')?;
    Some((directory.to_owned(), id.to_owned()))
}
