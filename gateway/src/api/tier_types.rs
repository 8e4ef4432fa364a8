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

/// Whose wish for hot copies it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RaisedBy {
    /// Somebody's: heat never changes it.
    #[default]
    Hand,
    /// Demand's.
    Heat,
}

/// What would be done with the hot copies of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TierAction {
    /// Nothing.
    None,
    /// It has none, and gets some.
    Raise,
    /// It has some, and they go.
    Lower,
    /// It gets more.
    More,
    /// Some go.
    Fewer,
}

impl TierAction {
    /// As JSON has it, without quotes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Raise => "raise",
            Self::Lower => "lower",
            Self::More => "more",
            Self::Fewer => "fewer",
        }
    }
}

/// `GET /v1/segments/{id}/tier`: what is known of a segment's demand and copies, what the gateway would do at
/// its next look, and why. Asking changes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TierInfo {
    /// The segment.
    pub segment: String,
    /// Its length in the store, in bytes.
    pub size: u64,
    /// Last modification in the store, ms since 1970.
    pub mtime_ms: i64,
    /// The rule that matches it; absent: none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Who decides.
    pub tier: TierRule,
    /// Fewest copies if it has any.
    pub copies_minimum: u32,
    /// Most copies.
    pub copies_maximum: u32,
    /// Who raised it: `hand` or `heat`; absent: nobody, though a rule may keep it hot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raised_by: Option<RaisedBy>,
    /// Since when it is so, ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<i64>,
    /// It was lowered by hand, and is not raised before this time, ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lowered_until_ms: Option<i64>,
    /// Queries, each counted as 2^(-age / half-life): at most so many.
    pub queries: f64,
    /// And so many fewer at most.
    pub queries_error: f64,
    /// Queries a second that follow from it.
    pub queries_per_s: f64,
    /// What an answer from the store takes.
    pub cold_ms: f64,
    /// Whether that was measured on this segment; otherwise it is the mean of all, or assumed.
    pub cold_measured: bool,
    /// What an answer from a copy takes.
    pub hot_ms: f64,
    /// What making the copies takes.
    pub copy_ms: f64,
    /// Whether that comes from copies that workers made; otherwise from an assumed bandwidth.
    pub copy_measured: bool,
    /// What copies save within the horizon.
    pub saved_ms: f64,
    /// Raised if more is saved than this.
    pub raise_above_ms: f64,
    /// Lowered if less is saved than this.
    pub lower_below_ms: f64,
    /// Hot copies that it shall have now.
    pub copies: u32,
    /// And after the next look.
    pub copies_then: u32,
    /// What the next look would do.
    pub action: TierAction,
    /// Why, in sentences.
    pub reasons: Vec<String>,
    /// Workers that are to hold it now.
    pub assigned: Vec<String>,
    /// Workers that would hold it then; only where one segment is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub would_go: Vec<String>,
}

/// `GET /v1/tiers`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TierList {
    /// Segments that are raised, pinned, kept hot by a rule or lowered by hand for a while; hottest first.
    pub segments: Vec<TierInfo>,
    /// Pass as `after` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How many there are in all.
    pub total: u64,
}
