//! The directory of a disk cache: everything that is done on the cache's own threads.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    counters::{DiskCounters, DiskSnapshot},
    evict::{self, Freed},
    key::{Completeness, DiskKey, Run},
    ledger::{Ledger, Locked},
    pages,
    segment::Segment,
    unusable,
};
use crate::error::{Error, ErrorKind, Result};

/// Changes with the format: another format's blocks are left alone.
const FORMAT: &str = "springhouse-1";

/// Segments kept open, two descriptors each.
const OPEN_MAX: usize = 96;

/// After an error of the disk nothing is written for this long.
const PAUSE: Duration = Duration::from_secs(30);

/// Largest allowance taken at once.
const CHUNK_BYTES_MAX: u64 = 8 << 20;

/// Disks give room in units of this many bytes.
const DISK_UNIT: u64 = 4096;

/// Digest of the generation, number of the segment.
type SegmentName = (u128, u64);

#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    bytes_max: AtomicU64,
    ledger: Ledger,
    evict_lock: File,
    open: Mutex<HashMap<SegmentName, (Arc<Segment>, Instant)>>,
    paused_until: Mutex<Option<Instant>>,
    counted: AtomicBool,
    pub(super) counters: DiskCounters,
}

impl Directory {
    pub(super) fn open(dir: &Path, bytes_max: u64) -> Result<Self> {
        let root = dir.join(FORMAT);
        let failed = |error: io::Error| Error::from_io(&error, format!("cache directory {}", dir.display()));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&root).map_err(failed)?;
        // What lies there is answered to readers: nobody else may put anything there.
        let metadata = fs::symlink_metadata(&root).map_err(failed)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(unusable(dir, "belongs to another user"));
        }
        if metadata.permissions().mode() & 0o022 != 0 {
            return Err(unusable(dir, "others may write there: chmod go-w"));
        }
        let ledger = Ledger::open(&root.join("ledger")).map_err(failed)?;
        let counted = ledger.used().map_err(failed)?.is_some();
        let counters = DiskCounters::new()
            .map_err(|error| Error::new(ErrorKind::Other, format!("disk cache metrics: {error}")))?;
        Ok(Self {
            evict_lock: create(&root.join("evict.lock"), true).map_err(failed)?,
            root,
            bytes_max: AtomicU64::new(bytes_max),
            ledger,
            open: Mutex::default(),
            paused_until: Mutex::default(),
            counted: AtomicBool::new(counted),
            counters,
        })
    }

    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max.load(Relaxed)
    }

    pub(super) fn set_bytes_max(&self, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Relaxed);
    }

    /// Whether writes are stopped after an error.
    pub(super) fn is_paused(&self) -> bool {
        self.paused_until.lock().is_some_and(|until| Instant::now() < until)
    }

    pub(super) fn read(&self, key: &DiskKey, blocks: Range<u64>) -> Vec<Run> {
        let wanted = blocks.end - blocks.start;
        let mut runs = Vec::new();
        for (number, part) in segments(key, blocks) {
            match self.read_part(key, number, &part) {
                Ok(found) => runs.extend(found),
                Err(error) => self.failed("read", &error),
            }
        }
        let hits: u64 = runs.iter().map(|run| run.blocks.end - run.blocks.start).sum();
        self.counters.hits.inc_by(hits);
        self.counters.misses.inc_by(wanted.saturating_sub(hits));
        self.counters.bytes_read.inc_by(runs.iter().map(|run| run.bytes.len() as u64).sum());
        runs
    }

    fn read_part(&self, key: &DiskKey, number: u64, blocks: &Range<u64>) -> io::Result<Vec<Run>> {
        let Some(segment) = self.segment(key, number, false)? else { return Ok(Vec::new()) };
        let found = segment.read(blocks)?;
        if found.corrupt > 0 {
            self.counters.corrupt.inc_by(found.corrupt);
            tracing::warn!(blocks = found.corrupt, "dropped damaged blocks of the disk cache");
        }
        if !found.runs.is_empty() {
            segment.touch()?;
        }
        Ok(found.runs)
    }

    pub(super) fn write(&self, key: &DiskKey, first_block: u64, bytes: &Bytes) {
        if self.is_paused() {
            return self.counters.writes_dropped.inc();
        }
        let count = (bytes.len() as u64).div_ceil(key.block_bytes);
        for (number, part) in segments(key, first_block..first_block + count) {
            let start = ((part.start - first_block) * key.block_bytes) as usize;
            let end = start + key.bytes(&part);
            if end > bytes.len() {
                // Not whole blocks: nothing that could be read back.
                return self.counters.writes_dropped.inc();
            }
            match self.write_part(key, number, &part, &bytes.slice(start..end)) {
                Ok(true) => {}
                Ok(false) => self.counters.writes_dropped.inc(),
                Err(error) => return self.failed("write", &error),
            }
        }
    }

    /// `false`: there is no room.
    fn write_part(&self, key: &DiskKey, number: u64, blocks: &Range<u64>, bytes: &Bytes) -> io::Result<bool> {
        let mut segment = self.segment(key, number, true)?;
        if segment.as_ref().is_some_and(|segment| segment.is_gone()) {
            self.open.lock().remove(&(key.digest(), number));
            segment = self.segment(key, number, true)?;
        }
        let Some(segment) = segment else { return Ok(false) };
        // Another process, or this one for another reader, may have been first.
        let present = segment.sums(blocks)?;
        if present.iter().all(|&sum| sum != 0) {
            return Ok(true);
        }
        let absent: u64 = blocks
            .clone()
            .zip(&present)
            .filter(|&(_, &sum)| sum == 0)
            .map(|(block, _)| on_disk(key.bytes(&(block..block + 1)) as u64))
            .sum();
        if !self.has_room(absent)? {
            return Ok(false);
        }
        segment.write(blocks.start, bytes)?;
        self.counters.bytes_written.inc_by(bytes.len() as u64);
        Ok(true)
    }

    /// Takes `bytes` from the bound, after making room if there is none.
    fn has_room(&self, bytes: u64) -> io::Result<bool> {
        if !self.counted.swap(true, Relaxed) {
            self.make_room();
        }
        for last in [false, true] {
            let bytes_max = self.bytes_max();
            let chunk = (bytes_max / 256).min(CHUNK_BYTES_MAX);
            if self.ledger.charge(bytes, chunk, bytes_max)? {
                return Ok(true);
            }
            if last || bytes > bytes_max {
                break;
            }
            self.make_room();
        }
        Ok(false)
    }

    /// Counts what lies here and gives up what was not used for longest, until a tenth is free. Does
    /// nothing while another process does it.
    pub(super) fn make_room(&self) {
        let bytes_max = self.bytes_max();
        let freed = self.remove(bytes_max - bytes_max / 10);
        self.counters.evictions.inc_by(freed.segments);
        self.counters.bytes_evicted.inc_by(freed.bytes);
    }

    pub(super) fn drop_all(&self) -> u64 {
        self.remove(0).bytes
    }

    fn remove(&self, target: u64) -> Freed {
        let freed = Locked::now(&self.evict_lock).and_then(|locked| {
            let Some(_locked) = locked else { return Ok(Freed::default()) };
            let before = self.ledger.used()?.unwrap_or(0);
            let freed = evict::shrink(&self.root, target)?;
            self.ledger.put_right(before, freed.left)?;
            self.open.lock().retain(|_, (segment, _)| !segment.is_gone());
            Ok(freed)
        });
        freed.unwrap_or_else(|error| {
            self.failed("making room", &error);
            Freed::default()
        })
    }

    pub(super) fn drop_file(&self, key: &DiskKey) -> u64 {
        let mut freed = 0;
        for number in 0..key.segments() {
            self.open.lock().remove(&(key.digest(), number));
            let path = key.segment(&self.root, number);
            freed +=
                evict::remove(&path.with_extension("sums")) + evict::remove(&path.with_extension("data"));
        }
        freed += evict::remove(&key.pages(&self.root));
        if let Err(error) = self.ledger.give_back(freed) {
            self.failed("counting", &error);
        }
        freed
    }

    pub(super) fn completeness(&self, key: &DiskKey) -> Completeness {
        let mut present = 0;
        for (number, part) in segments(key, 0..key.blocks()) {
            let sums = self.segment(key, number, false).and_then(|segment| match segment {
                Some(segment) => segment.sums(&part),
                None => Ok(Vec::new()),
            });
            match sums {
                Ok(sums) => present += sums.iter().filter(|&&sum| sum != 0).count() as u64,
                Err(error) => self.failed("read", &error),
            }
        }
        Completeness { blocks: key.blocks(), present }
    }

    pub(super) fn load_pages(&self, key: &DiskKey) -> Option<Vec<(u64, Bytes)>> {
        let path = key.pages(&self.root);
        let load = || -> io::Result<Option<Vec<(u64, Bytes)>>> {
            let file = create(&path, false)?;
            if file.metadata()?.len() > pages::FILE_BYTES_MAX {
                return Ok(None);
            }
            file.set_modified(SystemTime::now())?;
            Ok(pages::decode(key, &fs::read(&path)?.into()))
        };
        match load() {
            Ok(Some(pages)) => Some(pages),
            Ok(None) => {
                self.counters.corrupt.inc();
                tracing::warn!("dropped a damaged file of learnt pages");
                evict::remove(&path);
                None
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.failed("read", &error);
                None
            }
        }
    }

    pub(super) fn save_pages(&self, key: &DiskKey, pages: &[(u64, Bytes)]) {
        let file = pages::encode(key, pages);
        let len = file.len() as u64;
        let path = key.pages(&self.root);
        let save = || -> io::Result<bool> {
            if self.is_paused() || len > pages::FILE_BYTES_MAX || !self.has_room(on_disk(len))? {
                return Ok(false);
            }
            fs::DirBuilder::new().recursive(true).mode(0o700).create(key.folder(&self.root))?;
            // Of this process and thread alone: only one thread writes.
            let temporary = path.with_extension(format!("new-{}", std::process::id()));
            fs::write(&temporary, &file)?;
            let old = fs::metadata(&path).map_or(0, |old| evict::size(&old));
            fs::rename(&temporary, &path)?;
            self.ledger.give_back(old)?;
            Ok(true)
        };
        match save() {
            Ok(true) => self.counters.bytes_written.inc_by(len),
            Ok(false) => self.counters.writes_dropped.inc(),
            Err(error) => self.failed("write", &error),
        }
    }

    pub(super) fn snapshot(&self, queued_bytes: u64) -> DiskSnapshot {
        let counters = &self.counters;
        // One read of a few bytes that the kernel has in memory.
        let used_bytes = self.ledger.used().ok().flatten().unwrap_or_else(|| self.ledger.seen());
        DiskSnapshot {
            hits: counters.hits.get(),
            misses: counters.misses.get(),
            bytes_read: counters.bytes_read.get(),
            bytes_written: counters.bytes_written.get(),
            writes_dropped: counters.writes_dropped.get(),
            evictions: counters.evictions.get(),
            bytes_evicted: counters.bytes_evicted.get(),
            corrupt: counters.corrupt.get(),
            errors: counters.errors.get(),
            used_bytes,
            bytes_max: self.bytes_max(),
            queued_bytes,
            paused: self.is_paused(),
        }
    }

    fn segment(&self, key: &DiskKey, number: u64, make: bool) -> io::Result<Option<Arc<Segment>>> {
        let name = (key.digest(), number);
        if let Some((segment, used)) = self.open.lock().get_mut(&name) {
            *used = Instant::now();
            return Ok(Some(segment.clone()));
        }
        if make {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(key.folder(&self.root))?;
        }
        let Some(segment) = Segment::open(key, &self.root, number, make)?.map(Arc::new) else {
            return Ok(None);
        };
        let mut open = self.open.lock();
        while open.len() >= OPEN_MAX {
            let oldest = open.iter().min_by_key(|(_, (_, used))| *used).map(|(name, _)| *name);
            let Some(oldest) = oldest else { break };
            open.remove(&oldest);
        }
        open.insert(name, (segment.clone(), Instant::now()));
        Ok(Some(segment))
    }

    /// Counts an error of the disk and stops writing for a while; said once for each pause.
    fn failed(&self, what: &str, error: &io::Error) {
        self.counters.errors.inc();
        let mut paused = self.paused_until.lock();
        let now = Instant::now();
        if paused.is_none_or(|until| until <= now) {
            tracing::warn!(dir = %self.root.display(), %error, "disk cache: {what} failed; no writes for {PAUSE:?}");
            *paused = Some(now + PAUSE);
        }
    }

    #[cfg(test)]
    pub(super) fn resume(&self) {
        *self.paused_until.lock() = None;
    }
}

/// `blocks` by segment.
fn segments(key: &DiskKey, blocks: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> {
    let (per, end) = (key.blocks_per_segment(), blocks.end);
    let mut start = blocks.start;
    std::iter::from_fn(move || {
        (start < end).then(|| {
            let number = start / per;
            let part = start..end.min((number + 1) * per);
            start = part.end;
            (number, part)
        })
    })
}

/// What `bytes` take on disk.
fn on_disk(bytes: u64) -> u64 {
    bytes.next_multiple_of(DISK_UNIT)
}

/// Opens a file of the cache for reading and writing.
pub(super) fn create(path: &Path, make: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(make).truncate(false).mode(0o600).open(path)
}
