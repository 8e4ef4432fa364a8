//! The data directory: where each file of a segment lies, and moves that survive a power cut.
//!
//! ```text
//! segments/SHARD/ID.sqlite   the copy; with -wal and -shm beside it while it is written
//! segments/SHARD/ID.json     its record
//! segments/SHARD/ID.keys     idempotency keys of requests that were applied to it
//! fence                      highest token of records that were removed
//! parts/ID.part              a copy that is under way, or one that is made for the store
//! parts/ID.json              how far it is, and of which generation
//! parts/ID.keys              idempotency keys that come with the part; in place after it
//! parts/ID.outgoing…         what is made for the store, or read from it; worthless after a start
//! kept/ID.TOKEN.TIME.sqlite  writes that nobody promoted; never deleted by us
//! epoch                      number of the last start
//! ```
//! All of it is one file system, so every move is a rename.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use springhouse_gateway::{api::hot::Token, segment::SegmentId};
use xxhash_rust::xxh3::xxh3_64;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Data {
    root: PathBuf,
}

/// What the disk has, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) total: u64,
    pub(super) free: u64,
}

impl Data {
    /// Makes the directories.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        for dir in ["segments", "parts", "kept"] {
            fs::create_dir_all(root.join(dir))?;
        }
        let root = root.canonicalize()?;
        let device = |name: &str| root.join(name).metadata().map(|metadata| metadata.dev());
        if device("segments")? != device("parts")? || device("segments")? != device("kept")? {
            return Err(io::Error::other("segments, parts and kept lie on different file systems"));
        }
        sync_dir(&root)?;
        Ok(Self { root })
    }

    /// A number for this start of the worker, above those of all starts on this directory; `clock` unless
    /// that was set back. Durable before it is used.
    pub(super) fn next_epoch(&self, clock: u64) -> io::Result<u64> {
        let path = self.root.join("epoch");
        let last = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().unwrap_or(0), // the clock alone, as without the file
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0_u64,
            Err(error) => return Err(error),
        };
        let next = clock.max(last.saturating_add(1));
        let text = next.to_string();
        match replace(&path, text.as_bytes()) {
            // What is here can be read all the same, and may be all that there is of it.
            Err(full) if is_full(&full) => overwrite(&path, text.as_bytes()).map_err(|_| full)?,
            replaced => replaced?,
        }
        Ok(next)
    }

    fn shard(&self, id: &str) -> PathBuf {
        // 256 directories: a directory of 100,000 files is slow to list on some file systems.
        self.root.join("segments").join(format!("{:02x}", xxh3_64(id.as_bytes()) & 0xff))
    }

    /// Makes the directory of a segment's files.
    pub(super) fn make_shard(&self, id: &SegmentId) -> io::Result<()> {
        let shard = self.shard(id.as_str());
        if !shard.try_exists()? {
            fs::create_dir_all(&shard)?;
            sync_dir(&self.root.join("segments"))?;
        }
        Ok(())
    }

    /// The copy.
    pub(super) fn segment(&self, id: &SegmentId) -> PathBuf {
        self.shard(id.as_str()).join(format!("{id}.sqlite"))
    }

    /// Its record.
    pub(super) fn record(&self, id: &SegmentId) -> PathBuf {
        self.shard(id.as_str()).join(format!("{id}.json"))
    }

    /// Highest token of records that were removed.
    pub(super) fn fence(&self) -> PathBuf {
        self.root.join("fence")
    }

    /// Its idempotency keys.
    pub(super) fn keys(&self, id: &SegmentId) -> PathBuf {
        self.shard(id.as_str()).join(format!("{id}.keys"))
    }

    /// A copy that is under way.
    pub(super) fn part(&self, id: &SegmentId) -> PathBuf {
        self.root.join("parts").join(format!("{id}.part"))
    }

    /// How far it is.
    pub(super) fn progress(&self, id: &SegmentId) -> PathBuf {
        self.root.join("parts").join(format!("{id}.json"))
    }

    /// Idempotency keys that come with the part.
    pub(super) fn incoming_keys(&self, id: &SegmentId) -> PathBuf {
        self.root.join("parts").join(format!("{id}.keys"))
    }

    /// One file that a takeover reads.
    pub(super) fn spool(&self, id: &SegmentId) -> PathBuf {
        self.root.join("parts").join(format!("{id}.outgoing.shipped"))
    }

    /// What the store has, to be looked at; some at once have different numbers.
    pub(super) fn looked_at(&self, id: &SegmentId, number: u64) -> PathBuf {
        self.root.join("parts").join(format!("{id}.outgoing.look{number}"))
    }

    /// What is made for the store.
    pub(super) fn outgoing(&self, id: &SegmentId) -> PathBuf {
        self.root.join("parts").join(format!("{id}.outgoing"))
    }

    /// A name that is free for writes of `id` under `token`.
    pub(super) fn kept_name(&self, id: &SegmentId, token: Token, now: SystemTime) -> String {
        let time = humantime::format_rfc3339_seconds(now).to_string().replace([':', '-'], "");
        let name = |nth: u32| match nth {
            0 => format!("{id}.{token}.{time}.sqlite"),
            nth => format!("{id}.{token}.{time}.{nth}.sqlite"),
        };
        (0..).map(name).find(|name| !self.kept(name).exists()).unwrap_or_else(|| name(u32::MAX))
    }

    /// Where what is kept aside as `name` lies.
    pub(super) fn kept(&self, name: &str) -> PathBuf {
        self.root.join("kept").join(name)
    }

    /// Moves the copy of `id`, with its log, to `kept` under `name`; again if it was begun before.
    ///
    /// The database leaves its place first: without its log nobody may go on with it. It gets its name last:
    /// whoever sees it there sees all of it.
    pub(super) fn move_to_kept(&self, id: &SegmentId, name: &str) -> io::Result<()> {
        let (from, to) = (self.segment(id), self.kept(name));
        // If it has its name, what lies in its place by now is another copy.
        if !to.try_exists()? {
            let (log, moving) = (with_ending(&from, "-wal"), with_ending(&to, ".moving"));
            if log.metadata().is_ok_and(|metadata| metadata.len() == 0) {
                remove(&log)?; // everything is in the database
            }
            if !moving.try_exists()? {
                rename_if_there(&from, &moving)?;
            }
            rename_if_there(&log, &with_ending(&to, "-wal"))?;
            remove(&with_ending(&from, "-shm"))?;
            rename_if_there(&moving, &to)?;
        }
        sync_dir(&self.root.join("kept"))?;
        sync_dir(&self.shard(id.as_str()))
    }

    /// Removes the copy of `id` and what lies beside it, but not its record.
    pub(super) fn remove_segment(&self, id: &SegmentId) -> io::Result<()> {
        let segment = self.segment(id);
        // The log last: without its database it means nothing, the other way round something is missing.
        for ending in ["", "-wal", "-shm"] {
            remove(&with_ending(&segment, ending))?;
        }
        remove(&self.keys(id))?;
        if self.shard(id.as_str()).try_exists()? { sync_dir(&self.shard(id.as_str())) } else { Ok(()) }
    }

    /// Removes what is left of a copy under way.
    pub(super) fn remove_part(&self, id: &SegmentId) -> io::Result<()> {
        remove(&self.progress(id))?;
        remove(&self.incoming_keys(id))?;
        remove(&self.part(id))
    }

    /// Makes way for the finished part of `id`; then comes [`Data::put_in_place`].
    pub(super) fn make_way(&self, id: &SegmentId) -> io::Result<()> {
        let segment = self.segment(id);
        // A log of another file would be taken for this one's.
        for ending in ["-wal", "-shm"] {
            remove(&with_ending(&segment, ending))?;
        }
        remove(&self.keys(id))
    }

    /// Puts the finished part of `id` in the place of its copy: at once, and durable with the next
    /// [`Data::sync`].
    pub(super) fn put_in_place(&self, id: &SegmentId) -> io::Result<()> {
        fs::rename(self.part(id), self.segment(id))
    }

    /// Puts the idempotency keys that came with the part beside the copy, if any did; again if it was begun
    /// before.
    pub(super) fn put_keys_in_place(&self, id: &SegmentId) -> io::Result<()> {
        match fs::rename(self.incoming_keys(id), self.keys(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes names in the segment's directory durable.
    pub(super) fn sync(&self, id: &SegmentId) -> io::Result<()> {
        sync_dir(&self.shard(id.as_str()))
    }

    /// Bytes of the copy of `id` with its log; 0 if there is none.
    pub(super) fn size(&self, id: &SegmentId) -> u64 {
        let segment = self.segment(id);
        let len = |path: PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
        len(with_ending(&segment, "-wal")) + len(segment)
    }

    /// Ids that have a record, or a copy without one.
    pub(super) fn ids(&self) -> io::Result<Vec<SegmentId>> {
        let mut ids = std::collections::BTreeSet::new();
        for shard in fs::read_dir(self.root.join("segments"))? {
            let shard = shard?.path();
            if !shard.is_dir() {
                continue;
            }
            for entry in fs::read_dir(&shard)? {
                let name = entry?.file_name();
                let Some(name) = name.to_str() else { continue };
                let id = [".sqlite", ".json"].iter().find_map(|ending| name.strip_suffix(ending));
                // In another shard than its own nothing finds it: somebody else put it there.
                let id = id.and_then(|id| SegmentId::parse(id).ok());
                ids.extend(id.filter(|id| self.shard(id.as_str()) == shard));
            }
        }
        Ok(ids.into_iter().collect())
    }

    /// Ids of copies that were under way; what was made for the store is removed, and what is left of copies
    /// that are in place.
    pub(super) fn parts(&self) -> io::Result<Vec<SegmentId>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(self.root.join("parts"))? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match name.strip_suffix(".part").and_then(|id| SegmentId::parse(id).ok()) {
                Some(id) => ids.push(id),
                None if name.contains(".outgoing") => remove(&path)?,
                // How far a copy was that is in place, or gone.
                None if name.ends_with(".json") && !path.with_extension("part").try_exists()? => {
                    remove(&path)?;
                }
                None => {}
            }
        }
        Ok(ids)
    }

    /// What the disk has.
    pub(super) fn disk(&self) -> io::Result<Disk> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(Disk { total: stat.f_blocks * stat.f_frsize, free: stat.f_bavail * stat.f_frsize })
    }
}

/// `path` with `ending` after its name.
pub(super) fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Removes a file; none is no error.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes what was renamed, made or removed in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Puts `bytes` into the file at `path`, whole or not at all, durably.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = with_ending(path, ".new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(dir) => sync_dir(dir),
        None => Ok(()),
    }
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Writes over a file of the same length, which takes no room. Some bytes that lie in one sector.
fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    if file.metadata()?.len() != bytes.len() as u64 {
        return Err(io::ErrorKind::StorageFull.into());
    }
    file.write_all_at(bytes, 0)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_over_is_of_the_same_length() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("epoch");
        assert!(overwrite(&path, b"12").is_err(), "nothing is made");
        fs::write(&path, b"12").expect("written");
        overwrite(&path, b"34").expect("there");
        assert!(overwrite(&path, b"567").is_err());
        assert_eq!(fs::read(&path).expect("there"), b"34");
    }

    #[test]
    fn a_move_to_what_is_kept_goes_on_where_it_was_cut_short() {
        let id = SegmentId::parse("a").expect("an id");
        let files = [("a.sqlite", "database"), ("a.sqlite-wal", "log"), ("a.sqlite-shm", "index")];
        for steps in 0..4 {
            let dir = tempfile::tempdir().expect("a directory");
            let data = Data::open(dir.path()).expect("a data directory");
            let (from, to) = (data.segment(&id), data.kept("a.7.sqlite"));
            fs::create_dir_all(from.parent().expect("in a directory")).expect("made");
            for (name, bytes) in files {
                fs::write(from.with_file_name(name), bytes).expect("written");
            }
            let moves = [
                (from.clone(), with_ending(&to, ".moving")),
                (with_ending(&from, "-wal"), with_ending(&to, "-wal")),
                (with_ending(&to, ".moving"), to.clone()),
            ];
            moves.iter().take(steps).for_each(|(from, to)| fs::rename(from, to).expect("moved"));
            if steps == 3 {
                fs::write(&from, "another").expect("written");
            }
            data.move_to_kept(&id, "a.7.sqlite").expect("moved");
            let text = |path: &Path| fs::read_to_string(path).ok();
            assert_eq!(text(&to).as_deref(), Some("database"), "{steps}");
            assert_eq!(text(&with_ending(&to, "-wal")).as_deref(), Some("log"), "{steps}");
            assert_eq!(text(&from).as_deref(), (steps == 3).then_some("another"), "{steps}");
            assert_eq!(fs::read_dir(to.parent().expect("kept")).expect("a directory").count(), 2, "{steps}");
        }
    }

    #[test]
    fn an_epoch_rises_though_the_clock_does_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = Data::open(dir.path()).expect("a data directory");
        let epochs =
            [1_000, 5_000, 2_000, 2_000, 9_000].map(|clock| data.next_epoch(clock).expect("written"));
        assert_eq!(epochs, [1_000, 5_000, 5_001, 5_002, 9_000]);
    }
}
