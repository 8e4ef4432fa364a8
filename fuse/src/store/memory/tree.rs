//! The files and directories of a store in memory.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::SystemTime,
};

use bytes::Bytes;

use crate::{
    error::{Error, ErrorKind, Result},
    store::{
        AttributeChanges, CreateOptions, Entry, FileKind, Generation, Metadata, StorePath, refuse_into_itself,
    },
};

/// Gone once its file was replaced or deleted; shared with the readers.
pub(super) type Alive = Arc<AtomicBool>;

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) metadata: Metadata,
    pub(super) bytes: Bytes,
    pub(super) alive: Alive,
}

#[derive(Debug)]
pub(super) struct Tree {
    /// By path; `/` is always there and a directory.
    nodes: BTreeMap<StorePath, Node>,
    generations: u128,
    /// Stands still at this time, which with the length is all that a generation is.
    clock: Option<SystemTime>,
}

fn error(kind: ErrorKind, path: &StorePath, why: &str) -> Error {
    Error::new(kind, format!("{path}: {why}"))
}

impl Tree {
    pub(super) fn new(clock: Option<SystemTime>) -> Self {
        let mut tree = Self { nodes: BTreeMap::new(), generations: 0, clock };
        let root = tree.node(FileKind::Directory, Bytes::new(), 0o755);
        tree.nodes.insert(StorePath::root(), root);
        tree
    }

    fn now(&self) -> SystemTime {
        self.clock.unwrap_or_else(SystemTime::now)
    }

    fn next_generation(&mut self, mtime: SystemTime, len: u64) -> Generation {
        if self.clock.is_none() {
            self.generations += 1;
            return Generation(self.generations.to_be_bytes());
        }
        let millis = mtime.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        Generation((millis << 64 | u128::from(len)).to_be_bytes())
    }

    fn node(&mut self, kind: FileKind, bytes: Bytes, mode: u32) -> Node {
        let now = self.now();
        let metadata = Metadata {
            kind,
            len: bytes.len() as u64,
            mode,
            owner: "springhouse".into(),
            group: "springhouse".into(),
            mtime: now,
            atime: now,
            replication: u32::from(kind == FileKind::File),
            block_size: 128 << 20,
            generation: self.next_generation(now, bytes.len() as u64),
        };
        Node { metadata, bytes, alive: Arc::new(AtomicBool::new(true)) }
    }

    pub(super) fn get(&self, path: &StorePath) -> Result<&Node> {
        if let Some(node) = self.nodes.get(path) {
            return Ok(node);
        }
        // The nearest thing above that exists tells which error it is.
        let mut above = path.parent();
        while let Some(at) = above {
            if let Some(node) = self.nodes.get(&at) {
                if !node.metadata.is_dir() {
                    return Err(error(ErrorKind::NotADirectory, path, "a part of the path is a file"));
                }
                break;
            }
            above = at.parent();
        }
        Err(error(ErrorKind::NotFound, path, "no such file or directory"))
    }

    pub(super) fn file(&self, path: &StorePath) -> Result<&Node> {
        let node = self.get(path)?;
        if node.metadata.is_dir() {
            return Err(error(ErrorKind::IsADirectory, path, "is a directory"));
        }
        Ok(node)
    }

    fn dir(&self, path: &StorePath) -> Result<&Node> {
        let node = self.get(path)?;
        if !node.metadata.is_dir() {
            return Err(error(ErrorKind::NotADirectory, path, "is not a directory"));
        }
        Ok(node)
    }

    fn parent_of(path: &StorePath) -> Result<StorePath> {
        path.parent()
            .ok_or_else(|| error(ErrorKind::InvalidArgument, path, "the store's root cannot be changed"))
    }

    /// All below `dir`, itself not.
    fn below<'a>(&'a self, dir: &'a StorePath) -> impl Iterator<Item = (&'a StorePath, &'a Node)> {
        let prefix = if dir.is_root() { String::from("/") } else { format!("{dir}/") };
        self.nodes
            .range::<StorePath, _>((Bound::Excluded(dir), Bound::Unbounded))
            // Between `/a` and `/a/b` sorts `/a!`: pass over those.
            .take_while(move |(path, _)| dir.is_root() || path.as_str().starts_with(dir.as_str()))
            .filter(move |(path, _)| path.as_str().starts_with(&prefix))
    }

    fn touch(&mut self, dir: &StorePath) {
        let now = self.now();
        let generation = self.next_generation(now, 0);
        if let Some(node) = self.nodes.get_mut(dir) {
            node.metadata.generation = generation;
            node.metadata.mtime = now;
        }
    }

    pub(super) fn list(&self, dir: &StorePath) -> Result<Vec<Entry>> {
        self.dir(dir)?;
        Ok(self
            .below(dir)
            .filter(|(path, _)| path.parent().as_ref() == Some(dir))
            .map(|(path, node)| Entry { name: path.name().into(), metadata: node.metadata.clone() })
            .collect())
    }

    /// Makes an empty file.
    pub(super) fn create(&mut self, path: &StorePath, options: CreateOptions) -> Result<()> {
        let parent = Self::parent_of(path)?;
        if options.create_parents {
            self.create_dir(&parent).map_err(|e| match e.kind() {
                ErrorKind::AlreadyExists => error(ErrorKind::NotADirectory, path, "its parent is a file"),
                _ => e,
            })?;
        }
        self.dir(&parent)?;
        match self.nodes.get(path) {
            Some(_) if !options.overwrite => {
                return Err(error(ErrorKind::AlreadyExists, path, "exists already"));
            }
            Some(node) if node.metadata.is_dir() => {
                return Err(error(ErrorKind::IsADirectory, path, "is a directory"));
            }
            Some(node) => node.alive.store(false, SeqCst),
            None => {}
        }
        let mut node = self.node(FileKind::File, Bytes::new(), options.mode.unwrap_or(0o644) & 0o7777);
        let metadata = &mut node.metadata;
        metadata.replication = options.replication.unwrap_or(metadata.replication);
        metadata.block_size = options.block_size.unwrap_or(metadata.block_size);
        self.nodes.insert(path.clone(), node);
        self.touch(&parent);
        Ok(())
    }

    /// Shows what was written so far of the file that `alive` belongs to, wherever it is by now.
    pub(super) fn fill(&mut self, path: &StorePath, alive: &Alive, bytes: Bytes) -> Result<()> {
        let now = self.now();
        let generation = self.next_generation(now, bytes.len() as u64);
        let node = self.nodes.values_mut().find(|node| Arc::ptr_eq(&node.alive, alive));
        let Some(node) = node else {
            return Err(error(ErrorKind::NotFound, path, "was deleted while it was written"));
        };
        node.metadata.len = bytes.len() as u64;
        node.metadata.mtime = now;
        node.metadata.generation = generation;
        node.bytes = bytes;
        Ok(())
    }

    pub(super) fn create_dir(&mut self, path: &StorePath) -> Result<()> {
        match self.get(path) {
            Ok(node) if node.metadata.is_dir() => return Ok(()),
            Ok(_) => return Err(error(ErrorKind::AlreadyExists, path, "exists already, and is a file")),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let parent = Self::parent_of(path)?;
        self.create_dir(&parent)?;
        let node = self.node(FileKind::Directory, Bytes::new(), 0o755);
        self.nodes.insert(path.clone(), node);
        self.touch(&parent);
        Ok(())
    }

    /// Makes one directory.
    pub(super) fn make_dir(&mut self, path: &StorePath, mode: Option<u32>) -> Result<()> {
        let Some(parent) = path.parent() else {
            return Err(error(ErrorKind::AlreadyExists, path, "exists already"));
        };
        self.dir(&parent)?;
        if self.nodes.contains_key(path) {
            return Err(error(ErrorKind::AlreadyExists, path, "exists already"));
        }
        let node = self.node(FileKind::Directory, Bytes::new(), mode.unwrap_or(0o755) & 0o7777);
        self.nodes.insert(path.clone(), node);
        self.touch(&parent);
        Ok(())
    }

    /// Cuts a file, or makes it longer with zeros.
    pub(super) fn truncate(&mut self, path: &StorePath, len: u64) -> Result<()> {
        let node = self.file(path)?;
        let (alive, mut bytes) = (Arc::clone(&node.alive), node.bytes.to_vec());
        if bytes.len() as u64 == len {
            return Ok(());
        }
        let len = usize::try_from(len).map_err(|_| error(ErrorKind::NoSpace, path, "does not fit"))?;
        bytes.resize(len, 0);
        self.fill(path, &alive, bytes.into())
    }

    pub(super) fn set_attributes(&mut self, path: &StorePath, changes: &AttributeChanges) -> Result<()> {
        let now = &self.get(path)?.metadata;
        let (mtime, len) = (changes.mtime.unwrap_or(now.mtime), now.len);
        let generation = self.next_generation(mtime, len);
        let Some(Node { metadata, .. }) = self.nodes.get_mut(path) else { return Ok(()) };
        if let Some(owner) = &changes.owner {
            metadata.owner.clone_from(owner);
        }
        if let Some(group) = &changes.group {
            metadata.group.clone_from(group);
        }
        metadata.mode = changes.mode.map_or(metadata.mode, |mode| mode & 0o7777);
        metadata.atime = changes.atime.unwrap_or(metadata.atime);
        if let Some(mtime) = changes.mtime {
            metadata.mtime = mtime;
            metadata.generation = generation;
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &StorePath, to: &StorePath, overwrite: bool) -> Result<()> {
        let from_parent = Self::parent_of(from)?;
        let to_parent = Self::parent_of(to)?;
        refuse_into_itself(from, to)?;
        let source = self.get(from)?.clone();
        if from == to {
            return if overwrite {
                Ok(())
            } else {
                Err(error(ErrorKind::AlreadyExists, to, "exists already"))
            };
        }
        self.dir(&to_parent)?;
        if let Some(target) = self.nodes.get(to) {
            let (kind, why) = match (source.metadata.is_dir(), target.metadata.is_dir()) {
                _ if !overwrite => (ErrorKind::AlreadyExists, "exists already"),
                (false, true) => (ErrorKind::IsADirectory, "is a directory"),
                (true, false) => (ErrorKind::NotADirectory, "is a file"),
                (true, true) if self.below(to).next().is_some() => (ErrorKind::NotEmpty, "is not empty"),
                _ => (ErrorKind::Other, ""),
            };
            if kind != ErrorKind::Other {
                return Err(error(kind, to, why));
            }
            target.alive.store(false, SeqCst);
        }
        let moved: Vec<StorePath> = self.below(from).map(|(path, _)| path.clone()).collect();
        for old in std::iter::once(from.clone()).chain(moved) {
            let new = StorePath::parse(&format!("{to}{}", &old.as_str()[from.as_str().len()..]))?;
            if let Some(node) = self.nodes.remove(&old) {
                self.nodes.insert(new, node);
            }
        }
        self.touch(&from_parent);
        self.touch(&to_parent);
        Ok(())
    }

    pub(super) fn delete(&mut self, path: &StorePath, recursive: bool) -> Result<()> {
        let parent = Self::parent_of(path)?;
        self.get(path)?;
        let mut gone: Vec<StorePath> = self.below(path).map(|(path, _)| path.clone()).collect();
        if !gone.is_empty() && !recursive {
            return Err(error(ErrorKind::NotEmpty, path, "is not empty"));
        }
        gone.push(path.clone());
        for path in gone {
            if let Some(node) = self.nodes.remove(&path) {
                node.alive.store(false, SeqCst);
            }
        }
        self.touch(&parent);
        Ok(())
    }

    pub(super) fn used(&self) -> (u64, u64) {
        (self.nodes.values().map(|node| node.metadata.len).sum(), self.nodes.len() as u64)
    }
}
