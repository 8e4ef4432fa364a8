//! What happened, in order; its hash tells two runs apart. What happens in one moment of virtual time happens
//! at the same time, and is told in the order of its texts.

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
    /// Of the moment that is not over.
    moment: (u64, Vec<String>),
    last: VecDeque<String>,
    count: u64,
    /// Each line as it comes, for looking closely.
    loud: bool,
}

impl Trace {
    pub(super) fn new() -> Self {
        let loud = std::env::var_os("SPRINGHOUSE_SIMULATION_TRACE").is_some();
        let inner =
            Inner { hash: Xxh3::new(), moment: Default::default(), last: VecDeque::new(), count: 0, loud };
        Self { begun: Instant::now(), inner: Mutex::new(inner) }
    }

    /// Since the beginning, in ms.
    pub(super) fn now_ms(&self) -> u64 {
        // Threads ask as well.
        let now = crate::clock::now().saturating_duration_since(self.begun.into_std());
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn note(&self, event: impl AsRef<str>) {
        let now = self.now_ms();
        let mut inner = self.inner.lock();
        if inner.moment.0 != now {
            inner.end_moment();
            inner.moment.0 = now;
        }
        inner.moment.1.push(event.as_ref().to_owned());
    }

    /// Number of events and their hash.
    pub(super) fn sum(&self) -> (u64, u64) {
        let mut inner = self.inner.lock();
        inner.end_moment();
        (inner.count, inner.hash.digest())
    }

    pub(super) fn last(&self) -> Vec<String> {
        self.inner.lock().last.iter().cloned().collect()
    }
}

impl Inner {
    fn end_moment(&mut self) {
        let (now, mut events) = std::mem::take(&mut self.moment);
        events.sort();
        for event in events {
            let line = format!("{now:>8} {event}");
            self.hash.update(line.as_bytes());
            self.count += 1;
            if self.loud {
                eprintln!("{line}");
            }
            self.last.push_back(line);
            if self.last.len() > LAST_MAX {
                self.last.pop_front();
            }
        }
    }
}
