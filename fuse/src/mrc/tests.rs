use std::collections::HashMap;

use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use xxhash_rust::xxh3::xxh3_64;

use super::*;

/// The exact LRU curve, by a list in order of recency.
fn exact(trace: &[u64], sizes: &[u64]) -> Vec<f64> {
    let mut recency = Recency::default();
    let mut last = HashMap::new();
    let mut distances = Vec::new();
    for (time, &key) in (1..).zip(trace) {
        if let Some(before) = last.insert(key, time) {
            distances.push(recency.since(before));
            recency.remove(before);
        }
        recency.insert(time);
    }
    let hits = |size: u64| distances.iter().filter(|&&distance| distance < size).count();
    sizes.iter().map(|&size| hits(size) as f64 / trace.len() as f64).collect()
}

fn zipf(keys: u64, exponent: f64, len: usize, seed: u64) -> Vec<u64> {
    let mut sum = 0.0;
    let cumulative: Vec<f64> = (1..=keys)
        .map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        })
        .collect();
    let mut rng = StdRng::seed_from_u64(seed);
    (0..len)
        .map(|_| {
            let at = rng.random::<f64>() * sum;
            cumulative.partition_point(|&c| c < at) as u64
        })
        .collect()
}

fn loops(len: u64, times: u64) -> Vec<u64> {
    (0..times).flat_map(|_| (0..len).map(|i| (1 << 40) | i)).collect()
}

/// Lookups with a scan or a loop in between, as a mount with several users sees it.
fn traces() -> Vec<(&'static str, Vec<u64>)> {
    let mut mixed = Vec::new();
    let (hot, cycle) = (zipf(20_000, 0.9, 400_000, 7), loops(15_000, 12));
    for (i, &key) in hot.iter().enumerate() {
        mixed.push(key);
        if i % 2 == 0 {
            mixed.push(cycle[(i / 2) % cycle.len()]);
        }
    }
    let mut scanned = zipf(30_000, 1.0, 200_000, 8);
    scanned.extend((0..100_000).map(|i| (2 << 40) | i));
    scanned.extend(zipf(30_000, 1.0, 200_000, 9));
    vec![
        ("zipf 0.8", zipf(60_000, 0.8, 500_000, 1)),
        ("zipf 1.2", zipf(50_000, 1.2, 500_000, 2)),
        ("loop", loops(50_000, 10)),
        ("zipf and loop", mixed),
        ("zipf, scan, zipf", scanned),
    ]
}

fn error(curve: &Curve, trace: &[u64]) -> f64 {
    let sizes: Vec<u64> = (6..17).flat_map(|e| [1 << e, 3 << (e - 1)]).collect();
    let errors = exact(trace, &sizes).into_iter().zip(&sizes).map(|(e, &s)| (e - curve.hit_ratio(s)).abs());
    // As in the paper: the mean over sizes.
    errors.sum::<f64>() / sizes.len() as f64
}

#[test]
fn ten_percent_is_within_two_hundredths_of_the_exact_curve() {
    for (name, trace) in traces() {
        let mut curve = Curve::new(0.1, usize::MAX);
        trace.iter().for_each(|key| curve.refer(xxh3_64(&key.to_le_bytes())));
        let error = error(&curve, &trace);
        assert!(error < 0.02, "{name}: {error}");
    }
}

#[test]
fn so_is_a_bounded_number_of_keys() {
    for (name, trace) in traces() {
        let mut curve = Curve::new(1.0, 4096);
        for key in &trace {
            curve.refer(xxh3_64(&key.to_le_bytes()));
            assert!(curve.last.len() <= 4096 && curve.by_step.len() == curve.last.len());
        }
        let error = error(&curve, &trace);
        assert!(error < 0.02, "{name}: {error}");
    }
}

#[test]
fn an_empty_curve_and_an_empty_cache_hit_nothing() {
    let mut curve = Curve::new(1.0, 16);
    assert_eq!(curve.hit_ratio(100), 0.0);
    curve.refer(1);
    curve.refer(1);
    assert_eq!(curve.hit_ratio(0), 0.0);
    assert_eq!(curve.hit_ratio(1), 0.5);
}

proptest! {
    /// With every key sampled the curve is the exact one, up to the width of a bucket.
    #[test]
    fn everything_sampled_is_exact(trace in prop::collection::vec(0_u64..15, 1..400)) {
        let mut curve = Curve::new(1.0, usize::MAX);
        trace.iter().for_each(|key| curve.refer(xxh3_64(&key.to_le_bytes())));
        // Distances below 16 have a bucket each.
        let sizes: Vec<u64> = (1..=15).collect();
        for (expected, &size) in exact(&trace, &sizes).into_iter().zip(&sizes) {
            prop_assert!((expected - curve.hit_ratio(size)).abs() < 1e-9);
        }
    }
}
