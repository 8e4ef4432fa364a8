//! Paths below a store's root.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// An absolute, normalised path below a store's root: `/` or `/a/b`, UTF-8, no empty, `.` or `..`
/// component, no NUL. So no path can leave the root.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorePath(String);

/// Longest name of one entry in bytes; both HDFS's default limit and Linux's.
pub const NAME_BYTES_MAX: usize = 255;

impl StorePath {
    /// The root itself.
    pub fn root() -> Self {
        Self("/".into())
    }

    /// Parses `/a/b`, `a/b`, `/` or the empty string (the root).
    pub fn parse(text: &str) -> Result<Self> {
        let mut path = Self::root();
        for name in text.split('/').filter(|part| !part.is_empty()) {
            path = path.join(name)?;
        }
        Ok(path)
    }

    /// The entry `name` of this directory.
    pub fn join(&self, name: &str) -> Result<Self> {
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "{name:?} is not a file name: it must not be empty, \".\" or \"..\", nor hold \"/\" or NUL"
                ),
            ));
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::NameTooLong,
                format!("a file name of {} bytes: at most {NAME_BYTES_MAX}", name.len()),
            ));
        }
        let mut path = String::with_capacity(self.0.len() + 1 + name.len());
        if !self.is_root() {
            path.push_str(&self.0);
        }
        path.push('/');
        path.push_str(name);
        Ok(Self(path))
    }

    /// The directory that holds this entry; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        match self.0.rfind('/') {
            Some(at) if at > 0 => Some(Self(self.0[..at].into())),
            _ => Some(Self::root()),
        }
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }

    /// With the leading `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leaves_the_root() {
        for bad in ["..", "a/../../etc", "./a", "a\0b"] {
            assert_eq!(
                StorePath::parse(bad).map_err(|e| e.kind()),
                Err(ErrorKind::InvalidArgument),
                "{bad:?}"
            );
        }
        assert_eq!(StorePath::root().join("a/b").map_err(|e| e.kind()), Err(ErrorKind::InvalidArgument));
    }

    #[test]
    fn parts() {
        let path = StorePath::parse("a//b c/ü.sqlite/").expect("a valid path");
        assert_eq!(path.as_str(), "/a/b c/ü.sqlite");
        assert_eq!(path.name(), "ü.sqlite");
        assert_eq!(path.parent().expect("not the root").as_str(), "/a/b c");
        assert!(StorePath::parse("/a").expect("valid").parent().expect("has one").is_root());
        assert!(StorePath::root().parent().is_none());
        let long = "x".repeat(256);
        assert_eq!(StorePath::root().join(&long).map_err(|e| e.kind()), Err(ErrorKind::NameTooLong));
    }
}
