//! Who may register workers.

use std::net::SocketAddr;

use axum::{
    extract::ConnectInfo,
    http::{HeaderMap, header, request::Parts},
};

use super::error::{ApiError, ErrorCode};

/// Lets a request pass that has the cluster secret or, if none is set, comes from the loopback interface.
pub(super) fn check(secret: Option<&str>, parts: &Parts) -> Result<(), ApiError> {
    let denied = |message: &str| Err(ApiError::new(ErrorCode::Unauthorized, message));
    match secret {
        Some(secret) => match bearer(&parts.headers) {
            Some(given) if same(given, secret.as_bytes()) => Ok(()),
            Some(_) => {
                denied("wrong cluster secret: worker and gateway must be configured with the same one")
            }
            None => denied("no cluster secret: send `authorization: Bearer SECRET` (worker: set `secret`)"),
        },
        None => match parts.extensions.get::<ConnectInfo<SocketAddr>>() {
            Some(ConnectInfo(peer)) if peer.ip().to_canonical().is_loopback() => Ok(()),
            _ => denied(
                "only workers on the gateway's own machine may register without a cluster secret: set the \
                 same `secret` for the gateway and its workers",
            ),
        },
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Whether two secrets are equal, in a time that depends on the length of `given` only.
fn same(given: &[u8], secret: &[u8]) -> bool {
    let mut difference = u8::from(given.len() != secret.len());
    for (index, byte) in given.iter().enumerate() {
        let other = secret.get(index % secret.len().max(1)).copied().unwrap_or(0);
        difference |= std::hint::black_box(byte ^ other);
    }
    difference == 0
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn secrets_are_compared_whole() {
        assert!(same(b"secret", b"secret"));
        for wrong in [&b""[..], b"s", b"secre", b"secret2", b"secretsecret", b"Secret"] {
            assert!(!same(wrong, b"secret"), "{wrong:?}");
        }
        assert!(!same(b"x", b""));
    }
}
