//! Blocks in RAM: `moka`, and a way to change its size, which it has not.

use bytes::Bytes;
use moka::{notification::RemovalCause, sync::Cache};
use parking_lot::RwLock;
use prometheus::IntCounter;

use super::BlockKey;

/// Memory that an entry costs beside its bytes, as `moka` keeps it.
const ENTRY_OVERHEAD_BYTES: u32 = 160;

/// Hot blocks by file and number. Cheap to clone; clones share everything but a later resize.
#[derive(Debug)]
pub(super) struct Ram {
    blocks: RwLock<Cache<BlockKey, Bytes>>,
    evictions: IntCounter,
}

impl Ram {
    /// An empty one of at most `bytes_max`; `evictions` counts what goes, or is not let in, for lack of
    /// room.
    pub(super) fn new(bytes_max: u64, evictions: IntCounter) -> Self {
        Self { blocks: RwLock::new(build(bytes_max, evictions.clone())), evictions }
    }

    pub(super) fn get(&self, key: &BlockKey) -> Option<Bytes> {
        self.blocks.read().get(key)
    }

    pub(super) fn contains(&self, key: &BlockKey) -> bool {
        self.blocks.read().contains_key(key)
    }

    /// Offers a block; whether it stays is decided by how often it was asked for.
    pub(super) fn insert(&self, key: BlockKey, block: Bytes) {
        self.blocks.read().insert(key, block);
    }

    pub(super) fn bytes(&self) -> u64 {
        let blocks = self.blocks.read();
        blocks.run_pending_tasks();
        blocks.weighted_size()
    }

    pub(super) fn bytes_max(&self) -> u64 {
        self.blocks.read().policy().max_capacity().unwrap_or(0)
    }

    /// Changes the bound. What fits of the blocks stays; which, if it is less than all, is up to chance.
    pub(super) fn resize(&self, bytes_max: u64) {
        if bytes_max == self.bytes_max() {
            return;
        }
        let new = build(bytes_max, self.evictions.clone());
        let mut left = bytes_max;
        // One after the other: never both whole.
        let mut blocks = self.blocks.write();
        for (key, block) in blocks.iter() {
            let weight = u64::from(weigh(&block));
            if weight > left {
                break;
            }
            left -= weight;
            new.insert(*key, block);
        }
        *blocks = new;
    }

    /// Gives up all blocks of `file`; their bytes.
    pub(super) fn drop_file(&self, file: u128) -> u64 {
        let blocks = self.blocks.read().clone();
        let mut freed = 0;
        for (key, block) in &blocks {
            if key.file == file {
                freed += block.len() as u64;
                blocks.invalidate(&*key);
            }
        }
        freed
    }

    /// Gives up everything; its bytes.
    pub(super) fn drop_all(&self) -> u64 {
        let freed = self.bytes();
        self.blocks.read().invalidate_all();
        freed
    }
}

fn build(bytes_max: u64, evictions: IntCounter) -> Cache<BlockKey, Bytes> {
    Cache::builder()
        .max_capacity(bytes_max)
        .weigher(|_, block: &Bytes| weigh(block))
        .eviction_listener(move |_, _, cause| {
            if cause == RemovalCause::Size {
                evictions.inc();
            }
        })
        .build()
}

fn weigh(block: &Bytes) -> u32 {
    u32::try_from(block.len()).unwrap_or(u32::MAX).saturating_add(ENTRY_OVERHEAD_BYTES)
}
