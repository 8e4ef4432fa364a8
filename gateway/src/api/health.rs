//! Whether the gateway lives, can answer, and what it counts.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use tokio::time::Instant;

use super::{
    error::{ApiError, ErrorCode},
    tier_types::RaisedBy,
};
use crate::gateway::Core;

/// `GET /livez`
pub(super) async fn live() -> Json<serde_json::Value> {
    Json(json!({"live": true}))
}

/// `GET /readyz`
pub(super) async fn ready(State(core): State<Arc<Core>>) -> Response {
    let now = Instant::now().into_std();
    let mut reasons = Vec::new();
    if core.stopping.load(Ordering::Relaxed) {
        reasons.push("shutting down".to_owned());
    }
    if !core.state.discovered() && core.state.catalog().segment_count() == 0 {
        reasons.push("the first discovery of the store has not ended".to_owned());
    }
    if core.routing.workers.live_count(now) == 0
        && let Some(left) = core.routing.workers.warming(now)
    {
        reasons.push(format!("warming: waiting for workers to report, at most {} s", left.as_secs() + 1));
    }
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": reasons.is_empty(), "reasons": reasons}))).into_response()
}

/// `GET /metrics`
pub(super) async fn metrics(State(core): State<Arc<Core>>) -> Result<Response, ApiError> {
    let metrics = &core.metrics;
    {
        let catalog = core.state.catalog();
        for (kind, n) in [
            ("segments", catalog.segment_count()),
            ("directories", catalog.directory_count()),
            ("misplaced", catalog.misplaced_count()),
            ("bad_names", catalog.bad_names()),
        ] {
            metrics.catalog.with_label_values(&[kind]).set(i64::try_from(n).unwrap_or(i64::MAX));
        }
    }
    {
        let ledger = core.state.ledger();
        let deleting = ledger.tombstones().filter(|(_, tombstone)| tombstone.done_ms.is_none()).count();
        for (kind, n) in [
            ("locks", ledger.locks().count()),
            ("superseded", ledger.all_superseded().count()),
            ("promotions", ledger.intents().count()),
            ("deletions", deleting),
            ("raised_or_pinned", ledger.wished().count()),
            ("damaged_rows", ledger.damage_count()),
        ] {
            metrics.ledger.with_label_values(&[kind]).set(i64::try_from(n).unwrap_or(i64::MAX));
        }
    }
    {
        let ledger = core.state.ledger();
        let (mut hand, mut heat, mut lowered) = (0, 0, 0);
        for (_, wish) in ledger.wishes() {
            match (wish.copies, wish.by) {
                (0, _) => lowered += 1,
                (_, RaisedBy::Hand) => hand += 1,
                (_, RaisedBy::Heat) => heat += 1,
            }
        }
        drop(ledger);
        for (kind, n) in [
            ("raised_by_hand", hand),
            ("raised_by_heat", heat),
            ("lowered_by_hand", lowered),
            ("kept_by_rule", core.routing.copies.kept_count()),
            ("heat_known", core.routing.heat.known()),
        ] {
            metrics.tiers.with_label_values(&[kind]).set(i64::try_from(n).unwrap_or(i64::MAX));
        }
    }
    let infos = core.routing.workers.infos(Instant::now().into_std());
    let live = infos.iter().filter(|info| info.live).count();
    for (state, n) in [("live", live), ("dead", infos.len() - live)] {
        metrics.workers.with_label_values(&[state]).set(i64::try_from(n).unwrap_or(i64::MAX));
    }
    metrics.worker_in_flight.reset();
    for info in infos.iter().filter(|info| info.live) {
        metrics.worker_in_flight.with_label_values(&[&info.name]).set(i64::from(info.in_flight));
    }
    metrics.registry_bytes.set(i64::try_from(core.state.disk_bytes()).unwrap_or(i64::MAX));
    let text = metrics.text().map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
