//! Answers at the control socket, and at a TCP address for scrapers.

use std::{fs, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Instant};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{IntCounter, IntGauge, Registry, TextEncoder};
use springhouse_fuse::{fs::FileSystem, store::OpenedStore};
use tokio::{net::TcpListener, runtime::Handle};

pub(super) use self::{
    socket::{ControlSocket, OwnersOnly},
    tune::Tuner,
};
use super::MountStats;

mod admin;
mod socket;
mod tune;

/// What there is to tell of one mount.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) fs: Arc<FileSystem>,
    pub(super) store: OpenedStore,
    pub(super) dir: PathBuf,
    pub(super) mount_id: u64,
    pub(super) since: Instant,
    pub(super) registry: Registry,
    pub(super) gauges: Gauges,
    pub(super) tuner: Tuner,
    /// Runs what the kernel asks.
    pub(super) io: Handle,
}

/// Which size a gauge shows.
type SizeOf = fn(&MountStats) -> u64;

/// Sizes, set when somebody asks; and what was said at the control socket.
#[derive(Debug)]
pub(super) struct Gauges {
    all: Vec<(IntGauge, SizeOf)>,
    /// Hints about databases that are open.
    hints: IntCounter,
}

impl Gauges {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        type Size = (&'static str, &'static str, SizeOf);
        let sizes: [Size; 9] = [
            ("springhouse_mount_inodes", "Inodes that the kernel holds", |s| s.fs.inodes as u64),
            ("springhouse_mount_open_files", "Open file handles", |s| s.fs.open_files as u64),
            ("springhouse_cache_bytes", "Bytes of cached blocks", |s| s.fs.cache.cached_bytes),
            ("springhouse_cache_bytes_max", "Bound of the block cache", |s| s.fs.cache.cache_bytes_max),
            ("springhouse_readahead_bytes", "Bytes of readahead buffers", |s| s.fs.cache.readahead_bytes),
            ("springhouse_pinned_bytes", "Bytes of pinned pages", |s| s.fs.cache.pinned_bytes),
            ("springhouse_mount_memory_bytes", "Memory of the daemon", |s| s.memory_resident_bytes),
            ("springhouse_mount_memory_bytes_max", "Its bound", |s| s.memory_bytes_max),
            ("springhouse_cache_in_flight", "Store reads of the cache under way", |s| s.fs.cache.in_flight),
        ];
        let mut all = Vec::with_capacity(sizes.len());
        for (name, help, size) in sizes {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            all.push((gauge, size));
        }
        let hints = IntCounter::new(
            "springhouse_mount_hints_total",
            "Hints of what queries are about to read that were of use",
        )?;
        registry.register(Box::new(hints.clone()))?;
        Ok(Self { all, hints })
    }
}

/// What the kernel counts as this process' memory.
fn resident_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/smaps_rollup").ok();
    let kib = text?
        .lines()
        .find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.map(|kib: u64| kib << 10)
}

impl Status {
    fn stats(&self) -> MountStats {
        MountStats {
            store: self.store.store.url().to_string(),
            dir: self.dir.clone(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_seconds: self.since.elapsed().as_secs_f64(),
            mount_id: self.mount_id,
            memory_resident_bytes: resident_bytes().unwrap_or(0),
            memory_bytes_max: self.fs.settings().memory_bytes,
            pinned: self.fs.pinned(),
            hints: self.gauges.hints.get(),
            fs: self.fs.snapshot(),
            store_calls: self.store.counters.snapshot(),
        }
    }
}

/// `/livez`, `/stats`, `/metrics`: for everybody who reaches it.
pub(super) fn public(status: Arc<Status>) -> Router {
    reading().with_state(status)
}

/// The same, and what changes the mount: for its owner.
pub(super) fn control(status: Arc<Status>) -> Router {
    reading().merge(admin::router()).with_state(status)
}

fn reading() -> Router<Arc<Status>> {
    Router::new()
        .route("/livez", get(livez))
        .route("/stats", get(async |State(status): State<Arc<Status>>| Json(status.stats())))
        .route("/metrics", get(metrics))
}

/// Answers when the threads that serve the mount run, so that a daemon that hangs is known by silence.
async fn livez(State(status): State<Arc<Status>>) -> Response {
    match status.io.spawn(async {}).await {
        Ok(()) => Json(serde_json::json!({ "status": "ok" })).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn metrics(State(status): State<Arc<Status>>) -> Response {
    let stats = status.stats();
    for (gauge, size) in &status.gauges.all {
        gauge.set(i64::try_from(size(&stats)).unwrap_or(i64::MAX));
    }
    match TextEncoder::new().encode_to_string(&status.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Binds the address for scrapers.
pub(super) async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}
