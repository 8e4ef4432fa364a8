//! A store of any number of segments that takes no room: listings are computed. Used by the benchmark and
//! by the test that counts.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use springhouse_gateway::{
    segment::SegmentId,
    store::{Generation, SegmentStore, StoreEntry, StoreFailure},
};

/// Segments of a directory in Trough's layout: numbers that differ in their last three digits.
pub const PER_DIRECTORY: u64 = 1_000;
/// 2024-01-01, ms since 1970: everything is old enough to be quiet.
const LONG_AGO_MS: i64 = 1_704_067_200_000;

/// The store. Segments 0 to `numbered` are called by number, 1,000 to a directory; the others after hosts,
/// each in a directory of its own, because host names end in `.org` and the like.
pub struct World {
    numbered: u64,
    hosts: u64,
    /// Directories that changed: how often, and how many of their segments each time.
    changed: Mutex<HashMap<String, (u64, u64)>>,
    markers: Mutex<HashMap<String, Vec<u8>>>,
    listings: AtomicU64,
}

impl World {
    /// `segments` in all, of which one in a hundred has a host's name.
    pub fn new(segments: u64) -> Self {
        let hosts = segments / 100;
        Self {
            numbered: segments - hosts,
            hosts,
            changed: Mutex::default(),
            markers: Mutex::default(),
            listings: AtomicU64::new(0),
        }
    }

    /// Id of segment `n`.
    pub fn id(&self, n: u64) -> String {
        if n < self.numbered {
            format!("{n:09}")
        } else {
            let host = n - self.numbered;
            format!("{}{host}.example.{}", ["www.", "blog-", "archive-"][(host % 3) as usize], "org")
        }
    }

    /// Segments with a number.
    pub fn numbered(&self) -> u64 {
        self.numbered
    }

    /// Directories without the root.
    pub fn directories(&self) -> u64 {
        self.numbered.div_ceil(PER_DIRECTORY) + self.hosts
    }

    /// Somebody replaces the first `segments` of the `n`-th directory of numbers.
    pub fn replace(&self, n: u64, segments: u64) {
        let mut changed = lock(&self.changed);
        let entry = changed.entry(format!("/{n:06}")).or_default();
        *entry = (entry.0 + 1, segments);
    }

    /// Listings since the last call.
    pub fn take_listings(&self) -> u64 {
        self.listings.swap(0, Ordering::Relaxed)
    }

    fn version(&self, directory: &str) -> (u64, u64) {
        lock(&self.changed).get(directory).copied().unwrap_or_default()
    }

    fn directory(&self, name: &str) -> StoreEntry {
        let (version, _) = self.version(&format!("/{name}"));
        let mtime_ms = LONG_AGO_MS + version as i64 * 1_000;
        entry(name.to_owned(), true, 0, mtime_ms, version)
    }

    /// The segment `n`, replaced `version` times.
    fn segment(&self, n: u64, version: u64) -> StoreEntry {
        let size = (1 << 20) + mixed(n) % (48 << 20);
        let mtime_ms = LONG_AGO_MS - (mixed(n) % 30_000_000_000) as i64 + version as i64 * 1_000;
        entry(format!("{}.sqlite", self.id(n)), false, size, mtime_ms, mixed(n) ^ version)
    }

    fn of_directory(&self, path: &str) -> Result<Vec<StoreEntry>, StoreFailure> {
        let missing = || StoreFailure::NotFound(path.to_owned());
        let name = path.strip_prefix('/').ok_or_else(missing)?;
        if name.len() == 6 && name.bytes().all(|b| b.is_ascii_digit()) {
            let first = name.parse::<u64>().map_err(|_| missing())? * PER_DIRECTORY;
            let (version, replaced) = self.version(path);
            let all = first..self.numbered.min(first + PER_DIRECTORY);
            return Ok(all
                .map(|n| self.segment(n, if n < first + replaced { version } else { 0 }))
                .collect());
        }
        let digits: String = name.chars().filter(char::is_ascii_digit).collect();
        let host: u64 = digits.parse().map_err(|_| missing())?;
        Ok(vec![self.segment(self.numbered + host, 0)])
    }
}

fn entry(name: String, is_dir: bool, len: u64, mtime_ms: i64, seed: u64) -> StoreEntry {
    let generation = (u128::from(mixed(seed)) << 64) | u128::from(mixed(!seed));
    StoreEntry { name, is_dir, len, mtime_ms, generation: Generation(generation.to_be_bytes()) }
}

/// splitmix64: spreads numbers over all bits.
pub fn mixed(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl SegmentStore for World {
    fn url(&self) -> String {
        "memory:///world".into()
    }

    async fn list(&self, dir: &str) -> Result<Vec<StoreEntry>, StoreFailure> {
        self.listings.fetch_add(1, Ordering::Relaxed);
        if dir != "/" {
            return self.of_directory(dir);
        }
        let numbers = (0..self.numbered.div_ceil(PER_DIRECTORY)).map(|n| format!("{n:06}"));
        let hosts = (self.numbered..self.numbered + self.hosts).map(|n| {
            let id = self.id(n);
            id[..id.len() - 3].to_owned()
        });
        Ok(numbers.chain(hosts).map(|name| self.directory(&name)).collect())
    }

    async fn stat(&self, path: &str) -> Result<StoreEntry, StoreFailure> {
        let missing = || StoreFailure::NotFound(path.to_owned());
        if path == "/" {
            return Ok(entry("/".into(), true, 0, LONG_AGO_MS, 0));
        }
        let (directory, name) = path.rsplit_once('/').ok_or_else(missing)?;
        SegmentId::from_file_name(name).ok_or_else(missing)?;
        self.of_directory(directory)?.into_iter().find(|entry| entry.name == name).ok_or_else(missing)
    }

    async fn read_small(&self, path: &str) -> Result<Vec<u8>, StoreFailure> {
        let found = lock(&self.markers).get(path).cloned();
        found.ok_or_else(|| StoreFailure::NotFound(path.to_owned()))
    }

    async fn create_exclusive(&self, path: &str, data: &[u8]) -> Result<(), StoreFailure> {
        lock(&self.markers).insert(path.to_owned(), data.to_vec());
        Ok(())
    }

    async fn rename_over(&self, from: &str, _to: &str) -> Result<(), StoreFailure> {
        Err(StoreFailure::Denied(format!("{from}: this store is only listed")))
    }

    async fn remove(&self, path: &str) -> Result<(), StoreFailure> {
        Err(StoreFailure::Denied(format!("{path}: this store is only listed")))
    }
}
