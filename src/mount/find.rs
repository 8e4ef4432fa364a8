//! Which mounts this host has, and how to speak to their daemons. Never touches a mount: what a path
//! leads to is found in the mount table.

use std::{
    ffi::OsString,
    fs, io,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use springhouse_fuse::{
    error::{Error, ErrorKind, Result},
    mount::{Health, MountEntry, is_root, probe, read_table},
};
use tokio::net::UnixStream;

use super::{ControlClient, MountStats, control::socket_candidates};

/// How long a daemon may take to answer before it counts as silent.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// As many symbolic links as the kernel follows.
const LINKS_MAX: usize = 40;

/// What became of a mount's daemon.
#[derive(Debug, Clone, PartialEq)]
pub enum Daemon {
    /// It says this of itself.
    Answers(Box<MountStats>),
    /// The mount works, but its control socket does not answer: another user's, most likely.
    Unreachable,
    /// Neither the control socket nor the mount answers; who listens at the socket, if it can be seen.
    Hangs(Option<u32>),
    /// The daemon is gone; the mount gives errors only.
    Dead,
}

/// The mounts of Springhouse that this process sees and that no other mount hides, in the order of
/// mounting.
pub fn list() -> Result<Vec<MountEntry>> {
    let table = read_table()?;
    let seen = |entry: &MountEntry| {
        table.iter().rev().find(|other| other.dir == entry.dir).is_some_and(|top| top.id == entry.id)
    };
    Ok(table.iter().filter(|entry| entry.is_ours() && seen(entry)).cloned().collect())
}

/// Asks the daemon of a mount how it is; takes a few seconds if it hangs.
pub async fn ask(entry: &MountEntry) -> Daemon {
    for socket in socket_candidates(&entry.dir) {
        let Ok(client) = ControlClient::new(socket) else { continue };
        // Another mount may have been there when the socket was made.
        if let Ok(Ok(stats)) = tokio::time::timeout(ANSWER_MAX, client.stats()).await
            && stats.mount_id == entry.id
        {
            return Daemon::Answers(Box::new(stats));
        }
    }
    let dir = entry.dir.clone();
    match tokio::task::spawn_blocking(move || probe(&dir, ANSWER_MAX)).await {
        Ok(Ok(Health::Alive)) => Daemon::Unreachable,
        Ok(Ok(Health::Dead)) => Daemon::Dead,
        Ok(Ok(Health::Hung) | Err(_)) | Err(_) => Daemon::Hangs(listener(&entry.dir).await),
    }
}

/// The process that listens at the control socket of the mount at `dir`: the kernel knows it, also of one
/// that is stopped.
async fn listener(dir: &Path) -> Option<u32> {
    for socket in socket_candidates(dir) {
        let peer = UnixStream::connect(socket).await.and_then(|stream| stream.peer_cred());
        if let Some(pid) = peer.ok().and_then(|peer| u32::try_from(peer.pid()?).ok()) {
            return Some(pid);
        }
    }
    None
}

/// Speaks to the daemon of a mount, or says why nobody can.
pub async fn reach(entry: &MountEntry) -> Result<ControlClient> {
    let shown = entry.dir.display();
    let mut refused = None;
    for socket in socket_candidates(&entry.dir) {
        let client = ControlClient::new(socket)?;
        match client.stats().await {
            Ok(stats) if stats.mount_id == entry.id => return Ok(client),
            Ok(_) => {}
            Err(error) => refused = Some(error),
        }
    }
    let silent = |error: Error| {
        let message = format!(
            "the mount at {shown} does not answer: {}; `springhouse mounts` says whether its daemon is stopped \
             or gone",
            error.message()
        );
        Error::new(error.kind(), message)
    };
    Err(refused.map(silent).unwrap_or_else(|| {
        // Root may ask every daemon: one without a socket has lost it.
        let kind = if is_root() { ErrorKind::Unavailable } else { ErrorKind::PermissionDenied };
        Error::new(
            kind,
            format!(
                "the mount at {shown} has no control socket that this user may ask; run as the user who \
                 mounted it or as root, and see `springhouse mounts`"
            ),
        )
    }))
}

/// The mount that `path` lies in, and the path below its store's root. Symbolic links on the way to the
/// mount are followed; nothing inside of it is looked at.
pub fn resolve(path: &Path) -> Result<(MountEntry, String)> {
    let mounts = list()?;
    let shown = path.display();
    let absolute = std::path::absolute(path).map_err(|error| Error::from_io(&error, shown.to_string()))?;
    match inside(&absolute, &mounts)? {
        Some((entry, rest)) => {
            let rest = rest.into_os_string().into_string().map_err(|_| {
                Error::new(
                    ErrorKind::InvalidArgument,
                    format!("{shown} is not UTF-8: no store has such a name"),
                )
            })?;
            Ok((entry, format!("/{rest}")))
        }
        None => {
            let known: Vec<_> = mounts.iter().map(|entry| entry.dir.display().to_string()).collect();
            let hint = match known.is_empty() {
                true => "this host has none; start one with: springhouse mount URL DIR".to_owned(),
                false => format!("give one of {}, or a path in it", known.join(", ")),
            };
            Err(Error::new(ErrorKind::NotFound, format!("{shown} lies in no springhouse mount; {hint}")))
        }
    }
}

/// Walks `absolute` from the root; stops at the first mount of ours.
fn inside(absolute: &Path, mounts: &[MountEntry]) -> Result<Option<(MountEntry, PathBuf)>> {
    let mut links = 0;
    let mut todo = parts(absolute);
    let mut at = PathBuf::from("/");
    loop {
        if let Some(entry) = mounts.iter().find(|entry| entry.dir == at) {
            return Ok(Some((entry.clone(), below(todo))));
        }
        let Some(next) = todo.pop() else { return Ok(None) };
        if next == ".." {
            at.pop();
            continue;
        }
        let here = at.join(&next);
        if mounts.iter().any(|entry| entry.dir == here) {
            at = here;
            continue;
        }
        match fs::read_link(&here) {
            Ok(target) if links < LINKS_MAX => {
                links += 1;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                todo.extend(parts(&target));
            }
            Ok(_) => {
                let message = format!("{} leads in a circle of links", absolute.display());
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
            // No link, or nothing: the table decides.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Error::from_io(&error, here.display().to_string()));
            }
            Err(_) => at = here,
        }
    }
}

/// Names of a path, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut names: Vec<_> = names.collect();
    names.reverse();
    names
}

/// The rest of a path inside of a mount, taken as it is written: a store has no links.
fn below(mut todo: Vec<OsString>) -> PathBuf {
    let mut path = PathBuf::new();
    while let Some(name) = todo.pop() {
        if name == ".." {
            path.pop();
        } else {
            path.push(name);
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(dir: &Path) -> MountEntry {
        MountEntry {
            id: 1,
            minor: 1,
            dir: dir.into(),
            fs_type: "fuse.springhouse".into(),
            source: "file:///x".into(),
        }
    }

    #[test]
    fn a_path_is_found_through_links_and_without_a_look_inside() {
        let home = tempfile::tempdir().expect("a directory");
        let home = fs::canonicalize(home.path()).expect("it exists");
        fs::create_dir(home.join("mnt")).expect("made");
        std::os::unix::fs::symlink("mnt", home.join("link")).expect("linked");
        std::os::unix::fs::symlink(home.join("link"), home.join("far")).expect("linked");
        std::os::unix::fs::symlink("round", home.join("round")).expect("linked");
        let mounts = [mount(&home.join("mnt"))];
        let find = |path: &str| {
            inside(&home.join(path), &mounts).map(|found| found.map(|(_, rest)| rest.display().to_string()))
        };
        for (path, rest) in [
            ("mnt", Some("")),
            ("mnt/", Some("")),
            ("mnt/a/b.sqlite", Some("a/b.sqlite")),
            ("mnt/a/../../../b", Some("b")),
            ("link/a", Some("a")),
            ("far/a", Some("a")),
            ("other/../mnt/x", Some("x")),
            ("mnt2/a", None),
            ("", None),
        ] {
            assert_eq!(find(path).expect("found or not").as_deref(), rest, "{path}");
        }
        assert!(find("round/a").is_err());
    }

    #[test]
    fn a_path_outside_is_told_with_what_there_is() {
        let error = resolve(Path::new("/proc/self")).expect_err("no mount of ours");
        assert!(error.message().contains("/proc/self lies in no springhouse mount; "), "{error}");
    }
}
