//! Files that are being written: from create or open to the last close.
//!
//! An existing file is never written under the number that its readers have: who opens it to write is
//! answered `Stale`, upon which the kernel looks the name up again and finds the number of a live node.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Attr, Caller, FileSystem, Looked, NodeKey, key_of,
    live::{At, Live, Sink, staged::Staged, stream},
    no_handle, stale,
    stats::Stat,
};
use crate::{
    cache::Stream,
    error::{Error, ErrorKind, Result},
    store::{AttributeChanges, CreateOptions, FileKind, Metadata, Store, StorePath, Writer},
};

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenFor {
    /// Cut to nothing first.
    pub truncate: bool,
    /// Each write goes to the end.
    pub append: bool,
    /// Only if nothing has that name (of a create).
    pub exclusive: bool,
}

/// A file opened for the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// The handle.
    pub fh: u64,
    /// Whether pages that the kernel cached under this number are right.
    pub keep_pages: bool,
    /// Whether reads and writes have to pass the kernel's pages by: what is written in a stream must
    /// come in order, and not when a page happens to be written back.
    pub direct: bool,
    /// Whether it may be written to: then the kernel has to tell of each close.
    pub writes: bool,
}

/// How a file came to be that is written now.
enum Made {
    /// Anew, by whom it is written, with what was begun to be written.
    Now(Option<Box<dyn Writer>>),
    /// It was there.
    Before,
}

/// A file that was made and opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its attributes, counted as told once.
    pub attr: Attr,
    /// How long the name is good.
    pub ttl: Duration,
    /// Its handle.
    pub opened: Opened,
}

impl FileSystem {
    /// Makes a file, or opens the one that somebody else made meanwhile, and opens it for writing.
    pub async fn create(
        &self,
        caller: Caller,
        parent: u64,
        name: &str,
        mode: u32,
        wanted: OpenFor,
    ) -> Result<Created> {
        self.writable()?;
        let path = Arc::new(self.directory(parent)?.join(name)?);
        self.within(&path, async {
            let store = self.store_of(caller).await?;
            let made = self.make_file(caller, &store, &path, mode, wanted).await;
            let (ino, made) = match made {
                Ok((metadata, writer)) => {
                    (self.begin_live(caller, &path, store, metadata, Made::Now(writer)), true)
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists && !wanted.exclusive => {
                    let there = self.inodes.lock().live_at(&path).map(|(ino, _)| ino);
                    let ino = match there {
                        Some(ino) => ino,
                        None => self.begin_existing(caller, store, &path).await?,
                    };
                    (ino, false)
                }
                Err(error) => return Err(error),
            };
            let live = self.join(ino)?;
            if let Err(error) = self.admit_writer(caller, &live, wanted, made).await {
                self.leave(ino, &live).await;
                return Err(error);
            }
            let metadata = live.shared.metadata();
            let ids = self.owners.ids(&metadata.owner, &metadata.group).await;
            self.inodes.lock().look_up_again(ino);
            let attr = Attr::new(ino, &metadata, ids, self.settings.block_bytes);
            let ttl = self.lifetime(self.tuning().entry_lifetime, Instant::now());
            Ok(Created { attr, ttl, opened: self.open_writer(ino, live, wanted) })
        })
        .await
    }

    /// Makes an empty file and opens nothing. Its attributes are counted as told once.
    pub async fn make_node(&self, caller: Caller, parent: u64, name: &str, mode: u32) -> Result<Looked> {
        let exclusive = OpenFor { exclusive: true, ..OpenFor::default() };
        let created = self.create(caller, parent, name, mode, exclusive).await?;
        self.release(created.opened.fh).await;
        Ok(Looked { attr: Some(created.attr), ttl: created.ttl, attr_ttl: Duration::ZERO })
    }

    /// Opens an existing file for writing. `Stale` where the kernel has to look it up again first.
    pub async fn open_for_writing(&self, caller: Caller, ino: u64, wanted: OpenFor) -> Result<Opened> {
        self.writable()?;
        let key = self.key(ino)?;
        if key.generation.is_none() {
            return Err(Error::new(ErrorKind::IsADirectory, format!("{} is a directory", key.path)));
        }
        self.within(&key.path, async {
            let Ok(live) = self.join(ino) else {
                self.expect_writer(caller, ino, &key).await?;
                return Err(stale(&key.path));
            };
            if let Err(error) = self.admit_writer(caller, &live, wanted, false).await {
                self.leave(ino, &live).await;
                return Err(error);
            }
            Ok(self.open_writer(ino, live, wanted))
        })
        .await
    }

    /// What has to be done before somebody may write. `made`: he made the file himself, whatever its mode.
    async fn admit_writer(&self, caller: Caller, live: &Live, wanted: OpenFor, made: bool) -> Result<()> {
        if !made {
            self.check_writable(caller, &live.shared.path()).await?;
        }
        if wanted.truncate { live.truncate(0).await } else { Ok(()) }
    }

    /// Whether `caller` may write to the file at `path`. A file that somebody writes is written under his
    /// name, and a staged one is replaced by whoever may change its directory: neither says what another
    /// may do.
    pub(super) async fn check_writable(&self, caller: Caller, path: &Arc<StorePath>) -> Result<()> {
        if self.kernel_decides() {
            return Ok(());
        }
        match self.store_of(caller).await?.check_writable(path).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // The store lost what is kept staged: with one user for all, it is his.
                if self.by_caller() { Err(stale(path)) } else { Ok(()) }
            }
            outcome => outcome,
        }
    }

    /// Writes `data` to an open file. `soon`: what lies before it may still be on its way.
    pub async fn write(&self, fh: u64, offset: u64, data: Bytes, soon: bool) -> Result<()> {
        self.writable()?;
        let handle = self.files.get(fh).ok_or_else(|| no_handle(fh))?;
        let Some((live, appends)) = handle.writer() else {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("handle {fh} is for reading")));
        };
        let at = match (appends, soon) {
            // Where the kernel caches pages it knows the end, and a page written back is none of an append.
            (true, _) if self.staging.is_none() => At::End,
            (_, true) => At::Soon(offset),
            (_, false) => At::Offset(offset),
        };
        // Each step of it has a deadline of its own; who waits for his turn may wait for several.
        live.write(at, data).await
    }

    /// One descriptor of the handle is closed: what was written has to be in the store, or the close
    /// fails. Of a new file without a byte nothing is done: a shell closes a copy of its descriptor
    /// before the program runs that writes.
    pub async fn flush(&self, fh: u64) -> Result<()> {
        let handle = self.files.get(fh).ok_or_else(|| no_handle(fh))?;
        match handle.writer() {
            Some((live, _)) if !live.sink.is_clean() && live.shared.metadata().len > 0 => {
                let outcome = live.finish().await.map(drop);
                self.stats.forget(&handle.path());
                outcome
            }
            // A failure that no write met is told here.
            Some((live, _)) if !live.shared.is_gone() && !live.sink.is_clean() => live.sync().await,
            _ => Ok(()),
        }
    }

    /// Notes who writes: `owner` is the kernel's number for the descriptors of a process.
    pub fn written_by(&self, fh: u64, owner: u64) {
        if let Some(handle) = self.files.get(fh) {
            *handle.wrote.lock() = Some(owner);
        }
    }

    /// [`Self::flush`], unless somebody else than `owner` wrote last: a program that is started while
    /// another one writes closes copies of all its descriptors, and that is no reason to finish the file.
    /// Errors are for the one who wrote.
    pub async fn flush_by(&self, fh: u64, owner: u64) -> Result<()> {
        let handle = self.files.get(fh).ok_or_else(|| no_handle(fh))?;
        let wrote = *handle.wrote.lock();
        if wrote.is_some_and(|wrote| wrote != owner) {
            return Ok(());
        }
        self.flush(fh).await
    }

    /// What was written through this handle is durable when this returns.
    pub async fn fsync(&self, fh: u64) -> Result<()> {
        let handle = self.files.get(fh).ok_or_else(|| no_handle(fh))?;
        match handle.writer() {
            Some((live, _)) => live.sync().await,
            None => Ok(()),
        }
    }

    /// Closes a handle. Of the last one that wrote, the file is finished and gets its generation.
    pub async fn release(&self, fh: u64) {
        let Some(handle) = self.files.get(fh) else { return };
        self.files.close(fh);
        if let Some(file) = handle.settled() {
            self.databases.released(&file.database, &file.source);
        }
        if let Some((live, _)) = handle.writer() {
            self.leave(handle.ino(), live).await;
        }
    }

    /// Finishes everything that is being written: before the end of the process.
    pub async fn finish_writes(&self) -> Vec<Error> {
        let live = self.inodes.lock().all_live();
        let finish = live.iter().filter(|(_, live)| !live.shared.is_gone()).map(|(_, live)| live.finish());
        futures::future::join_all(finish).await.into_iter().filter_map(Result::err).collect()
    }

    pub(super) fn writable(&self) -> Result<()> {
        if self.settings.writes.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, "the mount is read-only"));
        }
        Ok(())
    }

    /// How a new file is made.
    pub(super) fn create_options(&self, mode: u32, overwrite: bool) -> CreateOptions {
        let writes = &self.settings.writes;
        CreateOptions {
            overwrite,
            create_parents: false,
            mode: Some(mode & 0o7777 & !writes.umask),
            replication: writes.replication,
            block_size: writes.block_size,
        }
    }

    async fn make_file(
        &self,
        caller: Caller,
        store: &Arc<dyn Store>,
        path: &Arc<StorePath>,
        mode: u32,
        wanted: OpenFor,
    ) -> Result<(Arc<Metadata>, Option<Box<dyn Writer>>)> {
        // A staged file is replaced when it is finished.
        let overwrite = wanted.truncate && !wanted.exclusive && self.staging.is_none();
        let options = self.create_options(mode, overwrite);
        let made = store.create(path, options).await;
        self.stats.forget(path);
        self.forget_parent(path);
        let mut writer = Some(made?);
        if self.staging.is_some()
            && let Some(writer) = writer.take()
        {
            writer.close().await?;
        }
        if self.owns_for_callers() {
            self.give(caller, store, path).await?;
        }
        Ok((Arc::new(store.stat(path).await?), writer))
    }

    /// What was made belongs to the caller, where the store does not know him.
    pub(super) async fn give(&self, caller: Caller, store: &Arc<dyn Store>, path: &StorePath) -> Result<()> {
        if caller == Caller::own() {
            return Ok(());
        }
        let (owner, group) = (Some(caller.uid.to_string()), Some(caller.gid.to_string()));
        store.set_attributes(path, &AttributeChanges { owner, group, ..Default::default() }).await
    }

    fn sink(&self, caller: Caller, metadata: &Metadata, writer: Option<Box<dyn Writer>>) -> Box<dyn Sink> {
        let options = self.create_options(metadata.mode, false);
        if let Some(staging) = &self.staging {
            return Box::new(Staged::new(staging.clone(), options, caller));
        }
        let (budget, runtime) = (self.write_budget.clone(), self.runtime.clone());
        let step = self.settings.deadline;
        Box::new(stream::Stream::new(writer, metadata.len, options, budget, step, runtime))
    }

    /// A live node for a file that was just made, or that exists.
    fn begin_live(
        &self,
        caller: Caller,
        path: &Arc<StorePath>,
        store: Arc<dyn Store>,
        metadata: Arc<Metadata>,
        made: Made,
    ) -> u64 {
        let (made, writer) = match made {
            Made::Now(writer) => (true, writer),
            Made::Before => (false, None),
        };
        let sink = self.sink(caller, &metadata, writer);
        let key = key_of(path.clone(), &metadata);
        let live = Arc::new(Live::new(path.clone(), store, metadata, sink));
        let mut inodes = self.inodes.lock();
        let replaced = if made { inodes.detach(path) } else { Vec::new() };
        let before = inodes.number(&key);
        let ino = inodes.begin(key, live.clone());
        drop(inodes);
        let _ = live.shared.ino.set(ino);
        let _ = live.shared.shown.set(if made { ino } else { before });
        for old in replaced {
            old.gone("replaced");
        }
        ino
    }

    async fn begin_existing(
        &self,
        caller: Caller,
        store: Arc<dyn Store>,
        path: &Arc<StorePath>,
    ) -> Result<u64> {
        let metadata = store.stat(path).await?;
        if metadata.kind == FileKind::Directory {
            return Err(Error::new(ErrorKind::IsADirectory, format!("{path} is a directory")));
        }
        Ok(self.begin_live(caller, path, store, Arc::new(metadata), Made::Before))
    }

    /// Makes a live node for who will come again to write.
    pub(super) async fn expect_writer(&self, caller: Caller, ino: u64, key: &NodeKey) -> Result<()> {
        let comes_anyway = {
            let inodes = self.inodes.lock();
            !inodes.attached(ino) || inodes.live_at(&key.path).is_some()
        };
        if comes_anyway {
            return Ok(());
        }
        let store = self.store_of(caller).await?;
        match self.begin_existing(caller, store, &key.path).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    fn join(&self, ino: u64) -> Result<Arc<Live>> {
        let inodes = self.inodes.lock();
        let live = inodes.live(ino).filter(|live| !live.shared.is_gone());
        let live = live.cloned().ok_or_else(|| no_handle(ino))?;
        live.join();
        Ok(live)
    }

    fn open_writer(&self, ino: u64, live: Arc<Live>, wanted: OpenFor) -> Opened {
        let stream = Stream::new(self.tuning().readahead_bytes_max);
        let fh = self.files.open_live(ino, live, true, wanted.append, stream);
        let direct = self.staging.is_none();
        Opened { fh, keep_pages: false, direct, writes: true }
    }

    /// A writer less; the last one settles the file.
    async fn leave(&self, ino: u64, live: &Arc<Live>) {
        if !live.leave() {
            return;
        }
        let finished = if live.shared.is_gone() { Err(None) } else { live.finish().await.map_err(Some) };
        if let Ok(metadata) = &finished {
            if live.shared.take_changed() {
                self.made(&live.shared.path(), metadata, &[ino]).await;
            }
            self.keep_readers(ino, live).await;
        }
        let path = live.shared.path();
        self.stats.forget(&path);
        self.forget_parent(&path);
        let mut inodes = self.inodes.lock();
        // Somebody came to write meanwhile.
        if live.writers() > 0 {
            return;
        }
        match finished {
            Ok(metadata) => {
                inodes.settle(ino, Some(metadata.generation));
                drop(inodes);
                live.sink.let_go();
            }
            // Tried again from time to time; until then it is what is read here.
            Err(Some(error)) if live.sink.keeps() && !live.shared.is_gone() => {
                drop(inodes);
                tracing::warn!(%path, %error, "a file is not in the store yet: it stays staged, to be sent later");
            }
            Err(error) => {
                inodes.settle(ino, None);
                drop(inodes);
                if let Some(error) = error {
                    tracing::warn!(%path, %error, "a file was not written to its end");
                }
            }
        }
    }

    /// Who opened it for reading meanwhile goes on with it as it is now, also after it has another name
    /// or other attributes: to be called before it settles.
    pub(super) async fn keep_readers(&self, ino: u64, live: &Live) {
        if self.files.held(ino).is_some()
            && let Err(error) = live.reader(self).await
        {
            tracing::debug!(path = %live.shared.path(), %error, "who reads it has to open it again");
        }
    }

    /// Hands on what waits, and gives up live nodes that nobody came for.
    pub(super) fn maintain_live(&self, idle: Duration) {
        let live = self.inodes.lock().all_live();
        for (ino, live) in live {
            live.sink.nudge();
            if live.is_idle(idle) && self.files.held(ino).is_none() {
                let generation = live.shared.metadata().generation;
                let mut inodes = self.inodes.lock();
                if live.writers() == 0 {
                    inodes.settle(ino, (!live.shared.is_gone()).then_some(generation));
                    drop(inodes);
                    live.sink.let_go();
                }
            } else if live.writers() == 0 && live.sink.is_due() && !live.shared.is_gone() {
                self.runtime.spawn(async move {
                    if let Err(error) = live.finish().await {
                        tracing::debug!(path = %live.shared.path(), %error, "still staged");
                    }
                });
            }
        }
    }

    pub(super) fn forget_parent(&self, path: &StorePath) {
        if let Some(parent) = path.parent() {
            self.stats.forget(&Arc::new(parent));
        }
    }

    /// The answer to a lookup of what is being written, out of memory: only its writer knows.
    pub(super) async fn look_up_live(&self, caller: Caller, path: &Arc<StorePath>) -> Result<Option<Looked>> {
        let Some((ino, live)) = self.inodes.lock().live_at(path).map(|(ino, live)| (ino, live.clone()))
        else {
            return Ok(None);
        };
        // Somebody else's file took its place.
        if live.shared.is_gone() {
            self.inodes.lock().detach(path);
            return Ok(None);
        }
        let settled = || live.writers() == 0 && !live.sink.keeps();
        if self.by_caller() || settled() {
            let is_another = |stat: &Stat| {
                let generation = live.shared.metadata().generation;
                stat.found.as_ref().is_none_or(|found| found.generation != generation)
            };
            let mut stat = self.stat(caller, path).await?;
            if settled() && is_another(&stat) {
                // What is remembered may be from before the end of the write.
                self.stats.forget(path);
                stat = self.stat(caller, path).await?;
            }
            if settled() && is_another(&stat) {
                let mut inodes = self.inodes.lock();
                if settled() {
                    live.gone("replaced");
                    inodes.settle(ino, None);
                }
                return Ok(None);
            }
        }
        live.settled().await;
        let metadata = live.shared.metadata();
        let ids = self.owners.ids(&metadata.owner, &metadata.group).await;
        let mut inodes = self.inodes.lock();
        if inodes.live_at(path).is_none_or(|(there, _)| there != ino) {
            drop(inodes);
            // It has settled: as any other file.
            return Ok(None);
        }
        inodes.look_up_again(ino);
        drop(inodes);
        let attr = Attr::new(ino, &metadata, ids, self.settings.block_bytes);
        let ttl = self.lifetime(self.tuning().entry_lifetime, Instant::now());
        Ok(Some(Looked { attr: Some(attr), ttl, attr_ttl: Duration::ZERO }))
    }

    /// Attributes of what is being written, with the number that programs are shown.
    pub(super) async fn live_attr(&self, ino: u64) -> Option<Attr> {
        let (live, attached) = {
            let inodes = self.inodes.lock();
            (inodes.live(ino)?.clone(), inodes.attached(ino))
        };
        live.settled().await;
        let metadata = live.shared.metadata();
        let ids = self.owners.ids(&metadata.owner, &metadata.group).await;
        let nlink = u32::from(attached);
        let shown = live.shared.shown.get().copied().unwrap_or(ino);
        Some(Attr { nlink, ..Attr::new(shown, &metadata, ids, self.settings.block_bytes) })
    }

    /// A reader of what is being written sees what was written when it reads.
    pub(super) async fn open_live_for_reading(&self, caller: Caller, ino: u64) -> Result<Option<Opened>> {
        let Some(live) = self.inodes.lock().live(ino).cloned() else { return Ok(None) };
        if self.by_caller() {
            self.store_of(caller).await?.open(&live.shared.path(), None).await?;
        }
        let stream = Stream::new(self.tuning().readahead_bytes_max);
        let fh = self.files.open_live(ino, live, false, false, stream);
        Ok(Some(Opened { fh, keep_pages: false, direct: false, writes: false }))
    }
}
