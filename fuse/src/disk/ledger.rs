//! How many bytes lie in the directory, told to all who use it.
//!
//! A file with one number. A process takes an allowance from it before it writes, so the bound holds
//! whoever writes when; what it has not used of it is given back when it ends, or found by the next scan
//! if it was killed. Whoever scans the directory puts the number right.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use xxhash_rust::xxh3::xxh3_64;

use super::directory::create;

#[derive(Debug)]
pub(super) struct Ledger {
    file: File,
    /// Taken and not yet used.
    allowance: Mutex<u64>,
    /// The number as last seen.
    seen: AtomicU64,
}

impl Ledger {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: create(path, true)?, allowance: Mutex::new(0), seen: AtomicU64::new(0) })
    }

    /// The number; `None` if nobody has counted yet, or what is there makes no sense.
    pub(super) fn used(&self) -> io::Result<Option<u64>> {
        let mut bytes = [0; 16];
        match self.file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let (number, sum) = bytes.split_at(8);
        let good = xxh3_64(number).to_le_bytes() == sum;
        let used = number.try_into().ok().filter(|_| good).map(u64::from_le_bytes);
        if let Some(used) = used {
            self.seen.store(used, Relaxed);
        }
        Ok(used)
    }

    /// The number as last seen by this process.
    pub(super) fn seen(&self) -> u64 {
        self.seen.load(Relaxed)
    }

    /// Leave to write `bytes` more. Takes up to `chunk` in advance, so that not every write locks.
    pub(super) fn charge(&self, bytes: u64, chunk: u64, bytes_max: u64) -> io::Result<bool> {
        let mut allowance = self.allowance.lock();
        if *allowance < bytes {
            let needed = bytes - *allowance;
            let taken = self.change(|used| {
                let room = bytes_max.saturating_sub(used);
                let take = needed.max(chunk).min(room);
                if take < needed { (used, 0) } else { (used + take, take) }
            })?;
            *allowance += taken;
        }
        if *allowance < bytes {
            return Ok(false);
        }
        *allowance -= bytes;
        Ok(true)
    }

    /// Bytes that were removed.
    pub(super) fn give_back(&self, bytes: u64) -> io::Result<()> {
        self.change(|used| (used.saturating_sub(bytes), ()))
    }

    /// A scan that began when the number was `before` has found `found`: what was taken since then
    /// stays on top of it.
    pub(super) fn put_right(&self, before: u64, found: u64) -> io::Result<()> {
        self.change(|used| (found.saturating_add(used.saturating_sub(before)), ()))
    }

    fn change<T>(&self, change: impl FnOnce(u64) -> (u64, T)) -> io::Result<T> {
        let _locked = Locked::wait(&self.file)?;
        // An unreadable number is 0 here; the scan at open has put it right.
        let used = self.used()?.unwrap_or(0);
        let (now, outcome) = change(used);
        let number = now.to_le_bytes();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number);
        bytes[8..].copy_from_slice(&xxh3_64(&number).to_le_bytes());
        self.file.write_all_at(&bytes, 0)?;
        self.seen.store(now, Relaxed);
        Ok(outcome)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let left = *self.allowance.get_mut();
        if left > 0 {
            // Else the next scan finds it.
            let _ = self.give_back(left);
        }
    }
}

/// An advisory lock of a file, given back when dropped or when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Locked<'a>(&'a File);

impl<'a> Locked<'a> {
    fn wait(file: &'a File) -> io::Result<Self> {
        flock(file, FlockOperation::LockExclusive)?;
        Ok(Self(file))
    }

    /// `None` if another holds it.
    pub(super) fn now(file: &'a File) -> io::Result<Option<Self>> {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}
