//! HDFS over its own HTTP interface: how tests write files and check bytes by a way that shares no
//! code with the product.

use std::{path::Path, time::Duration};

use futures::StreamExt;
use reqwest::{Body, Method, Response};
use serde_json::Value;

use super::block_on;

/// Bytes of a local file handed over at a time.
const CHUNK: usize = 1 << 20;
const OPEN_TRIES: usize = 8;
const LIMIT: Duration = Duration::from_secs(120);

/// A NameNode's WebHDFS, as one user.
pub struct WebHdfs {
    client: reqwest::Client,
    base: String,
    user: String,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub name: String,
    pub is_dir: bool,
    pub len: u64,
    pub mtime_ms: u64,
    pub mode: u32,
    pub owner: String,
    pub group: String,
    pub block_size: u64,
    pub replication: u64,
}

impl WebHdfs {
    /// `user` is whoever the files shall belong to.
    pub fn new(namenode_http: u16, user: &str) -> Self {
        let client = reqwest::Client::builder().no_proxy().timeout(LIMIT).build().expect("an HTTP client");
        Self { client, base: format!("http://127.0.0.1:{namenode_http}/webhdfs/v1"), user: user.into() }
    }

    /// Writes a file, in HDFS blocks of `block_size` bytes if given. Missing directories are made.
    pub fn put(&self, path: &str, bytes: Vec<u8>, block_size: Option<u64>) {
        block_on(self.upload(path, bytes.into(), block_size));
    }

    /// Writes a local file.
    pub fn put_file(&self, path: &str, local: &Path, block_size: Option<u64>) {
        block_on(async {
            let file =
                tokio::fs::File::open(local).await.unwrap_or_else(|e| panic!("{}: {e}", local.display()));
            let chunks = futures::stream::try_unfold(file, |mut file| async move {
                let mut chunk = vec![0; CHUNK];
                let n = tokio::io::AsyncReadExt::read(&mut file, &mut chunk).await?;
                chunk.truncate(n);
                Ok::<_, std::io::Error>((n > 0).then_some((chunk, file)))
            });
            self.upload(path, Body::wrap_stream(chunks), block_size).await;
        });
    }

    async fn upload(&self, path: &str, body: Body, block_size: Option<u64>) {
        let size = block_size.map(|n| n.to_string());
        let mut query = vec![("op", "CREATE"), ("overwrite", "true"), ("noredirect", "true")];
        query.extend(size.as_deref().map(|n| ("blocksize", n)));
        let placed = self.json(Method::PUT, path, &query).await;
        let datanode = placed["Location"].as_str().expect("CREATE names a DataNode").to_owned();
        let sent = self.client.put(&datanode).body(body).send().await;
        checked(sent.unwrap_or_else(|e| panic!("PUT {path} to {datanode}: {e}")), path).await;
    }

    /// Bytes of a file: all, or `len` from `offset`.
    pub fn read(&self, path: &str, range: Option<(u64, u64)>) -> Vec<u8> {
        block_on(async {
            let mut bytes = Vec::new();
            let mut stream = self.open(path, range).await.bytes_stream();
            while let Some(chunk) = stream.next().await {
                bytes.extend_from_slice(&chunk.expect("a chunk of the file"));
            }
            bytes
        })
    }

    async fn open(&self, path: &str, range: Option<(u64, u64)>) -> Response {
        // The NameNode may send us to a DataNode that a test has killed; at the next try to another.
        let numbers = range.map(|(offset, len)| (offset.to_string(), len.to_string()));
        let mut query = vec![("op", "OPEN")];
        if let Some((offset, len)) = &numbers {
            query.extend([("offset", offset.as_str()), ("length", len.as_str())]);
        }
        for _ in 1..OPEN_TRIES {
            if let Ok(response) = self.send(Method::GET, path, &query).await {
                return checked(response, path).await;
            }
        }
        self.request(Method::GET, path, &query).await
    }

    /// Moves a file; an existing one is replaced atomically.
    pub fn rename_over(&self, from: &str, to: &str) {
        let query = [("op", "RENAME"), ("destination", to), ("renameoptions", "OVERWRITE")];
        block_on(self.request(Method::PUT, from, &query));
    }

    pub fn create_dir(&self, path: &str) {
        block_on(self.request(Method::PUT, path, &[("op", "MKDIRS")]));
    }

    /// Deletes a file, or a directory and all in it.
    pub fn delete(&self, path: &str) {
        block_on(self.request(Method::DELETE, path, &[("op", "DELETE"), ("recursive", "true")]));
    }

    /// Sets the permission bits.
    pub fn set_mode(&self, path: &str, mode: u32) {
        let mode = format!("{mode:o}");
        block_on(self.request(Method::PUT, path, &[("op", "SETPERMISSION"), ("permission", &mode)]));
    }

    pub fn set_owner(&self, path: &str, owner: &str, group: &str) {
        block_on(self.request(Method::PUT, path, &[("op", "SETOWNER"), ("owner", owner), ("group", group)]));
    }

    pub fn set_mtime(&self, path: &str, mtime_ms: u64) {
        let time = mtime_ms.to_string();
        block_on(self.request(Method::PUT, path, &[("op", "SETTIMES"), ("modificationtime", &time)]));
    }

    /// Entries of a directory, by name.
    pub fn list(&self, path: &str) -> Vec<Status> {
        let answer = block_on(self.json(Method::GET, path, &[("op", "LISTSTATUS")]));
        let entries = answer["FileStatuses"]["FileStatus"].as_array().expect("a list of entries");
        entries.iter().map(status).collect()
    }

    async fn json(&self, method: Method, path: &str, query: &[(&str, &str)]) -> Value {
        self.request(method, path, query).await.json().await.expect("JSON from WebHDFS")
    }

    async fn request(&self, method: Method, path: &str, query: &[(&str, &str)]) -> Response {
        let sent = self.send(method, path, query).await;
        checked(sent.unwrap_or_else(|e| panic!("WebHDFS {query:?} {path}: {e}")), path).await
    }

    async fn send(&self, method: Method, path: &str, query: &[(&str, &str)]) -> reqwest::Result<Response> {
        let mut url = url::Url::parse(&self.base).expect("an own URL");
        url.path_segments_mut().expect("an http URL").extend(path.trim_start_matches('/').split('/'));
        url.query_pairs_mut().extend_pairs(query).append_pair("user.name", &self.user);
        self.client.request(method, url).send().await
    }
}

async fn checked(response: Response, path: &str) -> Response {
    let status = response.status();
    if status.is_success() {
        return response;
    }
    let body = response.text().await.unwrap_or_default();
    let reason = serde_json::from_str::<Value>(&body).unwrap_or_default();
    panic!("WebHDFS {path}: {status} {}", reason["RemoteException"]["message"].as_str().unwrap_or(&body));
}

fn status(value: &Value) -> Status {
    let number = |key: &str| value[key].as_u64().unwrap_or_else(|| panic!("{key} in {value}"));
    let text = |key: &str| value[key].as_str().unwrap_or_else(|| panic!("{key} in {value}")).to_owned();
    Status {
        name: text("pathSuffix"),
        is_dir: text("type") == "DIRECTORY",
        len: number("length"),
        mtime_ms: number("modificationTime"),
        mode: u32::from_str_radix(&text("permission"), 8).expect("octal permission"),
        owner: text("owner"),
        group: text("group"),
        block_size: number("blockSize"),
        replication: number("replication"),
    }
}
