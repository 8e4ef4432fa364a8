//! What the ledger is made of.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    api::{
        hot::{SchemaInfo, Token},
        ship::Ship,
        tier_types::RaisedBy,
    },
    segment::SegmentId,
    store::Generation,
};

/// Name of the schema that always exists and is empty.
pub const DEFAULT_SCHEMA: &str = "default";

/// The right of one worker to write a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Holder.
    pub worker: String,
    /// Fencing token.
    pub token: Token,
    /// When it was granted, ms since 1970.
    pub since_ms: i64,
    /// Name of the schema asked for.
    pub schema: String,
    /// Directory of the segment in the store.
    pub directory: String,
    /// Generation in the store that the writes build upon; `None`: the store had none.
    pub base: Option<Generation>,
    /// Whether the worker has said that it is writable there. Before, no write can have been acknowledged.
    pub ready: bool,
    /// A promotion that the worker may not have heard of: generation, and last transaction in it.
    #[serde(default)]
    pub untold: Option<(Generation, u64)>,
    /// Last transaction that is in `base`, as the holder counts.
    #[serde(default)]
    pub base_change: u64,
    /// How the holder was asked to ship what is written.
    #[serde(default)]
    pub ship: Option<Ship>,
    /// Token of the first of the locks that were taken over from each other without a release: what was
    /// shipped under that or a later one belongs to this lock. 0: its own.
    #[serde(default)]
    pub ship_from: Token,
}

/// A write lock that ended because somebody else put another generation into the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Superseded {
    /// Its holder, where what was not promoted is kept aside.
    pub worker: String,
    /// Its token.
    pub token: Token,
    /// When it ended, ms since 1970.
    pub at_ms: i64,
    /// Generation that its writes built upon; `None`: the store had none.
    pub base: Option<Generation>,
    /// Generation that took the segment's place.
    pub generation: Generation,
    /// What the holder did when it heard of it; `None`: it was not reached yet.
    pub aside: Option<Aside>,
    /// The segment was provisioned since.
    pub over: bool,
}

/// What became of the writes that were not promoted when their lock ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aside {
    /// Whether the holder still knew of the lock; `false`: it has lost its data.
    pub known: bool,
    /// Name of the file in the holder's directory for them; `None`: there were none.
    pub file: Option<String>,
    /// Transactions in it that were never promoted.
    pub transactions: u64,
}

/// A promotion under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Token of the lock.
    pub token: Token,
    /// Name that the worker uploads to, below the store's root.
    pub temporary: String,
    /// Where it goes.
    pub path: String,
    /// Generation that it may replace; `None`: nothing may be there.
    pub expected: Option<Generation>,
    /// Known once the upload is verified: from then on the rename may have happened.
    pub uploaded: Option<Uploaded>,
}

/// What lies at the temporary name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploaded {
    /// Length in bytes.
    pub size: u64,
    /// Modification time of the temporary, ms since 1970: a rename keeps it, so it tells ours from others.
    pub mtime_ms: i64,
    /// xxh3-128 of its bytes, 32 hexadecimal digits.
    pub checksum: String,
    /// Last transaction in it.
    pub change: u64,
}

/// A deletion: under way, or over and remembered so that a listing begun before does not undo it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Token above every lock that the segment had: what workers are sent.
    pub token: Token,
    /// Directory where it lay.
    pub directory: String,
    /// When it began, ms since 1970.
    pub since_ms: i64,
    /// When it ended, ms since 1970.
    pub done_ms: Option<i64>,
    /// Generation that was removed last.
    pub generation: Option<Generation>,
}

/// A wish about the hot copies of a segment. Rows of before had only `copies`, and programs of before read
/// only that: to them all wishes are somebody's, and 0 copies none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raise {
    /// How many; 0: none, whatever heat and rules say.
    pub copies: u32,
    /// Whose wish it is.
    #[serde(default)]
    pub by: RaisedBy,
    /// Since when it is so, ms since 1970; 0: not known.
    #[serde(default)]
    pub since_ms: i64,
    /// Until when, ms since 1970; `None`: until somebody changes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<i64>,
}

impl Raise {
    /// Somebody's wish for `copies`, at `now_ms`.
    pub fn by_hand(copies: u32, now_ms: i64) -> Self {
        Self { copies, by: RaisedBy::Hand, since_ms: now_ms, until_ms: None }
    }
}

/// Checksum of a generation that was promoted through this gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// The generation.
    pub generation: Generation,
    /// xxh3-128 of its bytes, 32 hexadecimal digits.
    pub checksum: String,
}

/// Several workers say, after a registry was lost, that they may write a segment, with one and the same
/// token. Nobody may until somebody takes over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dispute {
    /// The token.
    pub token: Token,
    /// Their names.
    pub workers: BTreeSet<String>,
}

/// One change of the ledger.
#[derive(Debug, Clone)]
pub enum Entry {
    /// Write lock of a segment.
    Lock(SegmentId, Option<Lock>),
    /// Workers that claim one segment.
    Dispute(SegmentId, Option<Dispute>),
    /// The last write lock of a segment that a newer generation ended.
    Superseded(SegmentId, Option<Superseded>),
    /// Promotion of a segment.
    Intent(SegmentId, Option<Intent>),
    /// Deletion of a segment.
    Tombstone(SegmentId, Option<Tombstone>),
    /// Wish for copies.
    Raise(SegmentId, Option<Raise>),
    /// Workers that shall have it; empty: none.
    Pins(SegmentId, BTreeSet<String>),
    /// A new version of a schema.
    Schema(SchemaInfo),
    /// Whether a worker shall become empty.
    Drain(String, bool),
    /// Checksum of a promoted generation.
    Checksum(SegmentId, Option<Checksum>),
    /// No token up to this one will be given again.
    Token(Token),
}
