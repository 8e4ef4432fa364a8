//! The demo's segments: made once, kept below the build directory.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::{harness::segments, interrupt};

/// Changes whenever the content does: an older store is made anew.
const VERSION: u32 = 1;
/// The large segment.
pub const LARGE_ID: &str = "dedup-2024";
pub const LARGE_SEED: u64 = 2024;
const FIRST_CRAWL: u64 = 1_699_850;
/// HDFS's usual 128 MiB would put nearly everything in one block.
pub const HDFS_BLOCK_BYTES: u64 = 64 << 20;

/// How much there is to ask.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// What the demo promises: hundreds of segments, one of over 500 MB.
    Full,
    /// For a test of the demo itself.
    Small,
}

impl Size {
    pub fn large_rows(self) -> u64 {
        match self {
            Self::Full => 2_300_000,
            Self::Small => 20_000,
        }
    }

    /// Crawl statistics, one segment for each crawl.
    fn crawls(self) -> u64 {
        match self {
            Self::Full => 300,
            Self::Small => 50,
        }
    }

    fn directory(self) -> String {
        match self {
            Self::Full => format!("segments-{VERSION}"),
            Self::Small => format!("segments-{VERSION}-small"),
        }
    }
}

pub struct Segments {
    pub root: PathBuf,
    pub files: u64,
    pub bytes: u64,
    /// `None`: they were there.
    pub made_in: Option<Duration>,
}

/// Id of crawl number `n`.
pub fn crawl_id(n: u64) -> String {
    // Spread over some directories, as years of crawls are.
    (FIRST_CRAWL + n * 13).to_string()
}

/// Rows of crawl number `n`: most crawls are small.
pub fn crawl_rows(n: u64) -> u64 {
    300 + segments::mix(n, 1) % 2_500
}

pub fn make_or_find(size: Size) -> Result<Segments, String> {
    let home = build_dir()?.join("demo");
    let root = home.join(size.directory());
    let failed = |e: std::io::Error| format!("{}: {e}", home.display());
    let mut made_in = None;
    if !root.is_dir() {
        let started = Instant::now();
        println!("making segments, once …");
        fs::create_dir_all(&home).map_err(failed)?;
        // Under another name until whole.
        let unfinished = tempfile::Builder::new().prefix("unfinished-").tempdir_in(&home).map_err(failed)?;
        make(unfinished.path(), size)?;
        match fs::rename(unfinished.path(), &root) {
            // Another demo was quicker: its segments are as good.
            Err(_) if root.is_dir() => {}
            renamed => renamed.map_err(failed)?,
        }
        made_in = Some(started.elapsed());
    }
    let files = segments::segments_below(&root);
    let bytes = files.iter().map(|file| fs::metadata(file).map_or(0, |m| m.len())).sum();
    Ok(Segments { files: files.len() as u64, bytes, made_in, root })
}

fn make(root: &Path, size: Size) -> Result<(), String> {
    thread::scope(|scope| {
        scope.spawn(|| segments::dedup(root, LARGE_ID, LARGE_SEED, size.large_rows()));
        for n in 0..size.crawls() {
            interrupt::check()?;
            segments::crawl_statistics(root, &crawl_id(n), n, crawl_rows(n));
        }
        Ok::<(), String>(())
    })?;
    interrupt::check()
}

/// The directory that `cargo clean` removes.
fn build_dir() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|e| format!("the path of this program: {e}"))?;
    own.ancestors()
        .nth(3)
        .map(Path::to_owned)
        .ok_or_else(|| format!("{} is not in a build directory", own.display()))
}
