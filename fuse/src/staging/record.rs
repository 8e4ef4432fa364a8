//! What is known of a staged file when nothing else is left of the process that wrote it.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};

use super::local;
use crate::{
    error::{Error, ErrorKind, Result},
    store::{Generation, Metadata},
};

/// Changes with the meaning of a field.
const VERSION: u32 = 1;

/// No record is longer: a path has 4 KiB in HDFS.
const BYTES_MAX: u64 = 64 << 10;

/// What is to become of a staged file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It has bytes that the store has not.
    Dirty,
    /// The file was deleted on the mount; what an upload left in the store has to go.
    Deleted,
}

/// By what a file is known again that was put in its place, when the store did not say of which generation
/// it is there: a rename changes neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    len: u64,
    mtime_ns: u64,
}

impl From<&Metadata> for Sent {
    fn from(metadata: &Metadata) -> Self {
        let mtime = metadata.mtime.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { len: metadata.len, mtime_ns: u64::try_from(mtime.as_nanos()).unwrap_or(u64::MAX) }
    }
}

/// What has to be at the path of a file that was made from it, for the file to take its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Base {
    /// Its generation; `None`: nothing is there.
    pub generation: Option<Generation>,
    /// Or an upload of which nobody heard how it ended.
    pub sent: Option<Sent>,
}

impl Base {
    /// The generation that a file was made from.
    pub fn of(generation: Generation) -> Self {
        Self { generation: Some(generation), sent: None }
    }

    /// Whether it is what is there now.
    pub fn is(&self, there: Option<&Metadata>) -> bool {
        let sent = there.is_some_and(|there| self.sent == Some(there.into()));
        sent || there.map(|there| there.generation) == self.generation
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// What is to become of it.
    pub state: State,
    /// URL of the store that it belongs to.
    pub store: String,
    /// Its path there.
    pub path: String,
    /// Of which generation it was made, as [`Generation`] prints; `None`: the path was free.
    pub base: Option<String>,
    /// What an upload may have put there since.
    #[serde(default)]
    pub sent: Option<Sent>,
    /// Permission bits, should nothing be there to take them from.
    pub mode: u32,
    /// The user on this host who writes, and his group.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
}

impl Record {
    /// A record of a dirty file.
    pub fn new(store: String, path: String, base: Base, mode: u32, (uid, gid): (u32, u32)) -> Self {
        let state = State::Dirty;
        let mut record =
            Self { version: VERSION, state, store, path, base: None, sent: None, mode, uid, gid };
        record.rebase(base);
        record
    }

    /// From now on it was made from `base`.
    pub fn rebase(&mut self, base: Base) {
        self.base = base.generation.map(|generation| generation.to_string());
        self.sent = base.sent;
    }

    /// What the file was made from.
    pub fn base(&self) -> Base {
        Base { generation: self.base.as_deref().and_then(Generation::parse), sent: self.sent }
    }

    pub(super) fn read(path: &Path) -> Result<Self> {
        let bad = |why: String| Error::new(ErrorKind::Other, format!("{}: {why}", path.display()));
        if fs::metadata(path).map_err(|error| local(&error, path))?.len() > BYTES_MAX {
            return Err(bad("longer than any record".into()));
        }
        let text = fs::read(path).map_err(|error| local(&error, path))?;
        let record: Self = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        if record.version != VERSION {
            return Err(bad(format!("of version {}, this one reads {VERSION}", record.version)));
        }
        if record.base.is_some() && record.base().generation.is_none() {
            return Err(bad("no such generation".into()));
        }
        Ok(record)
    }

    /// In the place of what is there, whole or not at all; with `last` it stays also if the power goes
    /// (the name as well, once its directory is synchronised).
    pub(super) fn write(&self, path: &Path, last: bool) -> Result<()> {
        let failed = |error: std::io::Error| local(&error, path);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::new(ErrorKind::Other, format!("{}: {error}", path.display())))?;
        let new = path.with_extension("tmp");
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new);
        let mut file = file.map_err(failed)?;
        file.write_all(&text).map_err(failed)?;
        if last {
            file.sync_data().map_err(failed)?;
        }
        fs::rename(&new, path).map_err(failed)
    }
}
