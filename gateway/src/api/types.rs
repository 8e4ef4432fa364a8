//! What goes over the wire between clients, gateway and workers. `docs/HTTP.md` describes it.

use serde::{Deserialize, Serialize};

use super::{
    hot::{CopyState, HotReport, LockInfo, SupersededInfo, Token},
    work::Work,
};

/// Answer header: the generation that every row of the answer comes from.
pub const GENERATION_HEADER: &str = "springhouse-generation";
/// Answer header: the worker that ran the query.
pub const WORKER_HEADER: &str = "springhouse-worker";
/// Request header, gateway → worker: path of the segment below the store's root.
pub const PATH_HEADER: &str = "springhouse-path";
/// Request header, gateway → worker: the generation in the catalog. A worker that finds a newer one in
/// the store answers from that and names it.
pub const EXPECTED_GENERATION_HEADER: &str = "springhouse-expected-generation";
/// Request header, gateway → worker: what is left of the deadline, in ms.
pub const DEADLINE_HEADER: &str = "springhouse-deadline-ms";

/// `POST /v1/segments/{id}/query`, on the gateway and, with the same body, on a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryRequest {
    /// Exactly one statement that only reads.
    pub sql: String,
    /// Positional (array) or named (object) parameters; a blob is `{"$base64": "…"}`.
    #[serde(default)]
    pub params: Params,
    /// Stop after so many rows, with `"truncated": true` in the end mark. Not above the worker's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<u64>,
    /// Deadline in ms for the whole query with its time in queues. Not above the gateway's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// Parameters of a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Params {
    /// `?`, `?1` …, in order.
    Positional(Vec<serde_json::Value>),
    /// `:name`, `@name`, `$name`; the key with or without its sigil.
    Named(serde_json::Map<String, serde_json::Value>),
}

impl Default for Params {
    fn default() -> Self {
        Self::Positional(Vec::new())
    }
}

/// A column of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// As SQLite names it; names may repeat.
    pub name: String,
    /// Declared type of the column it comes from; `null` for expressions.
    #[serde(rename = "type")]
    pub decl_type: Option<String>,
}

/// The end mark: last member of a JSON answer, last line of an NDJSON one. An answer without it, or
/// with `error` in its place, is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndMark {
    /// Rows sent.
    pub rows: u64,
    /// Whether `max_rows` of the request cut it.
    pub truncated: bool,
}

/// `PUT /v1/workers/{name}`: takes or renews a worker's lease. Sent every third of the TTL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// Fresh at each start of the worker; an older epoch of the same name is refused.
    pub epoch: u64,
    /// Where the gateway reaches it: `http://host:port`.
    pub url: String,
    /// `cold`: it answers in place, and from copies if it has some; `hot`: from copies only.
    pub tier: Tier,
    /// URL of its store; must be the gateway's.
    pub store: String,
    /// Weight in placement, 1 to 1,000; 100 is usual.
    pub weight: u32,
    /// How it reads segments: `fuse` or `direct`.
    pub access: String,
    /// Version of the binary.
    pub version: String,
    /// Queries running now.
    pub queries_running: u32,
    /// Of a worker that holds copies; absent: it answers in place only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hot: Option<HotReport>,
}

/// Which kind of copy a worker answers from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// In place, in the store.
    Cold,
    /// From a local copy.
    Hot,
}

/// Answer to a [`LeaseRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseAnswer {
    /// How long the lease holds from now, in ms.
    pub ttl_ms: u64,
    /// Changes with each start of the gateway.
    pub gateway_epoch: u64,
    /// Of a worker that holds copies: version of its assignment, to be asked for when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment_version: Option<u64>,
    /// Version of its manifest that the gateway has; absent: none, send all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_version: Option<u64>,
}

/// One segment in `GET /v1/segments` and `GET /v1/segments/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentInfo {
    /// Its id.
    pub id: String,
    /// Path below the store's root.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// Last modification in the store, ms since 1970.
    pub mtime_ms: i64,
    /// Version in the catalog; empty: it was provisioned, and never promoted.
    pub generation: String,
    /// Live workers that may be asked, best first. Only in `GET /v1/segments/{id}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<Vec<String>>,
    /// Its write lock. Only in `GET /v1/segments/{id}`, and so are all below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockInfo>,
    /// The last write lock that a newer generation ended, for a week.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded: Option<SupersededInfo>,
    /// xxh3-128 of this generation's bytes, if it was promoted through this gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// Hot copies, by worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<Vec<CopyInfo>>,
    /// Hot copies that it shall have, if it is raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raised: Option<u32>,
    /// Workers that it is pinned to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pinned: Vec<String>,
    /// What is being done with it, by worker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub work: Vec<Work>,
}

/// One hot copy of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyInfo {
    /// Where.
    pub worker: String,
    /// Whether that worker has a lease.
    pub live: bool,
    /// What may be done with it; `assigned` too if the worker has not reported it yet.
    pub state: CopyState,
    /// Why it is refused, or what the last attempt failed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Generation it was copied from or promoted to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<String>,
    /// Bytes there.
    pub size: u64,
    /// Bytes copied so far.
    pub fetched: u64,
    /// Fencing token under which it is writable there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// Whether there are writes that were not promoted, as the worker reported last.
    #[serde(default)]
    pub unpromoted: bool,
}

/// `POST /v1/segments/{id}/raise`. An empty body is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RaiseRequest {
    /// Hot copies that the segment shall have; absent: as many as the gateway's `copies_minimum`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies: Option<u32>,
}

/// Answer to `raise`, `lower` and pins: what is wished now, and where it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaiseAnswer {
    /// The segment.
    pub segment: String,
    /// Hot copies that it shall have; 0: none.
    pub copies: u32,
    /// Workers that it is pinned to.
    pub pinned: Vec<String>,
    /// Workers that are to hold it now. Fewer than wished: the others have no room, or there are no more.
    pub assigned: Vec<String>,
}

/// Answer to `POST` and `DELETE /v1/workers/{name}/drain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainAnswer {
    /// The worker.
    pub worker: String,
    /// Whether it is being drained.
    pub draining: bool,
    /// Segments that it still is to hold: it is empty of copies at 0.
    pub assigned: u64,
    /// Write locks that it holds: these are never moved by themselves.
    pub locks: u64,
}

/// `GET /v1/segments`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentList {
    /// In catalog order (directory, then id).
    pub segments: Vec<SegmentInfo>,
    /// Pass as `after` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Segments in the whole catalog.
    pub total: u64,
}

/// One worker in `GET /v1/workers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// Its name, unique in the cluster.
    pub name: String,
    /// As in its lease.
    #[serde(flatten)]
    pub lease: LeaseRequest,
    /// Whether it may be routed to.
    pub live: bool,
    /// Since the last heartbeat, in ms.
    pub lease_age_ms: u64,
    /// Requests of this gateway that it is answering now.
    pub in_flight: u32,
}

/// `GET /v1/workers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerList {
    /// By name.
    pub workers: Vec<WorkerInfo>,
}

/// What one discovery pass did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryReport {
    /// Number of the pass since the gateway started, from 1.
    pub pass: u64,
    /// Whether every directory was listed, changed or not.
    pub full: bool,
    /// Start, ms since 1970.
    pub started_ms: i64,
    /// Duration in ms.
    pub took_ms: u64,
    /// Directories listed.
    pub dirs_listed: u64,
    /// Directories left alone because nothing in them can have changed.
    pub dirs_skipped: u64,
    /// Directories that are gone from the store.
    pub dirs_removed: u64,
    /// Segments new in the catalog.
    pub segments_added: u64,
    /// Segments with another generation than before.
    pub segments_changed: u64,
    /// Segments gone from the catalog.
    pub segments_removed: u64,
    /// Store calls that failed; what they would have told is left as it was.
    pub errors: u64,
    /// The first few of them.
    #[serde(default)]
    pub error_samples: Vec<String>,
    /// Whether the pass reached its end.
    pub complete: bool,
}

/// `GET /v1/discovery`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryStatus {
    /// Whether a pass runs now.
    pub running: bool,
    /// The last finished pass; `null` before the first.
    pub last: Option<DiscoveryReport>,
    /// Segments in the catalog.
    pub segments: u64,
    /// Directories in the catalog.
    pub directories: u64,
    /// Files called `*.sqlite` whose name is no segment id.
    pub bad_names: u64,
}
