//! A staged file on its way to the store: whole under a temporary name, then in its place at once.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::{task::spawn_blocking, time::timeout};

use super::{Base, Piece, Sent, recovered_name, temporary_name};
use crate::{
    error::{Error, ErrorKind, Result},
    store::{AttributeChanges, CreateOptions, Metadata, Store, StorePath},
};

/// Bytes handed to the store at once. The next ones are read from the disk meanwhile, so that an upload
/// holds twice this.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Files kept aside within one second.
const KEPT_MAX: u32 = 100;

/// What came of an upload.
#[derive(Debug, Clone)]
pub enum Placed {
    /// The path leads to the bytes.
    There(Arc<Metadata>),
    /// Somebody else had changed what was there. It is as they left it, and the bytes lie beside it.
    Beside(StorePath),
}

/// One upload. Every step ends within `step`.
pub struct Upload<'a> {
    /// Where to.
    pub store: &'a dyn Store,
    /// What.
    pub piece: &'a Arc<Piece>,
    /// Longest time of one call of the store.
    pub step: Duration,
}

impl Upload<'_> {
    /// Under which name a file that is to be at `target` is written first.
    pub fn temporary(&self, target: &StorePath) -> Result<StorePath> {
        parent(target).join(&temporary_name(target.name(), self.piece.id()))
    }

    async fn within<T>(&self, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let late = |_| {
            let message = format!("{what} of an upload was not done within {:?}", self.step);
            Err(Error::new(ErrorKind::TimedOut, message))
        };
        timeout(self.step, work).await.unwrap_or_else(late)
    }

    /// What is at `path`, if anything.
    pub async fn look(&self, path: &StorePath) -> Result<Option<Metadata>> {
        match self.within("stat", self.store.stat(path)).await {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the bytes to `temporary`, durably; gives how many. If the file changes meanwhile nobody
    /// knows what they are.
    pub async fn send(&self, temporary: &StorePath, options: CreateOptions) -> Result<u64> {
        let options = CreateOptions { overwrite: true, create_parents: false, ..options };
        let mut writer = self.within("create", self.store.create(temporary, options)).await?;
        let mut sent = 0;
        let mut next = self.chunk(sent).await?;
        while !next.is_empty() {
            sent += next.len() as u64;
            let writing = self.within("write", writer.write(next));
            let (written, read) = tokio::join!(writing, self.chunk(sent));
            written?;
            next = read?;
        }
        self.within("close", writer.close()).await?;
        Ok(sent)
    }

    async fn chunk(&self, offset: u64) -> Result<bytes::Bytes> {
        let piece = self.piece.clone();
        blocking(move || piece.read_at(offset, CHUNK_BYTES)).await
    }

    /// Moves `temporary` to `target`, if that is still what `base` says. What is replaced bequeaths mode,
    /// owner and group. `base` knows what was put there also if this fails afterwards.
    pub async fn place(
        &self,
        temporary: &StorePath,
        target: &StorePath,
        base: &Mutex<Base>,
    ) -> Result<Placed> {
        let there = self.look(target).await?;
        if !base.lock().is(there.as_ref()) {
            if let Some(there) = there
                && self.is_same(target, &there).await?
            {
                // An upload of which nobody heard that it was done.
                self.clear(temporary).await;
                return Ok(Placed::There(Arc::new(there)));
            }
            return self.keep_beside(temporary, target).await.map(Placed::Beside);
        }
        let len = self.piece.len();
        let written = self.within("stat", self.store.stat(temporary)).await?;
        if written.len != len {
            let message = format!("{temporary} has {} bytes after {len} were written", written.len);
            return Err(Error::new(ErrorKind::Other, message));
        }
        if let Some(there) = &there {
            self.inherit(temporary, &written, there).await?;
        }
        // Both may be there afterwards: what is there now, perhaps by an upload of which only `sent` told
        // until here, and the new file.
        *base.lock() = Base {
            generation: there.as_ref().map(|there| there.generation),
            sent: Some(Sent::from(&written)),
        };
        self.rename(temporary, target, true).await?;
        let now = self.within("stat", self.store.stat(target)).await?;
        if now.len != len {
            let message = format!("{target} was changed by somebody else as soon as it was written");
            return Err(Error::new(ErrorKind::Stale, message));
        }
        Ok(Placed::There(Arc::new(now)))
    }

    /// Gives the new file what the old one has. Who may write a file may not always give away his own:
    /// then it is his, and closed to a group that is not the old one.
    async fn inherit(&self, path: &StorePath, new: &Metadata, old: &Metadata) -> Result<()> {
        let owner = (new.owner != old.owner).then(|| old.owner.clone());
        let group = (new.group != old.group).then(|| old.group.clone());
        let mut mode = old.mode;
        if owner.is_some() || group.is_some() {
            let both = AttributeChanges { owner: owner.clone(), group: group.clone(), ..Default::default() };
            if !self.may(path, &both).await? {
                mode &= 0o1777;
                let alone = AttributeChanges { group: group.clone(), ..Default::default() };
                if group.is_some() && (owner.is_none() || !self.may(path, &alone).await?) {
                    mode = (mode & !0o070) | ((mode & 0o007) << 3);
                }
            }
        }
        // A change of the owner may have taken bits away.
        if mode == new.mode && owner.is_none() && group.is_none() {
            return Ok(());
        }
        let mode = AttributeChanges { mode: Some(mode), ..Default::default() };
        self.within("chmod", self.store.set_attributes(path, &mode)).await
    }

    async fn may(&self, path: &StorePath, changes: &AttributeChanges) -> Result<bool> {
        match self.within("chown", self.store.set_attributes(path, changes)).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn rename(&self, from: &StorePath, to: &StorePath, overwrite: bool) -> Result<()> {
        match self.within("rename", self.store.rename(from, to, overwrite)).await {
            // Nobody knows: ask, never repeat. Nobody else has this name.
            Err(error) if error.kind() == ErrorKind::TimedOut => match self.look(from).await? {
                None => Ok(()),
                Some(_) => Err(error),
            },
            outcome => outcome,
        }
    }

    async fn keep_beside(&self, temporary: &StorePath, target: &StorePath) -> Result<StorePath> {
        let now = SystemTime::now();
        for nth in 0..KEPT_MAX {
            let beside = parent(target).join(&recovered_name(target.name(), now, nth))?;
            match self.rename(temporary, &beside, false).await {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                outcome => return outcome.map(|()| beside),
            }
        }
        Err(Error::new(ErrorKind::AlreadyExists, format!("{target}: no free name to keep it beside")))
    }

    /// Whether the file at `path` has just these bytes.
    async fn is_same(&self, path: &StorePath, there: &Metadata) -> Result<bool> {
        if there.is_dir() || there.len != self.piece.len() {
            return Ok(false);
        }
        let open = self.store.open(path, Some(there.generation));
        let reader = match self.within("open", open).await {
            Ok(reader) => reader,
            // Changed again, or not ours to read: surely not what we wrote.
            Err(error) if matches!(error.kind(), ErrorKind::Stale | ErrorKind::PermissionDenied) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let mut offset = 0;
        while offset < there.len {
            let read = self.within("read", reader.read_at(offset, CHUNK_BYTES));
            let (theirs, ours) = tokio::join!(read, self.chunk(offset));
            let theirs = match theirs {
                Err(error) if error.kind() == ErrorKind::Stale => return Ok(false),
                read => read?,
            };
            if theirs.is_empty() || theirs != ours? {
                return Ok(false);
            }
            offset += theirs.len() as u64;
        }
        Ok(true)
    }

    /// Removes what was written under a temporary name, if anything; as well as that goes now. What stays
    /// is replaced by the next upload of this file.
    pub async fn clear(&self, temporary: &StorePath) -> bool {
        match self.within("delete", self.store.delete(temporary, false)).await {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::NotFound => true,
            Err(error) => {
                tracing::debug!(%temporary, %error, "a temporary file is still there");
                false
            }
        }
    }
}

fn parent(path: &StorePath) -> StorePath {
    path.parent().unwrap_or_else(StorePath::root)
}

/// Runs `work` where it may wait for a disk. Dropping the future leaves `work` to end by itself.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::new(ErrorKind::Other, format!("staging: {error}"))),
    }
}
