//! Where the engine gets segments from; the worker implements it.

use std::{fs::File, path::PathBuf};

use springhouse_fuse::store::Generation;
use springhouse_gateway::api::error::ApiError;

/// One generation of a segment's file, open.
#[derive(Debug)]
pub struct OpenFile {
    /// Absolute path on this host under which SQLite opens the same file.
    pub path: PathBuf,
    /// Which generation it is; of a live database, what tells this file from any other at its path.
    pub generation: Generation,
    /// What may happen to it while it is open.
    pub content: Content,
}

/// What may happen to an open file.
#[derive(Debug)]
pub enum Content {
    /// Nothing: its bytes stay, so SQLite needs no locks (`immutable=1`).
    Fixed {
        /// Its length in bytes.
        len: u64,
        /// For reading.
        file: File,
    },
    /// It may be written, by this process alone: opened like any database, with locks and log. It comes
    /// without a file: closing one would drop the locks that SQLite holds on it in this process.
    Live,
}

/// Which transactions of a live database a reader may see: at least all up to `done`, which were
/// acknowledged, at most all up to `begun`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Last one that is surely visible.
    pub done: u64,
    /// Last one that may be.
    pub begun: u64,
}

/// The files of a store. Called on SQLite's threads only: it may block as long as the store's deadline.
pub trait SegmentFiles: Send + Sync + std::fmt::Debug + 'static {
    /// Changes whenever files that are open became unusable (the mount was started anew). Answers at
    /// once; an error says that nothing can be read now.
    fn epoch(&self) -> Result<u64, ApiError>;

    /// [`SegmentFiles::epoch`] of what `path` needs: some files do not depend on a mount.
    fn epoch_of(&self, path: &str) -> Result<u64, ApiError> {
        let _ = path;
        self.epoch()
    }

    /// Opens the file at `path` (absolute below the store's root).
    fn open(&self, path: &str) -> Result<OpenFile, ApiError>;

    /// The generation that `path` has now.
    fn generation(&self, path: &str) -> Result<Generation, ApiError>;

    /// Makes sure that files of `generation` that are open at `path` still have its bytes and no others.
    /// Free where the file system itself sees to that.
    fn verify(&self, path: &str, generation: Generation) -> Result<(), ApiError>;

    /// Whether a file of that name exists: for journals beside a segment.
    fn exists(&self, path: &str) -> Result<bool, ApiError>;

    /// Of a live database: what a reader sees who begins, or began, just now. `None`: the file is fixed.
    fn seen(&self, path: &str) -> Option<Seen> {
        let _ = path;
        None
    }

    /// What an answer is called that was read from the file `opened` at `path` and saw what lies between
    /// the two; the file's own generation if that is all there is to say.
    fn name(&self, path: &str, opened: Generation, before: Seen, after: Seen) -> Generation {
        let _ = (path, before, after);
        opened
    }

    /// Whether [`SegmentFiles::hint`] leads to anything: statements are looked into only then.
    fn takes_hints(&self) -> bool {
        false
    }

    /// A statement is about to read the trees with these root pages. Answers at once and never fails.
    fn hint(&self, path: &str, generation: Generation, roots: &[u32]) {
        let _ = (path, generation, roots);
    }
}
