//! Tells the mount which trees of a database a statement is about to read.
//!
//! A hint that is lost costs some reads, one that is waited for costs every query: so they go into a
//! bounded queue, and what does not fit is dropped.

use std::{collections::HashSet, time::Duration};

use parking_lot::Mutex;
use springhouse_fuse::store::Generation;
use tokio::sync::mpsc;
use xxhash_rust::xxh3::Xxh3;

use crate::mount::{ControlClient, api::Hint, api::ROOTS_MAX};

/// Hints that may wait.
const QUEUE: usize = 256;

/// Trees that are remembered as told, 8 bytes each; then all are forgotten, and told once more.
const TOLD_MAX: usize = 65_536;

/// A mount that does not take a hint in this time has other sorrows.
const SEND_MAX: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Hints {
    queue: mpsc::Sender<Hint>,
    told: Mutex<HashSet<u64>>,
}

impl Hints {
    /// Sends to `mount` from a task of this runtime, until this is dropped.
    pub(super) fn start(mount: ControlClient) -> Self {
        let (hints, queue) = Self::new();
        tokio::spawn(send(mount, queue));
        hints
    }

    fn new() -> (Self, mpsc::Receiver<Hint>) {
        let (send, queue) = mpsc::channel(QUEUE);
        (Self { queue: send, told: Mutex::default() }, queue)
    }

    /// Tells of those `roots` that were not told yet in this epoch of the mount. Never waits.
    pub(super) fn tell(&self, path: &str, generation: Generation, epoch: u64, roots: &[u32]) {
        let generation = generation.to_string();
        let new: Vec<u32> = {
            let mut told = self.told.lock();
            if told.len() + roots.len() > TOLD_MAX {
                told.clear();
            }
            let fresh = |root: &&u32| told.insert(tree(path, &generation, epoch, **root));
            roots.iter().filter(fresh).take(ROOTS_MAX).copied().collect()
        };
        if new.is_empty() {
            return;
        }
        if self.queue.try_send(Hint { path: path.into(), generation, roots: new }).is_err() {
            tracing::debug!(path, "a hint for the mount was dropped");
        }
    }
}

/// A name for one tree; two of one name would cost a hint.
fn tree(path: &str, generation: &str, epoch: u64, root: u32) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(path.as_bytes());
    hash.update(generation.as_bytes());
    hash.update(&epoch.to_le_bytes());
    hash.update(&root.to_le_bytes());
    hash.digest()
}

async fn send(mount: ControlClient, mut queue: mpsc::Receiver<Hint>) {
    while let Some(hint) = queue.recv().await {
        match tokio::time::timeout(SEND_MAX, mount.hint(&hint)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(path = hint.path, %error, "the mount took no hint"),
            Err(_) => tracing::debug!(path = hint.path, "the mount took no hint in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_told_once_for_each_generation_and_epoch() {
        let (hints, mut queue) = Hints::new();
        let (old, new) = (Generation([1; 16]), Generation([2; 16]));
        let mut told = |generation, epoch, roots: &[u32]| {
            hints.tell("/a", generation, epoch, roots);
            queue.try_recv().map_or_else(|_| Vec::new(), |hint| hint.roots)
        };
        assert_eq!(told(old, 1, &[2, 5]), [2, 5]);
        assert_eq!(told(old, 1, &[5, 7, 2]), [7]);
        assert!(told(old, 1, &[2, 5, 7]).is_empty());
        assert_eq!(told(new, 1, &[2]), [2]);
        assert_eq!(told(old, 2, &[2]), [2], "another daemon knows nothing");
    }

    #[test]
    fn a_full_queue_drops_and_nothing_grows() {
        let (hints, queue) = Hints::new();
        for file in 0..3 * QUEUE {
            hints.tell(&format!("/{file}"), Generation([0; 16]), 0, &[2]);
        }
        assert_eq!(queue.len(), QUEUE);
        let roots: Vec<u32> = (0..100).collect();
        for file in 0..2 * TOLD_MAX / 100 {
            hints.tell(&format!("/b{file}"), Generation([0; 16]), 0, &roots);
            assert!(hints.told.lock().len() <= TOLD_MAX);
        }
    }
}
