//! Looking into a database in WAL mode from beside SQLite: how far its log is, and what its pages hold.
//!
//! Everything goes through the file handles of a connection. A descriptor of our own on the database or its
//! wal-index would, when it is closed, drop the POSIX locks that SQLite has on them in this process. (On the
//! log itself SQLite has none.) The layout of the wal-index: <https://sqlite.org/walformat.html>.

#![allow(unsafe_code)] // The C interface of SQLite's files; every block says why it is sound.

use std::{
    ffi::{c_int, c_void},
    ptr::{self, NonNull},
};

use rusqlite::ffi;

use super::{errors::SqliteError, raw::Handle};

/// Bytes of a part of the wal-index, as SQLite maps it.
const INDEX_BYTES: c_int = 32_768;
/// The header of the wal-index is there twice; behind it comes how much was copied into the database.
const HEADER_BYTES: usize = 48;
/// Looks before we believe that the two copies of the header differ for good.
const LOOKS_MAX: usize = 100;

/// How far the log of a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogState {
    /// Frames of the log up to the last commit.
    pub(super) frames: u32,
    /// Of those, how many are copied into the database.
    pub(super) copied: u32,
    /// Pages of the database after the last commit; meaningless while there is no frame.
    pub(super) pages: u32,
    /// Bytes of a page; 0 before the first commit since the log came into being.
    pub(super) page_bytes: u32,
    /// What each frame of this log has in its header; another after the log was begun anew.
    pub(super) salts: [u8; 8],
}

impl Handle<'_> {
    /// How far the log is. Only sure where nobody commits meanwhile. The connection has read the database.
    pub(super) fn log_state(self) -> Result<LogState, SqliteError> {
        let index = self.wal_index()?;
        let mut words = [[0_u32; HEADER_BYTES / 4]; 2];
        for _ in 0..LOOKS_MAX {
            for (copy, words) in words.iter_mut().enumerate() {
                for (at, word) in words.iter_mut().enumerate() {
                    // SAFETY: the mapping has 32 KiB and lives as long as the connection has its log open,
                    // aligned to a page; volatile, because other connections write to it.
                    *word = unsafe { index.as_ptr().add(copy * HEADER_BYTES / 4 + at).read_volatile() };
                }
            }
            if words[0] == words[1] {
                break;
            }
            std::hint::spin_loop();
        }
        let [header, same] = words;
        let initialised = header[3].to_ne_bytes()[0] == 1;
        if header != same || !initialised {
            return Err(SqliteError::new(ffi::SQLITE_PROTOCOL, "the wal-index is being changed"));
        }
        // SAFETY: as above.
        let copied = unsafe { index.as_ptr().add(2 * HEADER_BYTES / 4).read_volatile() };
        let [_, _, low, high] = header[3].to_ne_bytes();
        let page_bytes = match u16::from_ne_bytes([low, high]) {
            1 => 65_536,
            bytes => u32::from(bytes),
        };
        let mut salts = [0; 8];
        salts[..4].copy_from_slice(&header[8].to_ne_bytes());
        salts[4..].copy_from_slice(&header[9].to_ne_bytes());
        Ok(LogState { frames: header[4], copied, pages: header[5], page_bytes, salts })
    }

    /// Reads from the database file itself, past its log; zeros beyond its end.
    pub(super) fn read_database(self, offset: u64, buffer: &mut [u8]) -> Result<(), SqliteError> {
        let file = self.file()?;
        let failed = |code: c_int| SqliteError::new(code, ffi::code_to_str(code));
        let (Ok(len), Ok(offset)) = (c_int::try_from(buffer.len()), i64::try_from(offset)) else {
            return Err(failed(ffi::SQLITE_TOOBIG));
        };
        // SAFETY: the file is open as long as the connection; the methods are those of its VFS.
        let read = unsafe { (*file.as_ref().pMethods).xRead }.ok_or_else(|| failed(ffi::SQLITE_MISUSE))?;
        // SAFETY: the buffer has `len` bytes.
        match unsafe { read(file.as_ptr(), buffer.as_mut_ptr().cast::<c_void>(), len, offset) } {
            // The rest was set to zero.
            ffi::SQLITE_OK | ffi::SQLITE_IOERR_SHORT_READ => Ok(()),
            code => Err(failed(code)),
        }
    }

    fn file(self) -> Result<NonNull<ffi::sqlite3_file>, SqliteError> {
        let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
        // SAFETY: the handle is open; this operation writes one pointer to where the argument points.
        let code = unsafe {
            ffi::sqlite3_file_control(
                self.as_ptr(),
                c"main".as_ptr(),
                ffi::SQLITE_FCNTL_FILE_POINTER,
                (&raw mut file).cast::<c_void>(),
            )
        };
        let file = NonNull::new(file).filter(|_| code == ffi::SQLITE_OK);
        // SAFETY: a file of an open connection; its methods are NULL while it is not open.
        file.filter(|file| !unsafe { file.as_ref() }.pMethods.is_null())
            .ok_or_else(|| SqliteError::new(ffi::SQLITE_MISUSE, "the connection has no file"))
    }

    fn wal_index(self) -> Result<NonNull<u32>, SqliteError> {
        let file = self.file()?;
        let none = || SqliteError::new(ffi::SQLITE_MISUSE, "the database has no wal-index");
        // SAFETY: as in `read_database`; version 2 of the methods brought the wal-index.
        let map = unsafe {
            let methods = &*file.as_ref().pMethods;
            if methods.iVersion >= 2 { methods.xShmMap } else { None }
        };
        let map = map.ok_or_else(none)?;
        let mut index: *mut c_void = ptr::null_mut();
        // SAFETY: the first part, in SQLite's own size, and not to be made if it is missing. The connection
        // has it mapped, so this gives the same mapping.
        let code = unsafe { map(file.as_ptr(), 0, INDEX_BYTES, 0, &raw mut index) };
        NonNull::new(index.cast::<u32>()).filter(|_| code == ffi::SQLITE_OK).ok_or_else(none)
    }
}
