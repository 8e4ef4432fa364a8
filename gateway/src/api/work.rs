//! Long work on workers: what is under way, and ending it. `docs/HTTP.md` describes it.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use serde::{Deserialize, Serialize};

use super::{error::ApiError, segments::segment_id, writes::going_on};
use crate::gateway::Core;

/// One piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Of which segment.
    pub segment: String,
    /// Where; a worker that is asked itself leaves it empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub worker: String,
    /// `fetching`, `copying`, `laying out`, `uploading` or `verifying` (what was uploaded); of `verify`
    /// `waiting`, `reading` or `checking`.
    pub what: String,
    /// Bytes done.
    pub done: u64,
    /// Of so many; 0: not known yet.
    pub total: u64,
}

/// `GET /v1/work`, of the gateway and of a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkList {
    /// By segment.
    pub work: Vec<Work>,
    /// Workers that did not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<String>,
}

/// Answer to `POST /v1/segments/{id}/cancel`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelAnswer {
    /// The segment.
    pub segment: String,
    /// Workers that were told to stop.
    pub workers: Vec<String>,
    /// Whether a promotion was ended; `false`: there was none, or it was beyond the point where that is
    /// possible, and is done.
    pub promotion: bool,
    /// Whether a verification was ended.
    #[serde(default)]
    pub verification: bool,
}

/// `GET /v1/work`
pub(super) async fn list(State(core): State<Arc<Core>>) -> Json<WorkList> {
    Json(core.writing.work().await)
}

/// `POST /v1/segments/{id}/cancel`
pub(super) async fn cancel(
    State(core): State<Arc<Core>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<CancelAnswer>, ApiError> {
    let id = segment_id(id)?;
    going_on(&core)?;
    core.writing.cancel(id).await.map(Json)
}
