//! From keys to what the parts of the program take: the one place that knows both.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytesize::ByteSize;
use springhouse_fuse::{
    fs::{DiskSettings, FsSettings, Identity, WriteMode, WriteSettings},
    memory::{room, shares},
    mount::is_root,
    store::{HdfsOptions, Store, StoreOptions, StoreUrl},
};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    groups::{
        CacheKeys, EngineKeys, GatewayKeys, HotKeys, MountPointKeys, OnOff, SecretKeys, StoreKeys, Tier,
        WorkerKeys, WriteKeys,
    },
    resolve::Problem,
    value::{GIB, Secret, Value as _, WorkerName},
};
use crate::{
    mount::MountSettings,
    query::{QuerySettings, SqlLimits},
    worker::{Access, HotSettings, WorkerSettings},
};

impl StoreKeys {
    /// See [`super::keys::Group::check`].
    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.kerberos_principal.is_none()
            && (self.kerberos_keytab.is_some() || self.kerberos_cache.is_some())
        {
            return Err(Problem(
                "kerberos_keytab and kerberos_cache say where tickets are, not whose; name the principal with \
                 kerberos_principal"
                    .into(),
            ));
        }
        Ok(())
    }

    /// How the store is opened.
    pub fn options(&self) -> StoreOptions {
        StoreOptions {
            deadline: self.store_deadline.duration(),
            hdfs: self.hdfs(),
            added_latency: self.added_latency.0.duration(),
            ..StoreOptions::default()
        }
    }
}

impl StoreKeys {
    /// What only HDFS needs.
    fn hdfs(&self) -> HdfsOptions {
        HdfsOptions {
            config_dir: self.hadoop_conf.clone(),
            user: self.hadoop_user.as_ref().map(|user| user.as_str().to_owned()),
            kerberos_principal: self.kerberos_principal.as_ref().map(|name| name.as_str().to_owned()),
            kerberos_keytab: self.kerberos_keytab.clone(),
            kerberos_cache: self.kerberos_cache.as_ref().map(|name| name.as_str().to_owned()),
            ..HdfsOptions::default()
        }
    }
}

impl From<bool> for OnOff {
    fn from(on: bool) -> Self {
        if on { Self::On } else { Self::Off }
    }
}

/// Room on disk where a cache directory is named without a size.
const CACHE_SIZE_DEFAULT: u64 = 10 * GIB;

impl CacheKeys {
    /// See [`super::keys::Group::check`].
    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.cache_dir.is_none() && self.cache_size.is_some() {
            return Err(Problem(
                "cache_size is room on disk, and there is no cache_dir; name a directory with cache_dir, or \
                 give the cache more memory with `memory`"
                    .into(),
            ));
        }
        let parts = [self.memory_blocks, self.memory_readahead, self.memory_pins];
        let total: u64 = parts.iter().flatten().map(|part| part.bytes()).sum();
        if total > self.room() {
            return Err(Problem(format!(
                "memory_blocks, memory_readahead and memory_pins are together more than the {} of memory ({}) \
                 that are left for them; raise memory, or leave some of them out",
                ByteSize(self.room()).display().iec(),
                self.memory.text()
            )));
        }
        Ok(())
    }

    /// What `memory` leaves for the three parts.
    fn room(&self) -> u64 {
        // The key's own range excludes what is too little for anything.
        room(self.memory.bytes()).unwrap_or(0)
    }

    /// Where blocks are kept across restarts.
    fn disk(&self) -> Option<DiskSettings> {
        self.cache_dir.clone().map(|dir| DiskSettings {
            dir,
            bytes_max: self.cache_size.map_or(CACHE_SIZE_DEFAULT, |size| size.bytes()),
        })
    }

    /// What the keys say of the file system; changes are not theirs.
    fn fs(&self, store: &StoreKeys) -> FsSettings {
        let parts = [self.memory_blocks, self.memory_readahead, self.memory_pins];
        let [blocks, readahead, pins] = shares(self.room(), parts.map(|part| part.map(|p| p.bytes())));
        FsSettings {
            deadline: store.store_deadline.duration(),
            freshness: self.freshness.duration(),
            entry_lifetime: self.entry_lifetime.map(|span| span.duration()),
            attribute_lifetime: self.attribute_lifetime.map(|span| span.duration()),
            negative_lifetime: self.negative_lifetime.map(|span| span.duration()),
            memory_bytes: self.memory.bytes(),
            cache_bytes: blocks,
            prefetch_bytes: readahead,
            pinned_bytes: pins,
            disk: self.disk(),
            sqlite: self.sqlite == OnOff::On,
            block_bytes: self.cache_block.bytes() as u32,
            readahead_bytes_max: self.readahead_max.bytes(),
            ..FsSettings::default()
        }
    }

    /// A mount of `store` at `dir` for reading, for whoever mounts alone: what a worker starts.
    pub fn mount(&self, store: &StoreKeys, dir: impl Into<PathBuf>) -> MountSettings {
        let mut settings = MountSettings {
            fs: self.fs(store),
            hdfs: store.hdfs(),
            added_latency: store.added_latency.0.duration(),
            threads: self.fuse_threads.as_usize(),
            ..MountSettings::new(store.store.clone(), dir)
        };
        settings.fs.writes.read_only = true;
        settings
    }
}

impl WriteKeys {
    /// See [`super::keys::Group::check`].
    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.write_mode == WriteMode::Staged && self.staging_dir.is_none() && !self.read_only {
            return Err(Problem(
                "write_mode is staged, and there is no place for what is written; name a directory on a \
                 local disk with staging_dir"
                    .into(),
            ));
        }
        if let Some(size) = self.hdfs_block_size
            && !size.bytes().is_multiple_of(512)
        {
            return Err(Problem(format!(
                "hdfs_block_size {} is no multiple of 512 bytes, which HDFS asks for; give one, such as 128MiB",
                size.text()
            )));
        }
        Ok(())
    }

    fn settings(&self) -> WriteSettings {
        WriteSettings {
            read_only: self.read_only,
            mode: self.write_mode,
            staging_dir: self.staging_dir.clone(),
            staging_bytes_max: self.staging_size.bytes(),
            umask: self.umask.bits(),
            replication: self.replication.map(|copies| copies.as_u32()),
            block_size: self.hdfs_block_size.map(|size| size.bytes()),
        }
    }
}

impl MountPointKeys {
    /// The mount that the mount role was told of.
    pub fn mount(&self, store: &StoreKeys, writes: &WriteKeys, cache: &CacheKeys) -> MountSettings {
        let mut settings = MountSettings {
            allow_other: self.allow_other,
            allow_nonempty: self.allow_nonempty,
            noexec: self.noexec,
            control_socket: self.control_socket.clone(),
            metrics_listen: self.metrics_listen,
            log_file: self.log_file.clone(),
            ..cache.mount(store, &self.mount_point)
        };
        settings.fs.writes = writes.settings();
        settings.fs.identity = writes.identity.unwrap_or_else(|| {
            if self.allow_other.unwrap_or_else(is_root) { Identity::Caller } else { Identity::Fixed }
        });
        settings
    }
}

impl EngineKeys {
    /// See [`super::keys::Group::check`].
    pub(super) fn check(&self) -> Result<(), Problem> {
        self.settings().map(drop)
    }

    /// Limits of the query engine; a problem if they contradict each other.
    pub fn settings(&self) -> Result<QuerySettings, Problem> {
        let settings = QuerySettings {
            threads: self.query_threads.map_or(QuerySettings::default().threads, |n| n.as_usize()),
            queue_max: self.query_queue_max.as_usize(),
            connections_max: self.connections_max.as_usize(),
            connections_per_file_max: self.connections_per_segment_max.as_usize(),
            statements_per_connection_max: self.statements_per_connection_max.as_usize(),
            page_cache_bytes: self.page_cache.bytes(),
            idle_memory_bytes: self.idle_memory.bytes(),
            query_memory_bytes: self.query_memory.bytes(),
            rows_max: self.rows_max.get(),
            answer_bytes_max: self.answer_size_max.bytes(),
            timeout_max: self.query_timeout_max.duration(),
            sql: SqlLimits {
                value_bytes: self.sql_value_size_max.as_u32(),
                statement_bytes: self.sql_statement_size_max.as_u32(),
                columns: self.sql_columns_max.as_u32(),
                expression_depth: self.sql_expression_depth_max.as_u32(),
                compound_selects: self.sql_compound_selects_max.as_u32(),
                instructions: self.sql_instructions_max.as_u32(),
                function_arguments: self.sql_function_arguments_max.as_u32(),
                like_pattern_bytes: self.sql_like_pattern_size_max.as_u32(),
                parameters: self.sql_parameters_max.as_u32(),
                schema_objects: self.sql_schema_objects_max.as_u32(),
            },
        };
        let threads = settings.threads;
        let contradictions = [
            (
                settings.connections_max < threads,
                format!("connections_max is less than query_threads ({threads})"),
            ),
            (
                self.page_cache.bytes() > self.query_memory.bytes() / 2,
                "page_cache is more than half of query_memory".into(),
            ),
            (
                self.sql_value_size_max.bytes() > self.query_memory.bytes(),
                "sql_value_size_max is more than query_memory".into(),
            ),
        ];
        for (wrong, what) in contradictions {
            if wrong {
                return Err(Problem(format!("{what}; change one of the two")));
            }
        }
        settings.check().map(|()| settings).map_err(Problem)
    }
}

impl GatewayKeys {
    /// See [`super::keys::Group::check`].
    pub(super) fn check(&self) -> Result<(), Problem> {
        self.settings(Path::new("/"), None).map(drop)
    }

    /// Settings of the gateway with its registry in `data_dir`.
    pub fn settings(
        &self,
        data_dir: &Path,
        secret: Option<&Secret>,
    ) -> Result<springhouse_gateway::Settings, Problem> {
        if self.deadline_default.duration() > self.deadline_max.duration() {
            return Err(Problem(
                "deadline_default is longer than deadline_max; change one of the two".into(),
            ));
        }
        if self.full_pass_interval.duration() < self.discovery_interval.duration() {
            return Err(Problem(
                "full_pass_interval is shorter than discovery_interval; change one of the two".into(),
            ));
        }
        Ok(springhouse_gateway::Settings {
            discovery_interval: self.discovery_interval.duration(),
            full_pass_interval: self.full_pass_interval.duration(),
            list_parallelism: self.discovery_parallelism.as_usize(),
            lease_ttl: self.lease_ttl.duration(),
            body_bytes_max: usize::try_from(self.body_size_max.bytes()).unwrap_or(usize::MAX),
            deadline_default: self.deadline_default.duration(),
            deadline_max: self.deadline_max.duration(),
            connect_timeout: self.connect_timeout.duration(),
            drain_max: self.drain_max.duration(),
            secret: secret.map(|secret| secret.reveal().to_owned()),
            take_over_store: self.take_over_store,
            foreign_generation: self.foreign_generation,
            registry_cache_bytes: self.registry_cache.bytes(),
            write_bytes_max: usize::try_from(self.write_size_max.bytes()).unwrap_or(usize::MAX),
            copy_max: self.copy_max.duration(),
            ..springhouse_gateway::Settings::new(data_dir)
        })
    }

    /// The data directory: as given, or the store's own below the user's state directory.
    pub fn data_dir(
        &self,
        store: &StoreUrl,
        env: impl Fn(&str) -> Option<PathBuf>,
    ) -> Result<PathBuf, Problem> {
        match &self.data {
            Some(data) => Ok(data.clone()),
            None => state_dir(store, env).ok_or_else(|| {
                Problem(
                    "no place for the registry: neither HOME nor XDG_STATE_HOME is set; give --data DIR"
                        .into(),
                )
            }),
        }
    }
}

/// Where what belongs to `store` lies on this host unless told otherwise: in `$XDG_STATE_HOME` or
/// `~/.local/state`. `None` for a user without a home.
pub fn state_dir(store: &StoreUrl, env: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name| env(name).filter(|path: &PathBuf| path.is_absolute());
    let state =
        absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("springhouse").join(directory_for(store)))
}

impl WorkerKeys {
    /// The worker's name: as given, or the host's.
    pub fn name(&self) -> WorkerName {
        self.worker_name.clone().unwrap_or_else(|| {
            WorkerName::like(&std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default())
        })
    }

    /// Whether a place for an own mount has to be found.
    pub fn needs_mount_point(&self) -> bool {
        self.is_cold()
            && self.access != Access::Direct
            && self.mounted_at.is_none()
            && self.mount_point.is_none()
    }

    /// Whether it answers in place.
    pub fn is_cold(&self) -> bool {
        matches!(self.tier, Tier::Cold | Tier::Both)
    }

    /// Whether it has local copies.
    pub fn is_hot(&self) -> bool {
        matches!(self.tier, Tier::Hot | Tier::Both)
    }

    /// A worker of `store` that the gateway reaches at `url`, whose own mount, if it needs one, is at
    /// `mount_point` unless the configuration names another.
    pub fn settings(
        &self,
        store: &StoreKeys,
        cache: &CacheKeys,
        engine: &EngineKeys,
        secret: Option<&Secret>,
        place: Place,
    ) -> Result<WorkerSettings, Problem> {
        let mount_point = self.mount_point.clone().unwrap_or(place.mount_point);
        Ok(WorkerSettings {
            cold: self.is_cold(),
            access: self.access,
            mount_dir: self.mounted_at.clone(),
            mount: cache.mount(store, &mount_point),
            weight: self.weight.as_u32(),
            cluster_secret: secret.map(|secret| secret.reveal().to_owned()),
            shutdown_grace: place.drain_max,
            query: engine.settings()?,
            ..WorkerSettings::new(self.name().as_str(), store.store.clone(), place.url, mount_point)
        })
    }
}

impl HotKeys {
    /// Local copies in `data` of segments of `store`.
    pub fn settings(&self, data: PathBuf, store: Arc<dyn Store>) -> HotSettings {
        HotSettings {
            quota_bytes: self.quota.map(|quota| quota.bytes()),
            copy_parallelism: self.copy_parallelism.as_usize(),
            copy_bandwidth: self.copy_bandwidth.map(|bytes| bytes.bytes()),
            zone: self.zone.as_ref().map(|zone| zone.as_str().to_owned()),
            ..HotSettings::new(data, store)
        }
    }
}

/// What a worker learns from the process it runs in.
#[derive(Debug, Clone)]
pub struct Place {
    /// Where the gateway reaches it.
    pub url: String,
    /// Where its own mount appears by default.
    pub mount_point: PathBuf,
    /// How long a stop waits for running queries.
    pub drain_max: Duration,
}

/// A name for a store's directory that people recognise and that no two stores share: its last words and
/// a hash of its whole URL.
fn directory_for(store: &StoreUrl) -> String {
    let url = store.to_string();
    let words: String = url
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        .take(32)
        .collect();
    let scheme = url.split(':').next().unwrap_or_default();
    format!("{scheme}-{words}-{:016x}", xxh3_64(url.as_bytes())).replace("--", "-")
}

impl SecretKeys {
    /// The cluster secret, if there is one. A file for it is read here, once.
    pub fn secret(&self) -> Result<Option<Secret>, Problem> {
        let Some(path) = &self.cluster_secret_file else { return Ok(self.cluster_secret.clone()) };
        if self.cluster_secret.is_some() {
            return Err(Problem("cluster_secret and cluster_secret_file are both set; remove one".into()));
        }
        let problem = |what: String| Problem(format!("cluster_secret_file {}: {what}", path.display()));
        let metadata = std::fs::metadata(path).map_err(|e| problem(e.to_string()))?;
        if metadata.permissions().mode() & 0o007 != 0 {
            return Err(problem(format!("every user may use it; run chmod o= {}", path.display())));
        }
        if !metadata.is_file() || metadata.len() > 4096 {
            return Err(problem("is no file of at most 4096 bytes".into()));
        }
        let text = std::fs::read_to_string(path).map_err(|e| problem(e.to_string()))?;
        Secret::parse(&text)
            .map(Some)
            .map_err(|reason| problem(format!("its content {reason}; it must be {}", Secret::allowed())))
    }
}
