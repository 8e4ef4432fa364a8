//! What a mount daemon is told, resolved once.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use springhouse_fuse::{
    fs::FsSettings,
    store::{StoreOptions, StoreUrl},
};

/// Everything `springhouse mount` needs to know. Sizes in bytes; see each field for its range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSettings {
    /// The store to mount.
    pub store: StoreUrl,
    /// The mount point: an existing, empty directory.
    pub dir: PathBuf,
    /// Longest time that any operation may take before it ends in `ETIMEDOUT`.
    pub deadline: Duration,
    /// How old an answer about names and attributes may be; 0 asks the store each time.
    pub freshness: Duration,
    /// Block cache in RAM; 0 to switch it off.
    pub cache_bytes: u64,
    /// Unit of the block cache: a power of two from 4 KiB to 4 MiB.
    pub block_bytes: u64,
    /// Largest readahead window of one sequential reader; 0 switches readahead off.
    pub readahead_bytes_max: u64,
    /// All readahead buffers together. The daemon's data memory is at most this plus `cache_bytes`.
    pub prefetch_bytes: u64,
    /// FUSE session threads, 1 to 16.
    pub threads: usize,
    /// Whether other users may use the mount; `None`: only if root mounts.
    pub allow_other: Option<bool>,
    /// Mount over a directory that has entries (they are hidden meanwhile).
    pub allow_nonempty: bool,
    /// The control socket; `None`: the usual one for `dir`.
    pub control_socket: Option<PathBuf>,
    /// Where `/metrics` and `/livez` are served over TCP as well.
    pub metrics_listen: Option<SocketAddr>,
    /// A file descriptor that gets one line as soon as the mount answers, and is then closed.
    pub ready_fd: Option<i32>,
    /// Where a daemon in the background logs to; `None`: standard error.
    pub log_file: Option<PathBuf>,
}

impl MountSettings {
    /// The defaults for a mount of `store` at `dir`.
    pub fn new(store: StoreUrl, dir: impl Into<PathBuf>) -> Self {
        let fs = FsSettings::default();
        Self {
            store,
            dir: dir.into(),
            deadline: fs.deadline,
            freshness: fs.freshness,
            cache_bytes: fs.cache_bytes,
            block_bytes: fs.block_bytes.into(),
            readahead_bytes_max: fs.readahead_bytes_max,
            prefetch_bytes: fs.prefetch_bytes,
            threads: 2,
            allow_other: None,
            allow_nonempty: false,
            control_socket: None,
            metrics_listen: None,
            ready_fd: None,
            log_file: None,
        }
    }

    pub(super) fn fs(&self) -> FsSettings {
        FsSettings {
            freshness: self.freshness,
            deadline: self.deadline,
            cache_bytes: self.cache_bytes,
            block_bytes: u32::try_from(self.block_bytes).unwrap_or(u32::MAX),
            readahead_bytes_max: self.readahead_bytes_max,
            prefetch_bytes: self.prefetch_bytes,
            ..FsSettings::default()
        }
    }

    pub(super) fn store_options(&self) -> StoreOptions {
        // A little less than the operation has, so that the store's own deadline ends a call and its
        // breaker learns of it; the operation's is the last resort.
        StoreOptions { deadline: self.deadline.mul_f64(0.95), ..StoreOptions::default() }
    }

    /// The arguments of `springhouse mount` that give these settings, whatever the environment.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["mount".into()];
        let mut flag = |name: &str, value: OsString| {
            let mut argument = OsString::from(format!("--{name}="));
            argument.push(value);
            arguments.push(argument);
        };
        let span = |span: Duration| OsString::from(format!("{}ms", span.as_millis()));
        let number = |n: u64| OsString::from(n.to_string());
        flag("store", self.store.to_string().into());
        flag("mount-point", self.dir.clone().into());
        flag("store-deadline", span(self.deadline));
        flag("freshness", span(self.freshness));
        flag("cache-size", number(self.cache_bytes));
        flag("cache-block", number(self.block_bytes));
        flag("readahead-max", number(self.readahead_bytes_max));
        flag("readahead-memory", number(self.prefetch_bytes));
        flag("fuse-threads", number(self.threads as u64));
        flag("allow-nonempty", self.allow_nonempty.to_string().into());
        if let Some(allow_other) = self.allow_other {
            flag("allow-other", allow_other.to_string().into());
        }
        if let Some(socket) = &self.control_socket {
            flag("control-socket", socket.into());
        }
        if let Some(address) = self.metrics_listen {
            flag("metrics-listen", address.to_string().into());
        }
        if let Some(file) = &self.log_file {
            flag("log-file", file.into());
        }
        if let Some(fd) = self.ready_fd {
            flag("ready-fd", fd.to_string().into());
        }
        arguments
    }
}
