//! The HDFS client, replaced when it hangs, on a runtime of its own.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use futures::FutureExt;
use hdfs_native::Client;
use parking_lot::RwLock;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    build::{build, check_kerberos, connect, properties, writers_properties},
    errors::translate_call,
    replicas,
};
use crate::{
    error::{Error, ErrorKind, Result},
    store::{HdfsOptions, buffers::Buffers},
};

/// How long a question may wait for the NameNode before its connection is given up and it is asked
/// again on a new one, where the deadline leaves room. The client itself waits for ever.
const PATIENCE_MAX: Duration = Duration::from_secs(4);

/// Whose runtime the HDFS connections are on, if not on one of their own.
static SHARED: OnceLock<Handle> = OnceLock::new();

/// Has all HDFS connections of this process live on `runtime`: for a process that does little else with it,
/// and never ends it before itself. Each call to HDFS then wakes two threads less, which next door is a
/// fifth of its time. Of several the first holds; to be called before a store is opened.
pub fn share_runtime(runtime: &Handle) {
    let _ = SHARED.set(runtime.clone());
}

/// The runtime of all HDFS connections of this process, never shut down.
///
/// Apart from the callers', unless one is shared, because the client keeps DataNode connections in a cache
/// of the whole process: made on a caller's runtime, they would die with it under the hands of all others.
/// And because a runtime that is busy with HTTP must not make a DataNode look slow.
fn runtime() -> Result<Handle> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    if let Some(shared) = SHARED.get() {
        return Ok(shared.clone());
    }
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    let runtime = RUNTIME.get_or_init(|| {
        Builder::new_multi_thread().worker_threads(threads).thread_name("hdfs").enable_all().build()
    });
    match runtime {
        Ok(runtime) => Ok(runtime.handle().clone()),
        Err(error) => {
            Err(Error::new(ErrorKind::Other, format!("the HDFS client's threads cannot start: {error}")))
        }
    }
}

/// Tasks of ours that are on the HDFS runtime now.
static TASKS: AtomicU64 = AtomicU64::new(0);

/// Tasks of the HDFS stores that are running now; 0 when all calls have ended or were dropped. For tests
/// and diagnosis.
pub fn tasks_running() -> u64 {
    TASKS.load(SeqCst)
}

struct Counted;

impl Counted {
    fn new() -> Self {
        TASKS.fetch_add(1, SeqCst);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        TASKS.fetch_sub(1, SeqCst);
    }
}

/// A task that ends when nobody waits for it any more.
struct Owned<T>(JoinHandle<T>);

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A client, and what makes another one like it.
struct Slot {
    properties: Vec<(String, String)>,
    current: RwLock<Arc<Client>>,
}

impl Slot {
    fn client(&self) -> Arc<Client> {
        Arc::clone(&self.current.read())
    }
}

/// The clients for one name service.
pub(super) struct Connection {
    pub(super) authority: String,
    url: String,
    options: HdfsOptions,
    runtime: Handle,
    patience: Duration,
    deadline: Duration,
    main: Slot,
    /// For files being written, from the first of them on: the client has one patience with DataNodes
    /// for all its files, and writers need a longer one.
    writers: OnceLock<Slot>,
    pub(super) buffers: Buffers,
}

impl Connection {
    pub(super) fn new(
        authority: &str,
        view: bool,
        options: &HdfsOptions,
        deadline: Duration,
    ) -> Result<Self> {
        if let Some(dir) = &options.config_dir
            && !Path::new(dir).is_dir()
        {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("Hadoop configuration {}: there is no such directory", dir.display()),
            ));
        }
        replicas::listen();
        let runtime = runtime()?;
        check_kerberos(options)?;
        let properties = properties(authority, options, deadline);
        let (url, client, properties) = connect(authority, view, options, properties, &runtime)?;
        let shown = if authority.is_empty() { "fs.defaultFS" } else { authority };
        Ok(Self {
            authority: shown.into(),
            url,
            options: options.clone(),
            runtime,
            patience: PATIENCE_MAX.min(deadline / 2),
            deadline,
            main: Slot { properties, current: RwLock::new(Arc::new(client)) },
            writers: OnceLock::new(),
            buffers: Buffers::default(),
        })
    }

    pub(super) fn client(&self) -> Arc<Client> {
        self.main.client()
    }

    /// How long one step may take at most.
    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    fn writers(&self) -> Result<&Slot> {
        if let Some(slot) = self.writers.get() {
            return Ok(slot);
        }
        let properties = writers_properties(&self.main.properties, &self.options, self.deadline);
        let client = build(&self.url, &self.options, properties.clone(), &self.runtime)?;
        Ok(self.writers.get_or_init(|| Slot { properties, current: RwLock::new(Arc::new(client)) }))
    }

    /// Drives `work` on the HDFS runtime, and ends it there when the returned future is dropped.
    ///
    /// The client panics on what it thinks cannot be (a name that is not UTF-8, a cut short answer):
    /// that fails the call, nothing else.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let counted = Counted::new();
        let work = async move {
            let _counted = counted;
            AssertUnwindSafe(work).catch_unwind().await
        };
        let mut task = Owned(self.runtime.spawn(work));
        match (&mut task.0).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => {
                Err(Error::new(ErrorKind::Other, format!("{what}: the HDFS client failed in itself")))
            }
            Err(error) => Err(Error::new(ErrorKind::Other, format!("{what}: {error}"))),
        }
    }

    /// Asks the NameNode something. One that takes too long is `TimedOut`, and the next goes through a
    /// new connection.
    pub(super) async fn ask<T, F>(&self, what: &str, call: impl FnOnce(Arc<Client>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = hdfs_native::Result<T>> + Send + 'static,
    {
        match timeout(self.patience, self.call(what, call)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::new(
                ErrorKind::TimedOut,
                format!("{what}: no answer from the NameNode at {}", self.authority),
            )),
        }
    }

    /// Has the NameNode change something: as long as the caller waits.
    pub(super) async fn call<T, F>(&self, what: &str, call: impl FnOnce(Arc<Client>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = hdfs_native::Result<T>> + Send + 'static,
    {
        self.call_with(&self.main, what, call).await
    }

    /// As [`Self::call`], for what opens a file for writing.
    pub(super) async fn open_writer<T, F>(&self, what: &str, call: impl FnOnce(Arc<Client>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = hdfs_native::Result<T>> + Send + 'static,
    {
        self.call_with(self.writers()?, what, call).await
    }

    async fn call_with<T, F>(&self, slot: &Slot, what: &str, call: impl FnOnce(Arc<Client>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = hdfs_native::Result<T>> + Send + 'static,
    {
        let client = slot.client();
        let (since, answered) = (Instant::now(), false);
        let mut hung = Hung { of: self, slot, client: Arc::clone(&client), since, answered };
        let (subject, authority) = (what.to_owned(), self.authority.clone());
        let call = call(client);
        let work = async move { call.await.map_err(|e| translate_call(&e, &subject, &authority)) };
        let outcome = self.run(what, work).await;
        // However long it took: deleting a large tree, or summing it up, is slow on a healthy NameNode.
        hung.answered = outcome.is_ok();
        outcome
    }

    /// Replaces `hung`, unless somebody has done so already.
    fn replace(&self, slot: &Slot, hung: &Arc<Client>) {
        if !Arc::ptr_eq(&slot.current.read(), hung) {
            return;
        }
        let mut properties = slot.properties.clone();
        // Always the same order would try the same dead host first for ever: the client gets to the
        // next NameNode only after an error, and a host that is gone gives none.
        let order = format!("dfs.client.failover.random.order.{}", self.authority);
        properties.push((order, "true".into()));
        properties.push(("dfs.client.failover.random.order".into(), "true".into()));
        match build(&self.url, &self.options, properties, &self.runtime) {
            Ok(client) => {
                let mut current = slot.current.write();
                if Arc::ptr_eq(&current, hung) {
                    *current = Arc::new(client);
                    tracing::warn!(namenode = %self.authority, "no answer: connecting anew");
                }
            }
            Err(error) => tracing::warn!(%error, "the HDFS client cannot be made anew"),
        }
    }
}

/// A NameNode call under way. If it takes long, its connection is not used again: the client goes on
/// using one that a firewall or a dead host has made silent.
///
/// The old client goes with its last open file. Its connection ends when the NameNode sees ours closed,
/// or by the kernel's retransmission limit (about 15 minutes) if the host is gone; the breaker above
/// makes at most one such connection per cool-down.
struct Hung<'a> {
    of: &'a Connection,
    slot: &'a Slot,
    client: Arc<Client>,
    since: Instant,
    answered: bool,
}

impl Drop for Hung<'_> {
    fn drop(&mut self) {
        if !self.answered && self.since.elapsed() >= self.of.patience {
            self.of.replace(self.slot, &self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_is_no_xml_is_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("core-site.xml"), "<configuration><property>").expect("write");
        let options = HdfsOptions { config_dir: Some(dir.path().into()), ..HdfsOptions::default() };
        let error = Connection::new("ns1", false, &options, Duration::from_secs(1)).err().expect("no XML");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.message().contains(&dir.path().display().to_string()), "{error}");
        std::fs::write(dir.path().join("core-site.xml"), "<configuration/>").expect("write");
        let error =
            Connection::new("ns1", false, &options, Duration::from_secs(1)).err().expect("no such service");
        assert!(error.message().contains("HADOOP_CONF_DIR"), "{error}");
    }
}
