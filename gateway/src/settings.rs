//! What a gateway can be told. Every field has a default except where the registry lies.

use std::{path::PathBuf, time::Duration};

use crate::{heat::HeatSettings, rules::Rule};

/// Settings of a gateway; resolved once, before it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Directory in which the registry lies; created if missing. Never on a FUSE mount.
    pub data_dir: PathBuf,
    /// Pause between two discovery passes. Also the bound on how old the catalog may be. Default 10 s.
    pub discovery_interval: Duration,
    /// Every so often a pass lists all directories, whatever their modification times say. Default 1 h.
    pub full_pass_interval: Duration,
    /// Directories listed at the same time. Default 8.
    pub list_parallelism: usize,
    /// How long a worker's lease holds after a heartbeat. Default 15 s.
    pub lease_ttl: Duration,
    /// Longest request body of a query in bytes. Default 1 MiB.
    pub body_bytes_max: usize,
    /// Deadline of a query that names none. Default 30 s.
    pub deadline_default: Duration,
    /// Longest deadline that a query may ask for. Default 300 s.
    pub deadline_max: Duration,
    /// How long to wait for a worker to take a connection. Default 1 s.
    pub connect_timeout: Duration,
    /// How long `shutdown` and `serve` wait for requests that are being answered. Default 10 s.
    pub drain_max: Duration,
    /// Cluster secret that workers present and are presented. Without one only workers on the loopback
    /// interface may register. Default none.
    pub secret: Option<String>,
    /// Become the store's owner although another registry has marked it. Default false.
    pub take_over_store: bool,
    /// Page cache of the embedded registry in bytes; sled treats it as advice. Default 64 MiB.
    pub registry_cache_bytes: u64,
    /// Longest request body of a write in bytes. Default 64 MiB.
    pub write_bytes_max: usize,
    /// Longest time that a hot worker may take to copy a segment, from the store or to it. Default 1 h.
    pub copy_max: Duration,
    /// Hot copies of a raised segment that names no number; a copy is given up only with so many other live
    /// ones. Default 1.
    pub copies_minimum: u32,
    /// Most hot copies that may be asked for. Default 4.
    pub copies_maximum: u32,
    /// For so long a silent hot worker keeps what it was assigned. Default 60 s.
    pub copies_grace: Duration,
    /// When segments are raised and lowered by themselves.
    pub heat: HeatSettings,
    /// Rules by which segments differ, in order of precedence. Default none.
    pub rules: Vec<Rule>,
    /// Who gives way if somebody else puts a generation of a locked segment into the store. Default supersede.
    pub foreign_generation: ForeignGeneration,
}

/// Who gives way if the segment in the store is not the one any more that the writes of its lock build upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForeignGeneration {
    /// The lock: it ends, and what was not promoted is kept aside on its holder, in a file with a name.
    #[default]
    Supersede,
    /// Nobody: the lock stays, a promotion is refused, and somebody decides.
    Refuse,
    /// The store: the next promotion replaces what is there, with a line in the log.
    Overwrite,
}

impl Settings {
    /// The defaults, with the registry in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            discovery_interval: Duration::from_secs(10),
            full_pass_interval: Duration::from_secs(3600),
            list_parallelism: 8,
            lease_ttl: Duration::from_secs(15),
            body_bytes_max: 1 << 20,
            deadline_default: Duration::from_secs(30),
            deadline_max: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(1),
            drain_max: Duration::from_secs(10),
            secret: None,
            take_over_store: false,
            registry_cache_bytes: 64 << 20,
            write_bytes_max: 64 << 20,
            copy_max: Duration::from_secs(3600),
            copies_minimum: 1,
            copies_maximum: 4,
            copies_grace: Duration::from_secs(60),
            heat: HeatSettings::default(),
            rules: Vec::new(),
            foreign_generation: ForeignGeneration::Supersede,
        }
    }
}
