//! Writing a segment: one thread, one connection, one log.
//!
//! `writer` (queue) → `group` (group commit) → `run` (one request in its savepoint) → the sandbox of the engine with
//! an authorizer for writing. `keys` remembers which requests were applied, `marker` which transaction
//! the file is at. `log` and `pages` know which pages changed and show them as of one commit, for whoever ships
//! them elsewhere. `create` and `copy` are the file's beginning and its way out.
//!
//! **WAL.** A database that is written is in WAL mode: a commit is one `fsync` of the log, readers see
//! the last commit and neither wait for the writer nor hold it up. In the rollback modes a commit costs
//! two or three and readers keep the writer out; that is why readers of these files open them as live
//! databases (never `immutable`), and why what leaves here is always a copy in the ordinary mode.
//!
//! **Where the number of a transaction is kept.** Idempotency keys have to be remembered with exactly the
//! transactions that took place. A table for them would show in the segment's schema, and so in answers.
//! An attached database is not committed atomically with a main one that is in WAL mode. So the keys are
//! in a file beside, synchronised before the commit, each with the number of its transaction; and the
//! last number is in the database itself, where no SQL shows it: the header field of the suggested cache
//! size, which nobody uses and every commit can change. After a crash keys of transactions that the
//! database has not are dropped. A copy that leaves gets back what the field held.

mod copy;
mod create;
mod group;
mod keys;
mod log;
mod marker;
mod metrics;
mod pages;
mod run;
#[cfg(test)]
mod tests;
mod writer;

pub use self::{
    copy::{Copied, copy, last_change, quick_check},
    create::{create, prepare},
    log::Pinned,
    marker::Marker,
    metrics::WriteMetrics,
    pages::{PageSet, Pages, Taken, Unshipped},
    writer::{Changes, Execute, Key, WriteSettings, Writer, WrittenFiles},
};
