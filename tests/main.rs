//! End to end: real HDFS daemons, real mounts, real HTTP. A file for each promise.
//!
//! `cargo test --test e2e -- NAME` runs the tests whose names hold NAME, `-- --list` lists them. A test
//! whose needs this host cannot meet is skipped with the reason; under `CI=true` it fails.

#![allow(missing_docs, reason = "tests are named after what they promise")]
#![allow(unreachable_pub, reason = "a binary of modules, each of which is its own public")]
#![allow(clippy::print_stdout, reason = "it is what a test binary does")]

use std::process::ExitCode;

mod access;
mod any_hdfs;
mod arrows;
mod bad_input;
mod catalog;
mod cli;
mod cluster_faults;
mod config;
mod conformance;
mod demo_runs;
mod disaster;
mod docs;
mod fstab;
mod harness;
mod hostile_sql;
mod life;
mod life_faults;
mod life_outages;
mod load;
mod mount_cache;
mod mount_daemon;
mod mount_ends;
mod mount_faults;
mod mount_reads;
mod mount_writes;
mod operators;
mod programs;
mod query;
mod query_faults;
mod registry;
mod selftest;
mod ship;
mod store_contract;
mod tiers;
mod trough;
mod trough_manager;
mod trough_migration;
mod tuning;
mod verify;
mod write_faults;

/// Those that take longest first, so that the last ones to end are short.
const TESTS: [&[registry::Test]; 38] = [
    life_faults::TESTS,
    life_outages::TESTS,
    life::TESTS,
    trough::TESTS,
    tiers::TESTS,
    trough_manager::TESTS,
    trough_migration::TESTS,
    disaster::TESTS,
    mount_cache::TESTS,
    any_hdfs::TESTS,
    write_faults::TESTS,
    query_faults::TESTS,
    mount_writes::TESTS,
    conformance::TESTS,
    programs::TESTS,
    mount_faults::TESTS,
    mount_ends::TESTS,
    mount_reads::TESTS,
    mount_daemon::TESTS,
    operators::TESTS,
    tuning::TESTS,
    fstab::TESTS,
    cluster_faults::TESTS,
    hostile_sql::TESTS,
    query::TESTS,
    load::TESTS,
    catalog::TESTS,
    access::TESTS,
    demo_runs::TESTS,
    verify::TESTS,
    cli::TESTS,
    store_contract::TESTS,
    selftest::TESTS,
    ship::TESTS,
    bad_input::TESTS,
    config::TESTS,
    arrows::TESTS,
    docs::TESTS,
];

fn main() -> ExitCode {
    registry::run()
}
