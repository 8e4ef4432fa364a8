//! Names of one directory that are looked up one after the other: told together by one listing.
//!
//! Whoever opens two hundred segments of a directory, or asks for the attributes of each, costs the store
//! as many questions, and waits for each. One answer to a listing has a thousand names. It is asked for when
//! enough names were asked for singly that it costs the store less than they did.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Caller, FileSystem, stats::Stat};
use crate::store::{Store, StorePath};

/// Names asked for singly before their directory is listed.
const SINGLE: u32 = 16;

/// Within this time.
const WITHIN: Duration = Duration::from_secs(1);

/// Names of a directory for each that was asked for singly: what the NameNode does for one question, it
/// does for so many names of a listing.
const NAMES_FOR_ONE: u32 = 32;

/// Names that HDFS tells in one answer. A directory with more is not listed again for a while.
const NAMES_MAX: usize = 1000;

/// How long a directory that cannot be listed, or has too many names, is left alone.
const UNFIT: Duration = Duration::from_secs(60);

/// Directories watched.
const DIRECTORIES_MAX: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Storms {
    known: Mutex<HashMap<StorePath, Storm>>,
}

#[derive(Debug)]
struct Storm {
    /// Since when names are counted.
    since: Instant,
    single: u32,
    /// How many are needed now.
    needed: u32,
    unfit: bool,
}

impl Storms {
    /// A name of `dir` is asked for; whether all of them should be.
    fn looked_up(&self, dir: &StorePath) -> bool {
        let mut known = self.known.lock();
        if !known.contains_key(dir) {
            if known.len() == DIRECTORIES_MAX {
                known.retain(|_, storm| storm.since.elapsed() < if storm.unfit { UNFIT } else { WITHIN });
            }
            if known.len() == DIRECTORIES_MAX {
                return false;
            }
        }
        let fresh = Storm { since: Instant::now(), single: 0, needed: SINGLE, unfit: false };
        let storm = known.entry(dir.clone()).or_insert(fresh);
        if storm.unfit && storm.since.elapsed() < UNFIT {
            return false;
        }
        if storm.since.elapsed() >= WITHIN {
            (storm.since, storm.single, storm.unfit) = (Instant::now(), 0, false);
        }
        storm.single += 1;
        let enough = storm.single == storm.needed;
        if enough {
            storm.single = 0;
        }
        enough
    }

    /// `dir` was listed: so many names, `None` if that is not all or it cannot be listed.
    fn listed(&self, dir: &StorePath, names: Option<usize>) {
        if let Some(storm) = self.known.lock().get_mut(dir) {
            (storm.since, storm.single, storm.unfit) = (Instant::now(), 0, names.is_none());
            let names = names.map_or(0, |names| u32::try_from(names).unwrap_or(u32::MAX));
            storm.needed = SINGLE.max(names / NAMES_FOR_ONE);
        }
    }
}

impl FileSystem {
    /// `path`, of which nothing is known, is being asked for: its neighbours are, too, if that may pay.
    pub(super) fn expect_neighbours(&self, caller: Caller, store: Arc<dyn Store>, path: &StorePath) {
        if self.tuning().freshness.is_zero() {
            return;
        }
        let Some(dir) = path.parent().filter(|dir| self.storms.looked_up(dir)) else { return };
        let (stats, storms, viewer) = (self.stats.clone(), self.storms.clone(), self.viewer(caller));
        self.runtime.spawn(async move {
            let asked = Instant::now();
            let mut names = 0;
            let complete = async {
                let mut entries = store.list(&dir);
                while let Some(entry) = entries.next().await {
                    let entry = entry.ok()?;
                    let path = Arc::new(dir.join(&entry.name).ok()?);
                    stats.put(viewer, path, Stat { found: Some(Arc::new(entry.metadata)), asked });
                    names += 1;
                    if names == NAMES_MAX {
                        return None;
                    }
                }
                Some(names)
            };
            storms.listed(&dir, complete.await);
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Handle;

    use super::*;
    use crate::{
        fs::{FsSettings, ROOT},
        store::{Operation, StoreOptions, decorate, memory::MemoryStore},
    };

    fn mount(names: usize) -> (MemoryStore, FileSystem) {
        let store = MemoryStore::new();
        for i in 0..names {
            let path = StorePath::parse(&format!("/s{i:04}.sqlite")).expect("a path");
            store.put(&path, bytes::Bytes::from_static(b"abc")).expect("put");
        }
        // What is answered at once was known.
        let options = StoreOptions { added_latency: Duration::from_millis(1), ..StoreOptions::default() };
        let opened = decorate(Arc::new(store.clone()), &options).expect("decorated");
        let fs = FileSystem::new(opened.store, FsSettings::default(), Handle::current());
        (store, fs.expect("good settings"))
    }

    async fn look_up(fs: &FileSystem, names: std::ops::Range<usize>) {
        for i in names {
            let found = fs.lookup(Caller::own(), ROOT, &format!("s{i:04}.sqlite")).await.expect("looked up");
            assert_eq!(found.attr.map(|attr| attr.len), Some(3));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_names_are_one_listing() {
        let (store, fs) = mount(200);
        look_up(&fs, 0..200).await;
        let singly = store.calls(Operation::Stat);
        assert!((u64::from(SINGLE)..2 * u64::from(SINGLE)).contains(&singly), "{singly} asked for singly");
        assert_eq!(store.calls(Operation::List), 1);
        // What was listed is no better than what was asked for: it is good for the freshness.
        tokio::time::advance(WITHIN).await;
        look_up(&fs, 100..101).await;
        assert_eq!(store.calls(Operation::Stat), singly + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn few_names_and_those_of_large_directories_are_not() {
        let (store, fs) = mount(NAMES_MAX + 200);
        for second in 0..8 {
            look_up(&fs, second * 15..second * 15 + 15).await;
            tokio::time::advance(WITHIN).await;
        }
        assert_eq!(store.calls(Operation::List), 0, "15 in a second");
        // What was told of the first is used; then it is left alone.
        look_up(&fs, 1000..1200).await;
        assert_eq!(store.calls(Operation::List), 1);
        tokio::time::advance(2 * WITHIN).await;
        look_up(&fs, 200..400).await;
        assert_eq!(store.calls(Operation::List), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_takes_nothing_back_that_was_asked_for_later() {
        let (store, fs) = mount(1);
        let path = Arc::new(StorePath::parse("/s0000.sqlite").expect("a path"));
        let before = Arc::new(store.stat(&path).await.expect("there"));
        let asked = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        store.put(&path, bytes::Bytes::from_static(b"longer")).expect("replaced");
        fs.lookup(Caller::own(), ROOT, "s0000.sqlite").await.expect("looked up");
        fs.stats.put(0, path.clone(), Stat { found: Some(before), asked });
        let found = fs.lookup(Caller::own(), ROOT, "s0000.sqlite").await.expect("looked up");
        assert_eq!(found.attr.map(|attr| attr.len), Some(6));
    }
}
