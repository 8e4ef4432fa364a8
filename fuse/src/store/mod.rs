//! What a segment store does, and the stores that do it.
//!
//! [`Store`] is the whole contract between Springhouse and the place where segments lie. `hdfs` and
//! `local` are the real ones, `memory` is for tests. The decorators beside them add one idea each;
//! [`open`] stacks them in the one order that is right for production.

use std::{fmt, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

mod breaker;
mod buffers;
#[doc(hidden)]
pub mod contract;
mod count;
mod deadline;
mod hdfs;
mod latency;
mod local;
pub mod memory;
mod open;
mod outage;
mod path;
mod single_flight;
#[cfg(test)]
mod tests;
mod url;
mod users;

pub use self::{
    count::{Counters, Operation, OperationSnapshot, Snapshot},
    hdfs::tasks_running as hdfs_tasks_running,
    local::{LocalStore, generation_of},
    open::{HdfsOptions, OpenedStore, RetryPolicy, StoreOptions, decorate, open},
    path::{NAME_BYTES_MAX, StorePath},
    url::StoreUrl,
};

/// One immutable version of a file: opaque, compared only for equality.
///
/// HDFS: modification time in ms and length (the client drops the file id). Local directory: a 128-bit
/// xxh3 of device, inode, length and ctime in ns.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub [u8; 16]);

impl Generation {
    /// The 32 lower-case hexadecimal digits that stand for it in HTTP, logs and attributes.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(|n| Self(n.to_be_bytes()))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// File or directory: stores have nothing else. A local store lists other kinds as absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
}

/// What the store says of one file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// File or directory.
    pub kind: FileKind,
    /// Length in bytes; 0 for a directory.
    pub len: u64,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Owner as the store names it; HDFS names are not this host's (see `fs`).
    pub owner: String,
    /// Group as the store names it.
    pub group: String,
    /// Last modification; HDFS has ms.
    pub mtime: SystemTime,
    /// Last access; HDFS has hours by default. Equal to `mtime` where unknown.
    pub atime: SystemTime,
    /// Copies that the store keeps; 1 for a local directory, 0 for directories in HDFS.
    pub replication: u32,
    /// Size of the store's own blocks in bytes (HDFS block size; `st_blksize` of a local file).
    pub block_size: u64,
    /// Which version this is. Of a directory: changes whenever an entry comes or goes.
    pub generation: Generation,
}

impl Metadata {
    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name: UTF-8, no `/`, never `.` or `..`. Names that are not UTF-8 are left out with a warning.
    pub name: String,
    /// What the store says of it.
    pub metadata: Metadata,
}

/// How much a store holds, in bytes and files; `None` where the client cannot tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Room for everything under the root.
    pub capacity_bytes: Option<u64>,
    /// Used under the root.
    pub used_bytes: Option<u64>,
    /// Most files there may be.
    pub capacity_files: Option<u64>,
    /// Files and directories under the root.
    pub used_files: Option<u64>,
}

/// How [`Store::create`] makes a file.
#[derive(Debug, Clone, Copy, Default)]
pub struct CreateOptions {
    /// Replace an existing file; otherwise that is `AlreadyExists`. The check is atomic in the store.
    pub overwrite: bool,
    /// Make missing parent directories.
    pub create_parents: bool,
    /// Permission bits; `None`: the store's default.
    pub mode: Option<u32>,
    /// Copies that the store keeps; `None`: its default. A local directory ignores it.
    pub replication: Option<u32>,
    /// Size of the store's own blocks in bytes; `None`: its default. A local directory ignores it.
    pub block_size: Option<u64>,
}

/// What [`Store::set_attributes`] changes; `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttributeChanges {
    /// Permission bits, 0 to 0o7777.
    pub mode: Option<u32>,
    /// Owner as the store names it.
    pub owner: Option<String>,
    /// Group as the store names it.
    pub group: Option<String>,
    /// Last modification; HDFS keeps ms.
    pub mtime: Option<SystemTime>,
    /// Last access; HDFS keeps ms.
    pub atime: Option<SystemTime>,
}

/// A place that holds segments. Paths are absolute below the store's root.
///
/// Every call is safe to drop at any `await`: nothing leaks beyond the store's own deadline.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Where this store is.
    fn url(&self) -> &StoreUrl;

    /// Stat of one path.
    async fn stat(&self, path: &StorePath) -> Result<Metadata>;

    /// The entries of a directory in the store's order, as they come; never the whole listing in memory.
    fn list<'a>(&'a self, dir: &'a StorePath) -> BoxStream<'a, Result<Entry>>;

    /// Opens a file for positional reads of one generation.
    ///
    /// With `expected`, a file of any other generation is `Stale`. HDFS opens by path: implementations
    /// stat, open and stat again, so that the reader's generation is surely the one it names.
    async fn open(&self, path: &StorePath, expected: Option<Generation>) -> Result<Arc<dyn Reader>>;

    /// As [`Store::open`], but the answer may come before it is certain what was opened: the last stat is
    /// then made at the same time as the first read, which waits for it, or by [`Reader::confirm`].
    ///
    /// `known`: an earlier stat of `path`, however old, which need not be made again. Its generation is
    /// the one that is opened, or the reader turns out `Stale`.
    async fn open_ahead(&self, path: &StorePath, known: Option<&Metadata>) -> Result<Arc<dyn Reader>>;

    /// Starts writing a file. Readers may see it grow; use a temporary name and [`Store::rename`].
    async fn create(&self, path: &StorePath, options: CreateOptions) -> Result<Box<dyn Writer>>;

    /// Moves a file or directory. With `overwrite` an existing target file is replaced atomically:
    /// at every moment a reader finds the old or the new one. The parent of `to` must exist.
    async fn rename(&self, from: &StorePath, to: &StorePath, overwrite: bool) -> Result<()>;

    /// Removes a file, or a directory: an empty one, or with `recursive` all below it.
    async fn delete(&self, path: &StorePath, recursive: bool) -> Result<()>;

    /// Makes a directory and its missing parents; an existing directory is no error.
    async fn create_dir(&self, path: &StorePath) -> Result<()>;

    /// Goes on writing an existing file at its end; also says where that is, in bytes. In HDFS a
    /// file that somebody else is writing is `Busy`; a local directory keeps writers apart by nothing.
    async fn append(&self, path: &StorePath) -> Result<(Box<dyn Writer>, u64)>;

    /// Cuts a file to `len` bytes, or makes it longer with zeros where the store can.
    ///
    /// HDFS's client can only keep the length, or cut to 0: then the file is replaced by an empty one of
    /// the same mode, owner, group, replication and block size (ACLs and extended attributes go). Any
    /// other length is `Unsupported`, and so is 0 for a user who may not give the new file its owner.
    async fn truncate(&self, path: &StorePath, len: u64) -> Result<()>;

    /// Whether the user may write to the file at `path`; `PermissionDenied` if not. Changes nothing: what
    /// is true now need not be at the first write.
    async fn check_writable(&self, path: &StorePath) -> Result<()>;

    /// Changes what `changes` names: owner and group first, then the mode, then the times. Not atomic: a
    /// failure may leave some of it done. Setting `mtime` makes a new generation in HDFS.
    async fn set_attributes(&self, path: &StorePath, changes: &AttributeChanges) -> Result<()>;

    /// Makes one directory: its parent must exist, and nothing may have its name (`AlreadyExists`).
    /// HDFS has no such call: of two who make the same one at the same moment both may be told yes.
    async fn make_dir(&self, path: &StorePath, mode: Option<u32>) -> Result<()>;

    /// Sizes for `statfs`, as honest as the store's client allows.
    async fn usage(&self) -> Result<Usage>;
}

/// One generation of one file, open for positional reads by many at once.
#[async_trait]
pub trait Reader: Send + Sync + fmt::Debug + 'static {
    /// Stat as it was at open; `len` and `generation` are those of every byte read here.
    fn metadata(&self) -> &Metadata;

    /// Exactly `min(len, file length - offset)` bytes from `offset`, empty at or past the end.
    ///
    /// Bytes of another generation are never returned: a replaced file is `Stale`.
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes>;

    /// Waits until it is certain that the file that was opened is of the generation that this reader
    /// names; `Stale` if it is not. Asks the store only after [`Store::open_ahead`], and once.
    async fn confirm(&self) -> Result<()>;
}

/// A file being written, from its start to its end.
#[async_trait]
pub trait Writer: Send + 'static {
    /// Appends `data`.
    async fn write(&mut self, data: Bytes) -> Result<()>;

    /// Makes everything written so far durable (`hsync`, `fsync`).
    async fn sync(&mut self) -> Result<()>;

    /// Finishes the file durably. Without it, dropping the writer leaves a file that is cut short.
    async fn close(self: Box<Self>) -> Result<()>;
}

/// `Stale` unless the file is of the generation that the caller wants, if he wants a certain one.
fn check_generation(path: &dyn fmt::Display, found: &Metadata, expected: Option<Generation>) -> Result<()> {
    match expected {
        Some(expected) if expected != found.generation => Err(Error::new(
            ErrorKind::Stale,
            format!("{path}: generation {expected} was replaced by {}; open it again", found.generation),
        )),
        _ => Ok(()),
    }
}

/// What it means that an open file is not found any more: it was deleted.
fn gone(path: &dyn fmt::Display, error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::IsADirectory | ErrorKind::NotADirectory => {
            Error::new(ErrorKind::Stale, format!("{path}: was deleted while it was open"))
        }
        _ => error,
    }
}

/// A directory cannot be moved to below itself.
fn refuse_into_itself(from: &StorePath, to: &StorePath) -> Result<()> {
    if to.as_str().strip_prefix(from.as_str()).is_some_and(|rest| rest.starts_with('/')) {
        return Err(Error::new(ErrorKind::InvalidArgument, format!("{to} lies in {from} itself")));
    }
    Ok(())
}
