//! `springhouse cache drop`.

use std::path::PathBuf;

use super::{
    super::{mounts::size, print},
    by_mount,
};
use crate::{
    error::Failure,
    mount::{api::Paths, find},
};

/// `springhouse cache drop`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    springhouse cache drop /mnt/segments/12/old.sqlite\n  \
    springhouse cache drop /mnt/segments/12       # with all below it\n  \
    springhouse cache drop /mnt/segments          # all that is in memory\n  \
    springhouse cache drop --disk /mnt/segments   # and in the cache directory, of all its users")]
pub(super) struct Args {
    /// Files, and directories with all below them; or a mount point, for all
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Of a whole mount: give up what lies in its cache directory too
    #[arg(long)]
    disk: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    for (entry, paths) in by_mount(&args.paths)? {
        let body = Paths { paths, disk: args.disk, ..Paths::default() };
        let dropped = find::reach(&entry).await?.drop_paths(&body).await?;
        let text = match args.json {
            true => serde_json::to_string(&dropped).unwrap_or_default(),
            false => format!(
                "{}: gave up {} of memory, {} of pinned pages, {} on disk",
                entry.dir.display(),
                size(dropped.ram_bytes),
                size(dropped.pinned_bytes),
                size(dropped.disk_bytes)
            ),
        };
        print(&format!("{text}\n"))?;
    }
    Ok(())
}
