//! `springhouse cache …`: what an operator asks of a running mount.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use springhouse_fuse::mount::MountEntry;

use super::{block_on, print_json};
use crate::{
    error::Failure,
    mount::{ControlClient, find},
};

mod advise;
mod drop;
mod pin;
mod set;
mod stats;
mod top;
mod warm;

/// `springhouse cache`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print what a mount's cache holds and how well it does
    Stats(stats::Args),
    /// Show or change settings while the mount runs
    Set(set::Args),
    /// Say what more or less memory would do
    Advise(advise::Args),
    /// List the most read files
    Top(top::Args),
    /// Read files and keep them in memory, whatever else is read
    Pin(pin::Args),
    /// Let go of pinned files
    Unpin(pin::Args),
    /// Give up what is cached of files, or all
    Drop(drop::Args),
    /// Read files and directories into the cache before anybody asks for them
    Warm(warm::Args),
}

/// Runs it.
pub fn run(args: Args) -> Result<(), Failure> {
    block_on(async move {
        match args.what {
            What::Stats(args) => stats::run(args).await,
            What::Set(args) => set::run(args).await,
            What::Advise(args) => advise::run(args).await,
            What::Top(args) => top::run(args).await,
            What::Pin(args) => pin::run(args, true).await,
            What::Unpin(args) => pin::run(args, false).await,
            What::Drop(args) => drop::run(args).await,
            What::Warm(args) => warm::run(args).await,
        }
    })
}

/// The daemon of the mount that `path` lies in, and the path below the store's root.
async fn daemon_of(path: &Path) -> Result<(MountEntry, ControlClient, String), Failure> {
    let (entry, inside) = find::resolve(path).map_err(|error| Failure::mount(&error))?;
    let client = find::reach(&entry).await?;
    Ok((entry, client, inside))
}

/// `paths` by the mount that they lie in, in the order of the first of each.
fn by_mount(paths: &[PathBuf]) -> Result<Vec<(MountEntry, Vec<String>)>, Failure> {
    let mut mounts: Vec<(MountEntry, Vec<String>)> = Vec::new();
    for path in paths {
        let (entry, inside) = find::resolve(path).map_err(|error| Failure::mount(&error))?;
        match mounts.iter_mut().find(|(other, _)| other.id == entry.id) {
            Some((_, paths)) => paths.push(inside),
            None => mounts.push((entry, vec![inside])),
        }
    }
    Ok(mounts)
}
