//! From a path to an open generation, with as few questions to the store as its freshness allows.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{sync::OnceCell, time::Instant};

use super::{Caller, FileSystem, NodeKey, files::OpenFile, stale, stats::Stat};
use crate::{
    cache::Source,
    error::{Error, ErrorKind, Result},
    store::{Generation, Metadata, Reader, Store, StorePath},
};

/// A file that is opened in the store when a byte is needed that is not cached: of the many small ones
/// that are opened again and again mostly never.
struct OnDemand {
    store: Arc<dyn Store>,
    path: Arc<StorePath>,
    metadata: Metadata,
    opened: OnceCell<Arc<dyn Reader>>,
}

impl fmt::Debug for OnDemand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDemand").field("path", &self.path).finish_non_exhaustive()
    }
}

#[async_trait]
impl Reader for OnDemand {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let opening = || async {
            let opened = self.store.open_ahead(&self.path, Some(&self.metadata)).await;
            opened.map_err(|error| gone(&self.path, error))
        };
        self.opened.get_or_try_init(opening).await?.read_at(offset, len).await
    }

    async fn confirm(&self) -> Result<()> {
        match self.opened.get() {
            Some(reader) => reader.confirm().await,
            None => Ok(()),
        }
    }
}

impl FileSystem {
    /// The file at `path`, of this generation or `Stale`.
    pub(super) async fn open_settled(
        &self,
        caller: Caller,
        store: &Arc<dyn Store>,
        ino: u64,
        path: &Arc<StorePath>,
        generation: Generation,
    ) -> Result<Arc<OpenFile>> {
        let opened = self.open_generation(caller, store, ino, path, generation).await;
        opened.map_err(|error| {
            // The kernel's next lookup must not be answered from memory.
            self.stats.forget(path);
            gone(path, error)
        })
    }

    async fn open_generation(
        &self,
        caller: Caller,
        store: &Arc<dyn Store>,
        ino: u64,
        path: &Arc<StorePath>,
        generation: Generation,
    ) -> Result<Arc<OpenFile>> {
        let viewer = self.viewer(caller);
        let early = self.early(path, generation).await;
        let asked = early.as_ref().map_or_else(Instant::now, |(_, asked)| *asked);
        let known = self.stats.last(viewer, path).filter(|known| known.generation == generation);
        let reader = match (early, known) {
            (Some((reader, _)), _) => reader,
            (None, Some(known)) => {
                let key = NodeKey { path: path.clone(), generation: Some(generation) };
                // Where each caller has his own rights, only the store's open says whether he may read.
                if !self.by_caller() && self.cache.holds(key.digest(), known.len) {
                    return self.open_cached(caller, store, ino, path, generation).await;
                }
                store.open_ahead(path, Some(&known)).await?
            }
            (None, None) => store.open(path, Some(generation)).await?,
        };
        // The first bytes of a database are on their way while this is awaited.
        let file = self.open_file(ino, path.clone(), reader);
        file.source.reader.confirm().await?;
        let found = Some(Arc::new(file.source.reader.metadata().clone()));
        self.stats.put(viewer, path.clone(), Stat { found, asked });
        Ok(file)
    }

    /// A file of which all is cached: a stat no older than the freshness says that it may be used.
    async fn open_cached(
        &self,
        caller: Caller,
        store: &Arc<dyn Store>,
        ino: u64,
        path: &Arc<StorePath>,
        generation: Generation,
    ) -> Result<Arc<OpenFile>> {
        let stat = self.stat(caller, path).await?;
        let found = stat.found.filter(|found| found.generation == generation).ok_or_else(|| stale(path))?;
        let metadata = Metadata::clone(&found);
        let (store, opened) = (Arc::clone(store), OnceCell::new());
        let reader = OnDemand { store, path: path.clone(), metadata, opened };
        Ok(self.open_file(ino, path.clone(), Arc::new(reader)))
    }

    /// A generation that was opened, ready for handles.
    pub(super) fn open_file(&self, ino: u64, path: Arc<StorePath>, reader: Arc<dyn Reader>) -> Arc<OpenFile> {
        let key = NodeKey { path, generation: Some(reader.metadata().generation) };
        let source = Source { file: key.digest(), reader: self.databases.timed(reader) };
        self.cache.name(source.file, key.path.as_str());
        let database = self.databases.open(&source, key.path.name());
        Arc::new(OpenFile { ino, key, source, database })
    }

    /// Opens what is looked up before it is opened, if it may be a database. Not where each caller has
    /// his own rights: the reader would be of another.
    pub(super) fn speculate(&self, caller: Caller, path: &Arc<StorePath>) {
        let freshness = self.tuning().freshness;
        let worth_it = self.settings.sqlite && !self.by_caller() && !freshness.is_zero();
        if worth_it && !self.stats.is_fresh(self.viewer(caller), path, freshness) {
            self.speculation.looked_up(&self.store.0, path);
        }
    }

    async fn early(
        &self,
        path: &Arc<StorePath>,
        generation: Generation,
    ) -> Option<(Arc<dyn Reader>, Instant)> {
        if self.by_caller() {
            return None;
        }
        self.speculation.take(path, generation, self.tuning().freshness).await
    }
}

fn gone(path: &StorePath, error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::IsADirectory => stale(path),
        _ => error,
    }
}
