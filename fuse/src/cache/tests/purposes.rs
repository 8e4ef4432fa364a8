//! Fetches for a purpose, lookahead, and how they meet demand.

use super::*;

fn ranges(at: &[(u64, u64)]) -> Vec<Range<u64>> {
    at.iter().map(|&(start, len)| start..start + len).collect()
}

#[tokio::test]
async fn interior_pages_are_read_exactly_and_neighbours_together() {
    let store = MemoryStore::new();
    let data = bytes(2 << 20);
    let source = source(&store, &data).await;
    let cache = cache(1 << 20, 0);
    // Two near each other, one far away, one twice, one past the end, in no order.
    let wanted = ranges(&[(1 << 20, 512), (0, 100), (20_000, 512), (1 << 20, 512), (3 << 20, 10)]);
    let got = cache.fetch(&source, &wanted, Purpose::Interior).await;
    for (range, got) in wanted.iter().zip(got) {
        let expected =
            data.slice((range.start as usize).min(data.len())..(range.end as usize).min(data.len()));
        assert_eq!(got.expect("read"), expected);
    }
    let figures = cache.snapshot();
    assert_eq!(figures.by_purpose.interior, PurposeUse { reads: 2, bytes: 20_512 + 512 });
    assert_eq!(figures.by_purpose.demand, PurposeUse::default());
    assert_eq!(figures.cached_bytes, 0, "kept by the caller alone");
    assert!(cache.index.lock().is_empty());
}

#[tokio::test]
async fn interior_pages_that_came_with_their_blocks_are_not_read_again() {
    let store = MemoryStore::new();
    let data = bytes(2 << 20);
    let source = source(&store, &data).await;
    let cache = cache(1 << 20, 0);
    cache.read(&source, 20_000, 10).await.expect("read");
    let wanted = ranges(&[(16_384, 4096), (1 << 20, 4096), (20_480, 4096)]);
    let got = cache.fetch(&source, &wanted, Purpose::Interior).await;
    for (range, got) in wanted.iter().zip(got) {
        assert_eq!(got.expect("read"), data[range.start as usize..range.end as usize]);
    }
    let figures = cache.snapshot();
    assert_eq!(figures.by_purpose.interior, PurposeUse { reads: 2, bytes: 8192 }, "one block was here");
}

#[tokio::test]
async fn one_bad_range_is_the_others_luck() {
    let store = MemoryStore::new();
    let data = bytes(2 << 20);
    let source = source(&store, &data).await;
    let cache = cache(1 << 20, 0);
    store.inject(Injection::new(Fault::Fail(ErrorKind::Unavailable)).on(Operation::Read).times(1));
    let got = cache.fetch(&source, &ranges(&[(0, 10), (1 << 20, 10)]), Purpose::Interior).await;
    assert_eq!(got.iter().filter(|got| got.is_err()).count(), 1);
    assert_eq!(got.iter().filter(|got| got.is_ok()).count(), 1);
}

#[tokio::test]
async fn demand_joins_a_fetch_that_is_under_way() {
    let store = MemoryStore::new();
    let data = bytes(1 << 20);
    let source = source(&store, &data).await;
    let cache = cache(1 << 20, 0);
    let hang = store.inject(Injection::new(Fault::Hang).on(Operation::Read));
    let wanted = ranges(&[(8192, 4096)]);
    let fetch = cache.fetch(&source, &wanted, Purpose::Interior);
    let demand = async {
        hang.reached(1).await;
        let read = cache.read(&source, 8200, 100);
        let (read, ()) = tokio::join!(read, async {
            tokio::task::yield_now().await;
            hang.release();
        });
        read.expect("read")
    };
    let (fetched, read) = tokio::join!(fetch, demand);
    assert_eq!(fetched[0].as_ref().expect("read"), &data[8192..12_288]);
    assert_eq!(read, data[8200..8300]);
    assert_eq!(store.calls(Operation::Read), 1);
}

#[tokio::test]
async fn demand_does_not_wait_behind_what_nobody_waits_for() {
    let store = MemoryStore::new();
    let data = bytes(1 << 20);
    let source = source(&store, &data).await;
    let cache = cache(1 << 20, 1 << 20);
    let hang = store.inject(Injection::new(Fault::Hang).on(Operation::Read));
    let stream = Stream::new(0);
    let far: Vec<_> = (0..32).map(|i| i * 32 * KIB..i * 32 * KIB + 100).collect();
    assert_eq!(cache.look_ahead(&source, &stream, &far), 32);
    // As many as there are lanes, and no more.
    hang.reached(4).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(hang.hits(), 4);
    // The last of those that wait for a lane is wanted now, and so is something else.
    let last = cache.read(&source, 31 * 32 * KIB, 100);
    let other = cache.read(&source, 500, 100);
    let both = async { tokio::join!(last, other) };
    let ((last, other), ()) = tokio::join!(both, async {
        hang.reached(5).await;
        hang.release();
    });
    assert_eq!(last.expect("read"), data[31 * 32 * 1024..31 * 32 * 1024 + 100]);
    assert_eq!(other.expect("read"), data[500..600]);
    settled(&cache).await;
    assert_eq!(cache.snapshot().by_purpose.lookahead.reads, 32);
    assert_eq!(cache.snapshot().by_purpose.demand.reads, 0, "the first block was looked ahead for");
}

#[tokio::test]
async fn what_was_looked_ahead_is_a_hit_then_cached_or_counted_as_waste() {
    let store = MemoryStore::new();
    let data = bytes(1 << 20);
    let source = source(&store, &data).await;
    let cache = cache(1 << 20, 1 << 20);
    let stream = Stream::new(0);
    assert_eq!(cache.look_ahead(&source, &stream, &ranges(&[(0, 10), (100_000, 10), (200_000, 10)])), 3);
    settled(&cache).await;
    let reads = store.calls(Operation::Read);
    assert_eq!(reads, 3);
    cache.observe(&source, &stream, 100, 10);
    assert_eq!(cache.read(&source, 100, 10).await.expect("read"), data[100..110]);
    assert_eq!(cache.snapshot().admitted, 0, "once is nothing");
    // Elsewhere in between: what was looked ahead for stays.
    cache.observe(&source, &stream, 100_100, 10);
    assert_eq!(cache.read(&source, 100_100, 10).await.expect("read"), data[100_100..100_110]);
    cache.observe(&source, &stream, 120, 10);
    assert_eq!(cache.read(&source, 120, 10).await.expect("read"), data[120..130]);
    assert_eq!(cache.snapshot().admitted, 1);
    assert_eq!(cache.snapshot().readahead_hits, 3);
    drop(stream);
    let end = cache.snapshot();
    assert_eq!((end.readahead_bytes, end.bytes_wasted), (0, 4096), "the third was for nothing");
    assert_eq!(cache.read(&source, 130, 10).await.expect("read"), data[130..140]);
    assert_eq!(store.calls(Operation::Read), reads, "from the cache");
}

#[tokio::test]
async fn lookahead_keeps_to_its_share_and_forgets_the_oldest() {
    let store = MemoryStore::new();
    let data = bytes(1 << 20);
    let source = source(&store, &data).await;
    let cache = cache(0, 64 * KIB);
    let stream = Stream::new(0);
    let blocks = |from: u64| -> Vec<_> { (from..from + 20).map(|b| b * 8192..b * 8192 + 1).collect() };
    assert_eq!(cache.look_ahead(&source, &stream, &blocks(0)), 8, "half of the budget");
    settled(&cache).await;
    assert_eq!(cache.look_ahead(&source, &stream, &blocks(40)), 8);
    settled(&cache).await;
    assert_eq!(cache.snapshot().readahead_bytes, 32 * KIB);
    assert_eq!(cache.snapshot().bytes_wasted, 32 * KIB);
}

#[tokio::test(start_paused = true)]
async fn readers_beyond_the_bound_wait_and_all_come_through() {
    let store = MemoryStore::new();
    let data = bytes(1 << 20);
    let source = source(&store, &data).await;
    let settings = cache(0, 0).settings;
    let tiers = Tiers { in_flight_bytes: 16 * KIB, ..Tiers::default() };
    let cache = BlockCache::with_tiers(settings, tiers, Handle::current()).expect("good settings");
    store.inject(Injection::new(Fault::Delay(Duration::from_millis(5))).on(Operation::Read));
    let most = AtomicU64::new(0);
    // Overlapping, unaligned, larger than the bound too.
    let reads = (0..100_u64).map(|i| {
        let (cache, source, data, most) = (&cache, &source, &data, &most);
        async move {
            let (at, len) = (i * 7_001 % 900_000, 1 + (i as usize * 977) % 40_000);
            let read = cache.read(source, at, len).await.expect("read");
            most.fetch_max(cache.snapshot().in_flight_bytes, Relaxed);
            assert_eq!(read, data[at as usize..at as usize + len]);
        }
    });
    futures::future::join_all(reads).await;
    settled(&cache).await;
    assert!(most.load(Relaxed) <= 16 * KIB);
    assert_eq!(cache.snapshot().in_flight_bytes, 0);
}
