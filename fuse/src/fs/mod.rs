//! The file system: inodes, handles and operations, without kernel types.
//!
//! Every operation is an async function that ends within the deadline, whatever the store does. A file
//! is numbered by path and generation (see [`inodes`]), so what is cached for a number is right for
//! ever, and the only thing that ages is which generation a path leads to: that is asked again when the
//! answer is older than the freshness.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use prometheus::Registry;
use serde::{Deserialize, Serialize};
use tokio::{runtime::Handle, time::Instant};
use xxhash_rust::xxh3::xxh3_64;

pub use self::{
    attr::Attr,
    inodes::{NodeKey, ROOT},
    owners::NOBODY,
};
use self::{
    databases::Databases,
    dirs::Dirs,
    files::{Files, OpenFile},
    inodes::InodeTable,
    owners::Owners,
    speculation::Speculation,
    stats::{Stat, Stats},
};
use crate::{
    cache::{BlockCache, CacheSettings, CacheSnapshot, Source, Stream, Tiers},
    disk::DiskCache,
    error::{Error, ErrorKind, Result},
    memory::{self, Division, Wishes},
    store::{FileKind, Metadata, Store, StorePath},
};

mod admin;
mod attr;
mod databases;
mod dirs;
mod files;
pub mod inodes;
mod listing;
mod owners;
mod speculation;
mod stats;
#[cfg(test)]
mod tests;
mod usage;

pub use self::{
    admin::{WarmFailure, WarmProgress},
    listing::DirEntry,
    usage::Space,
};

/// Extended attribute of a file: the generation that this inode or descriptor reads, as 32 hexadecimal
/// digits. Of an open descriptor it never changes.
pub const XATTR_GENERATION: &str = "user.springhouse.generation";

/// Extended attribute: the path below the store's root.
pub const XATTR_PATH: &str = "user.springhouse.path";

/// Readahead that was not touched for this long is let go.
const STREAM_IDLE: Duration = Duration::from_secs(5);

/// Largest single read of readahead; raw HDFS reads flatten out there.
const EXTENT_BYTES: u64 = 4 << 20;

/// How a [`FileSystem`] behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsSettings {
    /// How old an answer about names and attributes may be; 0 asks the store each time.
    pub freshness: Duration,
    /// Longest time an operation may take before it ends in `TimedOut`.
    pub deadline: Duration,
    /// Bound of everything the file system holds in memory, in bytes; `crate::memory` divides it.
    pub memory_bytes: u64,
    /// Bound of the block cache in bytes; 0 caches nothing.
    pub cache_bytes: u64,
    /// Where blocks are kept across restarts; `None`: nowhere.
    pub disk: Option<DiskSettings>,
    /// Whether SQLite databases are recognised and their pages fetched before they are asked for.
    pub sqlite: bool,
    /// Bound of the pinned interior pages of databases, in bytes.
    pub pinned_bytes: u64,
    /// How changes are made.
    pub writes: WriteSettings,
    /// As whom the store is asked.
    pub identity: Identity,
    /// How long the kernel may keep a name, and attributes; `None`: as long as `freshness`. Longer is
    /// cheaper and tells of foreign changes later.
    pub entry_lifetime: Option<Duration>,
    /// See `entry_lifetime`.
    pub attribute_lifetime: Option<Duration>,
    /// How long the kernel may keep that a name does not exist; `None`: as long as `freshness`.
    pub negative_lifetime: Option<Duration>,
    /// Unit of the block cache: a power of two from 4 KiB to 4 MiB.
    pub block_bytes: u32,
    /// Largest readahead window of one handle in bytes; 0 switches readahead off.
    pub readahead_bytes_max: u64,
    /// Bound of all readahead buffers together, in bytes.
    pub prefetch_bytes: u64,
    /// Inodes above which the kernel is asked to give some up; about 300 bytes each here.
    pub inodes_max: usize,
}

/// A directory on a local disk for blocks that outlive the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSettings {
    /// Where; several mounts and workers may name the same.
    pub dir: PathBuf,
    /// Bound of what lies there, in bytes, all users of the directory together.
    pub bytes_max: u64,
}

/// How changes reach the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WriteMode {
    /// Sequential writes go straight to the store, in bounded memory.
    #[default]
    Stream,
    /// Any pattern, on local disk; sent to the store at close or fsync.
    Staged,
}

/// What may be changed, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteSettings {
    /// Refuse every change with `EROFS`.
    pub read_only: bool,
    /// See [`WriteMode`].
    pub mode: WriteMode,
    /// Local directory of [`WriteMode::Staged`]; what a crash leaves in it is taken up at the next start.
    pub staging_dir: Option<PathBuf>,
    /// Bound of what lies staged, in bytes; beyond it writes end in `ENOSPC`.
    pub staging_bytes_max: u64,
    /// Taken from the mode of everything created, on top of the caller's own umask.
    pub umask: u32,
    /// Copies of a new file; `None`: the store's default.
    pub replication: Option<u32>,
    /// HDFS block size of a new file in bytes; `None`: the store's default.
    pub block_size: Option<u64>,
}

impl Default for WriteSettings {
    fn default() -> Self {
        Self {
            read_only: false,
            mode: WriteMode::Stream,
            staging_dir: None,
            staging_bytes_max: 10 << 30,
            umask: 0,
            replication: None,
            block_size: None,
        }
    }
}

/// As whom the store is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Identity {
    /// Always as the user of the daemon: who may use the mount may do what that user may.
    #[default]
    Fixed,
    /// As the user whose process asks: HDFS decides by that user's name and groups.
    Caller,
}

impl Default for FsSettings {
    fn default() -> Self {
        Self {
            freshness: Duration::from_secs(1),
            deadline: Duration::from_secs(10),
            memory_bytes: 512 << 20,
            cache_bytes: 256 << 20,
            disk: None,
            sqlite: true,
            pinned_bytes: 64 << 20,
            writes: WriteSettings::default(),
            identity: Identity::Fixed,
            entry_lifetime: None,
            attribute_lifetime: None,
            negative_lifetime: None,
            block_bytes: 64 << 10,
            readahead_bytes_max: 8 << 20,
            prefetch_bytes: 128 << 20,
            inodes_max: 1_000_000,
        }
    }
}

/// An answer about a name: attributes, or that there is nothing; and how long the kernel may keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// `None`: nothing has that name.
    pub attr: Option<Attr>,
    /// How long it is good.
    pub ttl: Duration,
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
    inodes: Mutex<InodeTable>,
    stats: Stats,
    owners: Owners,
    files: Files,
    dirs: Dirs,
    cache: Arc<BlockCache>,
    databases: Databases,
    speculation: Speculation,
    division: Division,
    usage: usage::Known,
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
        let deadlines_passed = prometheus::IntCounter::new(
            "springhouse_mount_deadlines_total",
            "File system operations that ended at the deadline",
        )
        .map_err(|e| Error::new(ErrorKind::Other, format!("mount metrics: {e}")))?;
        Ok(Self {
            store: StoreBox(store),
            inodes: Mutex::default(),
            stats: Stats::new(settings.freshness, division.stats_max),
            owners: Owners::default(),
            files: Files::default(),
            dirs: Dirs::default(),
            cache,
            databases,
            speculation: Speculation::new(runtime.clone()),
            division,
            usage: usage::Known::default(),
            deadlines_passed,
            settings,
            runtime,
        })
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &FsSettings {
        &self.settings
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
    pub async fn lookup(&self, parent: u64, name: &str) -> Result<Looked> {
        let path = Arc::new(self.directory(parent)?.join(name)?);
        self.within(&path, async {
            if self.settings.sqlite && !self.settings.freshness.is_zero() && !self.stats.is_fresh(&path) {
                self.speculation.looked_up(&self.store.0, &path);
            }
            let stat = self.stats.get(&*self.store.0, &path).await?;
            let Some(metadata) = stat.found else {
                self.speculation.is_no_file(&path);
                return Ok(Looked { attr: None, ttl: self.stats.ttl(stat.asked) });
            };
            let ids = self.owners.ids(&metadata.owner, &metadata.group).await;
            // Nothing is awaited after this: a counted lookup is surely told.
            let ino = self.inodes.lock().look_up(key_of(path.clone(), &metadata));
            let attr = Attr::new(ino, &metadata, ids, self.settings.block_bytes);
            Ok(Looked { attr: Some(attr), ttl: self.stats.ttl(stat.asked) })
        })
        .await
    }

    /// Attributes of an inode and how long they are good.
    ///
    /// Of a file that was replaced or deleted: as it was and without a link while it is open, else
    /// `Stale`, upon which the kernel looks the path up again.
    pub async fn getattr(&self, ino: u64) -> Result<(Attr, Duration)> {
        let key = self.key(ino)?;
        self.within(&key.path, async {
            let stat = self.stats.get(&*self.store.0, &key.path).await?;
            let (metadata, nlink) = match stat.found {
                Some(found) if key_of(key.path.clone(), &found) == key => (found, 1),
                _ => match self.files.held(ino) {
                    Some(open) => (Arc::new(open.source.reader.metadata().clone()), 0),
                    None => return Err(stale(&key.path)),
                },
            };
            let ids = self.owners.ids(&metadata.owner, &metadata.group).await;
            let attr = Attr { nlink, ..Attr::new(ino, &metadata, ids, self.settings.block_bytes) };
            Ok((attr, self.stats.ttl(stat.asked)))
        })
        .await
    }

    /// The kernel takes back `count` lookups of `ino`.
    pub fn forget(&self, ino: u64, count: u64) {
        self.inodes.lock().forget(ino, count);
    }

    /// Opens a file for reading; gives the handle. `Stale` if the path leads to another generation now.
    pub async fn open(&self, ino: u64) -> Result<u64> {
        let key = self.key(ino)?;
        let Some(generation) = key.generation else {
            return Err(Error::new(ErrorKind::IsADirectory, format!("{} is a directory", key.path)));
        };
        self.within(&key.path, async {
            let file = match self.files.find(ino) {
                Some(file) => {
                    let stat = self.stats.get(&*self.store.0, &key.path).await?;
                    if stat.found.is_none_or(|found| found.generation != generation) {
                        self.files.retire(ino);
                        return Err(stale(&key.path));
                    }
                    file
                }
                None => {
                    let freshness = self.settings.freshness;
                    let early = self.speculation.take(&key.path, generation, freshness).await;
                    let asked = early.as_ref().map_or_else(Instant::now, |(_, asked)| *asked);
                    let opened = match early {
                        Some((reader, _)) => Ok(reader),
                        None => self.store.0.open(&key.path, Some(generation)).await,
                    };
                    let reader = match opened {
                        Ok(reader) => reader,
                        Err(error) => {
                            // The kernel's next lookup must not be answered from memory.
                            self.stats.forget(&key.path);
                            return Err(match error.kind() {
                                ErrorKind::NotFound | ErrorKind::IsADirectory => stale(&key.path),
                                _ => error,
                            });
                        }
                    };
                    let found = Some(Arc::new(reader.metadata().clone()));
                    self.stats.put(key.path.clone(), Stat { found, asked });
                    let source = Source { file: key.digest(), reader: self.databases.timed(reader) };
                    self.cache.name(source.file, key.path.as_str());
                    let database = self.databases.open(&source, key.path.name());
                    Arc::new(OpenFile { ino, key: key.clone(), source, database })
                }
            };
            Ok(self.files.open(file, Stream::new(self.settings.readahead_bytes_max)))
        })
        .await
    }

    /// The bytes of `offset..offset + len` that the file has; of one generation, or an error.
    pub async fn read(&self, fh: u64, offset: u64, len: usize) -> Result<Bytes> {
        let handle = self.files.get(fh).ok_or_else(|| no_handle(fh))?;
        let file = &handle.file;
        let read = async {
            self.databases.requested(&file.database, &file.source, offset, len);
            self.cache.observe(&file.source, &handle.stream, offset, len);
            let bytes = self.cache.read(&file.source, offset, len).await?;
            self.databases.arrived(&file.database, &file.source, offset, &bytes);
            Ok(bytes)
        };
        let outcome = self.within(&file.key.path, read).await;
        if outcome.as_ref().is_err_and(|e| e.kind() == ErrorKind::Stale) {
            self.files.retire(file.ino);
            self.stats.forget(&file.key.path);
        }
        outcome
    }

    /// Closes a handle.
    pub fn release(&self, fh: u64) {
        if let Some(handle) = self.files.get(fh) {
            self.databases.released(&handle.file.database, &handle.file.source);
        }
        self.files.close(fh);
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

    /// Gives back what nobody used for a while. To be called every few seconds.
    pub fn maintain(&self) {
        self.files.maintain(STREAM_IDLE);
        self.databases.maintain();
        self.speculation.maintain();
    }

    /// Entries that the kernel should be asked to drop, as directory inode and name, because it holds
    /// more inodes than the settings allow.
    pub fn surplus(&self) -> Vec<(u64, Arc<StorePath>)> {
        let inodes = self.inodes.lock();
        // Some below the bound, so that this does not run for every single one.
        let inodes_max = self.division.inodes_max;
        let target = inodes_max - inodes_max / 8;
        if inodes.count() <= inodes_max {
            return Vec::new();
        }
        inodes.victims(inodes.count() - target, &self.files.inos())
    }

    /// The figures now.
    pub fn snapshot(&self) -> FsSnapshot {
        let (open_files, idle_readers) = self.files.counts();
        FsSnapshot {
            inodes: self.inodes.lock().count(),
            open_files,
            idle_readers,
            open_directories: self.dirs.count(),
            deadlines_passed: self.deadlines_passed.get(),
            cache: self.cache.snapshot(),
        }
    }

    /// Shows the counters in `registry`.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.deadlines_passed.clone()))?;
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
