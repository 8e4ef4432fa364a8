//! One open file of a local store.

use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use rustix::fs::{Stat, fstat};

use super::{LocalStore, blocking};
use crate::{
    error::{Error, ErrorKind, Result},
    store::{Metadata, Reader, StorePath, Writer},
};

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
    content: Content,
}

/// What a write in place moves. Not ctime: a chmod, or the unlinking that a rename over the name means,
/// moves that too, and leaves the bytes as they were.
#[derive(Debug, PartialEq, Eq)]
struct Content {
    len: i64,
    mtime_s: i64,
    mtime_ns: u64,
}

impl Content {
    fn of(stat: &Stat) -> Self {
        Self { len: stat.st_size, mtime_s: stat.st_mtime, mtime_ns: stat.st_mtime_nsec }
    }
}

impl LocalReader {
    pub(super) fn new(path: StorePath, file: File, metadata: Metadata, stat: &Stat) -> Self {
        Self { inner: Arc::new(Open { path, file, metadata, content: Content::of(stat) }) }
    }
}

impl LocalReader {
    pub(super) fn path(&self) -> &StorePath {
        &self.inner.path
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
}

impl Open {
    fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let mut buffer = BytesMut::zeroed(len);
        let outcome = self.file.read_exact_at(&mut buffer, offset);
        // Checked after the bytes: the kernel moves mtime before it changes the first byte, so whatever
        // of a write in place this read could see, this stat sees too.
        let stat = fstat(&self.file).map_err(|e| Error::from_io(&e.into(), &self.path))?;
        if Content::of(&stat) != self.content {
            return Err(Error::new(
                ErrorKind::Stale,
                format!("{}: changed in place while it was open; open it again", self.path),
            ));
        }
        outcome.map_err(|e| Error::from_io(&e, &self.path))?;
        Ok(buffer.freeze())
    }
}

/// A file being written.
pub(super) struct LocalWriter {
    pub(super) store: LocalStore,
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
        let Self { store, path, .. } = *self;
        // The name is durable only when its directory is.
        blocking(move || store.sync_parent(&path)).await
    }
}
