//! A copy under way, on disk: written in order, resumed where it is sure what was written, and believed
//! only when its bytes, read back from the disk, have the checksum of those that came from the store.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use springhouse_fuse::error::{Error, ErrorKind};
use springhouse_gateway::segment::SegmentId;
use xxhash_rust::xxh3::Xxh3;

use super::data::{Data, replace};
use crate::failpoint;

/// After so many bytes what was written is made durable, and a resumed copy need not fetch it again.
const SAVE_BYTES: u64 = 64 << 20;
/// Read at once.
const READ_BYTES: usize = 1 << 20;

/// How much of a part is sure.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    generation: String,
    size: u64,
    done: u64,
    /// xxh3-128 of those bytes as they came from the store.
    checksum: String,
}

/// See the module. Every call blocks.
pub(super) struct Part {
    file: File,
    path: PathBuf,
    progress: PathBuf,
    generation: String,
    size: u64,
    done: u64,
    saved: u64,
    hash: Xxh3,
}

impl Part {
    /// Begins a copy of `size` bytes, or goes on with one of the same generation.
    pub(super) fn open(data: &Data, id: &SegmentId, generation: &str, size: u64) -> io::Result<Self> {
        let (path, progress) = (data.part(id), data.progress(id));
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
        let mut part = Self {
            file,
            path,
            progress,
            generation: generation.to_owned(),
            size,
            done: 0,
            saved: 0,
            hash: Xxh3::new(),
        };
        part.resume()?;
        part.file.set_len(part.done)?;
        Ok(part)
    }

    /// Bytes that are there.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    fn resume(&mut self) -> io::Result<()> {
        let saved: Option<Saved> =
            fs::read(&self.progress).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let Some(saved) = saved else { return Ok(()) };
        if saved.generation != self.generation || saved.size != self.size || saved.done > self.size {
            return Ok(());
        }
        let mut hash = Xxh3::new();
        if hash_of(&self.file, saved.done, &mut hash)? == saved.done && text(&hash) == saved.checksum {
            (self.done, self.saved, self.hash) = (saved.done, saved.done, hash);
        }
        Ok(())
    }

    /// The next bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if failpoint::fails("copy.write") {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.file.write_all_at(bytes, self.done)?;
        self.hash.update(bytes);
        self.done += bytes.len() as u64;
        if self.done - self.saved >= SAVE_BYTES {
            self.save()?;
        }
        Ok(())
    }

    /// Makes durable what is there, and that it is.
    pub(super) fn save(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        let saved = Saved {
            generation: self.generation.clone(),
            size: self.size,
            done: self.done,
            checksum: text(&self.hash),
        };
        replace(&self.progress, &serde_json::to_vec(&saved)?)?;
        self.saved = self.done;
        failpoint::hit("copy.saved");
        Ok(())
    }

    /// Verifies the whole copy and makes it durable; gives its checksum.
    ///
    /// # Errors
    /// `Corrupt`: the disk gives other bytes back, or they are no database that stands by itself.
    pub(super) fn finish(mut self) -> Result<String, Error> {
        let disk = |error: io::Error| Error::from_io(&error, "the copy on the worker's disk");
        let damaged = |why: String| Error::new(ErrorKind::Corrupt, why);
        if self.done != self.size {
            return Err(damaged(format!("{} of {} bytes came", self.done, self.size)));
        }
        self.file.sync_all().map_err(disk)?;
        // So that it is the disk that is read, not what we just wrote to memory. Only advice.
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
        let mut hash = Xxh3::new();
        let read = hash_of(&self.file, self.size, &mut hash).map_err(disk)?;
        if read != self.size || hash.digest128() != self.hash.digest128() {
            return Err(damaged("the disk gave other bytes back than were written".into()));
        }
        check_header(&self.file, self.size).map_err(disk)?.map_err(damaged)?;
        self.save().map_err(disk)?;
        tracing::debug!(part = %self.path.display(), bytes = self.size, "copy is whole");
        Ok(text(&self.hash))
    }
}

/// xxh3-128 as it stands in records and answers.
fn text(hash: &Xxh3) -> String {
    format!("{:032x}", hash.digest128())
}

/// Length and xxh3-128 of a file.
pub(super) fn checksum(path: &Path) -> io::Result<(u64, String)> {
    let file = File::open(path)?;
    let mut hash = Xxh3::new();
    let len = hash_of(&file, u64::MAX, &mut hash)?;
    Ok((len, text(&hash)))
}

/// Adds the first `len` bytes of `file` to `hash`, or as many as there are; how many.
fn hash_of(file: &File, len: u64, hash: &mut Xxh3) -> io::Result<u64> {
    let mut buffer = vec![0; READ_BYTES];
    let mut at = 0;
    while at < len {
        let most = usize::try_from(len - at).unwrap_or(usize::MAX).min(READ_BYTES);
        let read = file.read_at(&mut buffer[..most], at)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        at += read as u64;
    }
    Ok(at)
}

/// Whether `file` begins as a database of `size` bytes in the ordinary mode; what is wrong otherwise.
pub(in crate::worker) fn check_header(file: &File, size: u64) -> io::Result<Result<(), String>> {
    let mut header = [0; 100];
    if size < header.len() as u64 {
        return Ok(Err("it is too short for an SQLite database".into()));
    }
    file.read_exact_at(&mut header, 0)?;
    if !header.starts_with(b"SQLite format 3\0") {
        return Ok(Err("it is not an SQLite database".into()));
    }
    if header[18] == 2 || header[19] == 2 {
        return Ok(Err("it is in WAL mode: checkpoint it and set journal_mode=DELETE".into()));
    }
    let page = match u64::from(u16::from_be_bytes([header[16], header[17]])) {
        1 => 65_536,
        bytes => bytes,
    };
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    // The number of pages counts only if whoever wrote last also kept it.
    let pages = (number(24) == number(92)).then(|| u64::from(number(28)));
    Ok(if !page.is_power_of_two() || page < 512 || !size.is_multiple_of(page) {
        Err(format!("its length is no multiple of its page size ({page} bytes)"))
    } else if pages.is_some_and(|pages| pages * page > size) {
        Err("it is cut short".into())
    } else {
        Ok(())
    })
}

/// A file's chunks, for an upload.
pub(super) fn chunks(
    path: &Path,
    bytes: usize,
) -> io::Result<impl Iterator<Item = io::Result<Vec<u8>>> + Send + use<>> {
    let mut file = File::open(path)?;
    Ok(std::iter::from_fn(move || {
        let mut chunk = Vec::with_capacity(bytes);
        match Read::by_ref(&mut file).take(bytes as u64).read_to_end(&mut chunk) {
            Ok(0) => None,
            Ok(_) => Some(Ok(chunk)),
            Err(error) => Some(Err(error)),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 200_000;

    fn database() -> Vec<u8> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.sqlite");
        crate::query::make_test_database(&path, "CREATE TABLE t(a); INSERT INTO t VALUES (zeroblob(195000))");
        fs::read(path).expect("a file")
    }

    fn fresh() -> (tempfile::TempDir, Data, SegmentId) {
        let dir = tempfile::tempdir().expect("a directory");
        let data = Data::open(dir.path()).expect("a data directory");
        (dir, data, SegmentId::parse("a").expect("an id"))
    }

    #[test]
    fn resumed_where_it_is_sure_and_begun_anew_where_not() {
        let (_dir, data, id) = fresh();
        let bytes = database();
        let size = bytes.len() as u64;
        let mut part = Part::open(&data, &id, "g1", size).expect("new");
        part.write(&bytes[..100_000]).expect("written");
        part.save().expect("saved");
        part.write(&bytes[100_000..150_000]).expect("written");
        drop(part); // killed
        let mut part = Part::open(&data, &id, "g1", size).expect("again");
        assert_eq!(part.done(), 100_000);
        part.write(&bytes[100_000..]).expect("written");
        let checksum_of_all = part.finish().expect("whole");
        assert_eq!(checksum(&data.part(&id)).expect("read"), (size, checksum_of_all));
        assert_eq!(Part::open(&data, &id, "g2", size).expect("another").done(), 0);

        let mut part = Part::open(&data, &id, "g1", size).expect("new");
        part.write(&bytes[..100_000]).expect("written");
        part.save().expect("saved");
        fs::OpenOptions::new()
            .write(true)
            .open(data.part(&id))
            .expect("open")
            .write_all_at(b"?", 500)
            .expect("rot");
        assert_eq!(Part::open(&data, &id, "g1", size).expect("rotten").done(), 0);
    }

    #[test]
    fn only_whole_databases_count() {
        let (_dir, data, id) = fresh();
        let good = database();
        assert!(good.len() >= SIZE / 2);
        let mut wal = good.clone();
        (wal[18], wal[19]) = (2, 2);
        for (bytes, why) in [
            (&good[..good.len() - 4096], "cut short"),
            (&good[..good.len() - 1], "no multiple"),
            (&good[..50], "too short"),
            (&wal[..], "WAL mode"),
            (&vec![b'x'; 8192][..], "not an SQLite database"),
        ] {
            let mut part = Part::open(&data, &id, why, bytes.len() as u64).expect("new");
            part.write(bytes).expect("written");
            let error = part.finish().expect_err(why);
            assert!(error.message().contains(why), "{error}");
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
        let mut part = Part::open(&data, &id, "half", good.len() as u64).expect("new");
        part.write(&good[..4096]).expect("written");
        assert!(part.finish().is_err());
    }
}
