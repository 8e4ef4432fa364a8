//! What an operator asks of a running file system, past the mount: paths are looked up in the store, so
//! nothing here can wait for the kernel.

use std::sync::Arc;

use super::{FileSystem, NodeKey, key_of};
use crate::{
    cache::Source,
    error::{Error, ErrorKind, Result},
    store::{Generation, StorePath},
};

mod walk;
mod warm;

pub use self::warm::{WarmFailure, WarmProgress};

impl FileSystem {
    /// Somebody is about to read these trees (root pages) of the database at `path`; `false` if that
    /// generation is not open or not known as a database, and nothing is done.
    pub fn hint_generation(&self, path: &StorePath, generation: Generation, roots: &[u32]) -> bool {
        let key = NodeKey { path: Arc::new(path.clone()), generation: Some(generation) };
        let ino = self.inodes.lock().number(&key);
        let open = self.files.find(ino);
        open.is_some_and(|open| self.databases.hint(&open.database, &open.source, roots))
    }

    /// The current generation of the file at `path`, open for reading through the cache.
    pub(super) async fn source_of(&self, path: &StorePath) -> Result<Source> {
        self.within(path, async {
            let reader = self.store.0.open(path, None).await?;
            let metadata = reader.metadata();
            if metadata.is_dir() {
                return Err(Error::new(ErrorKind::IsADirectory, format!("{path} is a directory")));
            }
            let key = key_of(Arc::new(path.clone()), metadata);
            Ok(Source { file: key.digest(), reader })
        })
        .await
    }
}
