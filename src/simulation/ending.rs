//! When all is well again: everything can be used, nothing is lost, nothing is left over.

use std::{path::Path, sync::Arc, time::Duration};

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use serde_json::{Value, json};
use tokio::time::sleep;
use tower::ServiceExt;

use super::{
    clients::{Ask, Clients, ROWS_SQL, rows_of},
    model::{Rows, Verdict},
    schedule::store_path,
};

/// Tries of one request, 10 s apart.
const TRIES: u32 = 30;

/// Until what a store made late is collected: it has to stand still for twice `copy_max` first.
const COLLECTED_TRIES: u32 = 2 * TRIES;

/// What worker `n` says that it has; nothing, if it is not up.
async fn copies_of(clients: &Clients, n: usize) -> Vec<Value> {
    let Some(router) = clients.cluster.worker_router(n) else { return Vec::new() };
    let request = Request::get("/v1/hot").body(Body::empty()).expect("a request");
    let Ok(response) = router.oneshot(request).await;
    let Ok(bytes) = to_bytes(response.into_body(), usize::MAX).await else { return Vec::new() };
    let mut list: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    match list["segments"].take() {
        Value::Array(copies) => copies,
        _ => Vec::new(),
    }
}

/// Worker `n` is dead; `last`: what it said before. Its disk is lost.
pub(super) fn disk_lost(clients: &Clients, n: usize, last: &[Value]) {
    for segment in clients.segments.lock().iter_mut() {
        let copy = last.iter().find(|copy| copy["id"] == *segment.id);
        let held = copy
            .and_then(|copy| Some((copy["token"].as_u64()?, copy["shipped_change"].as_u64().unwrap_or(0))));
        segment.disk_lost(&format!("w{n}"), held);
    }
}

/// Every token is one worker's. What worker `look` says is given back.
pub(super) async fn one_writer_for_a_token(clients: &Clients, look: Option<usize>) -> Vec<Value> {
    let mut looked_at = Vec::new();
    for n in 0..clients.cluster.workers() {
        let copies = copies_of(clients, n).await;
        for copy in &copies {
            let Some(token) = copy["token"].as_u64() else { continue };
            let verdict = {
                let mut segments = clients.segments.lock();
                let segment = segments.iter_mut().find(|segment| copy["id"] == *segment.id);
                segment.map_or(Ok(()), |segment| segment.holder(token, &format!("w{n}")))
            };
            clients.check(verdict);
        }
        if look == Some(n) {
            looked_at = copies;
        }
    }
    looked_at
}

/// See the module.
pub(super) async fn check(clients: &Arc<Clients>) {
    let count = clients.segments.lock().len();
    for at in 0..count {
        let verdict = lives(clients, at).await;
        clients.check(verdict);
        if clients.broken().is_some() {
            return;
        }
    }
    for at in 0..count {
        let verdict = found(clients, at);
        clients.check(verdict);
    }
    let verdict = nothing_left(clients).await;
    clients.check(verdict);
}

/// Asks until it succeeds. `accept`: other answers that are good.
pub(super) async fn succeed(
    clients: &Clients,
    method: &str,
    path: &str,
    body: &Value,
    accept: &[u16],
) -> Result<(StatusCode, Value), String> {
    let mut last = String::new();
    for _ in 0..TRIES {
        match clients.send(method, path, &[], body).await {
            Some((status, body, ..)) if status.is_success() || accept.contains(&status.as_u16()) => {
                return Ok((status, body));
            }
            Some((status, body, ..)) => last = format!("{status} {body}"),
            None => last = "nothing".into(),
        }
        sleep(Duration::from_secs(10)).await;
    }
    Err(format!("{method} {path} does not succeed though all is well: {last}"))
}

/// The segment can be locked, written, promoted, released, queried and raised.
async fn lives(clients: &Arc<Clients>, at: usize) -> Verdict {
    let id = clients.segments.lock()[at].id.clone();
    let path = |what: &str| format!("/v1/segments/{id}/{what}");
    let schema = json!({"schema": "s"});
    // What somebody else put there ends the lock: whoever wrote is told so, and lets go.
    let (mut status, mut body) = succeed(clients, "POST", &path("provision"), &schema, &[409]).await?;
    let without =
        body["error"]["message"].as_str().is_some_and(|why| why.contains("came back without its data"));
    if without {
        Arc::clone(clients).ask(at, Ask::Provision { takeover: true }).await;
        (status, body) = succeed(clients, "POST", &path("provision"), &schema, &[409]).await?;
    }
    if status != StatusCode::CONFLICT {
        (status, body) = succeed(clients, "POST", &path("promote"), &json!({}), &[409]).await?;
    }
    if status == StatusCode::CONFLICT {
        if !clients.segments.lock()[at].is_disturbed {
            return Err(format!("{id}: nobody changed the store, and the promotion is refused: {body}"));
        }
        Arc::clone(clients).ask(at, Ask::Release { force: true }).await;
    }
    let (_, lock) = succeed(clients, "POST", &path("provision"), &schema, &[]).await?;
    let (token, worker) = (lock["token"].as_u64().unwrap_or(0), lock["worker"].as_str().unwrap_or(""));
    clients.segments.lock()[at].granted(token, worker, 0, true)?;
    let before = clients.segments.lock()[at].rows.len();
    for _ in 0..TRIES {
        Arc::clone(clients).ask(at, Ask::Write { with_token: true, bytes: 10 }).await;
        let rows: Vec<bool> = clients.segments.lock()[at].rows.values().map(|row| row.acknowledged).collect();
        if rows.len() > before && rows.last() == Some(&true) {
            break;
        }
        sleep(Duration::from_secs(10)).await;
    }
    let (_, promoted) = succeed(clients, "POST", &path("promote"), &json!({"release": false}), &[]).await?;
    let required = clients.segments.lock()[at].required();
    clients.segments.lock()[at].promoted(promoted["generation"].as_str().unwrap_or(""), &required)?;
    Arc::clone(clients).ask(at, Ask::Query).await;
    succeed(clients, "POST", &path("release"), &json!({}), &[]).await?;
    raised(clients, at, &id).await?;
    let (_, answer) = succeed(clients, "POST", &path("query"), &json!({"sql": ROWS_SQL}), &[]).await?;
    let rows = rows_of(&answer).unwrap_or_default();
    let segments = clients.segments.lock();
    let there = segments[at].canonical.as_ref().and_then(|generation| segments[at].contents.get(generation));
    match there {
        Some(there) if **there == rows => Ok(()),
        _ => Err(format!("{id}: the store has {there:?}, a query gives {rows:?}")),
    }
}

/// As many copies as there shall be, if there are so many workers.
async fn raised(clients: &Clients, at: usize, id: &str) -> Verdict {
    let copies = clients.cluster.workers().min(2);
    let wish = json!({"copies": copies});
    succeed(clients, "POST", &format!("/v1/segments/{id}/raise"), &wish, &[]).await?;
    let mut last = Value::Null;
    for _ in 0..TRIES {
        if let Some((_, shown, ..)) =
            clients.send("GET", &format!("/v1/segments/{id}"), &[], &json!({})).await
        {
            let canonical = clients.segments.lock()[at].canonical.clone();
            let good = shown["copies"].as_array().into_iter().flatten().filter(|copy| {
                copy["state"] == "available"
                    && copy["live"] == true
                    && copy["generation"].as_str() == canonical.as_deref()
            });
            if good.count() >= copies {
                return Ok(());
            }
            last = shown;
        }
        sleep(Duration::from_secs(10)).await;
    }
    Err(format!("{id}: {copies} copies were wished for, and there are fewer: {last}"))
}

/// What was acknowledged is in the store, or kept aside on some worker.
fn found(clients: &Clients, at: usize) -> Verdict {
    let (id, wanted, mut rows) = {
        let segments = clients.segments.lock();
        let segment = &segments[at];
        if segment.was_deleted {
            return Ok(());
        }
        let there = segment.canonical.as_ref().and_then(|generation| segment.contents.get(generation));
        (segment.id.clone(), segment.to_be_found(), there.map_or_else(Rows::new, |rows| (**rows).clone()))
    };
    for n in 0..clients.cluster.workers() {
        rows.extend(kept(&clients.cluster.disk(n).join("kept"), &id));
    }
    let lost: Vec<&i64> = wanted.iter().filter(|row| !rows.contains(row)).collect();
    if lost.is_empty() {
        return Ok(());
    }
    Err(format!("{id}: acknowledged rows {lost:?} are neither in the store nor kept aside anywhere"))
}

/// Rows of all that is kept aside of a segment.
fn kept(dir: &Path, id: &str) -> Vec<i64> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let own = entries.filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(&format!("{id}.")) && name.ends_with(".sqlite")
    });
    own.filter_map(|path| crate::query::test_rows(&path, ROWS_SQL)).flatten().collect()
}

/// No uploads in the store, no locks.
async fn nothing_left(clients: &Clients) -> Verdict {
    let mut left = Vec::new();
    for _ in 0..COLLECTED_TRIES {
        left = clients.cluster.tree.lock().left_over();
        if left.is_empty() {
            break;
        }
        sleep(Duration::from_secs(10)).await;
    }
    if !left.is_empty() {
        return Err(format!("left over in the store: {left:?}"));
    }
    let locks = succeed(clients, "GET", "/v1/locks", &json!({}), &[]).await?.1;
    match locks["locks"].as_array() {
        Some(locks) if locks.is_empty() => {}
        _ => return Err(format!("locks that nobody holds: {locks}")),
    }
    for segment in clients.segments.lock().iter() {
        let path = store_path(&segment.id);
        if !clients.cluster.tree.lock().files.contains_key(&path) {
            return Err(format!("{path} is not in the store"));
        }
    }
    Ok(())
}
