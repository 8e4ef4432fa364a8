//! Why a file was not laid out.

use std::io;

use crate::query::CopyError;

/// Why there is no new file.
#[derive(Debug, thiserror::Error)]
pub enum RelayoutError {
    /// A system call failed.
    #[error("{doing}: {error}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        error: io::Error,
    },
    /// The file is no SQLite database, or not one in a state to be laid out.
    #[error("the file cannot be laid out: {0}")]
    Unfit(String),
    /// The database is not as the format wants it.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// SQLite failed to copy or to check, or found a difference.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// [`super::Watch::cancel`] was called.
    #[error("cancelled")]
    Cancelled,
}

impl RelayoutError {
    /// For `map_err`: a failed call while `doing`.
    pub(super) fn io(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::Io { doing, error }
    }

    /// Whether a disk was full: other room, or less in it, and the same may succeed.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { error, .. } => {
                matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Copy(error) => error.is_disk_full(),
            Self::Unfit(_) | Self::Damaged(_) | Self::Cancelled => false,
        }
    }
}

/// A page that is not as it must be.
pub(super) fn damaged(page: u32, why: impl std::fmt::Display) -> RelayoutError {
    RelayoutError::Damaged(format!("page {page}: {why}"))
}
