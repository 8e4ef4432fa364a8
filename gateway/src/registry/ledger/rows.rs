//! How the ledger lies in the registry: keys as bytes, values as sealed JSON. Pure.
//!
//! ```text
//! !KIND 0x00 SUBJECT            lock, superseded, dispute, intent, tombstone, raise, pin (of a segment), drain
//!                               (of a worker)
//! !schema 0x00 NAME 0x00 N      one version of a schema, N in ten digits
//! !token                        the highest token that was ever given
//! ~sum 0x00 SEGMENT             checksum of a promoted generation; read one by one, never all
//! ```
//! No key begins with `/`: those are the catalog's.

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    registry::{
        RowChange,
        rows::{seal, unseal},
    },
    segment::SegmentId,
};

/// First byte of every key of the ledger that is loaded at the start.
pub const LEDGER: u8 = b'!';
/// Keys from here on are not read at the start.
pub const LOADED_END: &[u8] = b"~";

/// What a key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerKey {
    /// Write lock of a segment.
    Lock(SegmentId),
    /// Claims of several workers to one segment.
    Dispute(SegmentId),
    /// A write lock that a newer generation ended.
    Superseded(SegmentId),
    /// Promotion under way.
    Intent(SegmentId),
    /// Deletion under way, or over a moment ago.
    Tombstone(SegmentId),
    /// Wish for hot copies.
    Raise(SegmentId),
    /// Workers that shall have a segment.
    Pins(SegmentId),
    /// One version of a schema.
    Schema(SegmentId, u32),
    /// A worker that shall become empty.
    Drain(String),
    /// The highest token.
    Token,
    /// Checksum of a promoted generation.
    Checksum(SegmentId),
}

impl LedgerKey {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Lock(id) => format!("!lock\0{id}"),
            Self::Dispute(id) => format!("!dispute\0{id}"),
            Self::Superseded(id) => format!("!superseded\0{id}"),
            Self::Intent(id) => format!("!intent\0{id}"),
            Self::Tombstone(id) => format!("!tombstone\0{id}"),
            Self::Raise(id) => format!("!raise\0{id}"),
            Self::Pins(id) => format!("!pin\0{id}"),
            Self::Schema(name, version) => format!("!schema\0{name}\0{version:010}"),
            Self::Drain(worker) => format!("!drain\0{worker}"),
            Self::Token => "!token".to_owned(),
            Self::Checksum(id) => format!("~sum\0{id}"),
        }
        .into_bytes()
    }

    /// From bytes; `None`: nothing this program knows.
    pub fn decode(key: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(key).ok()?;
        if text == "!token" {
            return Some(Self::Token);
        }
        let (kind, subject) = text.split_once('\0')?;
        let id = |subject: &str| SegmentId::parse(subject).ok();
        match kind {
            "!lock" => id(subject).map(Self::Lock),
            "!dispute" => id(subject).map(Self::Dispute),
            "!superseded" => id(subject).map(Self::Superseded),
            "!intent" => id(subject).map(Self::Intent),
            "!tombstone" => id(subject).map(Self::Tombstone),
            "!raise" => id(subject).map(Self::Raise),
            "!pin" => id(subject).map(Self::Pins),
            "!schema" => {
                let (name, version) = subject.split_once('\0')?;
                Some(Self::Schema(id(name)?, version.parse().ok()?))
            }
            "!drain" if !subject.is_empty() => Some(Self::Drain(subject.to_owned())),
            "~sum" => id(subject).map(Self::Checksum),
            _ => None,
        }
    }

    /// The segment that a damaged row of this key puts in doubt.
    pub fn segment(&self) -> Option<&SegmentId> {
        match self {
            Self::Lock(id) | Self::Dispute(id) | Self::Intent(id) | Self::Tombstone(id) => Some(id),
            _ => None,
        }
    }

    /// Row that holds `value`; `None` takes it away.
    pub fn row<T: Serialize>(&self, value: Option<&T>) -> Result<RowChange, serde_json::Error> {
        let key = self.encode();
        Ok(match value {
            Some(value) => {
                let sealed = seal(&key, &serde_json::to_vec(value)?);
                RowChange::Put(key, sealed)
            }
            None => RowChange::Delete(key),
        })
    }
}

/// Kind and subject of a key as an export has them: `lock` of `1234567`, `schema` of `pages/0000000001`,
/// `token` of nothing. `None`: not a key of the ledger.
pub fn kind_and_subject(key: &[u8]) -> Option<(String, Option<String>)> {
    let text = std::str::from_utf8(key).ok().filter(|text| !text.contains('/'))?;
    let (kind, subject) = match text.split_once('\0') {
        Some((kind, subject)) => (kind, Some(subject.replace('\0', "/"))),
        None => (text, None),
    };
    let kind = match kind {
        "~sum" => "checksum",
        later if later.starts_with('~') => later,
        kind => kind.strip_prefix('!')?,
    };
    Some((kind.to_owned(), subject))
}

/// The key of [`kind_and_subject`].
pub fn key_of(kind: &str, subject: Option<&str>) -> Vec<u8> {
    let mut key = match kind {
        "checksum" => "~sum".to_owned(),
        later if later.starts_with('~') => later.to_owned(),
        kind => format!("!{kind}"),
    };
    if let Some(subject) = subject {
        key.push('\0');
        key.push_str(&subject.replace('/', "\0"));
    }
    key.into_bytes()
}

/// What is wrong with a row of the ledger, if anything is.
pub fn check(key: &[u8], value: &[u8]) -> Result<(), String> {
    match LedgerKey::decode(key) {
        Some(LedgerKey::Checksum(_)) => read::<super::Checksum>(key, value).map(drop),
        Some(known) => super::Ledger::default().load_known(&known, key, value),
        None => Err("unknown key".to_owned()),
    }
}

/// Content of a row, or what is wrong with it.
pub fn read<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, String> {
    let payload = unseal(key, value).map_err(|e| e.to_string())?;
    serde_json::from_slice(payload).map_err(|e| e.to_string())
}

/// A key for people: zeros shown as spaces.
pub fn name_of(key: &[u8]) -> String {
    String::from_utf8_lossy(key).replace('\0', " ").escape_debug().to_string()
}
