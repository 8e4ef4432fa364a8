//! Segments in the store that are laid out anew. `docs/HTTP.md` describes it.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use serde::{Deserialize, Serialize};

use super::{error::ApiError, hot::HotUploaded, segments::segment_id, writes::going_on};
use crate::gateway::Core;

/// What a new layout is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Bytes of a page.
    pub page_bytes: u32,
    /// Pages of the file as it was.
    pub pages_before: u32,
    /// Pages of the new one.
    pub pages_after: u32,
    /// Interior pages, which come first in the new one.
    pub interior_pages: u32,
    /// Reads of the store for all interior pages and one leaf, with nothing cached.
    pub cold_reads_before: u64,
    /// The same for the new file.
    pub cold_reads_after: u64,
    /// Bytes of those reads.
    pub cold_bytes_before: u64,
    /// The same for the new file.
    pub cold_bytes_after: u64,
}

impl Layout {
    /// Whether the new file is better: fewer reads, or fewer pages.
    pub fn is_gain(&self) -> bool {
        self.cold_reads_after < self.cold_reads_before || self.pages_after < self.pages_before
    }
}

/// `POST /v1/hot/{id}/optimize`, gateway → hot worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HotOptimize {
    /// Path below the store's root.
    pub path: String,
    /// Generation there.
    pub generation: String,
    /// Where to, as in [`super::hot::HotUpload`].
    pub temporary: String,
}

/// Answer to a [`HotOptimize`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotOptimized {
    /// What the new layout is worth.
    pub layout: Layout,
    /// What lies at the temporary name; absent: nothing would be gained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uploaded: Option<HotUploaded>,
}

/// Answer to `POST /v1/segments/{id}/optimize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptimizeAnswer {
    /// The segment.
    pub segment: String,
    /// Whether it has a new generation; `false`: it was laid out well already.
    pub changed: bool,
    /// The generation that is in the store now.
    pub generation: String,
    /// What the layout is worth.
    pub layout: Layout,
}

/// `POST /v1/segments/{id}/optimize`
pub(super) async fn optimize(
    State(core): State<Arc<Core>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<OptimizeAnswer>, ApiError> {
    let id = segment_id(id)?;
    going_on(&core)?;
    core.writing.optimize(id).await.map(Json)
}
