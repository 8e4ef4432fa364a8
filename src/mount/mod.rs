//! The mount daemon: `springhouse mount`, its control socket, and the parent that watches it as a child.
//!
//! The daemon is a process of its own. One that serves FUSE and also waits for its own mount could not
//! even be killed; a child can, and what hangs on it is freed by detaching the mount.

pub mod api;
mod background;
mod child;
mod control;
mod daemon;
pub mod find;
mod server;
mod settings;

pub use springhouse_fuse::error::Error as MountError;

pub use self::{
    api::MountStats,
    background::{Report, detach_from_terminal, die_with, start_in_background},
    child::{MountChild, MountState},
    control::{ControlClient, control_socket_path},
    daemon::run,
    settings::MountSettings,
};
