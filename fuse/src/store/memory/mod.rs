//! A store in memory that fails as it is told: for tests.
//!
//! It behaves like HDFS where stores differ: a reader whose file was replaced or deleted gets `Stale`,
//! and what is written is seen after `sync` or `close`.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream, stream::BoxStream};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

pub use self::faults::{Fault, Injected, Injection};
use self::{
    faults::Faults,
    tree::{Alive, Tree},
};
use super::{
    AttributeChanges, CreateOptions, Entry, Generation, Metadata, Operation, Reader, Store, StorePath,
    StoreUrl, Usage, Writer,
};
use crate::error::{Error, ErrorKind, Result};

mod faults;
#[cfg(test)]
mod tests;
mod tree;

/// A store in memory. Clones share its files and faults.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    url: StoreUrl,
    tree: Mutex<Tree>,
    faults: Faults,
    calls: [AtomicU64; Operation::ALL.len()],
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty one. Its URL is `file:///memory`, which nothing looks at.
    pub fn new() -> Self {
        Self::with_clock(None)
    }

    /// One whose clock stands at `time`, and whose generations are a time in ms and a length, as those of
    /// HDFS: what differs may look the same.
    pub fn at(time: SystemTime) -> Self {
        Self::with_clock(Some(time))
    }

    fn with_clock(clock: Option<SystemTime>) -> Self {
        let url = StoreUrl::File { path: PathBuf::from("/memory") };
        let (tree, faults) = (Mutex::new(Tree::new(clock)), Faults::default());
        Self { inner: Arc::new(Inner { url, tree, faults, calls: Default::default() }) }
    }

    /// Makes or replaces a file, and its parents, at once and past all faults.
    pub fn put(&self, path: &StorePath, bytes: impl Into<Bytes>) -> Result<Generation> {
        let options = CreateOptions { overwrite: true, create_parents: true, ..CreateOptions::default() };
        let mut tree = self.inner.tree.lock();
        tree.create(path, options)?;
        let alive = Arc::clone(&tree.file(path)?.alive);
        tree.fill(path, &alive, bytes.into())?;
        Ok(tree.file(path)?.metadata.generation)
    }

    /// Lets `injection` strike from now on.
    pub fn inject(&self, injection: Injection) -> Injected {
        self.inner.faults.add(injection)
    }

    /// Calls of `operation` that arrived, those that were struck by a fault too.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.inner.calls[operation as usize].load(Relaxed)
    }

    /// What is at `path`, called what is `known` of it.
    async fn open_now(&self, path: &StorePath, known: Option<Metadata>) -> Result<MemoryReader> {
        self.arrive(Operation::Open, path).await?;
        let node = self.inner.tree.lock().file(path)?.clone();
        Ok(MemoryReader {
            store: self.clone(),
            path: path.clone(),
            metadata: known.unwrap_or(node.metadata),
            bytes: node.bytes,
            alive: node.alive,
            confirmed: OnceCell::new_with(Some(())),
        })
    }

    /// Counts a call and suffers its fault; tells whether a read must give wrong bytes.
    async fn arrive(&self, operation: Operation, path: &StorePath) -> Result<bool> {
        self.inner.calls[operation as usize].fetch_add(1, Relaxed);
        let verdict = self.inner.faults.strike(operation, path).await?;
        if let Some(bytes) = verdict.replace {
            self.put(path, bytes)?;
        }
        Ok(verdict.flip)
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn url(&self) -> &StoreUrl {
        &self.inner.url
    }

    async fn stat(&self, path: &StorePath) -> Result<Metadata> {
        self.arrive(Operation::Stat, path).await?;
        Ok(self.inner.tree.lock().get(path)?.metadata.clone())
    }

    fn list<'a>(&'a self, dir: &'a StorePath) -> BoxStream<'a, Result<Entry>> {
        stream::once(async move {
            self.arrive(Operation::List, dir).await?;
            self.inner.tree.lock().list(dir)
        })
        .flat_map(|listed| match listed {
            Ok(entries) => stream::iter(entries).map(Ok).left_stream(),
            Err(error) => stream::iter([Err(error)]).right_stream(),
        })
        .boxed()
    }

    async fn open(&self, path: &StorePath, expected: Option<Generation>) -> Result<Arc<dyn Reader>> {
        let reader = self.open_now(path, None).await?;
        super::check_generation(path, &reader.metadata, expected)?;
        Ok(Arc::new(reader))
    }

    async fn open_ahead(&self, path: &StorePath, known: Option<&Metadata>) -> Result<Arc<dyn Reader>> {
        // As HDFS does it: by path, so that what was opened is not surely what is known.
        let reader = self.open_now(path, known.cloned()).await?;
        Ok(Arc::new(MemoryReader { confirmed: OnceCell::new(), ..reader }))
    }

    async fn create(&self, path: &StorePath, options: CreateOptions) -> Result<Box<dyn Writer>> {
        self.arrive(Operation::Create, path).await?;
        let mut tree = self.inner.tree.lock();
        tree.create(path, options)?;
        let alive = Arc::clone(&tree.file(path)?.alive);
        Ok(Box::new(MemoryWriter {
            store: self.clone(),
            path: path.clone(),
            alive,
            written: BytesMut::new(),
        }))
    }

    async fn rename(&self, from: &StorePath, to: &StorePath, overwrite: bool) -> Result<()> {
        self.arrive(Operation::Rename, from).await?;
        self.inner.tree.lock().rename(from, to, overwrite)
    }

    async fn delete(&self, path: &StorePath, recursive: bool) -> Result<()> {
        self.arrive(Operation::Delete, path).await?;
        self.inner.tree.lock().delete(path, recursive)
    }

    async fn create_dir(&self, path: &StorePath) -> Result<()> {
        self.arrive(Operation::CreateDir, path).await?;
        self.inner.tree.lock().create_dir(path)
    }

    async fn append(&self, path: &StorePath) -> Result<(Box<dyn Writer>, u64)> {
        self.arrive(Operation::Append, path).await?;
        let tree = self.inner.tree.lock();
        let node = tree.file(path)?;
        let writer = MemoryWriter {
            store: self.clone(),
            path: path.clone(),
            alive: Arc::clone(&node.alive),
            written: BytesMut::from(&node.bytes[..]),
        };
        let end = writer.written.len() as u64;
        Ok((Box::new(writer), end))
    }

    async fn truncate(&self, path: &StorePath, len: u64) -> Result<()> {
        self.arrive(Operation::Truncate, path).await?;
        self.inner.tree.lock().truncate(path, len)
    }

    async fn check_writable(&self, path: &StorePath) -> Result<()> {
        self.arrive(Operation::SetAttributes, path).await?;
        self.inner.tree.lock().file(path).map(drop)
    }

    async fn set_attributes(&self, path: &StorePath, changes: &AttributeChanges) -> Result<()> {
        self.arrive(Operation::SetAttributes, path).await?;
        self.inner.tree.lock().set_attributes(path, changes)
    }

    async fn make_dir(&self, path: &StorePath, mode: Option<u32>) -> Result<()> {
        self.arrive(Operation::MakeDir, path).await?;
        self.inner.tree.lock().make_dir(path, mode)
    }

    async fn usage(&self) -> Result<Usage> {
        self.arrive(Operation::Usage, &StorePath::root()).await?;
        let (bytes, files) = self.inner.tree.lock().used();
        Ok(Usage { used_bytes: Some(bytes), used_files: Some(files), ..Usage::default() })
    }
}

#[derive(Debug)]
struct MemoryReader {
    store: MemoryStore,
    path: StorePath,
    metadata: Metadata,
    bytes: Bytes,
    alive: Alive,
    confirmed: OnceCell<()>,
}

#[async_trait]
impl Reader for MemoryReader {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.confirm().await?;
        let flip = self.store.arrive(Operation::Read, &self.path).await?;
        if !self.alive.load(SeqCst) {
            return Err(Error::new(
                ErrorKind::Stale,
                format!("{}: was replaced while it was open; open it again", self.path),
            ));
        }
        let start = usize::try_from(offset).map_or(self.bytes.len(), |start| start.min(self.bytes.len()));
        let end = start.saturating_add(len).min(self.bytes.len());
        let bytes = self.bytes.slice(start..end);
        Ok(if flip { bytes.iter().map(|byte| !byte).collect() } else { bytes })
    }

    async fn confirm(&self) -> Result<()> {
        let confirmed = self.confirmed.get_or_try_init(|| async {
            let now = self.store.stat(&self.path).await.map_err(|error| super::gone(&self.path, error))?;
            super::check_generation(&self.path, &now, Some(self.metadata.generation))
        });
        confirmed.await.copied()
    }
}

struct MemoryWriter {
    store: MemoryStore,
    path: StorePath,
    alive: Alive,
    written: BytesMut,
}

impl MemoryWriter {
    fn show(&self) -> Result<()> {
        let bytes = Bytes::copy_from_slice(&self.written);
        self.store.inner.tree.lock().fill(&self.path, &self.alive, bytes)
    }
}

#[async_trait]
impl Writer for MemoryWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.store.arrive(Operation::Write, &self.path).await?;
        self.written.extend_from_slice(&data);
        Ok(())
    }

    async fn sync(&mut self) -> Result<()> {
        self.store.arrive(Operation::Sync, &self.path).await?;
        self.show()
    }

    async fn close(self: Box<Self>) -> Result<()> {
        self.store.arrive(Operation::Close, &self.path).await?;
        self.show()
    }
}
