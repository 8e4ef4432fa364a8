//! Answers as Trough gives them.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};

/// An answer of Trough's own code: of its ports for reading and writing.
pub(super) fn plain(status: StatusCode, text: impl Into<Body>) -> Response {
    answer(status, "text/plain", text)
}

/// `500 Server Error: <message>`, for everything that can go wrong on the ports for reading and writing.
pub(super) fn server_error(message: &str) -> Response {
    plain(StatusCode::INTERNAL_SERVER_ERROR, format!("500 Server Error: {message}\n"))
}

/// Text of the manager, which is written with Flask.
pub(super) fn flask_text(status: StatusCode, text: impl Into<Body>) -> Response {
    answer(status, "text/plain; charset=utf-8", text)
}

/// JSON of the manager.
pub(super) fn flask_json(status: StatusCode, json: Vec<u8>) -> Response {
    answer(status, "application/json", json)
}

/// An answer of the manager without a body; Flask's default type comes with it.
pub(super) fn flask_empty(status: StatusCode) -> Response {
    answer(status, "text/html; charset=utf-8", Body::empty())
}

/// A page of the kind that Flask shows for an error, with the reason that Trough's pages do not give.
pub(super) fn flask_page(status: StatusCode, reason: &str) -> Response {
    let name = status.canonical_reason().unwrap_or("Error");
    let reason: String = reason
        .chars()
        .map(|char| match char {
            '&' => "&amp;".into(),
            '<' => "&lt;".into(),
            '>' => "&gt;".into(),
            char => char.to_string(),
        })
        .collect();
    let page = format!(
        "<!doctype html>\n<html lang=en>\n<title>{} {name}</title>\n<h1>{name}</h1>\n<p>{reason}</p>\n",
        status.as_u16()
    );
    answer(status, "text/html; charset=utf-8", page)
}

pub(super) fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
