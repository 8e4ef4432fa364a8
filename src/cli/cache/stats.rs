//! `springhouse cache stats`.

use std::path::PathBuf;

use super::{
    super::{
        columns::Columns,
        mounts::{percent, size},
        print,
    },
    daemon_of,
};
use crate::{
    error::{Exit, Failure},
    mount::MountStats,
};

/// `springhouse cache stats`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The mount point, or a path in it
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Print JSON: everything that the daemon tells
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let (_, client, _) = daemon_of(&args.path).await?;
    let stats = client.stats().await?;
    if args.json {
        let text =
            serde_json::to_string_pretty(&stats).map_err(|error| Failure::new(Exit::Internal, error))?;
        return print(&format!("{text}\n"));
    }
    print(&text(&stats))
}

fn text(stats: &MountStats) -> String {
    let cache = &stats.fs.cache;
    let mut table = Columns::new(["", "#NOW", "#MOST"]);
    let mut sizes = |name: &str, now: u64, most: u64| table.row([name.into(), size(now), size(most)]);
    sizes("blocks", cache.cached_bytes, cache.cache_bytes_max);
    sizes("read ahead", cache.readahead_bytes, cache.readahead_bytes_max);
    sizes("process", stats.memory_resident_bytes, stats.memory_bytes_max);
    table.row(["pinned pages".into(), size(cache.pinned_bytes), "-".into()]);
    let hits = stats.hit_ratio().map_or_else(
        || "nothing was read yet".into(),
        |ratio| {
            format!(
                "{} of {} blocks were in memory",
                percent(ratio),
                cache.hits + cache.readahead_hits + cache.misses
            )
        },
    );
    format!(
        "{} at {}\n{hits}\n{} reads of the store gave {}; {} of what was read ahead was not used\n\n{}",
        stats.store,
        stats.dir.display(),
        cache.store_reads,
        size(cache.bytes_fetched),
        size(cache.bytes_wasted),
        table.text()
    )
}
