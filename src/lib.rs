//! Springhouse: SQL over millions of SQLite segments in HDFS. The library behind the binary.

pub mod cli;
pub mod config;
pub mod mount;
pub mod query;
pub mod worker;
