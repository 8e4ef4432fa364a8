//! Springhouse: SQL over millions of SQLite segments in HDFS. The library behind the binary.

pub mod cli;
mod clock;
pub mod config;
pub mod error;
pub mod gateway_store;
pub mod logging;
pub mod mount;
pub mod panics;
pub mod query;
pub mod relayout;
pub mod serve;
pub mod shutdown;
#[cfg(test)]
mod simulation;
pub mod worker;

pub use springhouse_gateway::failpoint;
