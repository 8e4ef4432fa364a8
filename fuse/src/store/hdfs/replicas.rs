//! What became of each replica in a read, heard from the HDFS client's log.
//!
//! To its caller the client says only that all DataNodes of an HDFS block have failed, whether they were
//! silent (try again) or their bytes wrong (`EIO`). Its log says which, line by line, while the read is
//! polled. Should its words change, or somebody else own the process's log, nothing is heard, and a
//! corrupt block ends at the deadline: the safe side.

use std::cell::Cell;

use log::{Level, LevelFilter, Log, Metadata, Record};

/// Replicas of one HDFS block that failed, by how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Failed {
    /// Its bytes do not match their checksums.
    pub(super) corrupt: usize,
    /// Its DataNode answered that it has none, or cannot read it.
    pub(super) refused: usize,
    /// Its DataNode did not answer, or not to the end.
    pub(super) silent: usize,
}

tokio::task_local! {
    static FAILED: Cell<Failed>;
}

/// Runs `read`, within which [`take`] tells what failed.
pub(super) async fn observe<T>(read: impl Future<Output = T>) -> T {
    FAILED.scope(Cell::default(), read).await
}

/// What has failed in this read since the last call.
pub(super) fn take() -> Failed {
    FAILED.try_with(Cell::take).unwrap_or_default()
}

/// Listens to the client's log from now on, and passes its warnings on to ours.
pub(super) fn listen() {
    static LISTENER: Listener = Listener;
    // An error: this process has a logger, perhaps this one from another store.
    if log::set_logger(&LISTENER).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

struct Listener;

impl Log for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn && metadata.target().starts_with("hdfs_native")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = record.args().to_string();
        // Not as a warning of ours: the read goes on, and what comes of it is told by its outcome.
        tracing::debug!(target: "hdfs_native", "{line}");
        let _ = FAILED.try_with(|failed| {
            let mut now = failed.get();
            hear(&mut now, &line);
            failed.set(now);
        });
    }

    fn flush(&self) {}
}

fn hear(failed: &mut Failed, line: &str) {
    if line.starts_with("Error occurred while reading from DataNode: ChecksumError") {
        failed.corrupt += 1;
    } else if line.starts_with("Read operation did not succeed") {
        failed.refused += 1;
    } else if line.starts_with("Error occurred while reading from DataNode")
        || line.starts_with("Failed to connect to DataNode")
    {
        failed.silent += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_read_hears_of_its_own_replicas() {
        listen();
        let bad = observe(async {
            log::warn!(target: "hdfs_native::hdfs::block_reader", "Error occurred while reading from DataNode: ChecksumError");
            log::warn!(target: "hdfs_native::hdfs::block_reader", "Failed to connect to DataNode x: y");
            log::warn!(target: "another", "Error occurred while reading from DataNode: ChecksumError");
            tokio::task::yield_now().await;
            (take(), take())
        });
        let good = observe(async {
            tokio::task::yield_now().await;
            take()
        });
        let (bad, good) = tokio::join!(bad, good);
        assert_eq!(bad, (Failed { corrupt: 1, refused: 0, silent: 1 }, Failed::default()));
        assert_eq!(good, Failed::default());
        assert_eq!(take(), Failed::default(), "outside of any read");
    }
}
