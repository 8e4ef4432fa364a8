//! Random operations by several handles, against a file system that is a map.
//!
//! The kernel's part is played as it plays it: names are looked up part by part, what `Stale` refuses is
//! looked up again once, and numbers are forgotten only when nothing is open under them. Nobody else
//! changes the store, so every answer is known whatever the freshness.

use std::{
    collections::{BTreeMap, HashMap},
    time::UNIX_EPOCH,
};

use proptest::prelude::*;

use self::ops::{Op, PATHS, ops};
use super::*;
use crate::store::memory::MemoryStore;

mod ops;

/// A file as it should be.
#[derive(Debug, Clone, Default)]
struct File {
    /// All contents it had, the last one now.
    versions: Vec<Vec<u8>>,
    mode: u32,
    /// Known if it was set and nothing was written since.
    mtime: Option<u64>,
    gone: bool,
}

impl File {
    fn now(&self) -> &[u8] {
        self.versions.last().expect("a file begins empty")
    }

    fn become_(&mut self, content: Vec<u8>) {
        if self.now() != content {
            self.versions.push(content);
        }
        self.mtime = None;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Directory { mode: u32 },
    File(usize),
}

#[derive(Debug, Clone, Copy)]
struct Open {
    fh: u64,
    ino: u64,
    file: usize,
    /// Version at open.
    since: usize,
    writes: Option<bool>,
}

struct World {
    store: MemoryStore,
    fs: FileSystem,
    nodes: BTreeMap<String, Node>,
    files: Vec<File>,
    handles: Vec<Open>,
    told: HashMap<u64, u64>,
    written: u8,
}

fn me() -> Caller {
    Caller::own()
}

fn kind<T>(outcome: &Result<T>) -> Option<ErrorKind> {
    outcome.as_ref().err().map(Error::kind)
}

fn split(path: &str) -> (&str, &str) {
    let (parent, name) = path.rsplit_once('/').expect("absolute");
    (if parent.is_empty() { "/" } else { parent }, name)
}

impl World {
    fn new(freshness: Duration) -> Self {
        let store = MemoryStore::new();
        let settings = FsSettings { freshness, memory_bytes: 128 << 20, ..FsSettings::default() };
        let fs = FileSystem::new(Arc::new(store.clone()), settings, Handle::current()).expect("settings");
        let nodes = BTreeMap::from([("/".to_owned(), Node::Directory { mode: 0o755 })]);
        Self { store, fs, nodes, files: vec![], handles: vec![], told: HashMap::new(), written: 0 }
    }

    // What the model says.

    /// Whether the parent of `path` is a directory, or what is wrong with it.
    fn parent(&self, path: &str) -> std::result::Result<(), ErrorKind> {
        match self.at(split(path).0)? {
            Node::Directory { .. } => Ok(()),
            Node::File(_) => Err(ErrorKind::NotADirectory),
        }
    }

    fn at(&self, path: &str) -> std::result::Result<Node, ErrorKind> {
        if path != "/" {
            self.parent(path)?;
        }
        self.nodes.get(path).copied().ok_or(ErrorKind::NotFound)
    }

    fn file_at(&self, path: &str) -> std::result::Result<usize, ErrorKind> {
        match self.at(path)? {
            Node::File(file) => Ok(file),
            Node::Directory { .. } => Err(ErrorKind::IsADirectory),
        }
    }

    fn below(&self, path: &str) -> Vec<String> {
        let prefix = if path == "/" { "/".to_owned() } else { format!("{path}/") };
        self.nodes.keys().filter(|at| at.starts_with(&prefix) && *at != "/").cloned().collect()
    }

    fn lose(&mut self, path: &str) {
        if let Some(Node::File(file)) = self.nodes.remove(path) {
            self.files[file].gone = true;
        }
    }

    // What the kernel does.

    async fn walk(&mut self, path: &str) -> Result<u64> {
        let mut ino = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let Some(attr) = self.fs.lookup(me(), ino, name).await?.attr else {
                return Err(Error::new(ErrorKind::NotFound, "no such name"));
            };
            *self.told.entry(attr.ino).or_default() += 1;
            ino = attr.ino;
        }
        Ok(ino)
    }

    /// The directory that holds `path`.
    async fn walk_to_parent(&mut self, path: &str) -> Result<u64> {
        let parent = self.walk(split(path).0).await?;
        self.fs.directory(parent).map(|_| parent)
    }

    async fn open(&mut self, path: &str, writes: Option<OpenFor>) -> Result<(u64, u64)> {
        let mut tries = 0;
        loop {
            let ino = self.walk(path).await?;
            let opened = match writes {
                Some(wanted) => self.fs.open_for_writing(me(), ino, wanted).await,
                None => self.fs.open(me(), ino).await,
            };
            match opened {
                Err(error) if error.kind() == ErrorKind::Stale && tries == 0 => tries += 1,
                outcome => return outcome.map(|opened| (opened.fh, ino)),
            }
        }
    }

    async fn set(&mut self, path: &str, set: SetAttr) -> Result<Attr> {
        let ino = self.walk(path).await?;
        match self.fs.setattr(me(), ino, set).await {
            Err(error) if error.kind() == ErrorKind::Stale => {
                let ino = self.walk(path).await?;
                self.fs.setattr(me(), ino, set).await.map(|(attr, _)| attr)
            }
            outcome => outcome.map(|(attr, _)| attr),
        }
    }

    /// What the store has of a file, wherever it is.
    async fn stored(&self, file: usize) -> Option<Bytes> {
        let path = self.nodes.iter().find(|(_, node)| **node == Node::File(file))?.0;
        let path = StorePath::parse(path).expect("a valid path");
        let reader = self.store.open(&path, None).await.expect("it is in the store");
        Some(reader.read_at(0, usize::MAX).await.expect("read"))
    }

    fn handle(&self, n: usize) -> Option<Open> {
        if self.handles.is_empty() { None } else { Some(self.handles[n % self.handles.len()]) }
    }

    fn opened(&mut self, (fh, ino): (u64, u64), file: usize, writes: Option<bool>) {
        let since = self.files[file].versions.len() - 1;
        self.handles.push(Open { fh, ino, file, since, writes });
    }

    // Both, compared.

    async fn step(&mut self, op: &Op) {
        match *op {
            Op::Create { path, truncate, exclusive, append } => {
                let path = PATHS[path];
                let there = self.at(path);
                let outcome = match self.walk(split(path).0).await {
                    Err(error) => Err(error),
                    Ok(parent) => {
                        let wanted = OpenFor { truncate, append, exclusive };
                        self.fs.create(me(), parent, split(path).1, 0o640, wanted).await
                    }
                };
                let expected = match there {
                    Err(ErrorKind::NotFound) => self.parent(path).err(),
                    Err(error) => Some(error),
                    Ok(_) if exclusive => Some(ErrorKind::AlreadyExists),
                    Ok(Node::Directory { .. }) => Some(ErrorKind::IsADirectory),
                    Ok(Node::File(_)) => None,
                };
                assert_eq!(kind(&outcome), expected, "{op:?}: {outcome:?}");
                let Ok(created) = outcome else { return };
                *self.told.entry(created.attr.ino).or_default() += 1;
                let file = match there {
                    // With O_TRUNC the store makes a new file in the place of the old one.
                    Ok(Node::File(_)) if truncate => {
                        self.lose(path);
                        self.make(path)
                    }
                    Ok(Node::File(file)) => file,
                    _ => self.make(path),
                };
                assert_eq!(created.attr.len, self.files[file].now().len() as u64);
                self.opened((created.opened.fh, created.attr.ino), file, Some(append));
            }
            Op::OpenToWrite { path, truncate, append } => {
                let path = PATHS[path];
                let there = self.file_at(path);
                let wanted = OpenFor { truncate, append, exclusive: false };
                let outcome = self.open(path, Some(wanted)).await;
                assert_eq!(kind(&outcome), there.err(), "{op:?}: {outcome:?}");
                if let (Ok(opened), Ok(file)) = (outcome, there) {
                    if truncate {
                        self.files[file].become_(vec![]);
                    }
                    self.opened(opened, file, Some(append));
                }
            }
            Op::OpenToRead { path } => {
                let path = PATHS[path];
                let there = self.file_at(path);
                let outcome = self.open(path, None).await;
                assert_eq!(kind(&outcome), there.err(), "{op:?}: {outcome:?}");
                if let (Ok(opened), Ok(file)) = (outcome, there) {
                    self.opened(opened, file, None);
                }
            }
            Op::Write { handle, len, away } => {
                let Some(open) = self.handle(handle) else { return };
                self.written = self.written.wrapping_add(1);
                let data = vec![self.written; len];
                let file = &self.files[open.file];
                let offset = file.now().len() as u64 + u64::from(away);
                let outcome = self.fs.write(open.fh, offset, data.clone().into(), false).await;
                let expected = match open.writes {
                    None => Some(ErrorKind::InvalidArgument),
                    Some(false) if away => {
                        // Of a file that is gone either is true.
                        Some(if file.gone {
                            kind(&outcome).expect("an error")
                        } else {
                            ErrorKind::Unsupported
                        })
                    }
                    Some(_) if file.gone => Some(ErrorKind::Stale),
                    Some(_) => None,
                };
                assert_eq!(kind(&outcome), expected, "{op:?}: {outcome:?}");
                if expected.is_none() && len > 0 {
                    let content = [file.now(), &data].concat();
                    self.files[open.file].become_(content);
                }
            }
            Op::Read { handle, offset, len } => self.read(op, handle, offset, len).await,
            Op::Fsync { handle } => {
                let Some(open) = self.handle(handle) else { return };
                let outcome = self.fs.fsync(open.fh).await;
                let lost = open.writes.is_some() && self.files[open.file].gone;
                assert_eq!(kind(&outcome), lost.then_some(ErrorKind::Stale), "{op:?}: {outcome:?}");
                if open.writes.is_some() && !lost {
                    let stored = self.stored(open.file).await.expect("there");
                    assert!(stored == self.files[open.file].now(), "fsync makes it durable");
                }
            }
            Op::Close { handle } => {
                let Some(open) = self.handle(handle) else { return };
                let at = handle % self.handles.len();
                self.handles.remove(at);
                let file = &self.files[open.file];
                if open.writes.is_some() {
                    let outcome = self.fs.flush(open.fh).await;
                    if file.gone {
                        assert!(matches!(kind(&outcome), None | Some(ErrorKind::Stale)), "{outcome:?}");
                    } else {
                        assert_eq!(kind(&outcome), None, "{op:?}: {outcome:?}");
                        let stored = self.stored(open.file).await.expect("there");
                        assert!(stored == file.now(), "close brings all of it to the store");
                    }
                }
                self.fs.release(open.fh).await;
            }
            Op::SetLen { path } => {
                let path = PATHS[path];
                let there = self.file_at(path);
                let outcome = self.set(path, SetAttr { len: Some(0), ..SetAttr::default() }).await;
                assert_eq!(kind(&outcome), there.err(), "{op:?}: {outcome:?}");
                if let Ok(file) = there {
                    if !self.files[file].now().is_empty() {
                        self.files[file].become_(vec![]);
                    }
                    assert_eq!(outcome.expect("compared above").len, 0);
                }
            }
            Op::Rename { from, to, keep } => self.rename(op, PATHS[from], PATHS[to], keep).await,
            Op::Unlink { path } | Op::Rmdir { path } => {
                let directory = matches!(op, Op::Rmdir { .. });
                let (path, (parent, name)) = (PATHS[path], split(PATHS[path]));
                let expected = match self.at(path) {
                    Err(error) => Some(error),
                    Ok(Node::File(_)) if directory => Some(ErrorKind::NotADirectory),
                    Ok(Node::Directory { .. }) if !directory => Some(ErrorKind::IsADirectory),
                    Ok(Node::Directory { .. }) if !self.below(path).is_empty() => Some(ErrorKind::NotEmpty),
                    Ok(_) => None,
                };
                let outcome = match self.walk(parent).await {
                    Err(error) => Err(error),
                    Ok(parent) if directory => self.fs.rmdir(me(), parent, name).await,
                    Ok(parent) => self.fs.unlink(me(), parent, name).await,
                };
                assert_eq!(kind(&outcome), expected, "{op:?}: {outcome:?}");
                if expected.is_none() {
                    self.lose(path);
                }
            }
            Op::Mkdir { path } => {
                let path = PATHS[path];
                let expected = match self.at(path) {
                    Err(ErrorKind::NotFound) => self.parent(path).err(),
                    Err(error) => Some(error),
                    Ok(_) => Some(ErrorKind::AlreadyExists),
                };
                let outcome = match self.walk(split(path).0).await {
                    Err(error) => Err(error),
                    Ok(parent) => self.fs.mkdir(me(), parent, split(path).1, 0o750).await,
                };
                assert_eq!(kind(&outcome), expected, "{op:?}: {outcome:?}");
                if let Ok(made) = outcome {
                    *self.told.entry(made.attr.expect("made").ino).or_default() += 1;
                    self.nodes.insert(path.to_owned(), Node::Directory { mode: 0o750 });
                }
            }
            Op::Chmod { path, mode } => {
                let path = PATHS[path];
                let there = self.at(path);
                let outcome = self.set(path, SetAttr { mode: Some(mode), ..SetAttr::default() }).await;
                assert_eq!(kind(&outcome), there.err(), "{op:?}: {outcome:?}");
                match there {
                    Ok(Node::File(file)) => self.files[file].mode = mode,
                    Ok(Node::Directory { .. }) => {
                        self.nodes.insert(path.to_owned(), Node::Directory { mode });
                    }
                    Err(_) => return,
                }
                assert_eq!(u32::from(outcome.expect("compared above").mode), mode);
            }
            Op::SetTime { path, seconds } => {
                let path = PATHS[path];
                let there = self.at(path);
                let time = SetTime::At(UNIX_EPOCH + Duration::from_secs(seconds));
                let outcome = self.set(path, SetAttr { mtime: Some(time), ..SetAttr::default() }).await;
                assert_eq!(kind(&outcome), there.err(), "{op:?}: {outcome:?}");
                if let Ok(Node::File(file)) = there {
                    self.files[file].mtime = Some(seconds);
                }
            }
            Op::List { path, attrs } => self.list(op, PATHS[path], attrs).await,
            Op::Stat { path } => self.stat(op, PATHS[path]).await,
            Op::StatHandle { handle } => {
                let Some(open) = self.handle(handle) else { return };
                let file = &self.files[open.file];
                if open.writes.is_some() || (file.versions.len() - 1 == open.since && !file.gone) {
                    let (attr, _) = self.fs.getattr(me(), open.ino).await.expect("an open file is known");
                    assert_eq!(attr.len, file.now().len() as u64, "{op:?}");
                    if open.writes.is_some() {
                        assert_eq!(attr.nlink, u32::from(!file.gone), "{op:?}");
                    }
                }
            }
            Op::Forget => {
                let fs = &self.fs;
                let open: Vec<u64> = self.handles.iter().map(|open| open.ino).collect();
                self.told.retain(|ino, count| {
                    let keep = open.contains(ino);
                    if !keep {
                        fs.forget(*ino, *count);
                    }
                    keep
                });
            }
            Op::Upkeep => self.fs.maintain(),
        }
    }

    fn make(&mut self, path: &str) -> usize {
        self.files.push(File { versions: vec![vec![]], mode: 0o640, ..File::default() });
        self.nodes.insert(path.to_owned(), Node::File(self.files.len() - 1));
        self.files.len() - 1
    }

    /// A handle reads what the file is now, as long as only those who write through this file system's
    /// live file changed it; else what it was at some time since the open, or that this is gone.
    async fn read(&mut self, op: &Op, handle: usize, offset: usize, len: usize) {
        let Some(open) = self.handle(handle) else { return };
        let file = &self.files[open.file];
        let part = |content: &[u8]| {
            let start = offset.min(content.len());
            content[start..(start + len).min(content.len())].to_vec()
        };
        match self.fs.read(open.fh, offset as u64, len).await {
            Ok(bytes) if open.writes.is_some() && !file.gone => {
                assert!(bytes == part(file.now()), "{op:?}: a writer reads what was written");
            }
            Ok(bytes) => {
                let known = file.versions[open.since..].iter().any(|content| bytes == part(content));
                assert!(known, "{op:?}: {} bytes of no version", bytes.len());
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Stale, "{op:?}: {error}");
                let changed = file.gone || file.versions.len() - 1 > open.since;
                assert!(changed, "{op:?}: nothing was changed, but {error}");
                assert!(open.writes.is_none() || file.gone, "{op:?}: of a writer, {error}");
            }
        }
    }

    async fn rename(&mut self, op: &Op, from: &str, to: &str, keep: bool) {
        if from == to {
            return;
        }
        let (source, target) = (self.at(from), self.at(to));
        let expected = match (&source, &target) {
            // The kernel looks both parents up before it asks.
            _ if self.parent(from).is_err() => self.parent(from).err(),
            _ if self.parent(to).is_err() => self.parent(to).err(),
            (Err(error), _) => Some(*error),
            _ if to.starts_with(&format!("{from}/")) => Some(ErrorKind::InvalidArgument),
            (_, Ok(_)) if keep => Some(ErrorKind::AlreadyExists),
            (Ok(Node::File(_)), Ok(Node::Directory { .. })) => Some(ErrorKind::IsADirectory),
            (Ok(Node::Directory { .. }), Ok(Node::File(_))) => Some(ErrorKind::NotADirectory),
            (Ok(Node::Directory { .. }), Ok(_)) if !self.below(to).is_empty() => Some(ErrorKind::NotEmpty),
            _ => None,
        };
        let (from_parent, to_parent) = (self.walk_to_parent(from).await, self.walk_to_parent(to).await);
        let outcome = match (from_parent, to_parent) {
            (Ok(from_parent), Ok(to_parent)) => {
                let mode = if keep { RenameMode::KeepExisting } else { RenameMode::Replace };
                self.fs.rename(me(), (from_parent, split(from).1), (to_parent, split(to).1), mode).await
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        assert_eq!(kind(&outcome), expected, "{op:?}: {outcome:?}");
        if expected.is_some() {
            return;
        }
        self.lose(to);
        for old in self.below(from).into_iter().chain([from.to_owned()]) {
            let node = self.nodes.remove(&old).expect("listed");
            self.nodes.insert(format!("{to}{}", &old[from.len()..]), node);
        }
    }

    async fn list(&mut self, op: &Op, path: &str, attrs: bool) {
        let there = self.at(path);
        let outcome = match self.walk(path).await {
            Ok(ino) => self.fs.opendir(me(), ino).await,
            Err(error) => Err(error),
        };
        let expected = match there {
            Err(error) => Some(error),
            Ok(Node::File(_)) => Some(ErrorKind::NotADirectory),
            Ok(_) => None,
        };
        assert_eq!(kind(&outcome), expected, "{op:?}: {outcome:?}");
        let Ok(dir) = outcome else { return };
        let mut found = BTreeMap::new();
        let mut offset = 0;
        loop {
            let entries = self.fs.readdir(dir, offset, attrs).await.expect("listed");
            let Some(last) = entries.last() else { break };
            offset = last.next;
            for entry in entries.into_iter().filter(|entry| entry.name != "." && entry.name != "..") {
                let ino = self.fs.told(&entry);
                if let Some((attr, _)) = &entry.attr {
                    *self.told.entry(ino).or_default() += 1;
                    let at = format!("{}/{}", path.trim_end_matches('/'), entry.name);
                    if let Ok(Node::File(file)) = self.at(&at) {
                        assert_eq!(attr.len, self.files[file].now().len() as u64, "{op:?}: {at}");
                    }
                }
                found.insert(entry.name, entry.kind == FileKind::Directory);
            }
        }
        self.fs.releasedir(dir);
        let expected: BTreeMap<String, bool> = self
            .below(path)
            .into_iter()
            .filter(|at| split(at).0 == path)
            .map(|at| {
                let directory = matches!(self.nodes[&at], Node::Directory { .. });
                (split(&at).1.to_owned(), directory)
            })
            .collect();
        assert_eq!(found, expected, "{op:?}");
    }

    async fn stat(&mut self, op: &Op, path: &str) {
        let there = self.at(path);
        let found = match self.walk(path).await {
            Ok(ino) => self.fs.getattr(me(), ino).await.map(|(attr, _)| attr),
            Err(error) => Err(error),
        };
        assert_eq!(kind(&found), there.err(), "{op:?}: {found:?}");
        let (Ok(attr), Ok(node)) = (found, there) else { return };
        match node {
            Node::Directory { mode } => {
                assert_eq!((attr.kind, u32::from(attr.mode)), (FileKind::Directory, mode), "{op:?}");
            }
            Node::File(file) => {
                let file = &self.files[file];
                let found = (attr.kind, attr.len, u32::from(attr.mode), attr.nlink);
                assert_eq!(found, (FileKind::File, file.now().len() as u64, file.mode, 1), "{op:?}");
                if let Some(seconds) = file.mtime {
                    assert_eq!(attr.mtime, UNIX_EPOCH + Duration::from_secs(seconds), "{op:?}");
                }
            }
        }
    }

    /// All handles closed: the store has what the model has, and nothing is left in memory.
    async fn end(mut self) {
        while !self.handles.is_empty() {
            self.step(&Op::Close { handle: 0 }).await;
        }
        for path in PATHS {
            self.stat(&Op::Forget, path).await;
            if let Ok(file) = self.file_at(path) {
                assert!(self.stored(file).await.expect("there") == self.files[file].now(), "{path}");
            }
        }
        self.step(&Op::Forget).await;
        // The tasks of writers whose files are gone end by themselves.
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
        let figures = self.fs.snapshot();
        assert_eq!((figures.open_files, figures.files_written, figures.bytes_on_their_way), (0, 0, 0));
        assert_eq!(figures.inodes, 1, "only the root is known when the kernel has forgotten all");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_the_model_does(ops in ops(), remembers in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let freshness = if remembers { Duration::from_secs(3600) } else { Duration::ZERO };
            let mut world = World::new(freshness);
            for op in &ops {
                world.step(op).await;
            }
            world.end().await;
        });
    }
}
