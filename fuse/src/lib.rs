//! Segment stores, block cache and the FUSE file system of Springhouse.
//!
//! Imports go one way: `kernel` → `fs` → `cache`, `sqlite` → `disk`, `prefetch`, `mrc`, `memory`,
//! `staging` → `store` → `error`. Nothing below `kernel` knows a kernel type, nothing outside `store/hdfs/` knows
//! `hdfs-native`, and nothing in this crate knows the gateway.

pub mod cache;
pub mod disk;
pub mod error;
pub mod fs;
pub mod kernel;
pub mod memory;
pub mod mount;
pub mod mrc;
pub mod prefetch;
pub mod sqlite;
pub mod staging;
pub mod store;
