//! What happened, in order; its hash tells two runs apart.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

/// Events that are remembered for a failure's report.
const LAST_MAX: usize = 400;

pub(super) struct Trace {
    begun: Instant,
    inner: Mutex<Inner>,
}

struct Inner {
    hash: Xxh3,
    last: VecDeque<String>,
    count: u64,
    /// Each line as it comes, for looking closely.
    loud: bool,
}

impl Trace {
    pub(super) fn new() -> Self {
        let loud = std::env::var_os("SPRINGHOUSE_SIMULATION_TRACE").is_some();
        let inner = Inner { hash: Xxh3::new(), last: VecDeque::new(), count: 0, loud };
        Self { begun: Instant::now(), inner: Mutex::new(inner) }
    }

    /// Since the beginning, in ms.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn note(&self, event: impl AsRef<str>) {
        let line = format!("{:>8} {}", self.now_ms(), event.as_ref());
        let mut inner = self.inner.lock();
        inner.hash.update(line.as_bytes());
        inner.count += 1;
        if inner.loud {
            eprintln!("{line}");
        }
        inner.last.push_back(line);
        if inner.last.len() > LAST_MAX {
            inner.last.pop_front();
        }
    }

    /// Number of events and their hash.
    pub(super) fn sum(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.count, inner.hash.digest())
    }

    pub(super) fn last(&self) -> Vec<String> {
        self.inner.lock().last.iter().cloned().collect()
    }
}
