//! What is given up when there is no room: whole segments, the least recently used first.

use std::{
    collections::{BinaryHeap, HashMap},
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Most candidates remembered in one pass over the directory, some 200 bytes each.
const CANDIDATES_MAX: usize = 65_536;

/// A temporary file of a writer that died is older than this.
const TEMPORARY_AGE: Duration = Duration::from_secs(600);

/// What was given up, and what is left.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Freed {
    pub(super) segments: u64,
    pub(super) bytes: u64,
    pub(super) left: u64,
}

/// A segment or a file of pages: path without extension, size, last use. Ordered by last use.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    used: SystemTime,
    path: PathBuf,
    bytes: u64,
    pages: bool,
}

/// Removes what was used least recently until at most `target` bytes are left below `root`.
///
/// Memory is bounded whatever lies there: a pass remembers only the oldest.
pub(super) fn shrink(root: &Path, target: u64) -> io::Result<Freed> {
    let mut freed = Freed::default();
    loop {
        let (total, oldest) = scan(root)?;
        freed.left = total;
        let before = freed.segments;
        for candidate in oldest {
            if freed.left <= target {
                return Ok(freed);
            }
            let bytes = candidate.remove();
            freed.segments += 1;
            freed.bytes += bytes;
            freed.left = freed.left.saturating_sub(bytes);
        }
        if freed.left <= target || freed.segments == before {
            return Ok(freed);
        }
    }
}

/// Removes a file; the bytes that this frees.
pub(super) fn remove(path: &Path) -> u64 {
    let bytes = fs::symlink_metadata(path).map_or(0, |metadata| size(&metadata));
    match fs::remove_file(path) {
        Ok(()) => bytes,
        Err(_) => 0,
    }
}

/// Bytes that a file takes on disk.
pub(super) fn size(metadata: &Metadata) -> u64 {
    metadata.blocks() * 512
}

impl Candidate {
    fn remove(&self) -> u64 {
        if self.pages {
            return remove(&self.path.with_extension("pages"));
        }
        // The checksums first: without them the data is nothing.
        remove(&self.path.with_extension("sums")) + remove(&self.path.with_extension("data"))
    }
}

/// All bytes below `root`, and the oldest candidates, the oldest first.
fn scan(root: &Path) -> io::Result<(u64, Vec<Candidate>)> {
    let mut total = 0;
    let mut oldest = BinaryHeap::new();
    for folder in fs::read_dir(root)? {
        let folder = folder?;
        if !folder.file_type()?.is_dir() {
            continue;
        }
        for candidate in scan_folder(&folder.path())? {
            total += candidate.bytes;
            oldest.push(candidate);
            if oldest.len() > CANDIDATES_MAX {
                oldest.pop();
            }
        }
    }
    Ok((total, oldest.into_sorted_vec()))
}

fn scan_folder(folder: &Path) -> io::Result<Vec<Candidate>> {
    let mut found: HashMap<(PathBuf, bool), Candidate> = HashMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // Gone meanwhile: nothing to count.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if extension.starts_with("new-") {
            if used.elapsed().is_ok_and(|age| age > TEMPORARY_AGE) {
                remove(&path);
            }
            continue;
        }
        if !matches!(extension, "data" | "sums" | "pages") {
            continue;
        }
        let pages = extension == "pages";
        let path = path.with_extension("");
        let candidate =
            found.entry((path.clone(), pages)).or_insert(Candidate { used, path, bytes: 0, pages });
        candidate.bytes += size(&metadata);
        candidate.used = candidate.used.max(used);
    }
    Ok(found.into_values().collect())
}
