//! Hot copies: wishes of people, manifests and assignments of workers.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{
        Path, Query as UrlQuery, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::Request,
};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    auth,
    error::{ApiError, ErrorCode},
    hot::{Assignment, Manifest, ManifestAnswer},
    segments::{bad_request, read_body, segment_id},
    types::{DrainAnswer, RaiseAnswer, RaiseRequest},
    workers::check_name,
    writes::{going_on, small_json},
};
use crate::{
    copies::{Copies, adopt::take_up},
    gateway::Core,
    registry::{ledger::Entry, state::Amendment},
};

/// Longest manifest in bytes: some hundred thousand segments. A worker with more sends the first ones as
/// all, and the others as changes.
const MANIFEST_BYTES_MAX: usize = 64 << 20;
const MANIFEST_TIME_MAX: Duration = Duration::from_secs(60);

type Id = Result<Path<String>, PathRejection>;
type Pair = Result<Path<(String, String)>, PathRejection>;

/// `POST /v1/segments/{id}/raise`
pub(super) async fn raise(
    State(core): State<Arc<Core>>,
    id: Id,
    request: Request<Body>,
) -> Result<Json<RaiseAnswer>, ApiError> {
    let id = segment_id(id)?;
    going_on(&core)?;
    let (_, body) = small_json::<RaiseRequest>(request, &core).await?;
    if body.copies == Some(0) {
        return Err(bad_request("copies must be at least 1; POST …/lower takes them away"));
    }
    core.writing.raise(&id, body.copies).await.map(Json)
}

/// `POST /v1/segments/{id}/lower`
pub(super) async fn lower(State(core): State<Arc<Core>>, id: Id) -> Result<Json<RaiseAnswer>, ApiError> {
    let id = segment_id(id)?;
    going_on(&core)?;
    core.writing.lower(&id).await.map(Json)
}

/// `PUT /v1/segments/{id}/pin/{worker}`
pub(super) async fn pin(State(core): State<Arc<Core>>, pair: Pair) -> Result<Json<RaiseAnswer>, ApiError> {
    set_pin(&core, pair, true).await
}

/// `DELETE /v1/segments/{id}/pin/{worker}`
pub(super) async fn unpin(State(core): State<Arc<Core>>, pair: Pair) -> Result<Json<RaiseAnswer>, ApiError> {
    set_pin(&core, pair, false).await
}

async fn set_pin(core: &Core, pair: Pair, pinned: bool) -> Result<Json<RaiseAnswer>, ApiError> {
    let Path((id, worker)) = pair.map_err(|e| bad_request(e.body_text()))?;
    let id = segment_id(Ok(Path(id)))?;
    check_name(&worker)?;
    going_on(core)?;
    core.writing.pin(&id, worker, pinned).await.map(Json)
}

/// `POST /v1/workers/{name}/drain`
pub(super) async fn drain(State(core): State<Arc<Core>>, name: Id) -> Result<Json<DrainAnswer>, ApiError> {
    set_drain(&core, name, true).await
}

/// `DELETE /v1/workers/{name}/drain`
pub(super) async fn undrain(State(core): State<Arc<Core>>, name: Id) -> Result<Json<DrainAnswer>, ApiError> {
    set_drain(&core, name, false).await
}

async fn set_drain(core: &Core, name: Id, draining: bool) -> Result<Json<DrainAnswer>, ApiError> {
    let Path(name) = name.map_err(|e| bad_request(e.body_text()))?;
    check_name(&name)?;
    going_on(core)?;
    core.writing.drain(&name, draining).await.map(Json)
}

/// `PUT /v1/workers/{name}/manifest`
pub(super) async fn manifest(
    State(core): State<Arc<Core>>,
    name: Id,
    request: Request<Body>,
) -> Result<Json<ManifestAnswer>, ApiError> {
    let (parts, body) = request.into_parts();
    auth::check(core.settings.secret.as_deref(), &parts)?;
    let Path(name) = name.map_err(|e| bad_request(e.body_text()))?;
    let body = read_body(body, MANIFEST_BYTES_MAX, Instant::now() + MANIFEST_TIME_MAX).await?;
    // Some hundred thousand entries take a moment: not on a thread that serves requests.
    let parsed = crate::blocking::run(move || serde_json::from_slice::<Manifest>(&body)).await;
    let parsed = parsed.map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))?;
    let manifest = parsed.map_err(|e| bad_request(format!("manifest: {e}")))?;
    core.publish(&name, &manifest).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AssignmentParams {
    epoch: u64,
    since: Option<u64>,
}

/// `GET /v1/workers/{name}/assignment?epoch=&since=`
pub(super) async fn assignment(
    State(core): State<Arc<Core>>,
    name: Id,
    params: Result<UrlQuery<AssignmentParams>, QueryRejection>,
    request: Request<Body>,
) -> Result<Json<Assignment>, ApiError> {
    auth::check(core.settings.secret.as_deref(), &request.into_parts().0)?;
    let Path(name) = name.map_err(|e| bad_request(e.body_text()))?;
    let UrlQuery(params) = params.map_err(|e| bad_request(e.body_text()))?;
    core.assignment(&name, params.epoch, params.since).map(Json)
}

impl Core {
    /// Takes up what a hot worker says it has.
    pub(crate) async fn publish(&self, name: &str, manifest: &Manifest) -> Result<ManifestAnswer, ApiError> {
        self.check_epoch(name, manifest.epoch)?;
        if self.state.is_adopting() && manifest.segments.iter().any(|segment| segment.token.is_some()) {
            let (state, worker, manifest) = (self.state.clone(), name.to_owned(), manifest.clone());
            let now_ms = self.writing.now_ms();
            let taken = crate::blocking::run(move || take_up(&state, &worker, &manifest, now_ms));
            taken.await.map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))??;
        }
        // A token above all that this registry knows: it was given by one that is lost. No lower one may be
        // given from now on.
        if let Some(highest) = Copies::highest_token(manifest)
            && highest > self.state.ledger().token()
        {
            tracing::warn!(
                worker = name,
                token = highest,
                "a worker has a token that this registry never gave"
            );
            let state = self.state.clone();
            let floor = move || {
                state.amend(move |ledger, _| {
                    let entries =
                        if highest > ledger.token() { vec![Entry::Token(highest)] } else { Vec::new() };
                    Ok::<_, ApiError>(Amendment::ledger(entries, ()))
                })
            };
            crate::blocking::run(floor)
                .await
                .map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))??;
        }
        self.routing.copies.publish(name, manifest)
    }

    /// What a hot worker should hold.
    pub(crate) fn assignment(
        &self,
        name: &str,
        epoch: u64,
        since: Option<u64>,
    ) -> Result<Assignment, ApiError> {
        self.check_epoch(name, epoch)?;
        let live = self.routing.workers.hot_workers(Instant::now().into_std());
        Ok(self.routing.copies.assignment(name, since, &live))
    }

    /// Only the process that has the lease speaks for a worker.
    fn check_epoch(&self, name: &str, epoch: u64) -> Result<(), ApiError> {
        match self.routing.workers.live(name, Instant::now().into_std()) {
            Some(worker) if worker.epoch == epoch && worker.hot.is_some() => Ok(()),
            Some(worker) if worker.epoch == epoch => Err(ApiError::new(
                ErrorCode::Conflict,
                format!("worker {name} has no `hot` in its lease: it holds no copies"),
            )),
            Some(worker) => Err(ApiError::new(
                ErrorCode::Conflict,
                format!("worker {name} has a lease of epoch {}, not {epoch}", worker.epoch),
            )),
            None => {
                Err(ApiError::new(ErrorCode::Conflict, format!("worker {name} has no lease: renew it first")))
            }
        }
    }
}
