//! Trough's page, sentence by sentence, against a backend in memory.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    http::{Request, header},
};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tower::ServiceExt;

use super::*;
use crate::{
    api::error::{ApiError, ErrorCode},
    segment::SegmentId,
};

/// Segment `1001` can be read and, once provisioned, written; `cold…` cannot be written.
#[derive(Default)]
struct Fake {
    schemas: Mutex<BTreeMap<String, String>>,
    writable: Mutex<Vec<String>>,
    calls: Mutex<Vec<String>>,
}

#[async_trait]
impl Backend for Fake {
    async fn read(&self, segment: SegmentId, sql: String) -> Result<Body, ApiError> {
        self.calls.lock().push(format!("read {segment}: {sql}"));
        match segment.as_str() {
            "1001" if sql.contains("nowhere") => {
                Err(ApiError::new(ErrorCode::SqlError, "no such table: nowhere"))
            }
            "1001" => Ok(Body::from("[{\"a\":1},\n{\"a\":2}]\n")),
            _ => Err(ApiError::new(ErrorCode::SegmentNotFound, format!("there is no segment {segment}"))),
        }
    }

    async fn write(&self, segment: SegmentId, sql: String) -> Result<(), ApiError> {
        if !self.writable.lock().iter().any(|id| id == segment.as_str()) {
            let why = format!("segment {segment} is not provisioned for writing");
            return Err(ApiError::new(ErrorCode::NotProvisioned, why));
        }
        if sql.contains("nowhere") {
            return Err(ApiError::new(ErrorCode::SqlError, "no such table: nowhere"));
        }
        self.calls.lock().push(format!("write {segment}: {sql}"));
        Ok(())
    }

    async fn provision(&self, segment: SegmentId, schema: &str) -> Result<Provisioned, ApiError> {
        if segment.as_str().starts_with("cold") {
            return Err(ApiError::new(ErrorCode::ColdRange, "a rule says so"));
        }
        if schema == "none" {
            return Err(ApiError::new(ErrorCode::SchemaNotFound, "there is no schema none"));
        }
        if segment.as_str() == "full" {
            return Err(ApiError::new(ErrorCode::NoRoom, "no hot worker has room"));
        }
        self.calls.lock().push(format!("provision {segment} {schema}"));
        self.writable.lock().push(segment.into());
        Ok(Provisioned { size: if schema == "default" { 0 } else { 8192 } })
    }

    async fn promote(&self, segment: SegmentId) -> Result<String, ApiError> {
        if self.writable.lock().iter().any(|id| id == segment.as_str()) {
            return Ok(segment.path_in(&segment.canonical_dir()));
        }
        Err(ApiError::new(ErrorCode::NotProvisioned, "not writable"))
    }

    async fn delete(&self, segment: SegmentId) -> Result<(), ApiError> {
        match segment.as_str() {
            "1001" => Ok(()),
            "locked" => Err(ApiError::new(ErrorCode::Locked, "segment locked is <provisioned>: release it")),
            _ => Err(ApiError::new(ErrorCode::SegmentNotFound, "there is no such segment")),
        }
    }

    async fn schemas(&self) -> Result<Vec<String>, ApiError> {
        Ok(std::iter::once("default".to_owned()).chain(self.schemas.lock().keys().cloned()).collect())
    }

    async fn schema(&self, id: &str) -> Result<Option<String>, ApiError> {
        let stored = self.schemas.lock().get(id).cloned();
        Ok(stored.or_else(|| (id == "default").then(String::new)))
    }

    async fn put_schema(&self, id: &str, sql: &str) -> Result<SchemaPut, SchemaError> {
        if sql.contains("bogus") {
            return Err(ApiError::new(ErrorCode::SqlError, "near \"bogus\": syntax error").into());
        }
        if id == "taken" {
            return Err(ApiError::new(ErrorCode::Conflict, "it has too many versions").into());
        }
        if id == "down" {
            return Err(ApiError::new(ErrorCode::StoreUnavailable, "not now").into());
        }
        match self.schemas.lock().insert(id.to_owned(), sql.to_owned()) {
            None => Ok(SchemaPut::Created),
            Some(_) => Ok(SchemaPut::Replaced),
        }
    }
}

struct Port {
    router: Router,
    fake: Arc<Fake>,
}

#[derive(Debug, PartialEq, Eq)]
struct Got {
    status: u16,
    content_type: String,
    body: String,
}

fn got(status: u16, content_type: &str, body: &str) -> Got {
    Got { status, content_type: content_type.into(), body: body.into() }
}

/// An answer of the ports for reading and writing that is an error.
fn error(message: &str) -> Got {
    got(500, "text/plain", &format!("500 Server Error: {message}\n"))
}

impl Port {
    fn new(router: fn(Arc<dyn Backend>, Settings) -> Router) -> Self {
        let settings = Settings {
            host: None,
            write_port: 6222,
            body_bytes_max: 1000,
            body_time_max: Duration::from_secs(10),
        };
        let fake = Arc::<Fake>::default();
        Self { router: router(fake.clone(), settings), fake }
    }

    async fn send(&self, request: Request<Body>) -> Got {
        let response = self.router.clone().oneshot(request).await.expect("an answer");
        let content_type = response.headers().get(header::CONTENT_TYPE).map(|v| v.to_str().expect("ASCII"));
        Got {
            status: response.status().as_u16(),
            content_type: content_type.unwrap_or_default().to_owned(),
            body: String::from_utf8(
                response.into_body().collect().await.expect("a body").to_bytes().to_vec(),
            )
            .expect("text"),
        }
    }

    /// From a client that calls the server `gateway.example`.
    async fn ask(&self, method: &str, path: &str, body: impl Into<Body>) -> Got {
        self.ask_host(method, path, "gateway.example:6111", body).await
    }

    async fn ask_host(&self, method: &str, path: &str, host: &str, body: impl Into<Body>) -> Got {
        let request = Request::builder().method(method).uri(path).header(header::HOST, host);
        self.send(request.body(body.into()).expect("a request")).await
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.fake.calls.lock())
    }
}

fn rows() -> Got {
    got(200, "application/json", "[{\"a\":1},\n{\"a\":2}]\n")
}

#[tokio::test]
async fn a_segment_is_named_by_parameter_or_by_host() {
    let port = Port::new(read_router);
    for (path, host) in [
        ("/?segment=1001", "gateway.example:6444"),
        ("/?x=y&segment=1001&segment=1002", "1002.example"),
        ("/?segment=%31001", "localhost"),
        ("/", "1001.any.host:6444"),
        ("/?segment=", "1001.any.host"),
        ("/any/path", "1001.x"),
    ] {
        assert_eq!(port.ask_host("POST", path, host, "select a from t").await, rows(), "{path} {host}");
    }
    assert_eq!(port.calls(), vec!["read 1001: select a from t"; 6]);
}

#[tokio::test]
async fn any_method_and_any_path_is_a_query() {
    let port = Port::new(read_router);
    for (method, path) in
        [("GET", "/x?segment=1001"), ("PUT", "/?segment=1001"), ("OPTIONS", "/a/b?segment=1001")]
    {
        assert_eq!(port.ask(method, path, "select 1").await, rows(), "{method} {path}");
    }
}

#[tokio::test]
async fn only_one_select_is_asked_and_that_before_the_segment_is_looked_for() {
    let port = Port::new(read_router);
    for sql in ["", "insert into t values (1)", "select 1; select 2", "pragma table_info(t)", "(select 1)"] {
        for path in ["/?segment=1001", "/?segment=missing", "/?segment=/etc/passwd", "/"] {
            let expected = error("Exactly one SELECT query per request, please.");
            assert_eq!(port.ask("POST", path, sql).await, expected, "{sql} {path}");
        }
    }
    assert_eq!(port.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn whatever_is_wrong_with_a_query_is_500_with_its_message() {
    let port = Port::new(read_router);
    assert_eq!(
        port.ask("POST", "/?segment=1001", "select * from nowhere").await,
        error("no such table: nowhere")
    );
    assert_eq!(port.ask("POST", "/?segment=9", "select 1").await, error("there is no segment 9"));
    let outside = port.ask("POST", "/?segment=/any/path", "select 1").await;
    assert_eq!(outside.status, 500);
    assert!(outside.body.starts_with("500 Server Error: \"/any/path\" is not a segment id"), "{outside:?}");
    let not_text = port.ask("POST", "/?segment=1001", vec![b's', 0xff]).await;
    assert_eq!(not_text, error("'utf-8' codec can't decode byte 0xff in position 1: invalid start byte"));
    let long = port.ask("POST", "/?segment=1001", "x".repeat(1001)).await;
    assert_eq!(long, error("the request broke off or is longer than 1000 bytes"));
}

#[tokio::test]
async fn scripts_are_written_under_the_lock() {
    let port = Port::new(write_router);
    let ok = got(200, "text/plain", "OK\n");
    let script = "create table t (a); insert into t values (1)";
    assert_eq!(
        port.ask("POST", "/?segment=1001", script).await,
        error("segment 1001 is not provisioned for writing")
    );
    port.fake.writable.lock().push("1001".into());
    assert_eq!(port.ask("POST", "/?segment=1001", script).await, ok);
    assert_eq!(port.ask("PUT", "/any?segment=1001", "select 1").await, ok, "also for a SELECT");
    assert_eq!(port.ask_host("POST", "/", "1001.any.host:6222", "vacuum").await, ok);
    assert_eq!(
        port.calls(),
        [format!("write 1001: {script}"), "write 1001: select 1".into(), "write 1001: vacuum".into()]
    );
    assert_eq!(
        port.ask("POST", "/?segment=1001", "drop table nowhere").await,
        error("no such table: nowhere")
    );
    for empty in ["", " \n\t"] {
        assert_eq!(port.ask("POST", "/?segment=1001", empty).await, error("No query provided."));
    }
}

const COLD: &str = "cannot provision segment cold1 for writing because that segment id is in the read-only cold \
                    storage range";

#[tokio::test]
async fn provisioning_the_old_way_gives_the_write_url() {
    let port = Port::new(manager_router);
    let url = |url: &str| got(200, "text/plain; charset=utf-8", url);
    assert_eq!(port.ask("POST", "/", "1001").await, url("http://gateway.example:6222/?segment=1001"));
    // Any content type, form included.
    let request = Request::builder()
        .method("POST")
        .uri("/")
        .header(header::HOST, "[::1]:6111")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from("1001"))
        .expect("a request");
    assert_eq!(port.send(request).await, url("http://[::1]:6222/?segment=1001"));
    assert_eq!(port.ask_host("POST", "/", "[::1]", "7").await, url("http://[::1]:6222/?segment=7"));
    let cold = port.ask("POST", "/", "cold1").await;
    assert_eq!((cold.status, cold.content_type.as_str()), (500, "text/html; charset=utf-8"));
    assert!(cold.body.contains(&format!("<p>{COLD}</p>")), "{cold:?}");
}

#[tokio::test]
async fn provisioning_tells_url_size_and_schema() {
    let port = Port::new(manager_router);
    for (request, size, schema) in [
        (r#"{"segment": "1001"}"#, 0, "default"),
        (r#"{"segment": "1001", "schema": null}"#, 0, "default"),
        (r#"{"segment": "1001", "schema": "warc/stats"}"#, 8192, r"warc\/stats"),
    ] {
        let expected = format!(
            r#"{{"write_url":"http:\/\/gateway.example:6222\/?segment=1001","result":"success","size":{size},"schema":"{schema}"}}"#
        );
        assert_eq!(port.ask("POST", "/provision", request).await, got(200, "application/json", &expected));
    }
    assert_eq!(port.calls()[2], "provision 1001 warc/stats");
    assert_eq!(
        port.ask("POST", "/provision", r#"{"segment": "cold1"}"#).await,
        got(400, "application/json", &format!("{{\"error\":\"{COLD}\"}}\n"))
    );
    for (request, status) in [
        (r#"{"segment": "full"}"#, 500),
        (r#"{"segment": "1001", "schema": "none"}"#, 500),
        (r#"{"segment": "1001", "schema": 7}"#, 500),
        (r#"{"segment": "../1001"}"#, 500),
        (r#"{"segment": 1.5}"#, 500),
        (r#"{"segment": 1001}"#, 200),
        ("{}", 500),
        ("[]", 500),
        ("{", 400),
        ("", 400),
    ] {
        assert_eq!(port.ask("POST", "/provision", request).await.status, status, "{request}");
    }
}

#[tokio::test]
async fn a_host_of_our_own_stands_in_the_urls() {
    let settings = Settings {
        host: Some("write.example".into()),
        write_port: 7222,
        body_bytes_max: 1000,
        body_time_max: Duration::from_secs(1),
    };
    let fake = Arc::<Fake>::default();
    let port = Port { router: manager_router(fake.clone(), settings.clone()), fake: fake.clone() };
    assert_eq!(port.ask("POST", "/", "1001").await.body, "http://write.example:7222/?segment=1001");
    for (host, url) in [
        ("write.example:80", "http://write.example:80/?segment=1001"),
        ("[2001:db8::1]", "http://[2001:db8::1]:7222/?segment=1001"),
        ("[2001:db8::1]:80", "http://[2001:db8::1]:80/?segment=1001"),
    ] {
        let settings = Settings { host: Some(host.into()), ..settings.clone() };
        let port = Port { router: manager_router(fake.clone(), settings), fake: fake.clone() };
        assert_eq!(port.ask("POST", "/", "1001").await.body, url);
    }
}

#[tokio::test]
async fn promotion_tells_where_the_segment_lies() {
    let port = Port::new(manager_router);
    assert_eq!(port.ask("POST", "/promote", r#"{"segment": "1001"}"#).await.status, 500, "not writable");
    port.ask("POST", "/", "1001").await;
    for bad in ["{", "", "[]", "{}"] {
        assert_eq!(port.ask("POST", "/promote", bad).await.status, 500, "{bad}");
    }
    assert_eq!(
        port.ask("POST", "/promote", r#"{"segment": "1001"}"#).await,
        got(200, "application/json", r#"{"remote_path":"\/1\/1001.sqlite"}"#)
    );
}

#[tokio::test]
async fn schemas_are_listed_shown_and_stored() {
    let port = Port::new(manager_router);
    let empty = |status| got(status, "text/html; charset=utf-8", "");
    assert_eq!(port.ask("GET", "/schema", "").await, got(200, "application/json", r#"["default"]"#));
    assert_eq!(
        port.ask("GET", "/schema/default", "").await,
        got(200, "application/json", r#"{"id":"default","sql":""}"#)
    );
    assert_eq!(port.ask("GET", "/schema/s", "").await.status, 404);
    assert_eq!(port.ask("GET", "/schema/s/sql", "").await.status, 404);
    let sql = "create table t (a /* ä */)";
    let body = serde_json::json!({"id": "s", "sql": sql}).to_string();
    assert_eq!(port.ask("PUT", "/schema/s", body.clone()).await, empty(201));
    assert_eq!(port.ask("PUT", "/schema/s", body).await, empty(204));
    assert_eq!(
        port.ask("GET", "/schema/s", "").await.body,
        r#"{"id":"s","sql":"create table t (a \/* \u00e4 *\/)"}"#
    );
    assert_eq!(port.ask("GET", "/schema/s/sql", "").await, got(200, "application/sql; charset=utf-8", sql));
    assert_eq!(port.ask("PUT", "/schema/z/sql", sql).await, empty(201));
    assert_eq!(port.ask("PUT", "/schema/z/sql", sql).await, empty(204));
    assert_eq!(port.ask("GET", "/schema", "").await.body, r#"["default","s","z"]"#);
}

#[tokio::test]
async fn bad_schemas_are_refused_in_troughs_words() {
    let port = Port::new(manager_router);
    for (body, expected) in [
        ("", "input could not be parsed as json"),
        ("{", "input could not be parsed as json"),
        ("{}", "input json has keys set() (should be {'id', 'sql'})"),
        (r#"{"id": "s"}"#, "input json has keys {'id'} (should be {'id', 'sql'})"),
        (
            r#"{"id": "s", "sql": "", "x": 1}"#,
            "input json has keys {'id', 'sql', 'x'} (should be {'id', 'sql'})",
        ),
        (r#"{"id": "a", "sql": ""}"#, "id in json 'a' does not match id in url 's'"),
        (r#"{"id": 5, "sql": ""}"#, "id in json 5 does not match id in url 's'"),
        (r#"{"id": "s", "sql": "bogus"}"#, "schema sql failed validation: near \"bogus\": syntax error"),
    ] {
        let expected = got(400, "text/plain; charset=utf-8", expected);
        assert_eq!(port.ask("PUT", "/schema/s", body).await, expected, "{body}");
    }
    for failing in ["[]", "7", r#"{"id": "s", "sql": 5}"#, r#"{"id": "s", "sql": null}"#] {
        assert_eq!(port.ask("PUT", "/schema/s", failing).await.status, 500, "{failing}");
    }
    assert_eq!(
        port.ask("PUT", "/schema/s/sql", "bogus").await,
        got(400, "text/plain; charset=utf-8", "schema sql failed validation: near \"bogus\": syntax error")
    );
}

#[tokio::test]
async fn schemas_that_cannot_be_stored_are_refused_with_the_reason() {
    let port = Port::new(manager_router);
    assert_eq!(
        port.ask("PUT", "/schema/taken/sql", "create table t (a)").await,
        got(400, "text/plain; charset=utf-8", "it has too many versions")
    );
    let down = port.ask("PUT", "/schema/down/sql", "create table t (a)").await;
    assert_eq!((down.status, down.content_type.as_str()), (500, "text/html; charset=utf-8"));
    assert!(down.body.contains("<p>not now</p>"), "{down:?}");
}

#[tokio::test]
async fn segments_are_deleted_unless_they_are_written() {
    let port = Port::new(manager_router);
    assert_eq!(port.ask("DELETE", "/segment/1001", "").await, got(204, "text/html; charset=utf-8", ""));
    assert_eq!(port.ask("DELETE", "/segment/9", "").await.status, 404);
    assert_eq!(port.ask("DELETE", "/segment/..", "").await.status, 404);
    let locked = port.ask("DELETE", "/segment/locked", "").await;
    assert_eq!(locked.status, 400);
    assert_eq!(
        locked.body,
        "<!doctype html>\n<html lang=en>\n<title>400 Bad Request</title>\n<h1>Bad Request</h1>\n\
         <p>segment locked is &lt;provisioned&gt;: release it</p>\n"
    );
}

#[tokio::test]
async fn wrong_methods_are_405_and_other_paths_404() {
    let port = Port::new(manager_router);
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/provision"),
        ("PUT", "/promote"),
        ("POST", "/schema"),
        ("DELETE", "/schema/s"),
        ("POST", "/schema/s/sql"),
        ("GET", "/segment/1001"),
    ] {
        let refused = port.ask(method, path, "").await;
        assert_eq!((refused.status, refused.content_type.as_str()), (405, "text/html; charset=utf-8"));
    }
    assert_eq!(port.ask("GET", "/nothing", "").await.status, 404);
    for (path, status) in [("/", 200), ("/provision", 200), ("/schema", 200), ("/schema/s", 200), ("/x", 404)]
    {
        assert_eq!(port.ask("OPTIONS", path, "").await.status, status, "{path}");
    }
    for (path, status) in [("/", 405), ("/provision", 405), ("/schema", 200), ("/schema/s/sql", 404)] {
        let got = port.ask("HEAD", path, "").await;
        assert_eq!((got.status, got.body.as_str()), (status, ""), "{path}");
    }
}

#[tokio::test]
async fn a_workers_error_is_the_clients() {
    use axum::response::IntoResponse;
    let rows = || Body::from("[]\n").into_response();
    let body = rows_of(rows()).await.expect("rows").collect().await.expect("a body").to_bytes();
    assert_eq!(&body[..], b"[]\n");
    let error = ApiError::new(ErrorCode::SqlError, "no such table: x");
    assert_eq!(rows_of(error.clone().into_response()).await.expect_err("an error"), error);
    let odd = rows_of((axum::http::StatusCode::BAD_GATEWAY, "?").into_response()).await;
    assert_eq!(odd.expect_err("an error").message, "the worker answered 502 Bad Gateway");
}
