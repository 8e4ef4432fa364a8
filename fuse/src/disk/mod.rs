//! Blocks on a local disk, for this process, the ones after it, and the others on this host.
//!
//! A generation of a file never changes, so neither does a block of it: whoever writes one writes the
//! same bytes. That makes the rest simple. There is no journal and no sync: a block counts only if its
//! checksum is right when it is read, so a torn write, a lost one and a rotten one are all just absent.
//! There is no index to load and none to lose: where a block is follows from its key, and whether it is
//! there is asked of the file. Opening takes the same time whatever the directory holds, and several
//! processes need to agree about one number only: how much lies there ([`ledger`]).
//!
//! ```text
//! DIR/springhouse-1/ledger              bytes that lie here or are promised to a process
//!                   evict.lock          held by the one process that makes room
//!                   ab/KEY-SSSSSSSS.data   one segment (1 GiB at most) of a generation, sparse
//!                   ab/KEY-SSSSSSSS.sums   its checksums, 0 for what is absent; its mtime: last use
//!                   ab/KEY.pages           pages that were learnt of it, whole or not at all
//! ```
//!
//! Never wiped: what another format wrote is in a directory of another name. Segments are given up, the
//! least recently used first, when the bound is reached. A disk that is full or fails stops writes for a
//! while and nothing else.
//!
//! Reads and writes are made by threads of this module: no runtime waits for a disk. What is written
//! waits in bounded memory, and is dropped (and counted) when the disk does not keep up.

use std::{
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use self::directory::Directory;
pub use self::{
    counters::DiskSnapshot,
    key::{Completeness, DiskKey, Run},
};
use crate::error::{Error, ErrorKind, Result};

mod counters;
mod directory;
mod evict;
mod key;
mod ledger;
mod pages;
mod segment;
#[cfg(test)]
mod tests;

/// Threads that read: a disk answers several at once, and one slow read must not hold up the others.
const READERS: usize = 4;

type Job = Box<dyn FnOnce(&Directory) + Send>;

/// See the module. Cheap to share; its threads end when it is dropped.
#[derive(Debug)]
pub struct DiskCache {
    directory: Arc<Directory>,
    reads: mpsc::Sender<Job>,
    writes: mpsc::Sender<Job>,
    queued: Arc<AtomicU64>,
    queue_bytes: u64,
}

impl DiskCache {
    /// Uses `dir`, which is made if it is missing and must belong to this user alone, for at most
    /// `bytes_max` bytes, together with whoever else uses it. Up to `queue_bytes` wait to be written.
    pub fn open(dir: &Path, bytes_max: u64, queue_bytes: u64) -> Result<Self> {
        let directory = Arc::new(Directory::open(dir, bytes_max)?);
        let (reads, to_read) = mpsc::channel();
        let (writes, to_write) = mpsc::channel();
        let to_read = Arc::new(Mutex::new(to_read));
        for _ in 0..READERS {
            let (directory, jobs) = (directory.clone(), to_read.clone());
            spawn("disk-cache-read", move || {
                loop {
                    // The lock is given back before the job is done.
                    let job: std::result::Result<Job, _> = jobs.lock().recv();
                    let Ok(job) = job else { return };
                    job(&directory);
                }
            })?;
        }
        let writer = directory.clone();
        spawn("disk-cache-write", move || to_write.iter().for_each(|job: Job| job(&writer)))?;
        Ok(Self { directory, reads, writes, queued: Arc::default(), queue_bytes })
    }

    /// Those of `blocks` that are here and whole, as runs in their order.
    pub async fn read(&self, key: DiskKey, blocks: Range<u64>) -> Vec<Run> {
        self.ask(move |directory| directory.read(&key, blocks)).await.unwrap_or_default()
    }

    /// Writes whole blocks (the file's last may be shorter) from `first_block` on, some time later.
    /// `bytes` is kept until then; if too much waits already, it is dropped instead.
    pub fn write(&self, key: DiskKey, first_block: u64, bytes: Bytes) {
        if self.directory.is_paused() || !self.queue(bytes.len() as u64) {
            self.directory.counters.writes_dropped.inc();
            return;
        }
        self.write_queued(key, first_block, bytes);
    }

    /// [`Self::write`] of what somebody wants to be there: waits for room instead of dropping.
    pub async fn write_surely(&self, key: DiskKey, first_block: u64, bytes: Bytes) {
        // The queue may be smaller than what is read at once.
        let step = (self.queue_bytes / 4 / key.block_bytes).max(1) * key.block_bytes;
        let len = bytes.len() as u64;
        for start in (0..len).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
            let part = bytes.slice(start as usize..len.min(start + step) as usize);
            let first_block = first_block + start / key.block_bytes;
            let part_len = part.len() as u64;
            while !self.queue(part_len) {
                if self.directory.is_paused() || part_len > self.queue_bytes {
                    self.directory.counters.writes_dropped.inc();
                    return;
                }
                self.flushed().await;
            }
            self.write_queued(key, first_block, part);
        }
    }

    /// `bytes` are counted as queued.
    fn write_queued(&self, key: DiskKey, first_block: u64, bytes: Bytes) {
        let queued = self.queued.clone();
        self.later(Box::new(move |directory| {
            directory.write(&key, first_block, &bytes);
            let len = bytes.len() as u64;
            drop(bytes);
            queued.fetch_sub(len, Relaxed);
        }));
    }

    /// The pages that [`Self::save_pages`] kept of this generation.
    pub async fn pages(&self, key: DiskKey) -> Option<Vec<(u64, Bytes)>> {
        self.ask(move |directory| directory.load_pages(&key)).await.flatten()
    }

    /// Keeps `pages` (offset and bytes) of a generation, in place of those kept before, some time later.
    pub fn save_pages(&self, key: DiskKey, pages: Vec<(u64, Bytes)>) {
        // Not counted as queued: the pages are pinned, so they are held anyway.
        self.later(Box::new(move |directory| directory.save_pages(&key, &pages)));
    }

    /// How much of a generation is here, by its checksums' presence; the blocks are not read.
    pub async fn completeness(&self, key: DiskKey) -> Completeness {
        let none = Completeness { blocks: key.blocks(), present: 0 };
        self.ask(move |directory| directory.completeness(&key)).await.unwrap_or(none)
    }

    /// Gives up all of a generation; the bytes that this frees.
    pub async fn drop_file(&self, key: DiskKey) -> u64 {
        self.write_through(move |directory| directory.drop_file(&key)).await
    }

    /// Gives up everything in the directory, of all its users; the bytes that this frees.
    pub async fn drop_all(&self) -> u64 {
        self.write_through(Directory::drop_all).await
    }

    /// Another bound; what is beyond it goes soon.
    pub fn set_bytes_max(&self, bytes_max: u64) {
        self.directory.set_bytes_max(bytes_max);
        self.later(Box::new(Directory::make_room));
    }

    /// Bound of what lies in the directory.
    pub fn bytes_max(&self) -> u64 {
        self.directory.bytes_max()
    }

    /// Waits until everything given to [`Self::write`] before is written or dropped.
    pub async fn flushed(&self) {
        self.write_through(|_| 0).await;
    }

    /// The figures now.
    pub fn snapshot(&self) -> DiskSnapshot {
        self.directory.snapshot(self.queued.load(Relaxed))
    }

    /// Shows the counters in `registry`.
    pub fn register(&self, registry: &prometheus::Registry) -> prometheus::Result<()> {
        self.directory.counters.register(registry)
    }

    fn queue(&self, bytes: u64) -> bool {
        let fits = |queued: u64| queued.checked_add(bytes).filter(|&sum| sum <= self.queue_bytes);
        self.queued.fetch_update(Relaxed, Relaxed, fits).is_ok()
    }

    /// The threads live as long as `self`, so nothing sent is lost; were they gone, nothing is cached.
    fn later(&self, job: Job) {
        let _ = self.writes.send(job);
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Directory) -> T + Send + 'static,
    ) -> Option<T> {
        let (tell, told) = oneshot::channel();
        let job: Job = Box::new(move |directory| {
            let _ = tell.send(question(directory));
        });
        self.reads.send(job).ok()?;
        told.await.ok()
    }

    async fn write_through(&self, work: impl FnOnce(&Directory) -> u64 + Send + 'static) -> u64 {
        let (tell, told) = oneshot::channel();
        self.later(Box::new(move |directory| {
            let _ = tell.send(work(directory));
        }));
        told.await.unwrap_or(0)
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let started = std::thread::Builder::new().name(name.into()).spawn(work);
    started.map(drop).map_err(|error| Error::from_io(&error, "cannot start a thread of the disk cache"))
}

fn unusable(dir: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("cache directory {}: {why}", dir.display()))
}
