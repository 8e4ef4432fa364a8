//! Whole files that an operator wants to stay in RAM.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use bytes::Bytes;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::{BlockCache, BlockKey, Purpose, Source};
use crate::error::{Error, ErrorKind, Result};

/// A file that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFile {
    /// Its path below the store's root.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
}

/// Blocks of files that stay, beside those that come and go.
#[derive(Debug, Default)]
pub(super) struct Kept {
    state: RwLock<State>,
    /// Read without the lock: nearly always 0.
    bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<u128, KeptFile>,
    blocks: HashMap<BlockKey, Bytes>,
}

impl Kept {
    pub(super) fn get(&self, key: &BlockKey) -> Option<Bytes> {
        if self.bytes() == 0 {
            return None;
        }
        self.state.read().blocks.get(key).cloned()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    fn list(&self) -> Vec<KeptFile> {
        let mut files: Vec<_> = self.state.read().files.values().cloned().collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files
    }

    /// Takes the room for a file before it is read; `false`: there is not enough.
    fn reserve(&self, file: u128, kept: KeptFile, bytes_max: u64) -> bool {
        let mut state = self.state.write();
        if state.files.contains_key(&file) {
            return true;
        }
        if self.bytes().saturating_add(kept.bytes) > bytes_max {
            return false;
        }
        self.bytes.fetch_add(kept.bytes, Relaxed);
        state.files.insert(file, kept);
        true
    }

    /// Unless the file was given up meanwhile.
    fn put(&self, key: BlockKey, block: Bytes) {
        let mut state = self.state.write();
        if state.files.contains_key(&key.file) {
            state.blocks.insert(key, block);
        }
    }

    /// Gives up files, the largest first, until at most `bytes_max` are left.
    pub(super) fn shrink(&self, bytes_max: u64) {
        while self.bytes() > bytes_max {
            let largest = {
                let state = self.state.read();
                state.files.iter().max_by_key(|(_, kept)| kept.bytes).map(|(&file, _)| file)
            };
            let Some(largest) = largest else { break };
            self.remove(|file, _| file == largest);
        }
    }

    pub(super) fn remove(&self, unwanted: impl Fn(u128, &KeptFile) -> bool) -> Vec<KeptFile> {
        let mut state = self.state.write();
        let State { files, blocks } = &mut *state;
        let gone: HashMap<_, _> = files.extract_if(|file, kept| unwanted(*file, kept)).collect();
        if !gone.is_empty() {
            blocks.retain(|key, _| !gone.contains_key(&key.file));
        }
        self.bytes.fetch_sub(gone.values().map(|kept| kept.bytes).sum(), Relaxed);
        gone.into_values().collect()
    }
}

impl BlockCache {
    /// Reads a file whole and keeps it until [`Self::unkeep`], within the bound of the pinned pages; gives
    /// its bytes. Another generation of `path` that was kept is given up. `NoSpace`: it does not fit.
    pub async fn keep(&self, source: &Source, path: &str) -> Result<u64> {
        let (file, bytes) = (source.file, source.len());
        let kept = &self.shared.ram.kept;
        kept.remove(|other, kept| other != file && kept.path == path);
        let room = self.pinned_bytes_max.load(Relaxed).saturating_sub(self.pins.bytes());
        if !kept.reserve(file, KeptFile { path: path.into(), bytes }, room) {
            let left = room.saturating_sub(kept.bytes());
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "{path}: its {bytes} bytes do not fit beside what is pinned: {left} are left; raise \
                     memory_pins, or unpin something"
                ),
            ));
        }
        let read = self.keep_blocks(source).await;
        if read.is_err() {
            kept.remove(|other, _| other == file);
        }
        read.map(|()| bytes)
    }

    async fn keep_blocks(&self, source: &Source) -> Result<()> {
        let (len, block_bytes) = (source.len(), self.settings.block_bytes);
        let extent = self.settings.extent_bytes.max(block_bytes);
        for start in (0..len).step_by(usize::try_from(extent).unwrap_or(usize::MAX)) {
            let range = start..len.min(start + extent);
            let read = self.read_blocks(source, range, Purpose::Warm).await?;
            let first = start / block_bytes;
            for (block, bytes) in (first..).zip(read.chunks(block_bytes as usize)) {
                // A copy: a block must not keep the whole read.
                let key = BlockKey { file: source.file, block };
                self.shared.ram.kept.put(key, Bytes::copy_from_slice(bytes));
            }
        }
        Ok(())
    }

    /// Lets go of the file at `path`, or of those below it.
    pub fn unkeep(&self, path: &str) -> Vec<KeptFile> {
        let below = format!("{}/", path.trim_end_matches('/'));
        self.shared.ram.kept.remove(|_, kept| kept.path == path || kept.path.starts_with(&below))
    }

    /// The files that stay, by path.
    pub fn kept(&self) -> Vec<KeptFile> {
        self.shared.ram.kept.list()
    }
}
