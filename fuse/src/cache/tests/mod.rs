use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::store::{
    Operation, Store, StorePath,
    memory::{Fault, Injection, MemoryStore},
};

mod purposes;
mod scans;
mod tiers;

const KIB: u64 = 1 << 10;

fn bytes(len: usize) -> Bytes {
    (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 8)) as u8).collect()
}

fn path() -> StorePath {
    StorePath::parse("/f").expect("a valid path")
}

fn cache(cache_bytes: u64, readahead_bytes: u64) -> BlockCache {
    let settings = CacheSettings {
        cache_bytes,
        pinned_bytes: 1 << 20,
        block_bytes: 4 * KIB,
        readahead_bytes,
        extent_bytes: 64 * KIB,
        deadline: Duration::from_secs(10),
    };
    BlockCache::new(settings, Handle::current()).expect("good settings")
}

async fn source(store: &MemoryStore, data: &Bytes) -> Source {
    store.put(&path(), data.clone()).expect("put");
    Source { file: 1, reader: store.open(&path(), None).await.expect("opened") }
}

/// Until nothing is read any more.
async fn settled(cache: &BlockCache) {
    while cache.snapshot().in_flight > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn many_readers_of_a_block_are_one_read_of_the_store() {
    let store = MemoryStore::new();
    let data = bytes(100_000);
    let source = source(&store, &data).await;
    let cache = cache(1 << 20, 0);
    let hang = store.inject(Injection::new(Fault::Hang).on(Operation::Read));
    let reads: Vec<_> = (0..50).map(|i| cache.read(&source, i * 10, 4000)).collect();
    let all = futures::future::join_all(reads);
    let (all, ()) = tokio::join!(all, async {
        hang.reached(1).await;
        hang.release();
    });
    for (i, read) in all.into_iter().enumerate() {
        assert_eq!(read.expect("read"), data[i * 10..i * 10 + 4000]);
    }
    // Those at the front lie in one block, the others in two: the first block and the second are each
    // fetched once.
    assert_eq!(store.calls(Operation::Read), 2);
    assert_eq!(cache.snapshot().store_reads, 2);
}

#[tokio::test]
async fn neighbouring_blocks_are_fetched_together() {
    let store = MemoryStore::new();
    let data = bytes(100_000);
    let source = source(&store, &data).await;
    let cache = cache(1 << 20, 0);
    assert_eq!(cache.read(&source, 5000, 50_000).await.expect("read"), data[5000..55_000]);
    assert_eq!(store.calls(Operation::Read), 1);
    // A hole of known blocks parts the rest.
    assert_eq!(cache.read(&source, 0, 100_000).await.expect("read"), data);
    assert_eq!(store.calls(Operation::Read), 3);
}

#[tokio::test]
async fn a_reader_that_goes_away_does_not_end_the_read_of_others() {
    let store = MemoryStore::new();
    let data = bytes(10_000);
    let source = source(&store, &data).await;
    let cache = cache(1 << 20, 0);
    let hang = store.inject(Injection::new(Fault::Hang).on(Operation::Read));
    {
        let first = cache.read(&source, 0, 4000);
        tokio::select! {
            biased;
            _ = first => panic!("it hangs"),
            () = hang.reached(1) => {}
        }
    }
    let (second, ()) = tokio::join!(cache.read(&source, 0, 4000), async { hang.release() });
    assert_eq!(second.expect("read"), data[..4000]);
    assert_eq!(store.calls(Operation::Read), 1);
}

#[tokio::test]
async fn errors_are_not_remembered() {
    let store = MemoryStore::new();
    let data = bytes(10_000);
    let source = source(&store, &data).await;
    let cache = cache(1 << 20, 0);
    store.inject(Injection::new(Fault::Fail(ErrorKind::Unavailable)).on(Operation::Read).times(1));
    assert_eq!(cache.read(&source, 0, 10).await.map_err(|e| e.kind()), Err(ErrorKind::Unavailable));
    assert_eq!(cache.read(&source, 0, 10).await.expect("read"), data[..10]);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_hangs_ends_at_the_deadline_and_leaves_nothing_behind() {
    let store = MemoryStore::new();
    let data = bytes(10_000);
    let source = source(&store, &data).await;
    let cache = cache(1 << 20, 0);
    let hang = store.inject(Injection::new(Fault::Hang).on(Operation::Read));
    assert_eq!(cache.read(&source, 0, 10).await.map_err(|e| e.kind()), Err(ErrorKind::TimedOut));
    settled(&cache).await;
    assert!(cache.index.lock().is_empty());
    hang.release();
    assert_eq!(cache.read(&source, 0, 10).await.expect("read"), data[..10]);
}

#[tokio::test]
async fn a_scan_does_not_push_out_the_hot_set() {
    let store = MemoryStore::new();
    let data = bytes(4 << 20);
    let source = source(&store, &data).await;
    // Room for the hot set and the start of the scan, which nobody knows for one yet, not for all of it.
    let cache = cache(1 << 20, 1 << 20);
    let hot: Vec<u64> = (0..32).map(|i| i * 96 * KIB).collect();
    for _ in 0..4 {
        for &at in &hot {
            cache.read(&source, at, 100).await.expect("read");
        }
    }
    let stream = Stream::new(256 * KIB);
    for at in (0..4 << 20).step_by(16 << 10) {
        cache.observe(&source, &stream, at, 16 << 10);
        assert_eq!(
            cache.read(&source, at, 16 << 10).await.expect("read"),
            data[at as usize..at as usize + (16 << 10)]
        );
    }
    let before = cache.snapshot();
    for &at in &hot {
        cache.read(&source, at, 100).await.expect("read");
    }
    let after = cache.snapshot();
    assert_eq!(after.store_reads, before.store_reads, "all still there");
    assert!(after.bytes_fetched < 6 << 20, "the scan was read once: {after:?}");
}

#[tokio::test]
async fn readahead_is_bounded_over_all_handles_and_given_back() {
    let store = MemoryStore::new();
    let data = bytes(4 << 20);
    let source = source(&store, &data).await;
    let cache = cache(0, 512 * KIB);
    let streams: Vec<_> = (0..8).map(|_| Stream::new(1 << 20)).collect();
    for (i, stream) in streams.iter().enumerate() {
        // Far from each other, so that they share nothing.
        let base = i as u64 * 512 * KIB;
        for at in (base..base + 480 * KIB).step_by(16 << 10) {
            cache.observe(&source, stream, at, 16 << 10);
            assert!(cache.snapshot().readahead_bytes <= 512 * KIB);
            let read = cache.read(&source, at, 16 << 10).await.expect("read");
            assert_eq!(read, data[at as usize..at as usize + (16 << 10)]);
        }
    }
    assert!(cache.snapshot().readahead_bytes > 0);
    drop(streams);
    settled(&cache).await;
    let end = cache.snapshot();
    assert_eq!(end.readahead_bytes, 0);
    assert!(end.bytes_wasted > 0, "what was not read is owned up to");
    assert!(cache.index.lock().is_empty());
}

#[tokio::test]
async fn an_idle_stream_lets_go() {
    let store = MemoryStore::new();
    let data = bytes(2 << 20);
    let source = source(&store, &data).await;
    let cache = cache(0, 1 << 20);
    let stream = Stream::new(1 << 20);
    for at in (0..512 * KIB).step_by(64 << 10) {
        cache.observe(&source, &stream, at, 64 << 10);
    }
    settled(&cache).await;
    stream.relax(Duration::from_secs(3600));
    assert!(cache.snapshot().readahead_bytes > 0);
    stream.relax(Duration::ZERO);
    assert_eq!(cache.snapshot().readahead_bytes, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the sizes, whoever reads what: the bytes are those of the file.
    #[test]
    fn reads_equal_the_file(
        file_len in 0_usize..300_000,
        cache_bytes in 0_u64..400_000,
        readahead in 0_u64..400_000,
        window in 0_u64..400_000,
        reads in prop::collection::vec((0_usize..3, 0_u64..320_000, 0_usize..70_000, any::<bool>()), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
            .expect("a runtime");
        runtime.block_on(async {
            let store = MemoryStore::new();
            let data = bytes(file_len);
            let source = source(&store, &data).await;
            let cache = cache(cache_bytes, readahead);
            let streams = [Stream::new(window), Stream::new(window), Stream::new(window)];
            let mut next = [0_u64; 3];
            for (handle, offset, len, follow) in reads {
                let offset = if follow { next[handle] } else { offset };
                next[handle] = offset + len as u64;
                cache.observe(&source, &streams[handle], offset, len);
                let read = cache.read(&source, offset, len).await.expect("read");
                let start = (offset as usize).min(file_len);
                prop_assert_eq!(&read[..], &data[start..(offset as usize + len).min(file_len)]);
                prop_assert!(cache.snapshot().readahead_bytes <= readahead);
            }
            drop(streams);
            settled(&cache).await;
            prop_assert_eq!(cache.snapshot().readahead_bytes, 0);
            prop_assert!(cache.index.lock().is_empty());
            Ok(())
        })?;
    }
}
