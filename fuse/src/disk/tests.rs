use std::{collections::HashMap, fs, os::unix::fs::FileExt};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const BLOCK: u64 = 4096;

fn bytes(seed: u64, len: u64) -> Bytes {
    (0..len).map(|i| (i.wrapping_mul(seed | 1) >> 3) as u8 ^ seed as u8).collect()
}

fn key(file: u128, len: u64) -> DiskKey {
    DiskKey::new(7, file, BLOCK, len)
}

fn open(dir: &TempDir, bytes_max: u64) -> DiskCache {
    DiskCache::open(dir.path(), bytes_max, 64 << 20).expect("opened")
}

fn found(runs: &[Run]) -> HashMap<u64, Bytes> {
    let blocks = runs.iter().flat_map(|run| {
        let blocks = run.blocks.clone();
        blocks.zip(run.bytes.chunks(BLOCK as usize).map(Bytes::copy_from_slice))
    });
    blocks.collect()
}

/// Flips a bit of each file with this extension, at `offset`.
fn rot(dir: &TempDir, extension: &str, offset: u64) -> usize {
    let mut rotten = 0;
    for folder in fs::read_dir(dir.path().join("springhouse-1")).expect("listed").flatten() {
        let Ok(files) = fs::read_dir(folder.path()) else { continue };
        for file in files.flatten().map(|file| file.path()) {
            if file.extension().is_some_and(|e| e == extension) {
                let file = fs::File::options().read(true).write(true).open(file).expect("opened");
                let mut byte = [0];
                file.read_exact_at(&mut byte, offset).expect("read");
                file.write_all_at(&[byte[0] ^ 1], offset).expect("written");
                rotten += 1;
            }
        }
    }
    rotten
}

#[tokio::test]
async fn a_restart_loses_nothing() {
    let dir = TempDir::new().expect("a directory");
    let (key, data) = (key(1, 50_000), bytes(3, 50_000));
    let cache = open(&dir, 1 << 30);
    cache.write(key, 0, data.clone());
    cache.save_pages(key, vec![(4096, data.slice(4096..8192))]);
    cache.flushed().await;
    // As after kill -9: nothing was closed or synchronised.
    std::mem::forget(cache);
    let cache = open(&dir, 1 << 30);
    let runs = cache.read(key, 0..key.blocks()).await;
    assert_eq!(runs, [Run { blocks: 0..13, bytes: data.clone() }]);
    assert_eq!(cache.pages(key).await, Some(vec![(4096, data.slice(4096..8192))]));
    assert!(cache.completeness(key).await.is_whole());
    assert_eq!(cache.snapshot().hits, 13);
}

#[tokio::test]
async fn other_generations_and_block_sizes_are_other_blocks() {
    let dir = TempDir::new().expect("a directory");
    let cache = open(&dir, 1 << 30);
    cache.write(key(1, 8192), 0, bytes(1, 8192));
    cache.flushed().await;
    for other in
        [key(2, 8192), key(1, 8191), DiskKey::new(7, 1, 2 * BLOCK, 8192), DiskKey::new(8, 1, BLOCK, 8192)]
    {
        assert_eq!(cache.read(other, 0..other.blocks()).await, []);
    }
}

#[tokio::test]
async fn a_rotten_block_is_dropped_and_counted_and_written_again() {
    let dir = TempDir::new().expect("a directory");
    let (key, data) = (key(1, 5 * BLOCK), bytes(3, 5 * BLOCK));
    let cache = open(&dir, 1 << 30);
    cache.write(key, 0, data.clone());
    cache.flushed().await;
    assert_eq!(rot(&dir, "data", 2 * BLOCK + 17), 1);
    let runs = cache.read(key, 0..5).await;
    assert_eq!(runs.iter().map(|run| run.blocks.clone()).collect::<Vec<_>>(), [0..2, 3..5]);
    assert_eq!(found(&runs)[&3], data.slice(3 * 4096..4 * 4096));
    assert_eq!(cache.snapshot().corrupt, 1);
    cache.write(key, 2, data.slice(2 * 4096..3 * 4096));
    cache.flushed().await;
    assert_eq!(cache.read(key, 0..5).await, [Run { blocks: 0..5, bytes: data }]);
    assert_eq!(cache.snapshot().corrupt, 1);
}

#[tokio::test]
async fn damaged_headers_sums_and_pages_are_absence() {
    let dir = TempDir::new().expect("a directory");
    let (key, data) = (key(1, 3 * BLOCK), bytes(3, 3 * BLOCK));
    let cache = open(&dir, 1 << 30);
    cache.write(key, 0, data.clone());
    cache.save_pages(key, vec![(0, data.slice(..4096))]);
    cache.flushed().await;
    drop(cache);
    assert_eq!(rot(&dir, "sums", 9) + rot(&dir, "pages", 60), 2);
    let cache = open(&dir, 1 << 30);
    assert_eq!(cache.read(key, 0..3).await, []);
    assert_eq!(cache.pages(key).await, None);
    assert_eq!(cache.snapshot().corrupt, 1, "the pages");
    cache.write(key, 0, data.clone());
    cache.flushed().await;
    assert_eq!(cache.read(key, 0..3).await, [Run { blocks: 0..3, bytes: data.clone() }]);
    // Cut short, as by a crash of the host.
    for folder in fs::read_dir(dir.path().join("springhouse-1")).expect("listed").flatten() {
        for file in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            if file.path().extension().is_some_and(|e| e == "data") {
                fs::File::options()
                    .write(true)
                    .open(file.path())
                    .expect("opened")
                    .set_len(5000)
                    .expect("cut");
            }
        }
    }
    assert_eq!(cache.read(key, 0..3).await, [Run { blocks: 0..1, bytes: data.slice(..4096) }]);
}

#[tokio::test]
async fn several_users_of_a_directory_keep_one_bound() {
    let dir = TempDir::new().expect("a directory");
    let max = 64 * BLOCK;
    let users = [open(&dir, max), open(&dir, max), open(&dir, max)];
    for file in 0..60_u128 {
        let user = &users[file as usize % 3];
        user.write(key(file, 4 * BLOCK), 0, bytes(file as u64, 4 * BLOCK));
        user.flushed().await;
        let (on_disk, _) = evict_scan(&dir);
        assert!(on_disk <= max, "{on_disk} of {max}");
        assert!(user.snapshot().used_bytes <= max);
    }
    let evictions: u64 = users.iter().map(|user| user.snapshot().evictions).sum();
    assert!(evictions > 30, "{evictions}");
    // What one wrote, the others read; the last is surely there.
    for user in &users {
        assert_eq!(found(&user.read(key(59, 4 * BLOCK), 0..4).await).len(), 4);
    }
}

fn evict_scan(dir: &TempDir) -> (u64, u64) {
    let freed = evict::shrink(&dir.path().join("springhouse-1"), u64::MAX).expect("scanned");
    (freed.left, freed.segments)
}

#[tokio::test]
async fn the_least_recently_used_goes_first() {
    let dir = TempDir::new().expect("a directory");
    let root = dir.path().join("springhouse-1");
    let cache = open(&dir, 1 << 30);
    for file in 0..8_u128 {
        cache.write(key(file, 4 * BLOCK), 0, bytes(file as u64, 4 * BLOCK));
    }
    cache.flushed().await;
    let ago = |minutes| std::time::SystemTime::now() - std::time::Duration::from_secs(60 * minutes);
    for file in 0..8_u128 {
        let path = key(file, 4 * BLOCK).segment(&root, 0);
        for extension in ["data", "sums"] {
            let file_of =
                fs::File::options().write(true).open(path.with_extension(extension)).expect("opened");
            file_of.set_modified(ago(100 - file as u64)).expect("dated");
        }
    }
    // Used now, so it stays although it is the oldest.
    assert_eq!(cache.read(key(0, 4 * BLOCK), 0..4).await.len(), 1);
    let (total, _) = evict_scan(&dir);
    let freed = evict::shrink(&root, total / 2).expect("shrunk");
    assert_eq!(freed.segments, 4);
    let mut left = Vec::new();
    for file in 0..8_u128 {
        if cache.completeness(key(file, 4 * BLOCK)).await.present > 0
            && key(file, 4 * BLOCK).segment(&root, 0).with_extension("sums").exists()
        {
            left.push(file);
        }
    }
    assert_eq!(left, [0, 5, 6, 7]);
}

#[tokio::test]
async fn what_was_given_up_by_another_is_written_anew() {
    let dir = TempDir::new().expect("a directory");
    let (one, other) = (open(&dir, 1 << 30), open(&dir, 1 << 30));
    let (key, data) = (key(1, 4 * BLOCK), bytes(9, 4 * BLOCK));
    one.write(key, 0, data.slice(..8192));
    one.flushed().await;
    assert!(other.drop_all().await > 0);
    one.write(key, 0, data.clone());
    one.flushed().await;
    assert_eq!(other.read(key, 0..4).await, [Run { blocks: 0..4, bytes: data }]);
    assert!(other.drop_file(key).await >= 4 * BLOCK);
    assert_eq!(other.read(key, 0..4).await, []);
}

#[tokio::test]
async fn a_failing_disk_stops_writes_for_a_while_and_nothing_else() {
    let dir = TempDir::new().expect("a directory");
    let (good, bad) = (key(1, BLOCK), key(2, BLOCK));
    let cache = open(&dir, 1 << 30);
    cache.write(good, 0, bytes(1, BLOCK));
    cache.flushed().await;
    // A file where the folder has to be: every write of this key fails.
    let folder = bad.folder(&dir.path().join("springhouse-1"));
    fs::write(&folder, "in the way").expect("written");
    cache.write(bad, 0, bytes(2, BLOCK));
    cache.flushed().await;
    let failed = cache.snapshot();
    assert!(failed.errors == 1 && failed.paused, "{failed:?}");
    cache.write(key(3, BLOCK), 0, bytes(3, BLOCK));
    assert_eq!(cache.snapshot().writes_dropped, failed.writes_dropped + 1);
    assert_eq!(cache.read(good, 0..1).await.len(), 1, "reads go on");
    fs::remove_file(&folder).expect("removed");
    cache.directory.resume();
    cache.write(bad, 0, bytes(2, BLOCK));
    cache.flushed().await;
    assert_eq!(cache.read(bad, 0..1).await.len(), 1);
}

/// More than may wait at once, and nothing is dropped.
#[tokio::test]
async fn sure_writes_wait_for_room() {
    let dir = TempDir::new().expect("a directory");
    let cache = DiskCache::open(dir.path(), 1 << 30, 5 * BLOCK).expect("opened");
    let whole = bytes(1, 32 * BLOCK);
    cache.write_surely(key(1, 40 * BLOCK), 8, whole.clone()).await;
    assert!(cache.snapshot().queued_bytes <= 5 * BLOCK);
    cache.flushed().await;
    assert_eq!(cache.snapshot().writes_dropped, 0);
    let runs = cache.read(key(1, 40 * BLOCK), 0..40).await;
    let read: Vec<u8> = runs.iter().flat_map(|run| run.bytes.to_vec()).collect();
    assert!(read == whole && runs[0].blocks.start == 8);
}

#[tokio::test]
async fn writes_that_wait_are_bounded() {
    let dir = TempDir::new().expect("a directory");
    let cache = DiskCache::open(dir.path(), 1 << 30, 2 * BLOCK).expect("opened");
    let (release, hold) = mpsc::channel::<()>();
    cache.later(Box::new(move |_| hold.recv().unwrap_or(())));
    for block in 0..5 {
        cache.write(key(1, 5 * BLOCK), block, bytes(1, BLOCK));
    }
    assert_eq!(cache.snapshot().queued_bytes, 2 * BLOCK);
    assert_eq!(cache.snapshot().writes_dropped, 3);
    drop(release);
    cache.flushed().await;
    assert_eq!(cache.snapshot().queued_bytes, 0);
}

#[tokio::test]
async fn another_users_directory_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().expect("a directory");
    drop(open(&dir, 1 << 20));
    let root = dir.path().join("springhouse-1");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).expect("changed");
    let refused = DiskCache::open(dir.path(), 1 << 20, 1 << 20).map_err(|e| e.kind());
    assert_eq!(refused.err(), Some(ErrorKind::InvalidArgument));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is written, rots, is given up or restarted: a block that is read has the right bytes,
    /// and without rot and within the bound nothing is lost.
    #[test]
    fn blocks_are_right_or_absent(
        steps in prop::collection::vec((0_u8..6, 0_u128..3, 0_u64..20, 1_u64..8), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let dir = TempDir::new().expect("a directory");
            let len = 20 * BLOCK - 100;
            let data: Vec<_> = (0..3).map(|seed| bytes(seed + 5, len)).collect();
            let mut cache = open(&dir, 1 << 30);
            let mut model: HashMap<(u128, u64), ()> = HashMap::new();
            for (what, file, at, count) in steps {
                let key = key(file, len);
                let blocks = at..(at + count).min(20);
                match what {
                    0..=2 => {
                        let start = (blocks.start * BLOCK) as usize;
                        let end = (blocks.end * BLOCK).min(len) as usize;
                        cache.write(key, blocks.start, data[file as usize].slice(start..end));
                        cache.flushed().await;
                        model.extend(blocks.map(|block| ((file, block), ())));
                    }
                    3 => {
                        cache.drop_file(key).await;
                        model.retain(|&(of, _), ()| of != file);
                    }
                    4 => cache = open(&dir, 1 << 30),
                    _ => {
                        let found = found(&cache.read(key, blocks.clone()).await);
                        for block in blocks {
                            let start = (block * BLOCK) as usize;
                            let end = ((block + 1) * BLOCK).min(len) as usize;
                            let expected = model.contains_key(&(file, block))
                                .then(|| data[file as usize].slice(start..end));
                            prop_assert_eq!(found.get(&block).cloned(), expected);
                        }
                    }
                }
            }
            prop_assert_eq!(cache.snapshot().corrupt, 0);
            Ok(())
        })?;
    }
}
