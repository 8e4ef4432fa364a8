//! Registry, leases, routing and HTTP API of Springhouse.
//!
//! Imports go one way: `api` → `routing`, `discovery` → `registry`, `leases`, `placement` → `segment`.
//! This crate knows the store only through [`store::SegmentStore`], SQLite not at all, and nothing
//! outside `registry/sled.rs` knows `sled`.

pub mod api;
pub mod segment;
pub mod store;
