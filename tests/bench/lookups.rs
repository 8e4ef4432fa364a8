//! Point lookups by SQLite on the mount against the same file on the local disk.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags};

use crate::{
    Size,
    harness::{
        hdfs::{Counters, Hdfs, HdfsDir},
        mount::Mount,
        scratch,
        segments::{self, Dedup, mix},
    },
    report,
};

pub const ID: &str = "dedup-1";
pub const SQL: &str = "select url from dedup where digest_key = ?";
const SEED: u64 = 11;
const HDFS_BLOCK_BYTES: u64 = 128 << 20;

/// The segment, in HDFS and on the local disk.
pub struct Segment {
    local: tempfile::TempDir,
    dir: HdfsDir,
    /// Rows that are asked for, anywhere in the file; made before the clock runs.
    wanted: Vec<Dedup>,
}

impl Segment {
    pub fn make(hdfs: &Arc<Hdfs>, size: &Size) -> Self {
        let local = scratch();
        segments::dedup(local.path(), ID, SEED, size.rows);
        let dir = hdfs.dir("lookups");
        dir.put_tree(local.path(), Some(HDFS_BLOCK_BYTES));
        let row = |n| Dedup::of(SEED, mix(77, n) % size.rows, size.rows);
        Self { local, dir, wanted: (0..size.lookups).map(row).collect() }
    }

    pub fn url(&self) -> String {
        self.dir.url()
    }

    pub fn hdfs(&self) -> &Hdfs {
        self.dir.hdfs()
    }

    pub fn local_file(&self) -> PathBuf {
        self.local.path().join(segments::relative_path(ID))
    }

    /// The `n`th row that is asked for.
    pub fn wanted(&self, n: u64) -> &Dedup {
        &self.wanted[n as usize]
    }

    fn bytes(&self) -> u64 {
        std::fs::metadata(self.local_file()).map_or(0, |m| m.len())
    }
}

pub fn run(segment: &Segment, size: &Size) {
    let title = format!("Point lookups in a segment of {} MB", segment.bytes() / 1_000_000);
    report::section(&title, &["", "mount", "local disk", "ratio", "target", "HDFS reads", "HDFS bytes"]);
    cold(segment, size);
    let mount = Mount::with(&segment.url(), &[crate::sides::OWN]);
    let mounted = mount.file(segments::relative_path(ID));
    let local = segment.local_file();
    // Warm: each side has read all it will be asked.
    for file in [&mounted, &local] {
        lookups(&open(file), segment, 0..size.lookups);
    }
    one_open_file(segment, size, &mounted, &local);
    opened_anew(segment, size, &mounted, &local);
    report::end();
}

fn cold(segment: &Segment, size: &Size) {
    let mut times = Vec::new();
    let mut cost = Counters::default();
    for round in 0..size.rounds as u64 {
        let mount = Mount::with(&segment.url(), &[crate::sides::OWN]);
        let before = segment.hdfs().counters();
        let started = Instant::now();
        lookups(&open(&mount.file(segments::relative_path(ID))), segment, round..round + 1);
        times.push(started.elapsed());
        cost = segment.hdfs().counters() - before;
    }
    let [reads, bytes] = report::cost(cost);
    let time = report::time(report::median(&times));
    report::row(&[
        "the first one, cold".into(),
        time,
        String::new(),
        String::new(),
        String::new(),
        reads,
        bytes,
    ]);
}

fn one_open_file(segment: &Segment, size: &Size, mounted: &Path, local: &Path) {
    let sides = [open(mounted), open(local)];
    let found = alternate(segment, size, |side| {
        let started = Instant::now();
        lookups(&sides[side], segment, 0..size.lookups);
        started.elapsed() / size.lookups as u32
    });
    row("warm, one open file", &found, "1.05");
}

fn opened_anew(segment: &Segment, size: &Size, mounted: &Path, local: &Path) {
    let files = [mounted, local];
    let each = (size.lookups / size.passes as u64).max(1);
    let found = alternate(segment, size, |side| {
        let started = Instant::now();
        for pass in 0..size.passes as u64 {
            lookups(&open(files[side]), segment, pass * each..(pass + 1) * each);
        }
        started.elapsed() / (each * size.passes as u64) as u32
    });
    row(&format!("warm, opened anew for each {each}"), &found, "2");
}

/// Medians of mount (side 0) and local disk (side 1), alternating, and what HDFS was asked meanwhile.
struct Compared {
    mount: Duration,
    local: Duration,
    cost: Counters,
}

fn alternate(segment: &Segment, size: &Size, mut measure: impl FnMut(usize) -> Duration) -> Compared {
    let before = segment.hdfs().counters();
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..size.rounds {
        for (side, times) in times.iter_mut().enumerate() {
            times.push(measure(side));
        }
    }
    let [mount, local] = times.map(|times| report::median(&times));
    Compared { mount, local, cost: segment.hdfs().counters() - before }
}

fn row(name: &str, found: &Compared, target: &str) {
    let [reads, bytes] = report::cost(found.cost);
    let ratio = report::ratio(found.mount, found.local);
    let (mount, local) = (report::time(found.mount), report::time(found.local));
    report::row(&[name.into(), mount, local, ratio, target.into(), reads, bytes]);
}

pub fn open(file: &Path) -> Connection {
    let uri = format!("file:{}?immutable=1", file.display());
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(uri, flags).expect("the segment opens");
    // As small as it gets: the file is what is measured, not SQLite's own cache.
    db.execute_batch("pragma cache_size = 2").expect("a setting");
    db
}

/// Looks rows up, each answer checked.
pub fn lookups(db: &Connection, segment: &Segment, range: std::ops::Range<u64>) {
    let mut statement = db.prepare_cached(SQL).expect("a statement");
    for n in range {
        let wanted = segment.wanted(n);
        let url: String =
            statement.query_row([&wanted.digest_key], |row| row.get(0)).expect("the row is there");
        assert_eq!(url, wanted.url);
    }
}
