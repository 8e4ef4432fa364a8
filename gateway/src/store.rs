//! The little that the gateway needs of a segment store; the root package implements it with the
//! stores of `springhouse-fuse`.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// A version of a file, opaque, compared only for equality; 32 lower-case hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Generation(pub [u8; 16]);

impl TryFrom<String> for Generation {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, &'static str> {
        Self::parse(&text).ok_or("a generation is 32 lower-case hexadecimal digits")
    }
}

impl From<Generation> for String {
    fn from(generation: Generation) -> Self {
        generation.to_string()
    }
}

impl Generation {
    /// From its text.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(|n| Self(n.to_be_bytes()))
    }
}

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// One file or directory as the store sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreEntry {
    /// Last component of its path.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Length in bytes; 0 for a directory.
    pub len: u64,
    /// Last modification, ms since 1970. Of a directory: moves on create, delete and rename in it.
    pub mtime_ms: i64,
    /// Which version this is; of a directory it changes whenever `mtime_ms` does, or oftener.
    pub generation: Generation,
}

/// A failed store call: what kind, and one line for people.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreFailure {
    /// Nothing has that path.
    #[error("{0}")]
    NotFound(String),
    /// `create_exclusive` found it there.
    #[error("{0}")]
    AlreadyExists(String),
    /// The store does not let us: permission or read-only.
    #[error("{0}")]
    Denied(String),
    /// Unreachable or too slow; try again.
    #[error("{0}")]
    Unavailable(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl StoreFailure {
    /// The same kind, with what it is about in front.
    #[must_use]
    pub fn about(self, what: &str) -> Self {
        let with = |text: String| format!("{what}: {text}");
        match self {
            Self::NotFound(text) => Self::NotFound(with(text)),
            Self::AlreadyExists(text) => Self::AlreadyExists(with(text)),
            Self::Denied(text) => Self::Denied(with(text)),
            Self::Unavailable(text) => Self::Unavailable(with(text)),
            Self::Other(text) => Self::Other(with(text)),
        }
    }
}

/// A segment store as the gateway sees it. Paths are absolute below the store's root, `/` is the root.
#[async_trait]
pub trait SegmentStore: Send + Sync + 'static {
    /// Where it is, for people and for checking that workers use the same one.
    fn url(&self) -> String;

    /// All entries of one directory, in no order. Bounded by the store's own directory limit (HDFS:
    /// 1,048,576 entries).
    async fn list(&self, dir: &str) -> Result<Vec<StoreEntry>, StoreFailure>;

    /// One path.
    async fn stat(&self, path: &str) -> Result<StoreEntry, StoreFailure>;

    /// A small file, whole. For the owner marker.
    async fn read_small(&self, path: &str) -> Result<Vec<u8>, StoreFailure>;

    /// Creates a small file; `AlreadyExists` if there is one, checked atomically by the store.
    async fn create_exclusive(&self, path: &str, data: &[u8]) -> Result<(), StoreFailure>;

    /// Moves the file `from` to `to`, in the place of a file that is there: at every moment a reader finds
    /// the old or the new one. `Unavailable`: nobody knows whether it happened, ask by `stat`.
    async fn rename_over(&self, from: &str, to: &str) -> Result<(), StoreFailure>;

    /// Removes a file. `Unavailable`: nobody knows whether it happened.
    async fn remove(&self, path: &str) -> Result<(), StoreFailure>;
}
