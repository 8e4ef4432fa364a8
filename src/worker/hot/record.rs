//! What is known of a segment when nothing else is left of the process that had it.
//!
//! A JSON file beside each copy: replaced as a whole by a rename, independent of all others, readable
//! with `cat`. One database for all would be a second thing that can be damaged, and take all segments
//! with it.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};
use springhouse_gateway::api::{hot::Token, ship::Ship};

use super::data::replace;

/// Changes with the meaning of a field.
const VERSION: u32 = 1;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    /// Path below the store's root.
    pub(super) path: String,
    /// Highest token seen: whoever has a lower one may change nothing any more. Stays when the copy goes.
    pub(super) fence: Token,
    /// Highest number of an upload that was begun: each is made once. Stays when the copy goes.
    #[serde(default)]
    pub(super) attempt: Token,
    /// The copy.
    #[serde(default)]
    pub(super) copy: Option<CopyRecord>,
    /// A part that is about to take the copy's place, which is worth nothing from here on.
    #[serde(default)]
    pub(super) incoming: Option<CopyRecord>,
    /// The copy is being kept aside: the last process began to move it.
    #[serde(default)]
    pub(super) keeping: Option<Kept>,
    /// What was kept aside last, oldest first: the gateway asks under which names.
    #[serde(default)]
    pub(super) kept: Vec<Kept>,
    /// How what is written is shipped, as long as the copy is writable.
    #[serde(default)]
    pub(super) ship: Option<Ship>,
}

/// Writes that nobody promoted, in a file of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Name in the directory for them.
    pub(super) file: String,
    /// Under which they were written.
    pub(super) token: Token,
    /// Transactions in it that were not promoted.
    pub(super) transactions: u64,
}

/// So many names are remembered: one that nobody asked for by then is in the log.
const KEPT_MAX: usize = 8;

/// A copy as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CopyRecord {
    /// Generation in the store that it was copied from or promoted to.
    pub(super) generation: Option<String>,
    /// Bytes when it was copied.
    pub(super) size: u64,
    /// xxh3-128 of them; `None` once it was written to.
    #[serde(default)]
    pub(super) checksum: Option<String>,
    /// Under which it is writable.
    #[serde(default)]
    pub(super) token: Option<Token>,
    /// A transaction that it has: its last one is this or a later one.
    #[serde(default)]
    pub(super) change: u64,
    /// The last one that is in the store.
    #[serde(default)]
    pub(super) promoted_change: u64,
    /// What the field of its header held in which transactions are counted; `None`: nobody began to make
    /// it ready for writing.
    #[serde(default)]
    pub(super) field: Option<u32>,
    /// It was made ready for writing: the field counts.
    #[serde(default)]
    pub(super) written: bool,
}

impl Record {
    /// Of a segment that nothing is known of.
    pub(super) fn new(path: impl Into<String>) -> Self {
        Self {
            version: VERSION,
            path: path.into(),
            fence: 0,
            attempt: 0,
            copy: None,
            incoming: None,
            keeping: None,
            ship: None,
            kept: Vec::new(),
        }
    }

    /// The upload numbered `attempt` begins.
    pub(super) fn begin(&mut self, attempt: Option<Token>) {
        self.attempt = self.attempt.max(attempt.unwrap_or(0));
    }

    /// The record at `path`, if there is one.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let record: Self = serde_json::from_slice(&text)?;
        if record.version != VERSION {
            return Err(io::Error::other(format!("of version {}, this one reads {VERSION}", record.version)));
        }
        Ok(Some(record))
    }

    /// What was to be kept aside is.
    pub(super) fn end_keeping(&mut self) {
        self.copy = None;
        self.kept.extend(self.keeping.take());
        let many = self.kept.len().saturating_sub(KEPT_MAX);
        self.kept.drain(..many);
    }

    /// Durably in the place of what is there.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        replace(path, &text)
    }
}

impl CopyRecord {
    /// Of bytes that were copied from `generation`.
    pub(super) fn copied(generation: String, size: u64, checksum: String) -> Self {
        Self {
            generation: Some(generation),
            size,
            checksum: Some(checksum),
            token: None,
            change: 0,
            promoted_change: 0,
            field: None,
            written: false,
        }
    }

    /// Of a new segment.
    pub(super) fn created(size: u64) -> Self {
        Self {
            generation: None,
            size,
            checksum: None,
            token: None,
            change: 0,
            promoted_change: 0,
            field: None,
            written: false,
        }
    }
}
