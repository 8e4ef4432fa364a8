//! Where the engine gets segments from; the worker implements it.

use std::{fs::File, path::PathBuf};

use springhouse_fuse::store::Generation;
use springhouse_gateway::api::error::ApiError;

/// One generation of a segment's file, open.
#[derive(Debug)]
pub struct OpenFile {
    /// Absolute path on this host under which SQLite opens the same file.
    pub path: PathBuf,
    /// Which generation `file` is.
    pub generation: Generation,
    /// Its length in bytes.
    pub len: u64,
    /// For reading.
    pub file: File,
}

/// The files of a store. Called on SQLite's threads only: it may block as long as the store's deadline.
pub trait SegmentFiles: Send + Sync + std::fmt::Debug + 'static {
    /// Changes whenever files that are open became unusable (the mount was started anew). Answers at
    /// once; an error says that nothing can be read now.
    fn epoch(&self) -> Result<u64, ApiError>;

    /// Opens the file at `path` (absolute below the store's root).
    fn open(&self, path: &str) -> Result<OpenFile, ApiError>;

    /// The generation that `path` has now.
    fn generation(&self, path: &str) -> Result<Generation, ApiError>;

    /// Makes sure that files of `generation` that are open at `path` still have its bytes and no others.
    /// Free where the file system itself sees to that.
    fn verify(&self, path: &str, generation: Generation) -> Result<(), ApiError>;

    /// Whether a file of that name exists: for journals beside a segment.
    fn exists(&self, path: &str) -> Result<bool, ApiError>;

    /// Whether [`SegmentFiles::hint`] leads to anything: statements are looked into only then.
    fn takes_hints(&self) -> bool {
        false
    }

    /// A statement is about to read the trees with these root pages. Answers at once and never fails.
    fn hint(&self, path: &str, generation: Generation, roots: &[u32]) {
        let _ = (path, generation, roots);
    }
}
