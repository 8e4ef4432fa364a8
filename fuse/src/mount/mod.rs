//! Mount points: what is mounted where, whether it answers, making ready to mount, and unmounting.
//!
//! Nothing here touches a mount that may hang, except [`probe`], which does it in a process that can be
//! left behind.

mod prepare;
mod probe;
mod table;
mod unmount;

pub use self::{
    prepare::{check_apart, check_device, prepare},
    probe::{Health, probe},
    table::{MountEntry, locate, mounted_at, parse, read_table},
    unmount::{UnmountOutcome, abort, detach, unmount},
};

/// The mount's type is `fuse.springhouse`.
pub const SUBTYPE: &str = "springhouse";

/// The type of our mounts in the mount table.
pub const FS_TYPE: &str = "fuse.springhouse";

/// Whether this process may mount by itself.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// `value` for the `-o` of fusermount3, which splits at commas.
pub(crate) fn escape_option(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,")
}
