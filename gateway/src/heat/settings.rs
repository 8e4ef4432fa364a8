//! What heat can be told.

use std::time::Duration;

/// When segments are raised and lowered by themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct HeatSettings {
    /// Whether heat raises and lowers. It is measured all the same. Default true.
    pub on: bool,
    /// After so long without queries the heat of a segment is half of what it was. Default 10 min.
    pub half_life: Duration,
    /// For how long the present demand is taken to go on when a copy is weighed. Default 1 h.
    pub horizon: Duration,
    /// Fewest queries, counted with their decay, before a segment is raised. Default 8.
    pub queries_min: u32,
    /// A segment is lowered when a copy saves less than so many hundredths of its cost. Default 25.
    pub lower_percent: u32,
    /// Shortest stay of what was raised before heat may take it down. Default 10 min.
    pub stay_min: Duration,
    /// Queries a second for each copy. Default 100.
    pub rate_per_copy: u32,
    /// Pause between two looks at the heat of all segments. Default 10 s.
    pub interval: Duration,
    /// Most segments whose heat is known at once. Default 65,536.
    pub segments_max: usize,
    /// For so long neither heat nor a rule raises what was lowered by hand. Default 1 h.
    pub lowered_for: Duration,
}

impl Default for HeatSettings {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Self {
            on: true,
            half_life: minutes(10),
            horizon: minutes(60),
            queries_min: 8,
            lower_percent: 25,
            stay_min: minutes(10),
            rate_per_copy: 100,
            interval: Duration::from_secs(10),
            segments_max: 65_536,
            lowered_for: minutes(60),
        }
    }
}
