//! A store in memory for tests.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    crash::{Crash, Step},
    segment::SegmentId,
    store::{Generation, SegmentStore, StoreEntry, StoreFailure},
};

/// A store in memory that behaves like HDFS: a directory's time moves on create, delete and rename in
/// it, not when a file grows. Counts calls and fails on demand.
#[derive(Default)]
pub(crate) struct MemoryStore {
    pub(super) inner: Mutex<Tree>,
    pub(crate) denied: AtomicBool,
    pub(crate) down: AtomicBool,
    /// Once the root was listed all is gone, the root too.
    pub(crate) vanishes: AtomicBool,
    /// A rename makes a new generation, as in a local directory; otherwise it keeps it, as in HDFS.
    pub(crate) renames_anew: AtomicBool,
    /// Nothing can be removed.
    pub(crate) unremovable: AtomicBool,
    /// Something was removed.
    pub(crate) removed: Notify,
    /// Renames are not answered, and are carried out when somebody says so.
    pub(crate) late_renames: AtomicBool,
    late: Mutex<Vec<(String, String)>>,
    /// Where the process dies.
    pub(crate) crash: Mutex<Arc<Crash>>,
}

#[derive(Default)]
pub(super) struct Tree {
    /// Directories with their mtime and their files.
    dirs: BTreeMap<String, (i64, BTreeMap<String, StoreEntry>)>,
    pub(super) small: BTreeMap<String, Vec<u8>>,
    versions: u128,
    listed: Vec<String>,
    pub(super) stats: Vec<String>,
    failing: HashSet<String>,
}

impl MemoryStore {
    pub(crate) fn new() -> Arc<Self> {
        let store = Self::default();
        store.inner.lock().dirs.insert("/".into(), (0, BTreeMap::new()));
        Arc::new(store)
    }

    pub(crate) fn write(&self, path: &str, len: u64, mtime_ms: i64) {
        let (dir, name) = split(path);
        let mut tree = self.inner.lock();
        let mut made = dir.clone();
        while !tree.dirs.contains_key(&made) {
            tree.dirs.insert(made.clone(), (mtime_ms, BTreeMap::new()));
            made = split(&made).0;
            if let Some(parent) = tree.dirs.get_mut(&made) {
                parent.0 = mtime_ms;
            }
        }
        tree.versions += 1;
        let generation = Generation(tree.versions.to_be_bytes());
        let dir = tree.dirs.get_mut(&dir).expect("made above");
        let entry = StoreEntry { name: name.clone(), is_dir: false, len, mtime_ms, generation };
        if dir.1.insert(name, entry).is_none() {
            dir.0 = mtime_ms;
        }
    }

    /// A new file renamed over, or created: the directory's time moves.
    pub(crate) fn replace(&self, path: &str, len: u64, mtime_ms: i64) {
        self.write(path, len, mtime_ms);
        if let Some(dir) = self.inner.lock().dirs.get_mut(&split(path).0) {
            dir.0 = mtime_ms;
        }
    }

    pub(crate) fn delete(&self, path: &str, mtime_ms: i64) {
        let (dir, name) = split(path);
        if let Some(dir) = self.inner.lock().dirs.get_mut(&dir)
            && dir.1.remove(&name).is_some()
        {
            dir.0 = mtime_ms;
        }
    }

    pub(crate) fn delete_dir(&self, path: &str, mtime_ms: i64) {
        let mut tree = self.inner.lock();
        tree.dirs.retain(|dir, _| dir != path && !dir.starts_with(&format!("{path}/")));
        if let Some(parent) = tree.dirs.get_mut(&split(path).0) {
            parent.0 = mtime_ms;
        }
    }

    pub(crate) fn take_listed(&self) -> Vec<String> {
        let mut listed = std::mem::take(&mut self.inner.lock().listed);
        listed.sort();
        listed
    }

    pub(crate) fn fail(&self, dir: &str, failing: bool) {
        let mut tree = self.inner.lock();
        if failing {
            tree.failing.insert(dir.into());
        } else {
            tree.failing.remove(dir);
        }
    }

    pub(crate) fn segments(&self) -> Vec<(String, Generation)> {
        let tree = self.inner.lock();
        let files = tree.dirs.iter().flat_map(|(dir, (_, files))| {
            files.values().filter_map(move |entry| {
                let id = SegmentId::from_file_name(&entry.name)?;
                Some((id.path_in(dir), entry.generation))
            })
        });
        let mut segments: Vec<_> = files.collect();
        segments.sort();
        segments
    }

    /// The file at `path`.
    pub(crate) fn file(&self, path: &str) -> Option<StoreEntry> {
        let (dir, name) = split(path);
        self.inner.lock().dirs.get(&dir).and_then(|(_, files)| files.get(&name)).cloned()
    }

    /// Puts a file there as it was.
    pub(crate) fn put_back(&self, path: &str, entry: StoreEntry) {
        let (dir, name) = split(path);
        if let Some((_, files)) = self.inner.lock().dirs.get_mut(&dir) {
            files.insert(name, entry);
        }
    }

    /// Names of all files, with their directories.
    pub(crate) fn files(&self) -> Vec<String> {
        let tree = self.inner.lock();
        let files = tree.dirs.iter().flat_map(|(dir, (_, files))| {
            files.keys().map(move |name| format!("{}/{name}", dir.trim_end_matches('/')))
        });
        files.collect()
    }

    /// Carries out what was asked for long ago.
    pub(crate) fn catch_up(&self) {
        for (from, to) in std::mem::take(&mut *self.late.lock()) {
            // Nobody hears of it.
            let _ = self.rename_now(&from, &to);
        }
    }

    fn rename_now(&self, from: &str, to: &str) -> Result<(), StoreFailure> {
        let mut entry = self.file(from).ok_or_else(|| StoreFailure::NotFound(from.into()))?;
        let mut tree = self.inner.lock();
        entry.name = split(to).1;
        if self.renames_anew.load(Ordering::SeqCst) {
            tree.versions += 1;
            entry.generation = Generation(tree.versions.to_be_bytes());
        }
        let now = entry.mtime_ms;
        if let Some(dir) = tree.dirs.get_mut(&split(from).0) {
            dir.1.remove(&split(from).1);
            dir.0 = now;
        }
        let dir = tree.dirs.get_mut(&split(to).0).ok_or_else(|| StoreFailure::NotFound(to.into()))?;
        dir.1.insert(split(to).1, entry);
        dir.0 = now;
        Ok(())
    }

    fn up(&self) -> Result<Step, StoreFailure> {
        let step = self.crash.lock().step();
        if self.down.load(Ordering::SeqCst) || step.is_before() {
            return Err(StoreFailure::Unavailable("connection refused".into()));
        }
        Ok(step)
    }

    fn down_after(&self, step: Step) -> Result<(), StoreFailure> {
        if step.is_after() { Err(StoreFailure::Unavailable("no answer".into())) } else { Ok(()) }
    }
}

impl PartialOrd for Generation {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Generation {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

fn split(path: &str) -> (String, String) {
    let (dir, name) = path.rsplit_once('/').expect("absolute");
    (if dir.is_empty() { "/".into() } else { dir.into() }, name.into())
}

#[async_trait]
impl SegmentStore for MemoryStore {
    fn url(&self) -> String {
        "memory:///store".into()
    }

    async fn list(&self, dir: &str) -> Result<Vec<StoreEntry>, StoreFailure> {
        self.up()?;
        let mut tree = self.inner.lock();
        tree.listed.push(dir.into());
        if tree.failing.contains(dir) {
            return Err(StoreFailure::Unavailable(format!("{dir}: no answer")));
        }
        let (_, files) = tree.dirs.get(dir).ok_or_else(|| StoreFailure::NotFound(dir.into()))?;
        let subdirs = tree.dirs.iter().filter(|(path, _)| *path != "/" && split(path).0 == dir);
        let subdirs = subdirs.map(|(path, (mtime_ms, _))| StoreEntry {
            name: split(path).1,
            is_dir: true,
            len: 0,
            mtime_ms: *mtime_ms,
            generation: Generation((*mtime_ms as u128).to_be_bytes()),
        });
        let entries = files.values().cloned().chain(subdirs).collect();
        if dir == "/" && self.vanishes.load(Ordering::SeqCst) {
            tree.dirs.clear();
        }
        Ok(entries)
    }

    async fn stat(&self, path: &str) -> Result<StoreEntry, StoreFailure> {
        self.up()?;
        let mut tree = self.inner.lock();
        tree.stats.push(path.into());
        if let Some((mtime_ms, _)) = tree.dirs.get(path) {
            let generation = Generation((*mtime_ms as u128).to_be_bytes());
            return Ok(StoreEntry {
                name: split(path).1,
                is_dir: true,
                len: 0,
                mtime_ms: *mtime_ms,
                generation,
            });
        }
        let (dir, name) = split(path);
        let entry = tree.dirs.get(&dir).and_then(|(_, files)| files.get(&name)).cloned();
        entry.ok_or_else(|| StoreFailure::NotFound(path.into()))
    }

    async fn read_small(&self, path: &str) -> Result<Vec<u8>, StoreFailure> {
        self.up()?;
        self.inner.lock().small.get(path).cloned().ok_or_else(|| StoreFailure::NotFound(path.into()))
    }

    async fn create_exclusive(&self, path: &str, data: &[u8]) -> Result<(), StoreFailure> {
        self.up()?;
        if self.denied.load(Ordering::SeqCst) {
            return Err(StoreFailure::Denied("read-only".into()));
        }
        let mut tree = self.inner.lock();
        if tree.small.contains_key(path) {
            return Err(StoreFailure::AlreadyExists(path.into()));
        }
        tree.small.insert(path.into(), data.into());
        Ok(())
    }

    async fn rename_over(&self, from: &str, to: &str) -> Result<(), StoreFailure> {
        let step = self.up()?;
        if self.late_renames.load(Ordering::SeqCst) {
            self.late.lock().push((from.into(), to.into()));
            return Err(StoreFailure::Unavailable("no answer".into()));
        }
        self.rename_now(from, to)?;
        self.down_after(step)
    }

    async fn remove(&self, path: &str) -> Result<(), StoreFailure> {
        let step = self.up()?;
        let entry = self.file(path).ok_or_else(|| StoreFailure::NotFound(path.into()))?;
        if self.unremovable.load(Ordering::SeqCst) {
            return Err(StoreFailure::Unavailable("no answer".into()));
        }
        self.delete(path, entry.mtime_ms + 1);
        self.removed.notify_one();
        self.down_after(step)
    }
}
