//! `springhouse version`.

use super::print;
use crate::{error::Failure, query};

/// Runs it.
pub fn run() -> Result<(), Failure> {
    let mut text = format!("springhouse {}\nSQLite {}\n", env!("CARGO_PKG_VERSION"), query::sqlite_version());
    for option in query::sqlite_compile_options() {
        text.push_str("  ");
        text.push_str(&option);
        text.push('\n');
    }
    print(&text)
}
