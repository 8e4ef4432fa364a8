//! The kernel's words for ours, and ours for the kernel's.

use std::{ffi::OsStr, time::UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, OpenAccMode, OpenFlags,
    ReplyEntry, ReplyOpen, ReplyXattr, Request, TimeOrNow,
};

use crate::{
    error::{Error, ErrorKind, Result},
    fs::{Attr, Caller, Looked, OpenFor, Opened, SetTime},
    store::FileKind,
};

/// Numbers stand for generations, so the kernel needs no second number.
pub(super) const NO_GENERATION: Generation = Generation(0);

pub(super) fn errno(error: &Error) -> Errno {
    match error.kind() {
        // Everyday answers.
        ErrorKind::NotFound | ErrorKind::Stale | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            tracing::trace!(%error, "answered");
        }
        kind => tracing::debug!(%error, ?kind, "failed"),
    }
    Errno::from_i32(error.kind().errno())
}

pub(super) fn text(name: &OsStr) -> Result<String> {
    let name = name.to_str().map(str::to_owned);
    name.ok_or_else(|| Error::new(ErrorKind::NotFound, "a name that is not UTF-8"))
}

/// The name of what is to be made: one that the store cannot have is not merely absent.
pub(super) fn new_text(name: &OsStr) -> Result<String> {
    let name = name.to_str().map(str::to_owned);
    name.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "a name that is not UTF-8"))
}

pub(super) fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
    }
}

pub(super) fn attributes(attr: &Attr) -> FileAttr {
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
pub(super) fn blank(ino: u64, kind: FileKind) -> FileAttr {
    attributes(&Attr {
        ino,
        kind,
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

pub(super) fn send_xattr(value: &[u8], size: u32, reply: ReplyXattr) {
    match size as usize {
        0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        room if room < value.len() => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid() }
}

/// What an open is for; `None`: only to read.
pub(super) fn opened_for(flags: OpenFlags) -> Option<OpenFor> {
    let has = |flag: i32| flags.0 & flag != 0;
    let wanted =
        OpenFor { truncate: has(libc::O_TRUNC), append: has(libc::O_APPEND), exclusive: has(libc::O_EXCL) };
    (flags.acc_mode() != OpenAccMode::O_RDONLY || wanted.truncate).then_some(wanted)
}

pub(super) fn open_flags(opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    // The number is the generation: what the kernel cached under it is right.
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_pages);
    flags.set(FopenFlags::FOPEN_NOFLUSH, !opened.writes);
    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct);
    flags
}

pub(super) fn reply_opened(reply: ReplyOpen, opened: Result<Opened>) {
    match opened {
        Ok(opened) => reply.opened(FileHandle(opened.fh), open_flags(&opened)),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn reply_looked(reply: ReplyEntry, looked: Result<Looked>) {
    match looked {
        Ok(Looked { attr: Some(attr), ttl, attr_ttl }) => {
            reply.entry_with_ttls(&attr_ttl, &ttl, &attributes(&attr), NO_GENERATION);
        }
        Ok(looked) if looked.ttl.is_zero() => reply.error(Errno::ENOENT),
        // Number 0 with a lifetime: the kernel remembers that there is nothing.
        Ok(looked) => reply.entry(&looked.ttl, &blank(0, FileKind::File), NO_GENERATION),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(time),
    }
}
