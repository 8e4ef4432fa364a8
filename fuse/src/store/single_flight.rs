//! Concurrent identical stats and opens share one call: the outermost decorator.
//!
//! The call belongs to all who wait for it: each of them drives it, it goes on while one is left, and
//! is dropped with the last. So nobody's cancelling fails another, and there is no task to leak.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
    stream::BoxStream,
};
use parking_lot::Mutex;

use super::{
    AttributeChanges, Counters, CreateOptions, Entry, Generation, Metadata, Reader, Store, StorePath,
    StoreUrl, Usage, Writer,
};
use crate::error::Result;

pub(super) type Call<T> = BoxFuture<'static, Result<T>>;

/// What is asked, and after how many changes by this process: who has made a change must not be given
/// an answer to a question from before it.
pub(super) type Key = (StorePath, Option<Generation>, u64);

/// The calls under way of one kind.
pub(super) struct Flights<T> {
    calls: Arc<Mutex<HashMap<Key, WeakShared<Call<T>>>>>,
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    pub(super) fn new() -> Self {
        Self { calls: Arc::default() }
    }

    /// The call of `key` that is under way.
    pub(super) fn find(&self, key: &Key) -> Option<Shared<Call<T>>> {
        self.calls.lock().get(key).and_then(WeakShared::upgrade)
    }

    /// Joins the call of `key`, or starts one; tells which.
    fn join(&self, key: Key, start: impl FnOnce() -> Call<T>) -> (Shared<Call<T>>, bool) {
        match self.find(&key) {
            Some(call) => (call, true),
            None => (self.start(key, start()), false),
        }
    }

    /// Starts a call of `key`, which those who come later can find, also if another is under way.
    pub(super) fn start(&self, key: Key, inner: Call<T>) -> Shared<Call<T>> {
        let landed = Landed { calls: Arc::clone(&self.calls), key: key.clone() };
        let call = async move {
            let _landed = landed;
            inner.await
        };
        let call = call.boxed().shared();
        if let Some(weak) = call.downgrade() {
            let older = self.calls.lock().insert(key, weak);
            // Not under the lock, see `Landed`.
            drop(older);
        }
        call
    }
}

/// Takes the call off the list when it has ended or all who wanted it are gone. It may hit a later call
/// of the same key: that one is then only shared less.
struct Landed<T> {
    calls: Arc<Mutex<HashMap<Key, WeakShared<Call<T>>>>>,
    key: Key,
}

impl<T> Drop for Landed<T> {
    fn drop(&mut self) {
        let gone = self.calls.lock().remove(&self.key);
        // Not under the lock: it may be the last holder of another call.
        drop(gone);
    }
}

/// See the module.
pub(super) struct SingleFlight {
    inner: Arc<dyn Store>,
    counters: Arc<Counters>,
    changes: Arc<AtomicU64>,
    stats: Flights<Metadata>,
    opens: Flights<Arc<dyn Reader>>,
    /// Apart from `opens`: who asks there must not be given a reader that is not confirmed.
    ahead: Flights<Arc<dyn Reader>>,
}

impl SingleFlight {
    /// `changes` counts those of all who ask the same store.
    pub(super) fn new(inner: Arc<dyn Store>, counters: Arc<Counters>, changes: Arc<AtomicU64>) -> Self {
        Self { inner, counters, changes, stats: Flights::new(), opens: Flights::new(), ahead: Flights::new() }
    }

    fn key(&self, path: &StorePath, expected: Option<Generation>) -> Key {
        (path.clone(), expected, self.changes.load(SeqCst))
    }

    /// Runs a change: questions asked before, during and after it are kept apart.
    async fn change<T>(&self, change: impl Future<Output = T> + Send) -> T {
        // At both ends, also when it is given up: its outcome is then unknown.
        let _end = Changed(&self.changes);
        self.changes.fetch_add(1, SeqCst);
        change.await
    }
}

struct Changed<'a>(&'a AtomicU64);

impl Drop for Changed<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[async_trait]
impl Store for SingleFlight {
    fn url(&self) -> &StoreUrl {
        self.inner.url()
    }

    async fn stat(&self, path: &StorePath) -> Result<Metadata> {
        let (call, shared) = self.stats.join(self.key(path, None), || {
            let (inner, path) = (Arc::clone(&self.inner), path.clone());
            async move { inner.stat(&path).await }.boxed()
        });
        self.counters.shared.inc_by(u64::from(shared));
        call.await
    }

    fn list<'a>(&'a self, dir: &'a StorePath) -> BoxStream<'a, Result<Entry>> {
        self.inner.list(dir)
    }

    async fn open(&self, path: &StorePath, expected: Option<Generation>) -> Result<Arc<dyn Reader>> {
        let (call, shared) = self.opens.join(self.key(path, expected), || {
            let (inner, path) = (Arc::clone(&self.inner), path.clone());
            async move { inner.open(&path, expected).await }.boxed()
        });
        self.counters.shared.inc_by(u64::from(shared));
        call.await
    }

    async fn open_ahead(&self, path: &StorePath, known: Option<&Metadata>) -> Result<Arc<dyn Reader>> {
        let (call, shared) = self.ahead.join(self.key(path, known.map(|known| known.generation)), || {
            let (inner, path, known) = (Arc::clone(&self.inner), path.clone(), known.cloned());
            async move { inner.open_ahead(&path, known.as_ref()).await }.boxed()
        });
        self.counters.shared.inc_by(u64::from(shared));
        call.await
    }

    async fn create(&self, path: &StorePath, options: CreateOptions) -> Result<Box<dyn Writer>> {
        let inner = self.change(self.inner.create(path, options)).await?;
        Ok(Box::new(ChangingWriter { inner, changes: Arc::clone(&self.changes) }))
    }

    async fn rename(&self, from: &StorePath, to: &StorePath, overwrite: bool) -> Result<()> {
        self.change(self.inner.rename(from, to, overwrite)).await
    }

    async fn delete(&self, path: &StorePath, recursive: bool) -> Result<()> {
        self.change(self.inner.delete(path, recursive)).await
    }

    async fn create_dir(&self, path: &StorePath) -> Result<()> {
        self.change(self.inner.create_dir(path)).await
    }

    async fn append(&self, path: &StorePath) -> Result<(Box<dyn Writer>, u64)> {
        let (inner, end) = self.change(self.inner.append(path)).await?;
        Ok((Box::new(ChangingWriter { inner, changes: Arc::clone(&self.changes) }), end))
    }

    async fn truncate(&self, path: &StorePath, len: u64) -> Result<()> {
        self.change(self.inner.truncate(path, len)).await
    }

    async fn check_writable(&self, path: &StorePath) -> Result<()> {
        self.inner.check_writable(path).await
    }

    async fn set_attributes(&self, path: &StorePath, changes: &AttributeChanges) -> Result<()> {
        self.change(self.inner.set_attributes(path, changes)).await
    }

    async fn make_dir(&self, path: &StorePath, mode: Option<u32>) -> Result<()> {
        self.change(self.inner.make_dir(path, mode)).await
    }

    async fn usage(&self) -> Result<Usage> {
        self.inner.usage().await
    }
}

struct ChangingWriter {
    inner: Box<dyn Writer>,
    changes: Arc<AtomicU64>,
}

#[async_trait]
impl Writer for ChangingWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let _end = Changed(&self.changes);
        self.inner.write(data).await
    }

    async fn sync(&mut self) -> Result<()> {
        let _end = Changed(&self.changes);
        self.inner.sync().await
    }

    async fn close(self: Box<Self>) -> Result<()> {
        let Self { inner, changes } = *self;
        let _end = Changed(&changes);
        inner.close().await
    }
}
