//! What a worker is told, resolved once.

use std::{path::PathBuf, str::FromStr, time::Duration};

use springhouse_fuse::store::StoreUrl;

use super::hot::HotSettings;
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
        }
    }
}
