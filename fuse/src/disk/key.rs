//! What is kept under which name.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

/// Most bytes of a file in one segment: the unit that is given up at once. Large, so that most databases
/// are one file here.
pub(super) const SEGMENT_BYTES: u64 = 1 << 30;

/// One generation of one file of one store, cut in blocks of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DiskKey {
    digest: u128,
    pub(super) block_bytes: u64,
    pub(super) len: u64,
}

/// Blocks that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Their numbers.
    pub blocks: Range<u64>,
    /// Their bytes.
    pub bytes: Bytes,
}

/// How much of a generation is on disk, in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completeness {
    /// Blocks that the file has.
    pub blocks: u64,
    /// Those that are here.
    pub present: u64,
}

impl Completeness {
    /// Whether every block is here.
    pub fn is_whole(&self) -> bool {
        self.present >= self.blocks
    }
}

impl DiskKey {
    /// `store` stands for the store and `file` for path and generation; `block_bytes` is a power of two
    /// up to 1 GiB, `len` the length of the file.
    pub fn new(store: u64, file: u128, block_bytes: u64, len: u64) -> Self {
        let mut hash = Xxh3::new();
        hash.update(&store.to_le_bytes());
        hash.update(&file.to_le_bytes());
        hash.update(&block_bytes.to_le_bytes());
        hash.update(&len.to_le_bytes());
        Self { digest: hash.digest128(), block_bytes, len }
    }

    /// Blocks that the file has.
    pub fn blocks(&self) -> u64 {
        self.len.div_ceil(self.block_bytes)
    }

    pub(super) fn digest(&self) -> u128 {
        self.digest
    }

    pub(super) fn blocks_per_segment(&self) -> u64 {
        (SEGMENT_BYTES / self.block_bytes).max(1)
    }

    pub(super) fn segments(&self) -> u64 {
        self.blocks().div_ceil(self.blocks_per_segment())
    }

    /// Bytes of the file that these blocks are.
    pub(super) fn bytes(&self, blocks: &Range<u64>) -> usize {
        let end = blocks.end.saturating_mul(self.block_bytes).min(self.len);
        end.saturating_sub(blocks.start * self.block_bytes) as usize
    }

    /// What stands for a block's bytes; never 0, which stands for absence. The seed makes a right block
    /// in the wrong place a wrong one.
    pub(super) fn sum(&self, block: u64, bytes: &[u8]) -> u64 {
        xxh3_64_with_seed(bytes, (self.digest as u64).wrapping_add(block)).max(1)
    }

    pub(super) fn folder(&self, root: &Path) -> PathBuf {
        root.join(format!("{:02x}", self.digest >> 120))
    }

    /// Path of a segment without its extension.
    pub(super) fn segment(&self, root: &Path, segment: u64) -> PathBuf {
        self.folder(root).join(format!("{:032x}-{segment:08x}", self.digest))
    }

    pub(super) fn pages(&self, root: &Path) -> PathBuf {
        self.folder(root).join(format!("{:032x}.pages", self.digest))
    }
}
