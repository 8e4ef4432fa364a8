//! One open file of a local store.

use std::{
    fs::File,
    os::{fd::OwnedFd, unix::fs::FileExt},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::{Stat, fstat, fstatfs};

use super::{blocking, sync_dir};
use crate::{
    error::{Error, ErrorKind, Result},
    store::{Metadata, Reader, StorePath, Writer, buffers::Buffers},
};

/// Longest tick of the kernel's clock, which file times are taken from (10 ms at 100 Hz), and some more.
const TICK_MAX: Duration = Duration::from_millis(15);

/// A file open for reading. It keeps its inode: when another file is renamed over the name, this one
/// goes on giving the old bytes, which are those of its generation.
#[derive(Debug)]
pub(super) struct LocalReader {
    inner: Arc<Open>,
}

#[derive(Debug)]
struct Open {
    path: StorePath,
    file: File,
    metadata: Metadata,
    /// As it was found last.
    mark: Mutex<Mark>,
    buffers: Buffers,
}

/// What a write in place moves.
///
/// ctime alone would say too much: a chmod, or the unlinking that a rename over the name means, moves it
/// too, and leaves the bytes as they were. mtime alone says too little: `rsync --inplace --times` and
/// `touch -r` set it back. So ctime counts unless something else that moves it explains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    content: (i64, i64, u64),
    ctime: (i64, u64),
    /// Links, mode and owners: what else moves ctime.
    rest: (u64, u32, u32, u32),
}

impl Mark {
    fn of(stat: &Stat) -> Self {
        Self {
            content: (stat.st_size, stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
            rest: (stat.st_nlink, stat.st_mode, stat.st_uid, stat.st_gid),
        }
    }

    /// Whether the bytes are surely those from when `self` was taken.
    fn holds(&self, now: &Self) -> bool {
        self.content == now.content && (self.ctime == now.ctime || self.rest != now.rest)
    }
}

impl LocalReader {
    pub(super) fn new(
        path: StorePath,
        file: File,
        metadata: Metadata,
        stat: &Stat,
        buffers: &Buffers,
    ) -> Self {
        let (mark, buffers) = (Mutex::new(Mark::of(stat)), buffers.clone());
        Self { inner: Arc::new(Open { path, file, metadata, mark, buffers }) }
    }

    /// How long its times cannot be relied on yet: a write in place within one tick of the kernel's clock
    /// after the last change leaves them as they are.
    pub(super) fn unsettled(&self) -> Option<Duration> {
        let (seconds, nanos) = self.inner.mark.lock().ctime;
        let changed = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?);
        // A time that is still to come is of another clock, a file server's: no reason to wait.
        let age = SystemTime::now().duration_since(UNIX_EPOCH.checked_add(changed)?).ok()?;
        TICK_MAX.checked_sub(age).filter(|left| !left.is_zero())
    }
}

#[async_trait]
impl Reader for LocalReader {
    fn metadata(&self) -> &Metadata {
        &self.inner.metadata
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let left = self.inner.metadata.len.saturating_sub(offset);
        let len = usize::try_from(left).map_or(len, |left| left.min(len));
        if len == 0 {
            return Ok(Bytes::new());
        }
        let open = Arc::clone(&self.inner);
        blocking(move || open.read(offset, len)).await
    }

    async fn confirm(&self) -> Result<()> {
        Ok(())
    }
}

impl Open {
    fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let mut buffer = self.buffers.take(len);
        let outcome = self.file.read_exact_at(buffer.fill(len), offset);
        // Checked after the bytes: the kernel moves mtime before it changes the first byte, so whatever
        // of a write in place this read could see, this stat sees too.
        // Under the lock, so that no older stat is put over a younger one.
        let mut mark = self.mark.lock();
        let now = Mark::of(&fstat(&self.file).map_err(|e| Error::from_io(&e.into(), &self.path))?);
        if !mark.holds(&now) {
            return Err(Error::new(
                ErrorKind::Stale,
                format!("{}: changed in place while it was open; open it again", self.path),
            ));
        }
        *mark = now;
        drop(mark);
        outcome.map_err(|e| self.failed_read(&e))?;
        Ok(buffer.freeze())
    }

    /// `EIO` of a disk is bytes that cannot be had. Of a file server it is mostly its silence (`soft`
    /// mounts), which SQLite must not take for corruption.
    fn failed_read(&self, error: &std::io::Error) -> Error {
        let told = Error::from_io(error, &self.path);
        if told.kind() == ErrorKind::Corrupt && fstatfs(&self.file).is_ok_and(|of| is_remote(of.f_type)) {
            return Error::new(ErrorKind::Unavailable, told.message());
        }
        told
    }
}

/// Whether this kind of file system has its bytes from elsewhere: NFS, SMB, Ceph, 9P, AFS, FUSE. The
/// numbers are those of `linux/magic.h`.
fn is_remote(magic: rustix::fs::FsWord) -> bool {
    let magic = u32::try_from(magic & 0xffff_ffff).unwrap_or(u32::MAX);
    matches!(
        magic,
        0x6969 | 0x517b | 0xff53_4d42 | 0xfe53_4d42 | 0x00c3_6400 | 0x0102_1997 | 0x5346_414f | 0x6573_5546
    )
}

/// A file being written.
pub(super) struct LocalWriter {
    /// The directory in which it was found, wherever that is by now.
    pub(super) dir: Arc<OwnedFd>,
    pub(super) path: StorePath,
    pub(super) file: Arc<File>,
    /// Where the next byte goes. Moved on before the write: one that was dropped halfway leaves a hole
    /// in a file that nobody closes, never bytes out of order.
    pub(super) offset: u64,
}

#[async_trait]
impl Writer for LocalWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let (file, path, offset) = (Arc::clone(&self.file), self.path.clone(), self.offset);
        self.offset += data.len() as u64;
        blocking(move || file.write_all_at(&data, offset).map_err(|e| Error::from_io(&e, path))).await
    }

    async fn sync(&mut self) -> Result<()> {
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        blocking(move || file.sync_all().map_err(|e| Error::from_io(&e, path))).await
    }

    async fn close(mut self: Box<Self>) -> Result<()> {
        self.sync().await?;
        let Self { dir, path, .. } = *self;
        // The name is durable only when its directory is.
        blocking(move || sync_dir(&dir, &path)).await
    }
}
