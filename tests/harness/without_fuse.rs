//! A process for which this host has no FUSE, in a mount namespace of its own.

use std::{path::Path, process::Command};

/// How `/dev/fuse` is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Not there: the kernel module is not loaded, or a container was not given the device.
    Missing,
    /// There, and may not be opened: the container was given the name and no right to the device.
    Closed,
}

impl Lack {
    /// What an error line must tell to do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Missing => "--device /dev/fuse",
            // To open it is a question of its mode, or again of the container.
            Self::Closed => "/dev/fuse",
        }
    }

    /// Prepares the namespace in the empty directory `$0` and runs the rest.
    fn script(self) -> &'static str {
        match self {
            Self::Missing => {
                "mount -t tmpfs none \"$0\" && cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom \"$0\" \
                 && mount --bind \"$0\" /dev && exec \"$@\""
            }
            // No device of a file system mounted nodev may be opened, by root neither.
            Self::Closed => {
                "mount -t tmpfs -o nodev none \"$0\" && mknod \"$0/fuse\" c 10 229 \
                 && mount --bind \"$0/fuse\" /dev/fuse && exec \"$@\""
            }
        }
    }
}

/// `command` without FUSE. `dir`: of the caller's; a file system is mounted on a directory in it, which
/// the process alone sees. Needs [`Need::Namespaces`](super::need::Need::Namespaces).
pub fn without_fuse(lack: Lack, dir: &Path, command: &Command) -> Command {
    let point = dir.join("dev");
    std::fs::create_dir_all(&point).expect("a directory in the scratch directory");
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "--propagation", "private", "sh", "-c", lack.script()]).arg(point);
    inside.arg(command.get_program()).args(command.get_args());
    super::with_environment_of(command, inside)
}
