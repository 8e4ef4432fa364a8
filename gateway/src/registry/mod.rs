//! What the gateway keeps: the catalog of segments, and who it is.
//!
//! [`Registry`] is a small ordered table of bytes that some back end keeps (`sled.rs`: the embedded one);
//! `rows.rs` says how the catalog lies in it, `catalog.rs` is the catalog in memory, `ledger/` is what
//! cannot be read off the store (locks, tombstones, schemas, wishes), `state.rs` owns both and keeps
//! memory and table equal.

pub mod catalog;
pub mod ledger;
mod load;
pub mod packed;
pub mod rows;
pub mod sled;
pub mod state;

use serde::{Deserialize, Serialize};

use crate::api::error::{ApiError, ErrorCode};

/// A failed call of the registry's back end, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Another process has it open.
    #[error("{0}")]
    InUse(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        tracing::error!(%error, "the registry could not be written");
        Self::new(ErrorCode::Internal, format!("the registry took no change: {error}"))
    }
}

/// Who this registry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Made once; marks the store as owned. 32 hexadecimal digits.
    pub registry_id: String,
    /// Counts the starts of the gateway.
    pub epoch: u64,
    /// URL of the store that the catalog describes.
    #[serde(default)]
    pub store_url: Option<String>,
    /// Whether a discovery pass ever reached its end: only then does "not in the catalog" mean anything.
    #[serde(default)]
    pub discovered: bool,
}

/// One change of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowChange {
    /// Writes a value.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a key.
    Delete(Vec<u8>),
}

/// A back end: rows in order of their keys, and one meta row. All calls block.
pub trait Registry: Send + Sync + 'static {
    /// The meta row, `None` in a new registry.
    fn meta(&self) -> Result<Option<Meta>, RegistryError>;

    /// Writes the meta row. On return it survives a crash.
    fn set_meta(&self, meta: &Meta) -> Result<(), RegistryError>;

    /// Shows every row whose key is below `end`, in order of keys.
    fn scan(&self, end: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), RegistryError>;

    /// The value of one row.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RegistryError>;

    /// Makes all changes or none. On return they survive a crash.
    fn commit(&self, changes: Vec<RowChange>) -> Result<(), RegistryError>;

    /// Bytes on disk.
    fn disk_bytes(&self) -> u64;
}

#[cfg(any(test, feature = "testing"))]
pub(crate) mod memory;
#[cfg(test)]
mod tests;
