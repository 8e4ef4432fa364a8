//! Attributes as the kernel is told them.

use std::time::SystemTime;

use crate::store::{FileKind, Metadata};

/// Attributes of one inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: u64,
    /// File or directory.
    pub kind: FileKind,
    /// Length in bytes; 0 for a directory.
    pub len: u64,
    /// Permission bits, 0 to 0o7777.
    pub mode: u16,
    /// 1; 0 for a file that is open and was replaced or deleted since. Also 1 for directories: the
    /// number of subdirectories is not known without listing, and 1 is how file systems say so (`find`
    /// then does not conclude from it how many there are).
    pub nlink: u32,
    /// Owner on this host.
    pub uid: u32,
    /// Group on this host.
    pub gid: u32,
    /// Last modification; also told as last change, which stores do not keep.
    pub mtime: SystemTime,
    /// Last access.
    pub atime: SystemTime,
    /// Good size of one read in bytes. Not the store's block size: programs allocate buffers of it, and
    /// HDFS blocks are 128 MiB.
    pub block_bytes: u32,
}

impl Attr {
    pub(super) fn new(ino: u64, metadata: &Metadata, (uid, gid): (u32, u32), block_bytes: u32) -> Self {
        Self {
            ino,
            kind: metadata.kind,
            len: metadata.len,
            mode: (metadata.mode & 0o7777) as u16,
            nlink: 1,
            uid,
            gid,
            mtime: metadata.mtime,
            atime: metadata.atime,
            block_bytes,
        }
    }
}
