//! What counting the heat of segments costs: `cargo run --release -p springhouse-gateway --example heat`.
//!
//! Prints the time of counting one query, by one thread and by several at once, for queries that go to few
//! segments and for queries of which each goes to another one.

#![allow(clippy::print_stdout)]

use std::{
    thread,
    time::{Duration, Instant},
};

use springhouse_gateway::{
    heat::{AnsweredFrom, Heat, HeatSettings},
    segment::SegmentId,
};

const QUERIES: usize = 1_000_000;

/// Nanoseconds for each query of each thread.
fn each_ns(heat: &Heat, ids: &[SegmentId], threads: usize) -> f64 {
    let begun = Instant::now();
    thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let now = Instant::now();
                for n in 0..QUERIES {
                    let id = &ids[(n * 7919 + thread * 104_729) % ids.len()];
                    heat.answered(id, AnsweredFrom::Copy, 0.001, now + Duration::from_micros(n as u64));
                }
            });
        }
    });
    begun.elapsed().as_secs_f64() * 1e9 / QUERIES as f64
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let settings = HeatSettings::default();
    for segments in [1_000, 1_000_000] {
        let ids: Vec<SegmentId> =
            (0..segments).map(|n| SegmentId::parse(&format!("{n:09}"))).collect::<Result<_, _>>()?;
        for threads in [1, 2, 4] {
            let heat = Heat::new(settings.segments_max, settings.half_life, Instant::now());
            println!("{segments} segments, {threads} threads: {:.0} ns", each_ns(&heat, &ids, threads));
        }
    }
    Ok(())
}
