//! Distance, for tests and benchmarks: every call takes so much longer.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream, stream::BoxStream};

use super::{
    AttributeChanges, CreateOptions, Entry, Generation, Metadata, Reader, Store, StorePath, StoreUrl, Usage,
    Writer, exact::wait,
};
use crate::error::Result;

/// Waits before every call to the store below it. A listing waits once: it is mostly one answer.
pub(super) struct Latency {
    inner: Arc<dyn Store>,
    added: Duration,
}

impl Latency {
    pub(super) fn new(inner: Arc<dyn Store>, added: Duration) -> Self {
        Self { inner, added }
    }
}

#[async_trait]
impl Store for Latency {
    fn url(&self) -> &StoreUrl {
        self.inner.url()
    }

    async fn stat(&self, path: &StorePath) -> Result<Metadata> {
        wait(self.added).await;
        self.inner.stat(path).await
    }

    fn list<'a>(&'a self, dir: &'a StorePath) -> BoxStream<'a, Result<Entry>> {
        stream::once(wait(self.added)).flat_map(|()| self.inner.list(dir)).boxed()
    }

    async fn open(&self, path: &StorePath, expected: Option<Generation>) -> Result<Arc<dyn Reader>> {
        wait(self.added).await;
        let inner = self.inner.open(path, expected).await?;
        Ok(Arc::new(LateReader { inner, added: self.added }))
    }

    async fn open_ahead(&self, path: &StorePath, known: Option<&Metadata>) -> Result<Arc<dyn Reader>> {
        wait(self.added).await;
        let inner = self.inner.open_ahead(path, known).await?;
        Ok(Arc::new(LateReader { inner, added: self.added }))
    }

    async fn create(&self, path: &StorePath, options: CreateOptions) -> Result<Box<dyn Writer>> {
        wait(self.added).await;
        let inner = self.inner.create(path, options).await?;
        Ok(Box::new(LateWriter { inner, added: self.added }))
    }

    async fn rename(&self, from: &StorePath, to: &StorePath, overwrite: bool) -> Result<()> {
        wait(self.added).await;
        self.inner.rename(from, to, overwrite).await
    }

    async fn delete(&self, path: &StorePath, recursive: bool) -> Result<()> {
        wait(self.added).await;
        self.inner.delete(path, recursive).await
    }

    async fn create_dir(&self, path: &StorePath) -> Result<()> {
        wait(self.added).await;
        self.inner.create_dir(path).await
    }

    async fn append(&self, path: &StorePath) -> Result<(Box<dyn Writer>, u64)> {
        wait(self.added).await;
        let (inner, end) = self.inner.append(path).await?;
        Ok((Box::new(LateWriter { inner, added: self.added }), end))
    }

    async fn truncate(&self, path: &StorePath, len: u64) -> Result<()> {
        wait(self.added).await;
        self.inner.truncate(path, len).await
    }

    async fn check_writable(&self, path: &StorePath) -> Result<()> {
        wait(self.added).await;
        self.inner.check_writable(path).await
    }

    async fn set_attributes(&self, path: &StorePath, changes: &AttributeChanges) -> Result<()> {
        wait(self.added).await;
        self.inner.set_attributes(path, changes).await
    }

    async fn make_dir(&self, path: &StorePath, mode: Option<u32>) -> Result<()> {
        wait(self.added).await;
        self.inner.make_dir(path, mode).await
    }

    async fn usage(&self) -> Result<Usage> {
        wait(self.added).await;
        self.inner.usage().await
    }
}

#[derive(Debug)]
struct LateReader {
    inner: Arc<dyn Reader>,
    added: Duration,
}

#[async_trait]
impl Reader for LateReader {
    fn metadata(&self) -> &Metadata {
        self.inner.metadata()
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        wait(self.added).await;
        self.inner.read_at(offset, len).await
    }

    async fn confirm(&self) -> Result<()> {
        wait(self.added).await;
        self.inner.confirm().await
    }
}

struct LateWriter {
    inner: Box<dyn Writer>,
    added: Duration,
}

#[async_trait]
impl Writer for LateWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        wait(self.added).await;
        self.inner.write(data).await
    }

    async fn sync(&mut self) -> Result<()> {
        wait(self.added).await;
        self.inner.sync().await
    }

    async fn close(self: Box<Self>) -> Result<()> {
        wait(self.added).await;
        self.inner.close().await
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use tokio::time::Instant;

    use super::*;
    use crate::store::{contract::check_store, memory::MemoryStore};

    #[tokio::test(start_paused = true)]
    async fn every_call_takes_longer_and_does_the_same() {
        let memory = MemoryStore::new();
        let f = StorePath::parse("/f").expect("a valid path");
        memory.put(&f, "abc").expect("put");
        let store = Latency::new(Arc::new(memory), Duration::from_secs(1));
        let start = Instant::now();
        store.stat(&f).await.expect("stat");
        let reader = store.open(&f, None).await.expect("open");
        assert_eq!(reader.read_at(1, 9).await.expect("read"), "bc");
        let listed: Vec<_> = store.list(&StorePath::root()).try_collect().await.expect("list");
        assert_eq!((listed.len(), start.elapsed()), (1, Duration::from_secs(4)));
        check_store(&store, &StorePath::parse("/t").expect("a valid path")).await;
    }
}
