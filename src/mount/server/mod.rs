//! Answers at the control socket, and at a TCP address for scrapers.

use std::{fs, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Instant};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::Registry;
use springhouse_fuse::{fs::FileSystem, store::OpenedStore};
use tokio::{net::TcpListener, runtime::Handle};

pub(super) use self::{
    figures::Gauges,
    socket::{ControlSocket, OwnersOnly},
    tune::Tuner,
};
use super::MountStats;

mod admin;
mod figures;
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
            memory_bytes_max: self.tuner.memory_bytes_max(),
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
    match figures::text(&status) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Binds the address for scrapers.
pub(super) async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}
