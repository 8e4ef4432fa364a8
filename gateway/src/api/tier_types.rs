//! What goes over the wire for tiers. `docs/HTTP.md` describes it.

use serde::{Deserialize, Serialize};

use crate::rules::TierRule;

/// `GET /v1/rules`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleList {
    /// In order: the first that matches a segment holds.
    pub rules: Vec<RuleInfo>,
    /// What holds where none matches.
    pub otherwise: RuleInfo,
}

/// One rule, with the gateway's settings where it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleInfo {
    /// Its name; absent: no rule matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Ids that begin so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Regular expression for whole ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// Segments whose last modification in the store is so long ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than_ms: Option<u64>,
    /// `cold`, `hot`, `heat` or `manual`.
    pub tier: TierRule,
    /// Fewest hot copies of a segment that has any.
    pub copies_minimum: u32,
    /// Most hot copies.
    pub copies_maximum: u32,
    /// Longest time that committed changes are on their worker's disk alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ship_every_ms: Option<u64>,
    /// So many changed pages are shipped at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ship_pages: Option<u64>,
}
