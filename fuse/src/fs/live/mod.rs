//! Files that are being written: what happens between the first open for writing and the last close.
//!
//! [`Live`] is what all handles of one such file share. How the bytes get to the store is a [`Sink`]:
//! in order and at once ([`stream`]), or by way of a local copy ([`staged`]). Whatever needs the store to
//! have the file (a reader, `utimens`, another host after `close`) asks the sink to *finish*; a write
//! that follows goes on at the end of what was finished.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use tokio::{sync::OwnedMutexGuard, time::Instant};

use super::{FileSystem, files::OpenFile, stale};
use crate::{
    error::{Error, ErrorKind, Result},
    store::{Generation, Metadata, Store, StorePath},
};

pub(super) mod budget;
mod pipe;
pub(super) mod staged;
pub(super) mod stream;

/// Where a write goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// To this offset.
    Offset(u64),
    /// To this offset, and what lies before it may still be on its way: the kernel sends the parts of
    /// one direct write together.
    Soon(u64),
    /// To the end, wherever that is.
    End,
}

/// How the bytes of a live file get to the store. Every step ends within the store's deadline.
#[async_trait]
pub(super) trait Sink: Send + Sync + std::fmt::Debug {
    /// Takes `data`. An earlier failure is told again.
    async fn write(&self, file: &Shared, at: At, data: Bytes) -> Result<()>;

    /// Makes what was written durable.
    async fn sync(&self, file: &Shared) -> Result<()>;

    /// Makes the file in the store what was written; gives its metadata, which [`Shared::show`] has been
    /// told.
    async fn finish(&self, file: &Shared) -> Result<Arc<Metadata>>;

    /// Makes the file `len` bytes long.
    async fn truncate(&self, file: &Shared, len: u64) -> Result<()>;

    /// The bytes of a file whose writer has not finished, where the sink has them itself; `None`: finish
    /// and read from the store.
    async fn read(&self, file: &Shared, offset: u64, len: usize) -> Result<Option<Bytes>>;

    /// Hands on what waits for more to come, without waiting for anything.
    fn nudge(&self) {}

    /// Whether nothing was written that the store does not have.
    fn is_clean(&self) -> bool;

    /// Whether it has bytes that the store has not, and goes on having them when finishing fails.
    fn keeps(&self) -> bool {
        false
    }

    /// Whether it [keeps](Sink::keeps) bytes and finishing is worth another try now.
    fn is_due(&self) -> bool {
        false
    }

    /// As long as this is held the path means the same to the sink: for who renames or deletes it, or
    /// changes attributes in the store.
    async fn hold(&self) -> Option<OwnedMutexGuard<()>> {
        None
    }

    /// The file has another path, which `file` tells. Held meanwhile.
    async fn moved(&self, _file: &Shared) {}

    /// This mount changed the file in the store without changing its bytes, from generation `before` to
    /// `after`. Whether the sink knows its bytes better than the store. Held meanwhile.
    async fn rebase(&self, _file: &Shared, _before: Generation, _after: Generation) -> bool {
        false
    }

    /// The file was deleted or replaced on this mount.
    fn abandon(&self) {}

    /// Nobody writes any more, and the store has what was written: nothing local is needed.
    fn let_go(&self) {}
}

/// What is known of a live file at any moment.
#[derive(Debug)]
struct View {
    path: Arc<StorePath>,
    metadata: Arc<Metadata>,
    /// Why nothing more can be written.
    gone: Option<&'static str>,
    /// The finished file, open for reading.
    reader: Option<Arc<OpenFile>>,
}

/// The part of a live file that its sink works with.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) ino: std::sync::OnceLock<u64>,
    /// The number that programs are shown: that of the file as it was opened. Editors compare it with what
    /// they saw before, so that they do not write into another file.
    pub(super) shown: std::sync::OnceLock<u64>,
    pub(super) store: StoreOf,
    view: RwLock<View>,
    /// Whether it got bytes of which the caches have not heard.
    changed: AtomicBool,
}

/// The store as the user who writes.
pub(super) struct StoreOf(pub(super) Arc<dyn Store>);

impl std::fmt::Debug for StoreOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.url())
    }
}

impl Shared {
    /// Where the file is now.
    pub(super) fn path(&self) -> Arc<StorePath> {
        self.view.read().path.clone()
    }

    /// As the caller would see it: with the length and time of the last write.
    pub(super) fn metadata(&self) -> Arc<Metadata> {
        self.view.read().metadata.clone()
    }

    /// What the store says of the file now.
    pub(super) fn show(&self, metadata: Arc<Metadata>) {
        let mut view = self.view.write();
        view.reader.take_if(|open| open.source.reader.metadata().generation != metadata.generation);
        view.metadata = metadata;
    }

    /// Attributes were changed; what the writer knows better stays.
    pub(super) fn change(&self, metadata: &Metadata) {
        let mut view = self.view.write();
        let known = Arc::make_mut(&mut view.metadata);
        known.mode = metadata.mode;
        known.owner.clone_from(&metadata.owner);
        known.group.clone_from(&metadata.group);
    }

    /// Attributes of a file that the store does not have any more: only who has it open sees them.
    pub(super) fn set(&self, mode: Option<u32>, mtime: Option<SystemTime>) {
        let mut view = self.view.write();
        let known = Arc::make_mut(&mut view.metadata);
        known.mode = mode.unwrap_or(known.mode);
        known.mtime = mtime.unwrap_or(known.mtime);
    }

    /// Whether it was written to since this was asked last.
    pub(super) fn take_changed(&self) -> bool {
        self.changed.swap(false, SeqCst)
    }

    /// A write made it `len` bytes long.
    pub(super) fn written(&self, len: u64) {
        self.changed.store(true, SeqCst);
        let mut view = self.view.write();
        view.reader = None;
        let metadata = Arc::make_mut(&mut view.metadata);
        metadata.len = len;
        metadata.mtime = SystemTime::now();
    }

    /// An error if the file was deleted or replaced meanwhile.
    pub(super) fn check(&self) -> Result<()> {
        let view = self.view.read();
        match view.gone {
            None => Ok(()),
            Some(why) => Err(Error::new(
                ErrorKind::Stale,
                format!("{} was {why} while it was written: what was written is lost", view.path),
            )),
        }
    }

    /// Nothing more can be written.
    fn end(&self, why: &'static str) {
        self.view.write().gone.get_or_insert(why);
    }

    pub(super) fn is_gone(&self) -> bool {
        self.view.read().gone.is_some()
    }
}

/// A file being written. See the module.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) shared: Shared,
    pub(super) sink: Box<dyn Sink>,
    writers: AtomicUsize,
    since: Instant,
}

impl Live {
    pub(super) fn new(
        path: Arc<StorePath>,
        store: Arc<dyn Store>,
        metadata: Arc<Metadata>,
        sink: Box<dyn Sink>,
    ) -> Self {
        let view = View { path, metadata, gone: None, reader: None };
        let shared = Shared {
            ino: Default::default(),
            shown: Default::default(),
            store: StoreOf(store),
            view: RwLock::new(view),
            changed: AtomicBool::new(false),
        };
        Self { shared, sink, writers: AtomicUsize::new(0), since: Instant::now() }
    }

    /// One more handle may write. Under the lock of the inode table.
    pub(super) fn join(&self) {
        self.writers.fetch_add(1, SeqCst);
    }

    /// One handle less; whether it was the last.
    pub(super) fn leave(&self) -> bool {
        self.writers.fetch_sub(1, SeqCst) == 1
    }

    /// Handles that may write.
    pub(super) fn writers(&self) -> usize {
        self.writers.load(SeqCst)
    }

    /// Whether it was made a while ago and nobody came to write.
    pub(super) fn is_idle(&self, age: std::time::Duration) -> bool {
        self.writers() == 0 && self.sink.is_clean() && self.since.elapsed() >= age
    }

    /// The file has another path.
    pub(super) fn moved(&self, to: Arc<StorePath>) {
        self.shared.view.write().path = to;
    }

    /// The file is not there any more.
    pub(super) fn gone(&self, why: &'static str) {
        self.shared.end(why);
        self.sink.abandon();
    }

    pub(super) async fn write(&self, at: At, data: Bytes) -> Result<()> {
        self.sink.write(&self.shared, at, data).await
    }

    pub(super) async fn sync(&self) -> Result<()> {
        self.sink.sync(&self.shared).await
    }

    pub(super) async fn finish(&self) -> Result<Arc<Metadata>> {
        self.sink.finish(&self.shared).await
    }

    /// Waits for the end of the last close, which the kernel does not wait for: a file's time is that of
    /// its completion in the store, and is not to move after it was told. What fails is told elsewhere.
    pub(super) async fn settled(&self) {
        if self.writers() == 0 && !self.sink.is_clean() && !self.shared.is_gone() {
            let _ = self.finish().await;
        }
    }

    pub(super) async fn truncate(&self, len: u64) -> Result<()> {
        self.sink.truncate(&self.shared, len).await
    }

    /// The finished file, open for reading.
    pub(super) async fn reader(&self, fs: &FileSystem) -> Result<Arc<OpenFile>> {
        let metadata = self.finish().await?;
        if let Some(open) = self.shared.view.read().reader.clone() {
            return Ok(open);
        }
        let path = self.shared.path();
        let ino = self.shared.ino.get().copied().unwrap_or_default();
        if self.shared.take_changed() {
            fs.made(&path, &metadata, &[ino]).await;
        }
        let reader = self.shared.store.0.open(&path, Some(metadata.generation)).await;
        let reader = reader.map_err(|error| match error.kind() {
            ErrorKind::NotFound => stale(&path),
            _ => error,
        })?;
        let open = fs.open_file(ino, path, reader);
        let mut view = self.shared.view.write();
        if view.metadata.generation == metadata.generation && view.metadata.len == metadata.len {
            view.reader = Some(open.clone());
        }
        Ok(open)
    }
}
