//! Reading files into the cache before anybody asks for them.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{StreamExt, stream};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{
    super::{EXTENT_BYTES, FileSystem},
    walk::{Found, Missed, files},
};
use crate::{
    cache::{Purpose, Source},
    error::Error,
    store::StorePath,
};

/// How often progress is told.
const TELL: Duration = Duration::from_millis(200);

/// Failures named in one report; those beyond are counted only.
const FAILURES_NAMED_MAX: usize = 100;

/// How far it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmProgress {
    /// Files found so far.
    pub files_found: u64,
    /// Their bytes.
    pub bytes_found: u64,
    /// Files read to their end, or given up.
    pub files_done: u64,
    /// Bytes that are there now.
    pub bytes_done: u64,
    /// Files and directories that failed, from the start on.
    pub failed: u64,
    /// The first of those that failed since the last report.
    pub failures: Vec<WarmFailure>,
    /// Nothing follows.
    pub ended: bool,
}

/// What could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmFailure {
    /// Below the store's root.
    pub path: String,
    /// Why.
    pub error: String,
}

#[derive(Debug, Default)]
struct Progress(Mutex<WarmProgress>);

impl Progress {
    fn change(&self, change: impl FnOnce(&mut WarmProgress)) {
        change(&mut self.0.lock());
    }

    fn failed(&self, path: &StorePath, error: &Error) {
        self.change(|progress| {
            progress.failed += 1;
            if progress.failures.len() < FAILURES_NAMED_MAX {
                let (path, error) = (path.to_string(), error.to_string());
                progress.failures.push(WarmFailure { path, error });
            }
        });
    }

    /// What is to tell now. Each failure is told once.
    fn report(&self, ended: bool) -> WarmProgress {
        let mut progress = self.0.lock();
        let failures = std::mem::take(&mut progress.failures);
        WarmProgress { failures, ended, ..progress.clone() }
    }
}

/// A file on its way.
struct Job {
    path: StorePath,
    source: Source,
    pieces_left: AtomicU64,
    failed: AtomicBool,
}

impl FileSystem {
    /// Reads the files at and below `paths` into the cache, `parallelism` pieces of 4 MiB at a time, and
    /// tells how it goes until the last report says that it ended. Stops when nobody listens any more.
    pub async fn warm(
        self: Arc<Self>,
        paths: Vec<StorePath>,
        parallelism: usize,
        tell: mpsc::Sender<WarmProgress>,
    ) {
        let parallelism = parallelism.max(1);
        let progress: Arc<Progress> = Arc::default();
        let found = files(self.store.0.clone(), paths);
        let (opening, reading) = ((self.clone(), progress.clone()), (self.clone(), progress.clone()));
        let work = stream::unfold(found, |mut found| async { Some((found.recv().await?, found)) })
            .map(move |found| {
                let (fs, progress) = opening.clone();
                async move { fs.job(found, &progress).await }
            })
            .buffered(parallelism)
            .flat_map(stream::iter)
            .for_each_concurrent(parallelism, move |(job, range)| {
                let (fs, progress) = reading.clone();
                async move { fs.warm_piece(job, range, &progress).await }
            });
        tokio::pin!(work);
        let mut ticks = interval(TELL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = &mut work => break,
                _ = ticks.tick() => {
                    match tell.try_reserve() {
                        Ok(place) => place.send(progress.report(false)),
                        // Who listens slowly gets fewer reports.
                        Err(mpsc::error::TrySendError::Full(())) => {}
                        Err(mpsc::error::TrySendError::Closed(())) => return,
                    }
                }
            }
        }
        let _ = tell.send(progress.report(true)).await;
    }

    /// The pieces of a file that was found; none of one that cannot be opened.
    async fn job(&self, found: Result<Found, Missed>, progress: &Progress) -> Vec<(Arc<Job>, Range<u64>)> {
        let Found { path, len } = match found {
            Ok(found) => found,
            Err((path, error)) => {
                progress.failed(&path, &error);
                return Vec::new();
            }
        };
        progress.change(|progress| {
            progress.files_found += 1;
            progress.bytes_found += len;
        });
        let source = match self.source_of(&path).await {
            Ok(source) => source,
            Err(error) => {
                progress.failed(&path, &error);
                progress.change(|progress| progress.files_done += 1);
                return Vec::new();
            }
        };
        let len = source.reader.metadata().len;
        let pieces: Vec<_> = (0..len.div_ceil(EXTENT_BYTES))
            .map(|piece| piece * EXTENT_BYTES..((piece + 1) * EXTENT_BYTES).min(len))
            .collect();
        if pieces.is_empty() {
            progress.change(|progress| progress.files_done += 1);
        }
        let pieces_left = AtomicU64::new(pieces.len() as u64);
        let job = Arc::new(Job { path, source, pieces_left, failed: AtomicBool::new(false) });
        pieces.into_iter().map(|piece| (job.clone(), piece)).collect()
    }

    async fn warm_piece(&self, job: Arc<Job>, range: Range<u64>, progress: &Progress) {
        // After a failure the rest of the file would most likely fail as well, each at its deadline.
        if !job.failed.load(Relaxed) {
            let ranges = [range];
            let read = self.within(&job.path, async {
                let read = self.cache.fetch(&job.source, &ranges, Purpose::Warm).await;
                read.into_iter().collect::<Result<Vec<_>, _>>()
            });
            match read.await {
                Ok(read) => {
                    let bytes: usize = read.iter().map(bytes::Bytes::len).sum();
                    progress.change(|progress| progress.bytes_done += bytes as u64);
                }
                Err(error) if !job.failed.swap(true, Relaxed) => progress.failed(&job.path, &error),
                Err(_) => {}
            }
        }
        if job.pieces_left.fetch_sub(1, Relaxed) == 1 {
            progress.change(|progress| progress.files_done += 1);
        }
    }
}
