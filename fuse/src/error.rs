//! What can go wrong with a store or a file on the mount, and the errno that says it.
//!
//! The kinds are few and say what the caller must do; the detail is in the message. This is the only
//! place where an errno is chosen. HTTP statuses and exit codes derived from the same kinds stand in
//! the root package's `error.rs`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the caller has to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Nothing has that name. `ENOENT`.
    NotFound,
    /// A part of the path is a file. `ENOTDIR`.
    NotADirectory,
    /// A file operation on a directory. `EISDIR`.
    IsADirectory,
    /// Something has that name already. `EEXIST`.
    AlreadyExists,
    /// A directory to be removed has entries. `ENOTEMPTY`.
    NotEmpty,
    /// The store refuses this to this user. `EACCES`.
    PermissionDenied,
    /// The mount or the store takes no changes. `EROFS`.
    ReadOnly,
    /// A name or path is longer than the store takes. `ENAMETOOLONG`.
    NameTooLong,
    /// The request makes no sense to the store. `EINVAL`.
    InvalidArgument,
    /// The store or its client cannot do this at all. `EOPNOTSUPP`.
    Unsupported,
    /// Somebody else is writing the file, or has taken over writing it. `EBUSY`.
    Busy,
    /// From one file system to another: the two places lie in different name services or encryption
    /// zones. `EXDEV`, on which `mv` copies.
    CrossDevice,
    /// Disk or quota is full. `ENOSPC`.
    NoSpace,
    /// The file was replaced: this generation is gone; open it again. `ESTALE`.
    Stale,
    /// No answer before the deadline. The outcome of a change is unknown: ask by `stat`, never repeat
    /// blindly. `ETIMEDOUT`, never `EIO`: SQLite reports `EIO` of a read as a corrupt database.
    TimedOut,
    /// The store cannot be reached, or says "not now" (safe mode, stand-by). Try again later.
    /// `ETIMEDOUT` as well, for the same reason.
    Unavailable,
    /// No replica gives the right bytes. `EIO`.
    Corrupt,
    /// Anything else; the message tells. `EREMOTEIO`, because `EIO` would be taken for corruption.
    Other,
}

impl ErrorKind {
    /// The errno that the kernel is told.
    pub fn errno(self) -> i32 {
        match self {
            Self::NotFound => libc::ENOENT,
            Self::NotADirectory => libc::ENOTDIR,
            Self::IsADirectory => libc::EISDIR,
            Self::AlreadyExists => libc::EEXIST,
            Self::NotEmpty => libc::ENOTEMPTY,
            Self::PermissionDenied => libc::EACCES,
            Self::ReadOnly => libc::EROFS,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::InvalidArgument => libc::EINVAL,
            Self::Unsupported => libc::EOPNOTSUPP,
            Self::CrossDevice => libc::EXDEV,
            Self::Busy => libc::EBUSY,
            Self::NoSpace => libc::ENOSPC,
            Self::Stale => libc::ESTALE,
            Self::TimedOut | Self::Unavailable => libc::ETIMEDOUT,
            Self::Corrupt => libc::EIO,
            Self::Other => libc::EREMOTEIO,
        }
    }

    /// Whether the same call may succeed if it is made again before its deadline. Never true of a
    /// change whose outcome is unknown: the retrying decorator only repeats reads.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::TimedOut | Self::Unavailable | Self::Other)
    }
}

/// A failed store or file operation: the kind for programs, the message for people.
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    of_one_file: bool,
}

/// The result of a store or file operation.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind`; `message` names the thing and the reason, in one line.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), of_one_file: false }
    }

    /// The store did answer, and only this file is out of reach: its HDFS block has no replica now, for
    /// instance. No reason to leave the whole store alone for a while.
    #[must_use]
    pub fn of_one_file(self) -> Self {
        Self { of_one_file: true, ..self }
    }

    /// Whether [`Error::of_one_file`] was said of it.
    pub fn is_of_one_file(&self) -> bool {
        self.of_one_file
    }

    /// What the caller has to do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The thing and the reason, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same kind with `context: ` before the message.
    #[must_use]
    pub fn context(self, context: impl fmt::Display) -> Self {
        Self { message: format!("{context}: {}", self.message), ..self }
    }

    /// The kind that an operating system error of the local store means.
    pub fn from_io(error: &std::io::Error, what: impl fmt::Display) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match error.raw_os_error() {
            Some(libc::ENAMETOOLONG) => ErrorKind::NameTooLong,
            Some(libc::ESTALE) => ErrorKind::Stale,
            Some(libc::EIO) => ErrorKind::Corrupt,
            // A file larger than the store's file system can have: no room for it, however little is used.
            Some(libc::EDQUOT | libc::EFBIG) => ErrorKind::NoSpace,
            _ => match error.kind() {
                Io::NotFound => ErrorKind::NotFound,
                Io::NotADirectory => ErrorKind::NotADirectory,
                Io::IsADirectory => ErrorKind::IsADirectory,
                Io::AlreadyExists => ErrorKind::AlreadyExists,
                Io::DirectoryNotEmpty => ErrorKind::NotEmpty,
                Io::PermissionDenied => ErrorKind::PermissionDenied,
                Io::ReadOnlyFilesystem => ErrorKind::ReadOnly,
                Io::StorageFull | Io::QuotaExceeded => ErrorKind::NoSpace,
                Io::InvalidInput => ErrorKind::InvalidArgument,
                Io::CrossesDevices => ErrorKind::CrossDevice,
                Io::ResourceBusy => ErrorKind::Busy,
                Io::TimedOut => ErrorKind::TimedOut,
                Io::Unsupported => ErrorKind::Unsupported,
                _ => ErrorKind::Other,
            },
        };
        Self::new(kind, format!("{what}: {error}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
