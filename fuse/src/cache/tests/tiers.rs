//! The disk below the RAM, and what an operator does to both.

use std::path::Path;

use tempfile::TempDir;

use super::*;

fn with_disk(dir: &Path, cache_bytes: u64) -> BlockCache {
    let settings = CacheSettings { cache_bytes, ..cache(0, 1 << 20).settings };
    let disk = DiskCache::open(dir, 1 << 30, 64 << 20).expect("opened");
    let tiers = Tiers { disk: Some(Arc::new(disk)), store: 5, ..Tiers::default() };
    BlockCache::with_tiers(settings, tiers, Handle::current()).expect("good settings")
}

async fn flushed(cache: &BlockCache) {
    settled(cache).await;
    cache.disk().expect("there is one").flushed().await;
}

#[tokio::test]
async fn a_new_process_finds_what_the_last_one_read() {
    let dir = TempDir::new().expect("a directory");
    let store = MemoryStore::new();
    let data = bytes(300_000);
    let source = source(&store, &data).await;
    let first = with_disk(dir.path(), 1 << 20);
    first.read(&source, 5000, 100_000).await.expect("read");
    first.save_learnt(&source, vec![(0, data.slice(..4096)), (8192, data.slice(8192..12_288))]);
    flushed(&first).await;
    // As after kill -9.
    std::mem::forget(first);
    let reads = store.calls(Operation::Read);
    let second = with_disk(dir.path(), 1 << 20);
    assert_eq!(second.read(&source, 5000, 100_000).await.expect("read"), data[5000..105_000]);
    assert_eq!(second.fetch(&source, std::slice::from_ref(&(6000..6100)), Purpose::Interior).await.len(), 1);
    assert_eq!(store.calls(Operation::Read), reads, "not one read");
    let learnt = second.learnt(&source).await.expect("kept");
    assert_eq!(learnt[1], (8192, data.slice(8192..12_288)));
    // What is partly there: only the rest is read.
    assert_eq!(second.read(&source, 0, 300_000).await.expect("read"), data);
    assert_eq!(store.calls(Operation::Read), reads + 2);
    flushed(&second).await;
    assert!(second.completeness(&source).await.expect("a disk").is_whole());
}

#[tokio::test]
async fn another_store_or_generation_finds_nothing() {
    let dir = TempDir::new().expect("a directory");
    let store = MemoryStore::new();
    let data = bytes(100_000);
    let one = source(&store, &data).await;
    let cache = with_disk(dir.path(), 0);
    cache.read(&one, 0, 100_000).await.expect("read");
    flushed(&cache).await;
    let other = Source { file: 2, ..one };
    assert_eq!(cache.completeness(&other).await.expect("a disk").present, 0);
    cache.read(&other, 0, 100).await.expect("read");
    assert_eq!(cache.snapshot().disk.expect("a disk").hits, 0);
}

#[tokio::test]
async fn a_scan_of_more_than_its_share_stays_off_the_disk() {
    let dir = TempDir::new().expect("a directory");
    let store = MemoryStore::new();
    let data = bytes(2 << 20);
    let source = source(&store, &data).await;
    let cache = with_disk(dir.path(), 0);
    let scan = async |cache: &BlockCache| {
        let stream = Stream::new(256 * KIB);
        for at in (0..2 << 20).step_by(16 << 10) {
            cache.observe(&source, &stream, at, 16 << 10);
            cache.read(&source, at, 16 << 10).await.expect("read");
        }
        flushed(cache).await;
    };
    cache.resize(&Resize { disk_bytes: Some(4 << 20), ..Resize::default() });
    scan(&cache).await;
    let present = cache.completeness(&source).await.expect("a disk").present;
    assert!(present * 4 < 512, "{present}: the start, which nobody knew for a scan yet");
    cache.resize(&Resize { disk_bytes: Some(16 << 20), ..Resize::default() });
    scan(&cache).await;
    assert!(cache.completeness(&source).await.expect("a disk").is_whole());
}

#[tokio::test]
async fn sizes_change_while_it_runs() {
    let store = MemoryStore::new();
    let data = bytes(1 << 20);
    let source = source(&store, &data).await;
    let cache = cache(1 << 20, 1 << 20);
    for at in (0..400 * KIB).step_by(4 << 10) {
        cache.read(&source, at, 100).await.expect("read");
    }
    let page = data.slice(..4096);
    (0..8).for_each(|i| assert!(cache.pin(&source, 4096, i * 4096, page.clone())));
    let reads = store.calls(Operation::Read);
    cache.resize(&Resize { cache_bytes: Some(2 << 20), ..Resize::default() });
    for at in (0..400 * KIB).step_by(4 << 10) {
        cache.read(&source, at, 100).await.expect("read");
    }
    assert_eq!(store.calls(Operation::Read), reads, "a larger one keeps all");
    cache.resize(&Resize {
        cache_bytes: Some(100 * KIB),
        pinned_bytes: Some(16 * KIB),
        readahead_bytes: Some(0),
        readahead_bytes_max: Some(0),
        disk_bytes: None,
    });
    let small = cache.snapshot();
    assert!(small.cached_bytes <= 100 * KIB && small.cached_bytes > 50 * KIB, "{small:?}");
    assert_eq!((small.cache_bytes_max, small.pinned_bytes, small.readahead_bytes_max), (100 * KIB, 0, 0));
    assert!(!cache.pin(&source, 4096, 0, data.slice(..20_000)), "no room");
    let stream = Stream::new(1 << 20);
    for at in (0..1 << 20).step_by(16 << 10) {
        cache.observe(&source, &stream, at, 16 << 10);
        assert_eq!(cache.read(&source, at, 10).await.expect("read"), data[at as usize..at as usize + 10]);
    }
    assert_eq!(cache.snapshot().by_purpose.readahead.reads, 0);
}

#[tokio::test]
async fn bytes_that_were_replaced_come_from_no_tier() {
    let dir = TempDir::new().expect("a directory");
    let store = MemoryStore::new();
    let data = bytes(100_000);
    let one = source(&store, &data).await;
    let other = Source { file: 2, ..one.clone() };
    let cache = with_disk(dir.path(), 1 << 20);
    for source in [&one, &other] {
        cache.read(source, 0, 100_000).await.expect("read");
        assert!(cache.pin(source, 4096, 0, data.slice(..4096)));
    }
    cache.keep(&one, "/one").await.expect("kept");
    flushed(&cache).await;
    let reads = store.calls(Operation::Read);
    cache.replaced(one.file, one.len()).await;
    assert_eq!((cache.kept().len(), cache.snapshot().pinned_bytes), (0, 4096));
    cache.read(&other, 50_000, 100).await.expect("read");
    assert_eq!(store.calls(Operation::Read), reads, "the other is left alone");
    cache.read(&one, 50_000, 100).await.expect("read");
    assert_eq!(store.calls(Operation::Read), reads + 1);
}

#[tokio::test]
async fn what_is_dropped_is_read_again() {
    let dir = TempDir::new().expect("a directory");
    let store = MemoryStore::new();
    let data = bytes(100_000);
    let one = source(&store, &data).await;
    let other = Source { file: 2, ..one.clone() };
    let cache = with_disk(dir.path(), 1 << 20);
    for source in [&one, &other] {
        cache.read(source, 0, 100_000).await.expect("read");
        assert!(cache.pin(source, 4096, 0, data.slice(..4096)));
    }
    flushed(&cache).await;
    let reads = store.calls(Operation::Read);
    let dropped = cache.drop_file(&one).await;
    assert_eq!((dropped.ram_bytes, dropped.pinned_bytes), (100_000, 4096));
    assert!(dropped.disk_bytes >= 100_000);
    cache.read(&other, 50_000, 100).await.expect("read");
    assert_eq!(store.calls(Operation::Read), reads, "the other is left alone");
    cache.read(&one, 50_000, 100).await.expect("read");
    assert_eq!(store.calls(Operation::Read), reads + 1);
    cache.drop_all(false).await;
    cache.read(&other, 50_000, 100).await.expect("read");
    assert_eq!(store.calls(Operation::Read), reads + 1, "from disk");
    cache.drop_all(true).await;
    cache.drop_all(false).await;
    cache.read(&other, 50_000, 100).await.expect("read");
    assert_eq!(store.calls(Operation::Read), reads + 2);
}

#[tokio::test]
async fn what_was_warmed_is_there() {
    let dir = TempDir::new().expect("a directory");
    let store = MemoryStore::new();
    let data = bytes(300_000);
    let source = source(&store, &data).await;
    let cache = with_disk(dir.path(), 0);
    let mut reads = Vec::new();
    for _ in 0..2 {
        let warmed = cache.fetch(&source, std::slice::from_ref(&(0..300_000)), Purpose::Warm).await;
        assert!(warmed[0].as_ref().expect("warm") == &data);
        flushed(&cache).await;
        assert!(cache.completeness(&source).await.expect("a disk").is_whole());
        reads.push(cache.snapshot().by_purpose.warm.reads);
    }
    assert!(reads[0] > 0 && reads[0] == reads[1], "the second time nothing is read: {reads:?}");
}

#[tokio::test(start_paused = true)]
async fn advice_says_what_more_memory_would_save() {
    let store = MemoryStore::new();
    let data = bytes(4 << 20);
    let source = source(&store, &data).await;
    // A loop over 2 MiB in a cache of 1 MiB.
    let cache = cache(1 << 20, 0);
    for _ in 0..4 {
        for at in (0..2 << 20).step_by(4 << 10) {
            cache.read(&source, at, 100).await.expect("read");
        }
    }
    tokio::time::advance(Duration::from_secs(120)).await;
    let advice = cache.advise();
    assert!(advice.disk.is_none());
    assert_eq!((advice.ram.bytes_now, advice.ram.references), (1 << 20, 2048));
    assert!(advice.ram.hit_ratio_now < 0.01);
    let at = |bytes: u64| advice.ram.points.iter().find(|point| point.bytes == bytes).expect("a point");
    assert!((at(4 << 20).hit_ratio - 0.75).abs() < 0.01, "{advice:?}");
    assert!((at(4 << 20).saved_reads_per_minute - 768.0).abs() < 20.0, "{advice:?}");
    assert_eq!(at(1 << 20).saved_reads_per_minute, 0.0);
    cache.name(source.file, "/f");
    assert_eq!(cache.top_files(5)[0].path.as_deref(), Some("/f"));
}
