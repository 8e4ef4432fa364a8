//! `springhouse cache warm`.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

use springhouse_fuse::fs::WarmProgress;

use super::{
    super::{mounts::size, print},
    by_mount,
};
use crate::{
    error::{Exit, Failure},
    mount::{
        api::{PARALLELISM_MAX, Paths},
        find,
    },
};

/// `springhouse cache warm`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  springhouse cache warm /mnt/segments/12 /mnt/segments/hot.sqlite")]
pub(super) struct Args {
    /// Files, and directories with all below them, in one or several mounts
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Pieces of 4 MiB that are read from the store at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = parallelism)]
    parallelism: usize,
    /// Print the progress as JSON, an object a line
    #[arg(long)]
    json: bool,
}

fn parallelism(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=PARALLELISM_MAX).contains(&n) => Ok(n),
        _ => Err(format!("give a whole number from 1 to {PARALLELISM_MAX}")),
    }
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let mut failed = 0;
    for (entry, paths) in by_mount(&args.paths)? {
        let client = find::reach(&entry).await?;
        let body = Paths { paths, parallelism: Some(args.parallelism) };
        let screen = !args.json && io::stderr().is_terminal();
        let mut last = WarmProgress::default();
        client
            .warm(&body, |progress| {
                if args.json {
                    let line = serde_json::to_string(&progress).unwrap_or_default();
                    // Nobody reads it any more: the last line decides.
                    let _ = print(&format!("{line}\n"));
                } else {
                    show(&progress, screen);
                }
                last = progress;
            })
            .await?;
        failed += last.failed;
        if !args.json {
            print(&format!("{}: {}\n", entry.dir.display(), summary(&last)))?;
        }
    }
    match failed {
        0 => Ok(()),
        n => Err(Failure::new(Exit::Failed, format!("warm: {n} files or directories could not be read"))),
    }
}

/// One line that is written over; failures stay above it.
fn show(progress: &WarmProgress, screen: bool) {
    let mut out = io::stderr().lock();
    let clear = if screen { "\r\x1b[K" } else { "" };
    for failure in &progress.failures {
        let _ = writeln!(out, "{clear}{}: {}", failure.path, failure.error);
    }
    if screen {
        let line = if progress.ended { String::new() } else { summary(progress) };
        let _ = write!(out, "{clear}{line}");
        let _ = out.flush();
    }
}

fn summary(progress: &WarmProgress) -> String {
    let WarmProgress { files_done, files_found, bytes_done, bytes_found, .. } = progress;
    let mut text =
        format!("{files_done} of {files_found} files, {} of {}", size(*bytes_done), size(*bytes_found));
    if progress.failed > 0 {
        text.push_str(&format!(", {} failed", progress.failed));
    }
    text
}
