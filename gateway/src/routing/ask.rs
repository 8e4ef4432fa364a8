//! Asking workers until one answers.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    http::{HeaderName, Method, Response, StatusCode, header, response::Parts},
};
use http_body_util::{BodyExt, Limited};
use tokio::time::{Instant, timeout_at};

use super::{
    Attempt, Call, Query, Routing,
    attempt::DEADLINE_GRACE,
    meter::{Meter, Metered},
    relay::Relay,
    target_headers, too_late,
    workers::{InFlight, Worker},
};
use crate::{
    api::{
        error::{ApiError, ErrorBody, ErrorCode},
        hot::Token,
        types::{GENERATION_HEADER, WORKER_HEADER},
    },
    heat::AnsweredFrom,
    registry::catalog::Located,
    segment::SegmentId,
};

/// Most bytes read of a worker's error, to see its code.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// Headers that belong to one connection, not to the answer.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// By which door a worker is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// It answers in place, from the store.
    Cold,
    /// It answers from its copy.
    Hot,
}

impl Door {
    fn path(self, id: &SegmentId) -> String {
        match self {
            Self::Cold => format!("/v1/segments/{id}/query"),
            Self::Hot => format!("/v1/hot/{id}/query"),
        }
    }

    /// Whether another worker may know better. A copy that is gone, of another generation or being closed
    /// says nothing about the segment.
    fn goes_on(self, status: StatusCode) -> bool {
        match self {
            Self::Cold => status == StatusCode::SERVICE_UNAVAILABLE,
            Self::Hot => matches!(
                status,
                StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::NOT_FOUND
                    | StatusCode::CONFLICT
                    | StatusCode::INTERNAL_SERVER_ERROR
            ),
        }
    }
}

impl Routing {
    /// Asks one worker after the other: those with a copy first, then those that read the store. The inner
    /// error is an answer that says "replaced".
    pub(super) async fn ask_workers(
        &self,
        query: &Query,
        located: &Located,
    ) -> Result<Result<Response<Body>, Response<Body>>, ApiError> {
        let now = Instant::now().into_std();
        let cold = self.workers.candidates(&query.segment, now);
        self.metrics.overloaded.inc_by(u64::from(cold.overloaded));
        let hot = self.hot_holders(&query.segment, located.facts.generation, now);
        let hot = hot.into_iter().map(|worker| (worker, Door::Hot));
        let candidates: Vec<(Arc<Worker>, Door)> =
            hot.chain(cold.workers.into_iter().map(|worker| (worker, Door::Cold))).collect();
        if candidates.is_empty() {
            return Err(self.nobody(now));
        }
        let alone = candidates.len() == 1;
        // A worker that restarts leaves dead connections in the pool: alone, it gets a second chance.
        let second_chance = alone.then(|| candidates[0].clone());
        let mut unavailable: Option<Response<Body>> = None;
        let mut failures: Vec<String> = Vec::new();
        for (index, (worker, door)) in candidates.into_iter().chain(second_chance).enumerate() {
            if index > 0 {
                self.metrics.retries.inc();
            }
            let asked = Instant::now();
            match self.call(&worker, self.query_call(query, located, door)?).await {
                Attempt::Answer(parts, body, in_flight) if door.goes_on(parts.status) => {
                    self.outcome("unavailable");
                    unavailable = Some(self.relay(&worker, query.deadline, parts, body, in_flight));
                    if alone {
                        break;
                    }
                }
                Attempt::Answer(parts, ..) if parts.status == StatusCode::UNAUTHORIZED => {
                    failures.push(self.refused(&worker));
                    if alone {
                        break;
                    }
                }
                Attempt::Answer(parts, body, in_flight) => {
                    self.outcome("answered");
                    self.compare(query, located, &parts);
                    if parts.status == StatusCode::CONFLICT {
                        return Ok(self.conflict(&worker, query, parts, body, in_flight).await);
                    }
                    let body = self.meter(query, door, asked, &parts, body);
                    return Ok(Ok(self.relay(&worker, query.deadline, parts, body, in_flight)));
                }
                Attempt::Unreachable(reason) => {
                    failures.push(self.unreachable(&worker, &reason));
                    if alone {
                        break;
                    }
                }
                Attempt::Lost(reason) => failures.push(self.lost(&worker, &reason)),
                Attempt::TimedOut => {
                    self.outcome("timed_out");
                    return Err(too_late(&query.segment));
                }
            }
        }
        match unavailable {
            Some(response) => Ok(Ok(response)),
            None => Err(nobody_answered(&query.segment, &failures)),
        }
    }

    /// Asks the holder of the write lock: nobody else has what it acknowledged.
    pub(super) async fn ask_holder(
        &self,
        query: &Query,
        worker: &Worker,
        token: Token,
    ) -> Result<Response<Body>, ApiError> {
        let directory = self.state.ledger().lock(&query.segment).map(|lock| lock.directory.clone());
        let directory = directory.unwrap_or_else(|| query.segment.canonical_dir());
        let mut headers = target_headers(&query.segment, &directory, None, Some(token))?;
        for accept in &query.accept {
            headers.append(header::ACCEPT, accept.clone());
        }
        let call = Call {
            method: Method::POST,
            path: Door::Hot.path(&query.segment),
            headers,
            body: query.body.clone(),
            deadline: query.deadline,
        };
        let mut failures = Vec::new();
        // A dead connection of the pool is no dead worker: once more. A query changes nothing.
        for attempt in 0..2 {
            if attempt > 0 {
                self.metrics.retries.inc();
            }
            let asked = Instant::now();
            match self.call(worker, call.clone()).await {
                Attempt::Answer(parts, ..) if parts.status == StatusCode::UNAUTHORIZED => {
                    failures.push(self.refused(worker));
                    break;
                }
                Attempt::Answer(parts, body, in_flight) => {
                    self.outcome("answered");
                    let body = self.meter(query, Door::Hot, asked, &parts, body);
                    return Ok(self.relay(worker, query.deadline, parts, body, in_flight));
                }
                Attempt::Unreachable(reason) => {
                    failures.push(self.unreachable(worker, &reason));
                    break;
                }
                Attempt::Lost(reason) => failures.push(self.lost(worker, &reason)),
                Attempt::TimedOut => {
                    self.outcome("timed_out");
                    return Err(too_late(&query.segment));
                }
            }
        }
        Err(nobody_answered(&query.segment, &failures))
    }

    /// The body of an answer, with its heat and time counted at its end. What is no answer is no demand: who
    /// sends nonsense raises nothing.
    fn meter(&self, query: &Query, door: Door, asked: Instant, parts: &Parts, body: Body) -> Body {
        if !parts.status.is_success() {
            return body;
        }
        let from = match door {
            Door::Cold => AnsweredFrom::Store,
            Door::Hot => AnsweredFrom::Copy,
        };
        let meter = Meter::new(self.heat.clone(), query.segment.clone(), from, asked.elapsed());
        Body::new(Metered::new(body, meter))
    }

    fn query_call(&self, query: &Query, located: &Located, door: Door) -> Result<Call, ApiError> {
        let generation = Some(located.facts.generation);
        let mut headers = target_headers(&query.segment, &located.directory, generation, None)?;
        for accept in &query.accept {
            headers.append(header::ACCEPT, accept.clone());
        }
        let (path, body) = (door.path(&query.segment), query.body.clone());
        Ok(Call { method: Method::POST, path, headers, body, deadline: query.deadline })
    }

    /// Counts what came of an attempt.
    pub(crate) fn outcome(&self, outcome: &str) {
        self.metrics.attempts.with_label_values(&[outcome]).inc();
    }

    /// A worker that does not take our secret; says so for people.
    pub(crate) fn refused(&self, worker: &Worker) -> String {
        self.outcome("refused");
        worker.suspect();
        tracing::error!(worker = &*worker.name, "the worker refuses this gateway: cluster secrets differ");
        format!("{} refuses this gateway (cluster secrets differ)", worker.name)
    }

    /// A worker that takes no connection.
    pub(crate) fn unreachable(&self, worker: &Worker, reason: &str) -> String {
        self.outcome("unreachable");
        worker.suspect();
        tracing::warn!(worker = &*worker.name, reason, "worker cannot be reached");
        format!("{} cannot be reached", worker.name)
    }

    /// A worker that went away in the middle.
    pub(crate) fn lost(&self, worker: &Worker, reason: &str) -> String {
        self.outcome("lost");
        tracing::warn!(worker = &*worker.name, reason, "connection to worker lost before its answer");
        format!("{} went away", worker.name)
    }

    /// A worker's answer as the client gets it.
    pub(crate) fn relay(
        &self,
        worker: &Worker,
        deadline: Instant,
        mut parts: Parts,
        body: Body,
        in_flight: InFlight,
    ) -> Response<Body> {
        for name in &HOP_BY_HOP {
            parts.headers.remove(name);
        }
        parts.headers.insert(WORKER_HEADER, worker.name_header.clone());
        // Version and extensions belong to the other connection.
        let mut response = Response::new(Body::new(Relay::new(
            body,
            deadline + DEADLINE_GRACE,
            in_flight,
            self.metrics.clone(),
        )));
        *response.status_mut() = parts.status;
        *response.headers_mut() = parts.headers;
        response
    }

    /// Reads the error of a 409 to see whether it says "replaced".
    async fn conflict(
        &self,
        worker: &Worker,
        query: &Query,
        parts: Parts,
        body: Body,
        in_flight: InFlight,
    ) -> Result<Response<Body>, Response<Body>> {
        let read = Limited::new(body, ERROR_BYTES_MAX).collect();
        let bytes = match timeout_at(query.deadline + DEADLINE_GRACE, read).await {
            Ok(Ok(collected)) => collected.to_bytes(),
            _ => Bytes::new(),
        };
        let replaced = serde_json::from_slice::<ErrorBody>(&bytes)
            .is_ok_and(|body| body.error.code == ErrorCode::SegmentReplaced);
        let response = self.relay(worker, query.deadline, parts, Body::from(bytes), in_flight);
        if replaced { Err(response) } else { Ok(response) }
    }

    /// If a worker answers from another generation than the catalog's, or finds nothing, the catalog is
    /// behind: look, without holding up the answer.
    fn compare(&self, query: &Query, located: &Located, parts: &Parts) {
        let differs = parts.status == StatusCode::NOT_FOUND
            || parts.headers.get(GENERATION_HEADER).is_some_and(|generation| {
                generation.as_bytes() != located.facts.generation.to_string().as_bytes()
            });
        if differs {
            let (looker, id, directory) =
                (self.looker.clone(), query.segment.clone(), located.directory.clone());
            tokio::spawn(async move {
                if let Err(error) = looker.refresh(&id, directory).await {
                    tracing::warn!(segment = %id, %error, "the catalog's entry could not be refreshed");
                }
            });
        }
    }
}

fn nobody_answered(id: &SegmentId, failures: &[String]) -> ApiError {
    ApiError::new(
        ErrorCode::WorkerLost,
        format!("no worker answered for segment {id}: {}", failures.join(", ")),
    )
}
