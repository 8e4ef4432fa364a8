//! The client of the HTTP API that workers and the command line use.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Method, RequestBuilder, Response, Url, header};
use serde::de::DeserializeOwned;

use super::{
    error::{ApiError, ErrorBody, ErrorCode},
    hot::{Assignment, Manifest, ManifestAnswer},
    types::{
        DiscoveryReport, DiscoveryStatus, LeaseAnswer, LeaseRequest, QueryRequest, SegmentInfo, SegmentList,
        WorkerList,
    },
};
use crate::segment::SegmentId;

/// How long one call other than a query may take in all.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes read of an answer that is an error.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Why a call to the gateway gave nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The gateway answered with an error.
    #[error("{0}")]
    Refused(ApiError),
    /// No answer: not running, wrong address, connection lost, too slow.
    #[error("gateway {url}: {reason}")]
    Unreachable {
        /// The gateway's base URL.
        url: String,
        /// What the connection said.
        reason: String,
    },
    /// Something answered, but not a Springhouse gateway.
    #[error("{url} does not answer like a Springhouse gateway: {reason}")]
    NotAGateway {
        /// What was asked.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The base URL cannot be used.
    #[error("{0:?} is not the URL of a gateway: expected http://host:port")]
    BadUrl(String),
}

/// Where a worker takes and renews its lease: over HTTP, or in the same process.
#[async_trait]
pub trait Registrar: Send + Sync + 'static {
    /// Takes or renews the lease of worker `name`. `Refused` with code `conflict`: another process has
    /// the name with a newer epoch, or the stores differ; the worker must stop asking.
    async fn renew(&self, name: &str, request: &LeaseRequest) -> Result<LeaseAnswer, ClientError>;

    /// Gives the lease of `epoch` up. Not an error if it is gone already.
    async fn release(&self, name: &str, epoch: u64) -> Result<(), ClientError>;

    /// Says what hot worker `name` has. Only with a lease: `Refused` with code `conflict` if another
    /// process has the name.
    async fn manifest(&self, name: &str, manifest: &Manifest) -> Result<ManifestAnswer, ClientError> {
        let _ = manifest;
        Err(no_copies(name))
    }

    /// What hot worker `name` should hold, as far as version `since` does not know it. Only with the lease
    /// of `epoch`.
    async fn assignment(
        &self,
        name: &str,
        epoch: u64,
        since: Option<u64>,
    ) -> Result<Assignment, ClientError> {
        let _ = (epoch, since);
        Err(no_copies(name))
    }
}

fn no_copies(name: &str) -> ClientError {
    let message = format!("nobody assigns copies to worker {name} here");
    ClientError::Refused(ApiError::new(ErrorCode::NotFound, message))
}

/// A client of one gateway. Cheap to clone; connections are kept and shared.
#[derive(Debug, Clone)]
pub struct GatewayClient {
    pub(super) http: reqwest::Client,
    base: Url,
    pub(super) secret: Option<String>,
}

impl GatewayClient {
    /// For the gateway at `base_url` (`http://host:port`). `secret`: the cluster secret, which only
    /// workers need.
    pub fn new(base_url: &str, secret: Option<String>) -> Result<Self, ClientError> {
        let bad = || ClientError::BadUrl(base_url.to_owned());
        let base = Url::parse(base_url).map_err(|_| bad())?;
        if base.scheme() != "http" || base.host().is_none() {
            return Err(bad());
        }
        let http = reqwest::Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(3))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| ClientError::Unreachable { url: base_url.to_owned(), reason: reason_of(&e) })?;
        Ok(Self { http, base, secret })
    }

    /// One page of the catalog: ids that start with `prefix`, after the page that named `after`.
    pub async fn segments(
        &self,
        prefix: Option<&str>,
        after: Option<&str>,
        limit: Option<u32>,
    ) -> Result<SegmentList, ClientError> {
        let mut url = self.url(&["v1", "segments"]);
        {
            let mut query = url.query_pairs_mut();
            if let Some(prefix) = prefix {
                query.append_pair("prefix", prefix);
            }
            if let Some(after) = after {
                query.append_pair("after", after);
            }
            if let Some(limit) = limit {
                query.append_pair("limit", &limit.to_string());
            }
        }
        self.json(self.request(Method::GET, url)).await
    }

    /// One segment, with the workers that may be asked.
    pub async fn segment(&self, id: &SegmentId) -> Result<SegmentInfo, ClientError> {
        self.json(self.request(Method::GET, self.url(&["v1", "segments", id.as_str()]))).await
    }

    /// All workers that the gateway remembers.
    pub async fn workers(&self) -> Result<WorkerList, ClientError> {
        self.json(self.request(Method::GET, self.url(&["v1", "workers"]))).await
    }

    /// The last discovery pass.
    pub async fn discovery(&self) -> Result<DiscoveryStatus, ClientError> {
        self.json(self.request(Method::GET, self.url(&["v1", "discovery"]))).await
    }

    /// Runs a discovery pass and waits for its end; `full` lists every directory.
    pub async fn discover(&self, full: bool) -> Result<DiscoveryReport, ClientError> {
        let mut url = self.url(&["v1", "discovery"]);
        if full {
            url.set_query(Some("full=true"));
        }
        // A first pass over a large store takes minutes: no overall timeout.
        let answer = self.send(self.http.request(Method::POST, url)).await?;
        self.decode(answer).await
    }

    /// Runs a query. The answer's body streams; `accept` is the wanted format, JSON if `None`. Dropping
    /// the response cancels the query.
    pub async fn query(
        &self,
        id: &SegmentId,
        query: &QueryRequest,
        accept: Option<&str>,
    ) -> Result<Response, ClientError> {
        let mut request = self.http.post(self.url(&["v1", "segments", id.as_str(), "query"])).json(query);
        if let Some(accept) = accept {
            request = request.header(header::ACCEPT, accept);
        }
        self.send(request).await
    }

    pub(super) fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    pub(super) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.http.request(method, url).timeout(CALL_TIMEOUT);
        match &self.secret {
            Some(secret) => request.bearer_auth(secret),
            None => request,
        }
    }

    pub(super) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let answer = self.send(request).await?;
        self.decode(answer).await
    }

    pub(super) async fn decode<T: DeserializeOwned>(&self, answer: Response) -> Result<T, ClientError> {
        let url = answer.url().to_string();
        answer.json().await.map_err(|e| {
            if e.is_decode() {
                ClientError::NotAGateway { url, reason: reason_of(&e) }
            } else {
                self.unreachable(&e)
            }
        })
    }

    /// Sends and turns every status that is no success into an error.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let mut answer = request.send().await.map_err(|e| self.unreachable(&e))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.unreachable(&e))? {
            if body.len() + chunk.len() > ERROR_BYTES_MAX {
                break;
            }
            body.extend_from_slice(&chunk);
        }
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => Err(ClientError::Refused(body.error)),
            Err(_) => Err(ClientError::NotAGateway {
                url: answer.url().to_string(),
                reason: format!("status {status} without a JSON error"),
            }),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        ClientError::Unreachable {
            url: self.base.as_str().trim_end_matches('/').into(),
            reason: reason_of(error),
        }
    }
}

#[async_trait]
impl Registrar for GatewayClient {
    async fn renew(&self, name: &str, request: &LeaseRequest) -> Result<LeaseAnswer, ClientError> {
        self.json(self.request(Method::PUT, self.url(&["v1", "workers", name])).json(request)).await
    }

    async fn release(&self, name: &str, epoch: u64) -> Result<(), ClientError> {
        let mut url = self.url(&["v1", "workers", name]);
        url.query_pairs_mut().append_pair("epoch", &epoch.to_string());
        self.send(self.request(Method::DELETE, url)).await.map(drop)
    }

    async fn manifest(&self, name: &str, manifest: &Manifest) -> Result<ManifestAnswer, ClientError> {
        self.json(self.request(Method::PUT, self.url(&["v1", "workers", name, "manifest"])).json(manifest))
            .await
    }

    async fn assignment(
        &self,
        name: &str,
        epoch: u64,
        since: Option<u64>,
    ) -> Result<Assignment, ClientError> {
        let mut url = self.url(&["v1", "workers", name, "assignment"]);
        url.query_pairs_mut().append_pair("epoch", &epoch.to_string());
        if let Some(since) = since {
            url.query_pairs_mut().append_pair("since", &since.to_string());
        }
        self.json(self.request(Method::GET, url)).await
    }
}

/// The innermost cause of a failed HTTP call, in one line: reqwest's own text hides it.
pub(crate) fn reason_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    if text.is_empty() { error.to_string() } else { text }
}
