//! Names that a file has on its way.

use std::time::SystemTime;

use humantime::format_rfc3339_seconds;

use crate::store::NAME_BYTES_MAX;

/// Under which a file is written before it takes its place. What Hadoop's own tools call theirs, so that
/// whoever lists a directory knows to pass it over.
pub fn temporary_name(name: &str, id: &str) -> String {
    with_suffix(name, &format!("._COPYING_.{id}"))
}

/// Under which a file is kept whose place somebody else took. `nth` tells apart those of one second.
pub fn recovered_name(name: &str, now: SystemTime, nth: u32) -> String {
    // HDFS takes no colons.
    let time: String = format_rfc3339_seconds(now).to_string().replace(['-', ':'], "");
    let nth = if nth == 0 { String::new() } else { format!("-{nth}") };
    with_suffix(name, &format!(".springhouse-recovered-{time}{nth}"))
}

/// A long name is cut, so that the whole is one that stores take.
fn with_suffix(name: &str, suffix: &str) -> String {
    let room = NAME_BYTES_MAX.saturating_sub(suffix.len());
    let cut = (0..=room.min(name.len())).rev().find(|at| name.is_char_boundary(*at)).unwrap_or_default();
    format!("{}{suffix}", &name[..cut])
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn names_are_ones_that_stores_take() {
        assert_eq!(temporary_name("a.db", "0f"), "a.db._COPYING_.0f");
        let then = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        assert_eq!(recovered_name("a.db", then, 0), "a.db.springhouse-recovered-20270115T080000Z");
        assert!(recovered_name("a.db", then, 3).ends_with("Z-3"));
        for long in ["x".repeat(255), "ü".repeat(127)] {
            let name = temporary_name(&long, "0123456789abcdef");
            assert!(name.len() <= NAME_BYTES_MAX && name.ends_with(".0123456789abcdef"), "{name}");
        }
    }
}
