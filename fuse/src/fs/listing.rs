//! Operations on directories.

use std::{sync::Arc, time::Duration};

use super::{Attr, Caller, FileSystem, NodeKey, ROOT, Stat, dirs::DOTS, key_of, no_handle};
use crate::{
    error::Result,
    store::{FileKind, StorePath},
};

/// Entries given in one answer; more than the kernel's buffer takes of usual names.
const BATCH: usize = 512;

/// One entry of a listing.
#[derive(Debug, Clone)]
pub struct DirEntry {
    /// Its name.
    pub name: String,
    /// Its number.
    pub ino: u64,
    /// File or directory.
    pub kind: FileKind,
    /// Where the listing goes on after this entry.
    pub next: u64,
    /// Attributes and how long they are good, if they were asked for; never of `.` and `..`.
    pub attr: Option<(Attr, Duration)>,
    key: Option<NodeKey>,
}

impl FileSystem {
    /// Opens a directory for listing; gives the handle.
    pub async fn opendir(&self, caller: Caller, ino: u64) -> Result<u64> {
        let (path, store) = (self.directory(ino)?, self.store_of(caller).await?);
        Ok(self.dirs.open(path, store, self.viewer(caller)))
    }

    /// Some entries from `offset` on: 0 or the `next` of an entry of this handle. Empty at the end.
    ///
    /// With `attrs` each entry carries its attributes; those told to the kernel have to be counted with
    /// [`FileSystem::told`].
    pub async fn readdir(&self, fh: u64, offset: u64, attrs: bool) -> Result<Vec<DirEntry>> {
        let dir = self.dirs.get(fh).ok_or_else(|| no_handle(fh))?;
        self.speculation.listed(&dir.path);
        self.within(&dir.path, async {
            let mut entries = Vec::new();
            if offset < DOTS {
                let parent = dir.path.parent().map_or(ROOT, |parent| self.number_of(parent));
                let dots = [(".", self.number_of(StorePath::clone(&dir.path))), ("..", parent)];
                for (next, (name, ino)) in (1..).zip(dots).skip(offset as usize) {
                    let (name, kind) = (name.to_owned(), FileKind::Directory);
                    entries.push(DirEntry { name, ino, kind, next, attr: None, key: None });
                }
            }
            let position = offset.max(DOTS);
            let listed = dir.entries(&self.runtime, position, BATCH, offset == 0).await?;
            for (next, entry) in (position + 1..).zip(listed) {
                let key = key_of(entry.path.clone(), &entry.metadata);
                let (ino, live) = self.listed_number(&key);
                let attr = if live {
                    // The kernel asks, and is told how it is by then.
                    None
                } else if attrs {
                    let ids = self.owners.ids(&entry.metadata.owner, &entry.metadata.group).await;
                    let attr = Attr::new(ino, &entry.metadata, ids, self.settings.block_bytes);
                    let found = self.found(attr.clone(), entry.asked);
                    Some((attr, found.ttl.min(found.attr_ttl)))
                } else {
                    // A lookup usually follows.
                    let stat = Stat { found: Some(entry.metadata.clone()), asked: entry.asked };
                    self.stats.put(dir.viewer, entry.path.clone(), stat);
                    None
                };
                let (name, kind) = (entry.path.name().to_owned(), entry.metadata.kind);
                entries.push(DirEntry { name, ino, kind, next, attr, key: Some(key) });
            }
            Ok(entries)
        })
        .await
    }

    /// Counts an entry with attributes as a lookup; to be called before the kernel is told. Gives its
    /// number, which is `ino` of the entry unless another one took that meanwhile.
    pub fn told(&self, entry: &DirEntry) -> u64 {
        match (&entry.key, &entry.attr) {
            (Some(key), Some(_)) => self.inodes.lock().look_up(key.clone()),
            _ => entry.ino,
        }
    }

    /// Takes [`FileSystem::told`] back: the entry did not fit into the answer.
    pub fn not_told(&self, entry: &DirEntry, ino: u64) {
        if entry.key.is_some() && entry.attr.is_some() {
            self.forget(ino, 1);
        }
    }

    /// Closes a directory handle.
    pub fn releasedir(&self, fh: u64) {
        self.dirs.close(fh);
    }

    /// The number of a listed entry, and whether it is being written here.
    fn listed_number(&self, key: &NodeKey) -> (u64, bool) {
        let inodes = self.inodes.lock();
        match inodes.live_at(&key.path) {
            Some((ino, _)) => (ino, true),
            None => (inodes.number(key), false),
        }
    }

    fn number_of(&self, dir: StorePath) -> u64 {
        self.inodes.lock().number(&NodeKey { path: Arc::new(dir), generation: None })
    }
}
