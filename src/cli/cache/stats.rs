//! `springhouse cache stats`.

use std::path::PathBuf;

use springhouse_fuse::cache::KeptFile;

use super::{
    super::{
        columns::Columns,
        mounts::{percent, size},
        print,
    },
    daemon_of, print_json,
};
use crate::{error::Failure, mount::MountStats};

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
        return print_json(&stats);
    }
    print(&text(&stats))
}

/// Pinned files that are listed.
const PINNED_SHOWN: usize = 20;

fn pinned_line(file: &KeptFile) -> String {
    format!("pinned {} ({})\n", file.path, size(file.bytes))
}

/// What writers left on this host; nothing where that is nothing.
fn staged_line(files: u64, bytes: u64, not_sent: u64) -> String {
    if files == 0 {
        return String::new();
    }
    let not_sent = match not_sent {
        0 => "the store has their bytes".to_owned(),
        1 => "of 1 the store has not all bytes".to_owned(),
        more => format!("of {more} the store has not all bytes"),
    };
    format!("files staged: {} ({}); {not_sent}\n", files, size(bytes))
}

fn text(stats: &MountStats) -> String {
    let cache = &stats.fs.cache;
    let mut table = Columns::new(["", "#NOW", "#MOST"]);
    let mut sizes = |name: &str, now: u64, most: u64| table.row([name.into(), size(now), size(most)]);
    sizes("blocks", cache.cached_bytes, cache.cache_bytes_max);
    sizes("read ahead", cache.readahead_bytes, cache.readahead_bytes_max);
    sizes("pinned", cache.pinned_bytes, cache.pinned_bytes_max);
    sizes("process", stats.memory_resident_bytes, stats.memory_bytes_max);
    if let Some(disk) = &cache.disk {
        sizes("on disk", disk.used_bytes, disk.bytes_max);
    }
    let hits = stats.hit_ratio().map_or_else(
        || "nothing was read yet".into(),
        |ratio| {
            format!(
                "{} of {} blocks were in memory",
                percent(ratio),
                cache.hits + cache.pinned_hits + cache.readahead_hits + cache.misses
            )
        },
    );
    let mut pinned: String = stats.pinned.iter().take(PINNED_SHOWN).map(pinned_line).collect();
    if stats.pinned.len() > PINNED_SHOWN {
        pinned.push_str(&format!("... and {} more: see --json\n", stats.pinned.len() - PINNED_SHOWN));
    }
    format!(
        "{} at {}\n{hits}\n{} reads of the store gave {}; {} of what was read ahead was not used\n{}\n{}{pinned}",
        stats.store,
        stats.dir.display(),
        cache.store_reads,
        size(cache.bytes_fetched),
        size(cache.bytes_wasted),
        staged_line(stats.fs.files_staged, stats.fs.bytes_staged, stats.fs.files_not_sent),
        table.text()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staged_files_are_told_where_there_are_some() {
        assert_eq!(staged_line(0, 0, 0), "");
        assert!(staged_line(2, 3 << 20, 0).ends_with("; the store has their bytes\n"));
        let line = staged_line(2, 3 << 20, 1);
        assert_eq!(line, format!("files staged: 2 ({}); of 1 the store has not all bytes\n", size(3 << 20)));
    }
}
