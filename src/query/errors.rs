//! The one table from SQLite's result codes, and from errnos met while opening, to errors of the API.

use std::{fmt, io};

use rusqlite::ffi;
use springhouse_fuse::error::{Error, ErrorKind};
use springhouse_gateway::api::error::{ApiError, ErrorCode};

use super::control::Stop;

/// What SQLite said, with everything that it would forget at the next call.
#[derive(Debug, Clone)]
pub(super) struct SqliteError {
    /// Extended result code.
    pub(super) code: i32,
    /// SQLite's words.
    pub(super) message: String,
    /// Where in the statement, in bytes.
    pub(super) offset: Option<usize>,
    /// Of the system call behind an I/O error; 0 if there was none.
    pub(super) errno: i32,
}

impl SqliteError {
    pub(super) fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), offset: None, errno: 0 }
    }

    /// Whether the connection may have lost something by it: then it is not used again.
    pub(super) fn spoils_connection(&self) -> bool {
        !matches!(
            self.code & 0xff,
            ffi::SQLITE_ERROR
                | ffi::SQLITE_INTERRUPT
                | ffi::SQLITE_AUTH
                | ffi::SQLITE_TOOBIG
                | ffi::SQLITE_MISMATCH
                | ffi::SQLITE_RANGE
        )
    }
}

impl fmt::Display for SqliteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What else is known about a failed statement.
#[derive(Debug, Default)]
pub(super) struct Context<'a> {
    /// The statement, for positions.
    pub(super) sql: &'a str,
    /// What the authorizer refused, in its words.
    pub(super) denial: Option<String>,
    /// Why the progress handler ended it.
    pub(super) stop: Option<Stop>,
    /// Limit of one value in bytes, for the message.
    pub(super) value_bytes: u32,
    /// Limit of memory in bytes, for the message.
    pub(super) memory_bytes: u64,
}

/// The API's error for SQLite's.
pub(super) fn from_sqlite(error: &SqliteError, context: Context<'_>) -> ApiError {
    use ErrorCode as C;
    if let Some(denial) = context.denial {
        return ApiError::new(C::SqlForbidden, denial);
    }
    // A stopped query gets no more memory: so it ends in the middle of a long instruction.
    if let (ffi::SQLITE_NOMEM, Some(stop)) = (error.code & 0xff, context.stop) {
        return stopped(stop);
    }
    match error.code & 0xff {
        ffi::SQLITE_INTERRUPT => stopped(context.stop.unwrap_or(Stop::Cancelled)),
        ffi::SQLITE_NOMEM => ApiError::new(
            C::MemoryLimit,
            format!(
                "the query needs more than {} bytes of memory; sort, group or concatenate less",
                context.memory_bytes
            ),
        ),
        ffi::SQLITE_TOOBIG => ApiError::new(
            C::MemoryLimit,
            format!("a text, blob or row is longer than {} bytes", context.value_bytes),
        ),
        ffi::SQLITE_AUTH => ApiError::new(C::SqlForbidden, error.message.clone()),
        ffi::SQLITE_FULL => {
            ApiError::new(C::NoRoom, "the worker's disk is full: nothing of this request was kept")
        }
        ffi::SQLITE_NOTADB => corrupt("it is not an SQLite database"),
        ffi::SQLITE_CORRUPT => corrupt(&error.message),
        ffi::SQLITE_IOERR if error.code == ffi::SQLITE_IOERR_SHORT_READ => corrupt("it is cut short"),
        ffi::SQLITE_IOERR if error.code == ffi::SQLITE_IOERR_NOMEM => {
            from_sqlite(&SqliteError::new(ffi::SQLITE_NOMEM, ""), context)
        }
        ffi::SQLITE_IOERR | ffi::SQLITE_CANTOPEN if error.errno != 0 => {
            from_io(&io::Error::from_raw_os_error(error.errno))
        }
        ffi::SQLITE_CANTOPEN if error.code == ffi::SQLITE_CANTOPEN_SYMLINK => not_found(),
        ffi::SQLITE_IOERR | ffi::SQLITE_CANTOPEN | ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => {
            ApiError::new(C::StoreUnavailable, format!("reading the segment failed: {error}"))
        }
        ffi::SQLITE_READONLY => ApiError::new(C::SqlForbidden, "a query cannot write"),
        ffi::SQLITE_MISUSE | ffi::SQLITE_INTERNAL => {
            ApiError::new(C::Internal, format!("SQLite: {error} ({})", error.code))
        }
        _ => match error.offset.and_then(|at| context.sql.get(..at)) {
            Some(before) => ApiError::new(
                C::SqlError,
                format!("{error}, at character {} of the statement", before.chars().count() + 1),
            ),
            None => ApiError::new(C::SqlError, error.message.clone()),
        },
    }
}

/// The API's error for a query that was stopped.
pub(super) fn stopped(why: Stop) -> ApiError {
    match why {
        Stop::Deadline => ApiError::new(ErrorCode::DeadlineExceeded, "the deadline passed"),
        Stop::Cancelled => ApiError::new(ErrorCode::WorkerLost, "the query was cancelled by its client"),
        Stop::ShuttingDown => ApiError::new(ErrorCode::ShuttingDown, "the worker is shutting down"),
    }
}

/// A segment that cannot be read as a database.
pub(super) fn corrupt(why: &str) -> ApiError {
    ApiError::new(ErrorCode::SegmentCorrupt, format!("the segment's file is damaged: {why}"))
}

/// No file where the segment should be.
pub(super) fn not_found() -> ApiError {
    ApiError::new(ErrorCode::SegmentNotFound, "the store has no file of this segment")
}

/// A segment that changes faster than it can be opened, or was replaced in the middle.
pub fn replaced() -> ApiError {
    ApiError::new(ErrorCode::SegmentReplaced, "the segment was replaced while it was read; ask again")
}

/// The API's error for a system call on a segment's file. Never names a path of this host.
pub fn from_io(error: &io::Error) -> ApiError {
    let unavailable =
        |why: &str| ApiError::new(ErrorCode::StoreUnavailable, format!("reading the segment failed: {why}"));
    if error.raw_os_error() == Some(libc::ENOTCONN) {
        return unavailable("the mount is down");
    }
    match Error::from_io(error, "").kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => not_found(),
        ErrorKind::Stale => replaced(),
        ErrorKind::Corrupt => corrupt("no replica gives the right bytes"),
        ErrorKind::TimedOut => unavailable("the store did not answer in time"),
        _ => unavailable(&error.to_string()),
    }
}
