//! What another size of a tier would change.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use super::{BlockCache, BlockKey};
use crate::mrc::Curve;

/// Blocks whose reuse is followed for each tier, about 150 bytes each. All of them are sampled until
/// there are more.
const KEYS_MAX: usize = 16_384;

/// Sizes are shown from this part of the present one, doubling.
const SMALLEST: u64 = 8;

/// To this many times the present one.
const LARGEST: u64 = 16;

/// Both tiers, as far as they are there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    /// Blocks in RAM, without what was read ahead and without pinned pages. What the kernel's page cache
    /// answers is not seen here.
    pub ram: TierAdvice,
    /// Blocks on disk, for what RAM did not have; `None`: there is no disk cache.
    pub disk: Option<TierAdvice>,
}

/// What a tier of other sizes would answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TierAdvice {
    /// Its size now, in bytes.
    pub bytes_now: u64,
    /// The part of its references, 0 to 1, that an LRU cache of this size answers.
    pub hit_ratio_now: f64,
    /// References, in blocks, since the start.
    pub references: u64,
    /// The same for each minute.
    pub references_per_minute: f64,
    /// Other sizes, ascending; the present one is among them.
    pub points: Vec<AdvicePoint>,
}

/// A size and what it would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdvicePoint {
    /// Size in bytes.
    pub bytes: u64,
    /// See [`TierAdvice::hit_ratio_now`].
    pub hit_ratio: f64,
    /// Reads of what lies below (disk or store) saved for each minute, against now; less than 0: more.
    pub saved_reads_per_minute: f64,
}

/// The curves of all tiers.
#[derive(Debug)]
pub(super) struct Curves {
    ram: Followed,
    disk: Option<Followed>,
    since: Instant,
}

/// A curve behind a lock that most references do not take.
#[derive(Debug)]
struct Followed {
    curve: Mutex<Curve>,
    threshold: AtomicU64,
    /// References that were not sampled and are not counted yet.
    passed: AtomicU64,
}

impl Curves {
    pub(super) fn new(disk: bool) -> Self {
        Self { ram: Followed::new(), disk: disk.then(Followed::new), since: Instant::now() }
    }

    pub(super) fn ram(&self, key: &BlockKey) {
        self.ram.refer(hash(key));
    }

    pub(super) fn disk(&self, key: &BlockKey) {
        if let Some(disk) = &self.disk {
            disk.refer(hash(key));
        }
    }
}

impl Followed {
    fn new() -> Self {
        let curve = Curve::new(1.0, KEYS_MAX);
        let threshold = AtomicU64::new(curve.threshold());
        Self { curve: Mutex::new(curve), threshold, passed: AtomicU64::new(0) }
    }

    fn refer(&self, hash: u64) {
        if Curve::step(hash) >= self.threshold.load(Relaxed) {
            self.passed.fetch_add(1, Relaxed);
            return;
        }
        let mut curve = self.curve.lock();
        curve.refer(hash);
        self.threshold.store(curve.threshold(), Relaxed);
    }

    fn advice(&self, bytes_now: u64, block_bytes: u64, minutes: f64) -> TierAdvice {
        let mut curve = self.curve.lock();
        curve.count(self.passed.swap(0, Relaxed));
        let references_per_minute = curve.references() as f64 / minutes;
        let at = |bytes: u64| curve.hit_ratio(bytes / block_bytes);
        let hit_ratio_now = at(bytes_now);
        // Of a tier of nothing: what would a small one do?
        let middle = if bytes_now > 0 { bytes_now } else { 256 << 20 };
        let sizes = std::iter::successors(Some(middle / SMALLEST), |size| size.checked_mul(2));
        let mut sizes: Vec<_> = sizes.take_while(|&size| size <= middle.saturating_mul(LARGEST)).collect();
        sizes.push(bytes_now);
        sizes.sort_unstable();
        sizes.dedup();
        let points = sizes.into_iter().map(|bytes| AdvicePoint {
            bytes,
            hit_ratio: at(bytes),
            saved_reads_per_minute: (at(bytes) - hit_ratio_now) * references_per_minute,
        });
        TierAdvice {
            bytes_now,
            hit_ratio_now,
            references: curve.references(),
            references_per_minute,
            points: points.collect(),
        }
    }
}

fn hash(key: &BlockKey) -> u64 {
    let mut bytes = [0; 24];
    bytes[..16].copy_from_slice(&key.file.to_le_bytes());
    bytes[16..].copy_from_slice(&key.block.to_le_bytes());
    xxh3_64(&bytes)
}

impl BlockCache {
    /// What other sizes of the tiers would do, by the reads since the start.
    pub fn advise(&self) -> Advice {
        let curves = &self.shared.curves;
        // Less than a second says nothing about a minute.
        let minutes = curves.since.elapsed().as_secs_f64().max(1.0) / 60.0;
        let block_bytes = self.settings.block_bytes;
        let disk = curves.disk.as_ref().zip(self.shared.disk.as_ref());
        Advice {
            ram: curves.ram.advice(self.shared.ram.bytes_max(), block_bytes, minutes),
            disk: disk.map(|(curve, disk)| curve.advice(disk.bytes_max(), block_bytes, minutes)),
        }
    }
}
