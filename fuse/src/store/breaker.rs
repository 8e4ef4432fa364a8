//! When to stop asking a store that does not answer. Pure: the clock is an argument.
//!
//! ```text
//!            failure                    cool-down over, one call let through
//!   Closed ──────────► Open(until) ───────────────────────────────► Probing
//!      ▲                    ▲                                          │
//!      │ success            └──────────── failure: cool-down doubled ──┤
//!      └───────────────────────────────────────────────── success ─────┘
//! ```
//!
//! Without it deadlines add up: after a failed readahead the kernel asks again page by page, and one
//! `read` that ought to end at the deadline takes many of them.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use super::StorePath;

/// First cool-down.
const COOL_DOWN_MIN: Duration = Duration::from_secs(1);
/// Longest cool-down: how late a store that is back may be noticed.
const COOL_DOWN_MAX: Duration = Duration::from_secs(10);
/// After this long the next file may probe too: the one that does may have a bad HDFS block, and hang to
/// its deadline while the store is well again.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);
/// Distinct files in a row that must fail before reads of all files are refused.
const FAILED_FILES_MAX: usize = 3;

/// Lets calls through, or refuses them for a while.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    cool_down: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Instant },
    Probing,
}

/// Leave for one call. Give it back through one of the breaker's methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// One of many.
    Normal,
    /// The one that finds out whether the store is back.
    Probe,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed, cool_down: COOL_DOWN_MIN }
    }
}

impl Breaker {
    /// Leave for a call, or how long there will be none (zero: until the probe has ended).
    pub(super) fn admit(&mut self, now: Instant) -> Result<Pass, Duration> {
        match self.state {
            State::Closed => Ok(Pass::Normal),
            State::Probing => Err(Duration::ZERO),
            State::Open { until } if now < until => Err(until - now),
            State::Open { .. } => {
                self.state = State::Probing;
                Ok(Pass::Probe)
            }
        }
    }

    /// The store answered, if only to say no.
    pub(super) fn answered(&mut self) {
        *self = Self::default();
    }

    /// The store did not answer.
    pub(super) fn failed(&mut self, pass: Pass, now: Instant) {
        match (self.state, pass) {
            (State::Closed, Pass::Normal) => self.state = State::Open { until: now + self.cool_down },
            (State::Probing, Pass::Probe) => {
                self.cool_down = (self.cool_down * 2).min(COOL_DOWN_MAX);
                self.state = State::Open { until: now + self.cool_down };
            }
            // Let through before it opened, or a probe that another one overtook: it tells nothing new.
            (State::Closed, Pass::Probe) | (State::Open { .. } | State::Probing, _) => {}
        }
    }

    /// The call was given up before it told anything.
    pub(super) fn abandoned(&mut self, pass: Pass, now: Instant) {
        if pass == Pass::Probe && self.state == State::Probing {
            // The next one probes.
            self.state = State::Open { until: now };
        }
    }
}

/// The breaker of all reads of a store.
///
/// The client hides which DataNode a read goes to, so there is no breaker per DataNode. Each open file
/// has one of its own (see `deadline`): when one HDFS block has lost all its replicas, only its file
/// is refused. This one opens when several files fail one after another with no success in between,
/// which one bad block cannot bring about and an outage does at once; then a file that nobody has tried
/// yet is refused too, instead of taking its full deadline.
#[derive(Debug, Default)]
pub(super) struct ReadsBreaker {
    breaker: Breaker,
    failed: HashSet<StorePath>,
    /// When the last probe began.
    probed: Option<Instant>,
}

impl ReadsBreaker {
    /// As [`Breaker::admit`], but a probe that takes long is not the only one.
    pub(super) fn admit(&mut self, now: Instant) -> Result<Pass, Duration> {
        let long = self.probed.is_some_and(|since| now.duration_since(since) >= PROBE_PATIENCE);
        let pass = match self.breaker.admit(now) {
            Err(Duration::ZERO) if long => Ok(Pass::Probe),
            other => other,
        };
        if pass == Ok(Pass::Probe) {
            self.probed = Some(now);
        }
        pass
    }

    /// A read of any file went well.
    pub(super) fn answered(&mut self) {
        self.failed.clear();
        self.breaker.answered();
    }

    /// A read of `path` did not.
    pub(super) fn failed(&mut self, path: &StorePath, pass: Pass, now: Instant) {
        if self.failed.len() < FAILED_FILES_MAX && !self.failed.contains(path) {
            self.failed.insert(path.clone());
        }
        if pass == Pass::Probe || self.failed.len() >= FAILED_FILES_MAX {
            self.breaker.failed(pass, now);
        }
    }

    /// As [`Breaker::abandoned`].
    pub(super) fn abandoned(&mut self, pass: Pass, now: Instant) {
        self.breaker.abandoned(pass, now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(name: &str) -> StorePath {
        StorePath::parse(name).expect("a valid path")
    }

    #[test]
    fn one_probe_after_the_cool_down_and_longer_waits_each_time() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        assert_eq!(breaker.admit(start), Ok(Pass::Normal));
        breaker.failed(Pass::Normal, start);
        assert_eq!(breaker.admit(start), Err(COOL_DOWN_MIN));
        let mut now = start + COOL_DOWN_MIN;
        for seconds in [2, 4, 8, 10, 10] {
            assert_eq!(breaker.admit(now), Ok(Pass::Probe));
            assert_eq!(breaker.admit(now), Err(Duration::ZERO), "one probe at a time");
            breaker.failed(Pass::Probe, now);
            assert_eq!(breaker.admit(now), Err(Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
        }
        assert_eq!(breaker.admit(now), Ok(Pass::Probe));
        breaker.answered();
        assert_eq!(breaker.admit(now), Ok(Pass::Normal));
        breaker.failed(Pass::Normal, now);
        assert_eq!(breaker.admit(now), Err(COOL_DOWN_MIN), "a success starts the cool-down anew");
    }

    #[test]
    fn an_abandoned_probe_lets_the_next_one_probe() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        breaker.failed(Pass::Normal, now);
        let now = now + COOL_DOWN_MIN;
        assert_eq!(breaker.admit(now), Ok(Pass::Probe));
        breaker.abandoned(Pass::Probe, now);
        assert_eq!(breaker.admit(now), Ok(Pass::Probe));
    }

    #[test]
    fn one_bad_file_leaves_the_others_readable() {
        let now = Instant::now();
        let mut reads = ReadsBreaker::default();
        for _ in 0..100 {
            reads.failed(&path("/bad"), Pass::Normal, now);
        }
        assert_eq!(reads.admit(now), Ok(Pass::Normal));
        reads.failed(&path("/b"), Pass::Normal, now);
        reads.answered();
        reads.failed(&path("/c"), Pass::Normal, now);
        reads.failed(&path("/d"), Pass::Normal, now);
        assert_eq!(reads.admit(now), Ok(Pass::Normal), "a success in between starts the count anew");
        reads.failed(&path("/e"), Pass::Normal, now);
        assert_eq!(reads.admit(now), Err(COOL_DOWN_MIN));
        assert_eq!(reads.admit(now + COOL_DOWN_MIN), Ok(Pass::Probe));
        reads.answered();
        assert_eq!(reads.admit(now), Ok(Pass::Normal));
    }

    #[test]
    fn a_file_that_hangs_does_not_keep_the_others_out() {
        let start = Instant::now();
        let mut reads = ReadsBreaker::default();
        for file in ["/a", "/b", "/c"] {
            reads.failed(&path(file), Pass::Normal, start);
        }
        let now = start + COOL_DOWN_MIN;
        assert_eq!(reads.admit(now), Ok(Pass::Probe), "it hangs");
        assert_eq!(reads.admit(now), Err(Duration::ZERO));
        let later = now + PROBE_PATIENCE;
        assert_eq!(reads.admit(later), Ok(Pass::Probe), "another file's");
        assert_eq!(reads.admit(later), Err(Duration::ZERO), "one in each such time");
        reads.answered();
        assert_eq!(reads.admit(later), Ok(Pass::Normal));
        reads.failed(&path("/a"), Pass::Probe, later);
        assert_eq!(reads.admit(later), Ok(Pass::Normal), "the first one's end tells nothing new");
    }

    proptest! {
        /// Whatever happens in whatever order, the breaker never stays shut: within the longest
        /// cool-down after the last probe ended somebody is let through.
        #[test]
        fn never_shut_for_ever(events in proptest::collection::vec((0u8..4, 0u64..5_000), 1..200)) {
            let mut now = Instant::now();
            let mut breaker = Breaker::default();
            let mut running = Vec::new();
            for (event, wait_ms) in events {
                now += Duration::from_millis(wait_ms);
                match event {
                    0 => running.extend(breaker.admit(now).ok()),
                    1 => if running.pop().is_some() { breaker.answered() },
                    2 => if let Some(pass) = running.pop() { breaker.failed(pass, now) },
                    _ => if let Some(pass) = running.pop() { breaker.abandoned(pass, now) },
                }
                let probes = running.iter().filter(|pass| **pass == Pass::Probe).count();
                prop_assert!(breaker.state != State::Probing || probes > 0, "a probe that nobody runs");
            }
            for pass in running.drain(..) {
                breaker.failed(pass, now);
            }
            prop_assert!(breaker.admit(now + COOL_DOWN_MAX).is_ok());
        }
    }
}
