//! Answers at the control socket, and at a TCP address for scrapers.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{IntGauge, Registry, TextEncoder};
use springhouse_fuse::{
    error::{Error, ErrorKind, Result},
    fs::FileSystem,
    store::OpenedStore,
};
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::Handle,
};

use super::{MountStats, control::make_runtime_dir};

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
    /// Runs what the kernel asks.
    pub(super) io: Handle,
}

/// Which size a gauge shows.
type SizeOf = fn(&MountStats) -> u64;

/// Sizes, set when somebody asks.
#[derive(Debug)]
pub(super) struct Gauges {
    all: Vec<(IntGauge, SizeOf)>,
}

impl Gauges {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        type Size = (&'static str, &'static str, SizeOf);
        let sizes: [Size; 6] = [
            ("springhouse_mount_inodes", "Inodes that the kernel holds", |s| s.fs.inodes as u64),
            ("springhouse_mount_open_files", "Open file handles", |s| s.fs.open_files as u64),
            ("springhouse_cache_bytes", "Bytes of cached blocks", |s| s.fs.cache.cached_bytes),
            ("springhouse_cache_bytes_max", "Bound of the block cache", |s| s.fs.cache.cache_bytes_max),
            ("springhouse_readahead_bytes", "Bytes of readahead buffers", |s| s.fs.cache.readahead_bytes),
            ("springhouse_cache_in_flight", "Store reads of the cache under way", |s| s.fs.cache.in_flight),
        ];
        let mut all = Vec::with_capacity(sizes.len());
        for (name, help, size) in sizes {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            all.push((gauge, size));
        }
        Ok(Self { all })
    }
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
            fs: self.fs.snapshot(),
            store_calls: self.store.counters.snapshot(),
        }
    }
}

/// `/livez`, `/stats`, `/metrics`.
pub(super) fn router(status: Arc<Status>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/stats", get(async |State(status): State<Arc<Status>>| Json(status.stats())))
        .route("/metrics", get(metrics))
        .with_state(status)
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

/// A bound control socket. Its file goes when this does, unless it is another daemon's by then.
#[derive(Debug)]
pub(super) struct ControlSocket {
    path: PathBuf,
    inode: u64,
    pub(super) listener: Option<UnixListener>,
}

impl ControlSocket {
    /// Binds `path` for this user only. What lies there of a daemon that died is replaced; the mount
    /// point is known to be free, so nobody serves it.
    pub(super) fn bind(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| Error::from_io(&error, format!("control socket {}", path.display()));
        make_runtime_dir(path)?;
        match fs::symlink_metadata(path) {
            Ok(there) if std::os::unix::fs::FileTypeExt::is_socket(&there.file_type()) => {
                if std::os::unix::net::UnixStream::connect(path).is_ok() {
                    return Err(Error::new(
                        ErrorKind::AlreadyExists,
                        format!(
                            "control socket {} is in use; name another with --control-socket",
                            path.display()
                        ),
                    ));
                }
                fs::remove_file(path).map_err(failed)?;
            }
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let inode = fs::symlink_metadata(path).map_err(failed)?.ino();
        Ok(Self { path: path.into(), inode, listener: Some(listener) })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|there| there.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds the address for scrapers.
pub(super) async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}
