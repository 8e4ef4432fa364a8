//! Why bytes are fetched from the store.

use serde::{Deserialize, Serialize};

/// Why a read is sent to the store: told apart in the metrics, and what is fetched on suspicion gives
/// way to what somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// A process waits for it.
    Demand,
    /// Interior pages of a database's b-trees.
    Interior,
    /// Leaves that a query will ask for next.
    Lookahead,
    /// What follows a sequential reader.
    Readahead,
    /// Somebody asked for it to be there.
    Warm,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Demand, Self::Interior, Self::Lookahead, Self::Readahead, Self::Warm];

    /// As metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Demand => "demand",
            Self::Interior => "interior",
            Self::Lookahead => "lookahead",
            Self::Readahead => "readahead",
            Self::Warm => "warm",
        }
    }
}
