//! HTTP as a client of the product sees it; and as bytes on a socket, where an answer is cut short.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};

use super::block_on;

/// Longer than any deadline a test gives to the product: the product must answer first.
const LIMIT: Duration = Duration::from_secs(120);

/// One server of the product.
#[derive(Clone)]
pub struct Api {
    client: reqwest::Client,
    base: String,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

/// The rows of a query that ended well.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// Name and declared type.
    pub columns: Vec<(String, Option<String>)>,
    pub rows: Vec<Vec<Value>>,
    pub truncated: bool,
    pub generation: String,
    pub worker: String,
}

/// The error of a query that did not.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    pub status: u16,
    pub code: String,
    pub message: String,
    pub retry: bool,
    pub retry_after_s: Option<u32>,
    /// Rows that came before the error.
    pub rows: usize,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e} in {} {}", self.status, self.body))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body of an answer that is no error.
    pub fn good(&self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.body);
        self.json()
    }
}

impl Api {
    /// Of the server at `base`, `http://host:port`.
    pub fn new(base: &str) -> Self {
        let client = reqwest::Client::builder().no_proxy().timeout(LIMIT).build().expect("an HTTP client");
        Self { client, base: base.into() }
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], None).unwrap_or_else(|e| panic!("GET {path}: {e}"))
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        let headers = [("content-type", "application/json")];
        let reply = self.send(Method::POST, path, &headers, Some(body.to_string()));
        reply.unwrap_or_else(|e| panic!("POST {path}: {e}"))
    }

    /// Any request; the error is one of the connection, or of an answer that breaks off.
    pub fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<Reply, String> {
        block_on(async {
            let mut request = self.client.request(method, format!("{}{path}", self.base));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            if let Some(body) = body {
                request = request.body(body);
            }
            let response = request.send().await.map_err(|e| describe(&e))?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let body = response.text().await.map_err(|e| describe(&e))?;
            Ok(Reply { status, headers, body })
        })
    }

    /// The rows of `sql` over a segment; panics with the error if there is one.
    pub fn query(&self, segment: &str, sql: &str) -> Rows {
        self.ask(segment, json!({ "sql": sql })).unwrap_or_else(|e| panic!("{sql}: {e:?}"))
    }

    /// The error of `sql` over a segment; panics if it answers.
    pub fn refused(&self, segment: &str, sql: &str) -> Refusal {
        match self.ask(segment, json!({ "sql": sql })) {
            Err(refusal) => refusal,
            Ok(rows) => panic!("{sql} was answered: {rows:?}"),
        }
    }

    /// A query with everything its request may have.
    pub fn ask(&self, segment: &str, request: Value) -> Result<Rows, Refusal> {
        let reply = self.post_query(segment, &request, "application/json");
        rows_of(&reply.unwrap_or_else(|e| panic!("{request}: no whole answer: {e}")))
    }

    /// A query; the error is one of the connection.
    pub fn post_query(&self, segment: &str, request: &Value, accept: &str) -> Result<Reply, String> {
        let headers = [("content-type", "application/json"), ("accept", accept)];
        self.send(Method::POST, &query_path(segment), &headers, Some(request.to_string()))
    }

    /// The value of a metric, all its label sets that hold `labels` added up; 0 where there is none.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        metric(&self.get("/metrics").body, name, labels)
    }
}

/// Path of the query resource of a segment.
pub fn query_path(segment: &str) -> String {
    path_of(segment, "query")
}

/// Path of `what` of a segment, such as `provision`.
pub fn path_of(segment: &str, what: &str) -> String {
    format!("/v1/segments/{segment}/{what}")
}

/// Sum of the samples of `name` in a Prometheus text whose labels hold `labels`.
pub fn metric(text: &str, name: &str, labels: &str) -> f64 {
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (set, value) = rest.rsplit_once(' ')?;
        ((set.is_empty() || set.starts_with('{')) && set.contains(labels))
            .then(|| value.parse::<f64>().ok())?
    });
    samples.sum()
}

fn rows_of(reply: &Reply) -> Result<Rows, Refusal> {
    let body = reply.json();
    let rows = body["rows"].as_array();
    if let Some(error) = body.get("error") {
        return Err(Refusal {
            status: reply.status,
            code: error["code"].as_str().expect("an error has a code").into(),
            message: error["message"].as_str().expect("an error has a message").into(),
            retry: error["retry"].as_bool().expect("an error says whether to retry"),
            retry_after_s: reply.header("retry-after").and_then(|v| v.parse().ok()),
            rows: rows.map_or(0, Vec::len),
        });
    }
    assert_eq!(reply.status, 200, "{}", reply.body);
    let rows: Vec<Vec<Value>> =
        rows.expect("rows").iter().map(|row| row.as_array().expect("a row is an array").clone()).collect();
    let end = &body["end"];
    assert_eq!(end["rows"].as_u64(), Some(rows.len() as u64), "the end mark counts the rows: {}", reply.body);
    let columns = body["columns"].as_array().expect("columns").iter();
    let column = |c: &Value| (c["name"].as_str().expect("a name").into(), c["type"].as_str().map(Into::into));
    Ok(Rows {
        columns: columns.map(column).collect(),
        rows,
        truncated: end["truncated"].as_bool().expect("the end mark says whether rows are missing"),
        generation: reply.header("springhouse-generation").expect("an answer names its generation").into(),
        worker: reply.header("springhouse-worker").unwrap_or_default().into(),
    })
}

fn describe(error: &reqwest::Error) -> String {
    use std::error::Error;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// How a raw answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With its last chunk, or all its announced bytes.
    Whole,
    /// The connection was closed or reset before that.
    CutShort,
}

/// An answer read from a socket by hand, slowly if wished: the way to see what a broken stream is.
pub struct RawQuery {
    stream: TcpStream,
    received: Vec<u8>,
}

impl RawQuery {
    /// Sends a query and reads nothing yet.
    pub fn send(address: &str, segment: &str, request: &Value, accept: &str) -> Self {
        let mut stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        stream.set_read_timeout(Some(LIMIT)).expect("a read timeout");
        let body = request.to_string();
        let path = query_path(segment);
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\naccept: {accept}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).expect("the request is taken");
        Self { stream, received: Vec::new() }
    }

    /// Reads until at least `n` bytes have come, or all there are; what has come so far.
    pub fn read_to(&mut self, n: usize) -> &[u8] {
        let mut chunk = vec![0; 1 << 16];
        while self.received.len() < n && !self.is_whole() {
            match self.stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(len) => self.received.extend_from_slice(&chunk[..len]),
                // Linux says so of a socket with a time limit to a process that was stopped and goes on.
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        &self.received
    }

    /// Reads to the end. The connection is kept alive: the end is the last chunk's, or the announced length's.
    pub fn finish(mut self) -> (String, End) {
        while !self.is_whole() {
            let before = self.received.len();
            if self.read_to(before + 1).len() == before {
                break;
            }
        }
        let end = if self.is_whole() { End::Whole } else { End::CutShort };
        (String::from_utf8_lossy(&self.received).into_owned(), end)
    }

    fn is_whole(&self) -> bool {
        const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";
        let Some(head) = self.received.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            return false;
        };
        let body = &self.received[head + 4..];
        let lines = String::from_utf8_lossy(&self.received[..head]).into_owned();
        match lines.lines().find_map(|line| line.strip_prefix("content-length: ")) {
            Some(announced) => announced.parse() == Ok(body.len()),
            None => body.ends_with(LAST_CHUNK),
        }
    }
}

/// `GET path` over a Unix socket; the status and the body.
pub fn get_unix(socket: &Path, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: control\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let bad = || std::io::Error::other(format!("not an HTTP answer: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
    Ok((
        status,
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            unchunk(body)
        } else {
            body.into()
        },
    ))
}

pub fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Ok(size @ 1..) = usize::from_str_radix(size, 16) else { break };
        text.push_str(rest.get(..size).unwrap_or_default());
        body = rest.get(size + 2..).unwrap_or_default();
    }
    text
}
