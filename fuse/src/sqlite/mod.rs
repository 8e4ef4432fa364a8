//! SQLite databases, understood well enough to know which pages are read next. Pure: no I/O, no clock.
//!
//! [`Database`] is told what is asked for and what has come, and says what to fetch. Everything here is
//! advice: no byte is ever changed or made up, a file with anything odd is read like any other, and a
//! hostile one can cost at most useless reads within the bounds that the caller sets.

mod database;
mod header;
mod lookahead;
mod page;
mod record;
mod scan;
mod schema;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod trees;

pub use self::{
    database::{Arrived, Database, Work},
    header::{Encoding, HEADER_BYTES, Header},
};
