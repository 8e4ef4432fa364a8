//! One bound for everything the daemon holds, divided once; and waiting instead of growing.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, ErrorKind, Result};

mod allocator;
#[cfg(test)]
mod tests;

pub use self::allocator::tame_allocator;

const MIB: u64 = 1 << 20;

/// Least bound that leaves room for anything but code.
pub const MEMORY_BYTES_MIN: u64 = 96 * MIB;

/// What the process needs before it serves anything: code, threads' stacks, the store's client, the
/// allocator's slack. Measured: 28 MiB after mounting HDFS, 40 MiB after the first gigabyte.
const BASE_BYTES: u64 = 40 * MIB;

/// What one inode costs: its node, both tables' entries and its path.
const INODE_BYTES: u64 = 400;

/// What one remembered answer about a path costs.
const STAT_BYTES: u64 = 500;

/// How much of each part is wanted, in bytes; what does not fit is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wishes {
    /// Blocks in RAM.
    pub cache_bytes: u64,
    /// Pinned pages.
    pub pinned_bytes: u64,
    /// Readahead buffers of all handles.
    pub readahead_bytes: u64,
    /// Inodes that the kernel may hold.
    pub inodes_max: usize,
}

/// Parts of the bound, in bytes where nothing else is said. Their sum is at most the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Division {
    /// Code, threads, the store's client.
    pub base_bytes: u64,
    /// Inodes and answers about paths.
    pub metadata_bytes: u64,
    /// How many inodes fit into their half of `metadata_bytes`; a number.
    pub inodes_max: usize,
    /// How many answers about paths fit into the other half; a number.
    pub stats_max: u64,
    /// Pinned pages.
    pub pinned_bytes: u64,
    /// Blocks in RAM.
    pub cache_bytes: u64,
    /// Readahead buffers.
    pub readahead_bytes: u64,
    /// Reads that somebody waits for, and their replies.
    pub in_flight_bytes: u64,
    /// Data written by processes and not yet by the store.
    pub dirty_bytes: u64,
    /// Blocks on their way to the disk cache.
    pub disk_queue_bytes: u64,
}

/// Divides `memory_bytes`. Fixed parts come first, in proportion to the bound; pinned pages, readahead
/// and blocks get what is wished, or are cut in the same proportion.
pub fn divide(memory_bytes: u64, wishes: &Wishes) -> Result<Division> {
    if memory_bytes < MEMORY_BYTES_MIN {
        let message = format!("a memory bound of {memory_bytes} bytes: at least {MEMORY_BYTES_MIN}");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let share = |divisor: u64, min: u64, max: u64| (memory_bytes / divisor).clamp(min, max);
    let metadata = share(8, 4 * MIB, 512 * MIB);
    let inodes_max = (metadata / 2 / INODE_BYTES).min(wishes.inodes_max as u64);
    let in_flight_bytes = share(16, 4 * MIB, 128 * MIB);
    let dirty_bytes = share(16, 4 * MIB, 128 * MIB);
    let disk_queue_bytes = share(32, 2 * MIB, 32 * MIB);
    let fixed = BASE_BYTES + metadata + in_flight_bytes + dirty_bytes + disk_queue_bytes;
    let left = memory_bytes.saturating_sub(fixed);
    let wished =
        u128::from(wishes.cache_bytes) + u128::from(wishes.pinned_bytes) + u128::from(wishes.readahead_bytes);
    let cut = |wish: u64| {
        if wished <= u128::from(left) {
            return wish;
        }
        // Less than `left`, so it fits.
        (u128::from(wish) * u128::from(left) / wished) as u64
    };
    Ok(Division {
        base_bytes: BASE_BYTES,
        metadata_bytes: metadata,
        inodes_max: inodes_max as usize,
        stats_max: metadata / 2 / STAT_BYTES,
        pinned_bytes: cut(wishes.pinned_bytes),
        cache_bytes: cut(wishes.cache_bytes),
        readahead_bytes: cut(wishes.readahead_bytes),
        in_flight_bytes,
        dirty_bytes,
        disk_queue_bytes,
    })
}

/// What `memory_bytes` leaves for blocks, readahead and pins together.
pub fn room(memory_bytes: u64) -> Result<u64> {
    let wishes =
        Wishes { cache_bytes: memory_bytes, pinned_bytes: 0, readahead_bytes: 0, inodes_max: usize::MAX };
    Ok(divide(memory_bytes, &wishes)?.cache_bytes)
}

/// The least bound, in steps of 64 MiB, that leaves `bytes` for blocks, readahead and pins together.
pub fn enough(bytes: u64) -> Option<u64> {
    const STEP: u64 = 64 * MIB;
    // What is taken off never is more than half of the bound and the base.
    let most = bytes.checked_add(BASE_BYTES)?.checked_mul(2)? / STEP + 1;
    let fits = |steps: u64| room(steps * STEP).is_ok_and(|room| room >= bytes);
    let (mut low, mut high) = (0, most);
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if fits(middle) { high = middle } else { low = middle }
    }
    fits(high).then_some(high * STEP)
}

/// Blocks, readahead and pins of `room` bytes: what is given as it is, and what that leaves shared by the
/// others in the proportion 4 : 2 : 1.
pub fn shares(room: u64, given: [Option<u64>; 3]) -> [u64; 3] {
    const SHARES: [u64; 3] = [4, 2, 1];
    let rest = given.iter().flatten().fold(room, |rest, part| rest.saturating_sub(*part));
    let open: u64 = SHARES.iter().zip(given).filter(|(_, given)| given.is_none()).map(|(s, _)| s).sum();
    let mut parts = [0; 3];
    for ((part, share), given) in parts.iter_mut().zip(SHARES).zip(given) {
        *part = given.unwrap_or_else(|| rest / open * share);
    }
    parts
}

/// Bytes that may be held at once; whoever wants more waits, in the order of asking.
///
/// Never wait for one permit while holding another of the same semaphore: that is a deadlock.
#[derive(Debug, Clone)]
pub struct ByteSemaphore {
    permits: Arc<Semaphore>,
    max: u32,
}

/// Permits are of this many bytes: Tokio's semaphore counts to 2^32 in one call.
const UNIT_BYTES: u64 = 1 << 10;

/// Leave to hold some bytes; given back when dropped.
#[derive(Debug)]
pub struct BytesPermit {
    _permit: Option<OwnedSemaphorePermit>,
}

impl ByteSemaphore {
    /// At most `bytes_max` at once, rounded up to a KiB.
    pub fn new(bytes_max: u64) -> Self {
        let max = bytes_max.div_ceil(UNIT_BYTES).clamp(1, u64::from(u32::MAX)) as u32;
        Self { permits: Arc::new(Semaphore::new(max as usize)), max }
    }

    /// Waits until there is room for `bytes`. More than the whole is let through alone.
    pub async fn acquire(&self, bytes: u64) -> BytesPermit {
        // The semaphore is never closed.
        BytesPermit { _permit: self.permits.clone().acquire_many_owned(self.units(bytes)).await.ok() }
    }

    /// As [`Self::acquire`], but `None` instead of waiting.
    pub fn try_acquire(&self, bytes: u64) -> Option<BytesPermit> {
        let permit = self.permits.clone().try_acquire_many_owned(self.units(bytes)).ok()?;
        Some(BytesPermit { _permit: Some(permit) })
    }

    /// Bytes that are held now.
    pub fn taken(&self) -> u64 {
        (self.max as usize - self.permits.available_permits().min(self.max as usize)) as u64 * UNIT_BYTES
    }

    fn units(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.max)
    }
}
