//! From a path to an open generation, with as few questions to the store as its freshness allows.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{sync::OnceCell, time::Instant};

use super::{Caller, FileSystem, NodeKey, files::OpenFile, speculation::Early, stale, stats::Stat};
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
        self.expect_journals(caller, store, path);
        let (file, asked) = match self.early(viewer, path, generation).await {
            Some((early, asked)) => {
                // The first bytes of a database are on their way since it was opened.
                early.confirm().await?;
                (self.opened_early(ino, early), asked)
            }
            None => {
                let asked = Instant::now();
                let known = self.stats.last(viewer, path).filter(|known| known.generation == generation);
                let reader = match known {
                    Some(known) => {
                        let key = NodeKey { path: path.clone(), generation: Some(generation) };
                        // Where each caller has his own rights, only the store's open says whether he may.
                        if !self.by_caller() && self.cache.holds(key.digest(), known.len) {
                            return self.open_cached(caller, store, ino, path, generation).await;
                        }
                        store.open_ahead(path, Some(&known)).await?
                    }
                    None => store.open(path, Some(generation)).await?,
                };
                // The first bytes of a database are on their way while this is awaited.
                let file = self.open_file(ino, path.clone(), reader);
                file.source.reader.confirm().await?;
                (file, asked)
            }
        };
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

    fn opened_early(&self, ino: u64, early: Early) -> Arc<OpenFile> {
        let Early { key, source, database, .. } = early;
        self.cache.name(source.file, key.path.as_str());
        Arc::new(OpenFile { ino, key, source, database })
    }

    /// Opens what is looked up before it is opened, if it may be a database, as whoever looks it up.
    pub(super) fn speculate(&self, caller: Caller, store: &Arc<dyn Store>, path: &Arc<StorePath>) {
        let (freshness, viewer) = (self.tuning().freshness, self.viewer(caller));
        let worth_it = self.settings.sqlite && !self.owns_for_callers() && !freshness.is_zero();
        if worth_it && !self.stats.is_fresh(viewer, path, freshness) {
            self.speculation.looked_up(store, viewer, path);
        }
    }

    async fn early(
        &self,
        viewer: u32,
        path: &Arc<StorePath>,
        generation: Generation,
    ) -> Option<(Early, Instant)> {
        let freshness = self.tuning().freshness;
        let (early, asked) = self.speculation.take(viewer, path, generation, freshness).await?;
        // What this mount has changed may have the same time and length as what was opened before.
        (!self.stats.changed_since(asked)).then_some((early, asked))
    }

    /// The journals of a database that is being opened will be looked up one after the other, once its
    /// first page was read: by then it is known that there are none. Next door it is not worth the questions
    /// of those who open databases as immutable.
    fn expect_journals(&self, caller: Caller, store: &Arc<dyn Store>, path: &Arc<StorePath>) {
        if self.settings.sqlite && self.databases.is_far() && !self.tuning().freshness.is_zero() {
            for journal in self.speculation.journals_of(path) {
                self.stat_ahead(caller, store, journal);
            }
        }
    }

    /// `path` is being looked up: so will be the journal that comes after it, if it is one.
    pub(super) async fn expect_next_journal(&self, caller: Caller, path: &Arc<StorePath>) {
        if self.settings.sqlite
            && self.databases.is_far()
            && !self.tuning().freshness.is_zero()
            && let Some(next) = self.speculation.journal_after(path)
            && let Ok(store) = self.store_of(caller).await
        {
            self.stat_ahead(caller, &store, next);
        }
    }

    /// Asks for what is at `path`, for whoever asks next.
    fn stat_ahead(&self, caller: Caller, store: &Arc<dyn Store>, path: Arc<StorePath>) {
        let (stats, store) = (self.stats.clone(), store.clone());
        let (viewer, freshness) = (self.viewer(caller), self.tuning().freshness);
        self.runtime.spawn(async move {
            // What fails is asked again by whoever needs it.
            let _ = stats.get(&*store, viewer, &path, freshness).await;
        });
    }
}

fn gone(path: &StorePath, error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::IsADirectory => stale(path),
        _ => error,
    }
}
