//! What the gateway keeps: the catalog of segments, and who it is.
//!
//! [`Registry`] is a small ordered table of bytes that some back end keeps (`sled.rs`: the embedded one);
//! `rows.rs` says how the catalog lies in it, `catalog.rs` is the catalog in memory, `ledger/` is what
//! cannot be read off the store (locks, tombstones, schemas, wishes), `state.rs` owns both and keeps
//! memory and table equal.

pub mod catalog;
pub mod export;
pub mod import;
pub mod ledger;
pub mod lines;
mod load;
pub mod packed;
pub mod places;
pub mod rows;
pub mod sled;
pub mod state;
pub mod verify;

use std::{ops::ControlFlow, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::api::{
    error::{ApiError, ErrorCode},
    hot::Token,
};

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
    /// The registry was made again, or is an old one: it may lack what was granted since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopting: Option<Adopting>,
}

/// How a registry that may lack something takes up what workers say; see `ledger/adopt.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopting {
    /// Tokens up to this one are known: a worker that has one and no lock has lost it.
    pub known: Token,
    /// For so long after a start of the gateway workers are waited for, in ms.
    pub wait_ms: u64,
}

impl Meta {
    /// Of a registry that never was.
    pub fn new(registry_id: impl Into<String>) -> Self {
        Self { registry_id: registry_id.into(), epoch: 0, store_url: None, discovered: false, adopting: None }
    }
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

    /// Shows the rows from key `start` to below `end` (`None`: to the last) in order of keys, until `each`
    /// has enough.
    fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        each: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), RegistryError>;

    /// The value of one row.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RegistryError>;

    /// Makes all changes or none. On return they survive a crash.
    fn commit(&self, changes: Vec<RowChange>) -> Result<(), RegistryError>;

    /// Bytes on disk.
    fn disk_bytes(&self) -> u64;
}

/// A registry that is shared, with whoever puts it in its place afterwards.
impl Registry for Arc<dyn Registry> {
    fn meta(&self) -> Result<Option<Meta>, RegistryError> {
        (**self).meta()
    }

    fn set_meta(&self, meta: &Meta) -> Result<(), RegistryError> {
        (**self).set_meta(meta)
    }

    fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        each: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), RegistryError> {
        (**self).scan(start, end, each)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RegistryError> {
        (**self).get(key)
    }

    fn commit(&self, changes: Vec<RowChange>) -> Result<(), RegistryError> {
        (**self).commit(changes)
    }

    fn disk_bytes(&self) -> u64 {
        (**self).disk_bytes()
    }
}

#[cfg(any(test, feature = "testing"))]
pub(crate) mod memory;
#[cfg(test)]
mod round_trip;
#[cfg(test)]
mod tests;
