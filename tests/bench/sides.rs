//! Where the same files are read: the local disk, our mount, and rclone's where it is installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::harness::{
    hdfs::HdfsDir,
    mount::{Mount, is_mounted, unmount_lazily},
    process::{self, Process},
    scratch, within,
};

/// As a worker mounts, and as rclone does: everybody who may use it is one user to the store.
pub const OWN: &str = "--identity=fixed";
const READY_LIMIT: Duration = Duration::from_secs(30);

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Local,
    Ours,
    Rclone,
}

impl Side {
    /// Those that this host has.
    pub fn all() -> Vec<Self> {
        let installed = process::try_run(
            {
                let mut command = Command::new("sh");
                command.args(["-c", "command -v rclone"]);
                command
            },
            READY_LIMIT,
        );
        let rclone = installed.is_ok_and(|output| output.success());
        [Self::Local, Self::Ours].into_iter().chain(rclone.then_some(Self::Rclone)).collect()
    }
}

/// The tree of a benchmark, on the local disk and in HDFS.
pub struct Tree {
    pub local: tempfile::TempDir,
    pub dir: HdfsDir,
}

/// A place with the files, everything about them forgotten, except for the local disk: its files stay in
/// the kernel's page cache, as the DataNodes' do.
pub enum Place {
    Local(PathBuf),
    Ours(Mount),
    Rclone(Rclone),
}

impl Place {
    pub fn new(side: Side, tree: &Tree, args: &[&str]) -> Self {
        match side {
            Side::Local => Self::Local(tree.local.path().into()),
            Side::Ours => {
                let args = [&[OWN], args].concat();
                Self::Ours(Mount::with(&tree.dir.url(), &args))
            }
            Side::Rclone => Self::Rclone(Rclone::mount(&tree.dir)),
        }
    }

    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        match self {
            Self::Local(dir) => dir.join(name),
            Self::Ours(mount) => mount.file(name),
            Self::Rclone(rclone) => rclone.home.path().join("mnt").join(name),
        }
    }

    /// Resident memory of the daemon in bytes.
    pub fn memory(&mut self) -> Option<u64> {
        match self {
            Self::Local(_) => None,
            Self::Ours(mount) => Some(process::resident_bytes(mount.daemon().id())),
            Self::Rclone(rclone) => Some(process::resident_bytes(rclone.process.id())),
        }
    }
}

/// `rclone mount` with its defaults, and writes through a cache on disk, without which it cannot rename
/// over what it just wrote.
pub struct Rclone {
    process: Process,
    home: tempfile::TempDir,
}

impl Rclone {
    fn mount(dir: &HdfsDir) -> Self {
        let home = scratch();
        let point = home.path().join("mnt");
        fs::create_dir(&point).expect("a mount point");
        let namenode = dir.hdfs().url().trim_start_matches("hdfs://").to_owned();
        let mut command = Command::new("rclone");
        command
            .arg("mount")
            .arg(format!(":hdfs:{}", dir.path("")))
            .arg(&point)
            .args(["--hdfs-namenode", &namenode, "--hdfs-username", "root"])
            .args(["--vfs-cache-mode", "writes", "--config", "/dev/null"])
            .arg("--cache-dir")
            .arg(home.path().join("cache"));
        let process = Process::start("rclone", command);
        let up = within(READY_LIMIT, || is_mounted(&point).then_some(()));
        assert!(up.is_some(), "rclone does not mount\n{}", process.transcript());
        Self { process, home }
    }
}

impl Drop for Rclone {
    fn drop(&mut self) {
        let point = self.home.path().join("mnt");
        unmount_lazily(&point);
        self.process.wait(READY_LIMIT);
    }
}
