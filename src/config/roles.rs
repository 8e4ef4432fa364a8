//! The four roles: which groups of keys each has.

use super::{
    groups::{
        CacheKeys, EngineKeys, GatewayKeys, HotKeys, LogKeys, MountPointKeys, SecretKeys, StoreKeys,
        WorkerKeys, WorkerNetKeys, WriteKeys,
    },
    keys::{ENV_PREFIX, KeySpec, Role, role},
    tiers::{RuleList, TierKeys},
    trough::TroughKeys,
};

role! {
    "mount", "The mount daemon: a store as a directory.",
    [store, mount_point, read_only, memory, cache_dir, cache_size]
    /// `springhouse mount`.
    pub struct Mount {
        /// Which store.
        store: StoreKeys,
        /// Where it appears.
        point: MountPointKeys,
        /// What may be changed.
        writes: WriteKeys,
        /// Memory and freshness.
        cache: CacheKeys,
        /// Logging.
        log: LogKeys,
    }
}

role! {
    "worker", "A worker: answers queries over the segments of a store.",
    [store, tier, access, data, quota, gateway, listen, advertise, memory, cache_dir, cache_size]
    /// `springhouse worker`.
    pub struct Worker {
        /// Which store.
        store: StoreKeys,
        /// What kind of worker.
        worker: WorkerKeys,
        /// Where it answers.
        net: WorkerNetKeys,
        /// Its local copies.
        hot: HotKeys,
        /// Limits of queries.
        engine: EngineKeys,
        /// Its mount's memory and freshness.
        cache: CacheKeys,
        /// How it proves itself.
        secret: SecretKeys,
        /// Logging.
        log: LogKeys,
    }
}

role! {
    "gateway", "The gateway: knows segments and workers, and sends queries from the ones to the others.",
    [store, listen, data]
    /// `springhouse gateway`.
    pub struct Gateway {
        /// Which store.
        store: StoreKeys,
        /// Registry, discovery, routing.
        gateway: GatewayKeys,
        /// Hot copies: how many, and when by themselves.
        tiers: TierKeys,
        /// For Trough's clients.
        trough: TroughKeys,
        /// How workers prove themselves.
        secret: SecretKeys,
        /// Logging.
        log: LogKeys,
        /// By which segments differ.
        rules: RuleList,
    }
}

role! {
    "serve", "Gateway and worker in one process: all that one host needs.",
    [store, listen, data, tier, access, memory, cache_dir, cache_size]
    /// `springhouse serve`.
    pub struct Serve {
        /// Which store.
        store: StoreKeys,
        /// Registry, discovery, routing.
        gateway: GatewayKeys,
        /// Hot copies: how many, and when by themselves.
        tiers: TierKeys,
        /// For Trough's clients.
        trough: TroughKeys,
        /// What kind of worker.
        worker: WorkerKeys,
        /// Its local copies.
        hot: HotKeys,
        /// Limits of queries.
        engine: EngineKeys,
        /// Its mount's memory and freshness.
        cache: CacheKeys,
        /// How other workers that join prove themselves.
        secret: SecretKeys,
        /// Logging.
        log: LogKeys,
        /// By which segments differ.
        rules: RuleList,
    }
}

/// Does something with each role: a list of roles is a list of types.
macro_rules! for_each_role {
    ($do:ident) => {
        [
            $do::<$crate::config::roles::Mount>(),
            $do::<$crate::config::roles::Worker>(),
            $do::<$crate::config::roles::Gateway>(),
            $do::<$crate::config::roles::Serve>(),
        ]
    };
}
pub(crate) use for_each_role;

fn named<R: Role>() -> (&'static str, Vec<KeySpec>) {
    (R::NAME, R::specs())
}

/// The roles that have the key `name`.
pub(crate) fn with_key(name: &str) -> Vec<&'static str> {
    for_each_role!(named)
        .into_iter()
        .filter(|(_, specs)| specs.iter().any(|spec| spec.name == name))
        .map(|(role, _)| role)
        .collect()
}

/// Whether the environment variable `name` is a key of some role.
pub(crate) fn is_key_of_any_role(name: &str) -> bool {
    name.strip_prefix(ENV_PREFIX).is_some_and(|key| {
        key.bytes().all(|b| !b.is_ascii_lowercase()) && !with_key(&key.to_ascii_lowercase()).is_empty()
    })
}

/// The keys of all roles; shared ones repeat.
pub(crate) fn all_names() -> impl Iterator<Item = &'static str> {
    for_each_role!(named).into_iter().flat_map(|(_, specs)| specs).map(|spec| spec.name)
}
