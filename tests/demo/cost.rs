//! What a query read from the store, by the product's own counters.

use crate::{
    harness::{cluster::Serve, http::Api},
    screen,
};

/// Reads the counters of a running `serve`.
pub struct Meter {
    api: Api,
    through_a_mount: bool,
}

/// The counters at one time.
pub struct Reading {
    reads: f64,
    bytes: f64,
    pages: f64,
}

impl Meter {
    pub fn of(serve: &Serve, through_a_mount: bool) -> Self {
        Self { api: serve.api().clone(), through_a_mount }
    }

    pub fn read(&self) -> Reading {
        let of_reads = r#"operation="read""#;
        Reading {
            reads: self.api.metric("springhouse_store_seconds_count", of_reads),
            bytes: self.api.metric("springhouse_store_bytes_total", of_reads),
            pages: self.api.metric("springhouse_sqlite_page_misses_total", ""),
        }
    }

    /// What was read since `before`.
    pub fn describe(&self, before: &Reading) -> String {
        let now = self.read();
        let difference = |now: f64, before: f64| (now - before).max(0.0) as u64;
        let pages = difference(now.pages, before.pages);
        if self.through_a_mount {
            let (reads, bytes) = (difference(now.reads, before.reads), difference(now.bytes, before.bytes));
            format!(
                "read from the store: {}, {} (SQLite: {})",
                plural(reads, "read"),
                screen::bytes(bytes),
                plural(pages, "page")
            )
        } else {
            format!("read from the store: {} of SQLite", plural(pages, "page"))
        }
    }
}

fn plural(n: u64, thing: &str) -> String {
    if n == 1 { format!("1 {thing}") } else { format!("{} {thing}s", screen::count(n)) }
}
