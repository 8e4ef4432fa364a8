//! What a scraper gets: the counters of all parts, sizes as they are when somebody asks, and the most read
//! files.

use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts, Registry, Result, TextEncoder};
use springhouse_fuse::{cache::FileUse, disk::DiskSnapshot};

use super::{super::MountStats, Status};

/// Files that have series of their own: the most read ones. A bound for whoever keeps the series.
const FILES_SHOWN: usize = 20;

/// Which size a gauge shows.
type SizeOf = fn(&MountStats) -> u64;

/// Sizes, set when somebody asks; and what was said at the control socket.
#[derive(Debug)]
pub(in crate::mount) struct Gauges {
    all: Vec<(IntGauge, SizeOf)>,
    /// Hints about databases that are open.
    pub(super) hints: IntCounter,
}

/// Name, help, figure.
type Size = (&'static str, &'static str, SizeOf);

const SIZES: [Size; 17] = [
    ("springhouse_mount_inodes", "Inodes that the kernel holds", |s| s.fs.inodes as u64),
    ("springhouse_mount_open_files", "Open file handles", |s| s.fs.open_files as u64),
    ("springhouse_mount_files_written", "Files that are being written", |s| s.fs.files_written as u64),
    ("springhouse_mount_write_bytes", "Bytes written that are on their way to the store", |s| {
        s.fs.bytes_on_their_way
    }),
    ("springhouse_staging_files", "Files with a copy in the staging area", |s| s.fs.files_staged),
    ("springhouse_staging_bytes", "Room that they take", |s| s.fs.bytes_staged),
    ("springhouse_staging_files_not_sent", "Those of them whose bytes the store has not", |s| {
        s.fs.files_not_sent
    }),
    ("springhouse_mount_memory_bytes", "Memory of the daemon", |s| s.memory_resident_bytes),
    ("springhouse_mount_memory_bytes_max", "Its bound", |s| s.memory_bytes_max),
    ("springhouse_cache_bytes", "Bytes of cached blocks", |s| s.fs.cache.cached_bytes),
    ("springhouse_cache_bytes_max", "Bound of the block cache", |s| s.fs.cache.cache_bytes_max),
    ("springhouse_readahead_bytes", "Bytes of readahead buffers", |s| s.fs.cache.readahead_bytes),
    ("springhouse_readahead_bytes_max", "Bound of the readahead buffers", |s| s.fs.cache.readahead_bytes_max),
    ("springhouse_pinned_bytes", "Bytes of pinned pages and files", |s| s.fs.cache.pinned_bytes),
    ("springhouse_pinned_bytes_max", "Bound of what is pinned", |s| s.fs.cache.pinned_bytes_max),
    ("springhouse_cache_in_flight", "Store reads of the cache under way", |s| s.fs.cache.in_flight),
    ("springhouse_cache_in_flight_bytes", "Bytes of reads that somebody waits for", |s| {
        s.fs.cache.in_flight_bytes
    }),
];

/// Only of a mount with a cache directory.
const DISK_SIZES: [Size; 3] = [
    ("springhouse_disk_cache_bytes", "Bytes in the cache directory", |s| disk(s, |disk| disk.used_bytes)),
    ("springhouse_disk_cache_bytes_max", "Their bound", |s| disk(s, |disk| disk.bytes_max)),
    ("springhouse_disk_cache_queued_bytes", "Bytes that wait to be written there", |s| {
        disk(s, |disk| disk.queued_bytes)
    }),
];

fn disk(stats: &MountStats, figure: fn(&DiskSnapshot) -> u64) -> u64 {
    stats.fs.cache.disk.as_ref().map_or(0, figure)
}

impl Gauges {
    /// `disk`: whether the mount has a cache directory.
    pub(in crate::mount) fn new(registry: &Registry, disk: bool) -> Result<Self> {
        let sizes = SIZES.into_iter().chain(DISK_SIZES.into_iter().filter(|_| disk));
        let all = sizes.map(|(name, help, size)| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok((gauge, size))
        });
        let all = all.collect::<Result<_>>()?;
        let hints = IntCounter::new(
            "springhouse_mount_hints_total",
            "Hints of what queries are about to read that were of use",
        )?;
        registry.register(Box::new(hints.clone()))?;
        Ok(Self { all, hints })
    }
}

/// Everything, in Prometheus' text format.
pub(super) fn text(status: &Status) -> Result<String> {
    let stats = status.stats();
    for (gauge, size) in &status.gauges.all {
        gauge.set(i64::try_from(size(&stats)).unwrap_or(i64::MAX));
    }
    let mut families = status.registry.gather();
    families.extend(most_read(&status.fs.top_files(FILES_SHOWN))?.gather());
    TextEncoder::new().encode_to_string(&families)
}

/// A registry for one answer: a file that is not among the most read any more has no series then.
fn most_read(files: &[FileUse]) -> Result<Registry> {
    let registry = Registry::new();
    let vec = |name: &str, help: &str, labels: &[&str]| {
        let vec = IntGaugeVec::new(Opts::new(name, help), labels)?;
        registry.register(Box::new(vec.clone()))?;
        Ok::<_, prometheus::Error>(vec)
    };
    let reads =
        vec("springhouse_file_reads", "Reads of the most read files, by result", &["file", "result"])?;
    let bytes = vec("springhouse_file_bytes", "Bytes given to readers of the most read files", &["file"])?;
    for FileUse { file, path, hits, misses, bytes: given, .. } in files {
        let name = path.as_deref().unwrap_or(file);
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        // Two generations of a path are one series.
        reads.with_label_values(&[name, "hit"]).add(number(*hits));
        reads.with_label_values(&[name, "miss"]).add(number(*misses));
        bytes.with_label_values(&[name]).add(number(*given));
    }
    Ok(registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_of_a_file_are_one_series() {
        let file = |file: &str, path: Option<&str>, hits: u64| FileUse {
            file: file.into(),
            path: path.map(str::to_owned),
            hits,
            misses: 1,
            bytes: 10,
            error_max: 0,
        };
        let files = [file("aa", Some("/x \"y\""), 3), file("bb", Some("/x \"y\""), 4), file("cc", None, 5)];
        let families = most_read(&files).expect("metrics").gather();
        let text = TextEncoder::new().encode_to_string(&families).expect("text");
        for line in [
            "springhouse_file_reads{file=\"/x \\\"y\\\"\",result=\"hit\"} 7",
            "springhouse_file_reads{file=\"/x \\\"y\\\"\",result=\"miss\"} 2",
            "springhouse_file_reads{file=\"cc\",result=\"hit\"} 5",
            "springhouse_file_bytes{file=\"/x \\\"y\\\"\"} 20",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
    }
}
