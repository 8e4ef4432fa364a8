//! Counting what a store is asked: the innermost decorator, so each retry counts.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};

pub use self::counters::{Counters, Operation, OperationSnapshot, Snapshot};
use super::{
    AttributeChanges, CreateOptions, Entry, Generation, Metadata, Reader, Store, StorePath, StoreUrl, Usage,
    Writer,
};
use crate::error::Result;

mod counters;
#[cfg(test)]
mod tests;

/// Counts every call that reaches the store below it.
pub(super) struct Count {
    inner: Arc<dyn Store>,
    counters: Arc<Counters>,
}

impl Count {
    pub(super) fn new(inner: Arc<dyn Store>, counters: Arc<Counters>) -> Self {
        Self { inner, counters }
    }
}

#[async_trait]
impl Store for Count {
    fn url(&self) -> &StoreUrl {
        self.inner.url()
    }

    async fn stat(&self, path: &StorePath) -> Result<Metadata> {
        let call = self.counters.start(Operation::Stat);
        call.done(self.inner.stat(path).await)
    }

    fn list<'a>(&'a self, dir: &'a StorePath) -> BoxStream<'a, Result<Entry>> {
        let state = (Some(self.counters.start(Operation::List)), self.inner.list(dir));
        futures::stream::unfold(state, |(mut call, mut entries)| async move {
            let next = entries.next().await;
            match &next {
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    let _ = call.take().map(|call| call.done::<()>(Err(error.clone())));
                }
                None => {
                    let _ = call.take().map(|call| call.done(Ok(())));
                }
            }
            next.map(|next| (next, (call, entries)))
        })
        .boxed()
    }

    async fn open(&self, path: &StorePath, expected: Option<Generation>) -> Result<Arc<dyn Reader>> {
        let call = self.counters.start(Operation::Open);
        let inner = call.done(self.inner.open(path, expected).await)?;
        Ok(Arc::new(CountedReader { inner, counters: Arc::clone(&self.counters) }))
    }

    async fn open_ahead(&self, path: &StorePath, known: Option<&Metadata>) -> Result<Arc<dyn Reader>> {
        let call = self.counters.start(Operation::Open);
        let inner = call.done(self.inner.open_ahead(path, known).await)?;
        Ok(Arc::new(CountedReader { inner, counters: Arc::clone(&self.counters) }))
    }

    async fn create(&self, path: &StorePath, options: CreateOptions) -> Result<Box<dyn Writer>> {
        let call = self.counters.start(Operation::Create);
        let inner = call.done(self.inner.create(path, options).await)?;
        Ok(Box::new(CountedWriter { inner, counters: Arc::clone(&self.counters) }))
    }

    async fn rename(&self, from: &StorePath, to: &StorePath, overwrite: bool) -> Result<()> {
        let call = self.counters.start(Operation::Rename);
        call.done(self.inner.rename(from, to, overwrite).await)
    }

    async fn delete(&self, path: &StorePath, recursive: bool) -> Result<()> {
        let call = self.counters.start(Operation::Delete);
        call.done(self.inner.delete(path, recursive).await)
    }

    async fn create_dir(&self, path: &StorePath) -> Result<()> {
        let call = self.counters.start(Operation::CreateDir);
        call.done(self.inner.create_dir(path).await)
    }

    async fn append(&self, path: &StorePath) -> Result<(Box<dyn Writer>, u64)> {
        let call = self.counters.start(Operation::Append);
        let (inner, end) = call.done(self.inner.append(path).await)?;
        Ok((Box::new(CountedWriter { inner, counters: Arc::clone(&self.counters) }), end))
    }

    async fn truncate(&self, path: &StorePath, len: u64) -> Result<()> {
        let call = self.counters.start(Operation::Truncate);
        call.done(self.inner.truncate(path, len).await)
    }

    async fn check_writable(&self, path: &StorePath) -> Result<()> {
        // Told as what HDFS is asked: to set no time.
        let call = self.counters.start(Operation::SetAttributes);
        call.done(self.inner.check_writable(path).await)
    }

    async fn set_attributes(&self, path: &StorePath, changes: &AttributeChanges) -> Result<()> {
        let call = self.counters.start(Operation::SetAttributes);
        call.done(self.inner.set_attributes(path, changes).await)
    }

    async fn make_dir(&self, path: &StorePath, mode: Option<u32>) -> Result<()> {
        let call = self.counters.start(Operation::MakeDir);
        call.done(self.inner.make_dir(path, mode).await)
    }

    async fn usage(&self) -> Result<Usage> {
        let call = self.counters.start(Operation::Usage);
        call.done(self.inner.usage().await)
    }
}

#[derive(Debug)]
struct CountedReader {
    inner: Arc<dyn Reader>,
    counters: Arc<Counters>,
}

#[async_trait]
impl Reader for CountedReader {
    fn metadata(&self) -> &Metadata {
        self.inner.metadata()
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let call = self.counters.start(Operation::Read);
        let outcome = self.inner.read_at(offset, len).await;
        if let Ok(bytes) = &outcome {
            call.bytes(bytes.len());
        }
        call.done(outcome)
    }

    async fn confirm(&self) -> Result<()> {
        self.inner.confirm().await
    }
}

struct CountedWriter {
    inner: Box<dyn Writer>,
    counters: Arc<Counters>,
}

#[async_trait]
impl Writer for CountedWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let call = self.counters.start(Operation::Write);
        let len = data.len();
        let outcome = self.inner.write(data).await;
        if outcome.is_ok() {
            call.bytes(len);
        }
        call.done(outcome)
    }

    async fn sync(&mut self) -> Result<()> {
        let call = self.counters.start(Operation::Sync);
        call.done(self.inner.sync().await)
    }

    async fn close(self: Box<Self>) -> Result<()> {
        let call = self.counters.start(Operation::Close);
        call.done(self.inner.close().await)
    }
}
