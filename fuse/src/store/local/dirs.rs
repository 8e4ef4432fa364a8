//! Whole directories of a local store: listing one, emptying one.

use std::{ffi::OsString, os::unix::ffi::OsStringExt};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, openat, statat, unlinkat},
    io::Errno,
};

use super::{
    LocalStore,
    beneath::{self, failure, open_dir},
    openat_readable,
};
use crate::{
    error::Result,
    store::{Entry, StorePath},
};

/// Entries that one visit to a blocking thread lists.
const LIST_BATCH: usize = 256;

/// A listing under way.
pub(super) struct Listing {
    path: StorePath,
    dir: Option<Dir>,
}

impl Listing {
    pub(super) fn new(path: StorePath) -> Self {
        Self { path, dir: None }
    }
}

impl LocalStore {
    /// The next entries of a directory being listed; `None` at its end.
    pub(super) fn next_batch(&self, listing: &mut Listing) -> Result<Option<Vec<Entry>>> {
        if listing.dir.is_none() {
            let path_only = open_dir(self.root(), &listing.path)?;
            let dir = openat_readable(&path_only, &listing.path)?;
            listing.dir = Some(Dir::new(dir).map_err(|e| failure(&listing.path, e))?);
        }
        let Some(dir) = listing.dir.as_mut() else { return Ok(None) };
        let mut batch = Vec::new();
        while batch.len() < LIST_BATCH {
            let Some(entry) = dir.read() else { break };
            let entry = entry.map_err(|e| failure(&listing.path, e))?;
            let Ok(name) = entry.file_name().to_str() else {
                tracing::warn!(dir = %listing.path, name = ?entry.file_name(), "left out: a name that is not UTF-8");
                continue;
            };
            if name == "." || name == ".." {
                continue;
            }
            let fd = dir.fd().map_err(|e| failure(&listing.path, e))?;
            let stat = match statat(fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // Deleted since the directory was read.
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(failure(&listing.path, e)),
            };
            if let Some(metadata) = beneath::metadata(&stat, &self.inner.names) {
                batch.push(Entry { name: name.into(), metadata });
            }
        }
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// Removes all below `path`, links too (themselves, not what they point to).
    pub(super) fn empty(&self, path: &StorePath) -> Result<()> {
        // A stack of names, not of calls: depth is bounded by the path length, the machine stack is not ours.
        let mut open = vec![(openat_readable(&open_dir(self.root(), path)?, path)?, OsString::new())];
        while let Some((dir, _)) = open.last() {
            let mut child = None;
            for entry in Dir::read_from(dir).map_err(|e| failure(path, e))? {
                let entry = entry.map_err(|e| failure(path, e))?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                match unlinkat(dir, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(Errno::ISDIR | Errno::PERM) => {
                        match unlinkat(dir, name, AtFlags::REMOVEDIR) {
                            Ok(()) | Err(Errno::NOENT) => continue,
                            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                            Err(e) => return Err(failure(path, e)),
                        }
                        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                        let inner = openat(dir, name, flags, Mode::empty()).map_err(|e| failure(path, e))?;
                        child = Some((inner, OsString::from_vec(name.to_bytes().to_vec())));
                        break;
                    }
                    Err(e) => return Err(failure(path, e)),
                }
            }
            match child {
                Some(child) => open.push(child),
                None => {
                    let done = open.pop();
                    if let (Some((_, name)), Some((parent, _))) = (done, open.last()) {
                        match unlinkat(parent, name.as_os_str(), AtFlags::REMOVEDIR) {
                            // Filled again meanwhile: the next visit to the parent takes it up.
                            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => {}
                            Err(e) => return Err(failure(path, e)),
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
