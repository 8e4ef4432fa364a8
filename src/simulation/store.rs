//! The store as one process sees it: every call a message that may be lost, be late or take long.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream, stream::BoxStream};
use parking_lot::Mutex;
use springhouse_fuse::{
    error::{Error, ErrorKind, Result},
    store::{
        AttributeChanges, CreateOptions, Entry, FileKind, Generation, Metadata, Reader, Store, StorePath,
        StoreUrl, Usage, Writer,
    },
};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{
    net::{Fate, Leg, Net, Place, Process},
    tree::{File, Tree},
};

/// Longest time of one call.
const DEADLINE: Duration = Duration::from_secs(10);
/// So many bytes are one message, so that a slow copy is slow byte by byte.
const PIECE_BYTES: usize = 16 << 10;

/// The store's own time.
pub(super) type Now = Arc<dyn Fn() -> i64 + Send + Sync>;

/// See the module.
#[derive(Clone)]
pub(super) struct Remote {
    pub(super) net: Arc<Net>,
    pub(super) tree: Arc<Mutex<Tree>>,
    pub(super) process: Arc<Process>,
    pub(super) now_ms: Now,
    pub(super) url: StoreUrl,
}

impl Remote {
    /// Has `effect` done to the store, or not, as it turns out.
    async fn call<T: Send + 'static>(
        &self,
        text: String,
        effect: impl FnOnce(&mut Tree, i64) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.process.lives().await;
        let (send, answer) = oneshot::channel();
        let this = self.clone();
        // Not the caller's: what was sent arrives though he is gone.
        tokio::spawn(async move {
            let fate = this
                .net
                .pass(Some(&this.process), (this.process.place, Place::Store), Leg::Call, &text)
                .await;
            let now = || (this.now_ms)();
            let unanswered = async |send: oneshot::Sender<Result<T>>| {
                sleep(DEADLINE).await;
                drop(send);
            };
            match fate {
                Fate::Pass | Fate::Twice(_) => {
                    let done = effect(&mut this.tree.lock(), now());
                    let _ = send.send(done); // he may be gone
                }
                Fate::Break => {
                    let _ = send.send(Err(Error::new(ErrorKind::Unavailable, "the store cannot be reached")));
                }
                Fate::Lose => unanswered(send).await,
                Fate::After => {
                    let _ = effect(&mut this.tree.lock(), now());
                    unanswered(send).await;
                }
                Fate::Late(ms) => {
                    sleep(Duration::from_millis(ms)).await;
                    let done = effect(&mut this.tree.lock(), now());
                    this.net.trace.note(format!("late: {text}"));
                    let _ = send.send(done);
                }
            }
        });
        let answer = timeout(DEADLINE, answer).await;
        self.process.lives().await;
        match answer {
            Ok(Ok(answer)) => answer,
            _ => Err(Error::new(ErrorKind::TimedOut, "the store did not answer in time")),
        }
    }
}

fn metadata(kind: FileKind, len: u64, mtime_ms: i64, generation: Generation) -> Metadata {
    let mtime: SystemTime = UNIX_EPOCH + Duration::from_millis(mtime_ms.unsigned_abs());
    Metadata {
        kind,
        len,
        mode: 0o644,
        owner: "o".into(),
        group: "g".into(),
        mtime,
        atime: mtime,
        replication: 1,
        block_size: 1 << 20,
        generation,
    }
}

fn of_file(file: &File) -> Metadata {
    metadata(FileKind::File, file.bytes.len() as u64, file.mtime_ms, file.generation)
}

fn of_dir(mtime_ms: i64) -> Metadata {
    metadata(FileKind::Directory, 0, mtime_ms, Generation((mtime_ms as u128).to_be_bytes()))
}

fn look(tree: &Tree, path: &str) -> Result<Metadata> {
    match tree.dirs.get(path) {
        Some(mtime_ms) => Ok(of_dir(*mtime_ms)),
        None => tree.file(path).map(of_file),
    }
}

fn unsupported<T>(what: &str) -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, format!("nobody asks for {what} here")))
}

#[async_trait]
impl Store for Remote {
    fn url(&self) -> &StoreUrl {
        &self.url
    }

    async fn stat(&self, path: &StorePath) -> Result<Metadata> {
        let at = path.as_str().to_owned();
        self.call(format!("stat {at}"), move |tree, _| look(tree, &at)).await
    }

    fn list<'a>(&'a self, dir: &'a StorePath) -> BoxStream<'a, Result<Entry>> {
        let at = dir.as_str().to_owned();
        let listed = self.call(format!("list {at}"), move |tree, _| {
            let names = tree.names(&at)?;
            names
                .into_iter()
                .map(|(path, _)| {
                    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
                    Ok(Entry { name, metadata: look(tree, &path)? })
                })
                .collect::<Result<Vec<_>>>()
        });
        stream::once(listed)
            .flat_map(|listed| match listed {
                Ok(entries) => stream::iter(entries).map(Ok).left_stream(),
                Err(error) => stream::iter([Err(error)]).right_stream(),
            })
            .boxed()
    }

    async fn open(&self, path: &StorePath, expected: Option<Generation>) -> Result<Arc<dyn Reader>> {
        let at = path.as_str().to_owned();
        let file = self.call(format!("open {at}"), move |tree, _| tree.file(&at).cloned()).await?;
        if expected.is_some_and(|expected| expected != file.generation) {
            return Err(stale(path));
        }
        Ok(Arc::new(RemoteReader { store: self.clone(), path: path.clone(), metadata: of_file(&file), file }))
    }

    async fn open_ahead(&self, path: &StorePath, known: Option<&Metadata>) -> Result<Arc<dyn Reader>> {
        self.open(path, known.map(|known| known.generation)).await
    }

    async fn create(&self, path: &StorePath, options: CreateOptions) -> Result<Box<dyn Writer>> {
        let (at, overwrite) = (path.as_str().to_owned(), options.overwrite);
        let number =
            self.call(format!("create {at}"), move |tree, now| tree.create(&at, overwrite, now)).await?;
        Ok(Box::new(RemoteWriter { store: self.clone(), path: path.as_str().to_owned(), number }))
    }

    async fn rename(&self, from: &StorePath, to: &StorePath, _: bool) -> Result<()> {
        let (from, to) = (from.as_str().to_owned(), to.as_str().to_owned());
        self.call(format!("rename {from}"), move |tree, now| tree.rename(&from, &to, now)).await
    }

    async fn delete(&self, path: &StorePath, _: bool) -> Result<()> {
        let at = path.as_str().to_owned();
        self.call(format!("delete {at}"), move |tree, now| tree.remove(&at, now)).await
    }

    async fn create_dir(&self, path: &StorePath) -> Result<()> {
        let at = path.as_str().to_owned();
        self.call(format!("mkdir {at}"), move |tree, now| {
            tree.make_dirs(&at, now);
            Ok(())
        })
        .await
    }

    async fn append(&self, _: &StorePath) -> Result<(Box<dyn Writer>, u64)> {
        unsupported("append")
    }

    async fn truncate(&self, _: &StorePath, _: u64) -> Result<()> {
        unsupported("truncate")
    }

    async fn check_writable(&self, _: &StorePath) -> Result<()> {
        Ok(())
    }

    async fn set_attributes(&self, _: &StorePath, _: &AttributeChanges) -> Result<()> {
        unsupported("attributes")
    }

    async fn make_dir(&self, path: &StorePath, _: Option<u32>) -> Result<()> {
        self.create_dir(path).await
    }

    async fn usage(&self) -> Result<Usage> {
        Ok(Usage::default())
    }
}

fn stale(path: &StorePath) -> Error {
    Error::new(ErrorKind::Stale, format!("{path} was replaced"))
}

struct RemoteReader {
    store: Remote,
    path: StorePath,
    metadata: Metadata,
    file: File,
}

impl std::fmt::Debug for RemoteReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RemoteReader({})", self.path)
    }
}

#[async_trait]
impl Reader for RemoteReader {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let all = self.file.bytes.len();
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(all);
        let end = from.saturating_add(len).min(all);
        for at in (from..end).step_by(PIECE_BYTES) {
            let (path, contents) = (self.path.clone(), self.file.contents);
            self.store
                .call(format!("read {path} {at}"), move |tree, _| match tree.files.get(path.as_str()) {
                    Some(file) if file.contents == contents => Ok(()),
                    _ => Err(stale(&path)),
                })
                .await?;
        }
        Ok(self.file.bytes.slice(from..end))
    }

    async fn confirm(&self) -> Result<()> {
        Ok(())
    }
}

struct RemoteWriter {
    store: Remote,
    path: String,
    number: u64,
}

impl RemoteWriter {
    async fn add(&self, more: Bytes, done: bool) -> Result<()> {
        let (path, number) = (self.path.clone(), self.number);
        let text = format!("{} {path} {}", if done { "close" } else { "write" }, more.len());
        self.store.call(text, move |tree, now| tree.write(&path, number, &more, done, now)).await
    }
}

#[async_trait]
impl Writer for RemoteWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        for at in (0..data.len()).step_by(PIECE_BYTES) {
            self.add(data.slice(at..(at + PIECE_BYTES).min(data.len())), false).await?;
        }
        Ok(())
    }

    async fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    async fn close(self: Box<Self>) -> Result<()> {
        self.add(Bytes::new(), true).await
    }
}
