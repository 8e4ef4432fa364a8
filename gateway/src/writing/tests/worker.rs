//! A hot worker without SQLite: what it has is a counter of transactions for each segment.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst},
    },
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{delete, post},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{
    api::{
        error::{ApiError, ErrorCode},
        hot::{CHANGE_HEADER, CopyState, HotAside, HotProvision, HotSegment, HotUpload, TOKEN_HEADER, Token},
        ship::HotRecover,
    },
    discovery::memory_store::MemoryStore,
};

/// Times that uploads get: each its own, as in a store with a clock.
static CLOCK: AtomicI64 = AtomicI64::new(10_000);

#[derive(Debug, Clone, Default)]
pub(super) struct Held {
    pub(super) token: Option<Token>,
    pub(super) generation: Option<String>,
    pub(super) change: u64,
    pub(super) promoted: u64,
    pub(super) schema_sql: String,
}

pub(super) struct FakeHot {
    pub(super) name: String,
    store: Arc<MemoryStore>,
    pub(super) held: Mutex<BTreeMap<String, Held>>,
    /// Highest token seen of each segment.
    seen: Mutex<HashMap<String, Token>>,
    /// Every token under which something was granted here.
    pub(super) granted: Mutex<Vec<(String, Token)>>,
    /// Answers to idempotency keys.
    keys: Mutex<HashMap<String, u64>>,
    /// What was kept aside, by token: the file, and how many transactions.
    pub(super) kept: Mutex<BTreeMap<Token, (String, u64)>>,
    pub(super) full: AtomicBool,
    /// Cannot reach the store for a provision.
    pub(super) cut_off: AtomicBool,
    /// What each provision was to take up.
    pub(super) recovers: Mutex<Vec<Option<HotRecover>>>,
    /// Takes connections and answers nothing.
    pub(super) mute: AtomicBool,
    /// Uploads wait until they are told.
    pub(super) hold_uploads: AtomicBool,
    /// Writes wait as well, when they are done.
    pub(super) hold_writes: AtomicBool,
    pub(super) go: Notify,
    pub(super) uploading: Notify,
    /// Uploads are shorter in the store than they say.
    pub(super) cut_uploads: AtomicBool,
    /// When an upload is there, the store carries out what was asked for long ago.
    pub(super) late_catch_up: AtomicBool,
    /// Turns that each request lets pass.
    pub(super) slowness: AtomicU64,
}

type Hot = State<Arc<FakeHot>>;

impl FakeHot {
    pub(super) fn new(name: &str, store: &Arc<MemoryStore>) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            store: store.clone(),
            held: Mutex::default(),
            seen: Mutex::default(),
            granted: Mutex::default(),
            keys: Mutex::default(),
            kept: Mutex::default(),
            full: AtomicBool::default(),
            cut_off: AtomicBool::default(),
            recovers: Mutex::default(),
            mute: AtomicBool::default(),
            hold_uploads: AtomicBool::default(),
            hold_writes: AtomicBool::default(),
            go: Notify::new(),
            uploading: Notify::new(),
            cut_uploads: AtomicBool::default(),
            late_catch_up: AtomicBool::default(),
            slowness: AtomicU64::default(),
        })
    }

    pub(super) fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/v1/hot/{id}/provision", post(provision))
            .route("/v1/hot/{id}/execute", post(execute))
            .route("/v1/hot/{id}/query", post(query))
            .route("/v1/hot/{id}/upload", post(upload))
            .route("/v1/hot/{id}/promoted", post(promoted))
            .route("/v1/hot/{id}/release", post(release))
            .route("/v1/hot/{id}/superseded", post(superseded))
            .route("/v1/hot/{id}", delete(remove))
            .with_state(self.clone())
    }

    /// Lets other tasks run a few times, so that requests overlap; how often is a matter of the seed.
    async fn wait_for_turn(&self) {
        for _ in 0..self.slowness.load(SeqCst) {
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn get(&self, id: &str) -> Held {
        self.held.lock().get(id).cloned().unwrap_or_default()
    }

    /// Checks a token as the contract says; remembers the highest.
    fn fence(&self, id: &str, headers: &HeaderMap) -> Result<Token, ApiError> {
        let token = headers.get(TOKEN_HEADER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let token: Token = token.ok_or_else(|| ApiError::new(ErrorCode::BadRequest, "no token"))?;
        let mut seen = self.seen.lock();
        let highest = seen.entry(id.to_owned()).or_default();
        if token < *highest {
            return Err(ApiError::new(ErrorCode::Fenced, format!("{token} is below {highest}")));
        }
        *highest = token;
        Ok(token)
    }

    fn writable(&self, id: &str, headers: &HeaderMap) -> Result<Token, ApiError> {
        let token = self.fence(id, headers)?;
        if self.get(id).token == Some(token) {
            Ok(token)
        } else {
            Err(ApiError::new(ErrorCode::NotProvisioned, "not provisioned here"))
        }
    }

    pub(super) fn segment(&self, id: &str) -> HotSegment {
        let held = self.get(id);
        HotSegment {
            id: id.to_owned(),
            state: CopyState::Available,
            reason: None,
            generation: held.generation,
            size: 10 + held.change,
            fetched: 0,
            checksum: None,
            token: held.token,
            change: held.change,
            promoted_change: held.promoted,
            shipped_change: None,
        }
    }
}

async fn provision(
    State(hot): Hot,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(body): Json<HotProvision>,
) -> Result<Json<HotSegment>, ApiError> {
    hot.wait_for_turn().await;
    if hot.mute.load(SeqCst) {
        std::future::pending::<()>().await;
    }
    let token = hot.fence(&id, &headers)?;
    if hot.full.load(SeqCst) {
        return Err(ApiError::new(ErrorCode::NoRoom, "the disk is full"));
    }
    hot.recovers.lock().push(body.recover);
    if hot.cut_off.load(SeqCst) {
        return Err(ApiError::new(ErrorCode::StoreUnavailable, "the store cannot be reached"));
    }
    if body.again && !hot.granted.lock().iter().any(|(_, granted)| *granted == token) {
        return Err(ApiError::new(ErrorCode::SegmentNotFound, "nothing is known of that token here"));
    }
    {
        let mut held = hot.held.lock();
        let held = held.entry(id.clone()).or_default();
        if held.token != Some(token) {
            // What was written under another token is kept aside: not part of the segment any more.
            if let Some(old) = held.token.filter(|_| held.change > held.promoted) {
                hot.kept.lock().insert(old, (format!("{id}.{old}.sqlite"), held.change - held.promoted));
            }
            *held = Held {
                token: Some(token),
                generation: body.generation.clone(),
                change: 0,
                promoted: 0,
                schema_sql: if body.generation.is_none() { body.schema_sql } else { String::new() },
            };
            hot.granted.lock().push((id.clone(), token));
        }
    }
    Ok(Json(hot.segment(&id)))
}

async fn execute(
    State(hot): Hot,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<([(&'static str, String); 1], Json<Value>), ApiError> {
    let answer = |change: u64, answer: Value| ([(CHANGE_HEADER, change.to_string())], Json(answer));
    hot.wait_for_turn().await;
    let token = hot.writable(&id, &headers)?;
    let key = headers.get("idempotency-key").and_then(|v| v.to_str().ok()).map(|key| format!("{id}/{key}"));
    if let Some(change) = key.as_ref().and_then(|key| hot.keys.lock().get(key).copied()) {
        return Ok(answer(change, json!({"results": [], "change": change, "repeated": true})));
    }
    let change = {
        let mut held = hot.held.lock();
        let held = held.get_mut(&id).expect("it is writable");
        held.change += 1;
        held.change
    };
    if let Some(key) = key {
        hot.keys.lock().insert(key, change);
    }
    if hot.hold_writes.load(SeqCst) {
        hot.uploading.notify_one();
        hot.go.notified().await;
    }
    Ok(answer(change, json!({"results": [], "change": change, "repeated": false, "token": token})))
}

async fn query(State(hot): Hot, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let held = hot.get(&id);
    if headers.contains_key(TOKEN_HEADER) {
        if let Err(error) = hot.writable(&id, &headers) {
            return error.into_response();
        }
    } else if !hot.held.lock().contains_key(&id) {
        return ApiError::new(ErrorCode::SegmentNotFound, "no copy here").into_response();
    }
    Json(json!({"hot": hot.name, "change": held.change})).into_response()
}

async fn upload(
    State(hot): Hot,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(body): Json<HotUpload>,
) -> Result<Json<Value>, ApiError> {
    hot.wait_for_turn().await;
    hot.writable(&id, &headers)?;
    let change = hot.get(&id).change;
    hot.uploading.notify_one();
    if hot.hold_uploads.load(SeqCst) {
        hot.go.notified().await;
    }
    let size = 100 + change;
    let there = if hot.cut_uploads.load(SeqCst) { 5 } else { size };
    hot.store.write(&body.temporary, there, CLOCK.fetch_add(1, SeqCst));
    if hot.late_catch_up.load(SeqCst) {
        hot.store.catch_up();
    }
    Ok(Json(json!({"size": size, "checksum": format!("{change:032x}"), "change": change})))
}

async fn promoted(
    State(hot): Hot,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Result<StatusCode, ApiError> {
    hot.writable(&id, &headers)?;
    let mut held = hot.held.lock();
    let held = held.get_mut(&id).expect("it is writable");
    held.generation = body["generation"].as_str().map(str::to_owned);
    held.promoted = body["change"].as_u64().expect("a number");
    Ok(StatusCode::NO_CONTENT)
}

async fn release(
    State(hot): Hot,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Result<StatusCode, ApiError> {
    let token = hot.fence(&id, &headers)?;
    if !hot.granted.lock().iter().any(|(_, granted)| *granted == token) {
        return Err(ApiError::new(ErrorCode::SegmentNotFound, "nothing is known of that token here"));
    }
    hot.writable(&id, &headers)?;
    let mut held = hot.held.lock();
    let held = held.get_mut(&id).expect("it is writable");
    if held.change > held.promoted && body["force"] != true {
        return Err(ApiError::new(ErrorCode::Unpromoted, "there are writes that were not promoted"));
    }
    held.token = None;
    Ok(StatusCode::NO_CONTENT)
}

async fn superseded(
    State(hot): Hot,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<HotAside>, ApiError> {
    hot.wait_for_turn().await;
    if hot.mute.load(SeqCst) {
        return Err(ApiError::new(ErrorCode::Internal, "not now"));
    }
    let token = headers.get(TOKEN_HEADER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    let token: Token = token.ok_or_else(|| ApiError::new(ErrorCode::BadRequest, "no token"))?;
    let mut all = hot.held.lock();
    if let Some(held) = all.get_mut(&id).filter(|held| held.token == Some(token)) {
        held.token = None;
        if held.change > held.promoted {
            let aside = (format!("{id}.{token}.sqlite"), held.change - held.promoted);
            hot.kept.lock().insert(token, aside);
            all.remove(&id);
        }
    }
    let kept = hot.kept.lock().get(&token).cloned();
    let transactions = kept.as_ref().map_or(0, |kept| kept.1);
    let known = hot.granted.lock().iter().any(|(_, granted)| *granted == token);
    Ok(Json(HotAside { known, kept: kept.map(|kept| kept.0), transactions }))
}

async fn remove(State(hot): Hot, Path(id): Path<String>, headers: HeaderMap) -> Result<StatusCode, ApiError> {
    if hot.mute.load(SeqCst) {
        std::future::pending::<()>().await;
    }
    hot.fence(&id, &headers)?;
    match hot.held.lock().remove(&id) {
        Some(_) => Ok(StatusCode::NO_CONTENT),
        None => Err(ApiError::new(ErrorCode::SegmentNotFound, "no copy here")),
    }
}
