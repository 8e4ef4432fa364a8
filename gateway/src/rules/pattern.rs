//! A pattern of segment ids.

use std::fmt;

use regex::{Regex, RegexBuilder};

use crate::segment::SEGMENT_ID_BYTES_MAX;

/// Most memory of a compiled pattern in bytes.
const COMPILED_BYTES_MAX: usize = 1 << 20;
/// Longest pattern in bytes.
const TEXT_BYTES_MAX: usize = 1000;

/// A regular expression for whole ids: `crawl-[0-9]{4}` does not match `my-crawl-2024`.
///
/// By the crate `regex`, whose matching takes time linear in the id, whatever the pattern: it is asked for
/// every segment of the catalog. (The engine behind SQL's REGEXP backtracks.) Not globs: those who come from
/// Trough have regular expressions in their settings, and `prefix` does what globs are mostly used for.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// Compiles it, or says in one line why it cannot be.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > TEXT_BYTES_MAX {
            return Err(format!("must be 1 to {TEXT_BYTES_MAX} bytes long"));
        }
        // By itself first: `a)|(b` would become whole inside our group.
        let build = |text: &str| RegexBuilder::new(text).size_limit(COMPILED_BYTES_MAX).build();
        let whole = build(text).and_then(|_| build(&format!("^(?:{text})$")));
        match whole {
            Ok(regex) => Ok(Self { text: text.to_owned(), regex }),
            Err(regex::Error::CompiledTooBig(_)) => Err("is too large when it is compiled".into()),
            Err(error) => {
                let told = error.to_string();
                let reason = told.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
                Err(format!("is no regular expression: {reason}"))
            }
        }
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `id` matches from end to end.
    pub fn matches(&self, id: &str) -> bool {
        id.len() <= SEGMENT_ID_BYTES_MAX && self.regex.is_match(id)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}
