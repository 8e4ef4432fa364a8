//! What goes over the wire for writes that are shipped beyond one disk. `docs/HTTP.md` describes it.

use serde::{Deserialize, Serialize};

use super::hot::{HotSegment, Token};

/// How often a hot worker ships what it committed: whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ship {
    /// So many ms after a transaction at the latest; 0: pages alone decide.
    pub every_ms: u64,
    /// When so many pages changed; 0: time alone decides.
    #[serde(default)]
    pub pages: u64,
}

/// In a [`super::hot::HotProvision`] that takes over: what the former holders of the lock have shipped is to
/// be taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HotRecover {
    /// Token of the lock that is taken over.
    pub token: Token,
    /// Files of tokens from this one on count: the first of the takeovers without a release between.
    pub from: Token,
    /// Last transaction that is in the generation in the store.
    pub promoted_change: u64,
}

/// What was found of shipped transactions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotRecovered {
    /// Token under which they were shipped.
    pub token: Token,
    /// The last one that is here now.
    pub change: u64,
    /// Files that were replayed; 0: this worker held the lock itself and had them all on its disk.
    pub files: u64,
    /// What could not be used, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused: Option<String>,
}

/// Answer to a [`super::hot::HotProvision`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotProvisioned {
    /// The segment.
    #[serde(flatten)]
    pub segment: HotSegment,
    /// Absent: nothing was asked for, or nothing was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<HotRecovered>,
}

/// In a [`super::hot::HotStatus`]: how far shipping is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShipStatus {
    /// What was asked for.
    #[serde(flatten)]
    pub ship: Ship,
    /// Last transaction that is in the store, promoted or shipped.
    pub shipped_change: u64,
    /// Age of the oldest acknowledged transaction that is on this disk alone; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unshipped_ms: Option<u64>,
    /// What the last attempt failed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// In a [`super::hot::ProvisionAnswer`] to a takeover: what became of the former holder's writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// Whom the lock was taken from.
    pub worker: String,
    /// Its token.
    pub token: Token,
    /// The last transaction that the new holder has.
    pub change: u64,
    /// The last one that the former holder was known to have acknowledged; absent: nobody knows. It may have
    /// acknowledged more since it was last heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<u64>,
    /// The same in a sentence.
    pub note: String,
}
