//! Which files are read most, in bounded memory: the space-saving sketch.
//!
//! Metwally, Agrawal, El Abbadi, "Efficient computation of frequent and top-k elements in data streams"
//! (ICDT 2005): a file that is not among those watched takes the place of the least read one and inherits
//! its count as a possible error, so what is read often is surely watched.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Files watched.
const FILES_MAX: usize = 512;

/// Paths remembered of files that were opened.
const PATHS_MAX: u64 = 4096;

/// How much a file is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileUse {
    /// What stands for path and generation, as 32 hexadecimal digits.
    pub file: String,
    /// Its path, if it is still remembered.
    pub path: Option<String>,
    /// Reads answered without waiting.
    pub hits: u64,
    /// Reads that waited for disk or store.
    pub misses: u64,
    /// Bytes given to readers.
    pub bytes: u64,
    /// Reads that the file may have had less than `hits + misses + error_max` says, from before it was
    /// watched.
    pub error_max: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Watched {
    hits: u64,
    misses: u64,
    bytes: u64,
    inherited: u64,
}

impl Watched {
    fn count(&self) -> u64 {
        self.hits + self.misses + self.inherited
    }
}

#[derive(Debug)]
pub(super) struct Top {
    watched: Mutex<HashMap<u128, Watched>>,
    paths: moka::sync::Cache<u128, Arc<str>>,
}

impl Default for Top {
    fn default() -> Self {
        Self { watched: Mutex::default(), paths: moka::sync::Cache::new(PATHS_MAX) }
    }
}

impl Top {
    pub(super) fn name(&self, file: u128, path: &str) {
        if !self.paths.contains_key(&file) {
            self.paths.insert(file, path.into());
        }
    }

    pub(super) fn read(&self, file: u128, hit: bool, bytes: u64) {
        let mut watched = self.watched.lock();
        if watched.len() >= FILES_MAX && !watched.contains_key(&file) {
            let least = watched.iter().min_by_key(|(_, w)| w.count()).map(|(&file, w)| (file, w.count()));
            let Some((least, inherited)) = least else { return };
            watched.remove(&least);
            watched.insert(file, Watched { inherited, ..Watched::default() });
        }
        let of = watched.entry(file).or_default();
        of.hits += u64::from(hit);
        of.misses += u64::from(!hit);
        of.bytes += bytes;
    }

    /// The `count` most read files, the most read first.
    pub(super) fn list(&self, count: usize) -> Vec<FileUse> {
        let mut all: Vec<_> = self.watched.lock().iter().map(|(&file, &w)| (file, w)).collect();
        all.sort_unstable_by_key(|&(file, w)| (std::cmp::Reverse(w.count()), file));
        all.truncate(count);
        all.into_iter()
            .map(|(file, w)| FileUse {
                file: format!("{file:032x}"),
                path: self.paths.get(&file).map(|path| path.to_string()),
                hits: w.hits,
                misses: w.misses,
                bytes: w.bytes,
                error_max: w.inherited,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_often_is_found_among_any_number_of_others() {
        let top = Top::default();
        top.name(u128::MAX, "/hot");
        for file in 0..100_000 {
            top.read(file, true, 1);
            // One read in 100, where a watched place stands for 1 in 512.
            if file % 100 == 0 {
                top.read(u128::MAX, file % 200 == 0, 10);
            }
        }
        let first = &top.list(3)[0];
        assert_eq!(first.path.as_deref(), Some("/hot"));
        assert_eq!((first.hits, first.misses, first.bytes), (500, 500, 10_000));
        assert_eq!(top.watched.lock().len(), FILES_MAX);
    }
}
