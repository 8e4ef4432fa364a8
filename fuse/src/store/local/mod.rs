//! A local directory as a store.
//!
//! System calls that may wait for a disk run on tokio's blocking threads; one that is given up there
//! ends by itself. Symbolic links, devices, sockets and pipes are not in the store: not listed, not
//! found, never followed (see [`beneath`]).

use std::{
    fs::{File, Permissions},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use futures::{StreamExt, stream, stream::BoxStream};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, fstat, fstatvfs, mkdirat, openat, statat, unlinkat},
    io::Errno,
};

use self::{
    beneath::{failure, open_dir, open_parent, present},
    dirs::Listing,
    file::{LocalReader, LocalWriter},
    names::Names,
};
use super::{
    AttributeChanges, CreateOptions, Entry, Generation, Metadata, Reader, Store, StorePath, StoreUrl, Usage,
    Writer, buffers::Buffers,
};
use crate::error::{Error, ErrorKind, Result};

mod attributes;
mod beneath;
mod dirs;
mod file;
mod names;
#[cfg(test)]
mod tests;

/// A local directory as a store. Clones share it.
#[derive(Debug, Clone)]
pub struct LocalStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    url: StoreUrl,
    root: PathBuf,
    names: Names,
    buffers: Buffers,
}

/// The generation that a local store gives a file with this metadata; for those who open its files
/// themselves.
pub fn generation_of(metadata: &std::fs::Metadata) -> Generation {
    beneath::generation(
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
}

/// Runs `work` where it may wait for a disk. Dropping the future leaves `work` to end by itself.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::new(ErrorKind::Other, format!("a local store call failed: {error}"))),
    }
}

impl LocalStore {
    /// The directory `root` as a store; nothing is looked at yet.
    pub fn new(root: PathBuf) -> Self {
        let url = StoreUrl::File { path: root.clone() };
        Self { inner: Arc::new(Inner { url, root, names: Names::default(), buffers: Buffers::default() }) }
    }

    /// Runs `work` with this store on a blocking thread.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.clone();
        blocking(move || work(&store)).await
    }

    fn root(&self) -> &Path {
        &self.inner.root
    }

    fn stat_now(&self, path: &StorePath) -> Result<Metadata> {
        present(&beneath::stat(self.root(), path)?, &self.inner.names, path)
    }

    fn open_now(&self, path: &StorePath) -> Result<LocalReader> {
        if path.is_root() {
            return Err(is_a_directory(path));
        }
        let dir = open_parent(self.root(), path).map_err(|e| e.context(path))?;
        // NONBLOCK: opening a pipe that somebody put here must not wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(dir, path.name(), flags, Mode::empty()).map_err(|e| match e {
            Errno::NXIO => failure(path, Errno::LOOP),
            _ => failure(path, e),
        })?;
        let stat = fstat(&file).map_err(|e| failure(path, e))?;
        let metadata = present(&stat, &self.inner.names, path)?;
        if metadata.is_dir() {
            return Err(is_a_directory(path));
        }
        Ok(LocalReader::new(path.clone(), File::from(file), metadata, &stat, &self.inner.buffers))
    }

    fn create_now(&self, path: &StorePath, options: CreateOptions) -> Result<LocalWriter> {
        if options.create_parents
            && let Some(parent) = path.parent()
        {
            self.create_dir_now(&parent).map_err(|e| match e.kind() {
                ErrorKind::AlreadyExists => failure(path, Errno::NOTDIR),
                _ => e,
            })?;
        }
        let dir = open_parent(self.root(), path).map_err(|e| e.context(path))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(options.mode.unwrap_or(0o666) & 0o7777);
        let file: OwnedFd = loop {
            match openat(&dir, path.name(), flags, mode) {
                Ok(file) => break file,
                Err(Errno::EXIST) if options.overwrite => {}
                Err(e) => return Err(failure(path, e)),
            }
            // A new inode, not the old one cut short: who has the old file open keeps its bytes, and a
            // link is replaced, not written through.
            match unlinkat(&dir, path.name(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) if is_dir_at(&dir, path.name()) => {
                    return Err(is_a_directory(path));
                }
                Err(e) => return Err(failure(path, e)),
            }
        };
        let file = File::from(file);
        if let Some(mode) = options.mode {
            // The umask is for those who leave the mode open.
            file.set_permissions(Permissions::from_mode(mode & 0o7777))
                .map_err(|e| Error::from_io(&e, path))?;
        }
        Ok(LocalWriter { dir: Arc::new(dir), path: path.clone(), file: Arc::new(file), offset: 0 })
    }

    fn rename_now(&self, from: &StorePath, to: &StorePath, overwrite: bool) -> Result<()> {
        super::refuse_into_itself(from, to)?;
        // A link's name is as good as absent: it must not be moved.
        let source = self.stat_now(from)?;
        if from == to {
            return if overwrite { Ok(()) } else { Err(already_exists(to)) };
        }
        let from_dir = open_parent(self.root(), from)?;
        let to_dir = open_parent(self.root(), to).map_err(|e| e.context(to))?;
        let flags = if overwrite { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let outcome = rustix::fs::renameat_with(&from_dir, from.name(), &to_dir, to.name(), flags);
        match outcome {
            Ok(()) => {}
            // The file system has no such rename (NFS, old FUSE): a second name fails as well if there
            // is one, and a reader never sees neither.
            Err(Errno::INVAL | Errno::NOSYS) if !overwrite && !source.is_dir() => {
                let link = rustix::fs::linkat(&from_dir, from.name(), &to_dir, to.name(), AtFlags::empty());
                link.map_err(|e| failure(to, e))?;
                unlinkat(&from_dir, from.name(), AtFlags::empty()).map_err(|e| failure(from, e))?;
            }
            Err(Errno::NOENT) => return Err(failure(from, Errno::NOENT)),
            Err(e) => return Err(failure(to, e)),
        }
        self.sync_parent(to)?;
        self.sync_parent(from)
    }

    fn delete_now(&self, path: &StorePath, recursive: bool) -> Result<()> {
        let metadata = self.stat_now(path)?;
        let dir = open_parent(self.root(), path)?;
        if !metadata.is_dir() {
            return unlinkat(dir, path.name(), AtFlags::empty()).map_err(|e| failure(path, e));
        }
        if recursive {
            self.empty(path)?;
        }
        unlinkat(dir, path.name(), AtFlags::REMOVEDIR).map_err(|e| failure(path, e))
    }

    fn create_dir_now(&self, path: &StorePath) -> Result<()> {
        let mut dir = open_dir(self.root(), &StorePath::root())?;
        let mut at = StorePath::root();
        for name in path.as_str().split('/').filter(|name| !name.is_empty()) {
            at = at.join(name)?;
            match mkdirat(&dir, name, Mode::from_raw_mode(0o777)) {
                Ok(()) => self.sync_parent(&at)?,
                Err(Errno::EXIST) => {}
                Err(e) => return Err(failure(&at, e)),
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            dir = openat(&dir, name, flags, Mode::empty()).map_err(|e| match e {
                Errno::NOTDIR if at == *path => already_exists(path),
                e => failure(&at, e),
            })?;
        }
        Ok(())
    }

    /// Makes the name of `path` durable, or its absence.
    fn sync_parent(&self, path: &StorePath) -> Result<()> {
        sync_dir(&open_parent(self.root(), path)?, path)
    }

    fn usage_now(&self) -> Result<Usage> {
        let root = StorePath::root();
        let stat = fstatvfs(open_dir(self.root(), &root)?).map_err(|e| failure(&root, e))?;
        Ok(Usage {
            capacity_bytes: Some(stat.f_blocks.saturating_mul(stat.f_frsize)),
            used_bytes: Some(stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize)),
            // Some file systems (btrfs) count no inodes and say 0.
            capacity_files: (stat.f_files > 0).then_some(stat.f_files),
            used_files: (stat.f_files > 0).then_some(stat.f_files.saturating_sub(stat.f_ffree)),
        })
    }
}

fn is_dir_at(dir: &OwnedFd, name: &str) -> bool {
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Makes the names in `dir`, that of `path` among them, durable.
fn sync_dir(dir: &OwnedFd, path: &StorePath) -> Result<()> {
    let dir = openat_readable(dir, path)?;
    rustix::fs::fsync(dir).map_err(|e| failure(path, e))
}

/// The same directory open for reading and `fsync`, which an `O_PATH` descriptor does not allow.
fn openat_readable(dir: &OwnedFd, path: &StorePath) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(dir, ".", flags, Mode::empty()).map_err(|e| failure(path, e))
}

fn is_a_directory(path: &StorePath) -> Error {
    Error::new(ErrorKind::IsADirectory, format!("{path}: is a directory"))
}

fn already_exists(path: &StorePath) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("{path}: exists already"))
}

#[async_trait]
impl Store for LocalStore {
    fn url(&self) -> &StoreUrl {
        &self.inner.url
    }

    async fn stat(&self, path: &StorePath) -> Result<Metadata> {
        let path = path.clone();
        self.run(move |store| store.stat_now(&path)).await
    }

    fn list<'a>(&'a self, dir: &'a StorePath) -> BoxStream<'a, Result<Entry>> {
        // A visit to a blocking thread for each batch, not a thread for each listing: a reader that
        // stops half-way holds nothing but an open directory.
        let listing = Listing::new(dir.clone());
        stream::try_unfold(listing, move |mut listing| async move {
            self.run(move |store| Ok(store.next_batch(&mut listing)?.map(|batch| (batch, listing)))).await
        })
        .flat_map(|batch| match batch {
            Ok(entries) => stream::iter(entries).map(Ok).left_stream(),
            Err(error) => stream::iter([Err(error)]).right_stream(),
        })
        .boxed()
    }

    async fn open(&self, path: &StorePath, expected: Option<Generation>) -> Result<Arc<dyn Reader>> {
        let wanted = path.clone();
        let reader = self.run(move |store| {
            let reader = store.open_now(&wanted)?;
            let Some(left) = reader.unsettled() else { return Ok(reader) };
            std::thread::sleep(left);
            store.open_now(&wanted)
        });
        let reader = reader.await?;
        super::check_generation(path, reader.metadata(), expected)?;
        Ok(Arc::new(reader))
    }

    async fn open_ahead(&self, path: &StorePath, known: Option<&Metadata>) -> Result<Arc<dyn Reader>> {
        // An open file is certain.
        self.open(path, known.map(|known| known.generation)).await
    }

    async fn create(&self, path: &StorePath, options: CreateOptions) -> Result<Box<dyn Writer>> {
        let target = path.clone();
        Ok(Box::new(self.run(move |store| store.create_now(&target, options)).await?))
    }

    async fn rename(&self, from: &StorePath, to: &StorePath, overwrite: bool) -> Result<()> {
        let (from, to) = (from.clone(), to.clone());
        self.run(move |store| store.rename_now(&from, &to, overwrite)).await
    }

    async fn delete(&self, path: &StorePath, recursive: bool) -> Result<()> {
        let path = path.clone();
        self.run(move |store| store.delete_now(&path, recursive)).await
    }

    async fn create_dir(&self, path: &StorePath) -> Result<()> {
        let path = path.clone();
        self.run(move |store| store.create_dir_now(&path)).await
    }

    async fn append(&self, path: &StorePath) -> Result<(Box<dyn Writer>, u64)> {
        let target = path.clone();
        let writer = self.run(move |store| store.append_now(&target)).await?;
        let end = writer.offset;
        Ok((Box::new(writer), end))
    }

    async fn truncate(&self, path: &StorePath, len: u64) -> Result<()> {
        let path = path.clone();
        self.run(move |store| store.truncate_now(&path, len)).await
    }

    async fn check_writable(&self, path: &StorePath) -> Result<()> {
        let path = path.clone();
        self.run(move |store| store.check_writable_now(&path)).await
    }

    async fn set_attributes(&self, path: &StorePath, changes: &AttributeChanges) -> Result<()> {
        let (path, changes) = (path.clone(), changes.clone());
        self.run(move |store| store.set_attributes_now(&path, &changes)).await
    }

    async fn make_dir(&self, path: &StorePath, mode: Option<u32>) -> Result<()> {
        let path = path.clone();
        self.run(move |store| store.make_dir_now(&path, mode)).await
    }

    async fn usage(&self) -> Result<Usage> {
        self.run(Self::usage_now).await
    }
}
