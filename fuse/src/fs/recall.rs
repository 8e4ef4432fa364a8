//! Settings that change while the file system runs, and what the kernel was told before they did.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::{FileSystem, Tuning};
use crate::store::StorePath;

/// What the kernel should ask for anew, although what it was told is good for longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recalled {
    /// The inode whose attributes it keeps; `None`: it keeps that there is none.
    pub ino: Option<u64>,
    /// The number of the directory and the path whose last name it keeps; `None`: only attributes.
    pub entry: Option<(u64, Arc<StorePath>)>,
}

impl Tuning {
    /// Longest lifetimes of names, attributes and absent names.
    fn lifetimes(&self) -> [Duration; 3] {
        [self.entry_lifetime, self.attribute_lifetime, self.negative_lifetime]
            .map(|lifetime| lifetime.unwrap_or(self.freshness))
    }
}

impl FileSystem {
    /// What may change while it runs, as it is now.
    pub fn tuning(&self) -> Tuning {
        *self.tuning.read()
    }

    /// Changes lifetimes and readahead from now on. Where a lifetime became shorter, [`Self::recalled`]
    /// says once what the kernel still keeps for the longer one.
    pub fn tune(&self, tuning: Tuning) {
        let old = std::mem::replace(&mut *self.tuning.write(), tuning);
        if old.lifetimes().iter().zip(tuning.lifetimes()).any(|(old, new)| new < *old) {
            self.recall.store(true, Relaxed);
        }
    }

    /// What the kernel has to be told to ask for anew; nothing unless a lifetime became shorter since the
    /// last call. Takes some 50 ms for 100,000 inodes.
    ///
    /// The kernel has no list of the absent names that it keeps. Those below a directory go with that;
    /// of those in the root the ones that were asked for in the last minute are known.
    pub fn recalled(&self) -> Vec<Recalled> {
        if !self.recall.swap(false, Relaxed) {
            return Vec::new();
        }
        let absent = self.stats.absent();
        let inodes = self.inodes.lock();
        let mut all = inodes.entries();
        all.extend(absent.into_iter().filter_map(|path| {
            let parent = inodes.directory_of(&path)?;
            Some(Recalled { ino: None, entry: Some((parent, path)) })
        }));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shorter_lifetimes_are_recalled() {
        let tuning = |freshness: u64, entry: Option<u64>| Tuning {
            freshness: Duration::from_secs(freshness),
            entry_lifetime: entry.map(Duration::from_secs),
            attribute_lifetime: None,
            negative_lifetime: None,
            readahead_bytes_max: 0,
        };
        let store = crate::store::memory::MemoryStore::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let settings = crate::fs::FsSettings::default();
        let fs = FileSystem::new(Arc::new(store), settings, runtime.handle().clone()).expect("made");
        let recalls = |to: Tuning| {
            fs.tune(to);
            !fs.recalled().is_empty()
        };
        assert!(!recalls(tuning(60, None)), "longer than the default");
        assert!(recalls(tuning(5, None)));
        assert!(fs.recalled().is_empty(), "once");
        assert!(!recalls(tuning(5, Some(9))));
        assert!(recalls(tuning(5, Some(2))));
        assert!(!recalls(tuning(5, None)));
        assert_eq!(fs.tuning(), tuning(5, None));
    }
}
