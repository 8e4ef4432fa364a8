//! Interior-first relayout: a SQLite file in, the same database out, with every interior page directly
//! behind page 1.
//!
//! Interior pages are 0.3 to 0.6 % of a file, but SQLite leaves them wherever they came into being: 913
//! pages in 902 places of a file of 712 MB. Together they come with one read, and then any lookup costs
//! the one read of its leaf. The result is a plain SQLite file; nothing has to know of the order to use it.
//!
//! ```text
//! page 1 │ interior pages, tree by tree, level by level │ leaves of the schema │ leaves in key order,
//!        │ (auto_vacuum: all roots come first)          │                      │ tree by tree, overflow
//!        │                                              │                      │ chains behind their leaf
//! ```
//! Pointer-map pages and the lock-byte page are where the format wants them; there are no free pages.
//!
//! `source` (a file that is not trusted), `page` and `record` (the format) → `walk` (finds every page, in
//! order) → `schema` (the schema's tree, built anew), `plan` (new numbers) → `write`. All of it is without
//! SQLite; [`prepare`] is the whole way from a database in use to a checked file, with SQLite's help.
//!
//! Memory: about 13 bytes a page (21 with `auto_vacuum`), and the schema.

mod error;
mod page;
mod plan;
mod prepare;
mod record;
mod report;
mod schema;
mod source;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod walk;
mod watch;
mod write;

use std::{fs::File, path::Path};

pub use self::{
    error::RelayoutError,
    prepare::{Checked, Prepared, SCRATCH_PREFIX, prepare, relayout_checked},
    report::{ColdCost, Report},
    watch::{Phase, Progress, Watch},
};
use self::{plan::Plan, source::Source, walk::walk};

/// Lays the closed database `from` out anew as `to`, which must not exist. `from` must not be in WAL mode
/// and have no journal: a copy made by `VACUUM INTO` is right. What is written is not synced.
///
/// The contents are not looked at beyond what their place needs: whoever does not trust `from` has SQLite
/// check `to`, as [`prepare`] does.
///
/// # Errors
/// `from` is no database or a damaged one, reading or writing failed, or `watch` was cancelled; `to` does
/// not exist then.
pub fn relayout(from: &Path, to: &Path, watch: &Watch) -> Result<Report, RelayoutError> {
    let source = Source::open(from)?;
    let found = walk(&source, watch)?;
    let plan = Plan::new(&source.header, &found)?;
    let report = Report::new(&source.header, &found, &plan);
    let file = File::create_new(to).map_err(RelayoutError::io("creating the new file"))?;
    let written = write::write(&source, &found, &plan, file, watch);
    if written.is_err() {
        // The reason of the failure is what matters; a file that cannot be removed shows by itself.
        let _ = std::fs::remove_file(to);
    }
    written.map(|()| report)
}
