//! Which requests with an idempotency key were applied: a file of records, and the same in memory.
//!
//! A record is 4 bytes of length, 8 of checksum, and JSON. New ones are synchronised before the
//! transaction that they tell of is committed; one of a transaction that the database does not know
//! counts for nothing. The oldest go: a client asks again within minutes, not after 10,000 others.

use std::{
    collections::{HashMap, VecDeque},
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use springhouse_gateway::api::hot::StatementResult;
use xxhash_rust::xxh3::xxh3_64;

/// Keys remembered.
pub(super) const KEYS_MAX: usize = 10_000;
/// And what their answers may take together, in bytes as they are on disk.
const BYTES_MAX: u64 = 8 << 20;
/// Length and checksum before each record.
const FRAME_BYTES: usize = 12;

/// A request that was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Applied {
    /// Its key.
    pub(super) key: String,
    /// Number of its transaction.
    pub(super) change: u64,
    /// What was asked: another request under the same key is a mistake.
    pub(super) digest: u128,
    /// What it was answered.
    pub(super) results: Vec<StatementResult>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Keys {
    path: PathBuf,
    file: File,
    /// Good bytes.
    len: u64,
    /// Where the records begin that are not committed.
    uncommitted: Option<u64>,
    map: HashMap<String, (Applied, u64)>,
    /// Oldest first.
    order: VecDeque<String>,
    /// Of those in `map`, as they are on disk.
    bytes: u64,
}

impl Keys {
    /// Reads the file at `path`, which is made if it is missing; what is of later transactions than
    /// `change` never took place and is cut off, durably.
    pub(super) fn open(path: &Path, change: u64) -> io::Result<Self> {
        let new = !path.try_exists()?;
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        if new {
            sync_parent(path)?;
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut keys = Self {
            path: path.to_owned(),
            file,
            len: 0,
            uncommitted: None,
            map: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
        };
        while let Some((applied, size)) = record_at(&bytes[keys.len as usize..]) {
            if applied.change > change {
                break;
            }
            keys.len += size;
            keys.remember(applied, size);
        }
        if keys.len < bytes.len() as u64 {
            keys.cut(keys.len)?;
        }
        Ok(keys)
    }

    /// The request that was applied under `key`.
    pub(super) fn get(&self, key: &str) -> Option<&Applied> {
        self.map.get(key).map(|(applied, _)| applied)
    }

    /// The records of later transactions than `change` that are remembered, as they are on disk.
    pub(super) fn after(&self, change: u64) -> Vec<u8> {
        let newest = self.order.iter().rev().filter_map(|key| self.map.get(key).map(|(applied, _)| applied));
        let newer: Vec<_> = newest.take_while(|applied| applied.change > change).collect();
        let mut bytes = Vec::new();
        for applied in newer.into_iter().rev() {
            // It was written as JSON before.
            let _ = frame(applied, &mut bytes);
        }
        bytes
    }

    /// Writes records durably; they count from [`Keys::commit`] on.
    pub(super) fn append(&mut self, new: &[Applied]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for applied in new {
            frame(applied, &mut bytes)?;
        }
        self.uncommitted = Some(self.len);
        self.file.write_all_at(&bytes, self.len)?;
        self.file.sync_data()?;
        Ok(())
    }

    /// The transactions of `new`, which were appended, took place.
    pub(super) fn commit(&mut self, new: Vec<Applied>) -> io::Result<()> {
        self.uncommitted = None;
        for applied in new {
            let mut bytes = Vec::new();
            frame(&applied, &mut bytes)?;
            self.len += bytes.len() as u64;
            self.remember(applied, bytes.len() as u64);
        }
        if self.len > 2 * BYTES_MAX.max(self.bytes) {
            self.rewrite()?;
        }
        Ok(())
    }

    /// What was appended did not take place.
    pub(super) fn roll_back(&mut self) -> io::Result<()> {
        match self.uncommitted.take() {
            Some(len) => self.cut(len),
            None => Ok(()),
        }
    }

    /// Durable at once: the numbers of what is cut off will be used again.
    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.file.sync_data()
    }

    fn remember(&mut self, applied: Applied, size: u64) {
        let key = applied.key.clone();
        if let Some((_, old)) = self.map.insert(key.clone(), (applied, size)) {
            self.bytes -= old;
            self.order.retain(|other| *other != key);
        }
        self.bytes += size;
        self.order.push_back(key);
        while self.order.len() > KEYS_MAX || (self.bytes > BYTES_MAX && self.order.len() > 1) {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some((_, size)) = self.map.remove(&oldest) {
                self.bytes -= size;
            }
        }
    }

    /// Leaves out what was forgotten.
    fn rewrite(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        for key in &self.order {
            if let Some((applied, _)) = self.map.get(key) {
                frame(applied, &mut bytes)?;
            }
        }
        let new = self.path.with_extension("keys.new");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&new)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_data()?;
        fs::rename(&new, &self.path)?;
        sync_parent(&self.path)?;
        self.file = file;
        self.len = bytes.len() as u64;
        Ok(())
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn frame(applied: &Applied, out: &mut Vec<u8>) -> io::Result<()> {
    let json = serde_json::to_vec(applied)?;
    let len = u32::try_from(json.len()).map_err(|_| io::Error::other("an answer of 4 GiB"))?;
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&xxh3_64(&json).to_le_bytes());
    out.extend_from_slice(&json);
    Ok(())
}

/// The whole record at the start of `bytes`, and its size.
fn record_at(bytes: &[u8]) -> Option<(Applied, u64)> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<8>()?;
    let json = rest.get(..u32::from_le_bytes(*len) as usize)?;
    if xxh3_64(json) != u64::from_le_bytes(*checksum) {
        return None;
    }
    let applied = serde_json::from_slice(json).ok()?;
    Some((applied, (FRAME_BYTES + json.len()) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(key: &str, change: u64) -> Applied {
        let results = vec![StatementResult { rows_affected: change, last_insert_rowid: None }];
        Applied { key: key.into(), change, digest: u128::from(change), results }
    }

    fn add(keys: &mut Keys, key: &str, change: u64) {
        let new = vec![applied(key, change)];
        keys.append(&new).expect("appended");
        keys.commit(new).expect("committed");
    }

    #[test]
    fn what_took_place_is_known_after_a_restart_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.keys");
        let mut keys = Keys::open(&path, 0).expect("new");
        add(&mut keys, "a", 1);
        keys.append(&[applied("gone", 2)]).expect("appended");
        keys.roll_back().expect("rolled back");
        add(&mut keys, "b", 2);
        keys.append(&[applied("c", 3)]).expect("appended");
        drop(keys); // killed before the commit
        let keys = Keys::open(&path, 2).expect("again");
        assert_eq!(keys.get("a"), Some(&applied("a", 1)));
        assert_eq!(keys.get("b"), Some(&applied("b", 2)));
        assert_eq!((keys.get("gone"), keys.get("c")), (None, None));
        // Cut off for good: its number is another's now.
        let keys = Keys::open(&path, 3).expect("again");
        assert_eq!(keys.get("c"), None);
    }

    #[test]
    fn a_torn_or_rotten_end_is_left_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.keys");
        let mut keys = Keys::open(&path, 0).expect("new");
        add(&mut keys, "a", 1);
        let whole = keys.len;
        add(&mut keys, "b", 2);
        let file = File::options().write(true).open(&path).expect("the file");
        for spoil in [true, false] {
            if spoil {
                file.write_all_at(b"?", whole + 20).expect("spoilt");
            } else {
                file.set_len(whole + 5).expect("torn");
            }
            let keys = Keys::open(&path, 2).expect("again");
            assert_eq!((keys.get("a").is_some(), keys.get("b")), (true, None));
            assert_eq!(keys.len, whole);
        }
    }

    #[test]
    fn the_oldest_are_forgotten_and_the_file_stays_small() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.keys");
        let mut keys = Keys::open(&path, 0).expect("new");
        let many: Vec<Applied> =
            (1..=3 * KEYS_MAX as u64).map(|n| applied(&format!("{n:0>900}"), n)).collect();
        for group in many.chunks(1000) {
            keys.append(group).expect("appended");
            keys.commit(group.to_vec()).expect("committed");
        }
        let len = path.metadata().expect("there").len();
        assert!(len <= 2 * BYTES_MAX + (1 << 20), "{len}");
        let last = many.len() as u64;
        let again = Keys::open(&path, last).expect("again");
        assert_eq!(again.get(&many[0].key), None);
        assert_eq!(again.get(&many[many.len() - 1].key), many.last());
        assert!(again.order.len() <= KEYS_MAX && again.bytes <= BYTES_MAX);
    }
}
