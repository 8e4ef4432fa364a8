//! The control socket: one user's and root's.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::geteuid;
use springhouse_fuse::error::{Error, ErrorKind, Result};
use tokio::{
    net::{UnixListener, UnixStream, unix},
    time::{Instant, sleep},
};

use super::super::control::{make_runtime_dir, usual_socket};

/// Pause after an accept that failed: there are no descriptors left, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A bound control socket, and a link to it at the usual place if it is elsewhere. Its files go when this
/// does, unless they are another daemon's by then.
#[derive(Debug)]
pub(in crate::mount) struct ControlSocket {
    path: PathBuf,
    inode: u64,
    link: Option<PathBuf>,
    pub(in crate::mount) listener: Option<UnixListener>,
}

impl ControlSocket {
    /// [`Self::bind`]; where the daemon whose mount was at `dir` before is just ending, in its turn.
    pub(in crate::mount) async fn bind_in_turn(path: &Path, dir: &Path) -> Result<Self> {
        let end = Instant::now() + ENDING_MAX;
        loop {
            match Self::bind(path, dir) {
                Err(error)
                    if error.kind() == ErrorKind::AlreadyExists
                        && path == usual_socket(dir)
                        && Instant::now() < end =>
                {
                    sleep(ENDING_POLL).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Binds `path` for this user only, for the mount at `dir`. What lies there of a daemon that died is
    /// replaced; the mount point is known to be free, so nobody serves it.
    fn bind(path: &Path, dir: &Path) -> Result<Self> {
        let failed = |error: io::Error| Error::from_io(&error, format!("control socket {}", path.display()));
        make_runtime_dir(path)?;
        sweep(&usual_socket(dir));
        match fs::symlink_metadata(path) {
            Ok(there) if std::os::unix::fs::FileTypeExt::is_socket(&there.file_type()) => {
                if let Ok(stream) = std::os::unix::net::UnixStream::connect(path) {
                    return Err(in_use(stream, path, dir));
                }
                fs::remove_file(path).map_err(failed)?;
            }
            // A link that a daemon with a socket elsewhere left.
            Ok(there) if there.is_symlink() && path == usual_socket(dir) => {
                fs::remove_file(path).map_err(failed)?;
            }
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let inode = fs::symlink_metadata(path).map_err(failed)?.ino();
        let link = link(path, dir);
        Ok(Self { path: path.into(), inode, link, listener: Some(listener) })
    }
}

/// How long the daemon that served a directory before may take to end. Who unmounts does not wait for it, and it
/// may have writes to finish.
const ENDING_MAX: Duration = Duration::from_secs(15);
const ENDING_POLL: Duration = Duration::from_millis(20);

/// Never taken from a daemon that answers, also when it was unmounted: it serves files that are open, and whoever
/// asks it about them asks here.
fn in_use(stream: std::os::unix::net::UnixStream, path: &Path, dir: &Path) -> Error {
    let peer = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream)?.peer_cred());
    let pid = peer.ok().and_then(|peer| peer.pid());
    let who = pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"));
    let shown = path.display();
    let message = if path == usual_socket(dir) {
        format!(
            "control socket {shown} is in use by {who}, whose mount was taken from {} while files of it are open; close them, or end that process",
            dir.display()
        )
    } else {
        format!("control socket {shown} is in use by {who}; name another with --control-socket")
    };
    Error::new(ErrorKind::AlreadyExists, message)
}

/// A socket without a daemon is looked at again after so long: one that is just being made does not
/// answer either.
const SWEEP_AGE: Duration = Duration::from_secs(60);

/// Removes what daemons that were killed left beside `socket`.
fn sweep(socket: &Path) {
    let Some(Ok(entries)) = socket.parent().map(fs::read_dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let ours = path.file_name().and_then(|name| name.to_str());
        if !ours.is_some_and(|name| name.starts_with("mount-") && name.ends_with(".sock")) {
            continue;
        }
        let old = fs::symlink_metadata(&path).and_then(|there| there.modified());
        let old = old.is_ok_and(|made| made.elapsed().is_ok_and(|age| age >= SWEEP_AGE));
        let dead = || {
            let refused = std::os::unix::net::UnixStream::connect(&path).err().map(|error| error.kind());
            matches!(refused, Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound))
        };
        if old && dead() {
            let _ = fs::remove_file(&path);
        }
    }
}

/// So that `springhouse mounts` and `cache` find a socket that lies somewhere else. Nothing depends on
/// it, so no failure matters.
fn link(path: &Path, dir: &Path) -> Option<PathBuf> {
    let usual = usual_socket(dir);
    let path = std::path::absolute(path).ok().filter(|path| *path != usual)?;
    make_runtime_dir(&usual).ok()?;
    match fs::symlink_metadata(&usual) {
        // Of a daemon that died: the mount point was free.
        Ok(_) => fs::remove_file(&usual).ok()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) => return None,
    }
    match std::os::unix::fs::symlink(path, &usual) {
        Ok(()) => Some(usual),
        Err(error) => {
            tracing::debug!(%error, link = %usual.display(), "`springhouse mounts` will not find the control socket");
            None
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|there| there.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
        if let Some(link) = &self.link
            && fs::read_link(link)
                .is_ok_and(|target| std::path::absolute(&self.path).is_ok_and(|p| p == target))
        {
            let _ = fs::remove_file(link);
        }
    }
}

/// Accepts connections of the daemon's own user and of root, and closes all others: the socket's mode
/// says the same, but may be changed by whoever owns its directory.
pub(in crate::mount) struct OwnersOnly(pub(in crate::mount) UnixListener);

impl axum::serve::Listener for OwnersOnly {
    type Io = UnixStream;
    type Addr = unix::SocketAddr;

    async fn accept(&mut self) -> (UnixStream, unix::SocketAddr) {
        loop {
            match self.0.accept().await {
                Ok((stream, address)) => match stream.peer_cred() {
                    Ok(peer) if may_ask(peer.uid(), geteuid().as_raw()) => return (stream, address),
                    Ok(peer) => {
                        tracing::warn!(uid = peer.uid(), "another user at the control socket: refused")
                    }
                    Err(error) => tracing::debug!(%error, "a caller at the control socket went away"),
                },
                Err(error) => {
                    tracing::warn!(%error, "the control socket takes no connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<unix::SocketAddr> {
        self.0.local_addr()
    }
}

fn may_ask(uid: u32, own: u32) -> bool {
    uid == own || uid == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_dead_daemons_left_is_swept() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let socket = |name: &str| std::os::unix::net::UnixListener::bind(at(name)).expect("a socket");
        let aged = |name: &str| {
            let times = rustix::fs::Timestamps {
                last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
                last_modification: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
            };
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(rustix::fs::CWD, at(name), &times, flags).expect("an older time");
        };
        let _alive = socket("mount-alive.sock");
        drop(socket("mount-dead.sock"));
        drop(socket("mount-young.sock"));
        drop(socket("other.sock"));
        std::os::unix::fs::symlink("/nowhere/ctl", at("mount-link.sock")).expect("a link");
        for name in ["mount-alive.sock", "mount-dead.sock", "other.sock", "mount-link.sock"] {
            aged(name);
        }
        sweep(&at("mount-own.sock"));
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .expect("a listing")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        left.sort();
        assert_eq!(left, ["mount-alive.sock", "mount-young.sock", "other.sock"]);
    }

    #[test]
    fn own_user_and_root_may_ask() {
        assert!(may_ask(1000, 1000) && may_ask(0, 1000) && may_ask(0, 0));
        assert!(!may_ask(1001, 1000) && !may_ask(1000, 0));
    }
}
