//! Open directories: a listing that streams, and the part of it that the kernel may ask for again.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::mpsc, time::Instant};

use super::live::StoreOf;
use crate::{
    error::{Error, Result},
    store::{Metadata, Store, StorePath},
};

/// Entries listed ahead of the reader; the listing waits when they are there.
const AHEAD: usize = 1024;

/// Entries kept behind the reader: the kernel asks again for those that did not fit its buffer, and
/// programs go back a little with `seekdir`. Further back the listing is made anew.
const BEHIND: u64 = 4096;

/// The first two are `.` and `..`, which stores do not list.
pub(super) const DOTS: u64 = 2;

/// An entry as the store listed it.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) path: Arc<StorePath>,
    pub(super) metadata: Arc<Metadata>,
    pub(super) asked: Instant,
}

/// An open directory.
#[derive(Debug)]
pub(super) struct DirHandle {
    pub(super) path: Arc<StorePath>,
    /// Under whose name its answers are remembered.
    pub(super) viewer: u32,
    store: StoreOf,
    listing: tokio::sync::Mutex<Listing>,
}

#[derive(Debug, Default)]
struct Listing {
    /// Position of the first of `entries`.
    base: u64,
    entries: VecDeque<Listed>,
    source: Option<mpsc::Receiver<Result<Listed>>>,
    failed: Option<Error>,
}

impl DirHandle {
    /// Up to `limit` entries from `position` on, in the store's order; at least one unless the
    /// directory ends before. Positions count from [`DOTS`]. `anew`: the program went back to the start
    /// and is to see what is there now.
    pub(super) async fn entries(
        &self,
        runtime: &Handle,
        position: u64,
        limit: usize,
        anew: bool,
    ) -> Result<Vec<Listed>> {
        let mut listing = self.listing.lock().await;
        if listing.source.is_none() || position < listing.base || anew {
            *listing = Listing {
                base: DOTS,
                source: Some(list(self.store.0.clone(), self.path.clone(), runtime)),
                ..Listing::default()
            };
        }
        listing.advance_to(position, limit).await?;
        let start = (position - listing.base) as usize;
        Ok(listing.entries.iter().skip(start).take(limit).cloned().collect())
    }
}

impl Listing {
    async fn advance_to(&mut self, position: u64, limit: usize) -> Result<()> {
        // Waits for the first entry asked for, then takes what is there.
        loop {
            let have = (self.base + self.entries.len() as u64).saturating_sub(position);
            if have >= limit as u64 {
                break;
            }
            let Some(source) = &mut self.source else { break };
            let next = if have == 0 && self.failed.is_none() {
                source.recv().await
            } else {
                match source.try_recv() {
                    Ok(next) => Some(next),
                    Err(_) => break,
                }
            };
            match next {
                Some(Ok(entry)) => self.entries.push_back(entry),
                Some(Err(error)) => {
                    self.failed = Some(error);
                    break;
                }
                None => break,
            }
            while self.base + BEHIND < position && self.entries.len() > 1 {
                self.entries.pop_front();
                self.base += 1;
            }
        }
        match &self.failed {
            // The entries before the failure are told first.
            Some(error) if self.base + self.entries.len() as u64 <= position => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

/// Lists in a task of its own, which ends when the receiver goes.
fn list(store: Arc<dyn Store>, dir: Arc<StorePath>, runtime: &Handle) -> mpsc::Receiver<Result<Listed>> {
    let (send, receive) = mpsc::channel(AHEAD);
    runtime.spawn(async move {
        let mut entries = store.list(&dir);
        let mut asked = Instant::now();
        loop {
            // An entry that is there at once came with the page before and is as old.
            let next = match entries.next().now_or_never() {
                Some(next) => next,
                None => {
                    asked = Instant::now();
                    tokio::select! {
                        next = entries.next() => next,
                        () = send.closed() => return,
                    }
                }
            };
            let listed = match next {
                None => return,
                Some(Err(error)) => Err(error),
                Some(Ok(entry)) => match dir.join(&entry.name) {
                    Ok(path) => {
                        Ok(Listed { path: Arc::new(path), metadata: Arc::new(entry.metadata), asked })
                    }
                    Err(error) => {
                        tracing::warn!(%dir, %error, "an entry that cannot be shown");
                        continue;
                    }
                },
            };
            let failed = listed.is_err();
            if send.send(listed).await.is_err() || failed {
                return;
            }
        }
    });
    receive
}

/// The table of open directories.
#[derive(Debug, Default)]
pub(super) struct Dirs {
    state: Mutex<(u64, HashMap<u64, Arc<DirHandle>>)>,
}

impl Dirs {
    pub(super) fn open(&self, path: Arc<StorePath>, store: Arc<dyn Store>, viewer: u32) -> u64 {
        let mut state = self.state.lock();
        state.0 += 1;
        let fh = state.0;
        state.1.insert(
            fh,
            Arc::new(DirHandle { path, viewer, store: StoreOf(store), listing: Default::default() }),
        );
        fh
    }

    pub(super) fn get(&self, fh: u64) -> Option<Arc<DirHandle>> {
        self.state.lock().1.get(&fh).cloned()
    }

    pub(super) fn close(&self, fh: u64) {
        let closed = self.state.lock().1.remove(&fh);
        drop(closed);
    }

    pub(super) fn count(&self) -> usize {
        self.state.lock().1.len()
    }
}
