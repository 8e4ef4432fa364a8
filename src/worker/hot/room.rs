//! How many bytes of segments there may be, and how many there are.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use super::data::{Data, Disk};

/// Of the disk, where nobody gives a quota.
const QUOTA_PER_CENT: u64 = 80;
/// Nothing is copied that would leave less free than this part of the disk, or so many bytes: writes
/// must not fail for what was only to be near.
const SPARE_PART: u64 = 50;
const SPARE_BYTES_MAX: u64 = 4 << 30;

/// Counts. One for the hot tier.
#[derive(Debug, Clone)]
pub(super) struct Rooms(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    quota: u64,
    /// Of copies that are here.
    stored: AtomicU64,
    /// Of those under way.
    taken: AtomicU64,
    full: AtomicBool,
}

/// Room for one copy, given back when it is dropped.
#[derive(Debug)]
pub(in crate::worker) struct Room {
    counts: Arc<Counts>,
    bytes: u64,
}

impl Rooms {
    /// With `quota` bytes, or 80 % of the disk.
    pub(super) fn new(data: &Data, quota: Option<u64>) -> io::Result<Self> {
        let quota = match quota {
            Some(quota) => quota,
            None => data.disk()?.total / 100 * QUOTA_PER_CENT,
        };
        Ok(Self(Arc::new(Counts {
            quota,
            stored: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            full: AtomicBool::new(false),
        })))
    }

    /// Most bytes.
    pub(super) fn quota(&self) -> u64 {
        self.0.quota
    }

    /// Bytes that are here or on their way.
    pub(super) fn stored(&self) -> u64 {
        self.0.stored.load(Relaxed) + self.0.taken.load(Relaxed)
    }

    /// Whether the disk itself is nearly full, as of the last look.
    pub(super) fn is_full(&self) -> bool {
        self.0.full.load(Relaxed)
    }

    /// A copy has `now` bytes after `before`.
    pub(super) fn change(&self, before: u64, now: u64) {
        let _ = self
            .0
            .stored
            .fetch_update(Relaxed, Relaxed, |stored| Some((stored + now).saturating_sub(before)));
    }

    /// Looks at the disk.
    pub(super) fn look(&self, data: &Data) {
        if let Ok(disk) = data.disk() {
            self.0.full.store(disk.free < spare(disk), Relaxed);
        }
    }

    /// Takes room for `bytes`; why there is none.
    pub(super) fn take(&self, data: &Data, bytes: u64) -> Result<Room, String> {
        let counts = &self.0;
        let fits = |taken: u64| {
            let sum = taken + bytes;
            (counts.stored.load(Relaxed) + sum <= counts.quota).then_some(sum)
        };
        counts.taken.fetch_update(Relaxed, Relaxed, fits).map_err(|_| {
            format!(
                "no room: {bytes} bytes more than {} would be beyond the quota of {}",
                self.stored(),
                counts.quota
            )
        })?;
        let room = Room { counts: Arc::clone(counts), bytes };
        room.check(data, bytes).map(|()| room)
    }
}

impl Room {
    /// Whether the disk still has what a copy must leave; why it must stop otherwise.
    pub(super) fn still(&self, data: &Data) -> Result<(), String> {
        self.check(data, 0)
    }

    fn check(&self, data: &Data, bytes: u64) -> Result<(), String> {
        let disk = data.disk().map_err(|error| format!("the disk cannot be asked for its room: {error}"))?;
        let spare = spare(disk);
        let fits = disk.free >= bytes.saturating_add(spare);
        self.counts.full.store(disk.free < spare, Relaxed);
        if fits {
            return Ok(());
        }
        Err(format!("no room: the disk has {} bytes free, of which {spare} are spared", disk.free))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.counts.taken.fetch_sub(self.bytes, Relaxed);
    }
}

fn spare(disk: Disk) -> u64 {
    (disk.total / SPARE_PART).min(SPARE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_over_the_quota() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = Data::open(dir.path()).expect("a data directory");
        let rooms = Rooms::new(&data, Some(1000)).expect("rooms");
        rooms.change(0, 400);
        let first = rooms.take(&data, 500).expect("room");
        assert!(rooms.take(&data, 200).expect_err("none").contains("quota of 1000"));
        assert_eq!(rooms.stored(), 900);
        drop(first);
        rooms.change(400, 100);
        assert!(rooms.take(&data, 900).is_ok());
        assert!(rooms.take(&data, u64::MAX / 4).is_err());
        assert!(Rooms::new(&data, None).expect("rooms").quota() > 1000);
    }
}
