//! From a query to an answer: which segment, which worker, and what to do if that one fails.

mod ask;
mod attempt;
mod meter;
mod relay;
#[cfg(test)]
mod tests;
pub mod workers;

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
};
use tokio::time::{Instant, timeout_at};

pub(crate) use self::attempt::{Attempt, Call};
use self::workers::{Worker, Workers};
use crate::{
    api::{
        client::reason_of,
        error::{ApiError, ErrorCode},
        hot::{LOCK_HEADER, STORE_HEADER, TOKEN_HEADER, Token},
        types::{EXPECTED_GENERATION_HEADER, PATH_HEADER},
    },
    copies::Copies,
    discovery::look::{Looked, Looker},
    heat::{Heat, HeatSettings},
    metrics::Metrics,
    registry::{
        catalog::{Located, Lookup},
        state::State,
    },
    segment::SegmentId,
    store::Generation,
};

/// Longest wait for a look at the store.
const LOOK_MAX: Duration = Duration::from_secs(10);
/// Routes queries to workers.
pub struct Routing {
    /// All workers.
    pub workers: Workers,
    /// What hot workers have.
    pub copies: Arc<Copies>,
    /// How often segments are asked.
    pub heat: Arc<Heat>,
    state: Arc<State>,
    looker: Arc<Looker>,
    metrics: Arc<Metrics>,
    http: reqwest::Client,
    authorization: Option<HeaderValue>,
}

/// Who answers for the writes of a segment.
pub(crate) enum Holder {
    /// Nobody may write it.
    Nobody,
    /// This worker, under this token.
    Live(Arc<Worker>, Token),
    /// A worker that is not there.
    Suspended(String),
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
        copies: Arc<Copies>,
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
        let usual = HeatSettings::default();
        let heat = Heat::new(usual.segments_max, usual.half_life, Instant::now().into_std());
        Ok(Self { workers, copies, heat: Arc::new(heat), state, looker, metrics, http, authorization })
    }

    /// Counts queries there from now on.
    pub fn measure_with(self, heat: Heat) -> Self {
        Self { heat: Arc::new(heat), ..self }
    }

    /// What is counted for operators.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Where a segment lies; asks the store if the catalog does not know it.
    pub async fn resolve(&self, id: &SegmentId) -> Result<Located, ApiError> {
        if self.state.ledger().is_deleting(id) {
            return Err(ApiError::new(ErrorCode::SegmentNotFound, format!("segment {id} is being deleted")));
        }
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

    /// Who may write a segment now. Right after a start of the gateway nobody knows: `warming`.
    pub(crate) fn holder(&self, id: &SegmentId) -> Result<Holder, ApiError> {
        let (name, token) = {
            let ledger = self.state.ledger();
            match ledger.lock(id) {
                Some(lock) if lock.ready => (lock.worker.clone(), lock.token),
                // Before it is ready no write can have been acknowledged under it.
                Some(_) => return Ok(Holder::Nobody),
                None if ledger.damage(id).is_some() => return Ok(Holder::Suspended("unknown".into())),
                None => return Ok(Holder::Nobody),
            }
        };
        let now = Instant::now().into_std();
        match self.workers.live(&name, now) {
            Some(worker) if worker.hot.is_some() => Ok(Holder::Live(worker, token)),
            _ => match self.workers.warming(now) {
                Some(left) => Err(ApiError::new(
                    ErrorCode::Warming,
                    format!(
                        "the gateway started a moment ago and waits for {name}, which may write segment {id}"
                    ),
                )
                .retry_after_s(u32::try_from(left.as_secs() + 1).unwrap_or(u32::MAX))),
                None => Ok(Holder::Suspended(name)),
            },
        }
    }

    /// Names of the workers that would be asked for a segment, best first. `generation`: of the catalog.
    pub fn ranked(&self, id: &SegmentId, generation: Generation) -> Vec<String> {
        if let Ok(Holder::Live(worker, _)) = self.holder(id) {
            return vec![worker.name.to_string()];
        }
        let now = Instant::now().into_std();
        let mut names: Vec<String> = Vec::new();
        for worker in
            self.hot_holders(id, generation, now).into_iter().chain(self.workers.candidates(id, now).workers)
        {
            let name = worker.name.to_string();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Live workers with a copy of just this generation. What has another one is never asked: it would be
    /// older than the catalog, or newer than the answers of the others.
    fn hot_holders(
        &self,
        id: &SegmentId,
        generation: Generation,
        now: std::time::Instant,
    ) -> Vec<Arc<Worker>> {
        let holders: Vec<(Arc<str>, u64)> = self
            .copies
            .holders(id)
            .into_iter()
            .filter(|holder| holder.generation == Some(generation))
            .map(|holder| (holder.worker, holder.epoch))
            .collect();
        if holders.is_empty() { Vec::new() } else { self.workers.holders(id, &holders, now).workers }
    }

    /// Answers a query.
    pub async fn query(&self, query: Query) -> Result<Response<Body>, ApiError> {
        let mut response = self.answer(query).await?;
        if response.status().is_success() && self.state.is_store_away() {
            response.headers_mut().insert(STORE_HEADER, HeaderValue::from_static("unreachable"));
        }
        Ok(response)
    }

    async fn answer(&self, query: Query) -> Result<Response<Body>, ApiError> {
        let mut holder = self.holder(&query.segment)?;
        if let Holder::Live(worker, token) = &holder {
            let response = self.ask_holder(&query, worker, *token).await?;
            let held = self.state.ledger().lock(&query.segment).map(|lock| lock.token);
            if response.status() != StatusCode::CONFLICT || held == Some(*token) {
                return Ok(response);
            }
            // The lock ended, or went to somebody else, while its holder was asked.
            holder = self.holder(&query.segment)?;
        }
        match holder {
            Holder::Nobody => self.query_stored(&query).await,
            Holder::Live(worker, token) => self.ask_holder(&query, &worker, token).await,
            Holder::Suspended(worker) => {
                let mut response = self.query_stored(&query).await.map_err(|error| match error.code {
                    ErrorCode::SegmentNotFound => ApiError::new(
                        ErrorCode::LockSuspended,
                        format!(
                            "segment {} was never promoted, and worker {worker}, which has it, is not alive",
                            query.segment
                        ),
                    )
                    .retry_after_s(5),
                    _ => error,
                })?;
                response.headers_mut().insert(LOCK_HEADER, HeaderValue::from_static("suspended"));
                Ok(response)
            }
        }
    }

    /// Answers from what lies in the store, or a copy of just that.
    async fn query_stored(&self, query: &Query) -> Result<Response<Body>, ApiError> {
        let mut replaced_before = false;
        loop {
            let located = timeout_at(query.deadline, self.resolve(&query.segment))
                .await
                .map_err(|_| too_late(&query.segment))??;
            match self.ask_workers(query, &located).await? {
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

/// Headers that say which file is meant. `token`: of the write lock.
pub(crate) fn target_headers(
    id: &SegmentId,
    directory: &str,
    generation: Option<Generation>,
    token: Option<Token>,
) -> Result<HeaderMap, ApiError> {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // UTF-8 as it is; only control characters are no header. Never left out: the worker would look where
    // the layout says, and answer from another file.
    let path = HeaderValue::from_bytes(id.path_in(directory).as_bytes()).map_err(|_| {
        ApiError::new(
            ErrorCode::BadRequest,
            format!("segment {id} lies in a directory whose name has control characters"),
        )
    })?;
    headers.insert(PATH_HEADER, path);
    if let Some(generation) = generation
        && let Ok(generation) = HeaderValue::try_from(generation.to_string())
    {
        headers.insert(EXPECTED_GENERATION_HEADER, generation);
    }
    if let Some(token) = token {
        headers.insert(TOKEN_HEADER, HeaderValue::from(token));
    }
    Ok(headers)
}
