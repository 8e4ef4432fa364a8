//! Requests of the kernel as calls of [`FileSystem`], its answers as replies. Decides nothing.

use std::{
    ffi::OsStr,
    io,
    panic::AssertUnwindSafe,
    path::Path,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use futures::FutureExt;
use tokio::runtime::Handle;

use crate::{
    error::{Error, ErrorKind, Result},
    fs::{Attr, FileSystem},
    store::{FileKind, NAME_BYTES_MAX},
};

/// Requests without a waiting process (readahead) that the kernel may have under way. `fuser`'s 16 would
/// be two readers' worth.
const BACKGROUND_MAX: u16 = 64;

/// Largest read of one request in bytes. Cached reads are bounded by the kernel's readahead (128 KiB).
const REQUEST_BYTES_MAX: u32 = 1 << 20;

/// Numbers stand for generations, so the kernel needs no second number.
const NO_GENERATION: Generation = Generation(0);

#[derive(Debug)]
pub(super) struct Callbacks {
    fs: Arc<FileSystem>,
    runtime: Handle,
}

impl Callbacks {
    pub(super) fn new(fs: Arc<FileSystem>, runtime: Handle) -> Self {
        Self { fs, runtime }
    }

    /// Runs `operation` and replies: here and now if it needs nothing but memory, else from a task.
    fn answer<T, F>(
        &self,
        operation: impl FnOnce(Arc<FileSystem>) -> F,
        reply: impl FnOnce(Result<T>) + Send + 'static,
    ) where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let _inside = self.runtime.enter();
        // `fuser` answers EIO for a reply that is dropped, which SQLite takes for corruption: a bug of
        // ours or of a client library must say something else.
        let mut operation =
            Box::pin(AssertUnwindSafe(operation(self.fs.clone())).catch_unwind().map(|done| {
                done.unwrap_or_else(|_| Err(Error::new(ErrorKind::Other, "the operation panicked")))
            }));
        match operation.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => reply(outcome),
            Poll::Pending => {
                self.runtime.spawn(async move { reply(operation.await) });
            }
        }
    }
}

fn errno(error: &Error) -> Errno {
    match error.kind() {
        // Everyday answers.
        ErrorKind::NotFound | ErrorKind::Stale | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            tracing::trace!(%error, "answered");
        }
        kind => tracing::debug!(%error, ?kind, "failed"),
    }
    Errno::from_i32(error.kind().errno())
}

fn text(name: &OsStr) -> Result<String> {
    let name = name.to_str().map(str::to_owned);
    name.ok_or_else(|| Error::new(ErrorKind::NotFound, "a name that is not UTF-8"))
}

fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
    }
}

fn attributes(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.len,
        blocks: attr.len.div_ceil(512),
        atime: attr.atime,
        mtime: attr.mtime,
        ctime: attr.mtime,
        crtime: attr.mtime,
        kind: kind(attr.kind),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: attr.block_bytes,
        flags: 0,
    }
}

/// Attributes that nobody looks at: of a name that does not exist, of `.` and `..` in a listing.
fn blank(ino: u64) -> FileAttr {
    attributes(&Attr {
        ino,
        kind: FileKind::Directory,
        len: 0,
        mode: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        mtime: UNIX_EPOCH,
        atime: UNIX_EPOCH,
        block_bytes: 4096,
    })
}

fn send_xattr(value: &[u8], size: u32, reply: ReplyXattr) {
    match size as usize {
        0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        room if room < value.len() => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}

impl Filesystem for Callbacks {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // What an older kernel does not know it does without. Never FUSE_OVER_IO_URING: `fuser` accepts
        // the flag without implementing it, and the mount hangs.
        for wanted in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
        ] {
            let _ = config.add_capabilities(wanted);
        }
        let _ = config.set_max_background(BACKGROUND_MAX);
        let _ = config.set_max_write(REQUEST_BYTES_MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = text(name);
        self.answer(
            async move |fs: Arc<FileSystem>| fs.lookup(parent.0, &name?).await,
            |looked| match looked {
                Ok(looked) => match looked.attr {
                    Some(attr) => reply.entry(&looked.ttl, &attributes(&attr), NO_GENERATION),
                    None if looked.ttl.is_zero() => reply.error(Errno::ENOENT),
                    // Number 0 with a lifetime: the kernel remembers that there is nothing.
                    None => reply.entry(&looked.ttl, &blank(0), NO_GENERATION),
                },
                Err(error) => reply.error(errno(&error)),
            },
        );
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.fs.forget(ino.0, count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.answer(
            async move |fs: Arc<FileSystem>| fs.getattr(ino.0).await,
            |found| match found {
                Ok((attr, ttl)) => reply.attr(&ttl, &attributes(&attr)),
                Err(error) => reply.error(errno(&error)),
            },
        );
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        self.answer(
            async move |fs: Arc<FileSystem>| fs.open(ino.0).await,
            |opened| match opened {
                // The number is the generation: what the kernel cached under it is right.
                Ok(fh) => {
                    let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
                    reply.opened(FileHandle(fh), flags);
                }
                Err(error) => reply.error(errno(&error)),
            },
        );
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.answer(
            async move |fs: Arc<FileSystem>| fs.read(fh.0, offset, size as usize).await,
            |read| match read {
                Ok(bytes) => reply.data(&bytes),
                Err(error) => reply.error(errno(&error)),
            },
        );
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.fs.release(fh.0);
        reply.ok();
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.answer(
            async move |fs: Arc<FileSystem>| fs.opendir(ino.0).await,
            |opened| match opened {
                Ok(fh) => reply.opened(FileHandle(fh), FopenFlags::empty()),
                Err(error) => reply.error(errno(&error)),
            },
        );
    }

    fn readdir(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.answer(
            async move |fs: Arc<FileSystem>| fs.readdir(fh.0, offset, false).await,
            move |listed| match listed {
                Ok(entries) => {
                    for entry in entries {
                        if reply.add(INodeNo(entry.ino), entry.next, kind(entry.kind), &entry.name) {
                            break;
                        }
                    }
                    reply.ok();
                }
                Err(error) => reply.error(errno(&error)),
            },
        );
    }

    fn readdirplus(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let fs = self.fs.clone();
        self.answer(
            async move |fs: Arc<FileSystem>| fs.readdir(fh.0, offset, true).await,
            move |listed| match listed {
                Ok(entries) => {
                    for entry in entries {
                        let ino = fs.told(&entry);
                        let (attr, ttl) = match &entry.attr {
                            Some((attr, ttl)) => (FileAttr { ino: INodeNo(ino), ..attributes(attr) }, *ttl),
                            None => (blank(ino), Duration::ZERO),
                        };
                        if reply.add(INodeNo(ino), entry.next, &entry.name, &ttl, &attr, NO_GENERATION) {
                            fs.not_told(&entry, ino);
                            break;
                        }
                    }
                    reply.ok();
                }
                Err(error) => reply.error(errno(&error)),
            },
        );
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.fs.releasedir(fh.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.answer(
            async move |fs: Arc<FileSystem>| fs.statfs().await,
            |space| match space {
                Ok(space) => reply.statfs(
                    space.units,
                    space.units_free,
                    space.units_free,
                    space.files,
                    space.files_free,
                    space.unit_bytes,
                    NAME_BYTES_MAX as u32,
                    space.unit_bytes,
                ),
                Err(error) => reply.error(errno(&error)),
            },
        );
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.fs.xattr(ino.0, name.to_str().unwrap_or_default()) {
            Ok(Some(value)) => send_xattr(&value, size, reply),
            Ok(None) => reply.error(Errno::NO_XATTR),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.fs.xattr_names(ino.0) {
            Ok(names) => {
                let list: Vec<u8> = names.iter().flat_map(|name| [name.as_bytes(), &[0]].concat()).collect();
                send_xattr(&list, size, reply);
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    // ENOSYS to these tells the kernel to decide by itself and not to ask again.

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }

    // The kernel refuses changes of a read-only mount by itself, unless somebody remounts it writable.

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }
}
