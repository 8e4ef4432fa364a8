//! Writes of any pattern, to a local copy that goes to the store at fsync and close.
//!
//! The copy is made at the first change: of the generation that was opened, or of nothing if the file is
//! cut to nothing first. From then on all readers of the live file read it. An upload works on the file
//! as it is at one moment: if somebody writes meanwhile it begins again, and then writers wait. A failed
//! one leaves everything as it was and is tried again, by the next fsync or close, from time to time, at
//! the end of the process and by the next one.
//!
//! Locks, in this order: `uploading` (one upload at a time), `core` (who changes the copy), `placing`
//! (the path of the file means the same to upload, unlink, rename and chmod, which hold it).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use parking_lot::Mutex as SyncMutex;
use tokio::{
    sync::{Mutex, MutexGuard, OwnedMutexGuard},
    time::{Instant, timeout},
};

use super::{At, Shared, Sink, budget::Budget};
use crate::{
    error::{Error, ErrorKind, Result},
    fs::{Caller, stale},
    staging::{Area, Base, CHUNK_BYTES, Piece, Placed, Record, Upload, blocking},
    store::{CreateOptions, Generation, Metadata, Reader, StorePath},
};

/// One read of the store when a copy is made, and how many are under way.
const FETCH_BYTES: usize = 4 << 20;
const FETCHES: usize = 2;

/// How long after a failed upload it is tried again without being asked, at first and at last.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// Where copies are made, and how they are sent.
#[derive(Debug, Clone)]
pub(in crate::fs) struct Staging {
    pub(in crate::fs) area: Arc<Area>,
    /// Bounds the memory of copies that are made or sent.
    pub(in crate::fs) budget: Budget,
    /// Longest time of one call of the store.
    pub(in crate::fs) step: Duration,
}

#[derive(Debug)]
struct Retry {
    after: Duration,
    at: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub(in crate::fs) struct Staged {
    staging: Staging,
    options: CreateOptions,
    caller: Caller,
    uploading: Mutex<()>,
    placing: Arc<Mutex<()>>,
    core: Mutex<()>,
    piece: SyncMutex<Option<Arc<Piece>>>,
    /// While dirty: what the copy was made from.
    base: SyncMutex<Base>,
    dirty: AtomicBool,
    lost: SyncMutex<Option<Error>>,
    retry: SyncMutex<Retry>,
}

impl Staged {
    /// Of a file of the store. `options`: how a file is made anew.
    pub(in crate::fs) fn new(staging: Staging, options: CreateOptions, caller: Caller) -> Self {
        Self {
            staging,
            options,
            caller,
            uploading: Mutex::default(),
            placing: Arc::default(),
            core: Mutex::default(),
            piece: SyncMutex::default(),
            base: SyncMutex::default(),
            dirty: AtomicBool::new(false),
            lost: SyncMutex::default(),
            retry: SyncMutex::new(Retry { after: RETRY_MIN, at: None }),
        }
    }

    /// Of what an earlier process left.
    pub(in crate::fs) fn left_over(
        staging: Staging,
        options: CreateOptions,
        caller: Caller,
        piece: Piece,
        base: Base,
    ) -> Self {
        let staged = Self::new(staging, options, caller);
        *staged.piece.lock() = Some(Arc::new(piece));
        *staged.base.lock() = base;
        staged.dirty.store(true, SeqCst);
        staged
    }

    fn piece(&self) -> Option<Arc<Piece>> {
        self.piece.lock().clone()
    }

    fn check(&self) -> Result<()> {
        self.lost.lock().clone().map_or(Ok(()), Err)
    }

    /// Runs `change` on the copy. With nothing to be kept of the file (`keep` 0) none is fetched.
    async fn change(
        &self,
        file: &Shared,
        core: MutexGuard<'_, ()>,
        keep: u64,
        change: impl FnOnce(&Piece) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        self.check()?;
        let piece = match self.piece() {
            Some(piece) => piece,
            None => self.copy(file, keep).await?,
        };
        if !self.is_dirty() {
            let _names = self.placing.lock().await;
            if !file.is_gone() {
                let base = Base::of(file.metadata().generation);
                self.keep(file, &piece, base).await?;
                *self.base.lock() = base;
                self.dirty.store(true, SeqCst);
            }
        }
        // Everybody reads it from now on.
        *self.piece.lock() = Some(piece.clone());
        let changed = piece.clone();
        let outcome = blocking(move || change(&changed)).await;
        file.written(piece.len());
        drop(core);
        outcome
    }

    /// A copy of the first `keep` bytes, as of the generation that is known.
    async fn copy(&self, file: &Shared, keep: u64) -> Result<Arc<Piece>> {
        let area = self.staging.area.clone();
        let piece = Arc::new(blocking(move || area.piece()).await?);
        let metadata = file.metadata();
        let len = keep.min(metadata.len);
        if len > 0 {
            let path = file.path();
            let open = file.store.0.open(&path, Some(metadata.generation));
            let reader = self.within("open", open).await.map_err(|error| match error.kind() {
                ErrorKind::NotFound => stale(&path),
                _ => error,
            })?;
            let parts = (0..len).step_by(FETCH_BYTES).map(|offset| {
                let part = (len - offset).min(FETCH_BYTES as u64) as usize;
                self.fetch(&*reader, offset, part)
            });
            let mut parts = stream::iter(parts).buffered(FETCHES);
            while let Some(part) = parts.next().await {
                let (offset, bytes, _budget) = part?;
                let piece = piece.clone();
                blocking(move || piece.write_at(offset, &bytes)).await?;
            }
        }
        Ok(piece)
    }

    async fn fetch<'a>(
        &'a self,
        reader: &'a dyn Reader,
        offset: u64,
        len: usize,
    ) -> Result<(u64, Bytes, impl Send + use<>)> {
        let budget = self.staging.budget.take(self.staging.budget.permits(len)).await?;
        let bytes = self.within("read", reader.read_at(offset, len)).await?;
        if bytes.len() < len {
            let message = format!("the store has {} of {len} bytes at {offset}", bytes.len());
            return Err(Error::new(ErrorKind::Stale, message));
        }
        Ok((offset, bytes, budget))
    }

    async fn within<T>(&self, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let step = self.staging.step;
        let late = |_| {
            let message = format!("{what} for a staged copy was not done within {step:?}");
            Err(Error::new(ErrorKind::TimedOut, message))
        };
        timeout(step, work).await.unwrap_or_else(late)
    }

    /// What follows is not lost if this process is.
    async fn keep(&self, file: &Shared, piece: &Arc<Piece>, base: Base) -> Result<()> {
        let (url, path) = (file.store.0.url().to_string(), file.path().as_str().to_owned());
        let user = (self.caller.uid, self.caller.gid);
        let record = Record::new(url, path, base, file.metadata().mode, user);
        let kept = piece.clone();
        blocking(move || kept.keep(record)).await
    }

    fn is_dirty(&self) -> bool {
        self.dirty.load(SeqCst)
    }

    /// Whether there is anything to be sent.
    fn has_news(&self, file: &Shared) -> bool {
        self.is_dirty() && !file.is_gone()
    }

    async fn bring(&self, file: &Shared) -> Result<Arc<Metadata>> {
        let _one = self.uploading.lock().await;
        let Some(piece) = self.piece().filter(|_| self.has_news(file)) else {
            self.check()?;
            return Ok(file.metadata());
        };
        let _budget = self.staging.budget.take(self.staging.budget.permits(2 * CHUNK_BYTES)).await?;
        let upload = Upload { store: &*file.store.0, piece: &piece, step: self.staging.step };
        let temporary = upload.temporary(&file.path())?;
        let sending = piece.clone();
        blocking(move || sending.set_sending(true)).await?;
        let outcome = self.send(file, &upload, &temporary).await;
        let cleared = match &outcome {
            Ok(true) => true,
            _ => upload.clear(&temporary).await,
        };
        let (sent, base, failed) = (piece.clone(), *self.base.lock(), outcome.is_err());
        let noted = blocking(move || {
            if cleared {
                sent.set_sending(false)?;
            }
            if failed {
                sent.amend(|record| record.rebase(base))?;
                // Power may go before the store is back.
                sent.sync()?;
            }
            Ok(())
        });
        let noted = noted.await;
        outcome?;
        noted?;
        self.check()?;
        Ok(file.metadata())
    }

    /// Whether the file is in the store now, or lost its place; `false`: it was deleted meanwhile.
    async fn send(&self, file: &Shared, upload: &Upload<'_>, temporary: &StorePath) -> Result<bool> {
        let mut core = None;
        for writers_wait in [false, true] {
            if writers_wait {
                core = Some(self.core.lock().await);
            }
            let version = upload.piece.version();
            let sent = upload.send(temporary, self.options(file)).await?;
            let core = match core.take() {
                Some(core) => core,
                None => self.core.lock().await,
            };
            let _names = self.placing.lock().await;
            if !self.has_news(file) {
                return Ok(false);
            }
            if upload.piece.version() == version && sent == upload.piece.len() {
                self.place(file, upload, temporary).await?;
                drop(core);
                return Ok(true);
            }
        }
        Err(Error::new(ErrorKind::Other, format!("{}: the staged copy changed by itself", file.path())))
    }

    fn options(&self, file: &Shared) -> CreateOptions {
        let known = file.metadata();
        CreateOptions {
            mode: Some(known.mode),
            // One copy may mean an erasure coded file, which is none of its own.
            replication: self.options.replication.or((known.replication > 1).then_some(known.replication)),
            ..self.options
        }
    }

    async fn place(&self, file: &Shared, upload: &Upload<'_>, temporary: &StorePath) -> Result<()> {
        let target = file.path();
        let mut placed = upload.place(temporary, &target, &self.base).await;
        // A directory was renamed while the file was sent, and took it along.
        let along = upload.temporary(&target)?;
        if along != *temporary && placed.as_ref().is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            placed = upload.place(&along, &target, &self.base).await;
        }
        match placed? {
            Placed::There(metadata) => {
                // In this order: who finds nothing left to send compares this with the store.
                file.show(metadata);
                self.settle(file, upload.piece).await;
            }
            Placed::Beside(beside) => {
                let url = file.store.0.url().to_string();
                let kept = format!("{}{beside}", url.trim_end_matches('/'));
                tracing::warn!(
                    path = %target, %kept,
                    "somebody else changed a file that was written here: theirs stays, ours is kept at {kept}"
                );
                let message = format!(
                    "{target} was changed by somebody else while it was written; what was written is kept at {kept}"
                );
                *self.lost.lock() = Some(Error::new(ErrorKind::Stale, message));
                self.settle(file, upload.piece).await;
                file.end("replaced");
            }
        }
        Ok(())
    }

    /// The bytes are in the store.
    async fn settle(&self, file: &Shared, piece: &Arc<Piece>) {
        self.dirty.store(false, SeqCst);
        self.retry.lock().after = RETRY_MIN;
        let kept = piece.clone();
        if let Err(error) = blocking(move || kept.is_in_store()).await {
            // The next start finds it to be the same as what is there.
            tracing::warn!(path = %file.path(), %error, "a staged file that the store has is still there");
        }
    }

    /// An outcome of [`Staged::bring`], and when it is worth another try.
    fn note<T>(&self, outcome: Result<T>) -> Result<T> {
        if outcome.is_err() && self.is_dirty() {
            let mut retry = self.retry.lock();
            retry.at = Some(Instant::now() + retry.after);
            retry.after = (2 * retry.after).min(RETRY_MAX);
        }
        outcome
    }
}

#[async_trait]
impl Sink for Staged {
    async fn write(&self, file: &Shared, at: At, data: Bytes) -> Result<()> {
        let core = self.core.lock().await;
        if data.is_empty() {
            return self.check();
        }
        let known = file.metadata().len;
        let offset = match at {
            At::Offset(offset) | At::Soon(offset) => offset,
            At::End => known,
        };
        self.change(file, core, known, move |piece| piece.write_at(offset, &data)).await
    }

    async fn sync(&self, file: &Shared) -> Result<()> {
        self.finish(file).await.map(drop)
    }

    async fn finish(&self, file: &Shared) -> Result<Arc<Metadata>> {
        let outcome = self.bring(file).await;
        self.note(outcome)
    }

    async fn truncate(&self, file: &Shared, len: u64) -> Result<()> {
        let core = self.core.lock().await;
        if len == file.metadata().len {
            return self.check();
        }
        self.change(file, core, len, move |piece| piece.set_len(len)).await
    }

    async fn read(&self, file: &Shared, offset: u64, len: usize) -> Result<Option<Bytes>> {
        match self.piece() {
            Some(piece) => blocking(move || piece.read_at(offset, len)).await.map(Some),
            // The store may not have it any more.
            None if file.metadata().len == 0 => Ok(Some(Bytes::new())),
            None => Ok(None),
        }
    }

    fn is_clean(&self) -> bool {
        !self.is_dirty()
    }

    fn keeps(&self) -> bool {
        self.is_dirty()
    }

    fn is_due(&self) -> bool {
        self.is_dirty() && self.retry.lock().at.is_none_or(|at| at <= Instant::now())
    }

    async fn hold(&self) -> Option<OwnedMutexGuard<()>> {
        Some(self.placing.clone().lock_owned().await)
    }

    async fn moved(&self, file: &Shared) {
        let Some(piece) = self.piece().filter(|_| self.is_dirty()) else { return };
        let path = file.path().as_str().to_owned();
        let amended = blocking(move || piece.amend(|record| record.path = path)).await;
        if let Err(error) = amended {
            tracing::warn!(path = %file.path(), %error, "the staging area does not know the new name yet");
        }
    }

    async fn rebase(&self, file: &Shared, before: Generation, after: Generation) -> bool {
        if !self.is_dirty() {
            return false;
        }
        {
            let mut base = self.base.lock();
            if base.generation != Some(before) {
                return true;
            }
            base.generation = Some(after);
        }
        if let Some(piece) = self.piece() {
            let amended = blocking(move || piece.amend(|record| record.base = Some(after.to_string()))).await;
            if let Err(error) = amended {
                tracing::warn!(path = %file.path(), %error, "the staging area does not know what was renewed");
            }
        }
        true
    }

    fn abandon(&self) {
        if let Some(piece) = self.piece()
            && self.lost.lock().is_none()
        {
            piece.abandon();
        }
    }

    fn let_go(&self) {
        if !self.is_dirty() {
            self.piece.lock().take();
        }
    }
}
