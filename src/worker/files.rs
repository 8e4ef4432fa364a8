//! The two ways to a segment's file: through a mount, and directly in a local store.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use springhouse_fuse::{
    fs::XATTR_GENERATION,
    store::{Generation, generation_of},
};
use springhouse_gateway::api::error::{ApiError, ErrorCode};
use tokio::sync::watch;

use super::hints::Hints;
use crate::{
    mount::MountState,
    query::{Content, OpenFile, SegmentFiles, from_io, replaced},
};

/// Neither follows a link in place of the file nor waits for the writer of a FIFO.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn no_file() -> ApiError {
    from_io(&io::ErrorKind::NotFound.into())
}

/// A `file://` store, opened at its own path.
#[derive(Debug)]
pub(super) struct DirectFiles {
    root: PathBuf,
}

impl DirectFiles {
    /// The store below `root`, which may be behind symbolic links; nothing below it may.
    pub(super) fn new(root: &Path) -> io::Result<Self> {
        Ok(Self { root: root.canonicalize()? })
    }
}

impl SegmentFiles for DirectFiles {
    fn epoch(&self) -> Result<u64, ApiError> {
        Ok(0)
    }

    fn open(&self, path: &str) -> Result<OpenFile, ApiError> {
        let path = below(&self.root, path);
        let file = open(&path).map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => no_file(), // a link: no segment
            _ => from_io(&error),
        })?;
        let metadata = file.metadata().map_err(|e| from_io(&e))?;
        if !metadata.is_file() {
            return Err(no_file());
        }
        let (generation, len) = (generation_of(&metadata), metadata.len());
        Ok(OpenFile { path, generation, content: Content::Fixed { len, file } })
    }

    fn generation(&self, path: &str) -> Result<Generation, ApiError> {
        let metadata = below(&self.root, path).symlink_metadata().map_err(|e| from_io(&e))?;
        Ok(generation_of(&metadata))
    }

    /// Whoever writes into a file in place changes it under those who read it; the kernel notes the
    /// time of that before the bytes.
    fn verify(&self, path: &str, generation: Generation) -> Result<(), ApiError> {
        if self.generation(path)? == generation { Ok(()) } else { Err(replaced()) }
    }

    fn exists(&self, path: &str) -> Result<bool, ApiError> {
        exists(&below(&self.root, path))
    }
}

/// A store behind its mount.
#[derive(Debug)]
pub(super) struct MountFiles {
    mount: Mount,
    /// `None`: nobody takes them.
    hints: Option<Hints>,
}

/// Who keeps the mount up.
#[derive(Debug)]
pub(super) enum Mount {
    /// A child of this process.
    Own(watch::Receiver<MountState>),
    /// Somebody else; it is taken to be up, and reads tell when it is not.
    Foreign(PathBuf),
}

impl MountFiles {
    pub(super) fn new(mount: Mount, hints: Option<Hints>) -> Self {
        Self { mount, hints }
    }

    fn root(&self) -> Result<PathBuf, ApiError> {
        match &self.mount {
            Mount::Foreign(dir) => Ok(dir.clone()),
            Mount::Own(state) => match &*state.borrow() {
                MountState::Ready { dir, .. } => Ok(dir.clone()),
                MountState::Starting => Err(down("it is starting")),
                MountState::Down { reason } => Err(down(reason)),
            },
        }
    }
}

fn down(why: &str) -> ApiError {
    ApiError::new(ErrorCode::StoreUnavailable, format!("the worker's mount is down: {why}"))
}

impl SegmentFiles for MountFiles {
    fn epoch(&self) -> Result<u64, ApiError> {
        match &self.mount {
            Mount::Foreign(_) => Ok(0),
            Mount::Own(state) => match &*state.borrow() {
                MountState::Ready { epoch, .. } => Ok(*epoch),
                MountState::Starting => Err(down("it is starting")),
                MountState::Down { reason } => Err(down(reason)),
            },
        }
    }

    fn open(&self, path: &str) -> Result<OpenFile, ApiError> {
        let path = below(&self.root()?, path);
        let file = open(&path).map_err(|e| from_io(&e))?;
        let metadata = file.metadata().map_err(|e| from_io(&e))?;
        if !metadata.is_file() {
            return Err(no_file());
        }
        let generation = read_generation(|buffer| rustix::fs::fgetxattr(&file, XATTR_GENERATION, buffer))?;
        Ok(OpenFile { path, generation, content: Content::Fixed { len: metadata.len(), file } })
    }

    fn generation(&self, path: &str) -> Result<Generation, ApiError> {
        let path = below(&self.root()?, path);
        read_generation(|buffer| rustix::fs::lgetxattr(&path, XATTR_GENERATION, buffer))
    }

    /// The mount's inodes are generations: reading one that was replaced gives its bytes or ESTALE.
    fn verify(&self, _: &str, _: Generation) -> Result<(), ApiError> {
        Ok(())
    }

    fn exists(&self, path: &str) -> Result<bool, ApiError> {
        exists(&below(&self.root()?, path))
    }

    fn takes_hints(&self) -> bool {
        self.hints.is_some()
    }

    fn hint(&self, path: &str, generation: Generation, roots: &[u32]) {
        if let Some(hints) = &self.hints
            && let Ok(epoch) = self.epoch()
        {
            hints.tell(path, generation, epoch, roots);
        }
    }
}

fn read_generation(
    read: impl FnOnce(&mut [u8]) -> Result<usize, rustix::io::Errno>,
) -> Result<Generation, ApiError> {
    let mut buffer = [0; 64];
    let len = match read(&mut buffer) {
        Ok(len) => len,
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => 0,
        Err(errno) => return Err(from_io(&errno.into())),
    };
    std::str::from_utf8(&buffer[..len]).ok().and_then(Generation::parse).ok_or_else(|| {
        ApiError::new(
            ErrorCode::Internal,
            format!("the mount gives no {XATTR_GENERATION}: it is not one of this version of Springhouse"),
        )
    })
}

fn exists(path: &Path) -> Result<bool, ApiError> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(from_io(&error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_regular_files_are_segments() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("a.sqlite"), b"x").expect("write");
        symlink(dir.path().join("a.sqlite"), dir.path().join("link.sqlite")).expect("link");
        std::fs::create_dir(dir.path().join("d.sqlite")).expect("mkdir");
        let files = DirectFiles::new(dir.path()).expect("a root");
        let opened = files.open("/a.sqlite").expect("a file");
        assert!(matches!(opened.content, Content::Fixed { len: 1, .. }));
        assert_eq!(files.generation("/a.sqlite"), Ok(opened.generation));
        for bad in ["/link.sqlite", "/d.sqlite", "/none.sqlite", "/none/a.sqlite", "/a.sqlite/b.sqlite"] {
            let error = files.open(bad).expect_err(bad);
            assert_eq!(error.code, ErrorCode::SegmentNotFound, "{bad}: {error}");
            assert!(!error.message.contains(dir.path().to_str().expect("UTF-8")), "{error}");
        }
        assert_eq!(files.verify("/a.sqlite", opened.generation), Ok(()));
        std::fs::write(dir.path().join("a.sqlite"), b"xy").expect("write");
        let changed = files.verify("/a.sqlite", opened.generation).expect_err("written in place");
        assert_eq!(changed.code, ErrorCode::SegmentReplaced);
        assert_ne!(files.generation("/a.sqlite"), Ok(opened.generation));
        assert_eq!(files.exists("/a.sqlite"), Ok(true));
        assert_eq!(files.exists("/a.sqlite-wal"), Ok(false));
    }

    #[test]
    fn a_directory_that_is_no_mount_of_ours_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("a.sqlite"), b"x").expect("write");
        let files = MountFiles::new(Mount::Foreign(dir.path().into()), None);
        let error = files.open("/a.sqlite").expect_err("no attribute");
        assert!(error.message.contains("user.springhouse.generation"), "{error}");
    }

    #[test]
    fn a_mount_that_is_down_says_why_and_to_try_again() {
        let (sender, state) = watch::channel(MountState::Starting);
        let files = MountFiles::new(Mount::Own(state), None);
        assert!(files.epoch().expect_err("starting").retry);
        sender.send_replace(MountState::Down { reason: "killed".into() });
        let error = files.open("/a.sqlite").expect_err("down");
        assert_eq!(error.code, ErrorCode::StoreUnavailable);
        assert!(error.message.contains("killed"), "{error}");
        sender.send_replace(MountState::Ready { dir: "/nonexistent".into(), epoch: 7 });
        assert_eq!(files.epoch(), Ok(7));
    }
}
