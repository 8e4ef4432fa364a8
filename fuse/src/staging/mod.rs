//! The staging area: local files for what is being written in any pattern, until the store has it.
//!
//! A [`Piece`] is one such file, `<id>.data`. Before the first byte of it is accepted, a [`Record`] lies
//! beside it, `<id>.json`, that says where it belongs and from which generation it was made; the record
//! goes as soon as the store has the bytes. So after a crash a file with a record is one whose bytes
//! somebody was promised, and a file without one is of no value. Nothing with a record is ever removed
//! by anything but its upload, or by whoever deleted the file on the mount.
//!
//! An area belongs to one process at a time, which holds a lock in it: two would take up each other's
//! files.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use xxhash_rust::xxh3::xxh3_64;

pub use self::{
    names::{recovered_name, temporary_name},
    piece::Piece,
    record::{Base, Record, Sent, State},
    room::{Room, Units},
    upload::{CHUNK_BYTES, Placed, Upload, blocking},
};
use crate::error::{Error, ErrorKind, Result};

mod names;
mod piece;
mod record;
mod room;
mod upload;

const DATA: &str = "data";
const RECORD: &str = "json";
const LOCK: &str = "lock";

/// See the module.
#[derive(Debug)]
pub struct Area {
    dir: PathBuf,
    room: Arc<Room>,
    /// The dirty and the clean, as files that exist.
    pieces: AtomicU64,
    /// Makes the ids of one process differ from those of another.
    seed: u64,
    next: AtomicU64,
    /// Locked while this lives.
    _lock: File,
}

/// What an earlier process left in an area.
#[derive(Debug)]
pub struct LeftOver {
    /// Where it belongs.
    pub record: Record,
    /// Its bytes.
    pub piece: Piece,
}

impl Area {
    /// The area in the directory `dir`, made if it is not there, for at most `bytes_max` bytes.
    ///
    /// `Busy` if another process has it, `PermissionDenied` if it is open to others.
    pub fn open(dir: &Path, bytes_max: u64) -> Result<Arc<Self>> {
        let failed =
            |error: io::Error| Error::from_io(&error, format!("staging directory {}", dir.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        // What lies there is written into the store by our rights.
        let metadata = fs::metadata(dir).map_err(failed)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(refused(dir, "belongs to another user; name one of your own with --staging-dir"));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(refused(dir, "others may write there; chmod go-w"));
        }
        let mut lock = OpenOptions::new();
        lock.create(true).truncate(false).write(true).mode(0o600);
        let lock = lock.open(dir.join(LOCK)).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let message = format!(
                    "staging directory {} is in use by another mount; give each mount one of its own with --staging-dir",
                    dir.display()
                );
                return Err(Error::new(ErrorKind::Busy, message));
            }
            Err(error) => return Err(failed(error.into())),
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seed = format!("{} {} {}", dir.display(), std::process::id(), now.as_nanos());
        Ok(Arc::new(Self {
            dir: dir.to_owned(),
            room: Arc::new(Room::new(bytes_max)),
            pieces: AtomicU64::new(0),
            seed: xxh3_64(seed.as_bytes()),
            next: AtomicU64::new(0),
            _lock: lock,
        }))
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How much lies here.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// Files that lie here now.
    pub fn pieces(&self) -> u64 {
        self.pieces.load(Relaxed)
    }

    /// An empty piece, of no value yet. Blocks.
    pub fn piece(self: &Arc<Self>) -> Result<Piece> {
        loop {
            let number = self.next.fetch_add(1, Relaxed);
            let id = format!("{:016x}", self.seed.wrapping_add(number));
            match Piece::create(self.clone(), id) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => return made,
            }
        }
    }

    /// What an earlier process left here, in the order of names. What has no value is removed, what
    /// cannot be read is left alone with a line in the log. To be called once, before the first piece is
    /// made. Blocks.
    pub fn left_overs(self: &Arc<Self>) -> Result<Vec<LeftOver>> {
        let failed = |error: io::Error| Error::from_io(&error, self.dir.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            names.extend(name.into_string());
        }
        names.sort();
        let mut found = Vec::new();
        for name in &names {
            if let Some(id) = name.strip_suffix(".data") {
                if !names.iter().any(|other| other.strip_suffix(".json") == Some(id)) {
                    tracing::debug!(name, "no byte of it was accepted: removed");
                    remove(&self.dir.join(name))?;
                }
            } else if let Some(id) = name.strip_suffix(".json") {
                match self.left_over(id) {
                    Ok(left_over) => found.push(left_over),
                    Err(error) => tracing::error!(
                        record = %self.dir.join(name).display(), %error,
                        "what lies staged cannot be read, and is left as it is"
                    ),
                }
            } else if name.ends_with(".tmp") {
                remove(&self.dir.join(name))?;
            }
        }
        Ok(found)
    }

    fn left_over(self: &Arc<Self>, id: &str) -> Result<LeftOver> {
        let record = Record::read(&self.path(id, RECORD))?;
        let piece = Piece::open(self.clone(), id.to_owned())?;
        Ok(LeftOver { record, piece })
    }

    fn path(&self, id: &str, kind: &str) -> PathBuf {
        self.dir.join(format!("{id}.{kind}"))
    }

    /// A name that came or went lasts.
    fn sync(&self) -> Result<()> {
        let synced = File::open(&self.dir).and_then(|dir| dir.sync_all());
        synced.map_err(|error| local(&error, &self.dir))
    }
}

fn refused(dir: &Path, why: &str) -> Error {
    Error::new(ErrorKind::PermissionDenied, format!("staging directory {}: {why}", dir.display()))
}

/// An error of the local disk. Its `EIO` says nothing about the store's bytes.
fn local(error: &io::Error, path: &Path) -> Error {
    let what = format!("staged {}", path.display());
    match error.kind() {
        io::ErrorKind::FileTooLarge => Error::new(ErrorKind::NoSpace, format!("{what}: {error}")),
        io::ErrorKind::NotFound => Error::new(ErrorKind::Other, format!("{what}: {error}")),
        _ => Error::from_io(error, what),
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(local(&error, path)),
        _ => Ok(()),
    }
}
