//! What a mount daemon is told, resolved once.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use springhouse_fuse::{
    fs::FsSettings,
    store::{HdfsOptions, StoreOptions, StoreUrl},
};

use crate::config::{groups::OnOff, value::Value};

/// Everything `springhouse mount` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSettings {
    /// The store to mount.
    pub store: StoreUrl,
    /// What only HDFS needs. Its properties are not handed to a child: they come from the configuration.
    pub hdfs: HdfsOptions,
    /// Added to every call to the store; zero: none. For tests and benchmarks.
    pub added_latency: Duration,
    /// The mount point: an existing, empty directory.
    pub dir: PathBuf,
    /// How the file system behaves: memory, disk, changes, lifetimes. Its deadline is the longest that any
    /// operation may take before it ends in `ETIMEDOUT`.
    pub fs: FsSettings,
    /// FUSE session threads, 1 to 16.
    pub threads: usize,
    /// Whether other users may use the mount; `None`: only if root mounts.
    pub allow_other: Option<bool>,
    /// Mount over a directory that has entries (they are hidden meanwhile).
    pub allow_nonempty: bool,
    /// Run no program that lies in the mount.
    pub noexec: bool,
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
        Self {
            store,
            hdfs: HdfsOptions::default(),
            added_latency: Duration::ZERO,
            dir: dir.into(),
            fs: FsSettings::default(),
            threads: 2,
            allow_other: None,
            allow_nonempty: false,
            noexec: false,
            control_socket: None,
            metrics_listen: None,
            ready_fd: None,
            log_file: None,
        }
    }

    pub(super) fn store_options(&self) -> StoreOptions {
        StoreOptions {
            // A little less than the operation has, so that the store's own deadline ends a call and its
            // breaker learns of it; the operation's is the last resort.
            deadline: self.fs.deadline.mul_f64(0.95),
            hdfs: self.hdfs.clone(),
            added_latency: self.added_latency,
            ..StoreOptions::default()
        }
    }

    /// The arguments of `springhouse mount` that give these settings, whatever the environment.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let fs = &self.fs;
        let mut flags = Flags(vec!["mount".into()]);
        flags.add("store", self.store.to_string());
        flags.some("hadoop-conf", self.hdfs.config_dir.as_ref());
        flags.some("hadoop-user", self.hdfs.user.as_ref());
        flags.some("kerberos-principal", self.hdfs.kerberos_principal.as_ref());
        flags.some("kerberos-keytab", self.hdfs.kerberos_keytab.as_ref());
        flags.some("kerberos-cache", self.hdfs.kerberos_cache.as_ref());
        flags.add("added-latency", span(self.added_latency));
        flags.add("mount-point", &self.dir);
        flags.add("store-deadline", span(fs.deadline));
        flags.some("allow-other", self.allow_other.map(|allowed| allowed.to_string()));
        flags.add("allow-nonempty", self.allow_nonempty.to_string());
        flags.add("noexec", self.noexec.to_string());
        flags.some("control-socket", self.control_socket.as_ref());
        flags.some("metrics-listen", self.metrics_listen.map(|address| address.to_string()));
        flags.some("log-file", self.log_file.as_ref());
        flags.some("ready-fd", self.ready_fd.map(|fd| fd.to_string()));

        let writes = &fs.writes;
        flags.add("read-only", writes.read_only.to_string());
        flags.add("identity", fs.identity.text());
        flags.add("write-mode", writes.mode.text());
        flags.some("staging-dir", writes.staging_dir.as_ref());
        flags.add("staging-size", writes.staging_bytes_max.to_string());
        flags.add("umask", format!("{:o}", writes.umask));
        flags.some("replication", writes.replication.map(|copies| copies.to_string()));
        flags.some("hdfs-block-size", writes.block_size.map(|bytes| bytes.to_string()));

        flags.add("memory", fs.memory_bytes.to_string());
        flags.add("memory-blocks", fs.cache_bytes.to_string());
        flags.add("memory-readahead", fs.prefetch_bytes.to_string());
        flags.add("memory-pins", fs.pinned_bytes.to_string());
        if let Some(disk) = &fs.disk {
            flags.add("cache-dir", &disk.dir);
            flags.add("cache-size", disk.bytes_max.to_string());
        }
        flags.add("cache-block", fs.block_bytes.to_string());
        flags.add("readahead-max", fs.readahead_bytes_max.to_string());
        flags.add("sqlite", OnOff::from(fs.sqlite).text());
        flags.add("freshness", span(fs.freshness));
        flags.some("entry-lifetime", fs.entry_lifetime.map(span));
        flags.some("attribute-lifetime", fs.attribute_lifetime.map(span));
        flags.some("negative-lifetime", fs.negative_lifetime.map(span));
        flags.add("fuse-threads", self.threads.to_string());
        flags.0
    }
}

fn span(span: Duration) -> String {
    format!("{}ms", span.as_millis())
}

struct Flags(Vec<OsString>);

impl Flags {
    fn add(&mut self, name: &str, value: impl Into<OsString>) {
        let mut argument = OsString::from(format!("--{name}="));
        argument.push(value.into());
        self.0.push(argument);
    }

    fn some(&mut self, name: &str, value: Option<impl Into<OsString>>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }
}
