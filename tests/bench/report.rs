//! Figures as Markdown.

use std::{fs, time::Duration};

use crate::{Size, harness::hdfs::Counters};

/// What this was measured on, without names.
pub fn machine(size: &Size) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:")?.trim().split(' ').next()?.parse::<u64>().ok());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!(
        "{cores} cores, {} GiB of memory, Linux {}; one NameNode and two DataNodes on the same host. \
         Medians of {} alternating rounds.\n",
        kib.unwrap_or(0) >> 20,
        kernel.split('-').next().unwrap_or_default().trim(),
        size.rounds
    );
}

pub fn section(title: &str, columns: &[&str]) {
    println!("### {title}\n");
    row(columns);
    row(&columns.iter().map(|_| "---").collect::<Vec<_>>());
}

pub fn row<T: AsRef<str>>(cells: &[T]) {
    println!("| {} |", cells.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" | "));
}

pub fn end() {
    println!();
}

pub fn time(t: Duration) -> String {
    let us = t.as_secs_f64() * 1e6;
    if us < 1_000.0 {
        format!("{us:.1} us")
    } else if us < 1e6 {
        format!("{:.2} ms", us / 1e3)
    } else {
        format!("{:.2} s", us / 1e6)
    }
}

pub fn ratio(ours: Duration, theirs: Duration) -> String {
    format!("{:.2}", ours.as_secs_f64() / theirs.as_secs_f64())
}

/// Reads and bytes of HDFS.
pub fn cost(counters: Counters) -> [String; 2] {
    let bytes = counters.payload_bytes();
    let text = if bytes < 10_000_000 {
        format!("{} kB", bytes / 1_000)
    } else {
        format!("{} MB", bytes / 1_000_000)
    };
    [counters.reads.to_string(), text]
}

pub fn median<T: Copy + PartialOrd>(values: &[T]) -> T {
    percentile(values, 50)
}

/// The value that `percent` of all values are at or below.
pub fn percentile<T: Copy + PartialOrd>(values: &[T], percent: usize) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).expect("times have an order"));
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}
