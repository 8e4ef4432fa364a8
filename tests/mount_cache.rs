//! The mount's caches: what survives, what is bounded, what is not pushed out; docs/SEMANTICS.md.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use crate::{
    harness::{
        eventually, file_url,
        hdfs::{Hdfs, HdfsDir},
        mount::{Mount, is_mounted, unmount_lazily},
        process, scratch,
        segments::noise,
    },
    registry::tests,
};

tests! {
    [Fuse, Hdfs] disk_cache_survives_kill, disk_cache_is_shared, bit_rot_in_the_cache;
    [Fuse, Namespaces] cache_disk_full;
    [Fuse] scan_keeps_the_hot_set, memory_is_bounded;
}

const LIMIT: Duration = Duration::from_secs(60);
const LEN: usize = 8 << 20;

struct Cached {
    hdfs: Arc<Hdfs>,
    dir: HdfsDir,
    cache: tempfile::TempDir,
    bytes: Vec<u8>,
}

impl Cached {
    fn new() -> Self {
        // Its own cluster: the DataNodes' counters are of this test alone.
        let hdfs = Arc::new(Hdfs::own());
        let dir = hdfs.dir("cached");
        let bytes = noise(1, LEN);
        dir.put("file", bytes.clone());
        Self { hdfs, dir, cache: scratch(), bytes }
    }

    fn mount(&self) -> Mount {
        let cache = format!("--cache-dir={}", self.cache.path().display());
        let args = [&cache, "--cache-size=1GiB", "--readahead-max=0", "--cache-block=64KiB"];
        Mount::with(&self.dir.url(), &args)
    }

    /// Every other block of 64 KiB, so that nothing is read ahead.
    fn check(&self, mount: &Mount) {
        let file = File::open(mount.file("file")).expect("it opens");
        let mut page = vec![0; 4096];
        for at in (0..LEN).step_by(128 << 10) {
            file.read_exact_at(&mut page, at as u64).expect("a read");
            assert!(page == self.bytes[at..at + 4096], "at {at}");
        }
    }

    /// Waits until what was read is written behind.
    fn settle(&self, mount: &Mount, blocks: u64) {
        eventually("blocks are on disk", LIMIT, || {
            (disk(mount, "bytes_written") >= blocks * BLOCK).then_some(())
        });
    }
}

fn disk(mount: &Mount, name: &str) -> u64 {
    let stats = mount.stats();
    stats["fs"]["cache"]["disk"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {stats}"))
}

/// The cached unit where it is counted.
const BLOCK: u64 = 64 << 10;
const BLOCKS: u64 = (LEN / (128 << 10)) as u64;

/// Killed and mounted again: nothing is read from HDFS a second time.
fn disk_cache_survives_kill() {
    let cached = Cached::new();
    let mount = cached.mount();
    cached.check(&mount);
    cached.settle(&mount, BLOCKS);
    let mut mount = mount;
    mount.daemon().kill();
    drop(mount);
    let before = cached.hdfs.counters();
    let mount = cached.mount();
    cached.check(&mount);
    assert_eq!(cached.hdfs.counters() - before, Default::default(), "no byte came from a DataNode");
    assert!(disk(&mount, "hits") >= BLOCKS);
    // A replaced file is another generation: its bytes come from HDFS.
    let other = noise(2, LEN);
    cached.dir.replace("file", other.clone());
    eventually("the new file shows", LIMIT, || (fs::read(mount.file("file")).ok()? == other).then_some(()));
}

/// Two mounts that name one directory: the second has what the first read.
fn disk_cache_is_shared() {
    let cached = Cached::new();
    let first = cached.mount();
    let second = cached.mount();
    cached.check(&first);
    cached.settle(&first, BLOCKS);
    let before = cached.hdfs.counters();
    cached.check(&second);
    assert_eq!((cached.hdfs.counters() - before).reads, 0);
}

/// Bytes that rot on the cache's disk are found, counted and read from HDFS again.
fn bit_rot_in_the_cache() {
    let cached = Cached::new();
    let mount = cached.mount();
    cached.check(&mount);
    cached.settle(&mount, BLOCKS);
    drop(mount);
    let mut flipped = 0;
    for path in large_files(cached.cache.path()) {
        let file = File::options().read(true).write(true).open(&path).expect("a cache file");
        let len = file.metadata().expect("a stat").len();
        for at in (1_000..len).step_by(64 << 10) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).expect("a byte");
            file.write_all_at(&[byte[0] ^ 0x55], at).expect("a byte");
            flipped += 1;
        }
    }
    assert!(flipped > 0, "the cache has files");
    let mount = cached.mount();
    cached.check(&mount);
    assert!(disk(&mount, "corrupt") >= 1);
}

fn large_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(large_files(&path));
        } else if entry.metadata().is_ok_and(|m| m.len() > 100_000) {
            found.push(path);
        }
    }
    found
}

/// A full disk ends the caching, not the reading.
fn cache_disk_full() {
    let root = scratch();
    let bytes = noise(5, LEN);
    fs::write(root.path().join("file"), &bytes).expect("a file");
    let small = scratch();
    let mut command = Command::new("mount");
    command.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(small.path());
    assert!(process::run(command, LIMIT).success());
    let unmount = Unmount(small.path());
    let cache = format!("--cache-dir={}", small.path().display());
    let mount = Mount::with(&file_url(root.path()), &[&cache, "--cache-size=1GiB"]);
    for _ in 0..2 {
        assert!(fs::read(mount.file("file")).expect("it reads") == bytes);
        let file = File::open(mount.file("file")).expect("it opens");
        let mut page = [0; 4096];
        for at in (0..LEN).rev().step_by(200_003) {
            let at = at.min(LEN - 4096);
            file.read_exact_at(&mut page, at as u64).expect("a read");
            assert!(page == bytes[at..at + 4096]);
        }
    }
    assert!(is_mounted(&mount.path()));
    drop(mount);
    drop(unmount);
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        unmount_lazily(self.0);
    }
}

/// A file larger than the cache is read once, from front to end and in no order: what was hot stays.
fn scan_keeps_the_hot_set() {
    let root = scratch();
    let hot = noise(6, 4 << 20);
    fs::write(root.path().join("hot"), &hot).expect("a file");
    fs::write(root.path().join("scanned"), noise(7, 64 << 20)).expect("a file");
    let args = ["--memory=128MiB", "--memory-blocks=16MiB", "--cache-block=64KiB"];
    let mount = Mount::with(&file_url(root.path()), &args);
    // Through O_DIRECT: the kernel's page cache would answer in the daemon's place.
    let direct = |name: &str| {
        use std::os::unix::fs::OpenOptionsExt;
        File::options().read(true).custom_flags(libc::O_DIRECT).open(mount.file(name)).expect("it opens")
    };
    let touch_hot = |file: &File| {
        let mut page = Page::new();
        for n in 0..64_u64 {
            // In an order that no readahead follows.
            let at = (n * 37 % 64) * (64 << 10);
            file.read_exact_at(page.bytes(), at).expect("a read");
            assert!(*page.bytes() == hot[at as usize..at as usize + 4096]);
        }
    };
    let file = direct("hot");
    for _ in 0..4 {
        touch_hot(&file);
    }
    let misses = |mount: &Mount| mount.stats()["fs"]["cache"]["misses"].as_u64().expect("a count");
    let scanned = direct("scanned");
    let mut page = Page::new();
    for n in 0..1_024_u64 {
        scanned.read_exact_at(page.bytes(), (n * 331 % 1_024) * (64 << 10)).expect("a read");
    }
    let mut whole = File::open(mount.file("scanned")).expect("it opens");
    std::io::copy(&mut whole, &mut std::io::sink()).expect("a scan");
    let before = misses(&mount);
    touch_hot(&file);
    let lost = misses(&mount) - before;
    assert!(lost <= 6, "{lost} of 64 hot blocks were pushed out");
}

/// One page of memory at an address that O_DIRECT takes.
struct Page {
    memory: Vec<u8>,
}

impl Page {
    fn new() -> Self {
        Self { memory: vec![0; 8192] }
    }

    fn bytes(&mut self) -> &mut [u8] {
        let start = self.memory.as_ptr().align_offset(4096);
        &mut self.memory[start..start + 4096]
    }
}

/// 64 sequential readers, random ones, and 100,000 times open, stat, close: resident memory stays within
/// the bound and 15 %.
fn memory_is_bounded() {
    const BOUND: u64 = 256 << 20;
    let root = scratch();
    for n in 0..64 {
        fs::write(root.path().join(format!("f{n:02}")), vec![n; 24 << 20]).expect("a file");
    }
    for n in 0..2_000 {
        fs::write(root.path().join(format!("small-{n:04}")), "x").expect("a file");
    }
    let mut mount = Mount::with(&file_url(root.path()), &["--memory=256MiB"]);
    thread::scope(|scope| {
        for n in 0..64_u8 {
            let path = mount.file(format!("f{n:02}"));
            scope.spawn(move || {
                let mut file = File::open(path).expect("it opens");
                let mut chunk = vec![0; 1 << 20];
                loop {
                    match file.read(&mut chunk).expect("a read") {
                        0 => break,
                        read => assert!(chunk[..read].iter().all(|byte| *byte == n)),
                    }
                }
            });
        }
        for n in 0..8_u64 {
            let path = mount.file(format!("f{:02}", n * 7));
            scope.spawn(move || {
                let file = File::open(path).expect("it opens");
                let mut page = [0; 4096];
                for i in 0..2_000_u64 {
                    let at = (i * 7_919 + n * 104_729) % (23 << 20);
                    file.read_exact_at(&mut page, at).expect("a read");
                }
            });
        }
        for n in 0..4 {
            let dir = mount.path();
            scope.spawn(move || {
                for i in 0..25_000 {
                    let path = dir.join(format!("small-{:04}", (i * 4 + n) % 2_000));
                    let file = File::open(&path).expect("it opens");
                    assert_eq!(file.metadata().expect("a stat").size(), 1);
                }
            });
        }
    });
    let peak = peak_resident_bytes(mount.daemon().id());
    assert!(peak <= BOUND + BOUND * 15 / 100, "{} MiB at a bound of {} MiB", peak >> 20, BOUND >> 20);
}

/// The most that was ever resident, as the kernel counted it.
fn peak_resident_bytes(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("the daemon runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line of the kernel's");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}
