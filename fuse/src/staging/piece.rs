//! One staged file.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Area, DATA, RECORD, Record, State, Units, local, remove, room::UNIT_BYTES};
use crate::error::{Error, ErrorKind, Result};

/// What is on the disk beside the bytes.
#[derive(Debug, PartialEq)]
enum Kept {
    /// Nothing: the bytes are of no value beyond this process.
    No,
    /// A record.
    As(Record),
    /// Nothing, and nothing will be: the file was deleted.
    NoMore,
}

/// A local file with a length of its own. Those who change it take turns; everything here blocks.
///
/// Dropped with a record it stays on the disk, else it goes.
#[derive(Debug)]
pub struct Piece {
    area: Arc<Area>,
    id: String,
    file: File,
    units: Mutex<Units>,
    len: AtomicU64,
    version: AtomicU64,
    kept: Mutex<Kept>,
    sending: AtomicBool,
}

impl Piece {
    pub(super) fn create(area: Arc<Area>, id: String) -> Result<Self> {
        let path = area.path(&id, DATA);
        let file = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(&path);
        let file = file.map_err(|error| local(&error, &path))?;
        Ok(Self::new(area, id, file, 0, Units::default(), Kept::No))
    }

    pub(super) fn open(area: Arc<Area>, id: String) -> Result<Self> {
        let path = area.path(&id, DATA);
        let failed = |error: io::Error| local(&error, &path);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let mut units = Units::default();
        for (start, end) in written(&file, len).map_err(failed)? {
            units.add(start, end);
        }
        let record = Record::read(&area.path(&id, RECORD))?;
        area.room.take_anyway(units.count());
        Ok(Self::new(area, id, file, len, units, Kept::As(record)))
    }

    fn new(area: Arc<Area>, id: String, file: File, len: u64, units: Units, kept: Kept) -> Self {
        area.pieces.fetch_add(1, SeqCst);
        Self {
            area,
            id,
            file,
            units: Mutex::new(units),
            len: AtomicU64::new(len),
            version: AtomicU64::new(0),
            kept: Mutex::new(kept),
            sending: AtomicBool::new(false),
        }
    }

    /// Names it in its area, and what is made of it in the store.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where its bytes lie.
    pub fn path(&self) -> PathBuf {
        self.area.path(&self.id, DATA)
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len.load(SeqCst)
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Room that it takes, in bytes.
    pub fn bytes(&self) -> u64 {
        self.units.lock().count() * UNIT_BYTES
    }

    /// Another number after each change.
    pub fn version(&self) -> u64 {
        self.version.load(SeqCst)
    }

    /// Writes `data`. `NoSpace` where the area or its disk is full; of a full area nothing is written.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= i64::MAX as u64);
        let Some(end) = end else {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("a write at {offset}: too far")));
        };
        self.take_room(offset, end)?;
        self.version.fetch_add(1, SeqCst);
        let written = self.file.write_all_at(data, offset);
        // Also of a write that failed halfway: what was written stays.
        let reached = match &written {
            Ok(()) => end,
            Err(_) => self.file.metadata().map_or(0, |metadata| metadata.len()),
        };
        self.len.fetch_max(reached, SeqCst);
        written.map_err(|error| local(&error, &self.path()))
    }

    fn take_room(&self, start: u64, end: u64) -> Result<()> {
        let mut units = self.units.lock();
        let more = units.missing(start, end);
        if !self.area.room.take(more) {
            let (taken, all) = (self.area.room.bytes(), self.area.room.bytes_max());
            let message = format!(
                "the staging area {} is full: {taken} of {all} bytes lie there; --staging-size bounds it",
                self.area.dir.display()
            );
            return Err(Error::new(ErrorKind::NoSpace, message));
        }
        units.add(start, end);
        Ok(())
    }

    /// Cuts it to `len` bytes, or makes it longer by a hole.
    pub fn set_len(&self, len: u64) -> Result<()> {
        self.version.fetch_add(1, SeqCst);
        self.file.set_len(len).map_err(|error| local(&error, &self.path()))?;
        self.len.store(len, SeqCst);
        let gone = self.units.lock().cut(len);
        self.area.room.give(gone);
        Ok(())
    }

    /// The bytes from `offset` on, as many as there are of `len`.
    pub fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let room = self.len().saturating_sub(offset).min(len as u64) as usize;
        let mut bytes = vec![0; room];
        let mut filled = 0;
        while filled < room {
            match self.file.read_at(&mut bytes[filled..], offset + filled as u64) {
                // Cut at this moment.
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(local(&error, &self.path())),
            }
        }
        bytes.truncate(filled);
        Ok(bytes.into())
    }

    /// From now on it outlives this process as `record` says; durably, when this returns. Nothing of a
    /// file that was deleted.
    pub fn keep(&self, record: Record) -> Result<()> {
        let mut kept = self.kept.lock();
        if *kept != Kept::NoMore {
            record.write(&self.area.path(&self.id, RECORD), true)?;
            *kept = Kept::As(record);
            self.area.sync()?;
        }
        Ok(())
    }

    /// Changes its record, if it has one.
    pub fn amend(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        let mut kept = self.kept.lock();
        if let Kept::As(record) = &mut *kept {
            let mut changed = record.clone();
            change(&mut changed);
            if changed != *record {
                changed.write(&self.area.path(&self.id, RECORD), true)?;
                *record = changed;
            }
        }
        Ok(())
    }

    /// The store has it: it need not outlive this process.
    pub fn is_in_store(&self) -> Result<()> {
        let mut kept = self.kept.lock();
        if matches!(*kept, Kept::As(_)) {
            remove(&self.area.path(&self.id, RECORD))?;
            *kept = Kept::No;
        }
        Ok(())
    }

    /// The bytes last also if the power goes.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| local(&error, &self.path()))
    }

    /// An upload begins, or has ended and left nothing behind.
    pub fn set_sending(&self, sending: bool) -> Result<()> {
        let kept = self.kept.lock();
        self.sending.store(sending, SeqCst);
        match *kept {
            Kept::NoMore if !sending => remove(&self.area.path(&self.id, RECORD)),
            _ => Ok(()),
        }
    }

    /// The file was deleted: nobody will want its bytes but those who have it open. While an upload is
    /// under way a note of that stays until it has cleared up.
    pub fn abandon(&self) {
        let mut kept = self.kept.lock();
        let outcome = match (&*kept, self.sending.load(SeqCst)) {
            (Kept::As(record), true) => {
                let mut note = record.clone();
                note.state = State::Deleted;
                note.write(&self.area.path(&self.id, RECORD), false)
            }
            _ => remove(&self.area.path(&self.id, RECORD)).and_then(|()| remove(&self.path())),
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "what was staged of a deleted file is still there");
        }
        *kept = Kept::NoMore;
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.area.room.give(self.units.get_mut().count());
        self.area.pieces.fetch_sub(1, SeqCst);
        let gone = match self.kept.get_mut() {
            Kept::As(_) => Ok(()),
            _ => remove(&self.path()),
        };
        if let Err(error) = gone {
            tracing::warn!(%error, "a staged file that the store has is still there");
        }
    }
}

/// The parts of a file that are no holes.
fn written(file: &File, len: u64) -> io::Result<Vec<(u64, u64)>> {
    use rustix::{
        fs::{SeekFrom, seek},
        io::Errno,
    };
    let mut parts = Vec::new();
    let mut at = 0;
    while at < len {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?;
        if end <= start {
            break;
        }
        parts.push((start, end));
        at = end;
    }
    Ok(parts)
}
