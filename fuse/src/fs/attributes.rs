//! Changes of attributes: mode, owner, times, length.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use nix::unistd::{Gid, Group, Uid, User};
use tokio::task::spawn_blocking;

use super::{Attr, Caller, FileSystem, NOBODY, NodeKey, live::Live, stale};
use crate::{
    error::{Error, ErrorKind, Result},
    store::{AttributeChanges, Metadata, StoreUrl},
};

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The time of the call.
    Now,
    /// This time.
    At(SystemTime),
}

impl SetTime {
    fn time(self) -> SystemTime {
        match self {
            Self::Now => SystemTime::now(),
            Self::At(time) => time,
        }
    }
}

/// What is to be changed; `None` stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner on this host.
    pub uid: Option<u32>,
    /// Group on this host.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub len: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last modification.
    pub mtime: Option<SetTime>,
    /// Of a descriptor that is open for writing: whoever has it may change the length.
    pub through_handle: bool,
}

impl FileSystem {
    /// Changes attributes of an inode; gives those it has then. The length is changed first: if that
    /// fails, nothing was.
    pub async fn setattr(&self, caller: Caller, ino: u64, set: SetAttr) -> Result<(Attr, Duration)> {
        self.writable()?;
        let key = self.key(ino)?;
        if set.len.is_some() && key.generation.is_none() {
            return Err(Error::new(ErrorKind::IsADirectory, format!("{} is a directory", key.path)));
        }
        let (live, attached) = {
            let inodes = self.inodes.lock();
            (inodes.live(ino).cloned(), inodes.attached(ino))
        };
        if set.len.is_some() && !set.through_handle && attached {
            let path = live.as_ref().map_or_else(|| key.path.clone(), |live| live.shared.path());
            self.check_writable(caller, &path).await?;
        }
        // Steps with deadlines of their own: what was written may take longer than one on its way.
        if let (Some(len), Some(live)) = (set.len, &live) {
            self.set_live_len(ino, live, len).await?;
            self.stats.forget(&key.path);
        }
        // The end of a write would set the times again.
        if let Some(live) = &live
            && (set.atime.is_some() || set.mtime.is_some())
        {
            live.finish().await?;
        }
        self.within(&key.path, async {
            if let (Some(len), None) = (set.len, &live) {
                self.set_len(caller, ino, &key, len).await?;
            }
            let others = SetAttr { len: None, through_handle: false, ..set };
            if others != SetAttr::default() {
                self.set_others(caller, ino, &key, live.as_ref(), others).await?;
            }
            Ok(())
        })
        .await?;
        self.getattr(caller, ino).await
    }

    async fn set_live_len(&self, ino: u64, live: &Arc<Live>, len: u64) -> Result<()> {
        live.truncate(len).await?;
        // Without a writer nobody else would finish it.
        if live.writers() == 0 && !live.shared.is_gone() {
            let metadata = live.finish().await?;
            if live.shared.take_changed() {
                self.made(&live.shared.path(), &metadata, &[ino]).await;
            }
            self.keep_readers(ino, live).await;
            let mut inodes = self.inodes.lock();
            if live.writers() == 0 {
                inodes.settle(ino, Some(metadata.generation));
                drop(inodes);
                live.sink.let_go();
            }
        }
        Ok(())
    }

    async fn set_len(&self, caller: Caller, ino: u64, key: &NodeKey, len: u64) -> Result<()> {
        let found = self.stat(caller, &key.path).await?.found;
        if found.is_none_or(|found| Some(found.generation) != key.generation || found.len != len) {
            // Under a number of its own, as every change of a file's bytes.
            self.expect_writer(caller, ino, key).await?;
            return Err(stale(&key.path));
        }
        self.stats.forget(&key.path);
        Ok(())
    }

    async fn set_others(
        &self,
        caller: Caller,
        ino: u64,
        key: &NodeKey,
        live: Option<&Arc<Live>>,
        set: SetAttr,
    ) -> Result<()> {
        // Its path leads to nothing, or to another file.
        if !self.inodes.lock().attached(ino) {
            let live = live.ok_or_else(|| stale(&key.path))?;
            live.shared.set(set.mode.map(|mode| mode & 0o7777), set.mtime.map(SetTime::time));
            return Ok(());
        }
        let store = self.store_of(caller).await?;
        let _still = match live {
            Some(live) => live.sink.hold().await,
            None => None,
        };
        let path = live.map_or_else(|| key.path.clone(), |live| live.shared.path());
        let before = store.stat(&path).await?;
        let changes = self.changes(&before, set).await?;
        if changes == AttributeChanges::default() {
            return Ok(());
        }
        let outcome = store.set_attributes(&path, &changes).await;
        self.stats.forget(&path);
        outcome?;
        if before.is_dir() {
            return Ok(());
        }
        let after = Arc::new(store.stat(&path).await?);
        if after.generation != before.generation {
            self.made(&path, &after, &[ino]).await;
        }
        if let Some(live) = live
            && live.sink.rebase(&live.shared, before.generation, after.generation).await
        {
            live.shared.change(&after);
            return Ok(());
        }
        self.renew_after(ino, live, &before, &after, &changes);
        Ok(())
    }

    /// The same bytes have another generation now: the number stays, if they surely are the same.
    fn renew_after(
        &self,
        ino: u64,
        live: Option<&Arc<Live>>,
        before: &Metadata,
        after: &Arc<Metadata>,
        changes: &AttributeChanges,
    ) {
        if let Some(live) = live {
            if live.sink.is_clean() {
                live.shared.show(after.clone());
            } else {
                live.shared.change(after);
            }
            return;
        }
        let time_explained = changes.mtime.is_some() || after.mtime == before.mtime;
        if before.generation == after.generation || before.len != after.len || !time_explained {
            return;
        }
        let mut inodes = self.inodes.lock();
        if inodes.get(ino).is_some_and(|key| key.generation == Some(before.generation)) {
            inodes.renew(ino, after.generation);
            drop(inodes);
            // Its reader would find another generation when it has to open the file again.
            self.files.retire(ino);
        }
    }

    /// What the store is told: names instead of numbers, and nothing that is so already, because HDFS
    /// lets only its superuser change an owner, even to the same.
    async fn changes(&self, now: &Metadata, set: SetAttr) -> Result<AttributeChanges> {
        let time = |set: Option<SetTime>| set.map(SetTime::time);
        let (uid, gid) = self.owners.ids(&now.owner, &now.group).await;
        let owner = match set.uid {
            Some(wanted) => self.other_name(wanted, uid, &now.owner, "user", user_name).await?,
            None => None,
        };
        let group = match set.gid {
            Some(wanted) => self.other_name(wanted, gid, &now.group, "group", group_name).await?,
            None => None,
        };
        let mode = set.mode.map(|mode| mode & 0o7777).filter(|mode| *mode != now.mode & 0o7777);
        Ok(AttributeChanges { mode, owner, group, mtime: time(set.mtime), atime: time(set.atime) })
    }

    /// The name of `wanted`, unless it is the one there is now, shown as `shown`. Names that this host
    /// does not know are all shown as nobody: whoever is to become nobody may not be it yet.
    async fn other_name(
        &self,
        wanted: u32,
        shown: u32,
        now: &str,
        what: &str,
        ask: fn(u32) -> Option<String>,
    ) -> Result<Option<String>> {
        if wanted == shown && wanted != NOBODY {
            return Ok(None);
        }
        let name = self.name_of(wanted, what, ask).await?;
        Ok((name != now).then_some(name))
    }

    /// The store's name of a user or group of this host.
    async fn name_of(&self, id: u32, what: &str, ask: fn(u32) -> Option<String>) -> Result<String> {
        let name = spawn_blocking(move || ask(id)).await.ok().flatten();
        match name {
            Some(name) => Ok(name),
            // A local store takes numbers.
            None if matches!(self.store.0.url(), StoreUrl::File { .. }) => Ok(id.to_string()),
            None => {
                let message =
                    format!("this host has no name for {what} {id}, and the store knows names only");
                Err(Error::new(ErrorKind::InvalidArgument, message))
            }
        }
    }
}

fn user_name(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
}

fn group_name(gid: u32) -> Option<String> {
    Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name)
}
