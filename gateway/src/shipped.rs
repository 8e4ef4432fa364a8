//! Names of the files in which a worker ships what it has written beyond its own disk.
//!
//! ```text
//! NAME.sqlite._SHIPPED_.TOKEN.SEQUENCE         whole
//! NAME.sqlite._SHIPPED_.TOKEN.SEQUENCE.part    being written, or left over
//! ```
//! They lie beside the segment. No segment has such a name, so discovery passes them by.

use crate::{
    api::hot::Token,
    segment::{SEGMENT_SUFFIX, SegmentId},
};

const MARK: &str = "._SHIPPED_.";
const PART: &str = ".part";

/// What a file's name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShippedName {
    /// Whose writes.
    pub id: SegmentId,
    /// Fencing token of the lock under which they were made.
    pub token: Token,
    /// From 1, rising by one under each token.
    pub sequence: u64,
    /// `false`: it may be cut short.
    pub whole: bool,
}

impl ShippedName {
    /// A whole file's.
    pub fn new(id: &SegmentId, token: Token, sequence: u64) -> Self {
        Self { id: id.clone(), token, sequence, whole: true }
    }

    /// From the last component of a path. Only what [`ShippedName::file_name`] gives is one.
    pub fn parse(name: &str) -> Option<Self> {
        let (id, rest) = name.rsplit_once(&format!("{SEGMENT_SUFFIX}{MARK}"))?;
        let (rest, whole) = match rest.strip_suffix(PART) {
            Some(rest) => (rest, false),
            None => (rest, true),
        };
        let (token, sequence) = rest.split_once('.')?;
        let parsed = Self {
            id: SegmentId::parse(id).ok()?,
            token: token.parse().ok()?,
            sequence: sequence.parse().ok()?,
            whole,
        };
        (parsed.file_name() == name).then_some(parsed)
    }

    /// The name: at most 255 bytes for any id.
    pub fn file_name(&self) -> String {
        let part = if self.whole { "" } else { PART };
        format!("{}{SEGMENT_SUFFIX}{MARK}{}.{}{part}", self.id, self.token, self.sequence)
    }

    /// Its path in `directory`.
    pub fn path_in(&self, directory: &str) -> String {
        format!("{}/{}", directory.trim_end_matches('/'), self.file_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_it_was_made_of() {
        let id = SegmentId::parse("a.sqlite._SHIPPED_").expect("an id");
        for id in [SegmentId::parse("1234").expect("an id"), id] {
            for whole in [true, false] {
                let name = ShippedName { id: id.clone(), token: 7 << 40, sequence: 12, whole };
                assert_eq!(ShippedName::parse(&name.file_name()), Some(name.clone()), "{name:?}");
                assert_eq!(SegmentId::from_file_name(&name.file_name()), None);
            }
        }
        let longest = SegmentId::parse(&"x".repeat(200)).expect("an id");
        let longest = ShippedName { whole: false, ..ShippedName::new(&longest, u64::MAX, 999_999_999) };
        assert!(longest.file_name().len() <= 255, "{}", longest.file_name().len());
    }

    #[test]
    fn nothing_else_is_one() {
        for other in [
            "1234.sqlite",
            "1234.sqlite._COPYING_.7",
            "1234.sqlite._SHIPPED_.7",
            "1234.sqlite._SHIPPED_.7.1.part.part",
            "1234.sqlite._SHIPPED_.07.1",
            "1234.sqlite._SHIPPED_.7.+1",
            ".1234.sqlite._SHIPPED_.7.1",
            "1234._SHIPPED_.7.1",
        ] {
            assert_eq!(ShippedName::parse(other), None, "{other}");
        }
    }
}
