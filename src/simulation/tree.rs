//! The store itself: what it holds, and what was done to it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use springhouse_fuse::{
    error::{Error, ErrorKind, Result},
    store::Generation,
};
use springhouse_gateway::upload::UploadName;

/// What happened to a file that is no temporary one.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) path: String,
    /// `None`: it was removed.
    pub(super) now: Option<File>,
    pub(super) by: By,
}

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum By {
    /// A gateway moved this there.
    Rename(String),
    Removal,
    /// Somebody else.
    Foreigner,
}

#[derive(Debug, Clone)]
pub(super) struct File {
    /// Which contents: two files with the same number are the same, bytes and all.
    pub(super) contents: u64,
    pub(super) bytes: Bytes,
    pub(super) mtime_ms: i64,
    pub(super) generation: Generation,
    /// Its writer's, until it is closed.
    pub(super) writer: Option<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) files: BTreeMap<String, File>,
    pub(super) dirs: BTreeMap<String, i64>,
    /// A rename makes a new generation, as in a local directory; otherwise a generation is a time and a
    /// length, as in HDFS.
    pub(super) renames_anew: bool,
    pub(super) events: Vec<Event>,
    count: u64,
}

fn error(kind: ErrorKind, path: &str, what: &str) -> Error {
    Error::new(kind, format!("{path} {what}"))
}

fn parent(path: &str) -> String {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/".into(),
        Some((dir, _)) => dir.into(),
    }
}

impl Tree {
    pub(super) fn new(renames_anew: bool) -> Self {
        let mut tree = Self { renames_anew, ..Self::default() };
        tree.dirs.insert("/".into(), 0);
        tree
    }

    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn generation(&mut self, mtime_ms: i64, len: usize) -> Generation {
        let number = if self.renames_anew {
            u128::from(self.next()) << 64 | 1
        } else {
            u128::from(mtime_ms.unsigned_abs()) << 64 | len as u128
        };
        Generation(number.to_be_bytes())
    }

    fn touch(&mut self, path: &str, now_ms: i64) {
        self.dirs.insert(parent(path), now_ms);
    }

    pub(super) fn file(&self, path: &str) -> Result<&File> {
        if self.dirs.contains_key(path) {
            return Err(error(ErrorKind::IsADirectory, path, "is a directory"));
        }
        self.files.get(path).ok_or_else(|| error(ErrorKind::NotFound, path, "is not there"))
    }

    pub(super) fn make_dirs(&mut self, dir: &str, now_ms: i64) {
        if !self.dirs.contains_key(dir) {
            self.make_dirs(&parent(dir), now_ms);
            self.dirs.insert(dir.into(), now_ms);
            self.touch(dir, now_ms);
        }
    }

    /// Makes an empty file; gives its writer's number.
    pub(super) fn create(&mut self, path: &str, overwrite: bool, now_ms: i64) -> Result<u64> {
        if !overwrite && self.files.contains_key(path) {
            return Err(error(ErrorKind::AlreadyExists, path, "is there already"));
        }
        self.make_dirs(&parent(path), now_ms);
        let (writer, contents) = (self.next(), self.next());
        let generation = self.generation(now_ms, 0);
        let file = File { contents, bytes: Bytes::new(), mtime_ms: now_ms, generation, writer: Some(writer) };
        self.files.insert(path.into(), file);
        self.touch(path, now_ms);
        Ok(writer)
    }

    /// Adds to the file of `writer`; with `done` it is finished.
    pub(super) fn write(
        &mut self,
        path: &str,
        writer: u64,
        more: &[u8],
        done: bool,
        now_ms: i64,
    ) -> Result<()> {
        let there = self.files.get(path).filter(|file| file.writer == Some(writer)).cloned();
        let Some(mut file) = there else {
            return Err(error(ErrorKind::NotFound, path, "was removed while it was written"));
        };
        let mut bytes = file.bytes.to_vec();
        bytes.extend_from_slice(more);
        if done {
            file.writer = None;
        }
        (file.contents, file.mtime_ms, file.generation) =
            (self.next(), now_ms, self.generation(now_ms, bytes.len()));
        file.bytes = bytes.into();
        self.files.insert(path.into(), file);
        Ok(())
    }

    /// Somebody else puts a finished file there.
    pub(super) fn put(&mut self, path: &str, bytes: Vec<u8>, now_ms: i64) {
        self.make_dirs(&parent(path), now_ms);
        let contents = self.next();
        let generation = self.generation(now_ms, bytes.len());
        let file = File { contents, bytes: bytes.into(), mtime_ms: now_ms, generation, writer: None };
        self.files.insert(path.into(), file.clone());
        self.touch(path, now_ms);
        self.events.push(Event { path: path.into(), now: Some(file), by: By::Foreigner });
    }

    pub(super) fn rename(&mut self, from: &str, to: &str, now_ms: i64) -> Result<()> {
        let mut file = self.file(from)?.clone();
        if !self.dirs.contains_key(&parent(to)) {
            return Err(error(ErrorKind::NotFound, to, "has no directory"));
        }
        self.files.remove(from);
        if self.renames_anew {
            file.generation = self.generation(file.mtime_ms, file.bytes.len());
        }
        self.files.insert(to.into(), file.clone());
        self.touch(from, now_ms);
        self.touch(to, now_ms);
        self.events.push(Event { path: to.into(), now: Some(file), by: By::Rename(from.into()) });
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &str, now_ms: i64) -> Result<()> {
        self.file(path)?;
        self.files.remove(path);
        self.touch(path, now_ms);
        if !is_temporary(path) {
            self.events.push(Event { path: path.into(), now: None, by: By::Removal });
        }
        Ok(())
    }

    /// Names below `dir`, with whether each is a directory.
    pub(super) fn names(&self, dir: &str) -> Result<BTreeSet<(String, bool)>> {
        if !self.dirs.contains_key(dir) {
            return Err(error(ErrorKind::NotFound, dir, "is not there"));
        }
        let files = self.files.keys().map(|path| (path, false));
        let dirs = self.dirs.keys().filter(|path| *path != "/").map(|path| (path, true));
        let here = files.chain(dirs).filter(|(path, _)| parent(path) == dir);
        Ok(here.map(|(path, is_dir)| (path.clone(), is_dir)).collect())
    }

    /// Uploads, and what was shipped.
    pub(super) fn left_over(&self) -> Vec<String> {
        self.files.keys().filter(|path| is_temporary(path)).cloned().collect()
    }
}

fn is_temporary(path: &str) -> bool {
    path.contains("._COPYING_.") || path.contains("._SHIPPED_.")
}

/// The token in the name of an attempt's upload.
pub(super) fn token_of(temporary: &str) -> Option<u64> {
    let name = UploadName::parse(temporary.rsplit('/').next()?)?;
    name.attempt.and(Some(name.token))
}
