//! Tiers: which rules there are, what they and the heat say of a segment, and why.

use std::sync::Arc;

use axum::{
    Json,
    extract::{
        Path, Query as UrlQuery, State,
        rejection::{PathRejection, QueryRejection},
    },
};
use serde::Deserialize;

use super::{
    error::ApiError,
    segments::{bad_request, place_of, segment_id, token_of},
    tier_types::{RuleInfo, RuleList, TierInfo, TierList},
};
use crate::{
    gateway::Core,
    rules::{Rule, Terms},
    segment::SegmentId,
    writing::tiers::list::{Page, Place},
};

/// `GET /v1/rules`
pub(super) async fn rules(State(core): State<Arc<Core>>) -> Json<RuleList> {
    let rules = core.rules.iter().map(|(rule, terms)| info(Some(rule), terms)).collect();
    Json(RuleList { rules, otherwise: info(None, core.rules.otherwise()) })
}

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    limit: Option<usize>,
    after: Option<String>,
}

/// `GET /v1/tiers?limit=&after=`
pub(super) async fn list(
    State(core): State<Arc<Core>>,
    params: Result<UrlQuery<ListParams>, QueryRejection>,
) -> Result<Json<TierList>, ApiError> {
    let UrlQuery(params) = params.map_err(|e| bad_request(e.body_text()))?;
    let limit = params.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(bad_request(format!("limit must be 1 to {LIMIT_MAX}")));
    }
    let after = match &params.after {
        Some(text) => {
            Some(place(text).ok_or_else(|| bad_request("after must be the `next` of an earlier answer"))?)
        }
        None => None,
    };
    let Page { segments, total, next } = core.writing.tiers(limit, after).await?;
    Ok(Json(TierList { segments, next: next.as_ref().map(token), total }))
}

/// Where a page ended, as text.
fn token(place: &Place) -> String {
    let rank = place.rank.map(|rank| format!("{:x}", rank.to_bits())).unwrap_or_default();
    token_of(&rank, place.segment.as_str())
}

fn place(token: &str) -> Option<Place> {
    let (rank, segment) = place_of(token)?;
    let rank = match rank.as_str() {
        "" => None,
        bits => Some(f64::from_bits(u64::from_str_radix(bits, 16).ok()?)).filter(|rank| rank.is_finite()),
    };
    Some(Place { rank, segment: SegmentId::parse(&segment).ok()? })
}

/// `GET /v1/segments/{id}/tier`
pub(super) async fn explain(
    State(core): State<Arc<Core>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<TierInfo>, ApiError> {
    let id = segment_id(id)?;
    core.writing.explain_tier(&id).await.map(Json)
}

fn info(rule: Option<&Rule>, terms: &Terms) -> RuleInfo {
    let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    RuleInfo {
        name: terms.rule.as_deref().map(str::to_owned),
        prefix: rule.and_then(|rule| rule.prefix.clone()),
        pattern: rule.and_then(|rule| Some(rule.pattern.as_ref()?.as_str().to_owned())),
        older_than_ms: rule.and_then(|rule| rule.older_than.map(ms)),
        tier: terms.tier,
        copies_minimum: terms.copies_minimum,
        copies_maximum: terms.copies_maximum,
        ship_every_ms: terms.ship.every.map(ms),
        ship_pages: terms.ship.pages,
    }
}
