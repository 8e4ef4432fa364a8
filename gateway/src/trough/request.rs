//! Which segment a request is about, and its body.

use axum::{
    body::Body,
    http::{HeaderMap, Uri, header, request::Parts},
};
use http_body_util::{BodyExt, Limited};

use super::{Ports, Settings};
use crate::segment::SegmentId;

/// The segment that `?segment=` names, else the first label of the host: `http://ID.any.host:6444/`.
pub(super) fn segment_of(parts: &Parts) -> Result<SegmentId, String> {
    let query = parts.uri.query().unwrap_or_default();
    // As Python's parse_qs: the first of several, and one without a value is none.
    let named = url::form_urlencoded::parse(query.as_bytes())
        .find(|(name, value)| name == "segment" && !value.is_empty())
        .map(|(_, value)| value.into_owned());
    let name = named
        .or_else(|| host_of(&parts.headers, &parts.uri)?.split('.').next().map(str::to_owned))
        .unwrap_or_default();
    SegmentId::parse(&name).map_err(|e| e.to_string())
}

/// Host and port as the client named them.
fn host_of<'r>(headers: &'r HeaderMap, uri: &'r Uri) -> Option<&'r str> {
    let header = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    header.or_else(|| uri.authority().map(|authority| authority.as_str()))
}

/// Where a segment is written.
pub(super) fn write_url(settings: &Settings, parts: &Parts, segment: &SegmentId) -> String {
    let port = settings.write_port;
    let named = || without_port(host_of(&parts.headers, &parts.uri).unwrap_or("localhost"));
    match settings.host.as_deref() {
        Some(host) if without_port(host) != host => format!("http://{host}/?segment={segment}"),
        host => format!("http://{}:{port}/?segment={segment}", host.unwrap_or_else(named)),
    }
}

/// What is behind the last colon is the port, unless the colon is in an address of version 6.
fn without_port(host: &str) -> &str {
    host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(host, |(host, _)| host)
}

/// The whole body as text.
pub(super) async fn text_of(ports: &Ports, body: Body) -> Result<String, String> {
    let settings = &ports.settings;
    let read = Limited::new(body, settings.body_bytes_max).collect();
    let bytes = match tokio::time::timeout(settings.body_time_max, read).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(_)) => {
            let most = settings.body_bytes_max;
            return Err(format!("the request broke off or is longer than {most} bytes"));
        }
        Err(_) => return Err("the request did not come in time".into()),
    };
    String::from_utf8(bytes.into()).map_err(|e| {
        // In Python's words, as far as they go.
        let (at, byte) = (e.utf8_error().valid_up_to(), e.as_bytes()[e.utf8_error().valid_up_to()]);
        format!("'utf-8' codec can't decode byte {byte:#04x} in position {at}: invalid start byte")
    })
}
