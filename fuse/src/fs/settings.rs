//! How a file system behaves: what it is made with, and what may change while it runs.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    error::{Error, ErrorKind, Result},
    staging::Area,
};

use crate::memory;

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

impl WriteSettings {
    /// The staging area, opened for this process, where files are written by way of one.
    pub(super) fn staging(&self) -> Result<Option<Arc<Area>>> {
        if self.mode != WriteMode::Staged || self.read_only {
            return Ok(None);
        }
        let Some(dir) = &self.staging_dir else {
            let message = "write mode staged needs a directory on a local disk: --staging-dir";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        };
        Area::open(dir, self.staging_bytes_max).map(Some)
    }
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
        let memory_bytes = 512 << 20;
        // A bound above the least one leaves room.
        let room = memory::room(memory_bytes).unwrap_or(0);
        let [cache_bytes, prefetch_bytes, pinned_bytes] = memory::shares(room, [None; 3]);
        Self {
            freshness: Duration::from_secs(1),
            deadline: Duration::from_secs(10),
            memory_bytes,
            cache_bytes,
            disk: None,
            sqlite: true,
            pinned_bytes,
            writes: WriteSettings::default(),
            identity: Identity::Fixed,
            entry_lifetime: None,
            attribute_lifetime: None,
            negative_lifetime: None,
            block_bytes: 16 << 10,
            readahead_bytes_max: 8 << 20,
            prefetch_bytes,
            inodes_max: 1_000_000,
        }
    }
}

/// What may change while a file system runs; see [`FsSettings`] for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Tuning {
    pub freshness: Duration,
    pub entry_lifetime: Option<Duration>,
    pub attribute_lifetime: Option<Duration>,
    pub negative_lifetime: Option<Duration>,
    pub readahead_bytes_max: u64,
}

impl From<&FsSettings> for Tuning {
    fn from(settings: &FsSettings) -> Self {
        Self {
            freshness: settings.freshness,
            entry_lifetime: settings.entry_lifetime,
            attribute_lifetime: settings.attribute_lifetime,
            negative_lifetime: settings.negative_lifetime,
            readahead_bytes_max: settings.readahead_bytes_max,
        }
    }
}
