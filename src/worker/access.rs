//! Which way a worker reads its store, decided once at start.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use springhouse_fuse::{
    error::{Error, ErrorKind},
    store::StoreUrl,
};

use super::{
    Access, WorkerSettings,
    files::{DirectFiles, Mount, MountFiles},
    hints::Hints,
};
use crate::{
    mount::{MountChild, find},
    query::SegmentFiles,
};

/// How long an own mount may take until it answers.
const MOUNT_START_MAX: Duration = Duration::from_secs(30);
/// How to get FUSE, for error messages.
const REMEDY: &str = "load the kernel's fuse module and, for an ordinary user, install fuse3; in a container add --device /dev/fuse --cap-add SYS_ADMIN";

/// The way that was taken.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) files: Arc<dyn SegmentFiles>,
    /// The mount daemon, if it is this worker's.
    pub(super) child: Option<MountChild>,
    /// `fuse` or `direct`, as the lease says it.
    pub(super) name: &'static str,
}

/// Opens the way to the segments.
pub(super) async fn open(settings: &WorkerSettings) -> Result<Opened, Error> {
    #[cfg(test)]
    if let Some(files) = &settings.files {
        return Ok(Opened { files: Arc::clone(files), child: None, name: "direct" });
    }
    if let Some(dir) = &settings.mount_dir {
        if settings.access == Access::Direct {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "access is direct, but a mount is named: leave one of the two out",
            ));
        }
        return foreign(dir, &settings.store).await;
    }
    match (settings.access, &settings.store) {
        (Access::Direct, StoreUrl::File { path }) => direct(path),
        (Access::Direct, StoreUrl::Hdfs { .. }) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("{} cannot be opened directly: HDFS is read through a FUSE mount", settings.store),
        )),
        (Access::Fuse, _) => match fuse_missing() {
            Some(why) => {
                Err(Error::new(ErrorKind::Unsupported, format!("FUSE cannot be used: {why}; {REMEDY}")))
            }
            None => own(settings).await,
        },
        (Access::Auto, StoreUrl::Hdfs { .. }) => match fuse_missing() {
            Some(why) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("{} needs a FUSE mount, and FUSE cannot be used: {why}; {REMEDY}", settings.store),
            )),
            None => own(settings).await,
        },
        (Access::Auto, StoreUrl::File { path }) => {
            let why = match fuse_missing() {
                Some(why) => why,
                None => match own(settings).await {
                    Ok(opened) => return Ok(opened),
                    Err(error) => error.to_string(),
                },
            };
            tracing::warn!(
                "FUSE cannot be used: {why}. Segments of {} are opened directly, without the mount's cache. To get FUSE: {REMEDY}",
                settings.store
            );
            direct(path)
        }
    }
}

/// Why this process cannot mount, as far as can be told without trying.
fn fuse_missing() -> Option<String> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .err()
        .map(|error| format!("/dev/fuse: {error}"))
}

fn direct(path: &Path) -> Result<Opened, Error> {
    let files = DirectFiles::new(path).map_err(|e| Error::from_io(&e, path.display()))?;
    Ok(Opened { files: Arc::new(files), child: None, name: "direct" })
}

async fn own(settings: &WorkerSettings) -> Result<Opened, Error> {
    let child = MountChild::start(settings.mount.clone())?;
    if let Err(error) = child.ready(MOUNT_START_MAX).await {
        if let Err(stop) = child.stop().await {
            tracing::warn!(%stop, "the mount that did not come up could not be stopped");
        }
        return Err(error);
    }
    let hints = child.control().ok().map(Hints::start);
    let files = MountFiles::new(Mount::Own(child.state()), hints);
    Ok(Opened { files: Arc::new(files), child: Some(child), name: "fuse" })
}

async fn foreign(dir: &Path, store: &StoreUrl) -> Result<Opened, Error> {
    // Looking at a mount may block: never on the runtime's threads.
    let (given, url) = (dir.to_owned(), store.to_string());
    let dir = springhouse_gateway::blocking::run(move || check_foreign(&given, &url))
        .await
        .map_err(|_| Error::new(ErrorKind::Other, "looking at the mount failed by a defect"))??;
    // Who keeps it up may be another user, whose daemon takes none.
    let hints = match find::resolve(&dir) {
        Ok((entry, _)) => find::reach(&entry).await.ok().map(Hints::start),
        Err(_) => None,
    };
    Ok(Opened { files: Arc::new(MountFiles::new(Mount::Foreign(dir), hints)), child: None, name: "fuse" })
}

fn check_foreign(dir: &Path, store: &str) -> Result<PathBuf, Error> {
    let real = dir.canonicalize().map_err(|e| Error::from_io(&e, dir.display()))?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| Error::from_io(&e, "/proc/self/mountinfo"))?;
    let wrong = |why: String| {
        Err(Error::new(
            ErrorKind::InvalidArgument,
            format!(
                "{} {why}; mount the store there first: springhouse mount {store} {}",
                dir.display(),
                dir.display()
            ),
        ))
    };
    match mounted_at(&table, &real) {
        None => wrong("is not a mount point".into()),
        Some((kind, _)) if kind != "fuse.springhouse" => wrong(format!("is a mount of type {kind}")),
        Some((_, source)) if !same_source(&source, store) => {
            wrong(format!("is a mount of {source}, not of {store}"))
        }
        Some(_) => Ok(real),
    }
}

/// fusermount3 gets commas and backslashes escaped, and some versions leave it at that.
fn same_source(source: &str, store: &str) -> bool {
    let plain = |text: &str| text.replace('\\', "");
    plain(source) == plain(store)
}

/// File system type and source of the topmost mount exactly at `dir`, from the text of `mountinfo`.
fn mounted_at(table: &str, dir: &Path) -> Option<(String, String)> {
    table.lines().rev().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        if Path::new(&unescape(left.split(' ').nth(4)?)) != dir {
            return None;
        }
        let mut right = right.split(' ');
        Some((unescape(right.next()?), unescape(right.next()?)))
    })
}

/// Undoes the kernel's `\040` for blanks, tabs, newlines and backslashes.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        let code = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 0:20 / / rw - ext4 /dev/sda rw
30 22 0:40 / /mnt/a\\040b ro,nosuid - fuse.springhouse file:///srv/a\\040b ro
31 22 0:41 / /mnt/x rw - fuse.springhouse hdfs://old/ ro
32 22 0:42 / /mnt/x rw - fuse.springhouse hdfs://new/ ro";

    #[test]
    fn mountinfo() {
        let at = |dir: &str| mounted_at(TABLE, Path::new(dir));
        assert_eq!(at("/mnt/a b"), Some(("fuse.springhouse".into(), "file:///srv/a b".into())));
        assert_eq!(at("/mnt/x"), Some(("fuse.springhouse".into(), "hdfs://new/".into())), "the topmost");
        assert_eq!(at("/mnt"), None);
        assert!(same_source("file:///a\\\\,b", "file:///a\\,b"));
    }

    fn settings(store: &str, access: Access) -> WorkerSettings {
        WorkerSettings {
            access,
            ..WorkerSettings::new("w", store.parse().expect(store), "http://x", "/nowhere")
        }
    }

    #[tokio::test]
    async fn what_cannot_be_is_told_with_its_remedy() {
        let error = open(&settings("hdfs://nn/a", Access::Direct)).await.expect_err("HDFS directly");
        assert!(error.to_string().contains("through a FUSE mount"), "{error}");
        let mut given = settings("file:///tmp", Access::Auto);
        given.mount_dir = Some("/".into());
        let error = open(&given).await.expect_err("not our mount");
        assert!(error.to_string().contains("springhouse mount file:///tmp"), "{error}");
        given.access = Access::Direct;
        assert!(open(&given).await.expect_err("both").to_string().contains("leave one"));
        let error = open(&settings("file:///no/such/dir", Access::Direct)).await.expect_err("missing");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}
