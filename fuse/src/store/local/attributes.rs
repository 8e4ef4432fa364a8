//! Changing what is there: its end, its mode and owner, its times.

use std::{
    fs::{File, Permissions},
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use nix::unistd::{Group, User};
use rustix::{
    fs::{
        Access, AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, accessat, chownat,
        mkdirat, openat, utimensat,
    },
    io::Errno,
};

use super::{
    LocalStore, LocalWriter, already_exists,
    beneath::{failure, open_dir, open_parent, present},
    is_a_directory,
};
use crate::{
    error::{Error, ErrorKind, Result},
    store::{AttributeChanges, StorePath},
};

impl LocalStore {
    /// Opens an existing file for writing, at its end.
    pub(super) fn append_now(&self, path: &StorePath) -> Result<LocalWriter> {
        if path.is_root() {
            return Err(is_a_directory(path));
        }
        let dir = open_parent(self.root(), path).map_err(|e| e.context(path))?;
        // NONBLOCK: opening a pipe that somebody put here must not wait for its reader.
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&dir, path.name(), flags, Mode::empty()).map_err(|e| match e {
            Errno::NXIO => failure(path, Errno::LOOP),
            _ => failure(path, e),
        })?;
        let stat = rustix::fs::fstat(&file).map_err(|e| failure(path, e))?;
        let metadata = present(&stat, &self.inner.names, path)?;
        let file = Arc::new(File::from(file));
        Ok(LocalWriter { dir: Arc::new(dir), path: path.clone(), file, offset: metadata.len })
    }

    pub(super) fn check_writable_now(&self, path: &StorePath) -> Result<()> {
        // A link, or a device, is as good as absent.
        if path.is_root() || self.stat_now(path)?.is_dir() {
            return Err(is_a_directory(path));
        }
        let dir = open_parent(self.root(), path).map_err(|e| e.context(path))?;
        accessat(dir, path.name(), Access::WRITE_OK, AtFlags::EACCESS).map_err(|e| failure(path, e))
    }

    pub(super) fn truncate_now(&self, path: &StorePath, len: u64) -> Result<()> {
        let writer = self.append_now(path)?;
        if len == writer.offset {
            // Nothing changes, the generation neither.
            return Ok(());
        }
        writer.file.set_len(len).map_err(|e| Error::from_io(&e, path))
    }

    pub(super) fn make_dir_now(&self, path: &StorePath, mode: Option<u32>) -> Result<()> {
        if path.is_root() {
            return Err(already_exists(path));
        }
        let dir = open_parent(self.root(), path).map_err(|e| e.context(path))?;
        let bits = Mode::from_raw_mode(mode.unwrap_or(0o777) & 0o7777);
        mkdirat(&dir, path.name(), bits).map_err(|e| failure(path, e))?;
        if mode.is_some() {
            // The umask is for those who leave the mode open.
            self.set_attributes_now(path, &AttributeChanges { mode, ..AttributeChanges::default() })?;
        }
        self.sync_parent(path)
    }

    pub(super) fn set_attributes_now(&self, path: &StorePath, changes: &AttributeChanges) -> Result<()> {
        // A link, or a device, is as good as absent.
        self.stat_now(path)?;
        let (dir, name) = if path.is_root() {
            (open_dir(self.root(), path)?, ".")
        } else {
            (open_parent(self.root(), path)?, path.name())
        };
        let fail = |e| failure(path, e);
        if changes.owner.is_some() || changes.group.is_some() {
            let uid = changes.owner.as_deref().map(|name| user(path, name)).transpose()?;
            let gid = changes.group.as_deref().map(|name| group(path, name)).transpose()?;
            chownat(&dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
        }
        if let Some(mode) = changes.mode {
            // `fchmodat` follows links; this descriptor is of what was found, and readable or not.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = openat(&dir, name, flags, Mode::empty()).map_err(fail)?;
            present(&rustix::fs::fstat(&found).map_err(fail)?, &self.inner.names, path)?;
            let by_number = format!("/proc/self/fd/{}", found.as_raw_fd());
            std::fs::set_permissions(by_number, Permissions::from_mode(mode & 0o7777))
                .map_err(|e| Error::from_io(&e, path))?;
        }
        if changes.mtime.is_some() || changes.atime.is_some() {
            let times = Timestamps {
                last_access: timespec(changes.atime),
                last_modification: timespec(changes.mtime),
            };
            utimensat(&dir, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
        }
        Ok(())
    }
}

/// The number of a name; a number is its own name, as this store shows it.
fn number(path: &StorePath, kind: &str, name: &str, found: nix::Result<Option<u32>>) -> Result<u32> {
    if let Ok(Some(number)) = found {
        return Ok(number);
    }
    name.parse().map_err(|_| {
        Error::new(ErrorKind::InvalidArgument, format!("{path}: this host knows no {kind} {name:?}"))
    })
}

fn user(path: &StorePath, name: &str) -> Result<Uid> {
    let found = User::from_name(name).map(|user| user.map(|user| user.uid.as_raw()));
    number(path, "user", name, found).map(Uid::from_raw)
}

fn group(path: &StorePath, name: &str) -> Result<Gid> {
    let found = Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw()));
    number(path, "group", name, found).map(Gid::from_raw)
}

/// A time for `utimensat`; `None` leaves it as it is.
fn timespec(time: Option<SystemTime>) -> Timespec {
    let Some(time) = time else { return Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT } };
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timespec { tv_sec: after.as_secs().cast_signed(), tv_nsec: after.subsec_nanos().into() },
        Err(before) => {
            // Nanoseconds count forwards from the second before.
            let before = before.duration();
            let up = u32::from(before.subsec_nanos() > 0);
            let nanos = (1_000_000_000 - before.subsec_nanos()) % 1_000_000_000;
            Timespec { tv_sec: -before.as_secs().cast_signed() - i64::from(up), tv_nsec: nanos.into() }
        }
    }
}
