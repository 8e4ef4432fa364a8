//! Heat of all segments while queries are answered on many threads.

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::tally::{AnsweredFrom, Reading, Tally};
use crate::segment::SegmentId;

/// Parts with a lock each, so that threads rarely meet; a power of two.
const SHARDS: usize = 16;
/// How much of a mean a further value leaves: about the last hundred count.
const MEAN_KEPT: f64 = 0.99;

/// A mean over the last values.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: f64,
    weight: f64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum = self.sum * MEAN_KEPT + value;
        self.weight = self.weight * MEAN_KEPT + 1.0;
    }
}

#[derive(Debug)]
struct Shard {
    tally: Tally,
    cold: Mean,
    hot: Mean,
}

/// How long answers take over all segments, in seconds; `None`: there was none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Averages {
    /// From the store.
    pub cold_s: Option<f64>,
    /// From a copy.
    pub hot_s: Option<f64>,
}

/// Which segments are asked how often, and how long their cold answers take. Bounded; in memory only: after
/// a start of the gateway it is learnt anew.
#[derive(Debug)]
pub struct Heat {
    shards: Box<[Mutex<Shard>]>,
    started: Instant,
}

impl Heat {
    /// Nothing is known yet. `segments_max`: of how many at most.
    pub fn new(segments_max: usize, half_life: std::time::Duration, started: Instant) -> Self {
        let capacity = segments_max.div_ceil(SHARDS).max(1);
        let shard = || {
            let tally = Tally::new(capacity, half_life.as_secs_f64());
            Mutex::new(Shard { tally, cold: Mean::default(), hot: Mean::default() })
        };
        Self { shards: (0..SHARDS).map(|_| shard()).collect(), started }
    }

    /// A query of `id` was answered in `took_s` seconds, at `now`.
    pub fn answered(&self, id: &SegmentId, from: AnsweredFrom, took_s: f64, now: Instant) {
        let now_s = self.seconds(now);
        let mut shard = self.shard(id.as_str()).lock();
        match from {
            AnsweredFrom::Store => shard.cold.add(took_s),
            AnsweredFrom::Copy => shard.hot.add(took_s),
        }
        shard.tally.add(id.as_str(), now_s, from, took_s);
    }

    /// How often `id` is asked; 0 if it is not among those that are known.
    pub fn of(&self, id: &SegmentId, now: Instant) -> Reading {
        let now_s = self.seconds(now);
        self.shard(id.as_str()).lock().tally.get(id.as_str(), now_s).unwrap_or_default()
    }

    /// Segments that were surely asked so often.
    pub fn above(&self, least: f64, now: Instant) -> Vec<(Arc<str>, Reading)> {
        let now_s = self.seconds(now);
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            found.extend(
                shard
                    .tally
                    .iter(now_s)
                    .filter(|(_, reading)| reading.least() >= least)
                    .map(|(id, reading)| (id.clone(), reading)),
            );
        }
        found
    }

    /// Over all segments.
    pub fn averages(&self) -> Averages {
        let (mut cold, mut hot) = (Mean::default(), Mean::default());
        for shard in &self.shards {
            let shard = shard.lock();
            for (all, own) in [(&mut cold, shard.cold), (&mut hot, shard.hot)] {
                all.sum += own.sum;
                all.weight += own.weight;
            }
        }
        let mean = |mean: Mean| (mean.weight > 0.0).then(|| mean.sum / mean.weight);
        Averages { cold_s: mean(cold), hot_s: mean(hot) }
    }

    /// Number of segments whose heat is known.
    pub fn known(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().tally.len()).sum()
    }

    /// Since when it has been measured.
    pub fn started(&self) -> Instant {
        self.started
    }

    fn shard(&self, id: &str) -> &Mutex<Shard> {
        // The upper bits: placement hashes the same text.
        &self.shards[(xxh3_64(id.as_bytes()) >> 60) as usize % SHARDS]
    }

    fn seconds(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.started).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(n: u32) -> SegmentId {
        SegmentId::parse(&format!("{n:06}")).expect("digits are an id")
    }

    #[test]
    fn counted_by_segment_and_averaged_over_all() {
        let started = Instant::now();
        let heat = Heat::new(1_000, Duration::from_secs(60), started);
        assert_eq!(heat.averages(), Averages::default());
        for n in 0..10 {
            heat.answered(&id(n), AnsweredFrom::Store, 2.0, started);
            heat.answered(&id(1), AnsweredFrom::Copy, 0.5, started);
        }
        assert_eq!((heat.of(&id(1), started).queries, heat.of(&id(2), started).queries), (11.0, 1.0));
        assert_eq!(heat.of(&id(77), started), Reading::default());
        let averages = heat.averages();
        assert!((averages.cold_s.expect("some") - 2.0).abs() < 1e-9);
        assert!((averages.hot_s.expect("some") - 0.5).abs() < 1e-9);
        let above: Vec<_> = heat.above(2.0, started).into_iter().map(|(id, _)| id.to_string()).collect();
        assert_eq!((above, heat.known()), (vec!["000001".to_owned()], 10));
    }

    #[test]
    fn memory_is_bounded_whatever_is_asked() {
        let started = Instant::now();
        let heat = Heat::new(160, Duration::from_secs(60), started);
        for n in 0..10_000 {
            heat.answered(&id(n), AnsweredFrom::Copy, 0.0, started);
        }
        assert_eq!(heat.known(), 160);
    }
}
