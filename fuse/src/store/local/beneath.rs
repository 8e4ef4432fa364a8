//! Reaching files below a root that nothing can lead out of.
//!
//! Each component is opened with `O_NOFOLLOW` from the one before it, so a symbolic link anywhere in
//! the path is refused, whenever it was put there. `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)` says
//! the same in one call, but is missing before Linux 5.6 and filtered in sandboxes (gVisor, old
//! container runtimes) where a local store has to work; the paths are two or three components deep.

use std::{
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat},
    io::Errno,
};
use xxhash_rust::xxh3::xxh3_128;

use super::names::Names;
use crate::{
    error::{Error, ErrorKind, Result},
    store::{FileKind, Generation, Metadata, StorePath},
};

const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The error of a system call about `path`.
pub(super) fn failure(path: &StorePath, error: Errno) -> Error {
    // A symbolic link is absent here, and so is what would lie behind it.
    if error == Errno::LOOP {
        return Error::new(ErrorKind::NotFound, format!("{path}: no such file or directory"));
    }
    Error::from_io(&error.into(), path)
}

/// Opens the directory at `path` for use as the base of further calls.
///
/// The root itself is opened by its path each time, so that one that is moved away and made anew is
/// found again; a link in the root's own path was put there by the one who configured it.
pub(super) fn open_dir(root: &Path, path: &StorePath) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir = rustix::fs::open(root, flags, Mode::empty())
        .map_err(|e| Error::from_io(&e.into(), format_args!("store root {}", root.display())))?;
    for name in path.as_str().split('/').filter(|name| !name.is_empty()) {
        dir = openat(&dir, name, DIRECTORY, Mode::empty()).map_err(|e| match e {
            // With O_PATH, O_NOFOLLOW and O_DIRECTORY a link says ENOTDIR, as a file does: tell them apart.
            Errno::NOTDIR if is_link(&dir, name) => failure(path, Errno::LOOP),
            _ => failure(path, e),
        })?;
    }
    Ok(dir)
}

fn is_link(dir: &OwnedFd, name: &str) -> bool {
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

/// The open parent directory of `path`; the root has none.
pub(super) fn open_parent(root: &Path, path: &StorePath) -> Result<OwnedFd> {
    match path.parent() {
        Some(parent) => open_dir(root, &parent),
        None => Err(Error::new(ErrorKind::InvalidArgument, "the store's root cannot be changed")),
    }
}

/// Stat of `path`, never of what a link points to.
pub(super) fn stat(root: &Path, path: &StorePath) -> Result<Stat> {
    if path.is_root() {
        return fstat(open_dir(root, path)?).map_err(|e| failure(path, e));
    }
    // Named after the whole path, also when a component of the parent is missing.
    let dir = open_parent(root, path).map_err(|e| rename_error(e, path))?;
    statat(dir, path.name(), AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failure(path, e))
}

/// The same failure, told of `path`.
pub(super) fn rename_error(error: Error, path: &StorePath) -> Error {
    error.context(path)
}

/// Which version of a file a stat is of.
pub(super) fn generation(dev: u64, inode: u64, len: u64, ctime_s: i64, ctime_ns: i64) -> Generation {
    let mut bytes = [0; 40];
    let words = [dev, inode, len, ctime_s.cast_unsigned(), ctime_ns.cast_unsigned()];
    for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
        slot.copy_from_slice(&word.to_be_bytes());
    }
    Generation(xxh3_128(&bytes).to_be_bytes())
}

/// What the store says of a file with this stat; `None` for links, sockets and devices: not in a store.
pub(super) fn metadata(stat: &Stat, names: &Names) -> Option<Metadata> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        _ => return None,
    };
    let size = stat.st_size.cast_unsigned();
    let (ctime, ctime_ns) = (stat.st_ctime, stat.st_ctime_nsec.cast_signed());
    Some(Metadata {
        kind,
        len: if kind == FileKind::File { size } else { 0 },
        mode: stat.st_mode & 0o7777,
        owner: names.user(stat.st_uid),
        group: names.group(stat.st_gid),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        atime: time(stat.st_atime, stat.st_atime_nsec),
        replication: 1,
        block_size: u64::try_from(stat.st_blksize).unwrap_or(4096),
        generation: generation(stat.st_dev, stat.st_ino, size, ctime, ctime_ns),
    })
}

/// Like [`metadata`], but a thing of another kind is an error: nothing is there.
pub(super) fn present(stat: &Stat, names: &Names, path: &StorePath) -> Result<Metadata> {
    metadata(stat, names).ok_or_else(|| failure(path, Errno::LOOP))
}

fn time(seconds: i64, nanos: u64) -> SystemTime {
    let nanos = Duration::from_nanos(nanos);
    let whole = Duration::from_secs(seconds.unsigned_abs());
    if seconds >= 0 { UNIX_EPOCH + whole + nanos } else { UNIX_EPOCH - whole + nanos }
}
