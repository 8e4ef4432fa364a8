//! `springhouse cache top`.

use std::path::PathBuf;

use springhouse_fuse::cache::FileUse;

use super::{
    super::{
        columns::Columns,
        mounts::{percent, size},
        print,
    },
    daemon_of, print_json,
};
use crate::error::Failure;

/// `springhouse cache top`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The mount point, or a path in it
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// So many files at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    count: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let (_, client, _) = daemon_of(&args.path).await?;
    let files = client.top(args.count).await?;
    if args.json {
        return print_json(&files);
    }
    if files.is_empty() {
        return print("nothing was read yet\n");
    }
    let mut table = Columns::new(["#READS", "#HITS", "#BYTES", "FILE"]);
    for file in &files {
        table.row(row(file));
    }
    print(&table.text())
}

fn row(file: &FileUse) -> [String; 4] {
    let reads = file.hits + file.misses;
    let ratio = if reads == 0 { 0.0 } else { file.hits as f64 / reads as f64 };
    let name = file.path.clone().unwrap_or_else(|| format!("({})", file.file));
    [reads.to_string(), percent(ratio), size(file.bytes), name]
}
