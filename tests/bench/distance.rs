//! The same first touches with 0, 2 and 10 ms added to every call of the store, as distance would: what
//! is left of them when counted in round trips.

use std::time::{Duration, Instant};

use crate::{
    Size, report,
    sides::{Place, Side},
    touch::{self, Files},
};

const ADDED_MS: [u64; 3] = [0, 2, 10];

type Case = fn(&Files, &Place, u64);

pub fn run(files: &Files, size: &Size) {
    report::section(
        "First touches far away: wall time with latency added to every call of the store",
        &[
            "",
            "0 ms",
            "2 ms",
            "10 ms",
            "round trips at 10 ms",
            "target",
            "10 ms, --sqlite off",
            "times faster",
        ],
    );
    let cases: [(&str, Case, &str); 4] = [
        ("point lookup by rowid", touch::rowid, "4"),
        ("point lookup by TEXT key", touch::text_key, "6"),
        ("600 rows by a secondary index", touch::by_index, "60, 8 times faster"),
        ("count(*) by an index", touch::count, ""),
    ];
    for (name, case, target) in cases {
        let times = ADDED_MS.map(|added| median(files, size, case, added, "on"));
        let off = median(files, size, case, 10, "off");
        let far = times[2];
        report::row(&[
            name.into(),
            report::time(times[0]),
            report::time(times[1]),
            report::time(far),
            format!("{:.1}", far.as_secs_f64() * 100.0),
            target.into(),
            report::time(off),
            report::ratio(off, far),
        ]);
    }
    report::end();
}

fn median(files: &Files, size: &Size, case: Case, added_ms: u64, sqlite: &str) -> Duration {
    let rounds = 0..size.rounds.min(5) as u64;
    let times: Vec<Duration> = rounds
        .map(|round| {
            let (added, sqlite) = (format!("--added-latency={added_ms}ms"), format!("--sqlite={sqlite}"));
            let place = Place::new(Side::Ours, &files.tree, &[&added, &sqlite]);
            let started = Instant::now();
            case(files, &place, round);
            started.elapsed()
        })
        .collect();
    report::median(&times)
}
