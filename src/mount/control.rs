//! The daemon's control socket: HTTP over a Unix socket. Where it is, what it says, and who asks.

use std::{
    env, fs, io,
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt, fs::MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use springhouse_fuse::{
    error::{Error, ErrorKind, Result},
    fs::FsSnapshot,
    mount::locate,
    store::Snapshot,
};
use xxhash_rust::xxh3::xxh3_64;

/// A daemon that does not answer within this is stopped or stuck.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What `GET /stats` of the control socket says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountStats {
    /// The store's URL.
    pub store: String,
    /// The mount point.
    pub dir: PathBuf,
    /// The daemon's process.
    pub pid: u32,
    /// Springhouse's version.
    pub version: String,
    /// Since the mount answered.
    pub uptime_seconds: f64,
    /// Number of the mount in the mount table.
    pub mount_id: u64,
    /// Inodes, handles, block cache.
    pub fs: FsSnapshot,
    /// What the store was asked, by operation, with bytes and latencies.
    pub store_calls: Snapshot,
}

/// The usual control socket of the mount at `dir`, which is resolved without being touched.
///
/// In `/run/springhouse` for root, else in `$XDG_RUNTIME_DIR/springhouse`, else in
/// `/tmp/springhouse-UID`.
pub fn control_socket_path(dir: &Path) -> Result<PathBuf> {
    let dir = locate(dir)?;
    Ok(runtime_dir().join(format!("mount-{:016x}.sock", xxh3_64(dir.as_os_str().as_bytes()))))
}

fn runtime_dir() -> PathBuf {
    let uid = geteuid();
    if uid.is_root() {
        return "/run/springhouse".into();
    }
    match env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute() && dir.is_dir()) {
        Some(dir) => dir.join("springhouse"),
        None => format!("/tmp/springhouse-{uid}").into(),
    }
}

/// Makes the directory of the usual sockets, for this user only, and refuses one that another user made.
pub(super) fn make_runtime_dir(socket: &Path) -> Result<()> {
    let Some(dir) = socket.parent().filter(|dir| **dir == runtime_dir()) else { return Ok(()) };
    let failed =
        |error: io::Error| Error::from_io(&error, format!("control socket directory {}", dir.display()));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let metadata = fs::symlink_metadata(dir).map_err(failed)?;
    if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() {
        return Err(Error::new(
            ErrorKind::PermissionDenied,
            format!("{} belongs to another user; name a place with --control-socket", dir.display()),
        ));
    }
    Ok(())
}

/// Speaks to a running mount daemon.
#[derive(Debug, Clone)]
pub struct ControlClient {
    socket: PathBuf,
    http: reqwest::Client,
}

impl ControlClient {
    /// The daemon behind the control socket at `socket`. Asks nothing yet.
    pub fn new(socket: impl Into<PathBuf>) -> Result<Self> {
        let socket = socket.into();
        let http = reqwest::Client::builder()
            .unix_socket(socket.as_path())
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| Error::new(ErrorKind::Other, format!("control client: {error}")))?;
        Ok(Self { socket, http })
    }

    /// The daemon that serves the mount at `dir`, at its usual socket.
    pub fn for_dir(dir: &Path) -> Result<Self> {
        Self::new(control_socket_path(dir)?)
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether the daemon answers.
    pub async fn livez(&self) -> Result<()> {
        self.get("livez").await.map(drop)
    }

    /// What the daemon did so far.
    pub async fn stats(&self) -> Result<MountStats> {
        let response = self.get("stats").await?;
        response.json().await.map_err(|error| self.failed(&error))
    }

    /// The daemon's metrics in Prometheus' text format.
    pub async fn metrics(&self) -> Result<String> {
        let response = self.get("metrics").await?;
        response.text().await.map_err(|error| self.failed(&error))
    }

    async fn get(&self, path: &str) -> Result<reqwest::Response> {
        let sent = self.http.get(format!("http://mount/{path}")).send().await;
        sent.and_then(reqwest::Response::error_for_status).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &reqwest::Error) -> Error {
        let kind = if error.is_timeout() { ErrorKind::TimedOut } else { ErrorKind::Unavailable };
        let mut cause: &dyn std::error::Error = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Error::new(kind, format!("mount daemon at {}: {cause}", self.socket.display()))
    }
}
