//! Unmounting: ours and others', busy and dead ones.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
};

use super::{MountEntry, is_root, locate, mounted_at, prepare::helper};
use crate::error::{Error, ErrorKind, Result};

/// How long a mount may take to leave the table.
const GONE: Duration = Duration::from_secs(5);

/// How an unmount went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnmountOutcome {
    /// Where it was.
    pub dir: PathBuf,
    /// The store's URL.
    pub source: String,
    /// It was busy: gone from the directory, but its open files live on until they are closed.
    pub lazy: bool,
}

/// Unmounts the Springhouse mount at `dir`, whoever serves it and whether or not its daemon lives, and
/// waits until it is gone. A busy one is detached. Blocks the thread for at most a few seconds.
pub fn unmount(dir: &Path) -> Result<UnmountOutcome> {
    let path = locate(dir)?;
    let shown = path.display();
    let Some(there) = mounted_at(&path)? else {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("nothing is mounted at {shown}; findmnt lists what is"),
        ));
    };
    if !there.is_ours() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!(
                "{shown} is no springhouse mount but {} of {}; use: umount {shown}",
                there.fs_type, there.source
            ),
        ));
    }
    let lazy = if is_root() {
        match umount2(&path, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => false,
            Err(Errno::EBUSY) => {
                detach(&path)?;
                true
            }
            Err(error) => return Err(refused(&path, &error.to_string())),
        }
    } else {
        let busy = run_helper(&path, &["-u", "-q"]).is_err();
        if busy {
            run_helper(&path, &["-u", "-z"])?;
        }
        busy
    };
    wait_gone(&path, &there)?;
    Ok(UnmountOutcome { dir: path, source: there.source, lazy })
}

/// Takes what is mounted at `path` (as [`locate`] gives it) off the directory at once, busy or dead.
pub fn detach(path: &Path) -> Result<()> {
    if is_root() {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // Somebody was faster.
            Ok(()) | Err(Errno::EINVAL) => Ok(()),
            Err(error) => Err(refused(path, &error.to_string())),
        }
    } else {
        run_helper(path, &["-u", "-z"])
    }
}

/// Frees every process that waits for the mount `entry` (root only, and only where the FUSE control
/// file system is mounted): they get `ECONNABORTED`.
pub fn abort(entry: &MountEntry) -> Result<()> {
    let file = format!("/sys/fs/fuse/connections/{}/abort", entry.minor);
    fs::write(&file, "1").map_err(|error| Error::from_io(&error, file))
}

fn run_helper(path: &Path, flags: &[&str]) -> Result<()> {
    let helper = helper().ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "ordinary users unmount through fusermount3, which is not installed; install the package fuse3",
        )
    })?;
    let output = Command::new(helper)
        .args(flags)
        .arg("--")
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Error::from_io(&error, "cannot run fusermount3"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(refused(path, String::from_utf8_lossy(&output.stderr).trim()))
}

fn refused(path: &Path, reason: &str) -> Error {
    Error::new(ErrorKind::PermissionDenied, format!("cannot unmount {}: {reason}", path.display()))
}

fn wait_gone(path: &Path, entry: &MountEntry) -> Result<()> {
    let end = Instant::now() + GONE;
    while mounted_at(path)?.is_some_and(|there| there.id == entry.id) {
        if Instant::now() >= end {
            return Err(refused(path, "it is still there"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_not_ours() {
        let dir = tempfile::tempdir().expect("a directory");
        let nothing = unmount(dir.path()).expect_err("nothing there");
        assert_eq!(nothing.kind(), ErrorKind::NotFound);
        let other = unmount(Path::new("/proc")).expect_err("not ours");
        assert!(other.message().contains("use: umount /proc"), "{other}");
    }
}
