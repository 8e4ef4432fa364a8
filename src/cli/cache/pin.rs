//! `springhouse cache pin` and `unpin`.

use std::path::PathBuf;

use super::{
    super::{mounts::size, print},
    by_mount,
};
use crate::{
    error::{Exit, Failure},
    mount::{
        MountError,
        api::{Paths, Pinned},
        find,
    },
};

/// `springhouse cache pin` and `unpin`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A file is pinned as it is now: one that is replaced has to be pinned anew. The room \
    is `memory_pins`, shared with interior pages of databases. `springhouse cache stats` lists what is pinned."
)]
pub(super) struct Args {
    /// Files, and directories with all below them
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, pin: bool) -> Result<(), Failure> {
    for (entry, paths) in by_mount(&args.paths)? {
        let client = find::reach(&entry).await?;
        let body = Paths { paths, ..Paths::default() };
        let done = if pin { client.pin(&body).await? } else { client.unpin(&body).await? };
        if args.json {
            let text =
                serde_json::to_string_pretty(&done).map_err(|error| Failure::new(Exit::Internal, error))?;
            print(&format!("{text}\n"))?;
        } else if done.refused.is_none() || !done.files.is_empty() {
            print(&format!("{}: {}\n", entry.dir.display(), text(&done, pin)))?;
        }
        if let Some(refused) = done.refused {
            return Err(Failure::from(MountError::from(refused)));
        }
    }
    Ok(())
}

fn text(done: &Pinned, pin: bool) -> String {
    let bytes = done.files.iter().map(|file| file.bytes).sum();
    let what = if pin { "pinned" } else { "let go of" };
    format!("{what} {} files, {}", done.files.len(), size(bytes))
}
