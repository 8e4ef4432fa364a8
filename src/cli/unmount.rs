//! `springhouse unmount`.

use std::path::PathBuf;

use super::print;
use crate::error::Failure;

/// `springhouse unmount`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the store is mounted. The mount may be busy or dead, and another process' mount
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Unmounts and waits until the mount is gone.
pub fn run(args: Args) -> Result<(), Failure> {
    let gone = springhouse_fuse::mount::unmount(&args.dir).map_err(|error| Failure::mount(&error))?;
    let how = if gone.lazy { " (it is in use: open files end when they are closed)" } else { "" };
    print(&format!("unmounted {} from {}{how}\n", gone.source, gone.dir.display()))
}
