//! A server with Trough's ports open, and Trough's clients: what they send, byte by byte.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    time::Duration,
};

use rusqlite::Connection;

use super::{
    cluster::{Serve, free_address},
    eventually, file_url,
    http::unchunk,
    scratch,
    segments::relative_path,
};

const LIMIT: Duration = Duration::from_secs(60);

/// `springhouse serve` in both tiers.
pub struct Trough {
    pub serve: Serve,
    pub ports: Ports,
}

/// Addresses, `host:port`.
#[derive(Debug, Clone)]
pub struct Ports {
    pub read: String,
    pub write: String,
    pub manager: String,
}

/// An answer of one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub body: Vec<u8>,
    pub head: String,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }

    /// Status, content type and body.
    pub fn whole(&self) -> (u16, &str, &str) {
        (self.status, &self.content_type, self.text())
    }
}

impl Ports {
    pub fn free() -> Self {
        Self { read: free_address(), write: free_address(), manager: free_address() }
    }

    /// The flags that open them.
    pub fn flags(&self) -> Vec<&str> {
        vec!["--trough-read", &self.read, "--trough-write", &self.write, "--trough-manager", &self.manager]
    }

    /// A query of `segment`, as Trough's client sends it.
    pub fn read(&self, segment: &str, sql: &str) -> Answer {
        post(&self.read, &format!("/?segment={segment}"), sql)
    }

    pub fn write(&self, segment: &str, sql: &str) -> Answer {
        post(&self.write, &format!("/?segment={segment}"), sql)
    }

    pub fn manage(&self, method: &str, path: &str, body: &str) -> Answer {
        send(
            &self.manager,
            method,
            path,
            &self.manager,
            &[("content-type", "application/json")],
            body.as_bytes(),
        )
    }

    /// Makes a segment writable; waits for a worker that takes it.
    pub fn provision(&self, body: &str) -> Answer {
        eventually("the segment is writable", LIMIT, || {
            let answer = self.manage("POST", "/provision", body);
            let waits = answer.status == 500
                && ["no hot worker is alive", "waits for its hot workers", "first discovery"]
                    .iter()
                    .any(|why| answer.text().contains(why));
            (!waits).then_some(answer)
        })
    }

    /// Rows of a query that has to be answered.
    pub fn rows(&self, segment: &str, sql: &str) -> String {
        let answer = self.read(segment, sql);
        assert_eq!(
            (answer.status, answer.content_type.as_str()),
            (200, "application/json"),
            "{sql}: {answer:?}"
        );
        answer.text().to_owned()
    }
}

impl Trough {
    pub fn of(root: &Path) -> Self {
        Self::with(root, &[])
    }

    pub fn with(root: &Path, args: &[&str]) -> Self {
        Self::at(&file_url(root), "direct", args)
    }

    /// Of the store at `url`.
    pub fn at(url: &str, access: &str, args: &[&str]) -> Self {
        let ports = Ports::free();
        let own =
            ["--tier", "hot,cold", "--access", access, "--lease-ttl", "12s", "--discovery-interval", "300ms"];
        let args = [&own[..], &ports.flags(), args].concat();
        Self { serve: Serve::with(url, &args), ports }
    }
}

fn post(address: &str, target: &str, body: &str) -> Answer {
    send(
        address,
        "POST",
        target,
        address,
        &[("content-type", "application/sql;charset=utf-8")],
        body.as_bytes(),
    )
}

/// One request on a connection of its own. `host`: what the client calls the server.
pub fn send(
    address: &str,
    method: &str,
    target: &str,
    host: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    exchange(address, &[head.as_bytes(), b"\r\n", body].concat())
}

/// Sends these bytes, reads the answer up to the end of the connection.
pub fn exchange(address: &str, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("{address}: {e}"));
    stream.set_read_timeout(Some(LIMIT)).expect("a read timeout");
    stream.write_all(request).expect("the request is taken");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no HTTP answer: {}", String::from_utf8_lossy(&answer)));
    let (head, body) = (String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase(), &answer[end + 4..]);
    let header = |name: &str| {
        let mut values = head.lines().filter_map(|line| line.split_once(": "));
        values.find(|(found, _)| *found == name).map(|(_, value)| value.to_owned())
    };
    let body = match header("transfer-encoding") {
        Some(coding) if coding == "chunked" => {
            unchunk(std::str::from_utf8(body).expect("ASCII")).into_bytes()
        }
        _ => body.to_vec(),
    };
    Answer {
        status: head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status"),
        content_type: header("content-type").unwrap_or_default(),
        body,
        head,
    }
}

/// A segment in the store, with table `t`.
pub fn store(ids: &[&str]) -> tempfile::TempDir {
    let root = scratch();
    ids.iter().for_each(|id| make(root.path(), id));
    root
}

fn make(root: &Path, id: &str) {
    let path = root.join(relative_path(id));
    fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    let database = Connection::open(path).expect("a database");
    database
        .execute_batch(
            "create table t (a integer primary key, b);
             insert into t values (1, 'one'), (2, 2.0), (3, null), (4, x'616263'), (5, x'ff00'),
               (6, 'ä/\"\\ 😀' || char(9)), (7, 'http://example.org/a');",
        )
        .expect("rows");
}

#[track_caller]
pub fn ok(answer: &Answer) {
    assert_eq!(answer.whole(), (200, "text/plain", "OK\n"));
}

/// Of the ports for reading and writing.
#[track_caller]
pub fn error(answer: &Answer, message: &str) {
    assert_eq!(answer.whole(), (500, "text/plain", format!("500 Server Error: {message}\n").as_str()));
}

/// A page of the manager, with a reason.
#[track_caller]
pub fn page(answer: &Answer, status: u16, reason: &str) {
    assert_eq!(
        (answer.status, answer.content_type.as_str()),
        (status, "text/html; charset=utf-8"),
        "{answer:?}"
    );
    let reason = reason.replace('<', "&lt;");
    assert!(!reason.is_empty() && answer.text().contains(&reason), "{reason:?} is not in {}", answer.text());
}
