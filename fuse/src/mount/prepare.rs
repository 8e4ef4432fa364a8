//! Making a directory ready to be mounted on, or saying clearly why it cannot be.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Health, detach, is_root, locate, mounted_at, probe};
use crate::error::{Error, ErrorKind, Result};

/// How long an old mount may take to show that it is alive.
const PROBE: Duration = Duration::from_secs(2);

const DEVICE: &str = "/dev/fuse";

/// Checks that something can be mounted at `dir` and gives its resolved path. A dead mount of
/// Springhouse found there is cleared.
pub fn prepare(dir: &Path, allow_nonempty: bool) -> Result<PathBuf> {
    let path = locate(dir)?;
    while let Some(there) = mounted_at(&path)? {
        let health = probe(&path, PROBE).map_err(|error| Error::from_io(&error, path.display()))?;
        if there.is_ours() && health == Health::Dead {
            tracing::warn!(dir = %path.display(), source = there.source, "clearing the mount of a dead daemon");
            detach(&path)?;
            continue;
        }
        let what = match (there.is_ours(), health) {
            (true, Health::Hung) => "a springhouse mount that does not answer",
            (true, _) => "a springhouse mount",
            (false, _) => there.fs_type.as_str(),
        };
        let remedy = if there.is_ours() { "springhouse unmount" } else { "umount" };
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            format!(
                "mount point {0} is in use: {what} of {1}; choose another directory, or first run: {remedy} {0}",
                path.display(),
                there.source,
            ),
        ));
    }
    check_directory(&path, allow_nonempty)?;
    Ok(path)
}

fn check_directory(path: &Path, allow_nonempty: bool) -> Result<()> {
    let shown = path.display();
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::new(
            ErrorKind::NotFound,
            format!("mount point {shown} does not exist; make it with: mkdir -p {shown}"),
        ),
        _ => Error::from_io(&error, format!("mount point {shown}")),
    })?;
    if !metadata.is_dir() {
        let message = format!("mount point {shown} is not a directory; choose an empty one");
        return Err(Error::new(ErrorKind::NotADirectory, message));
    }
    let mut entries =
        fs::read_dir(path).map_err(|error| Error::from_io(&error, format!("mount point {shown}")))?;
    if !allow_nonempty && entries.next().is_some() {
        return Err(Error::new(
            ErrorKind::NotEmpty,
            format!(
                "mount point {shown} is not empty; choose an empty directory, or hide its entries with --allow-nonempty"
            ),
        ));
    }
    Ok(())
}

/// Refuses a mount at `dir` (as [`prepare`] gives it) that would cover `path`, which its own daemon works
/// in: each call there would wait for the daemon that makes it. `what` names `path` in the message.
pub fn check_apart(dir: &Path, what: &str, path: &Path) -> Result<()> {
    let absolute = std::path::absolute(path).map_err(|error| Error::from_io(&error, path.display()))?;
    // What is still to be made lies where the part of it lies that is there.
    let there = absolute.ancestors().find_map(|part| fs::canonicalize(part).ok());
    if !there.is_some_and(|there| there.starts_with(dir)) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!(
            "mount point {0} would hide the {what} {1}, which the mount itself works in; choose another directory for one of them",
            dir.display(),
            path.display(),
        ),
    ))
}

/// Checks that this user can mount at all.
pub fn check_device(allow_other: bool) -> Result<()> {
    match fs::OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                format!(
                    "no permission to open {DEVICE}; as root run: chmod 666 {DEVICE} (or add this user to its group)"
                ),
            ));
        }
        Err(_) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "no FUSE on this host ({DEVICE} cannot be opened); as root run: modprobe fuse, and in a container pass --device {DEVICE} --cap-add SYS_ADMIN"
                ),
            ));
        }
    }
    if is_root() {
        return Ok(());
    }
    if helper().is_none() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "ordinary users mount through fusermount3, which is not installed; install the package fuse3",
        ));
    }
    let allowed = || {
        fs::read_to_string("/etc/fuse.conf")
            .is_ok_and(|conf| conf.lines().any(|line| line.trim() == "user_allow_other"))
    };
    if allow_other && !allowed() {
        return Err(Error::new(
            ErrorKind::PermissionDenied,
            "an ordinary user's mount is for others only if /etc/fuse.conf has the line user_allow_other; add it, or leave --allow-other out",
        ));
    }
    Ok(())
}

/// The setuid helper that mounts and unmounts for ordinary users.
pub(super) fn helper() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/bin", "/bin", "/usr/local/bin"].map(PathBuf::from))
        .map(|dir| dir.join("fusermount3"))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(dir: &Path) -> Error {
        prepare(dir, false).expect_err("refused")
    }

    #[test]
    fn each_reason_is_one_line_with_its_remedy() {
        let dir = tempfile::tempdir().expect("a directory");
        let missing = refused(&dir.path().join("missing"));
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert!(missing.message().contains("mkdir -p"), "{missing}");
        let file = dir.path().join("file");
        fs::write(&file, "x").expect("written");
        assert_eq!(refused(&file).kind(), ErrorKind::NotADirectory);
        let full = refused(dir.path());
        assert_eq!(full.kind(), ErrorKind::NotEmpty);
        assert!(full.message().contains("--allow-nonempty"), "{full}");
        let used = refused(Path::new("/proc"));
        assert_eq!(used.kind(), ErrorKind::AlreadyExists);
        assert!(used.message().contains("umount /proc"), "{used}");
        for error in [missing, full, used] {
            assert!(!error.message().contains('\n'));
        }
        prepare(dir.path(), true).expect("allowed to hide entries");
    }

    #[test]
    fn a_mount_does_not_cover_what_its_daemon_works_in() {
        let root = tempfile::tempdir().expect("a directory");
        let store = root.path().join("store");
        fs::create_dir_all(store.join("sub")).expect("made");
        let dir = prepare(&store, true).expect("there");
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&store, &link).expect("made");
        for hidden in [&*store, &store.join("sub"), &store.join("not/made/yet"), &link.join("sub")] {
            let error = check_apart(&dir, "store", hidden).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.message().contains(&*hidden.to_string_lossy()), "{error}");
        }
        // Beside it, and above it as a store that has the mount point in it.
        for apart in [root.path(), &root.path().join("storehouse"), Path::new("/")] {
            check_apart(&dir, "store", apart).expect("nothing is hidden");
        }
    }
}
