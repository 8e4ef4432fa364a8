//! HDFS as a store. Nothing outside this folder knows `hdfs-native`.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, stream, stream::BoxStream};
use hdfs_native::{
    HdfsError, WriteOptions,
    client::{FileStatus, ListStatusIterator},
};
use tokio::{sync::Mutex, time::Instant};

pub use self::client::{share_runtime, tasks_running};
use self::{client::Connection, file::HdfsReader, writer::HdfsWriter};
use super::{
    AttributeChanges, CreateOptions, Entry, FileKind, Generation, HdfsOptions, Metadata, Reader, Store,
    StorePath, StoreUrl, Usage, Writer,
    single_flight::{self, Flights},
};
use crate::error::{Error, ErrorKind, Result};

mod build;
mod change;
mod client;
mod errors;
mod file;
mod replicas;
mod writer;

/// Entries that one visit to the HDFS runtime lists; as many as the NameNode sends at once.
const LIST_BATCH: usize = 1000;
/// How long a content summary is good: the NameNode walks the whole tree for it.
const USAGE_AGE_MAX: Duration = Duration::from_secs(60);

/// A directory of HDFS as a store.
pub(super) struct HdfsStore {
    url: StoreUrl,
    root: StorePath,
    connection: Arc<Connection>,
    /// The last usage and when it was asked for. Held while asking: one asks for all.
    usage: Mutex<Option<(Instant, Usage)>>,
    /// Stats under way, for opens that need one from before.
    stats: Flights<Metadata>,
}

fn key(path: &StorePath) -> single_flight::Key {
    (path.clone(), None, 0)
}

impl HdfsStore {
    pub(super) fn new(url: &StoreUrl, options: &HdfsOptions, deadline: Duration) -> Result<Self> {
        let StoreUrl::Hdfs { authority, view, path } = url else {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("{url}: is not in HDFS")));
        };
        let connection = Arc::new(Connection::new(authority, *view, options, deadline)?);
        Ok(Self {
            url: url.clone(),
            root: path.clone(),
            connection,
            usage: Mutex::new(None),
            stats: Flights::new(),
        })
    }

    /// Has the client ask for what it asks for before its first read, and then keeps: the NameNode's
    /// defaults. It does so for nothing else when asked to throw the user's trash into the trash, which
    /// changes nothing. Without it the first read after start waits for a NameNode that is down.
    pub(super) async fn warm_up(&self) {
        let asked = self.connection.ask("server defaults", |client| async move {
            match client.trash(".Trash").await {
                Ok(_) | Err(HdfsError::TrashNotEnabled) => Ok(()),
                Err(error) => Err(error),
            }
        });
        if let Err(error) = asked.await {
            tracing::debug!(%error, "not warmed up");
        }
    }

    /// Where `path` is in HDFS.
    fn at(&self, path: &StorePath) -> String {
        match (self.root.is_root(), path.is_root()) {
            (_, true) => self.root.as_str().to_owned(),
            (true, false) => path.as_str().to_owned(),
            (false, false) => format!("{}{}", self.root, path),
        }
    }

    async fn status(&self, path: &StorePath) -> Result<Metadata> {
        status(&self.connection, &self.at(path)).await
    }

    fn refuse_root(&self, path: &StorePath) -> Result<()> {
        if path.is_root() {
            return Err(Error::new(ErrorKind::InvalidArgument, "the store's root cannot be changed"));
        }
        Ok(())
    }

    /// Why a rename failed, where HDFS says only "IOException".
    async fn explain_rename(&self, from: &StorePath, to: &StorePath, overwrite: bool, error: Error) -> Error {
        let (Ok(source), Ok(target)) = (self.status(from).await, self.status(to).await) else { return error };
        let kind = match (source.is_dir(), target.is_dir()) {
            _ if !overwrite => ErrorKind::AlreadyExists,
            (false, true) => ErrorKind::IsADirectory,
            (true, false) => ErrorKind::NotADirectory,
            (true, true) => ErrorKind::NotEmpty,
            (false, false) => return error,
        };
        Error::new(kind, error.message())
    }
}

/// Stat of `at` in HDFS. Asked again within the deadline: changes look before they act, and nobody repeats a
/// change whose look got no answer.
async fn status(connection: &Connection, at: &str) -> Result<Metadata> {
    let since = Instant::now();
    loop {
        let asked = at.to_owned();
        let outcome = connection.ask(at, |client| async move { client.get_file_info(&asked).await }).await;
        match outcome {
            Ok(status) => return Ok(metadata(status)),
            Err(error) if error.kind() == ErrorKind::TimedOut && since.elapsed() < connection.deadline() => {}
            Err(error) => return Err(no_such_name(at, error)),
        }
    }
}

/// HDFS calls some names invalid (those with a colon). Who only asks for one learns that nothing has it.
fn no_such_name(at: &str, error: Error) -> Error {
    if error.kind() == ErrorKind::InvalidArgument && at.contains(':') {
        return Error::new(ErrorKind::NotFound, format!("{at}: no such file or directory"));
    }
    error
}

/// Stat of a file.
async fn file_status(connection: &Connection, at: &str) -> Result<Metadata> {
    let status = status(connection, at).await?;
    if status.is_dir() {
        return Err(Error::new(ErrorKind::IsADirectory, format!("{at}: is a directory")));
    }
    Ok(status)
}

/// Modification time and length: the client does not tell the file's number.
fn generation(mtime_ms: u64, len: u64) -> Generation {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mtime_ms.to_be_bytes());
    bytes[8..].copy_from_slice(&len.to_be_bytes());
    Generation(bytes)
}

fn metadata(status: FileStatus) -> Metadata {
    let len = if status.isdir { 0 } else { status.length as u64 };
    let mtime = UNIX_EPOCH + Duration::from_millis(status.modification_time);
    Metadata {
        kind: if status.isdir { FileKind::Directory } else { FileKind::File },
        len,
        mode: u32::from(status.permission) & 0o7777,
        owner: status.owner,
        group: status.group,
        mtime,
        // HDFS can be told to keep none, and keeps none of directories.
        atime: match status.access_time {
            0 => mtime,
            ms => UNIX_EPOCH + Duration::from_millis(ms),
        },
        replication: status.replication.unwrap_or(0),
        block_size: status.blocksize.unwrap_or(0),
        generation: generation(status.modification_time, len),
    }
}

/// A listing under way, moved to the HDFS runtime and back for each batch.
struct Listing {
    entries: Arc<ListStatusIterator>,
    at: String,
    ended: bool,
}

impl Listing {
    async fn next_batch(&mut self) -> hdfs_native::Result<Vec<Entry>> {
        let mut batch = Vec::with_capacity(LIST_BATCH);
        while batch.len() < LIST_BATCH {
            // The client panics on a name that is not UTF-8, after it has taken it off its list.
            let entries = Arc::clone(&self.entries);
            let next = match AssertUnwindSafe(async move { entries.next().await }).catch_unwind().await {
                Ok(next) => next,
                Err(_) => {
                    tracing::warn!(dir = %self.at, "left out: a name that is not UTF-8");
                    continue;
                }
            };
            let Some(status) = next else {
                self.ended = true;
                break;
            };
            let status = status?;
            // A listing of a file is the file itself, without a name of its own.
            if status.path.trim_end_matches('/') == self.at.trim_end_matches('/') {
                let class = "org.apache.hadoop.fs.PathIsNotDirectoryException";
                return Err(HdfsError::RPCError(class.into(), "is not a directory".into()));
            }
            let name = status.path.rsplit('/').next().unwrap_or_default().to_owned();
            batch.push(Entry { name, metadata: metadata(status) });
        }
        Ok(batch)
    }
}

#[async_trait]
impl Store for HdfsStore {
    fn url(&self) -> &StoreUrl {
        &self.url
    }

    async fn stat(&self, path: &StorePath) -> Result<Metadata> {
        let (connection, at) = (Arc::clone(&self.connection), self.at(path));
        let asking = async move { status(&connection, &at).await };
        // Always a new question: this one may have been put because of a change.
        self.stats.start(key(path), asking.boxed()).await
    }

    fn list<'a>(&'a self, dir: &'a StorePath) -> BoxStream<'a, Result<Entry>> {
        let at = self.at(dir);
        let client = self.connection.client();
        let entries = Arc::new(client.list_status_iter(&at, false));
        let listing = Listing { entries, at, ended: false };
        stream::try_unfold(listing, move |mut listing| async move {
            if listing.ended {
                return Ok(None);
            }
            let at = listing.at.clone();
            let next = self.connection.ask(&at, |_client| async move {
                let batch = listing.next_batch().await?;
                Ok((batch, listing))
            });
            next.await.map(Some).map_err(|error| no_such_name(&at, error))
        })
        .flat_map(|batch| match batch {
            Ok(entries) => stream::iter(entries).map(Ok).left_stream(),
            Err(error) => stream::iter([Err(error)]).right_stream(),
        })
        .boxed()
    }

    async fn open(&self, path: &StorePath, expected: Option<Generation>) -> Result<Arc<dyn Reader>> {
        Ok(Arc::new(HdfsReader::open(&self.connection, &self.at(path), expected).await?))
    }

    async fn open_ahead(&self, path: &StorePath, known: Option<&Metadata>) -> Result<Arc<dyn Reader>> {
        let known = match known {
            Some(known) => known.clone(),
            // Whoever opens early mostly has asked for the same stat, a moment ago.
            None => match self.stats.find(&key(path)) {
                Some(under_way) => under_way.await?,
                None => self.status(path).await?,
            },
        };
        Ok(Arc::new(HdfsReader::open_ahead(&self.connection, &self.at(path), known).await?))
    }

    async fn create(&self, path: &StorePath, options: CreateOptions) -> Result<Box<dyn Writer>> {
        self.refuse_root(path)?;
        let at = self.at(path);
        let mut write =
            WriteOptions::default().overwrite(options.overwrite).create_parent(options.create_parents);
        if let Some(mode) = options.mode {
            write = write.permission(mode & 0o7777);
        }
        if let Some(replication) = options.replication {
            write = write.replication(replication);
        }
        if let Some(block_size) = options.block_size {
            change::check_block_size(&at, block_size)?;
            write = write.block_size(block_size);
        }
        let asked = at.clone();
        let created = self
            .connection
            .open_writer(&at, |client| async move { client.create(&asked, write).await })
            .await;
        match created {
            Ok(file) => Ok(Box::new(HdfsWriter::new(&self.connection, at, file, 0))),
            // HDFS says "exists" of a directory that cannot be overwritten, too.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && options.overwrite => {
                match file_status(&self.connection, &self.at(path)).await {
                    Err(other) if other.kind() == ErrorKind::IsADirectory => Err(other),
                    _ => Err(error),
                }
            }
            // Somebody is writing it: it is there.
            Err(error) if error.kind() == ErrorKind::Busy && !options.overwrite => {
                Err(Error::new(ErrorKind::AlreadyExists, error.message()))
            }
            Err(error) => Err(error),
        }
    }

    async fn rename(&self, from: &StorePath, to: &StorePath, overwrite: bool) -> Result<()> {
        self.refuse_root(from)?;
        self.refuse_root(to)?;
        super::refuse_into_itself(from, to)?;
        let (source, target) = (self.at(from), self.at(to));
        if from == to {
            self.status(from).await?;
            return if overwrite {
                Ok(())
            } else {
                Err(Error::new(ErrorKind::AlreadyExists, format!("{target}: exists already")))
            };
        }
        let what = format!("{source} to {target}");
        let renamed = self
            .connection
            .call(&what, |client| async move { client.rename(&source, &target, overwrite).await })
            .await;
        match renamed {
            Err(error) if error.kind() == ErrorKind::Other => {
                Err(self.explain_rename(from, to, overwrite, error).await)
            }
            outcome => outcome,
        }
    }

    async fn delete(&self, path: &StorePath, recursive: bool) -> Result<()> {
        self.refuse_root(path)?;
        let at = self.at(path);
        let asked = at.clone();
        let deleted =
            self.connection.call(&at, |client| async move { client.delete(&asked, recursive).await }).await?;
        if deleted {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, format!("{at}: no such file or directory")))
    }

    async fn create_dir(&self, path: &StorePath) -> Result<()> {
        let at = self.at(path);
        let asked = at.clone();
        self.connection.call(&at, |client| async move { client.mkdirs(&asked, 0o755, true).await }).await
    }

    async fn append(&self, path: &StorePath) -> Result<(Box<dyn Writer>, u64)> {
        let (writer, end) = change::append(&self.connection, self.at(path)).await?;
        Ok((Box::new(writer), end))
    }

    async fn truncate(&self, path: &StorePath, len: u64) -> Result<()> {
        change::truncate(&self.connection, &self.at(path), len).await
    }

    async fn check_writable(&self, path: &StorePath) -> Result<()> {
        change::check_writable(&self.connection, &self.at(path)).await
    }

    async fn set_attributes(&self, path: &StorePath, changes: &AttributeChanges) -> Result<()> {
        change::set_attributes(&self.connection, &self.at(path), changes).await
    }

    async fn make_dir(&self, path: &StorePath, mode: Option<u32>) -> Result<()> {
        change::make_dir(&self.connection, &self.at(path), mode).await
    }

    async fn usage(&self) -> Result<Usage> {
        let mut known = self.usage.lock().await;
        if let Some((asked, usage)) = *known
            && asked.elapsed() < USAGE_AGE_MAX
        {
            return Ok(usage);
        }
        // Noted before the answer: one that fails or is given up is not asked for again at once.
        *known = Some((Instant::now(), known.map(|(_, usage)| usage).unwrap_or_default()));
        let at = self.at(&StorePath::root());
        let asked = at.clone();
        let summary = self
            .connection
            .call(&at, |client| async move { client.get_content_summary(&asked).await })
            .await?;
        // No quota is told as -1, or as the largest number.
        let quota = |limit: u64| (limit < i64::MAX as u64).then_some(limit);
        let space = quota(summary.space_quota);
        let usage = Usage {
            capacity_bytes: space,
            // A quota counts every replica; what is used is told in the same measure.
            used_bytes: Some(if space.is_some() { summary.space_consumed } else { summary.length }),
            capacity_files: quota(summary.quota),
            used_files: Some(summary.file_count + summary.directory_count),
        };
        *known = Some((Instant::now(), usage));
        Ok(usage)
    }
}
