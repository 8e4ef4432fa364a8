//! Every call that reaches the store, with its start and its end: which of them wait for each other shows
//! what a lookup costs.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use springhouse_fuse::{
    error::Result,
    store::{
        AttributeChanges, CreateOptions, Entry, Generation, Metadata, Reader, Store, StorePath, StoreUrl,
        Usage, Writer,
    },
};

/// What was called, and when it began and ended.
#[derive(Debug, Default)]
pub(crate) struct Calls(Mutex<Vec<(String, Instant, Instant)>>);

impl Calls {
    async fn note<T>(&self, what: String, call: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let outcome = call.await;
        if let Ok(mut calls) = self.0.lock() {
            calls.push((what, began, Instant::now()));
        }
        outcome
    }

    /// One line for each call in the order of their starts: start and end in ms since the first one.
    pub(crate) fn lines(&self) -> Vec<String> {
        let Ok(mut calls) = self.0.lock() else { return Vec::new() };
        calls.sort_by_key(|(_, began, _)| *began);
        let Some(&(_, first, _)) = calls.first() else { return Vec::new() };
        let ms = |at: Instant| at.duration_since(first).as_secs_f64() * 1e3;
        calls
            .iter()
            .map(|(what, began, ended)| format!("{:9.2} {:9.2} {what}", ms(*began), ms(*ended)))
            .collect()
    }
}

/// A store that only reads, of which every call is noted.
pub(crate) struct Traced {
    pub(crate) inner: Arc<dyn Store>,
    pub(crate) calls: Arc<Calls>,
}

impl Traced {
    fn reader(&self, path: &StorePath, inner: Arc<dyn Reader>) -> Arc<dyn Reader> {
        Arc::new(TracedReader { inner, path: path.clone(), calls: self.calls.clone() })
    }
}

#[async_trait]
impl Store for Traced {
    fn url(&self) -> &StoreUrl {
        self.inner.url()
    }

    async fn stat(&self, path: &StorePath) -> Result<Metadata> {
        self.calls.note(format!("stat {path}"), self.inner.stat(path)).await
    }

    fn list<'a>(&'a self, dir: &'a StorePath) -> BoxStream<'a, Result<Entry>> {
        self.inner.list(dir)
    }

    async fn open(&self, path: &StorePath, expected: Option<Generation>) -> Result<Arc<dyn Reader>> {
        let opened = self.calls.note(format!("open {path}"), self.inner.open(path, expected)).await?;
        Ok(self.reader(path, opened))
    }

    async fn open_ahead(&self, path: &StorePath, known: Option<&Metadata>) -> Result<Arc<dyn Reader>> {
        let opened =
            self.calls.note(format!("open {path} ahead"), self.inner.open_ahead(path, known)).await?;
        Ok(self.reader(path, opened))
    }

    async fn create(&self, path: &StorePath, options: CreateOptions) -> Result<Box<dyn Writer>> {
        self.inner.create(path, options).await
    }

    async fn rename(&self, from: &StorePath, to: &StorePath, overwrite: bool) -> Result<()> {
        self.inner.rename(from, to, overwrite).await
    }

    async fn delete(&self, path: &StorePath, recursive: bool) -> Result<()> {
        self.inner.delete(path, recursive).await
    }

    async fn create_dir(&self, path: &StorePath) -> Result<()> {
        self.inner.create_dir(path).await
    }

    async fn append(&self, path: &StorePath) -> Result<(Box<dyn Writer>, u64)> {
        self.inner.append(path).await
    }

    async fn truncate(&self, path: &StorePath, len: u64) -> Result<()> {
        self.inner.truncate(path, len).await
    }

    async fn check_writable(&self, path: &StorePath) -> Result<()> {
        self.inner.check_writable(path).await
    }

    async fn set_attributes(&self, path: &StorePath, changes: &AttributeChanges) -> Result<()> {
        self.inner.set_attributes(path, changes).await
    }

    async fn make_dir(&self, path: &StorePath, mode: Option<u32>) -> Result<()> {
        self.inner.make_dir(path, mode).await
    }

    async fn usage(&self) -> Result<Usage> {
        self.inner.usage().await
    }
}

#[derive(Debug)]
struct TracedReader {
    inner: Arc<dyn Reader>,
    path: StorePath,
    calls: Arc<Calls>,
}

#[async_trait]
impl Reader for TracedReader {
    fn metadata(&self) -> &Metadata {
        self.inner.metadata()
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let what = format!("read {} at {offset}, {len} bytes", self.path);
        self.calls.note(what, self.inner.read_at(offset, len)).await
    }

    async fn confirm(&self) -> Result<()> {
        self.calls.note(format!("confirm {}", self.path), self.inner.confirm()).await
    }
}
