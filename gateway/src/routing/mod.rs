//! From a query to an answer: which segment, which worker, and what to do if that one fails.

mod attempt;
mod relay;
#[cfg(test)]
mod tests;
pub mod workers;

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderName, HeaderValue, Response, StatusCode, header, response::Parts},
};
use http_body_util::{BodyExt, Limited};
use tokio::time::{Instant, timeout_at};

use self::{
    attempt::Attempt,
    relay::Relay,
    workers::{InFlight, Worker, Workers},
};
use crate::{
    api::{
        client::reason_of,
        error::{ApiError, ErrorBody, ErrorCode},
        types::{GENERATION_HEADER, WORKER_HEADER},
    },
    discovery::look::{Looked, Looker},
    metrics::Metrics,
    registry::{
        catalog::{Located, Lookup},
        state::State,
    },
    segment::SegmentId,
};

/// The worker ends a query at its deadline and says why; only if it does not, the gateway cuts in.
const DEADLINE_GRACE: Duration = Duration::from_secs(1);
/// Most bytes read of a worker's error, to see its code.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// Longest wait for a look at the store.
const LOOK_MAX: Duration = Duration::from_secs(10);
/// Headers that belong to one connection, not to the answer.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Routes queries to workers.
pub struct Routing {
    /// All workers.
    pub workers: Workers,
    state: Arc<State>,
    looker: Arc<Looker>,
    metrics: Arc<Metrics>,
    http: reqwest::Client,
    authorization: Option<HeaderValue>,
}

/// One query as it came in.
pub struct Query {
    /// What it asks.
    pub segment: SegmentId,
    /// Its body, which only the worker reads.
    pub body: Bytes,
    /// The client's `Accept` headers.
    pub accept: Vec<HeaderValue>,
    /// When it has to be over.
    pub deadline: Instant,
}

impl Routing {
    /// `secret`: what the gateway presents to workers.
    pub fn new(
        workers: Workers,
        state: Arc<State>,
        looker: Arc<Looker>,
        metrics: Arc<Metrics>,
        connect_timeout: Duration,
        secret: Option<&str>,
    ) -> Result<Self, String> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            // One retry policy: the one below.
            .retry(reqwest::retry::never())
            .build()
            .map_err(|e| reason_of(&e))?;
        let authorization = secret
            .map(|secret| {
                let mut value = HeaderValue::try_from(format!("Bearer {secret}")).map_err(|_| {
                    "the cluster secret has characters that no HTTP header can hold".to_owned()
                })?;
                value.set_sensitive(true);
                Ok::<_, String>(value)
            })
            .transpose()?;
        Ok(Self { workers, state, looker, metrics, http, authorization })
    }

    /// Where a segment lies; asks the store if the catalog does not know it.
    pub async fn resolve(&self, id: &SegmentId) -> Result<Located, ApiError> {
        let mut lookup = self.state.catalog().lookup(id);
        if lookup == Lookup::Absent {
            if self.look(id, id.canonical_dir().into()).await? == Looked::Limited {
                // Not "there is no such segment": nobody has looked.
                return Err(ApiError::new(
                    ErrorCode::Overloaded,
                    format!("segment {id} is not in the catalog, and too many such segments are looked for"),
                ));
            }
            lookup = self.state.catalog().lookup(id);
        }
        match lookup {
            Lookup::Found(located) => Ok(located),
            Lookup::Ambiguous(paths) => Err(ApiError::new(
                ErrorCode::SegmentAmbiguous,
                format!(
                    "segment {id} lies in more than one directory: {}; remove all but one",
                    paths.join(", ")
                ),
            )),
            Lookup::Absent if !self.state.discovered() => Err(ApiError::new(
                ErrorCode::Warming,
                format!("segment {id} is not known yet: the first discovery of the store is still running"),
            )
            .retry_after_s(2)),
            Lookup::Absent => {
                Err(ApiError::new(ErrorCode::SegmentNotFound, format!("there is no segment {id}")))
            }
        }
    }

    /// Names of the workers that would be asked for a segment, best first.
    pub fn ranked(&self, id: &SegmentId) -> Vec<String> {
        let now = Instant::now().into_std();
        self.workers.candidates(id, now).workers.iter().map(|worker| worker.name.to_string()).collect()
    }

    /// Answers a query.
    pub async fn query(&self, query: Query) -> Result<Response<Body>, ApiError> {
        let mut replaced_before = false;
        loop {
            let located = timeout_at(query.deadline, self.resolve(&query.segment))
                .await
                .map_err(|_| too_late(&query.segment))??;
            match self.ask_workers(&query, &located).await? {
                Ok(response) => return Ok(response),
                // The catalog was behind: look, then once more.
                Err(replaced) => {
                    if replaced_before {
                        return Ok(replaced);
                    }
                    replaced_before = true;
                    self.metrics.retries.inc();
                    timeout_at(query.deadline, self.look(&query.segment, located.directory.clone()))
                        .await
                        .map_err(|_| too_late(&query.segment))??;
                }
            }
        }
    }

    /// Asks one worker after the other. The inner error is an answer that says "replaced".
    async fn ask_workers(
        &self,
        query: &Query,
        located: &Located,
    ) -> Result<Result<Response<Body>, Response<Body>>, ApiError> {
        let now = Instant::now().into_std();
        let candidates = self.workers.candidates(&query.segment, now);
        self.metrics.overloaded.inc_by(u64::from(candidates.overloaded));
        if candidates.workers.is_empty() {
            return Err(self.nobody(now));
        }
        // UTF-8 as it is; only control characters are no header. Never left out: the worker would look
        // where the layout says, and answer from another file.
        let path =
            HeaderValue::from_bytes(query.segment.path_in(&located.directory).as_bytes()).map_err(|_| {
                ApiError::new(
                    ErrorCode::BadRequest,
                    format!(
                        "segment {} lies in a directory whose name has control characters",
                        query.segment
                    ),
                )
            })?;
        let alone = candidates.workers.len() == 1;
        // A worker that restarts leaves dead connections in the pool: alone, it gets a second chance.
        let second_chance = alone.then(|| candidates.workers[0].clone());
        let mut unavailable: Option<Response<Body>> = None;
        let mut failures: Vec<String> = Vec::new();
        for (index, worker) in candidates.workers.into_iter().chain(second_chance).enumerate() {
            if index > 0 {
                self.metrics.retries.inc();
            }
            let outcome = |outcome: &str| self.metrics.attempts.with_label_values(&[outcome]).inc();
            match self.attempt(&worker, query, located, &path).await {
                Attempt::Answer(parts, body, in_flight)
                    if parts.status == StatusCode::SERVICE_UNAVAILABLE =>
                {
                    outcome("unavailable");
                    unavailable = Some(self.relay(&worker, query, parts, body, in_flight));
                    if alone {
                        break;
                    }
                }
                Attempt::Answer(parts, ..) if parts.status == StatusCode::UNAUTHORIZED => {
                    outcome("refused");
                    worker.suspect();
                    tracing::error!(
                        worker = &*worker.name,
                        "the worker refuses this gateway: cluster secrets differ"
                    );
                    failures.push(format!("{} refuses this gateway (cluster secrets differ)", worker.name));
                    if alone {
                        break;
                    }
                }
                Attempt::Answer(parts, body, in_flight) => {
                    outcome("answered");
                    self.compare(query, located, &parts);
                    if parts.status == StatusCode::CONFLICT {
                        return Ok(self.conflict(&worker, query, parts, body, in_flight).await);
                    }
                    return Ok(Ok(self.relay(&worker, query, parts, body, in_flight)));
                }
                Attempt::Unreachable(reason) => {
                    outcome("unreachable");
                    worker.suspect();
                    tracing::warn!(worker = &*worker.name, reason, "worker cannot be reached");
                    failures.push(format!("{} cannot be reached", worker.name));
                    if alone {
                        break;
                    }
                }
                Attempt::Lost(reason) => {
                    outcome("lost");
                    tracing::warn!(
                        worker = &*worker.name,
                        reason,
                        "connection to worker lost before its answer"
                    );
                    failures.push(format!("{} went away", worker.name));
                }
                Attempt::TimedOut => {
                    outcome("timed_out");
                    return Err(too_late(&query.segment));
                }
            }
        }
        match unavailable {
            Some(response) => Ok(Ok(response)),
            None => Err(ApiError::new(
                ErrorCode::WorkerLost,
                format!("no worker answered for segment {}: {}", query.segment, failures.join(", ")),
            )),
        }
    }

    fn relay(
        &self,
        worker: &Worker,
        query: &Query,
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
            query.deadline + DEADLINE_GRACE,
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
        let response = self.relay(worker, query, parts, Body::from(bytes), in_flight);
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

    async fn look(&self, id: &SegmentId, directory: Arc<str>) -> Result<Looked, ApiError> {
        let unavailable = |reason: &str| {
            tracing::warn!(segment = %id, reason, "the store could not be asked for a segment");
            ApiError::new(
                ErrorCode::StoreUnavailable,
                format!("the store could not be asked for segment {id}; try again"),
            )
        };
        match tokio::time::timeout(LOOK_MAX, self.looker.look(id, directory)).await {
            Ok(result) => result.map_err(|error| unavailable(&error.to_string())),
            Err(_) => Err(unavailable("no answer in time")),
        }
    }

    fn nobody(&self, now: std::time::Instant) -> ApiError {
        match self.workers.warming(now) {
            Some(left) => ApiError::new(
                ErrorCode::Warming,
                "the gateway started a moment ago and waits for its workers to report",
            )
            .retry_after_s(u32::try_from(left.as_secs() + 1).unwrap_or(u32::MAX)),
            None => ApiError::new(
                ErrorCode::NoWorker,
                "no cold worker is alive: start one with `springhouse worker --tier cold`",
            )
            .retry_after_s(5),
        }
    }
}

fn too_late(id: &SegmentId) -> ApiError {
    ApiError::new(
        ErrorCode::DeadlineExceeded,
        format!("the deadline passed before segment {id} was answered for"),
    )
}
