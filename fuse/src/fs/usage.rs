//! Sizes for `statfs`.

use std::time::Duration;

use tokio::time::Instant;

use super::FileSystem;
use crate::{
    error::{ErrorKind, Result},
    store::{StorePath, Usage},
};

/// A content summary of HDFS walks the whole tree on the NameNode: not more often than this.
const FRESH: Duration = Duration::from_secs(60);

/// Capacity told where the store cannot tell: clearly not a disk, and no program finds it too small.
const CAPACITY_BYTES: u64 = 1 << 50;

/// Files told where the store cannot tell.
const CAPACITY_FILES: u64 = 1 << 32;

/// Unit of the sizes in bytes.
const UNIT_BYTES: u32 = 4096;

/// The answer to `statfs`, in units of `unit_bytes` and in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Unit of the two sizes, in bytes.
    pub unit_bytes: u32,
    /// All room.
    pub units: u64,
    /// Free room.
    pub units_free: u64,
    /// Most files.
    pub files: u64,
    /// Files that still could be.
    pub files_free: u64,
}

/// The last answer; the lock is held while asking, so that one asks for all.
pub(super) type Known = tokio::sync::Mutex<Option<(Instant, Usage)>>;

impl FileSystem {
    /// Sizes of the store; constants (1 PiB, 2^32 files) where its client cannot tell.
    pub async fn statfs(&self) -> Result<Space> {
        self.within(&StorePath::root(), async {
            let mut known = self.usage.lock().await;
            if let Some((asked, usage)) = &*known
                && asked.elapsed() < FRESH
            {
                return Ok(space(usage));
            }
            let asked = Instant::now();
            let usage = match self.store.0.usage().await {
                Ok(usage) => usage,
                Err(error) if error.kind() == ErrorKind::Unsupported => Usage::default(),
                Err(error) => return Err(error),
            };
            *known = Some((asked, usage));
            Ok(space(&usage))
        })
        .await
    }
}

fn space(usage: &Usage) -> Space {
    let used = usage.used_bytes.unwrap_or(0);
    let used_files = usage.used_files.unwrap_or(0);
    let capacity = usage.capacity_bytes.unwrap_or(CAPACITY_BYTES.max(used));
    let files = usage.capacity_files.unwrap_or(CAPACITY_FILES.max(used_files));
    let unit = u64::from(UNIT_BYTES);
    Space {
        unit_bytes: UNIT_BYTES,
        units: capacity / unit,
        units_free: capacity.saturating_sub(used) / unit,
        files,
        files_free: files.saturating_sub(used_files),
    }
}
