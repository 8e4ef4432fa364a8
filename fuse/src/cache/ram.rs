//! Blocks in RAM.
//!
//! `quick_cache` (CLOCK-Pro with ghosts): a block asked for once passes through a small cold part, one
//! asked for again is hot. `moka` was measured first: it begins to count frequencies when it is half
//! full, so a scan right after the start took 56 of 64 hot blocks with it; it cannot be resized; and what
//! waits in its write queue comes on top of its bound.

use bytes::Bytes;
use prometheus::IntCounter;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter, sync::Cache};

use super::{BlockKey, kept::Kept};
use crate::error::{Error, ErrorKind, Result};

/// Memory that an entry costs beside its bytes: key, value, links, and the share of a table.
const ENTRY_OVERHEAD_BYTES: u64 = 160;

/// Part of the room that only blocks asked for more than once get. What is left is where a block waits
/// for its second reader: a tenth is some seconds of random reads.
const HOT_SHARE: f64 = 0.9;

/// Locks: more than the threads that serve a mount.
const SHARDS: usize = 8;

/// A file of more blocks is given up by one look at all that is here.
const LOOKED_UP_MAX: u64 = 4096;

/// Hot blocks by file and number.
#[derive(Debug)]
pub(super) struct Ram {
    blocks: Cache<BlockKey, Bytes, Weight, DefaultHashBuilder, Evictions>,
    /// Blocks that stay, whatever comes.
    pub(super) kept: Kept,
}

impl Ram {
    /// An empty one of at most `bytes_max`, of blocks of `block_bytes`; `evictions` counts what goes for
    /// lack of room.
    pub(super) fn new(bytes_max: u64, block_bytes: u64, evictions: IntCounter) -> Result<Self> {
        let options = OptionsBuilder::new()
            .weight_capacity(bytes_max)
            // Also bounds the ghosts, keys alone, which a later larger size needs too.
            .estimated_items_capacity((bytes_max / block_bytes).max(64) as usize)
            .hot_allocation(HOT_SHARE)
            .shards(SHARDS)
            .build()
            .map_err(|error| Error::new(ErrorKind::InvalidArgument, format!("block cache: {error}")))?;
        let blocks =
            Cache::with_options(options, Weight, DefaultHashBuilder::default(), Evictions(evictions));
        Ok(Self { blocks, kept: Kept::default() })
    }

    pub(super) fn get(&self, key: &BlockKey) -> Option<Bytes> {
        self.kept.get(key).or_else(|| self.blocks.get(key))
    }

    pub(super) fn contains(&self, key: &BlockKey) -> bool {
        self.kept.get(key).is_some() || self.blocks.contains_key(key)
    }

    /// Keeps a block until others need its room more.
    pub(super) fn insert(&self, key: BlockKey, block: Bytes) {
        self.blocks.insert(key, block);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.blocks.weight()
    }

    pub(super) fn bytes_max(&self) -> u64 {
        self.blocks.capacity()
    }

    /// Changes the bound; what has no room any more goes at once, the least needed first.
    pub(super) fn resize(&self, bytes_max: u64) {
        self.blocks.set_capacity(bytes_max);
    }

    /// Gives up all of a file of so many blocks, those that are kept too.
    pub(super) fn drop_blocks(&self, file: u128, blocks: u64) {
        self.kept.remove(|kept, _| kept == file);
        if blocks > LOOKED_UP_MAX {
            self.drop_file(file);
            return;
        }
        for block in 0..blocks {
            self.blocks.remove(&BlockKey { file, block });
        }
    }

    /// Gives up all blocks of `file`; their bytes.
    pub(super) fn drop_file(&self, file: u128) -> u64 {
        let freed = std::cell::Cell::new(0);
        self.blocks.retain(|key, block| {
            let goes = key.file == file;
            freed.set(freed.get() + if goes { block.len() as u64 } else { 0 });
            !goes
        });
        freed.get()
    }

    /// Gives up everything; its bytes.
    pub(super) fn drop_all(&self) -> u64 {
        let freed = self.bytes();
        self.blocks.clear();
        freed
    }
}

#[derive(Debug, Clone)]
struct Weight;

impl Weighter<BlockKey, Bytes> for Weight {
    fn weight(&self, _: &BlockKey, block: &Bytes) -> u64 {
        block.len() as u64 + ENTRY_OVERHEAD_BYTES
    }
}

#[derive(Debug, Clone)]
struct Evictions(IntCounter);

impl Lifecycle<BlockKey, Bytes> for Evictions {
    /// What goes is freed after the lock is given back.
    type RequestState = Vec<Bytes>;

    fn on_evict(&self, gone: &mut Self::RequestState, _: BlockKey, block: Bytes) {
        self.0.inc();
        gone.push(block);
    }
}
