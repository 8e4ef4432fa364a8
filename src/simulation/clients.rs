//! What clients ask for, and what their answers must be.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use springhouse_gateway::api::{
    hot::{IDEMPOTENCY_HEADER, LOCK_HEADER, TOKEN_HEADER},
    types::GENERATION_HEADER,
};
use tower::ServiceExt;

use super::{
    cluster::Cluster,
    model::{Rows, Segment, Taking, Verdict},
};

/// Name of the schema of new segments.
const SCHEMA: &str = "s";
pub(super) const SCHEMA_SQL: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, g TEXT)";
pub(super) const ROWS_SQL: &str = "SELECT id FROM t ORDER BY id";

/// The answer of a gateway; `None`: it died before.
pub(super) type Answer = Option<(StatusCode, Value, String, bool)>;

/// A write whose outcome may not be known.
#[derive(Debug, Clone)]
struct Write {
    segment: usize,
    body: Value,
    token: Option<u64>,
}

/// All clients together, with what they know.
pub(super) struct Clients {
    pub(super) cluster: Arc<Cluster>,
    pub(super) segments: Mutex<Vec<Segment>>,
    broken: Mutex<Option<String>>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    rows: i64,
    takings: u64,
    /// Of writes that were not acknowledged.
    unknown: BTreeMap<i64, Write>,
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Provision {
        takeover: bool,
    },
    /// `with_token`: only under the lock that the client knows of.
    Write {
        with_token: bool,
        bytes: usize,
    },
    /// A write that was not acknowledged, once more.
    Again {
        nth: u64,
    },
    Promote {
        release: bool,
    },
    Release {
        force: bool,
    },
    Query,
    Raise {
        copies: u32,
    },
    Lower,
    Pin {
        worker: usize,
        pinned: bool,
    },
    Delete,
    Optimize,
    Show,
    Discover,
}

impl Clients {
    pub(super) fn new(cluster: Arc<Cluster>, segments: &[&str]) -> Arc<Self> {
        let segments = segments.iter().map(|id| Segment::new(id)).collect();
        Arc::new(Self {
            cluster,
            segments: Mutex::new(segments),
            broken: Mutex::default(),
            inner: Mutex::default(),
        })
    }

    /// Remembers the first promise that was broken.
    pub(super) fn check(&self, verdict: Verdict) {
        if let Err(why) = verdict {
            self.cluster.net.trace.note(format!("BROKEN {why}"));
            self.broken.lock().get_or_insert(why);
        }
    }

    pub(super) fn broken(&self) -> Option<String> {
        self.broken.lock().clone()
    }

    pub(super) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, String)],
        body: &Value,
    ) -> Answer {
        let (router, process) = self.cluster.clients.get()?;
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Body::from(body.to_string())).expect("a request");
        let answered = async {
            let Ok(response) = router.oneshot(request).await;
            let (parts, body) = response.into_parts();
            let bytes = to_bytes(body, usize::MAX).await.ok()?;
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
            let generation = text(GENERATION_HEADER).unwrap_or_default().to_owned();
            Some((parts.status, body, generation, text(LOCK_HEADER).is_some()))
        };
        let death = async {
            process.death().await;
            None
        };
        let answer = tokio::select! {
            biased;
            answer = answered => answer.filter(|_| !process.is_dead()),
            answer = death => answer,
        };
        // What happened before it is judged before it.
        super::schedule::take_events(self);
        answer
    }

    /// Asks, and judges the answer.
    pub(super) async fn ask(self: Arc<Self>, at: usize, ask: Ask) {
        let id = self.segments.lock()[at].id.clone();
        let path = |what: &str| format!("/v1/segments/{id}/{what}");
        let text = format!("{id} {ask:?}");
        self.cluster.net.trace.note(format!("ask {text}"));
        let answer = match ask {
            Ask::Provision { takeover } => self.provision(at, &path("provision"), takeover).await,
            Ask::Write { with_token, bytes } => self.write(at, with_token, bytes).await,
            Ask::Again { nth } => self.again(nth).await,
            Ask::Promote { release } => self.promote(at, &path("promote"), release).await,
            Ask::Release { force } => self.release(at, &path("release"), force).await,
            Ask::Query => self.query(at).await,
            Ask::Raise { copies } => self.send("POST", &path("raise"), &[], &json!({"copies": copies})).await,
            Ask::Lower => self.send("POST", &path("lower"), &[], &json!({})).await,
            Ask::Pin { worker, pinned } => {
                let method = if pinned { "PUT" } else { "DELETE" };
                self.send(method, &path(&format!("pin/w{worker}")), &[], &json!({})).await
            }
            Ask::Delete => self.delete(at).await,
            Ask::Optimize => self.optimize(at, &path("optimize")).await,
            Ask::Show => self.send("GET", &format!("/v1/segments/{id}"), &[], &json!({})).await,
            Ask::Discover => self.send("POST", "/v1/discovery?full=true", &[], &json!({})).await,
        };
        let said = match &answer {
            None => "nothing".to_owned(),
            Some((status, body, ..)) => {
                format!("{} {}", status.as_u16(), body["error"]["code"].as_str().unwrap_or(""))
            }
        };
        self.cluster.net.trace.note(format!("answer {text}: {said}"));
    }

    /// A row is taken away by `taking` until the answer is there.
    fn begin(&self, at: usize, taking: Taking) -> u64 {
        let number = {
            let mut inner = self.inner.lock();
            inner.takings += 1;
            inner.takings
        };
        self.segments.lock()[at].taking(number, taking);
        number
    }

    fn end(&self, at: usize, number: Option<u64>, answer: &Answer) {
        // Without an answer the gateway is dead, and the segment was told so.
        if let (Some(number), Some((status, ..))) = (number, answer) {
            self.segments.lock()[at].taken(number, status.is_success());
        }
    }

    async fn provision(&self, at: usize, path: &str, takeover: bool) -> Answer {
        let taking = takeover.then(|| self.begin(at, Taking::Takeover));
        let newest = self.segments.lock()[at].token;
        let answer = self.send("POST", path, &[], &json!({"schema": SCHEMA, "takeover": takeover})).await;
        self.end(at, taking, &answer);
        if let Some((StatusCode::OK, body, ..)) = &answer {
            let (token, worker) = (body["token"].as_u64(), body["worker"].as_str());
            let new = body["granted"] == true;
            let verdict = match (token, worker) {
                (Some(token), Some(worker)) => self.segments.lock()[at].granted(token, worker, newest, new),
                _ => Err(format!("an answer without token or worker: {body}")),
            };
            self.check(verdict);
        }
        answer
    }

    async fn write(&self, at: usize, with_token: bool, bytes: usize) -> Answer {
        let row = {
            let mut inner = self.inner.lock();
            inner.rows += 1;
            inner.rows
        };
        let text = "x".repeat(bytes);
        let body = json!({"statements": [{"sql": "INSERT INTO t VALUES (?, ?)", "params": [row, text]}]});
        let token = {
            let mut segments = self.segments.lock();
            segments[at].sent(row);
            Some(segments[at].token).filter(|token| with_token && *token > 0)
        };
        let write = Write { segment: at, body, token };
        self.inner.lock().unknown.insert(row, write.clone());
        self.execute(row, &write).await
    }

    async fn again(&self, nth: u64) -> Answer {
        let (row, write) = {
            let inner = self.inner.lock();
            let count = u64::try_from(inner.unknown.len()).ok().filter(|count| *count > 0)?;
            let nth = usize::try_from(nth % count).ok()?;
            inner.unknown.iter().nth(nth).map(|(row, write)| (*row, write.clone()))?
        };
        self.execute(row, &write).await
    }

    async fn execute(&self, row: i64, write: &Write) -> Answer {
        let at = write.segment;
        let (id, newest) = {
            let segments = self.segments.lock();
            (segments[at].id.clone(), segments[at].token)
        };
        let mut headers = vec![(IDEMPOTENCY_HEADER, format!("row-{row}"))];
        headers.extend(write.token.map(|token| (TOKEN_HEADER, token.to_string())));
        let answer = self.send("POST", &format!("/v1/segments/{id}/execute"), &headers, &write.body).await;
        if let Some((StatusCode::OK, body, ..)) = &answer {
            self.inner.lock().unknown.remove(&row);
            let change = body["change"].as_u64();
            let verdict = self.segments.lock()[at].acknowledged(row, write.token, newest, change);
            self.check(verdict);
        }
        if let Some((status, body, ..)) = &answer
            && status.is_client_error()
            && body["error"]["message"].as_str().is_some_and(|text| text.contains("UNIQUE constraint"))
        {
            let verdict = self.segments.lock()[at].refused_as_there(row);
            self.check(verdict);
        }
        answer
    }

    async fn promote(&self, at: usize, path: &str, release: bool) -> Answer {
        let before = self.segments.lock()[at].required();
        let answer = self.send("POST", path, &[], &json!({"release": release})).await;
        if let Some((StatusCode::OK, body, ..)) = &answer {
            let generation = body["generation"].as_str().unwrap_or_default();
            let verdict = self.segments.lock()[at].promoted(generation, &before);
            self.check(verdict);
        }
        answer
    }

    async fn optimize(&self, at: usize, path: &str) -> Answer {
        let answer = self.send("POST", path, &[], &json!({})).await;
        if let Some((StatusCode::OK, body, ..)) = &answer {
            let generation = body["generation"].as_str().unwrap_or_default();
            let verdict = self.segments.lock()[at].promoted(generation, &Rows::new());
            self.check(verdict);
        }
        answer
    }

    async fn release(&self, at: usize, path: &str, force: bool) -> Answer {
        let taking = force.then(|| self.begin(at, Taking::Force));
        let answer = self.send("POST", path, &[], &json!({"force": force})).await;
        self.end(at, taking, &answer);
        answer
    }

    async fn delete(&self, at: usize) -> Answer {
        let taking = self.begin(at, Taking::Deletion);
        let (id, before): (String, Rows) = {
            let segments = self.segments.lock();
            (segments[at].id.clone(), segments[at].rows.keys().copied().collect())
        };
        let answer = self.send("DELETE", &format!("/v1/segments/{id}"), &[], &json!({})).await;
        self.end(at, Some(taking), &answer);
        if let Some((StatusCode::NO_CONTENT, ..)) = &answer {
            // What is sent once more comes to a new segment.
            let mut before = before;
            before.retain(|row| !self.inner.lock().unknown.contains_key(row));
            self.segments.lock()[at].deleted(&before);
        }
        answer
    }

    pub(super) async fn query(&self, at: usize) -> Answer {
        let (id, before) = {
            let segments = self.segments.lock();
            (segments[at].id.clone(), segments[at].required())
        };
        let body = json!({"sql": ROWS_SQL});
        let answer = self.send("POST", &format!("/v1/segments/{id}/query"), &[], &body).await;
        if let Some((status, body, generation, suspended)) = &answer {
            let verdict = match *status {
                StatusCode::OK => match rows_of(body) {
                    Some(rows) => self.segments.lock()[at].seen(&rows, generation, *suspended, &before),
                    // Broken off, and said so.
                    None if body["error"].is_object() || body.is_null() => Ok(()),
                    None => Err(format!("{id}: an answer that is none: {body}")),
                },
                StatusCode::NOT_FOUND => self.segments.lock()[at].not_seen(&Rows::new(), &before),
                _ => Ok(()),
            };
            self.check(verdict);
        }
        answer
    }
}

/// Of a whole answer.
pub(super) fn rows_of(body: &Value) -> Option<Rows> {
    let rows = body["rows"].as_array()?;
    body["end"].as_object()?;
    rows.iter().map(|row| row[0].as_i64()).collect()
}
