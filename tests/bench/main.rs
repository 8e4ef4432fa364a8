//! `make bench`: the product against its floor, end to end, on real HDFS. Prints Markdown.
//!
//! `bench [--size full|quick] [PART…]`; parts: sequential, streams, touch, distance,
//! lookups, gateway. Every answer is checked; reads
//! and bytes are the DataNodes' own counters.

#![allow(unreachable_pub, reason = "a binary of modules, each of which is its own public")]
#![allow(clippy::print_stdout, reason = "printing is what a benchmark does")]

use std::{process::ExitCode, sync::Arc};

#[path = "../harness/mod.rs"]
#[allow(dead_code, reason = "benchmarks need only a part of the harness")]
mod harness;

mod distance;
mod gateway;
mod keep_alive;
mod lookups;
mod report;
mod sequential;
mod sides;
mod streams;
mod touch;

use harness::{hdfs::Hdfs, need::Need};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Length of the file that is read from end to end.
    pub sequential_bytes: u64,
    /// Alternating runs of each side; medians are shown.
    pub rounds: usize,
    /// Rows of the segment that is looked up in; about 230 bytes each.
    pub rows: u64,
    /// Lookups of one pass.
    pub lookups: u64,
    /// Passes that open the file anew.
    pub passes: usize,
    /// Length of a measurement of requests per second, in ms.
    pub load_ms: u64,
}

const FULL: Size = Size {
    sequential_bytes: 1 << 30,
    rounds: 7,
    rows: 2_000_000,
    lookups: 2_000,
    passes: 20,
    load_ms: 5_000,
};
const QUICK: Size =
    Size { sequential_bytes: 128 << 20, rounds: 3, rows: 200_000, lookups: 500, passes: 5, load_ms: 1_000 };

fn main() -> ExitCode {
    let mut size = FULL;
    let mut parts = Vec::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--size" => match words.next().as_deref() {
                Some("full") => size = FULL,
                Some("quick") => size = QUICK,
                other => return usage(&format!("{:?} is not a size", other.unwrap_or_default())),
            },
            "sequential" | "streams" | "touch" | "distance" | "lookups" | "gateway" => parts.push(word),
            // What cargo adds.
            "--bench" => {}
            other => return usage(&format!("unknown argument {other:?}")),
        }
    }
    for need in [Need::Fuse, Need::Hdfs] {
        if let Err(missing) = need.check() {
            eprintln!("bench: {missing}");
            return ExitCode::FAILURE;
        }
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    report::machine(&size);
    let hdfs = Arc::new(Hdfs::own());
    if wanted("sequential") {
        sequential::run(&hdfs, &size);
    }
    if wanted("streams") {
        streams::run(&hdfs, &size);
    }
    if wanted("touch") || wanted("distance") {
        let files = touch::Files::make(&hdfs, &size);
        if wanted("touch") {
            touch::run(&files, &size);
        }
        if wanted("distance") {
            distance::run(&files, &size);
        }
    }
    if wanted("lookups") || wanted("gateway") {
        let segment = lookups::Segment::make(&hdfs, &size);
        if wanted("lookups") {
            lookups::run(&segment, &size);
        }
        if wanted("gateway") {
            gateway::run(&segment, &size);
        }
    }
    ExitCode::SUCCESS
}

fn usage(why: &str) -> ExitCode {
    eprintln!(
        "bench: {why}; usage: bench [--size full|quick] [sequential|streams|touch|distance|lookups|gateway …]"
    );
    ExitCode::from(2)
}
