//! From a URL to a store with its decorators in the order that is right for production.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use super::{
    Metadata, Store, StorePath, StoreUrl,
    count::{Count, Counters},
    deadline::Deadline,
    hdfs::HdfsStore,
    latency::Latency,
    local::LocalStore,
    outage::Outage,
    single_flight::SingleFlight,
};
use crate::error::{Error, ErrorKind, Result};

/// How a store is opened. The default is right for production.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Longest that any one call may take, retries included; then it is `TimedOut`. Default 10 s.
    pub deadline: Duration,
    /// How reads are tried again inside the deadline.
    pub retry: RetryPolicy,
    /// What only HDFS needs.
    pub hdfs: HdfsOptions,
    /// Added to every call to the store, as distance would; zero: none. For tests and benchmarks.
    pub added_latency: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            retry: RetryPolicy::default(),
            hdfs: HdfsOptions::default(),
            added_latency: Duration::ZERO,
        }
    }
}

/// Waits between tries: exponential with full jitter, as long as the deadline allows.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Shortest wait. Default 50 ms.
    pub delay_min: Duration,
    /// Longest wait. Default 1 s.
    pub delay_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { delay_min: Duration::from_millis(50), delay_max: Duration::from_secs(1) }
    }
}

/// What the HDFS client is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HdfsOptions {
    /// Directory of `core-site.xml` and `hdfs-site.xml`; `None`: `HADOOP_CONF_DIR`, then
    /// `HADOOP_HOME/etc/hadoop`.
    pub config_dir: Option<PathBuf>,
    /// Hadoop properties that override those of the files.
    pub properties: BTreeMap<String, String>,
    /// User to act as; `None`: `HADOOP_USER_NAME`, else the user of the process. Not with Kerberos.
    pub user: Option<String>,
}

/// A store ready for use, and what it counts. Clones share both.
#[derive(Clone)]
pub struct OpenedStore {
    /// The store, decorated.
    pub store: Arc<dyn Store>,
    /// What it was asked.
    pub counters: Arc<Counters>,
    bare: Arc<dyn Store>,
    deadline: Duration,
}

impl fmt::Debug for OpenedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenedStore").field("url", self.store.url()).finish_non_exhaustive()
    }
}

/// Makes the store at `url`. Nothing is asked of it yet: a store that is down now may be up later. Who
/// wants to know at start calls [`OpenedStore::check_root`].
pub fn open(url: &StoreUrl, options: &StoreOptions) -> Result<OpenedStore> {
    let store: Arc<dyn Store> = match url {
        StoreUrl::File { path } => Arc::new(LocalStore::new(path.clone())),
        StoreUrl::Hdfs { authority, path } => {
            Arc::new(HdfsStore::new(authority, path, &options.hdfs, options.deadline)?)
        }
    };
    decorate(store, options)
}

/// Puts the decorators around a bare store.
///
/// From the inside: latency belongs to the store; counting sees every try; the deadline makes the
/// tries; what comes of them is an outage or none; what several ask at once goes through all that only
/// once.
pub fn decorate(bare: Arc<dyn Store>, options: &StoreOptions) -> Result<OpenedStore> {
    let counters = Arc::new(Counters::new()?);
    let deadline = options.deadline;
    let mut store = Arc::clone(&bare);
    if !options.added_latency.is_zero() {
        store = Arc::new(Latency::new(store, options.added_latency));
    }
    store = Arc::new(Count::new(store, Arc::clone(&counters)));
    store = Arc::new(Deadline::new(store, deadline, options.retry.clone(), Arc::clone(&counters)));
    store = Arc::new(Outage::new(store));
    store = Arc::new(SingleFlight::new(store, Arc::clone(&counters)));
    Ok(OpenedStore { store, counters, bare, deadline })
}

impl OpenedStore {
    /// Asks for the store's root once, so that a wrong URL is told at start, at once, in one line with
    /// its remedy.
    pub async fn check_root(&self) -> Result<Metadata> {
        let root = StorePath::root();
        let url = self.store.url();
        // Not through the decorators: they would try a refused connection again until the deadline.
        let outcome = tokio::time::timeout(self.deadline, self.bare.stat(&root)).await;
        let metadata = match outcome {
            Ok(Ok(metadata)) => metadata,
            Ok(Err(e)) if e.kind() == ErrorKind::NotFound => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("store {url}: there is no such directory; create it, or correct the URL"),
                ));
            }
            Ok(Err(e)) => {
                let why = e.message().strip_prefix("/: ").unwrap_or(e.message());
                return Err(Error::new(e.kind(), format!("store {url}: {why}")));
            }
            Err(_) => {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    format!(
                        "store {url}: no answer within {} ms; is it running, and is the network to it open?",
                        self.deadline.as_millis()
                    ),
                ));
            }
        };
        if !metadata.is_dir() {
            return Err(Error::new(
                ErrorKind::NotADirectory,
                format!("store {url}: is a file; a store is a directory"),
            ));
        }
        Ok(metadata)
    }
}
