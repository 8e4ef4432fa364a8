//! What is said over the control socket, as JSON.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};
use springhouse_fuse::{
    cache::KeptFile,
    error::{Error, ErrorKind},
    fs::FsSnapshot,
    store::Snapshot,
};

/// What `GET /stats` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountStats {
    /// The store's URL.
    pub store: String,
    /// The mount point.
    pub dir: PathBuf,
    /// The daemon's process.
    pub pid: u32,
    /// Springhouse's version.
    pub version: String,
    /// Since the mount answered.
    pub uptime_seconds: f64,
    /// Number of the mount in the mount table.
    pub mount_id: u64,
    /// Memory that the daemon has from the kernel now.
    pub memory_resident_bytes: u64,
    /// Bound of what it holds.
    pub memory_bytes_max: u64,
    /// Files that were pinned.
    pub pinned: Vec<KeptFile>,
    /// Hints that were of use: what they spoke of was open, and known as a database.
    #[serde(default)]
    pub hints: u64,
    /// Inodes, handles, block cache.
    pub fs: FsSnapshot,
    /// What the store was asked, by operation, with bytes and latencies.
    pub store_calls: Snapshot,
}

impl MountStats {
    /// Share of the wanted blocks that were in memory, 0 to 1; `None` before the first read.
    pub fn hit_ratio(&self) -> Option<f64> {
        let cache = &self.fs.cache;
        let hits = cache.hits + cache.pinned_hits + cache.readahead_hits;
        let all = hits + cache.misses;
        (all > 0).then(|| hits as f64 / all as f64)
    }
}

/// Settings by the name of their key, as a configuration file writes them. Body of `POST /settings`, and
/// the answer of `GET /settings`.
pub type Settings = BTreeMap<String, String>;

/// What `POST /settings` did to one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Before.
    pub old: String,
    /// Now.
    pub new: String,
}

/// Body of `POST /pin`, `/unpin`, `/drop` and `/warm`: files and directories, absolute below the store's
/// root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// At most [`PATHS_MAX`].
    pub paths: Vec<String>,
    /// Pieces read at the same time, 1 to [`PARALLELISM_MAX`]; only of `/warm`. Unset: 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<usize>,
    /// Only of `/drop`, with the root: what lies in the cache directory too, which all its users share.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disk: bool,
}

/// Answer of `/pin` and `/unpin`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// What was pinned, or let go of.
    pub files: Vec<KeptFile>,
    /// Why the others were not.
    pub refused: Option<Refusal>,
}

/// Most paths of one request.
pub const PATHS_MAX: usize = 10_000;

/// Most pieces that `/warm` reads at the same time.
pub const PARALLELISM_MAX: usize = 64;

/// Body of `POST /hint`: a statement is about to read these trees of this database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hint {
    /// Absolute below the store's root.
    pub path: String,
    /// The generation that is open, as 32 hexadecimal digits.
    pub generation: String,
    /// Root pages of tables and indexes.
    pub roots: Vec<u32>,
}

/// Most root pages of a hint.
pub const ROOTS_MAX: usize = 64;

/// Body of every answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What the caller has to do.
    pub kind: ErrorKind,
    /// One line: thing, reason, remedy.
    pub message: String,
}

impl From<&Error> for Refusal {
    fn from(error: &Error) -> Self {
        Self { kind: error.kind(), message: error.message().to_owned() }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.kind, refusal.message)
    }
}
