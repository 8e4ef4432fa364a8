//! What goes over the wire for segments that are written: between clients and gateway, and between
//! gateway and hot workers. `docs/HTTP.md` describes it.
//!
//! ```text
//! client → gateway                               gateway → hot worker (cluster secret)
//! POST /v1/segments/{id}/provision               POST   /v1/hot/{id}/provision
//! POST /v1/segments/{id}/execute                 POST   /v1/hot/{id}/execute
//! POST /v1/segments/{id}/query                   POST   /v1/hot/{id}/query
//! POST /v1/segments/{id}/promote                 POST   /v1/hot/{id}/upload, then /v1/hot/{id}/promoted
//! POST /v1/segments/{id}/release                 POST   /v1/hot/{id}/release
//! (a newer generation in the store)              POST   /v1/hot/{id}/superseded
//! DELETE /v1/segments/{id}                       DELETE /v1/hot/{id}
//! POST /v1/segments/{id}/raise, …/lower          (by way of the assignment)
//!                                                GET    /v1/hot, /v1/hot/{id}, /health/{id}
//! hot worker → gateway, beside its lease
//! GET /v1/workers/{name}/assignment              PUT /v1/workers/{name}/manifest
//! ```
//! Whoever changes something sends the fencing token of the write lock; a lower one than the receiver
//! has seen for that segment is refused with code `fenced`.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::{
    ship::{HotRecover, Recovered, Ship, ShipStatus},
    types::Params,
};

/// Request header, gateway → worker: the fencing token of the write lock.
pub const TOKEN_HEADER: &str = "springhouse-token";
/// Answer header of a query of a segment whose write lock is suspended: `suspended`. The answer is from the
/// last promoted generation; what the holder of the lock has beyond it is not in it.
pub const LOCK_HEADER: &str = "springhouse-lock";
/// Answer header of a query while the gateway cannot read the store: `unreachable`. The answer is from a copy,
/// and nobody knows whether the store has a newer generation.
pub const STORE_HEADER: &str = "springhouse-store";
/// Answer header of `execute`: number of the last transaction that it made, [`ExecuteAnswer::change`]; so who
/// passes the answer on knows it without reading it.
pub const CHANGE_HEADER: &str = "springhouse-change";
/// Request header of `execute`: a request with a key that was applied before is answered as it was then,
/// and changes nothing. 1 to 200 bytes of visible ASCII.
pub const IDEMPOTENCY_HEADER: &str = "idempotency-key";

/// Bits of a fencing token below the gateway's epoch.
pub const TOKEN_COUNTER_BITS: u32 = 40;

/// Right to write a segment: `epoch << 40 | counter`, so later ones are greater across restarts of the
/// gateway. JSON has it as a number below 2^53 as long as the epoch is below 8,192; beyond, clients that
/// read numbers as floats must not compute with it.
pub type Token = u64;

/// `POST /v1/segments/{id}/provision`. An empty body is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProvisionRequest {
    /// Name of a registered schema that a new segment gets; `default`, an empty one, if absent. A segment
    /// that exists keeps what it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// Take the lock from a holder whose lease is gone, or from a live one: its writes and promotions are
    /// refused from then on, and what it had not promoted is kept aside there.
    pub takeover: bool,
}

/// Answer to a [`ProvisionRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvisionAnswer {
    /// The segment.
    pub segment: String,
    /// Worker that holds the lock.
    pub worker: String,
    /// Base URL of that worker.
    pub worker_url: String,
    /// Fencing token of the lock.
    pub token: Token,
    /// Whether the lock was granted by this request; `false`: it was held by `worker` already.
    pub granted: bool,
    /// Whether the segment is new: the store had none.
    pub created: bool,
    /// Schema asked for.
    pub schema: String,
    /// Bytes of the local copy.
    pub size: u64,
    /// Of a takeover: which of the former holder's writes are here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<Recovered>,
}

/// State of a write lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockState {
    /// Its holder lives.
    Held,
    /// Its holder's lease is gone: nobody can write until it comes back or somebody takes over; reads of
    /// the last promoted generation go on and say so.
    Suspended,
}

/// A write lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockInfo {
    /// The segment.
    pub segment: String,
    /// Holder.
    pub worker: String,
    /// Fencing token.
    pub token: Token,
    /// Whether the holder lives.
    pub state: LockState,
    /// When it was granted, ms since 1970.
    pub since_ms: i64,
    /// Schema given at provision.
    pub schema: String,
    /// Whether a promotion of it is under way.
    pub promoting: bool,
    /// Last transaction that the holder is known to have acknowledged; absent: it did not say yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<u64>,
    /// Last transaction that is in the store, promoted or shipped, as far as the holder said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safe_change: Option<u64>,
    /// How its writes are shipped; absent: they are on the holder's disk alone until they are promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ship: Option<Ship>,
}

/// `GET /v1/locks`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockList {
    /// By segment.
    pub locks: Vec<LockInfo>,
    /// Those that a newer generation ended within a week, and whose segment was not provisioned since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub superseded: Vec<SupersededInfo>,
}

/// A write lock that ended because somebody else put a newer generation into the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupersededInfo {
    /// The segment.
    pub segment: String,
    /// Who held it.
    pub worker: String,
    /// Its fencing token.
    pub token: Token,
    /// When it ended, ms since 1970.
    pub at_ms: i64,
    /// Generation that its writes built upon; absent: the store had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Generation that took its place.
    pub generation: String,
    /// Whether the holder has heard of it, and has kept aside what was not promoted.
    pub heard: bool,
    /// File in the holder's directory `hot/kept` that has what was not promoted; absent: there was nothing, or
    /// it has not heard of it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// Transactions in it that were not promoted.
    pub transactions: u64,
    /// The holder has come back without its data: what was not promoted is gone with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

/// One statement of an [`ExecuteRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// One statement.
    pub sql: String,
    /// Its parameters; not together with `rows`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Params>,
    /// Runs it once for each row of positional parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<Vec<serde_json::Value>>>,
}

/// `POST /v1/segments/{id}/execute`: one transaction, all or nothing, durable at the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ExecuteRequest {
    /// Statements with parameters.
    Statements(Statements),
    /// A script: one or more statements without parameters.
    Script(Script),
    /// The same of one of Trough's clients: SQL is understood as by Trough. Not in JSON: what the request
    /// accepts says it.
    #[serde(skip)]
    Trough(String),
}

/// `{"statements": […]}`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statements {
    /// In order.
    pub statements: Vec<Statement>,
    /// Deadline in ms, with the time in queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// `{"sql": "…"}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Statements with semicolons between them.
    pub sql: String,
    /// Deadline in ms, with the time in queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// What one statement did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementResult {
    /// Rows inserted, updated or deleted, over all rows of parameters.
    pub rows_affected: u64,
    /// `last_insert_rowid()` after it, if it inserted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_insert_rowid: Option<i64>,
}

/// Answer to an [`ExecuteRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecuteAnswer {
    /// One for each statement.
    pub results: Vec<StatementResult>,
    /// Number of the transaction in this copy, rising by one.
    pub change: u64,
    /// Whether it had been applied before, under the same idempotency key.
    pub repeated: bool,
}

/// `POST /v1/segments/{id}/promote`. An empty body is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromoteRequest {
    /// Release the lock once it is promoted, if nothing was written meanwhile.
    pub release: bool,
}

/// Answer to a [`PromoteRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromoteAnswer {
    /// The segment.
    pub segment: String,
    /// Path below the store's root.
    pub path: String,
    /// URL of that path.
    pub url: String,
    /// The new generation.
    pub generation: String,
    /// Its length in bytes.
    pub size: u64,
    /// xxh3-128 of its bytes, 32 hexadecimal digits.
    pub checksum: String,
    /// Last transaction that is in it.
    pub change: u64,
    /// Whether the lock was released.
    pub released: bool,
}

/// `POST /v1/segments/{id}/release`. An empty body is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReleaseRequest {
    /// Release although there are writes that were not promoted: they are kept aside on the worker.
    pub force: bool,
}

/// `PUT /v1/schemas/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchemaRequest {
    /// Statements that make an empty database into one of this schema.
    pub sql: String,
}

/// One version of a schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaInfo {
    /// Its name: as a segment id.
    pub name: String,
    /// From 1.
    pub version: u32,
    /// When it was registered, ms since 1970; 0 for the built-in `default`.
    pub created_ms: i64,
    /// Its statements.
    pub sql: String,
}

/// `GET /v1/schemas`: the newest version of each; `GET /v1/schemas/{name}/versions`: all of one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaList {
    /// By name, then version.
    pub schemas: Vec<SchemaInfo>,
}

// ----- gateway → hot worker -----

/// `POST /v1/hot/{id}/provision`: make the segment writable here under the token of the header. Repeating
/// it is harmless. Answered with a [`super::ship::HotProvisioned`] once it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HotProvision {
    /// Path below the store's root.
    pub path: String,
    /// Generation in the store, which has to be fetched first unless it is here; `None`: the store surely
    /// has none, a new segment is made.
    pub generation: Option<String>,
    /// Statements for a new segment.
    pub schema_sql: String,
    /// Ship what is committed; absent: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ship: Option<Ship>,
    /// The lock that this one takes the place of: go on from what is here of it, or what was shipped. Writes under
    /// another lock that nobody promoted are kept aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recover: Option<HotRecover>,
    /// The segment has been writable here under this token. A worker that knows nothing of that has lost its
    /// data, and refuses with `segment_not_found`: what was acknowledged is not begun anew without a word.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

/// `POST /v1/hot/{id}/upload`: make a consistent copy, relaid, check it, upload it and verify it there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HotUpload {
    /// Where to: a temporary name below the store's root, `DIR/ID.sqlite._COPYING_.TOKEN.ATTEMPT`.
    pub temporary: String,
}

/// Answer to a [`HotUpload`]: what lies at the temporary name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotUploaded {
    /// Its length in bytes.
    pub size: u64,
    /// xxh3-128 of its bytes, 32 hexadecimal digits, as read back from the store.
    pub checksum: String,
    /// Last transaction that is in it.
    pub change: u64,
}

/// `POST /v1/hot/{id}/promoted`: the gateway has renamed it over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HotPromoted {
    /// The generation that it became.
    pub generation: String,
    /// [`HotUploaded::change`].
    pub change: u64,
}

/// Answer to `POST /v1/hot/{id}/superseded`: the write lock under the token of the header is over. The segment
/// is closed for writing under it, and what was not promoted is kept aside. Repeating it is harmless, and a
/// higher token is no obstacle: nothing under that one is touched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotAside {
    /// Whether the worker ever heard of this token; `false`: it has lost its data.
    #[serde(default)]
    pub known: bool,
    /// Name of the file in the directory `kept`; `None`: there was nothing to be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// Transactions in it that were not promoted.
    #[serde(default)]
    pub transactions: u64,
}

/// State of a copy on a hot worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyState {
    /// It should be here, and nothing was begun; or it is here, and just being taken away.
    Assigned,
    /// Being copied.
    Fetching,
    /// Answers queries.
    Available,
    /// Answers queries; the store has a newer generation, which is being copied.
    Stale,
    /// Cannot be here; `reason` says why: no room, cannot be read, damaged.
    Refused,
    /// Not here any more. Only in deltas.
    Gone,
}

/// One segment on a hot worker: `GET /v1/hot/{id}`, and an entry of a [`Manifest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotSegment {
    /// Its id.
    pub id: String,
    /// What may be done with it.
    pub state: CopyState,
    /// Why it is refused, or what the last attempt failed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Generation in the store that it was copied from or promoted to; `None`: never promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<String>,
    /// Bytes here.
    pub size: u64,
    /// Bytes copied so far, while it is being fetched.
    #[serde(default)]
    pub fetched: u64,
    /// xxh3-128 of the copied bytes; absent once it was written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// Fencing token under which it is writable here; absent: read only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// Last transaction.
    #[serde(default)]
    pub change: u64,
    /// Last transaction that is in the store; `change` greater than this: there are unpromoted writes.
    #[serde(default)]
    pub promoted_change: u64,
    /// Last transaction that was shipped to the store; absent: none, or it is not shipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shipped_change: Option<u64>,
}

impl CopyState {
    /// As JSON has it, without quotes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Fetching => "fetching",
            Self::Available => "available",
            Self::Stale => "stale",
            Self::Refused => "refused",
            Self::Gone => "gone",
        }
    }
}

impl HotSegment {
    /// Its part of [`Manifest::digest`]: xxh3-64 of `id NUL generation NUL state`, an absent generation
    /// being empty. 0 for one that is gone, which is no part of a manifest.
    pub fn digest(&self) -> u64 {
        if self.state == CopyState::Gone {
            return 0;
        }
        let mut hash = Xxh3::new();
        for part in [self.id.as_str(), "\0", self.generation.as_deref().unwrap_or(""), "\0"] {
            hash.update(part.as_bytes());
        }
        hash.update(self.state.as_str().as_bytes());
        hash.digest()
    }
}

/// What a hot worker is doing with a segment besides answering: in [`HotStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotWork {
    /// `provision`, `copying`, `uploading`, `verifying` or `releasing`.
    pub what: String,
    /// Bytes done.
    pub done: u64,
    /// Of so many; 0: not known yet.
    pub total: u64,
}

/// `GET /v1/hot/{id}`: a [`HotSegment`], and what is being done with it. `DELETE /v1/hot/{id}/work` ends a
/// fetch or an upload that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotStatus {
    /// The segment.
    #[serde(flatten)]
    pub segment: HotSegment,
    /// Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<HotWork>,
    /// How far shipping is; absent: it is not shipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ship: Option<ShipStatus>,
}

/// `GET /v1/hot`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotList {
    /// By id.
    pub segments: Vec<HotSegment>,
}

// ----- hot worker → gateway -----

/// `PUT /v1/workers/{name}/manifest`: what a hot worker has. Whole (`base` absent), or what changed since
/// version `base`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Epoch of the worker's lease.
    pub epoch: u64,
    /// Version of the manifest after this change; rises with each change.
    pub version: u64,
    /// Version that this changes; absent: this is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
    /// Entries that are new or changed; `Gone` ones are taken out.
    pub segments: Vec<HotSegment>,
    /// Wrapping sum over all entries after the change of xxh3-64 of `id NUL generation NUL state`: the
    /// gateway asks for all if its own differs.
    pub digest: u64,
}

/// Answer to a [`Manifest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestAnswer {
    /// Whether the worker has to send all of it: the gateway has not `base`, or the digests differ.
    pub send_all: bool,
    /// Segments that the worker holds under a token that is not the write lock's any more: it has to close
    /// them for writing, and to keep aside what it had not promoted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fenced: Vec<String>,
}

/// Answer to `GET /v1/workers/{name}/assignment?epoch=E&since=V`: what a hot worker should hold, all
/// (`base` absent) or what changed since version `base`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Version now; also in each answer to the worker's heartbeat.
    pub version: u64,
    /// Version that this changes; absent: this is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
    /// To hold, in this generation.
    pub hold: Vec<AssignedSegment>,
    /// To give up, by id, each with the permission of the gateway to remove it now.
    pub drop: Vec<String>,
}

/// A segment that a hot worker should hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedSegment {
    /// Its id.
    pub id: String,
    /// Path below the store's root.
    pub path: String,
    /// Generation in the store.
    pub generation: String,
    /// Its length in bytes.
    pub size: u64,
}

/// What a hot worker adds to its heartbeat. Fields that a gateway does not know are ignored, so that workers
/// may be newer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotReport {
    /// Most bytes of segments that it may hold.
    pub quota_bytes: u64,
    /// Bytes of segments that it holds or has begun to fetch.
    pub stored_bytes: u64,
    /// Whether it takes nothing new: its disk is full beyond what the quota knows.
    pub full: bool,
    /// Version of its manifest.
    pub manifest_version: u64,
    /// Its rack, room or zone: copies of a segment go to different ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Bytes a second that its copies from the store came with lately; absent: none was made yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_bytes_per_s: Option<u64>,
}
