//! The control socket: one user's and root's.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::geteuid;
use springhouse_fuse::error::{Error, ErrorKind, Result};
use tokio::net::{UnixListener, UnixStream, unix};

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
    /// Binds `path` for this user only, for the mount at `dir`. What lies there of a daemon that died is
    /// replaced; the mount point is known to be free, so nobody serves it.
    pub(in crate::mount) fn bind(path: &Path, dir: &Path) -> Result<Self> {
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
    fn own_user_and_root_may_ask() {
        assert!(may_ask(1000, 1000) && may_ask(0, 1000) && may_ask(0, 0));
        assert!(!may_ask(1001, 1000) && !may_ask(1000, 0));
    }
}
