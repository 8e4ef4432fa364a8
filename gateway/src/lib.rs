//! Registry, leases, routing and HTTP API of Springhouse.
//!
//! Imports go one way: `trough`, `gateway`, `api` handlers → `writing` → `routing`, `discovery` → `copies` →
//! `registry`, `leases`, `placement` → `api::types`, `api::hot`, `api::error`, `segment`, `store`, which
//! import nothing of the others.
//! This crate knows the store only through [`store::SegmentStore`], SQLite not at all, and nothing
//! outside `registry/sled.rs` knows `sled`.

// The store of the benchmark is a test's, too, and calls this library by its name.
#[cfg(test)]
extern crate self as springhouse_gateway;

pub mod api;
pub mod copies;
#[cfg(test)]
mod crash;
pub mod discovery;
mod gateway;
pub mod leases;
pub mod metrics;
pub mod placement;
pub mod rebuild;
pub mod registry;
pub mod routing;
#[cfg(test)]
mod scale;
pub mod segment;
mod settings;
pub mod store;
pub mod trough;
pub mod writing;

pub use gateway::{Gateway, StartError};
pub use settings::{ForeignGeneration, Settings};
pub use writing::SchemaCheck;
