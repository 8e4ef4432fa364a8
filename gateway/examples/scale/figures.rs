//! Figures as they are measured, and as a table.

use std::{fs, time::Duration};

use serde::{Deserialize, Serialize};

/// What one process measured, in order: what, and how much.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Figures(pub Vec<(String, String)>);

impl Figures {
    /// Adds one.
    pub fn add(&mut self, what: impl Into<String>, value: impl Into<String>) {
        self.0.push((what.into(), value.into()));
    }

    /// Memory of this process now, and the most that it ever had.
    pub fn memory(&mut self, when: &str) {
        self.add(format!("RSS {when}"), mib(status_kib("VmRSS:") * 1024));
        self.add(format!("peak RSS {when}"), mib(status_kib("VmHWM:") * 1024));
    }

    /// Percentiles of times in nanoseconds.
    pub fn percentiles(&mut self, what: &str, mut times_ns: Vec<u64>) {
        times_ns.sort_unstable();
        let at = |share: f64| {
            let index = (times_ns.len() as f64 * share) as usize;
            let ns = times_ns.get(index.min(times_ns.len().saturating_sub(1))).copied().unwrap_or(0);
            format!("{:.1}", ns as f64 / 1_000.0)
        };
        self.add(format!("{what}: p50 / p99 / p99.9, us"), [at(0.5), at(0.99), at(0.999)].join(" / "));
    }
}

/// Bytes as MiB.
pub fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// Seconds with two digits.
pub fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// A line of `/proc/self/status`, in KiB.
fn status_kib(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// A table in Markdown: a row for each figure, a column for each size. Every column has the same figures.
pub fn table(columns: &[(String, Figures)]) -> String {
    let Some((_, first)) = columns.first() else { return String::new() };
    let mut lines = vec![String::from("| "), String::from("|---")];
    for (title, _) in columns {
        lines[0] += &format!("| {title} ");
        lines[1] += "|---:";
    }
    for (row, (what, _)) in first.0.iter().enumerate() {
        let values = columns.iter().map(|(_, figures)| figures.0.get(row).map_or("-", |(_, value)| value));
        lines.push(format!("| {what} | {} ", values.collect::<Vec<_>>().join(" | ")));
    }
    lines.iter().map(|line| format!("{}|\n", line.trim_end().trim_end_matches('|'))).collect()
}
