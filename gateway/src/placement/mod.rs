//! Which worker should answer for a segment: weighted rendezvous hashing, and load bounds. Which workers
//! should hold copies of it: `copies.rs`. Pure.
//!
//! Every segment ranks all workers by a score of its own, so the same segment meets the same worker's
//! cache again, and a worker that joins or leaves moves only its own share of the segments.

pub mod copies;

use std::cmp::Ordering;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::segment::SegmentId;

/// Seed of the hash. Fixed for ever: another one would move every segment to another cache.
const SEED: u64 = 0x5350_5249_4e47_484f;

/// A worker always may have so many requests in flight: below this, spreading load costs cache hits and
/// wins nothing.
pub const LOAD_FLOOR: u32 = 8;

/// A worker may have this many times its fair share of all requests in flight. With a factor c, the
/// expected share of requests that go to another than the best worker stays bounded by about 1/c²
/// under skew; 1.25, the figure of the literature, moves far more. A cache miss costs a store read, so
/// we prefer affinity: 2.
pub const LOAD_FACTOR: f64 = 2.0;

/// A worker's name, hashed once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerSeed(u64);

impl WorkerSeed {
    /// The seed of the worker called `name`.
    pub fn of(name: &str) -> Self {
        Self(xxh3_64_with_seed(name.as_bytes(), SEED))
    }
}

/// How well a worker of `weight` fits a segment; the highest wins. Weight 0 never wins.
pub fn score(segment: &SegmentId, worker: WorkerSeed, weight: u32) -> f64 {
    score_by(segment, worker, f64::from(weight))
}

/// The same with a weight that is no whole number.
pub fn score_by(segment: &SegmentId, worker: WorkerSeed, weight: f64) -> f64 {
    let hash = xxh3_64_with_seed(segment.as_str().as_bytes(), worker.0);
    // 53 bits make a float exactly; the half keeps it off 0 and 1, where the logarithm is no help.
    let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    // -weight / ln(u): the chance to be the highest is exactly proportional to the weight.
    -weight / uniform.ln()
}

/// Indices of `workers` (seed and weight), best first.
pub fn rank(segment: &SegmentId, workers: impl Iterator<Item = (WorkerSeed, u32)>) -> Vec<usize> {
    let mut scored: Vec<(f64, u64, usize)> = workers
        .enumerate()
        .map(|(index, (seed, weight))| (score(segment, seed, weight), seed.0, index))
        .collect();
    // The seed breaks ties, so that the order of the input never matters.
    scored.sort_unstable_by(|a, b| {
        b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then_with(|| a.1.cmp(&b.1))
    });
    scored.into_iter().map(|(_, _, index)| index).collect()
}

/// How many requests in flight a worker may have and still be given one more, when `total` are in flight
/// on workers whose weights sum up to `weights`.
pub fn load_bound(total: u32, weight: u32, weights: u64) -> u32 {
    let share = f64::from(weight) / weights.max(1) as f64;
    // One more than `total`: the request that is being placed counts.
    let bound = (LOAD_FACTOR * (f64::from(total) + 1.0) * share).ceil();
    (bound as u32).max(LOAD_FLOOR)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: u32) -> SegmentId {
        SegmentId::parse(&format!("{n:08}")).expect("digits are an id")
    }

    fn workers(names: &[String], weight: u32) -> Vec<(String, u32)> {
        names.iter().map(|n| (n.clone(), weight)).collect()
    }

    fn winner<'a>(segment: &SegmentId, workers: &'a [(String, u32)]) -> &'a str {
        let order = rank(segment, workers.iter().map(|(n, w)| (WorkerSeed::of(n), *w)));
        &workers[order[0]].0
    }

    #[test]
    fn the_ranking_never_changes_between_versions() {
        let names = ["w1", "w2", "w3", "w4", "w5"];
        let order = |segment: &str| {
            rank(&SegmentId::parse(segment).expect("an id"), names.iter().map(|n| (WorkerSeed::of(n), 100)))
        };
        assert_eq!(
            [order("1234567"), order("ARCHIVEIT-1-2024"), order("x")],
            [PINNED_A.to_vec(), PINNED_B.to_vec(), PINNED_C.to_vec()]
        );
    }
    const PINNED_A: [usize; 5] = [2, 3, 1, 0, 4];
    const PINNED_B: [usize; 5] = [1, 0, 2, 4, 3];
    const PINNED_C: [usize; 5] = [3, 4, 2, 1, 0];

    #[test]
    fn shares_follow_weights() {
        let workers: Vec<(String, u32)> =
            [("a", 100), ("b", 200), ("c", 50), ("d", 1)].map(|(n, w)| (n.to_owned(), w)).into();
        let total = 40_000;
        let mut wins = std::collections::HashMap::<&str, u32>::new();
        for n in 0..total {
            *wins.entry(winner(&id(n), &workers)).or_default() += 1;
        }
        for (name, weight) in &workers {
            let expected = f64::from(total) * f64::from(*weight) / 351.0;
            let seen = f64::from(wins.get(name.as_str()).copied().unwrap_or(0));
            // Five standard deviations of a binomial.
            let tolerance = 5.0 * expected.sqrt();
            assert!((seen - expected).abs() <= tolerance, "{name}: {seen} for {expected}");
        }
    }

    proptest! {
        #[test]
        fn a_leaving_worker_moves_only_its_own_segments(
            names in prop::collection::btree_set("[a-z]{1,8}", 2..12),
            leaver in any::<prop::sample::Index>(),
        ) {
            let names: Vec<String> = names.into_iter().collect();
            let all = workers(&names, 100);
            let gone = leaver.get(&names).clone();
            let rest: Vec<_> = all.iter().filter(|(n, _)| *n != gone).cloned().collect();
            for n in 0..300 {
                let before = winner(&id(n), &all);
                if before != gone {
                    prop_assert_eq!(before, winner(&id(n), &rest));
                }
            }
        }

        #[test]
        fn failover_order_is_the_ranking_without_the_dead(
            names in prop::collection::btree_set("[a-z]{1,8}", 2..12),
            n in any::<u32>(),
        ) {
            let names: Vec<String> = names.into_iter().collect();
            let all = workers(&names, 100);
            let order = rank(&id(n), all.iter().map(|(n, w)| (WorkerSeed::of(n), *w)));
            let rest: Vec<_> = all.iter().filter(|(name, _)| *name != all[order[0]].0).cloned().collect();
            prop_assert_eq!(&all[order[1]].0, winner(&id(n), &rest));
        }

        #[test]
        fn heavier_means_more_segments_never_fewer(
            names in prop::collection::btree_set("[a-z]{1,8}", 2..8),
            weight in 1u32..1000, n in any::<u32>(),
        ) {
            let names: Vec<String> = names.into_iter().collect();
            let mut all = workers(&names, weight);
            let before = winner(&id(n), &all).to_owned();
            let raised = all.iter().position(|(n, _)| *n == before).expect("the winner is one of them");
            all[raised].1 += 100;
            prop_assert_eq!(winner(&id(n), &all), before);
        }

        #[test]
        fn somebody_is_always_within_the_bound(
            loads in prop::collection::vec((0u32..500, 1u32..1000), 1..20),
        ) {
            let total: u32 = loads.iter().map(|(load, _)| load).sum();
            let weights: u64 = loads.iter().map(|(_, w)| u64::from(*w)).sum();
            prop_assert!(loads.iter().any(|(load, w)| *load < load_bound(total, *w, weights)));
        }
    }
}
