//! Names of the files that promotions upload to.
//!
//! ```text
//! NAME.sqlite._COPYING_.TOKEN.ATTEMPT
//! NAME.sqlite._COPYING_.TOKEN            as they were named before
//! ```
//! They lie beside the segment. An attempt has a number from the sequence of tokens, which gives each number
//! once: so no two uploads have the same name, ever, and a file or a rename that a store makes late, after its
//! attempt was given up, meets nobody else's.

use crate::{
    api::hot::Token,
    segment::{SEGMENT_SUFFIX, SegmentId},
};

const MARK: &str = "._COPYING_.";

/// What a file's name says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UploadName {
    /// Which segment is promoted.
    pub id: SegmentId,
    /// Fencing token of the lock under which that is done.
    pub token: Token,
    /// Which attempt; `None`: of a gateway that did not tell them apart.
    pub attempt: Option<Token>,
}

impl UploadName {
    /// From the last component of a path. Only what [`UploadName::file_name`] gives is one.
    pub fn parse(name: &str) -> Option<Self> {
        let (id, rest) = name.rsplit_once(&format!("{SEGMENT_SUFFIX}{MARK}"))?;
        let (token, attempt) = match rest.split_once('.') {
            Some((token, attempt)) => (token, Some(attempt.parse().ok()?)),
            None => (rest, None),
        };
        let parsed = Self { id: SegmentId::parse(id).ok()?, token: token.parse().ok()?, attempt };
        (parsed.file_name() == name).then_some(parsed)
    }

    /// The name: at most 255 bytes for any id, and for tokens below 10^18.
    pub fn file_name(&self) -> String {
        self.beside(&format!("{}{SEGMENT_SUFFIX}", self.id))
    }

    /// Its path, where the segment's is `path`.
    pub fn beside(&self, path: &str) -> String {
        let Self { token, attempt, .. } = self;
        match attempt {
            Some(attempt) => format!("{path}{MARK}{token}.{attempt}"),
            None => format!("{path}{MARK}{token}"),
        }
    }

    /// The highest number in it that a registry has given.
    pub fn highest(&self) -> Token {
        self.attempt.map_or(self.token, |attempt| attempt.max(self.token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_it_was_made_of() {
        for id in ["1234", "a.sqlite._COPYING_.7", "a.sqlite._COPYING_.7.9"] {
            let id = SegmentId::parse(id).expect("an id");
            for attempt in [None, Some(0), Some((7 << 40) + 1)] {
                let name = UploadName { id: id.clone(), token: 7 << 40, attempt };
                assert_eq!(UploadName::parse(&name.file_name()), Some(name.clone()), "{name:?}");
                assert_eq!(SegmentId::from_file_name(&name.file_name()), None);
                assert_eq!(
                    name.beside(&id.path_in("/d")),
                    format!("/d/{}", name.file_name()),
                    "beside the segment"
                );
            }
        }
        let id = SegmentId::parse(&"x".repeat(200)).expect("an id");
        let token = 10_u64.pow(18) - 1;
        let longest = UploadName { id, token, attempt: Some(token) };
        assert!(longest.file_name().len() <= 255, "{}", longest.file_name().len());
    }

    #[test]
    fn nothing_else_is_one() {
        for other in [
            "1234.sqlite",
            "1234.sqlite._COPYING_",
            "1234.sqlite._COPYING_.",
            "1234.sqlite._COPYING_.0f",
            "1234.sqlite._COPYING_.07",
            "1234.sqlite._COPYING_.7.",
            "1234.sqlite._COPYING_.7.8.9",
            "1234.sqlite._COPYING_.7.+8",
            "1234.sqlite._SHIPPED_.7.8",
            ".1234.sqlite._COPYING_.7.8",
            "1234._COPYING_.7",
        ] {
            assert_eq!(UploadName::parse(other), None, "{other}");
        }
    }
}
