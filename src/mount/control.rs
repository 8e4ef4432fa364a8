//! The daemon's control socket: HTTP over a Unix socket. Where it is, what it says, and who asks.

use std::{
    env, fs, io,
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt, fs::MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::geteuid;
use serde::{Serialize, de::DeserializeOwned};
use springhouse_fuse::{
    error::{Error, ErrorKind, Result},
    fs::WarmProgress,
    mount::locate,
};
use xxhash_rust::xxh3::xxh3_64;

use super::api::{Hint, MountStats, Paths, Refusal};

/// A daemon that does not answer within this is stopped or stuck.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The usual control socket of the mount at `dir`, which is resolved without being touched.
///
/// In `/run/springhouse` for root, else in `$XDG_RUNTIME_DIR/springhouse`, else in
/// `/tmp/springhouse-UID`. A daemon whose socket is elsewhere puts a link there.
pub fn control_socket_path(dir: &Path) -> Result<PathBuf> {
    Ok(usual_socket(&locate(dir)?))
}

/// The same for a mount point as [`locate`] gives it.
pub(super) fn usual_socket(dir: &Path) -> PathBuf {
    runtime_dir().join(socket_name(dir))
}

fn socket_name(dir: &Path) -> String {
    format!("mount-{:016x}.sock", xxh3_64(dir.as_os_str().as_bytes()))
}

/// Where the socket of the mount at `dir` may be, whoever started it: root may ask every user's daemon.
pub(super) fn socket_candidates(dir: &Path) -> Vec<PathBuf> {
    let mut dirs = vec![runtime_dir()];
    if geteuid().is_root() {
        let entries = |dir: &str| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        dirs.extend(entries("/run/user").map(|dir| dir.join("springhouse")));
        let ours = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"springhouse-"))
        };
        dirs.extend(entries("/tmp").filter(ours));
    }
    let name = socket_name(dir);
    dirs.into_iter()
        .map(|dir| dir.join(&name))
        .filter(|socket| fs::symlink_metadata(socket).is_ok())
        .collect()
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
        self.json(self.get("stats").await?).await
    }

    /// The daemon's metrics in Prometheus' text format.
    pub async fn metrics(&self) -> Result<String> {
        let response = self.get("metrics").await?;
        response.text().await.map_err(|error| self.failed(&error))
    }

    /// Tells which trees of a database will be read next.
    pub async fn hint(&self, hint: &Hint) -> Result<()> {
        self.post("hint", hint, Some(TIMEOUT)).await.map(drop)
    }

    /// Has files read into the cache, and tells `heard` how it goes; the last report says that it ended.
    /// Dropping this stops it.
    pub async fn warm(&self, paths: &Paths, mut heard: impl FnMut(WarmProgress)) -> Result<()> {
        let mut response = self.post("warm", paths, None).await?;
        let mut rest = Vec::new();
        let mut ended = false;
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(&error))? {
            // A chunk ends anywhere.
            rest.extend_from_slice(&chunk);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = rest.drain(..=end).collect();
                let progress: WarmProgress =
                    serde_json::from_slice(&line).map_err(|error| self.odd(&error))?;
                ended = progress.ended;
                heard(progress);
            }
        }
        if ended {
            return Ok(());
        }
        let message = format!("mount daemon at {}: it ended before all was read", self.socket.display());
        Err(Error::new(ErrorKind::Unavailable, message))
    }

    async fn get(&self, path: &str) -> Result<reqwest::Response> {
        let request = self.http.get(format!("http://mount/{path}")).timeout(TIMEOUT);
        self.answer(request).await
    }

    /// `timeout`: until the last byte of the answer; `None` for answers that go on.
    async fn post(
        &self,
        path: &str,
        body: &impl Serialize,
        timeout: Option<Duration>,
    ) -> Result<reqwest::Response> {
        let mut request = self.http.post(format!("http://mount/{path}")).json(body);
        if let Some(timeout) = timeout {
            request = request.timeout(timeout);
        }
        self.answer(request).await
    }

    /// The answer, or what the daemon said against it.
    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response> {
        let response = request.send().await.map_err(|error| self.failed(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let text = response.text().await.map_err(|error| self.failed(&error))?;
        Err(serde_json::from_str::<Refusal>(&text).map_or_else(
            // An older daemon has no such path.
            |_| {
                let message = format!(
                    "mount daemon at {}: {status}; it may be of another version: mount anew to use this",
                    self.socket.display()
                );
                Error::new(ErrorKind::Unsupported, message)
            },
            Error::from,
        ))
    }

    async fn json<T: DeserializeOwned>(&self, response: reqwest::Response) -> Result<T> {
        let body = response.bytes().await.map_err(|error| self.failed(&error))?;
        serde_json::from_slice(&body).map_err(|error| self.odd(&error))
    }

    fn odd(&self, error: &serde_json::Error) -> Error {
        let message = format!(
            "mount daemon at {}: its answer is of another version ({error}); mount anew to use this",
            self.socket.display()
        );
        Error::new(ErrorKind::Unsupported, message)
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
