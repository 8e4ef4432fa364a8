//! The query engine: sandboxed, bounded, streamed SQLite over one generation of a segment.
//!
//! `engine` (queue) → `threads` → `run` (one query) → `pool` (connections by generation) → `sandbox` (what a
//! connection may do; `authorize`, `functions`) → `raw` (statements). `memory` is under all of it: SQLite's allocator, counting by
//! thread. `write` changes segments, with the same sandbox. Nothing outside this directory knows `rusqlite`, and nothing here knows where files lie: that
//! is [`SegmentFiles`], which the worker implements.

mod answer;
mod archive_it;
mod authorize;
mod control;
mod copying;
mod encode;
mod engine;
mod errors;
mod files;
mod functions;
mod live;
mod memory;
mod metrics;
mod params;
mod pool;
mod raw;
mod regexp;
mod rows;
mod run;
mod sandbox;
mod settings;
#[cfg(test)]
mod tests;
mod threads;
pub mod write;

pub use self::{
    answer::Answer,
    copying::{CopyError, Stop, find_damage, vacuum_into, verify_copy},
    encode::Format,
    engine::{Engine, init},
    errors::{from_io, replaced},
    files::{Content, OpenFile, Seen, SegmentFiles},
    run::Query,
    sandbox::{sqlite_compile_options, sqlite_version},
    settings::{QuerySettings, SqlLimits},
};

#[cfg(test)]
pub(crate) use self::tests::{make_database as make_test_database, test_numbers, test_rows};
