//! Heat: which segments are asked how often (`measure.rs`, with the counters in `tally.rs`), and what follows
//! from it (`decide.rs`). The decisions are carried out by `writing/tiers.rs`.

pub mod decide;
mod measure;
mod settings;
pub mod tally;

pub use self::{
    measure::{Averages, Heat},
    settings::HeatSettings,
    tally::{AnsweredFrom, Reading},
};
