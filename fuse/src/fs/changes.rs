//! Changes of names: mkdir, unlink, rmdir, rename.

use std::sync::Arc;

use tokio::{sync::OwnedMutexGuard, time::Instant};

use super::{Attr, Caller, FileSystem, Looked, key_of, live::Live};
use crate::{
    error::{Error, ErrorKind, Result},
    store::{Metadata, Store, StorePath},
};

/// What a rename does about an existing target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RenameMode {
    /// Replaces it, atomically.
    #[default]
    Replace,
    /// Fails with `AlreadyExists`.
    KeepExisting,
}

impl FileSystem {
    /// Makes a directory. Its attributes are counted as told once.
    pub async fn mkdir(&self, caller: Caller, parent: u64, name: &str, mode: u32) -> Result<Looked> {
        self.writable()?;
        let path = Arc::new(self.directory(parent)?.join(name)?);
        self.within(&path, async {
            let store = self.store_of(caller).await?;
            let mode = mode & 0o7777 & !self.settings.writes.umask;
            let made = store.make_dir(&path, Some(mode)).await;
            self.stats.forget(&path);
            self.forget_parent(&path);
            made?;
            if self.owns_for_callers() {
                self.give(caller, &store, &path).await?;
            }
            let asked = Instant::now();
            let metadata = store.stat(&path).await?;
            let ids = self.owners.ids(&metadata.owner, &metadata.group).await;
            let mut inodes = self.inodes.lock();
            inodes.detach(&path);
            let ino = inodes.look_up(key_of(path.clone(), &metadata));
            drop(inodes);
            Ok(self.found(Attr::new(ino, &metadata, ids, self.settings.block_bytes), asked))
        })
        .await
    }

    /// Removes a file. Who has it open goes on reading as long as the store has its bytes.
    pub async fn unlink(&self, caller: Caller, parent: u64, name: &str) -> Result<()> {
        self.remove(caller, parent, name, false).await
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, caller: Caller, parent: u64, name: &str) -> Result<()> {
        self.remove(caller, parent, name, true).await
    }

    async fn remove(&self, caller: Caller, parent: u64, name: &str, directory: bool) -> Result<()> {
        self.writable()?;
        let path = Arc::new(self.directory(parent)?.join(name)?);
        self.within(&path, async {
            let store = self.store_of(caller).await?;
            let there = store.stat(&path).await?;
            match (directory, there.is_dir()) {
                (true, false) => return Err(error(ErrorKind::NotADirectory, &path, "is not a directory")),
                (false, true) => return Err(error(ErrorKind::IsADirectory, &path, "is a directory")),
                _ => {}
            }
            let _still = self.hold_live(&path, None).await;
            let removed = match store.delete(&path, false).await {
                // Nobody knows: ask, never repeat.
                Err(error) if error.kind() == ErrorKind::TimedOut && is_gone(&*store, &path).await => Ok(()),
                outcome => outcome,
            };
            self.stats.forget(&path);
            self.forget_parent(&path);
            removed?;
            let written = self.inodes.lock().detach(&path);
            for live in written {
                live.gone("deleted");
            }
            Ok(())
        })
        .await
    }

    /// Moves a file or directory. What is open goes on; what is being written is finished under its new
    /// name.
    pub async fn rename(
        &self,
        caller: Caller,
        from: (u64, &str),
        to: (u64, &str),
        mode: RenameMode,
    ) -> Result<()> {
        self.writable()?;
        let from = Arc::new(self.directory(from.0)?.join(from.1)?);
        let to = Arc::new(self.directory(to.0)?.join(to.1)?);
        if from == to {
            return Ok(());
        }
        self.within(&from, async {
            let store = self.store_of(caller).await?;
            let before = store.stat(&from).await?;
            let _still = self.hold_live(&from, Some(&to)).await;
            let renamed = match store.rename(&from, &to, mode == RenameMode::Replace).await {
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    if moved(&*store, &from, &to, &before).await { Ok(()) } else { Err(error) }
                }
                outcome => outcome,
            };
            if before.is_dir() {
                self.stats.forget_all();
            }
            for path in [&from, &to] {
                self.stats.forget(path);
                self.forget_parent(path);
            }
            renamed?;
            let (replaced, files) = {
                let mut inodes = self.inodes.lock();
                (inodes.detach(&to), inodes.rename(&from, &to))
            };
            for live in replaced {
                live.gone("replaced");
            }
            for live in self.live_among(&files) {
                live.sink.moved(&live.shared).await;
            }
            for &ino in &files {
                // Readers that would be opened again by the old path.
                self.files.retire(ino);
            }
            if !before.is_dir() {
                self.renew(&*store, &to, &before, files).await;
            }
            Ok(())
        })
        .await
    }

    /// In some stores a new name makes a new generation. The bytes are the same, so the numbers stay.
    async fn renew(&self, store: &dyn Store, path: &Arc<StorePath>, before: &Metadata, inos: Vec<u64>) {
        let Ok(now) = store.stat(path).await else { return };
        self.made(path, &now, &inos).await;
        if now.generation == before.generation || (now.len, now.mtime) != (before.len, before.mtime) {
            return;
        }
        let lives = self.live_among(&inos);
        {
            let mut inodes = self.inodes.lock();
            for ino in inos {
                if inodes.get(ino).is_some_and(|key| key.generation == Some(before.generation)) {
                    inodes.renew(ino, now.generation);
                }
            }
        }
        for live in lives {
            let knows_better = live.sink.rebase(&live.shared, before.generation, now.generation).await;
            if !knows_better && live.shared.metadata().generation == before.generation {
                live.shared.show(Arc::new(now.clone()));
            }
        }
    }

    /// The file at `path` got these bytes, with the numbers `inos`, by this mount. Time and length, which
    /// are all that HDFS tells, may be those of older bytes: of `utimens` and of a rename often, of a write
    /// rarely. Nothing remembered may be taken for them.
    pub(super) async fn made(&self, path: &Arc<StorePath>, metadata: &Metadata, inos: &[u64]) {
        let key = key_of(path.clone(), metadata);
        let old = self.inodes.lock().supersede(&key, inos);
        for ino in old {
            self.files.retire(ino);
        }
        self.databases.forget(key.digest());
        self.cache.replaced(key.digest(), metadata.len).await;
    }

    fn live_among(&self, inos: &[u64]) -> Vec<Arc<Live>> {
        let inodes = self.inodes.lock();
        inos.iter().filter_map(|ino| inodes.live(*ino).cloned()).collect()
    }

    /// Lets what is being written at or below `path`, and at `to`, not take its place in the store now.
    async fn hold_live(&self, path: &StorePath, to: Option<&StorePath>) -> Vec<Option<OwnedMutexGuard<()>>> {
        let mut live = self.inodes.lock().all_live();
        let below = format!("{path}/");
        live.retain(|(_, live)| {
            let at = live.shared.path();
            *at == *path || at.as_str().starts_with(&below) || to.is_some_and(|to| *at == *to)
        });
        // In one order, so that two renames do not wait for each other.
        live.sort_by_key(|(ino, _)| *ino);
        let mut held = Vec::with_capacity(live.len());
        for (_, live) in live {
            held.push(live.sink.hold().await);
        }
        held
    }
}

fn error(kind: ErrorKind, path: &StorePath, why: &str) -> Error {
    Error::new(kind, format!("{path}: {why}"))
}

async fn is_gone(store: &dyn Store, path: &StorePath) -> bool {
    store.stat(path).await.is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Whether a rename of unknown outcome was made: the source is gone, and what it was is at the target.
async fn moved(store: &dyn Store, from: &StorePath, to: &StorePath, before: &Metadata) -> bool {
    let there = |now: Metadata| (now.kind, now.len) == (before.kind, before.len);
    is_gone(store, from).await && store.stat(to).await.is_ok_and(there)
}
