//! From a URL to a store with its decorators in the order that is right for production.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use super::{
    Metadata, Store, StorePath, StoreUrl,
    count::{Count, Counters},
    deadline::{Breakers, Deadline},
    hdfs::HdfsStore,
    latency::Latency,
    local::LocalStore,
    outage::{Outage, Watches},
    single_flight::SingleFlight,
    users::Users,
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
    /// User to act as; `None`: `HADOOP_USER_NAME`, else the user of the process. With Kerberos: the user
    /// whom the principal acts for, which the cluster has to allow (`hadoop.proxyuser.…`); `None`: the
    /// principal itself.
    pub user: Option<String>,
    /// Kerberos principal, `NAME@REALM`; `None`: that of the ticket cache. Needed with the next two.
    pub kerberos_principal: Option<String>,
    /// Keytab with the principal's key, from which tickets are taken and renewed.
    pub kerberos_keytab: Option<PathBuf>,
    /// Ticket cache as MIT Kerberos names it (`FILE:/path`, `KEYRING:…`) or a path; `None`: `KRB5CCNAME`,
    /// else the system's default; with a keytab one in memory.
    pub kerberos_cache: Option<String>,
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
    users: Arc<Users>,
    hdfs: Option<Arc<HdfsStore>>,
}

impl fmt::Debug for OpenedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenedStore").field("url", self.store.url()).finish_non_exhaustive()
    }
}

/// Makes the store at `url`. Nothing is asked of it yet: a store that is down now may be up later. Who
/// wants to know at start calls [`OpenedStore::check_root`].
pub fn open(url: &StoreUrl, options: &StoreOptions) -> Result<OpenedStore> {
    match url {
        StoreUrl::File { path } => decorate(Arc::new(LocalStore::new(path.clone())), options),
        StoreUrl::Hdfs { .. } => {
            let bare = Arc::new(HdfsStore::new(url, &options.hdfs, options.deadline)?);
            let around = Around::new(url, options)?;
            let store = around.put(Arc::<HdfsStore>::clone(&bare));
            let (counters, hdfs) = (Arc::clone(&around.counters), options.hdfs.clone());
            let (own, url, deadline) = (Arc::clone(&store), url.clone(), options.deadline);
            let users = Users::new(move |user| {
                if hdfs.user.as_deref() == Some(user) {
                    return Ok(Arc::clone(&own));
                }
                let hdfs = HdfsOptions { user: Some(user.to_owned()), ..hdfs.clone() };
                Ok(around.put(Arc::new(HdfsStore::new(&url, &hdfs, deadline)?)))
            });
            let (users, hdfs) = (Arc::new(users), Some(Arc::clone(&bare)));
            Ok(OpenedStore { store, counters, bare, deadline, users, hdfs })
        }
    }
}

/// Puts the decorators around a bare store, which is the same for every user.
pub fn decorate(bare: Arc<dyn Store>, options: &StoreOptions) -> Result<OpenedStore> {
    let around = Around::new(bare.url(), options)?;
    let store = around.put(Arc::clone(&bare));
    let own = Arc::clone(&store);
    let users = Arc::new(Users::new(move |_| Ok(Arc::clone(&own))));
    Ok(OpenedStore { store, counters: around.counters, bare, deadline: options.deadline, users, hdfs: None })
}

/// The decorators of one store, and what they share when it is asked as several users: the figures, what
/// is known of outages, and how many changes there were. Answers are each user's own.
struct Around {
    options: StoreOptions,
    counters: Arc<Counters>,
    breakers: Arc<Breakers>,
    watches: Arc<Watches>,
    changes: Arc<AtomicU64>,
}

impl Around {
    fn new(url: &StoreUrl, options: &StoreOptions) -> Result<Self> {
        Ok(Self {
            options: options.clone(),
            counters: Arc::new(Counters::new()?),
            breakers: Arc::default(),
            watches: Arc::new(Watches::new(url)),
            changes: Arc::default(),
        })
    }

    /// From the inside: latency belongs to the store; counting sees every try; the deadline makes the
    /// tries; what comes of them is an outage or none; what several ask at once goes through all that
    /// only once.
    fn put(&self, mut store: Arc<dyn Store>) -> Arc<dyn Store> {
        let (options, counters) = (&self.options, || Arc::clone(&self.counters));
        if !options.added_latency.is_zero() {
            store = Arc::new(Latency::new(store, options.added_latency));
        }
        store = Arc::new(Count::new(store, counters()));
        let retry = options.retry.clone();
        store =
            Arc::new(Deadline::new(store, options.deadline, retry, counters(), Arc::clone(&self.breakers)));
        store = Arc::new(Outage::new(store, Arc::clone(&self.watches)));
        Arc::new(SingleFlight::new(store, counters(), Arc::clone(&self.changes)))
    }
}

impl OpenedStore {
    /// The same store asked as `user`: in HDFS, which then decides by that user's name and groups (with
    /// Kerberos our principal must be allowed to act for others). A local directory is given itself: there
    /// the kernel decides.
    ///
    /// Nothing is asked of the store. Each user has a client of his own, of which the last 64 are kept; a
    /// store that is still held goes on working when it is no longer among them.
    pub fn as_user(&self, user: &str) -> Result<Arc<dyn Store>> {
        self.users.get(user)
    }

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
        if let Some(hdfs) = &self.hdfs {
            hdfs.warm_up().await;
        }
        Ok(metadata)
    }
}
