//! One large file from end to end: `hdfs-native` alone against `cat` through the mount, both cold.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use crate::{
    Size,
    harness::{
        hdfs::{Counters, Hdfs},
        mount::Mount,
        process, scratch,
        segments::noise,
    },
    report,
};

const HDFS_BLOCK_BYTES: u64 = 128 << 20;
const LIMIT: Duration = Duration::from_secs(300);
/// Of the piece that the file repeats; larger than any cache unit, so that no two are the same there.
const PIECE_BYTES: usize = 64 << 20;

struct Run {
    time: Duration,
    cost: Counters,
    hash: String,
}

pub fn run(hdfs: &Arc<Hdfs>, size: &Size) {
    let dir = hdfs.dir("sequential");
    let local = scratch();
    let path = local.path().join("large");
    write(&path, size.sequential_bytes);
    dir.put_file("large", &path, Some(HDFS_BLOCK_BYTES));
    drop(local);
    let url = format!("{}/large", dir.url());
    let (mut raw, mut cat) = (Vec::new(), Vec::new());
    for _ in 0..size.rounds {
        raw.push(read_raw(hdfs, &url));
        cat.push(read_mounted(hdfs, &dir.url()));
    }
    let hash = &raw[0].hash;
    assert!(raw.iter().chain(&cat).all(|run| run.hash == *hash), "all gave the same bytes");

    let times = |runs: &[Run]| report::median(&runs.iter().map(|run| run.time).collect::<Vec<_>>());
    let rate = |t: Duration| format!("{:.0} MB/s", size.sequential_bytes as f64 / 1e6 / t.as_secs_f64());
    let pairs: Vec<f64> =
        raw.iter().zip(&cat).map(|(r, c)| r.time.as_secs_f64() / c.time.as_secs_f64()).collect();
    report::section(
        &format!("Sequential read of {} MiB, cold", size.sequential_bytes >> 20),
        &["", "median", "rate", "of raw (target 0.8)", "HDFS reads", "HDFS bytes"],
    );
    for (name, runs, of_raw) in
        [("hdfs-native, 4 MiB ranges", &raw, 1.0), ("cat through the mount", &cat, report::median(&pairs))]
    {
        let [reads, bytes] = report::cost(runs[0].cost);
        report::row(&[
            name.into(),
            report::time(times(runs)),
            rate(times(runs)),
            format!("{of_raw:.2}"),
            reads,
            bytes,
        ]);
    }
    report::end();
}

fn read_raw(hdfs: &Hdfs, url: &str) -> Run {
    let before = hdfs.counters();
    let mut command = Command::new(hdfs_raw());
    command.arg(url);
    let output = process::run(command, LIMIT);
    assert!(output.success(), "hdfs_raw: {}", output.stderr);
    let said: Value = serde_json::from_str(&output.stdout).expect("a line of JSON");
    let time = Duration::from_secs_f64(said["seconds"].as_f64().expect("seconds"));
    let hash = said["xxh3"].as_str().expect("a hash").to_owned();
    Run { time, cost: hdfs.counters() - before, hash }
}

/// A mount of its own for each run: nothing is cached, neither in the daemon nor in the kernel.
fn read_mounted(hdfs: &Hdfs, url: &str) -> Run {
    let mount = Mount::with(url, &[crate::sides::OWN]);
    let before = hdfs.counters();
    let mut cat = Command::new("sh");
    cat.args(["-c", "exec cat \"$FILE\" > /dev/null"]).env("FILE", mount.file("large"));
    let started = Instant::now();
    let output = process::run(cat, LIMIT);
    let time = started.elapsed();
    assert!(output.success(), "cat: {}", output.stderr);
    let cost = hdfs.counters() - before;
    // After its time was taken: the same bytes?
    Run { time, cost, hash: hash(&mount.file("large")) }
}

fn hash(path: &Path) -> String {
    let mut file = File::open(path).expect("it opens");
    let (mut hash, mut chunk) = (Xxh3::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut chunk).expect("a read") {
            0 => return format!("{:032x}", hash.digest128()),
            n => hash.update(&chunk[..n]),
        }
    }
}

/// How long `hdfs-native` alone takes to write a local file.
pub fn hdfs_raw_write(url: &str, file: &Path) -> Duration {
    let mut command = Command::new(hdfs_raw());
    command.arg("--write").arg(file).arg(url);
    let output = process::run(command, LIMIT);
    assert!(output.success(), "hdfs_raw: {}", output.stderr);
    let said: Value = serde_json::from_str(&output.stdout).expect("a line of JSON");
    Duration::from_secs_f64(said["seconds"].as_f64().expect("seconds"))
}

pub fn write(path: &Path, len: u64) {
    use std::io::Write;
    let mut file = File::create(path).expect("a file");
    let mut left = len;
    let mut seed = 0;
    while left > 0 {
        let n = left.min(PIECE_BYTES as u64);
        file.write_all(&noise(seed, n as usize)).expect("a write");
        left -= n;
        seed += 1;
    }
}

/// Built beside this program.
fn hdfs_raw() -> PathBuf {
    let own = std::env::current_exe().expect("the path of this program");
    let program = own.with_file_name("hdfs_raw");
    assert!(
        program.is_file(),
        "{} is not built: cargo build --release --example hdfs_raw -p springhouse-fuse",
        program.display()
    );
    program
}
