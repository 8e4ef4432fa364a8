//! What an operator asks of a running file system, past the mount: paths are looked up in the store, so
//! nothing here can wait for the kernel.

use std::sync::Arc;

use self::walk::files;
use super::{FileSystem, NodeKey, key_of};
use crate::{
    cache::{Advice, Dropped, FileUse, KeptFile, Resize, Source},
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

    /// Keeps the files at and below `paths` in memory until they are unpinned; gives those that are kept
    /// now, and the first that could not be.
    pub async fn pin(&self, paths: Vec<StorePath>) -> (Vec<KeptFile>, Result<()>) {
        let mut kept = Vec::new();
        let outcome = self.pin_into(&mut kept, paths).await;
        (kept, outcome)
    }

    async fn pin_into(&self, kept: &mut Vec<KeptFile>, paths: Vec<StorePath>) -> Result<()> {
        let mut found = files(self.store.0.clone(), paths);
        while let Some(next) = found.recv().await {
            let path = next.map_err(|(_, error)| error)?.path;
            let bytes = self.keep(&path).await?;
            kept.push(KeptFile { path: path.to_string(), bytes });
        }
        Ok(())
    }

    async fn keep(&self, path: &StorePath) -> Result<u64> {
        let source = self.source_of(path).await?;
        // Each read of it has its own deadline; all together take as long as they take.
        self.cache.keep(&source, path.as_str()).await
    }

    /// Lets go of files that were pinned, at and below `paths`; gives those that were.
    pub fn unpin(&self, paths: &[StorePath]) -> Vec<KeptFile> {
        paths.iter().flat_map(|path| self.cache.unkeep(path.as_str())).collect()
    }

    /// The pinned files.
    pub fn pinned(&self) -> Vec<KeptFile> {
        self.cache.kept()
    }

    /// Gives up what the cache has of the files at and below `paths`, in memory and on disk; of the root,
    /// all that is in memory, and with `disk` all that is on disk. Files that were pinned stay. Who opens one
    /// of them next reads what the store has then.
    pub async fn drop_cached(&self, paths: &[StorePath], disk: bool) -> Result<Dropped> {
        if paths.iter().any(StorePath::is_root) {
            self.files.retire_readers(|_| true);
            return Ok(self.cache.drop_all(disk).await);
        }
        let mut sum = Dropped::default();
        let mut found = files(self.store.0.clone(), paths.to_vec());
        while let Some(next) = found.recv().await {
            let path = next.map_err(|(_, error)| error)?.path;
            // A reader that was kept would go on with what it was opened on, as long as DataNodes have that.
            self.files.retire_readers(|open| *open == path);
            let dropped = match self.source_of(&path).await {
                Ok(source) => self.cache.drop_file(&source).await,
                // Deleted since it was found.
                Err(error) if error.kind() == ErrorKind::NotFound => Dropped::default(),
                Err(error) => return Err(error),
            };
            sum.ram_bytes += dropped.ram_bytes;
            sum.pinned_bytes += dropped.pinned_bytes;
            sum.disk_bytes += dropped.disk_bytes;
        }
        Ok(sum)
    }

    /// Changes the sizes of the cache's parts.
    pub fn resize(&self, to: &Resize) {
        self.cache.resize(to);
    }

    /// What other sizes of the cache would do.
    pub fn advise(&self) -> Advice {
        self.cache.advise()
    }

    /// The `count` most read files.
    pub fn top_files(&self, count: usize) -> Vec<FileUse> {
        self.cache.top_files(count)
    }

    /// The current generation of the file at `path`, open for reading through the cache.
    pub(super) async fn source_of(&self, path: &StorePath) -> Result<Source> {
        self.within(path, async {
            let reader = self.store.0.open(path, None).await?;
            let metadata = reader.metadata();
            if metadata.is_dir() {
                return Err(Error::new(
                    ErrorKind::IsADirectory,
                    format!("{path} is a directory; name files in it"),
                ));
            }
            let key = key_of(Arc::new(path.clone()), metadata);
            Ok(Source { file: key.digest(), reader })
        })
        .await
    }
}
