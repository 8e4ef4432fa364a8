//! What the disk cache did since start.

use prometheus::{IntCounter, Registry, core::Collector};
use serde::{Deserialize, Serialize};

#[derive(Debug)]
pub(super) struct DiskCounters {
    pub(super) hits: IntCounter,
    pub(super) misses: IntCounter,
    pub(super) bytes_read: IntCounter,
    pub(super) bytes_written: IntCounter,
    pub(super) writes_dropped: IntCounter,
    pub(super) evictions: IntCounter,
    pub(super) bytes_evicted: IntCounter,
    pub(super) corrupt: IntCounter,
    pub(super) errors: IntCounter,
}

/// The figures of a disk cache at one moment; counts are of this process, `used_bytes` of all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskSnapshot {
    /// Blocks found.
    pub hits: u64,
    /// Blocks looked for and not found.
    pub misses: u64,
    /// Bytes of the blocks found.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Writes given up: the disk did not keep up, is full, or has failed lately.
    pub writes_dropped: u64,
    /// Segments given up for lack of room.
    pub evictions: u64,
    /// Their bytes.
    pub bytes_evicted: u64,
    /// Blocks dropped because their checksum was wrong.
    pub corrupt: u64,
    /// Reads and writes of the disk that failed.
    pub errors: u64,
    /// Bytes that lie in the directory or are promised to a process.
    pub used_bytes: u64,
    /// Bound of `used_bytes`.
    pub bytes_max: u64,
    /// Bytes that wait to be written.
    pub queued_bytes: u64,
    /// Whether writes are stopped after an error of the disk.
    pub paused: bool,
}

impl DiskCounters {
    pub(super) fn new() -> prometheus::Result<Self> {
        let counter =
            |name: &str, help: &str| IntCounter::new(format!("springhouse_disk_cache_{name}_total"), help);
        Ok(Self {
            hits: counter("hits", "Blocks found in the disk cache")?,
            misses: counter("misses", "Blocks not found in the disk cache")?,
            bytes_read: counter("read_bytes", "Bytes of blocks found in the disk cache")?,
            bytes_written: counter("written_bytes", "Bytes written to the disk cache")?,
            writes_dropped: counter("writes_dropped", "Writes that the disk cache gave up")?,
            evictions: counter("evictions", "Segments given up by the disk cache for lack of room")?,
            bytes_evicted: counter("evicted_bytes", "Bytes given up by the disk cache for lack of room")?,
            corrupt: counter("corrupt", "Blocks of the disk cache whose checksum was wrong")?,
            errors: counter("errors", "Failed reads and writes of the disk cache's disk")?,
        })
    }

    pub(super) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        [
            &self.hits,
            &self.misses,
            &self.bytes_read,
            &self.bytes_written,
            &self.writes_dropped,
            &self.evictions,
            &self.bytes_evicted,
            &self.corrupt,
            &self.errors,
        ]
        .into_iter()
        .try_for_each(|counter| registry.register(Box::new(counter.clone()) as Box<dyn Collector>))
    }
}
