//! Where a store is: `hdfs://nameservice/path`, `viewfs://table/path` or `file:///path`.

use std::{fmt, path::PathBuf, str::FromStr};

use super::StorePath;
use crate::error::{Error, ErrorKind, Result};

/// The place of a store, parsed and checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StoreUrl {
    /// An HDFS directory.
    Hdfs {
        /// `host:port` of a NameNode or a logical name service; empty: `fs.defaultFS` of the Hadoop
        /// configuration.
        authority: String,
        /// `viewfs://`: the authority names a mount table of the Hadoop configuration instead.
        view: bool,
        /// Directory in HDFS that is the store's root.
        path: StorePath,
    },
    /// A directory of this host.
    File {
        /// Absolute path of the store's root.
        path: PathBuf,
    },
}

impl FromStr for StoreUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "store URL {text:?} {why}; use hdfs://HOST:PORT/path, hdfs://NAMESERVICE/path, viewfs://TABLE/path or file:///path"
                ),
            )
        };
        if let Some(rest) = text.strip_prefix("file://") {
            if !rest.starts_with('/') {
                return Err(bad("names a host: a file URL has three slashes"));
            }
            // Parsed for its checks (no "..", no NUL); kept as an operating system path.
            let path = StorePath::parse(rest).map_err(|e| bad(&format!("has a bad path ({e})")))?;
            return Ok(Self::File { path: PathBuf::from(path.as_str()) });
        }
        let hdfs = text.strip_prefix("hdfs://").map(|rest| (rest, false));
        if let Some((rest, view)) = hdfs.or_else(|| text.strip_prefix("viewfs://").map(|rest| (rest, true))) {
            let (authority, path) = match rest.find('/') {
                Some(at) => rest.split_at(at),
                None => (rest, "/"),
            };
            if let Some((host, port)) = authority.rsplit_once(':')
                && (host.is_empty() || port.parse::<u16>().is_err())
            {
                return Err(bad("has a bad host or port"));
            }
            if view && authority.contains(':') {
                return Err(bad("has a port: a ViewFS mount table has none"));
            }
            if authority.contains(['@', '?', '#', ' ']) {
                return Err(bad("has a bad host"));
            }
            let path = StorePath::parse(path).map_err(|e| bad(&format!("has a bad path ({e})")))?;
            return Ok(Self::Hdfs { authority: authority.into(), view, path });
        }
        Err(bad("has no known scheme"))
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hdfs { authority, view: false, path } => write!(f, "hdfs://{authority}{path}"),
            Self::Hdfs { authority, view: true, path } => write!(f, "viewfs://{authority}{path}"),
            Self::File { path } => write!(f, "file://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_and_back() {
        for good in [
            "hdfs://nn:9000/a/b",
            "hdfs://ns1/a",
            "file:///srv/a b",
            "hdfs:///a",
            "viewfs://t/a",
            "viewfs:///",
        ] {
            assert_eq!(good.parse::<StoreUrl>().expect(good).to_string(), good);
        }
        assert_eq!("hdfs://nn".parse::<StoreUrl>().expect("root").to_string(), "hdfs://nn/");
    }

    #[test]
    fn bad_ones_name_the_remedy() {
        for bad in [
            "",
            "/srv",
            "http://x/",
            "file://host/x",
            "hdfs://nn:port/x",
            "hdfs://u@nn/x",
            "viewfs://t:1/x",
            "file:///a/../b",
        ] {
            let error = bad.parse::<StoreUrl>().expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.message().contains("use hdfs://"), "{error}");
        }
    }
}
