//! Requests of the kernel as calls of [`FileSystem`], its answers as replies. Decides nothing.

use std::{
    ffi::OsStr,
    io,
    panic::AssertUnwindSafe,
    path::Path,
    sync::{Arc, mpsc},
    task::{Context, Poll, Waker},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, Filesystem, FopenFlags,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use futures::FutureExt;
use tokio::{runtime::Handle, sync::watch};

use super::translate::{
    NO_GENERATION, attributes, blank, caller, errno, kind, new_text, open_flags, opened_for, reply_looked,
    reply_opened, send_xattr, set_time, text,
};
use crate::{
    error::{Error, ErrorKind, Result},
    fs::{Created, FileSystem, FsOperation, OpenFor, RenameMode, SetAttr},
    store::NAME_BYTES_MAX,
};

/// Requests without a waiting process (readahead) that the kernel may have under way. `fuser`'s 16 would
/// be two readers' worth.
const BACKGROUND_MAX: u16 = 64;

/// Largest read of one request in bytes. Cached reads are bounded by the kernel's readahead (128 KiB).
const REQUEST_BYTES_MAX: u32 = 1 << 20;

#[derive(Debug)]
pub(super) struct Callbacks {
    fs: Arc<FileSystem>,
    runtime: Handle,
    /// Dropped with the session, which tells of its end.
    _lives: Lives,
}

/// Whoever waits for its end, and the thread of its upkeep.
pub(super) type Lives = (watch::Sender<()>, mpsc::Sender<()>);

impl Callbacks {
    pub(super) fn new(fs: Arc<FileSystem>, runtime: Handle, lives: Lives) -> Self {
        Self { fs, runtime, _lives: lives }
    }

    /// Runs `operation` and replies: here and now if it needs nothing but memory, else from a task.
    fn answer<T, F>(
        &self,
        what: FsOperation,
        operation: impl FnOnce(Arc<FileSystem>) -> F,
        reply: impl FnOnce(Result<T>) + Send + 'static,
    ) where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let _inside = self.runtime.enter();
        let since = Instant::now();
        // `fuser` answers EIO for a reply that is dropped, which SQLite takes for corruption: a bug of
        // ours or of a client library must say something else.
        let mut operation =
            Box::pin(AssertUnwindSafe(operation(self.fs.clone())).catch_unwind().map(|done| {
                done.unwrap_or_else(|_| Err(Error::new(ErrorKind::Other, "the operation panicked")))
            }));
        match operation.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => {
                reply(outcome);
                self.fs.timings().answered(what, since);
            }
            Poll::Pending => {
                let fs = self.fs.clone();
                self.runtime.spawn(async move {
                    reply(operation.await);
                    fs.timings().answered(what, since);
                });
            }
        }
    }

    /// The same for an operation that only succeeds or fails.
    fn done<F>(&self, what: FsOperation, reply: ReplyEmpty, operation: impl FnOnce(Arc<FileSystem>) -> F)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.answer(what, operation, |outcome| match outcome {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        });
    }

    /// Why something that the store has not is refused: on a read-only mount, because of that.
    fn refused(&self, otherwise: Errno) -> Errno {
        if self.fs.settings().writes.read_only { Errno::EROFS } else { otherwise }
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
            // One request to cut a file and open it, instead of an open whose data nobody wants.
            InitFlags::FUSE_ATOMIC_O_TRUNC,
        ] {
            let _ = config.add_capabilities(wanted);
        }
        let _ = config.set_max_background(BACKGROUND_MAX);
        let _ = config.set_max_write(REQUEST_BYTES_MAX);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (who, name) = (caller(request), text(name));
        self.answer(
            FsOperation::Lookup,
            async move |fs: Arc<FileSystem>| fs.lookup(who, parent.0, &name?).await,
            |looked| reply_looked(reply, looked),
        );
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.fs.forget(ino.0, count);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let who = caller(request);
        self.answer(
            FsOperation::Getattr,
            async move |fs: Arc<FileSystem>| fs.getattr(who, ino.0).await,
            |found| match found {
                Ok((attr, ttl)) => reply.attr(&ttl, &attributes(&attr)),
                Err(error) => reply.error(errno(&error)),
            },
        );
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (who, wanted) = (caller(request), opened_for(flags));
        self.answer(
            FsOperation::Open,
            async move |fs: Arc<FileSystem>| match wanted {
                None => fs.open(who, ino.0).await,
                Some(wanted) => fs.open_for_writing(who, ino.0, wanted).await,
            },
            |opened| reply_opened(reply, opened),
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
            FsOperation::Read,
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
        self.done(FsOperation::Release, reply, async move |fs: Arc<FileSystem>| {
            fs.release(fh.0).await;
            Ok(())
        });
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let who = caller(request);
        self.answer(
            FsOperation::Opendir,
            async move |fs: Arc<FileSystem>| fs.opendir(who, ino.0).await,
            |opened| match opened {
                Ok(fh) => reply.opened(FileHandle(fh), FopenFlags::empty()),
                Err(error) => reply.error(errno(&error)),
            },
        );
    }

    fn readdir(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.answer(
            FsOperation::Readdir,
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
            FsOperation::Readdir,
            async move |fs: Arc<FileSystem>| fs.readdir(fh.0, offset, true).await,
            move |listed| match listed {
                Ok(entries) => {
                    for entry in entries {
                        let ino = fs.told(&entry);
                        let (node, attr, ttl) = match &entry.attr {
                            Some((attr, ttl)) => {
                                (ino, FileAttr { ino: INodeNo(ino), ..attributes(attr) }, *ttl)
                            }
                            // Number 0: the kernel asks for it if it has to know.
                            None => (0, blank(ino, entry.kind), Duration::ZERO),
                        };
                        if reply.add(INodeNo(node), entry.next, &entry.name, &ttl, &attr, NO_GENERATION) {
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
            FsOperation::Statfs,
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

    // ENOSYS to these tells the kernel to decide by itself and not to ask again. Locks are not here either:
    // the kernel keeps those of its own processes.

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (who, name) = (caller(request), new_text(name));
        let exclusive = flags & libc::O_EXCL != 0;
        let wanted = OpenFor { exclusive, ..opened_for(OpenFlags(flags)).unwrap_or_default() };
        self.answer(
            FsOperation::Create,
            async move |fs: Arc<FileSystem>| fs.create(who, parent.0, &name?, mode, wanted).await,
            |created| match created {
                Ok(Created { attr, ttl, opened }) => {
                    let flags = open_flags(&opened);
                    reply.created(&ttl, &attributes(&attr), NO_GENERATION, FileHandle(opened.fh), flags);
                }
                Err(error) => reply.error(errno(&error)),
            },
        );
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // At most `REQUEST_BYTES_MAX`.
        let (len, data) = (data.len() as u32, Bytes::copy_from_slice(data));
        let soon = flags.0 & libc::O_DIRECT != 0;
        self.answer(
            FsOperation::Write,
            async move |fs: Arc<FileSystem>| {
                if let Some(owner) = owner {
                    fs.written_by(fh.0, owner.0);
                }
                fs.write(fh.0, offset, data, soon).await
            },
            move |written| match written {
                Ok(()) => reply.written(len),
                Err(error) => reply.error(errno(&error)),
            },
        );
    }

    fn flush(&self, _: &Request, _: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        self.done(FsOperation::Flush, reply, async move |fs: Arc<FileSystem>| {
            fs.flush_by(fh.0, owner.0).await
        });
    }

    fn fsync(&self, _: &Request, _: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        self.done(FsOperation::Fsync, reply, async move |fs: Arc<FileSystem>| fs.fsync(fh.0).await);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        len: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let who = caller(request);
        let (atime, mtime) = (atime.map(set_time), mtime.map(set_time));
        let set = SetAttr { mode, uid, gid, len, atime, mtime, through_handle: handle.is_some() };
        self.answer(
            FsOperation::Setattr,
            async move |fs: Arc<FileSystem>| fs.setattr(who, ino.0, set).await,
            |found| match found {
                Ok((attr, ttl)) => reply.attr(&ttl, &attributes(&attr)),
                Err(error) => reply.error(errno(&error)),
            },
        );
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        if mode & libc::S_IFMT != libc::S_IFREG {
            return reply.error(self.refused(Errno::EPERM));
        }
        let (who, name) = (caller(request), new_text(name));
        self.answer(
            FsOperation::Create,
            async move |fs: Arc<FileSystem>| fs.make_node(who, parent.0, &name?, mode).await,
            |looked| reply_looked(reply, looked),
        );
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let (who, name) = (caller(request), new_text(name));
        self.answer(
            FsOperation::Mkdir,
            async move |fs: Arc<FileSystem>| fs.mkdir(who, parent.0, &name?, mode).await,
            |looked| reply_looked(reply, looked),
        );
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (who, name) = (caller(request), text(name));
        let unlink = async move |fs: Arc<FileSystem>| fs.unlink(who, parent.0, &name?).await;
        self.done(FsOperation::Unlink, reply, unlink);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (who, name) = (caller(request), text(name));
        let rmdir = async move |fs: Arc<FileSystem>| fs.rmdir(who, parent.0, &name?).await;
        self.done(FsOperation::Rmdir, reply, rmdir);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        to_parent: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            RenameFlags::RENAME_NOREPLACE => RenameMode::KeepExisting,
            flags if flags.is_empty() => RenameMode::Replace,
            _ => return reply.error(self.refused(Errno::EINVAL)),
        };
        let (who, name, to_name) = (caller(request), text(name), new_text(to_name));
        self.done(FsOperation::Rename, reply, async move |fs: Arc<FileSystem>| {
            fs.rename(who, (parent.0, &name?), (to_parent.0, &to_name?), mode).await
        });
    }

    // What HDFS has not: links, devices, space reserved ahead, extended attributes of others.

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(self.refused(Errno::EPERM));
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(self.refused(Errno::EPERM));
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(self.refused(Errno::EOPNOTSUPP));
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(self.refused(Errno::EOPNOTSUPP));
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(self.refused(Errno::EOPNOTSUPP));
    }

    // The kernel copies by reading and writing instead.
    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }
}
