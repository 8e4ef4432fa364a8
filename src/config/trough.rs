//! The keys of Trough's ports.

use std::net::SocketAddr;

use url::Url;

use super::{keys::keys, resolve::Problem, value::Word};

keys! {
    "Trough's ports"
    /// Where Trough's clients are answered.
    pub struct TroughKeys {
        /// Address where queries of Trough's clients are answered; Trough's own port is 6444.
        ///
        /// Unset: nowhere. In a file it may also stand as `read` under [trough], at the end; so may the next
        /// ones. These ports ask nobody who he is.
        trough_read: Option<SocketAddr>,
        /// Address where Trough's clients write; Trough's own port is 6222.
        trough_write: Option<SocketAddr>,
        /// Address where Trough's clients provision, promote, delete and register schemas; 6111.
        ///
        /// Its answers name the write port, so it needs `trough_write`.
        trough_manager: Option<SocketAddr>,
        /// Another address for the same; where Trough's workers had their own manager, 6112.
        trough_local: Option<SocketAddr>,
        /// Host, or HOST:PORT, in the write URLs that Trough's clients are given.
        ///
        /// Unset: the host that the client named in its request, with the port of `trough_write`. Needed where
        /// clients reach writes under another name or port.
        trough_host: Option<Word>,
    }
}

impl TroughKeys {
    /// See [`super::keys::Group::check`].
    pub(super) fn check(&self) -> Result<(), Problem> {
        for (key, address) in [("trough_manager", self.trough_manager), ("trough_local", self.trough_local)] {
            if address.is_some() && self.trough_write.is_none() {
                return Err(Problem(format!(
                    "{key} is set and trough_write is not, but its answers tell clients where to write; set \
                     trough_write too"
                )));
            }
        }
        match &self.trough_host {
            Some(host) if !is_host(host.as_str()) => Err(Problem(format!(
                "trough_host: {:?} is no host; give HOST or HOST:PORT, an IPv6 address in brackets",
                host.as_str()
            ))),
            _ => Ok(()),
        }
    }
}

/// Whether it may stand in a URL as the host, with or without a port.
fn is_host(text: &str) -> bool {
    let whole = |url: &Url| {
        url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty()
    };
    !text.contains(['/', '\\', '@']) && Url::parse(&format!("http://{text}/")).is_ok_and(|url| whole(&url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in ["trough", "trough.example.org:6222", "10.0.0.1", "[2001:db8::1]:6222", "[::1]"] {
            assert!(is_host(good), "{good}");
        }
        for bad in ["", "http://a", "a/b", "a:b", "a@b", "2001:db8::1", "a?b", "a#b"] {
            assert!(!is_host(bad), "{bad}");
        }
    }
}
