//! Registry, leases, routing and HTTP API of Springhouse.
//!
//! Imports go one way: `trough`, `gateway`, `api` handlers → `writing` → `routing`, `discovery` → `copies`, `heat`
//! → `registry`, `leases`, `placement` → `api::types`, `api::hot`, `api::tier_types`, `api::error`, `rules`,
//! `segment`, `store`, which import nothing of the others.
//! This crate knows the store only through [`store::SegmentStore`], SQLite not at all, and nothing
//! outside `registry/sled.rs` knows `sled`.

// The store of the benchmark is a test's, too, and calls this library by its name.
#[cfg(test)]
extern crate self as springhouse_gateway;

pub mod api;
pub mod blocking;
pub mod copies;
#[cfg(any(test, feature = "testing"))]
mod crash;
pub mod discovery;
pub mod failpoint;
mod gateway;
pub mod heat;
pub mod leases;
pub mod metrics;
pub mod placement;
pub mod rebuild;
pub mod registry;
pub mod routing;
pub mod rules;
#[cfg(test)]
mod scale;
pub mod segment;
mod settings;
pub mod shipped;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod trough;
pub mod upload;
pub mod writing;

pub use gateway::{Gateway, StartError};
pub use heat::HeatSettings;
pub use settings::{ForeignGeneration, Settings};
pub use writing::SchemaCheck;
