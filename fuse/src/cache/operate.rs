//! What an operator does to a running cache.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{BlockCache, FileUse, Source};
use crate::disk::{Completeness, DiskCache, DiskKey};

/// New bounds, in bytes; `None` leaves one as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resize {
    /// Blocks in RAM.
    pub cache_bytes: Option<u64>,
    /// Readahead buffers of all handles.
    pub readahead_bytes: Option<u64>,
    /// Pinned pages.
    pub pinned_bytes: Option<u64>,
    /// Largest window of one handle, open ones included; 0 switches readahead off.
    pub readahead_bytes_max: Option<u64>,
    /// What lies in the directory of the disk cache.
    pub disk_bytes: Option<u64>,
}

/// What was given up, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Of RAM.
    pub ram_bytes: u64,
    /// Of pinned pages.
    pub pinned_bytes: u64,
    /// Of the disk.
    pub disk_bytes: u64,
}

impl BlockCache {
    /// Changes bounds while everything runs. What a smaller bound has no room for goes at once from RAM,
    /// the largest pinned files first, soon from disk, and from readahead as it is used.
    pub fn resize(&self, to: &Resize) {
        if let Some(bytes) = to.cache_bytes {
            self.shared.ram.resize(bytes);
        }
        if let Some(bytes) = to.readahead_bytes {
            self.budget.set_max(bytes);
        }
        if let Some(bytes) = to.pinned_bytes {
            self.pinned_bytes_max.store(bytes, Relaxed);
            // What somebody asked for stays longer than what is merely useful.
            let kept = &self.shared.ram.kept;
            kept.shrink(bytes);
            self.pins.shrink(bytes.saturating_sub(kept.bytes()));
        }
        if let Some(bytes) = to.readahead_bytes_max {
            // The largest number stands for "as opened".
            self.readahead_bytes_max.store(bytes.min(u64::MAX - 1), Relaxed);
        }
        if let (Some(bytes), Some(disk)) = (to.disk_bytes, &self.shared.disk) {
            disk.set_bytes_max(bytes);
        }
    }

    /// Gives up all blocks and pins of a generation, in RAM and on disk; readahead of open handles stays
    /// with them.
    pub async fn drop_file(&self, source: &Source) -> Dropped {
        let ram_bytes = self.shared.ram.drop_file(source.file);
        let pinned_bytes = self.pins.unpin(source.file);
        let disk_bytes = match &self.shared.disk {
            Some(disk) => disk.drop_file(self.disk_key(source)).await,
            None => 0,
        };
        Dropped { ram_bytes, pinned_bytes, disk_bytes }
    }

    /// `file`, of `len` bytes, stands for other bytes from now on: nothing of the old ones is given any
    /// more.
    pub async fn replaced(&self, file: u128, len: u64) {
        self.shared.ram.drop_blocks(file, len.div_ceil(self.shared.block_bytes));
        self.pins.unpin(file);
        if let Some(disk) = &self.shared.disk {
            disk.drop_file(DiskKey::new(self.shared.store, file, self.shared.block_bytes, len)).await;
        }
    }

    /// Gives up everything in RAM, and with `disk` everything in the directory of the disk cache too,
    /// which is of all its users.
    pub async fn drop_all(&self, disk: bool) -> Dropped {
        let ram_bytes = self.shared.ram.drop_all();
        let pinned_bytes = self.pins.shrink(0);
        let disk_bytes = match &self.shared.disk {
            Some(of) if disk => of.drop_all().await,
            _ => 0,
        };
        Dropped { ram_bytes, pinned_bytes, disk_bytes }
    }

    /// Notes the path of a file that was opened, for [`Self::top_files`].
    pub fn name(&self, file: u128, path: &str) {
        self.top.name(file, path);
    }

    /// The `count` most read files, the most read first; at most 512.
    pub fn top_files(&self, count: usize) -> Vec<FileUse> {
        self.top.list(count)
    }

    /// The pages (offset and bytes) that were learnt of this generation, by this process or one before.
    pub async fn learnt(&self, source: &Source) -> Option<Vec<(u64, Bytes)>> {
        self.shared.disk.as_ref()?.pages(self.disk_key(source)).await
    }

    /// Keeps pages of this generation on disk for [`Self::learnt`], some time later; in place of those
    /// kept before. Does nothing without a disk cache.
    pub fn save_learnt(&self, source: &Source, pages: Vec<(u64, Bytes)>) {
        if let Some(disk) = &self.shared.disk {
            disk.save_pages(self.disk_key(source), pages);
        }
    }

    /// How much of this generation is on disk; `None` without a disk cache.
    pub async fn completeness(&self, source: &Source) -> Option<Completeness> {
        Some(self.shared.disk.as_ref()?.completeness(self.disk_key(source)).await)
    }

    /// The disk cache.
    pub fn disk(&self) -> Option<&Arc<DiskCache>> {
        self.shared.disk.as_ref()
    }
}
