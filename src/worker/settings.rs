//! What a worker is told, resolved once.

use std::{
    fmt,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use springhouse_fuse::store::StoreUrl;

use super::hot::HotSettings;
#[cfg(test)]
use crate::query::SegmentFiles;
use crate::{mount::MountSettings, query::QuerySettings};

/// How a worker reads segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Access {
    /// Through a mount where FUSE works; else a `file://` store directly.
    #[default]
    Auto,
    /// Through a mount only.
    Fuse,
    /// The files of a `file://` store at their own paths.
    Direct,
}

impl FromStr for Access {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "fuse" => Ok(Self::Fuse),
            "direct" => Ok(Self::Direct),
            other => Err(format!("{other:?} is not a way to read segments: auto, fuse or direct")),
        }
    }
}

/// The host's clock: the machine's, or one that a simulation sets wrong.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl WallClock {
    /// Another than the machine's.
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// What it shows.
    pub fn now(&self) -> SystemTime {
        (self.0)()
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self::new(SystemTime::now)
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallClock")
    }
}

/// Everything a worker needs to know.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Unique in the cluster: `[A-Za-z0-9._-]`, 1 to 200 bytes.
    pub name: String,
    /// The store; must be the gateway's.
    pub store: StoreUrl,
    /// Whether it answers in place, from the store; else from copies only.
    pub cold: bool,
    /// Local copies, which can be written; `None`: it has none.
    pub hot: Option<HotSettings>,
    /// How segments are read.
    pub access: Access,
    /// An existing mount of the store that somebody else keeps up; `None`: the worker starts its own.
    pub mount_dir: Option<PathBuf>,
    /// The own mount, where one is started; its `store` must be [`WorkerSettings::store`].
    pub mount: MountSettings,
    /// Where the gateway reaches this worker: `http://host:port`.
    pub url: String,
    /// Weight in placement, 1 to 1,000; 100 is usual.
    pub weight: u32,
    /// What the gateway must show as `authorization: Bearer …`. Without one the caller must see to it
    /// that the worker listens on loopback only.
    pub cluster_secret: Option<String>,
    /// How long a clean stop waits for running queries.
    pub shutdown_grace: Duration,
    /// The query engine.
    pub query: QuerySettings,
    /// Numbers the starts of the worker.
    pub clock: WallClock,
    /// In the place of the store's files.
    #[cfg(test)]
    pub(crate) files: Option<Arc<dyn SegmentFiles>>,
}

impl WorkerSettings {
    /// The defaults for a worker of `store`; its own mount, if it starts one, is at `mount_dir`.
    pub fn new(
        name: impl Into<String>,
        store: StoreUrl,
        url: impl Into<String>,
        mount_dir: impl Into<PathBuf>,
    ) -> Self {
        Self {
            name: name.into(),
            mount: MountSettings::new(store.clone(), mount_dir),
            store,
            cold: true,
            hot: None,
            access: Access::Auto,
            mount_dir: None,
            url: url.into(),
            weight: 100,
            cluster_secret: None,
            shutdown_grace: Duration::from_secs(10),
            query: QuerySettings::default(),
            clock: WallClock::default(),
            #[cfg(test)]
            files: None,
        }
    }
}
