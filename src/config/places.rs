//! Values that say where something is or who it is: addresses, paths, URLs, names, secrets.

use std::{fmt::Debug, net::SocketAddr, path::PathBuf};

use springhouse_fuse::store::StoreUrl;
use url::Url;

use super::value::Value;

impl Value for SocketAddr {
    const PLACEHOLDER: &'static str = "ADDRESS:PORT";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "is not an address and port".into())
    }
    fn text(&self) -> String {
        self.to_string()
    }
    fn allowed() -> String {
        "an IP address and a port, such as \"127.0.0.1:6110\", \"0.0.0.0:6110\" or \"[::]:6110\"; port 0 takes a free one"
            .into()
    }
}

impl Value for PathBuf {
    const PLACEHOLDER: &'static str = "PATH";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("is empty".into()) } else { Ok(text.into()) }
    }
    fn text(&self) -> String {
        self.to_string_lossy().into_owned()
    }
    fn allowed() -> String {
        "a path".into()
    }
}

impl Value for StoreUrl {
    const PLACEHOLDER: &'static str = "URL";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| match text.starts_with('/') {
            true => format!("has no scheme (a local directory is file://{text})"),
            false => "is not the URL of a store".into(),
        })
    }
    fn text(&self) -> String {
        self.to_string()
    }
    fn allowed() -> String {
        "hdfs://HOST:PORT/path, hdfs://NAMESERVICE/path or file:///path".into()
    }
}

/// Where a gateway or worker answers: `http://host:port`, no path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl(Url);

impl HttpUrl {
    /// Without a slash at the end.
    pub fn as_str(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }

    /// The URL.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

impl Value for HttpUrl {
    const PLACEHOLDER: &'static str = "URL";

    fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|_| "is not a URL".to_owned())?;
        if url.scheme() != "http" || url.host_str().is_none() {
            return Err("is not an http:// URL with a host".into());
        }
        if url.path() != "/"
            || url.query().is_some()
            || url.fragment().is_some()
            || !url.username().is_empty()
        {
            return Err("has more than a host and a port".into());
        }
        Ok(Self(url))
    }
    fn text(&self) -> String {
        self.as_str().to_owned()
    }
    fn allowed() -> String {
        "http://HOST:PORT".into()
    }
}

/// Name of a worker: `[A-Za-z0-9._-]`, 1 to 200 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerName(String);

impl WorkerName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nearest name to `text`, such as a host's name.
    pub fn like(text: &str) -> Self {
        let name: String =
            text.trim().chars().map(|c| if name_character(c) { c } else { '-' }).take(200).collect();
        Self(if name.is_empty() { "worker".into() } else { name })
    }
}

fn name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

impl Value for WorkerName {
    const PLACEHOLDER: &'static str = "NAME";

    fn parse(text: &str) -> Result<Self, String> {
        match text.len() {
            1..=200 if text.chars().all(name_character) => Ok(Self(text.into())),
            _ => Err("is not a name for a worker".into()),
        }
    }
    fn text(&self) -> String {
        self.0.clone()
    }
    fn allowed() -> String {
        "1 to 200 characters of A-Z a-z 0-9 . _ -".into()
    }
}

/// A name in a world of its own: a user of the store, a Kerberos principal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word(String);

impl Word {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for Word {
    const PLACEHOLDER: &'static str = "NAME";

    fn parse(text: &str) -> Result<Self, String> {
        match text.len() {
            1..=255 if !text.contains(|c: char| c.is_whitespace() || c.is_control()) => Ok(Self(text.into())),
            _ => Err("is no name".into()),
        }
    }
    fn text(&self) -> String {
        self.0.clone()
    }
    fn allowed() -> String {
        "1 to 255 bytes without blanks".into()
    }
}

/// Something that is compared and sent, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Shortest secret in bytes: 16 random characters are out of reach of guessing over a network.
    pub const BYTES_MIN: usize = 16;

    /// The secret itself. Not for logs.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<set>")
    }
}

impl Value for Secret {
    const PLACEHOLDER: &'static str = "SECRET";
    const SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.len() < Self::BYTES_MIN {
            return Err("is too short".into());
        }
        // It travels in an HTTP header.
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("has characters other than printable ASCII without spaces".into());
        }
        Ok(Self(text.into()))
    }
    fn text(&self) -> String {
        self.0.clone()
    }
    fn allowed() -> String {
        format!("at least {} printable ASCII characters without spaces", Self::BYTES_MIN)
    }
}
