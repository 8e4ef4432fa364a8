//! The file system: inodes, handles and operations, without kernel types.
//!
//! Every operation is an async function that ends within the deadline, whatever the store does. A file
//! is numbered by path and generation (see [`inodes`]), so what is cached for a number is right for
//! ever, and the only thing that ages is which generation a path leads to: that is asked again when the
//! answer is older than the freshness.

use std::{
    pin::pin,
    sync::{Arc, atomic::AtomicBool},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use prometheus::Registry;
use serde::{Deserialize, Serialize};
use tokio::{runtime::Handle, time::Instant};
use xxhash_rust::xxh3::xxh3_64;

pub use self::{
    admin::{WarmFailure, WarmProgress},
    attr::Attr,
    attributes::{SetAttr, SetTime},
    callers::{Caller, UserStores},
    changes::RenameMode,
    inodes::{NodeKey, ROOT},
    listing::DirEntry,
    owners::NOBODY,
    recall::Recalled,
    recovery::Recovered,
    settings::{DiskSettings, FsSettings, Identity, Tuning, WriteMode, WriteSettings},
    timings::{FsOperation, Timings},
    usage::Space,
    writes::{Created, OpenFor, Opened},
};
use self::{
    callers::Callers,
    databases::Databases,
    dirs::Dirs,
    files::Files,
    inodes::InodeTable,
    live::{budget::Budget, staged::Staging},
    owners::Owners,
    speculation::Speculation,
    stats::{Stat, Stats},
    storms::Storms,
};
use crate::{
    cache::{BlockCache, CacheSettings, CacheSnapshot, Stream, Tiers},
    disk::DiskCache,
    error::{Error, ErrorKind, Result},
    memory::{self, Division, Wishes},
    store::{FileKind, Metadata, Store, StorePath},
};

mod admin;
mod attr;
mod attributes;
mod callers;
mod changes;
mod databases;
mod dirs;
mod files;
pub mod inodes;
mod listing;
mod live;
#[cfg(test)]
mod model_tests;
mod opening;
mod owners;
mod recall;
mod recovery;
#[cfg(test)]
mod same_look_tests;
mod settings;
mod speculation;
#[cfg(test)]
mod staged_model;
#[cfg(test)]
mod staged_tests;
mod stats;
mod storms;
#[cfg(test)]
mod tests;
mod timings;
mod usage;
#[cfg(test)]
mod write_tests;
mod writes;

/// Extended attribute of a file: the generation that this inode or descriptor reads, as 32 hexadecimal
/// digits. Of an open descriptor it never changes.
pub const XATTR_GENERATION: &str = "user.springhouse.generation";

/// Extended attribute: the path below the store's root.
pub const XATTR_PATH: &str = "user.springhouse.path";

/// Readahead that was not touched for this long is let go.
const STREAM_IDLE: Duration = Duration::from_secs(5);

/// A file that was asked for to be written, and was not opened then, is given up after this long.
const IDLE_LIVE: Duration = Duration::from_secs(10);

/// Most inodes that the kernel is asked to give up at once.
const VICTIMS_MAX: usize = 16_384;

/// Largest single read of readahead; raw HDFS reads flatten out there.
const EXTENT_BYTES: u64 = 4 << 20;

/// An answer about a name: attributes, or that there is nothing; and how long the kernel may keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// `None`: nothing has that name.
    pub attr: Option<Attr>,
    /// How long the name is good.
    pub ttl: Duration,
    /// How long the attributes are.
    pub attr_ttl: Duration,
}

/// Sizes of the tables and the cache at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsSnapshot {
    /// Inodes that the kernel holds.
    pub inodes: usize,
    /// Open file handles.
    pub open_files: usize,
    /// Readers kept after the last handle was closed.
    pub idle_readers: usize,
    /// Open directory handles.
    pub open_directories: usize,
    /// Files that are being written.
    pub files_written: usize,
    /// Bytes that were written and are on their way to the store.
    pub bytes_on_their_way: u64,
    /// Files of which a copy lies in the staging area.
    #[serde(default)]
    pub files_staged: u64,
    /// Room that they take there, in bytes.
    #[serde(default)]
    pub bytes_staged: u64,
    /// Those of them whose bytes the store has not.
    #[serde(default)]
    pub files_not_sent: u64,
    /// Operations that ended at the deadline.
    pub deadlines_passed: u64,
    /// The block cache.
    pub cache: CacheSnapshot,
}

/// See the module. Dropping any future of it is safe.
#[derive(Debug)]
pub struct FileSystem {
    store: StoreBox,
    settings: FsSettings,
    tuning: RwLock<Tuning>,
    /// Lifetimes became shorter than those that the kernel was told.
    recall: AtomicBool,
    callers: Callers,
    inodes: Mutex<InodeTable>,
    stats: Arc<Stats>,
    storms: Arc<Storms>,
    owners: Owners,
    files: Files,
    dirs: Dirs,
    cache: Arc<BlockCache>,
    databases: Databases,
    speculation: Speculation,
    division: Division,
    usage: usage::Known,
    write_budget: Budget,
    /// Where files are written that are not written in a stream.
    staging: Option<Staging>,
    timings: Timings,
    deadlines_passed: prometheus::IntCounter,
    runtime: Handle,
}

struct StoreBox(Arc<dyn Store>);

impl std::fmt::Debug for StoreBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.url())
    }
}

impl FileSystem {
    /// A file system over `store`. Reads of the store run on `runtime`, and every operation has to be
    /// polled inside of a Tokio runtime.
    pub fn new(store: Arc<dyn Store>, settings: FsSettings, runtime: Handle) -> Result<Self> {
        let division = memory::divide(
            settings.memory_bytes,
            &Wishes {
                cache_bytes: settings.cache_bytes,
                pinned_bytes: settings.pinned_bytes,
                readahead_bytes: settings.prefetch_bytes,
                inodes_max: settings.inodes_max,
            },
        )?;
        let disk = settings
            .disk
            .as_ref()
            .map(|disk| DiskCache::open(&disk.dir, disk.bytes_max, division.disk_queue_bytes).map(Arc::new));
        let cache = Arc::new(BlockCache::with_tiers(
            CacheSettings {
                cache_bytes: division.cache_bytes,
                block_bytes: settings.block_bytes.into(),
                pinned_bytes: division.pinned_bytes,
                readahead_bytes: division.readahead_bytes,
                extent_bytes: EXTENT_BYTES,
                deadline: settings.deadline,
            },
            Tiers {
                disk: disk.transpose()?,
                store: xxh3_64(store.url().to_string().as_bytes()),
                in_flight_bytes: division.in_flight_bytes,
            },
            runtime.clone(),
        )?);
        let databases_bytes = if settings.sqlite { division.pinned_bytes } else { 0 };
        let databases = Databases::new(cache.clone(), runtime.clone(), databases_bytes);
        let speculation = Speculation::new(databases.clone(), runtime.clone());
        let deadlines_passed = prometheus::IntCounter::new(
            "springhouse_mount_deadlines_total",
            "File system operations that ended at the deadline",
        )
        .map_err(|e| Error::new(ErrorKind::Other, format!("mount metrics: {e}")))?;
        let write_budget = Budget::new(division.dirty_bytes);
        let staging = settings.writes.staging()?.map(|area| Staging {
            area,
            budget: write_budget.clone(),
            step: settings.deadline,
        });
        Ok(Self {
            store: StoreBox(store),
            tuning: RwLock::new(Tuning::from(&settings)),
            recall: AtomicBool::new(false),
            callers: Callers::default(),
            inodes: Mutex::default(),
            stats: Arc::new(Stats::new(division.stats_max)),
            storms: Arc::default(),
            owners: Owners::default(),
            files: Files::default(),
            dirs: Dirs::default(),
            cache,
            databases,
            speculation,
            division,
            usage: usage::Known::default(),
            write_budget,
            staging,
            timings: Timings::new()?,
            deadlines_passed,
            settings,
            runtime,
        })
    }

    /// The same, and what the store has just said of its root, asked at `asked`: who opens a file by its
    /// path has the kernel ask for that first, and need not wait for it once more.
    #[must_use]
    pub fn with_root(self, root: Metadata, asked: Instant) -> Self {
        let (viewer, found) = (self.viewer(Caller::own()), Some(Arc::new(root)));
        self.stats.put(viewer, Arc::new(StorePath::root()), Stat { found, asked });
        self
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &FsSettings {
        &self.settings
    }

    /// How long operations take.
    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    /// The block cache, for those who tune it.
    pub fn cache(&self) -> &BlockCache {
        &self.cache
    }

    /// How the memory bound is divided.
    pub fn division(&self) -> &Division {
        &self.division
    }

    /// What `name` in the directory `parent` is. A found one is counted as told to the kernel once.
    pub async fn lookup(&self, caller: Caller, parent: u64, name: &str) -> Result<Looked> {
        let path = Arc::new(self.directory(parent)?.join(name)?);
        self.within(&path, async {
            if let Some(looked) = self.look_up_live(caller, &path).await? {
                return Ok(looked);
            }
            self.expect_next_journal(caller, &path).await;
            // Under way before the file is opened on suspicion: that needs the same answer.
            let mut asking = pin!(self.stat(caller, &path));
            let at_once = futures::poll!(asking.as_mut());
            let stat = match at_once {
                Poll::Ready(stat) => stat?,
                Poll::Pending => {
                    let asked = Instant::now();
                    if let Ok(store) = self.store_of(caller).await {
                        self.speculate(caller, &store, &path);
                        self.expect_neighbours(caller, store, &path);
                    }
                    let stat = asking.await?;
                    self.databases.answered(asked.elapsed());
                    stat
                }
            };
            let Some(metadata) = stat.found else {
                self.speculation.is_no_file(self.viewer(caller), &path);
                let ttl = self.lifetime(self.tuning().negative_lifetime, stat.asked);
                return Ok(Looked { attr: None, ttl, attr_ttl: ttl });
            };
            let ids = self.owners.ids(&metadata.owner, &metadata.group).await;
            // Nothing is awaited after this: a counted lookup is surely told.
            let ino = self.inodes.lock().look_up(key_of(path.clone(), &metadata));
            let attr = Attr::new(ino, &metadata, ids, self.settings.block_bytes);
            Ok(self.found(attr, stat.asked))
        })
        .await
    }

    /// Attributes of an inode and how long they are good.
    ///
    /// Of a file that was replaced or deleted: as it was and without a link while it is open, else
    /// `Stale`, upon which the kernel looks the path up again. While the store does not answer: as it was
    /// opened, if it is.
    pub async fn getattr(&self, caller: Caller, ino: u64) -> Result<(Attr, Duration)> {
        let key = self.key(ino)?;
        self.within(&key.path, async {
            if let Some(attr) = self.live_attr(ino).await {
                return Ok((attr, Duration::ZERO));
            }
            let asked = self.stat(caller, &key.path).await;
            let attached = self.inodes.lock().attached(ino);
            let (metadata, nlink, ttl) = match (asked, self.files.held(ino)) {
                (Ok(Stat { found: Some(found), asked }), _)
                    if attached && key_of(key.path.clone(), &found) == key =>
                {
                    (found, 1, self.lifetime(self.tuning().attribute_lifetime, asked))
                }
                (Ok(stat), Some(handle)) => {
                    (handle.metadata(), 0, self.lifetime(self.tuning().attribute_lifetime, stat.asked))
                }
                (Ok(_), None) => return Err(stale(&key.path)),
                // The kernel asks before each read that goes beyond the end: who has it open reads on.
                (Err(error), Some(handle))
                    if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Unavailable) =>
                {
                    (handle.metadata(), u32::from(attached), Duration::ZERO)
                }
                (Err(error), _) => return Err(error),
            };
            let ids = self.owners.ids(&metadata.owner, &metadata.group).await;
            let attr = Attr { nlink, ..Attr::new(ino, &metadata, ids, self.settings.block_bytes) };
            Ok((attr, ttl))
        })
        .await
    }

    /// The kernel takes back `count` lookups of `ino`.
    pub fn forget(&self, ino: u64, count: u64) {
        self.inodes.lock().forget(ino, count);
    }

    /// Opens a file for reading; gives the handle. `Stale` if the path leads to another generation now.
    pub async fn open(&self, caller: Caller, ino: u64) -> Result<Opened> {
        let key = self.key(ino)?;
        let Some(generation) = key.generation else {
            return Err(Error::new(ErrorKind::IsADirectory, format!("{} is a directory", key.path)));
        };
        self.within(&key.path, async {
            if let Some(opened) = self.open_live_for_reading(caller, ino).await? {
                return Ok(opened);
            }
            let store = self.store_of(caller).await?;
            let file = match self.files.find(ino) {
                // Opened by another user: the store has to say that this one may, too.
                Some(file) if !self.by_caller() => {
                    let stat = self.stat(caller, &key.path).await?;
                    if stat.found.is_none_or(|found| found.generation != generation) {
                        self.files.retire(ino);
                        return Err(stale(&key.path));
                    }
                    file
                }
                _ => self.open_settled(caller, &store, ino, &key.path, generation).await?,
            };
            let keep_pages = !self.inodes.lock().take_written(ino);
            let fh = self.files.open(file, Stream::new(self.tuning().readahead_bytes_max));
            Ok(Opened { fh, keep_pages, direct: false, writes: false })
        })
        .await
    }

    /// The bytes of `offset..offset + len` that the file has; of one generation, or an error.
    pub async fn read(&self, fh: u64, offset: u64, len: usize) -> Result<Bytes> {
        let handle = self.files.get(fh).ok_or_else(|| no_handle(fh))?;
        let read = async {
            if let Some(bytes) = handle.read_live(offset, len).await? {
                return Ok(bytes);
            }
            let file = handle.file(self).await?;
            self.databases.requested(&file.database, &file.source, offset, len);
            self.cache.observe(&file.source, &handle.stream, offset, len);
            let bytes = self.cache.read(&file.source, offset, len).await?;
            self.databases.arrived(&file.database, &file.source, offset, &bytes);
            Ok(bytes)
        };
        let outcome = self.within(&handle.path(), read).await;
        if outcome.as_ref().is_err_and(|e| e.kind() == ErrorKind::Stale) {
            self.files.retire(handle.ino());
            self.stats.forget(&handle.path());
        }
        outcome
    }

    /// The value of an extended attribute; `None` if there is no such attribute.
    pub fn xattr(&self, ino: u64, name: &str) -> Result<Option<Vec<u8>>> {
        let key = self.key(ino)?;
        Ok(match name {
            XATTR_PATH => Some(key.path.as_str().as_bytes().to_vec()),
            XATTR_GENERATION => key.generation.map(|generation| generation.to_string().into_bytes()),
            _ => None,
        })
    }

    /// The names of the extended attributes of `ino`.
    pub fn xattr_names(&self, ino: u64) -> Result<&'static [&'static str]> {
        Ok(match self.key(ino)?.generation {
            Some(_) => &[XATTR_GENERATION, XATTR_PATH],
            None => &[XATTR_PATH],
        })
    }

    /// Gives back what nobody used for a while. To be called every few seconds, inside of a runtime.
    pub fn maintain(&self) {
        self.files.maintain(STREAM_IDLE);
        self.maintain_live(IDLE_LIVE);
        self.databases.maintain();
        self.speculation.maintain();
    }

    /// Entries that the kernel should be asked to drop, as directory inode and name, because it holds
    /// more inodes than the settings allow.
    pub fn surplus(&self) -> Vec<(u64, Arc<StorePath>)> {
        let keep = self.files.inos();
        let mut inodes = self.inodes.lock();
        // Some below the bound, so that this does not run for every single one.
        let inodes_max = self.division.inodes_max;
        let target = inodes_max - inodes_max / 8;
        if inodes.count() <= inodes_max {
            return Vec::new();
        }
        let count = (inodes.count() - target).min(VICTIMS_MAX);
        inodes.victims(count, &keep)
    }

    /// The figures now.
    pub fn snapshot(&self) -> FsSnapshot {
        let (open_files, idle_readers) = self.files.counts();
        let (inodes, live) = {
            let inodes = self.inodes.lock();
            (inodes.count(), inodes.all_live())
        };
        let not_sent = live.iter().filter(|(_, live)| live.sink.keeps() && !live.shared.is_gone()).count();
        let area = self.staging.as_ref().map(|staging| &staging.area);
        FsSnapshot {
            inodes,
            open_files,
            idle_readers,
            open_directories: self.dirs.count(),
            files_written: live.len(),
            files_staged: area.map_or(0, |area| area.pieces()),
            bytes_staged: area.map_or(0, |area| area.room().bytes()),
            files_not_sent: not_sent as u64,
            bytes_on_their_way: self.write_budget.figures().1,
            deadlines_passed: self.deadlines_passed.get(),
            cache: self.cache.snapshot(),
        }
    }

    /// Shows the counters in `registry`.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.deadlines_passed.clone()))?;
        self.timings.register(registry)?;
        self.cache.register(registry)
    }

    fn key(&self, ino: u64) -> Result<NodeKey> {
        let unknown = || Error::new(ErrorKind::Stale, format!("inode {ino} is not known"));
        self.inodes.lock().get(ino).cloned().ok_or_else(unknown)
    }

    fn directory(&self, ino: u64) -> Result<Arc<StorePath>> {
        match self.key(ino)? {
            NodeKey { path, generation: None } => Ok(path),
            NodeKey { path, .. } => {
                Err(Error::new(ErrorKind::NotADirectory, format!("{path} is not a directory")))
            }
        }
    }

    /// What is at `path` as `caller` sees it, no older than the freshness.
    async fn stat(&self, caller: Caller, path: &Arc<StorePath>) -> Result<Stat> {
        let store = self.store_of(caller).await?;
        self.stats.get(&*store, self.viewer(caller), path, self.tuning().freshness).await
    }

    /// How long the kernel may keep an answer to a question put at `asked`. Nothing where each caller
    /// has his own view: the kernel would show one what another was told.
    fn lifetime(&self, setting: Option<Duration>, asked: Instant) -> Duration {
        if self.by_caller() && !self.kernel_decides() {
            return Duration::ZERO;
        }
        setting.unwrap_or(self.tuning().freshness).saturating_sub(asked.elapsed())
    }

    fn found(&self, attr: Attr, asked: Instant) -> Looked {
        let tuning = self.tuning();
        Looked {
            attr: Some(attr),
            ttl: self.lifetime(tuning.entry_lifetime, asked),
            attr_ttl: self.lifetime(tuning.attribute_lifetime, asked),
        }
    }

    /// Ends `operation` in `TimedOut` at the deadline. The store has deadlines of its own; this is the
    /// promise that no process hangs even if one of them is wrong.
    async fn within<T>(
        &self,
        path: &StorePath,
        operation: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let deadline = self.settings.deadline;
        tokio::time::timeout(deadline, operation).await.unwrap_or_else(|_| {
            self.deadlines_passed.inc();
            Err(Error::new(ErrorKind::TimedOut, format!("{path}: no answer within {deadline:?}")))
        })
    }
}

fn key_of(path: Arc<StorePath>, metadata: &Metadata) -> NodeKey {
    let generation = (metadata.kind == FileKind::File).then_some(metadata.generation);
    NodeKey { path, generation }
}

fn stale(path: &StorePath) -> Error {
    Error::new(ErrorKind::Stale, format!("{path} was replaced or deleted: open it again"))
}

fn no_handle(fh: u64) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("handle {fh} is not open"))
}
