//! One pass over much does not push out what is used often, and prefetch fetches what is needed.

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::*;

const FILE: u64 = 8 << 20;
const CACHE: u64 = 1 << 20;

/// Reads a hot set often, then each place of `pass` once, and tells how many of the hot set's blocks had
/// to be fetched again, and what the pass fetched for each byte of its blocks.
async fn survives(pass: Vec<(u64, usize)>) -> (u64, f64) {
    let store = MemoryStore::new();
    let data = bytes(FILE as usize);
    let source = source(&store, &data).await;
    let cache = cache(CACHE, 1 << 20);
    let hot: Vec<u64> = (0..64).map(|i| i * 100 * KIB).collect();
    for _ in 0..6 {
        for &at in &hot {
            cache.read(&source, at, 100).await.expect("read");
        }
    }
    let before = cache.snapshot();
    let stream = Stream::new(256 * KIB);
    for &(at, len) in &pass {
        cache.observe(&source, &stream, at, len);
        let read = cache.read(&source, at, len).await.expect("read");
        assert_eq!(read, data[at as usize..(at as usize + len).min(data.len())]);
    }
    drop(stream);
    settled(&cache).await;
    let after = cache.snapshot();
    for &at in &hot {
        cache.read(&source, at, 100).await.expect("read");
    }
    let lost = cache.snapshot().store_reads - after.store_reads;
    let mut blocks: Vec<u64> = pass
        .iter()
        .flat_map(|&(at, len)| at / (4 * KIB)..(at + len as u64).min(FILE).div_ceil(4 * KIB))
        .filter(|block| !hot.contains(&(block * 4 * KIB)))
        .collect();
    blocks.sort_unstable();
    blocks.dedup();
    let ideal = blocks.len() as f64 * 4096.0;
    (lost, (after.bytes_fetched - before.bytes_fetched) as f64 / ideal)
}

#[tokio::test]
async fn a_sequential_pass() {
    let (lost, fetched) = survives((0..FILE / 16384).map(|i| (i * 16384, 16384)).collect()).await;
    assert!(lost <= 3 && fetched <= 1.05, "{lost} of 64 lost, {fetched} fetched");
}

#[tokio::test]
async fn a_pass_with_looks_elsewhere() {
    // A table's leaves with an interior page now and then, which lies anywhere.
    let elsewhere = |i: u64| (i.is_multiple_of(16)).then_some((FILE - 4096 - i * 8192, 4096));
    let pass = (0..FILE / 16384).flat_map(|i| [Some((i * 16384, 16384)), elsewhere(i)]).flatten();
    let (lost, fetched) = survives(pass.collect()).await;
    assert!(lost <= 3 && fetched <= 1.05, "{lost} of 64 lost, {fetched} fetched");
}

#[tokio::test]
async fn a_backward_pass() {
    let (lost, fetched) = survives((0..FILE / 16384).rev().map(|i| (i * 16384, 16384)).collect()).await;
    assert!(lost <= 3 && fetched <= 1.05, "{lost} of 64 lost, {fetched} fetched");
}

#[tokio::test]
async fn a_strided_pass() {
    // Each phase touches every eighth block.
    let pass = (0..8).flat_map(|phase| (0..FILE / 32768).map(move |i| (i * 32768 + phase * 4096, 4096)));
    let (lost, fetched) = survives(pass.collect()).await;
    assert!(lost <= 3 && fetched <= 1.1, "{lost} of 64 lost, {fetched} fetched");
}

#[tokio::test]
async fn a_pass_in_random_order() {
    let mut pass: Vec<_> = (0..FILE / 4096).map(|i| (i * 4096, 4096)).collect();
    pass.shuffle(&mut StdRng::seed_from_u64(1));
    let (lost, fetched) = survives(pass).await;
    assert!(lost <= 3 && fetched <= 1.1, "{lost} of 64 lost, {fetched} fetched");
}

/// Random reads with an enough large cache: nothing but the blocks asked for is fetched.
#[tokio::test]
async fn random_reads_fetch_what_they_need() {
    let store = MemoryStore::new();
    let data = bytes(FILE as usize);
    let source = source(&store, &data).await;
    let cache = cache(2 * FILE, 1 << 20);
    let stream = Stream::new(1 << 20);
    let mut rng = StdRng::seed_from_u64(3);
    let mut blocks = std::collections::BTreeSet::new();
    for _ in 0..3000 {
        let place = rng.random_range(0..FILE - 64 * KIB);
        // Some are followed by their neighbour, as pages of one b-tree are.
        for next in 0..rng.random_range(1..3_u64) {
            let at = place / 4096 * 4096 + next * 4096;
            cache.observe(&source, &stream, at, 4096);
            cache.read(&source, at, 4096).await.expect("read");
            blocks.insert(at / 4096);
        }
    }
    settled(&cache).await;
    let ideal = blocks.len() as u64 * 4096;
    let fetched = cache.snapshot().bytes_fetched;
    assert!(fetched * 10 <= ideal * 11, "{fetched} for {ideal}");
}

/// Backward and striding readers are waited for by their data, not the other way round.
#[tokio::test]
async fn steps_are_fetched_ahead() {
    for step in [-16_i64 * 1024, 100 * 1024] {
        let store = MemoryStore::new();
        let data = bytes(FILE as usize);
        let source = source(&store, &data).await;
        let cache = cache(0, 1 << 20);
        let stream = Stream::new(1 << 20);
        let mut at = if step < 0 { FILE - 16 * KIB } else { 0 };
        for _ in 0..70 {
            cache.observe(&source, &stream, at, 4096);
            settled(&cache).await;
            cache.read(&source, at, 4096).await.expect("read");
            at = at.checked_add_signed(step).expect("inside");
        }
        let figures = cache.snapshot();
        assert!(figures.readahead_hits >= 64, "{step}: {figures:?}");
    }
}

/// A reader that jumps after each burst, so that what is read ahead is never used.
#[tokio::test]
async fn a_handle_that_wastes_gets_less_and_less() {
    let store = MemoryStore::new();
    let data = bytes(64 << 20);
    let source = source(&store, &data).await;
    let cache = cache(0, 16 << 20);
    let stream = Stream::new(8 << 20);
    let bursts = 60_u64;
    for burst in 0..bursts {
        let base = burst * (1 << 20);
        for at in (base..base + 320 * KIB).step_by(64 << 10) {
            cache.observe(&source, &stream, at, 64 << 10);
            cache.read(&source, at, 64 << 10).await.expect("read");
        }
        settled(&cache).await;
    }
    drop(stream);
    settled(&cache).await;
    let figures = cache.snapshot();
    let used = bursts * 320 * KIB;
    assert!(figures.bytes_wasted * 2 <= used, "{} wasted for {used} used", figures.bytes_wasted);
    assert!(figures.bytes_wasted > 0);
}

/// More readers than there is readahead for: each gets a share, and none reads request by request.
#[tokio::test]
async fn many_readers_share_the_budget() {
    let store = MemoryStore::new();
    let data = bytes(32 << 20);
    let source = source(&store, &data).await;
    let cache = cache(0, 2 << 20);
    let streams: Vec<_> = (0..16).map(|_| Stream::new(8 << 20)).collect();
    for step in 0..(2 << 20) / (16 * KIB) {
        for (i, stream) in streams.iter().enumerate() {
            let at = i as u64 * (2 << 20) + step * 16 * KIB;
            cache.observe(&source, stream, at, 16 << 10);
            settled(&cache).await;
            cache.read(&source, at, 16 << 10).await.expect("read");
        }
    }
    let figures = cache.snapshot();
    // All but the beginning of each, which nobody knows for a run yet.
    let blocks = (32 << 20) / (4 * KIB);
    assert!(figures.readahead_hits * 10 >= blocks * 8, "{figures:?}");
}
