//! The mount daemon: `springhouse mount`, its control socket, and the parent that watches it as a child.
//!
//! The daemon is a process of its own. One that serves FUSE and also waits for its own mount could not
//! even be killed; a child can, and what hangs on it is freed by detaching the mount.

mod background;
mod child;
mod control;
mod daemon;
mod server;
mod settings;

pub use springhouse_fuse::error::Error as MountError;

pub use self::{
    background::{Report, detach_from_terminal, die_with, start_in_background},
    child::{MountChild, MountState},
    control::{ControlClient, MountStats, control_socket_path},
    daemon::run,
    settings::MountSettings,
};
