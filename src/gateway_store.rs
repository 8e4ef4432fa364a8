//! The gateway's narrow view of a store, on top of a store of `springhouse-fuse`: neither library knows
//! the other.

use std::{sync::Arc, time::UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use springhouse_fuse::{
    error::{Error, ErrorKind},
    store::{CreateOptions, Metadata, Store, StorePath},
};
use springhouse_gateway::store::{Generation, SegmentStore, StoreEntry, StoreFailure};

/// Longest file that `read_small` reads, in bytes: an owner marker is a line.
const SMALL_BYTES_MAX: u64 = 64 << 10;

/// A store as the gateway sees it.
#[derive(Clone)]
pub struct GatewayStore(Arc<dyn Store>);

impl GatewayStore {
    /// The gateway's view of `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }
}

#[async_trait]
impl SegmentStore for GatewayStore {
    fn url(&self) -> String {
        self.0.url().to_string()
    }

    async fn list(&self, dir: &str) -> Result<Vec<StoreEntry>, StoreFailure> {
        let dir = path(dir)?;
        let entries = self.0.list(&dir).map_ok(|e| entry(e.name, &e.metadata));
        entries.try_collect().await.map_err(failure)
    }

    async fn stat(&self, at: &str) -> Result<StoreEntry, StoreFailure> {
        let path = path(at)?;
        let metadata = self.0.stat(&path).await.map_err(failure)?;
        Ok(entry(path.name().to_owned(), &metadata))
    }

    async fn read_small(&self, at: &str) -> Result<Vec<u8>, StoreFailure> {
        let reader = self.0.open(&path(at)?, None).await.map_err(failure)?;
        let len = reader.metadata().len;
        match usize::try_from(len) {
            Ok(bytes) if len <= SMALL_BYTES_MAX => {
                reader.read_at(0, bytes).await.map(|data| data.to_vec()).map_err(failure)
            }
            _ => Err(StoreFailure::Other(format!("{at} has {len} bytes: at most {SMALL_BYTES_MAX} here"))),
        }
    }

    async fn create_exclusive(&self, at: &str, data: &[u8]) -> Result<(), StoreFailure> {
        let options = CreateOptions { overwrite: false, create_parents: true, ..CreateOptions::default() };
        let mut writer = self.0.create(&path(at)?, options).await.map_err(failure)?;
        writer.write(Bytes::copy_from_slice(data)).await.map_err(failure)?;
        writer.close().await.map_err(failure)
    }

    async fn rename_over(&self, from: &str, to: &str) -> Result<(), StoreFailure> {
        self.0.rename(&path(from)?, &path(to)?, true).await.map_err(failure)
    }

    async fn remove(&self, at: &str) -> Result<(), StoreFailure> {
        self.0.delete(&path(at)?, false).await.map_err(failure)
    }
}

fn path(text: &str) -> Result<StorePath, StoreFailure> {
    StorePath::parse(text).map_err(failure)
}

fn entry(name: String, metadata: &Metadata) -> StoreEntry {
    let mtime = metadata.mtime.duration_since(UNIX_EPOCH);
    StoreEntry {
        name,
        is_dir: metadata.is_dir(),
        len: metadata.len,
        mtime_ms: match mtime {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        },
        generation: Generation(metadata.generation.0),
    }
}

fn failure(error: Error) -> StoreFailure {
    let message = error.message().to_owned();
    match error.kind() {
        ErrorKind::NotFound => StoreFailure::NotFound(message),
        ErrorKind::AlreadyExists => StoreFailure::AlreadyExists(message),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnly => StoreFailure::Denied(message),
        ErrorKind::TimedOut | ErrorKind::Unavailable => StoreFailure::Unavailable(message),
        ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::NotEmpty
        | ErrorKind::NameTooLong
        | ErrorKind::InvalidArgument
        | ErrorKind::Unsupported
        | ErrorKind::Busy
        | ErrorKind::CrossDevice
        | ErrorKind::NoSpace
        | ErrorKind::Stale
        | ErrorKind::Corrupt
        | ErrorKind::Other => StoreFailure::Other(message),
    }
}

#[cfg(test)]
mod tests {
    use springhouse_fuse::store::memory::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn a_rename_replaces_and_a_removal_says_what_was_not_there() {
        let inner = MemoryStore::new();
        let put = |at: &str, bytes: &'static str| inner.put(&path(at).expect("a path"), bytes).expect("put");
        put("/1/1001.sqlite", "old");
        put("/1/1001.sqlite._COPYING_.7", "newer");
        let store = GatewayStore::new(Arc::new(inner.clone()));
        store.rename_over("/1/1001.sqlite._COPYING_.7", "/1/1001.sqlite").await.expect("renamed");
        assert_eq!(store.stat("/1/1001.sqlite").await.expect("there").len, 5);
        let gone = store.rename_over("/1/1001.sqlite._COPYING_.7", "/1/1001.sqlite").await;
        assert!(matches!(gone, Err(StoreFailure::NotFound(_))), "{gone:?}");
        store.remove("/1/1001.sqlite").await.expect("removed");
        let again = store.remove("/1/1001.sqlite").await;
        assert!(matches!(again, Err(StoreFailure::NotFound(_))), "{again:?}");
    }
}
