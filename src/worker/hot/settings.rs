//! What the hot tier of a worker is told.

use std::{fmt, path::PathBuf, sync::Arc};

use springhouse_fuse::store::Store;

/// Everything that the hot tier needs to know.
#[derive(Clone)]
pub struct HotSettings {
    /// Directory on a local disk. The caller sees to it that no other process uses it.
    pub data: PathBuf,
    /// Most bytes of segments; `None`: 80 % of the disk.
    pub quota_bytes: Option<u64>,
    /// Segments copied from the store at once, 1 or more.
    pub copy_parallelism: usize,
    /// Bytes a second that all copies together may take; `None`: no bound. Nobody's wait for a segment
    /// that is to be written is slowed by it.
    pub copy_bandwidth: Option<u64>,
    /// Rack, room or zone of this worker.
    pub zone: Option<String>,
    /// The store, with its decorators.
    pub store: Arc<dyn Store>,
}

impl HotSettings {
    /// The defaults, with local files in `data`.
    pub fn new(data: impl Into<PathBuf>, store: Arc<dyn Store>) -> Self {
        Self {
            data: data.into(),
            quota_bytes: None,
            copy_parallelism: 2,
            copy_bandwidth: None,
            zone: None,
            store,
        }
    }
}

impl fmt::Debug for HotSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HotSettings")
            .field("data", &self.data)
            .field("quota_bytes", &self.quota_bytes)
            .field("copy_parallelism", &self.copy_parallelism)
            .field("copy_bandwidth", &self.copy_bandwidth)
            .field("zone", &self.zone)
            .field("store", &self.store.url())
            .finish()
    }
}
