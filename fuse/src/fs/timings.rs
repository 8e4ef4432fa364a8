//! How long operations take.

use std::time::Instant;

use prometheus::{Histogram, HistogramOpts, HistogramVec, Registry};

use crate::error::{Error, ErrorKind, Result};

/// From an answer out of memory to the longest deadline, in seconds.
const BUCKETS: [f64; 14] = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];

macro_rules! operations {
    ($($op:ident $name:literal),* $(,)?) => {
        /// What the kernel asks for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum FsOperation { $($op),* }

        impl FsOperation {
            /// All, in the order of their values.
            pub const ALL: &[Self] = &[$(Self::$op),*];

            /// As the metric names it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$op => $name),* }
            }
        }
    };
}

operations! {
    Lookup "lookup", Getattr "getattr", Setattr "setattr", Open "open", Create "create", Read "read",
    Write "write", Flush "flush", Fsync "fsync", Release "release", Readdir "readdir", Mkdir "mkdir",
    Unlink "unlink", Rmdir "rmdir", Rename "rename", Statfs "statfs", Opendir "opendir",
}

/// A histogram for each operation, resolved once: observing one costs two atomic additions.
#[derive(Debug)]
pub struct Timings {
    all: HistogramVec,
    each: Vec<Histogram>,
}

impl Timings {
    pub(super) fn new() -> Result<Self> {
        let opts = HistogramOpts::new(
            "springhouse_mount_operation_seconds",
            "Time from the kernel's request to the answer, by operation",
        )
        .buckets(BUCKETS.to_vec());
        let all = HistogramVec::new(opts, &["op"])
            .map_err(|e| Error::new(ErrorKind::Other, format!("mount metrics: {e}")))?;
        let each = FsOperation::ALL.iter().map(|op| all.with_label_values(&[op.name()])).collect();
        Ok(Self { all, each })
    }

    /// `operation`, which began at `since`, is answered.
    pub fn answered(&self, operation: FsOperation, since: Instant) {
        if let Some(histogram) = self.each.get(operation as usize) {
            histogram.observe(since.elapsed().as_secs_f64());
        }
    }

    pub(super) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.all.clone()))
    }
}
