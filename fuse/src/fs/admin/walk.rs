//! All files below some paths, in bounded memory.

use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::mpsc;

use crate::{
    error::{Error, ErrorKind},
    store::{FileKind, Store, StorePath},
};

/// Directories that may wait to be listed: some tens of megabytes of paths.
const WAITING_MAX: usize = 100_000;

/// Files that may be known and not yet begun.
const FOUND_AHEAD: usize = 1024;

/// A file that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Below the store's root.
    pub(super) path: StorePath,
    /// Length in bytes.
    pub(super) len: u64,
}

/// What could not be looked at, and why.
pub(super) type Missed = (StorePath, Error);

/// The files at and below `paths`, found by a task of the runtime while the caller works on them. It ends
/// with the first thing that it finds after nobody listens any more.
pub(super) fn files(store: Arc<dyn Store>, paths: Vec<StorePath>) -> mpsc::Receiver<Result<Found, Missed>> {
    let (send, found) = mpsc::channel(FOUND_AHEAD);
    tokio::spawn(async move { walk(&*store, paths, send).await });
    found
}

/// Tells `found` of the files at and below `paths`, depth first, so that few directories wait. What
/// cannot be listed is told as well, and the others still come. Ends when nobody listens any more.
async fn walk(store: &dyn Store, paths: Vec<StorePath>, found: mpsc::Sender<Result<Found, Missed>>) {
    for path in paths {
        let told = match store.stat(&path).await {
            Ok(metadata) if metadata.is_dir() => below(store, path, &found).await,
            Ok(metadata) => found.send(Ok(Found { path, len: metadata.len })).await.is_ok(),
            Err(error) => found.send(Err((path, error))).await.is_ok(),
        };
        if !told {
            return;
        }
    }
}

async fn below(store: &dyn Store, root: StorePath, found: &mpsc::Sender<Result<Found, Missed>>) -> bool {
    let mut waiting = vec![root];
    while let Some(dir) = waiting.pop() {
        let mut entries = store.list(&dir);
        while let Some(entry) = entries.next().await {
            let (path, metadata) = match entry.and_then(|e| Ok((dir.join(&e.name)?, e.metadata))) {
                Ok(entry) => entry,
                Err(error) => {
                    if found.send(Err((dir.clone(), error))).await.is_err() {
                        return false;
                    }
                    continue;
                }
            };
            let told = match metadata.kind {
                FileKind::File => found.send(Ok(Found { path, len: metadata.len })).await,
                FileKind::Directory => match push(&mut waiting, path) {
                    Ok(()) => Ok(()),
                    Err(missed) => found.send(Err(missed)).await,
                },
            };
            if told.is_err() {
                return false;
            }
        }
    }
    true
}

fn push(waiting: &mut Vec<StorePath>, dir: StorePath) -> Result<(), Missed> {
    if waiting.len() < WAITING_MAX {
        waiting.push(dir);
        return Ok(());
    }
    let message = format!("left out: {WAITING_MAX} directories wait to be listed already; name it by itself");
    Err((dir, Error::new(ErrorKind::Unsupported, message)))
}
