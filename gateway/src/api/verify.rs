//! One segment looked at where its bytes are: in the store, and on every worker that has a copy.
//! `docs/HTTP.md` describes it.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, State, rejection::PathRejection},
    http::Request,
};
use serde::{Deserialize, Serialize};

use super::{
    error::ApiError,
    hot::CopyState,
    segments::segment_id,
    writes::{going_on, small_json},
};
use crate::{gateway::Core, registry::verify::Finding};

/// How much is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// Every byte, for the checksum; then `PRAGMA integrity_check`.
    #[default]
    Full,
    /// The same with `PRAGMA quick_check`, which does not compare indexes with their tables.
    Quick,
    /// The first 100 bytes: header, length, generation.
    Header,
}

/// `POST /v1/segments/{id}/verify`. An empty body is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VerifyRequest {
    /// How much is read.
    pub depth: Depth,
}

/// `POST /v1/segments/{id}/verify` (what the store has) and `POST /v1/hot/{id}/verify` (the copy here),
/// gateway → worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileVerify {
    /// Path below the store's root.
    pub path: String,
    /// How much is read.
    pub depth: Depth,
}

/// What is wrong with the bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flaw {
    /// Which check found it.
    pub check: Check,
    /// In words that follow the file's name.
    pub text: String,
}

/// A check of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// All of it can be read.
    Read,
    /// Its length is the one that was written down.
    Length,
    /// Its bytes are those that were written down.
    Checksum,
    /// It begins as a whole SQLite database in the ordinary mode.
    Header,
    /// SQLite finds it whole.
    Integrity,
}

impl Check {
    /// As JSON has it, without quotes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Length => "length",
            Self::Checksum => "checksum",
            Self::Header => "header",
            Self::Integrity => "integrity",
        }
    }
}

/// Answer to a [`FileVerify`]: what a worker found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileVerified {
    /// Generation of what was read; of a copy, the one in the store that it stands for. Absent: never promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<String>,
    /// Bytes.
    pub size: u64,
    /// xxh3-128 of them, 32 hexadecimal digits; absent: they were not read, or they are being written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// Of a copy: the checksum that was written down with it, if it was not written to since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// Whether SQLite looked at all of it.
    pub checked: bool,
    /// What is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flaws: Vec<Flaw>,
    /// Of a copy: it is not used any more, and fetched anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub taken_out: bool,
}

/// Answer to `POST /v1/segments/{id}/verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyAnswer {
    /// The segment.
    pub segment: String,
    /// Whether nothing was found.
    pub sound: bool,
    /// Path below the store's root.
    pub path: String,
    /// How much was read.
    pub depth: Depth,
    /// What the store has; absent: it has none, or it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Verified>,
    /// Hot copies that were looked at, by worker.
    pub copies: Vec<Verified>,
    /// What does not fit.
    pub findings: Vec<Finding>,
}

/// One file that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Worker that looked.
    pub worker: String,
    /// State of a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<CopyState>,
    /// Its generation; of a copy, the one in the store that it stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<String>,
    /// Bytes.
    pub size: u64,
    /// xxh3-128 of them; absent: they were not read, or they are being written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// What it was compared with; absent: no checksum is kept of this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// Whether SQLite looked at all of it.
    pub checked: bool,
}

/// `POST /v1/segments/{id}/verify`
pub(super) async fn verify(
    State(core): State<Arc<Core>>,
    id: Result<Path<String>, PathRejection>,
    request: Request<Body>,
) -> Result<Json<VerifyAnswer>, ApiError> {
    let id = segment_id(id)?;
    going_on(&core)?;
    let (_, body) = small_json::<VerifyRequest>(request, &core).await?;
    core.writing.verify(&id, body.depth).await.map(Json)
}
