//! What an operator asks of a running file system, past the mount: paths are looked up in the store, so
//! nothing here can wait for the kernel.

use std::sync::Arc;

use super::{FileSystem, key_of};
use crate::{
    cache::Source,
    error::{Error, ErrorKind, Result},
    store::StorePath,
};

mod walk;
mod warm;

pub use self::warm::{WarmFailure, WarmProgress};

impl FileSystem {
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
