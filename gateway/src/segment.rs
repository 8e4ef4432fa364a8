//! Names of segments and where they lie.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest segment id in bytes.
pub const SEGMENT_ID_BYTES_MAX: usize = 200;
/// File name ending of a segment in the store.
pub const SEGMENT_SUFFIX: &str = ".sqlite";

/// The name of a segment: `[A-Za-z0-9._-]`, 1 to 200 bytes, no leading dot. So no id can leave the
/// store's root or name a hidden file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SegmentId(Box<str>);

/// Why a text is not a segment id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a segment id: 1 to 200 characters of A-Z a-z 0-9 . _ -, not starting with a dot")]
pub struct BadSegmentId(String);

impl SegmentId {
    /// Checks the grammar.
    pub fn parse(text: &str) -> Result<Self, BadSegmentId> {
        let good = (1..=SEGMENT_ID_BYTES_MAX).contains(&text.len())
            && !text.starts_with('.')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if good { Ok(Self(text.into())) } else { Err(BadSegmentId(text.chars().take(220).collect())) }
    }

    /// The id of a file called `name` in the store, if it is a segment's.
    pub fn from_file_name(name: &str) -> Option<Self> {
        name.strip_suffix(SEGMENT_SUFFIX).and_then(|id| Self::parse(id).ok())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory where the layout puts it: `/` and the id without its last 3 characters, the root
    /// for ids of 3 characters or fewer. (The grammar is ASCII: a character is a byte.)
    pub fn canonical_dir(&self) -> String {
        format!("/{}", &self.0[..self.0.len().saturating_sub(3)])
    }

    /// The path in `dir` (absolute below the store's root).
    pub fn path_in(&self, dir: &str) -> String {
        format!("{}/{}{SEGMENT_SUFFIX}", dir.trim_end_matches('/'), self.0)
    }
}

/// Hash, equality and order are the text's, so a map can be asked with one.
impl std::borrow::Borrow<str> for SegmentId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SegmentId {
    type Error = BadSegmentId;
    fn try_from(text: String) -> Result<Self, BadSegmentId> {
        Self::parse(&text)
    }
}

impl From<SegmentId> for String {
    fn from(id: SegmentId) -> Self {
        id.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar() {
        let long = "x".repeat(200);
        for good in ["a", "100", "ARCHIVEIT-1234-2024.x_y", "-", "a..b", &long] {
            assert!(SegmentId::parse(good).is_ok(), "{good}");
        }
        let longer = "x".repeat(201);
        for bad in ["", ".", "..", ".a", "a/b", "a b", "ü", "a\0", "%2e", &longer] {
            assert!(SegmentId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn layout() {
        let path = |id: &str| {
            let id = SegmentId::parse(id).expect(id);
            id.path_in(&id.canonical_dir())
        };
        assert_eq!(path("1234567"), "/1234/1234567.sqlite");
        assert_eq!(path("123"), "/123.sqlite");
        assert_eq!(path("1234"), "/1/1234.sqlite");
        assert_eq!(SegmentId::from_file_name("7.sqlite").map(String::from), Some("7".into()));
        assert_eq!(SegmentId::from_file_name("7.sqlite._COPYING_.9"), None);
        assert_eq!(SegmentId::from_file_name(".sqlite"), None);
    }
}
