//! Tiers: which rules there are, what they and the heat say of a segment, and why.

use std::sync::Arc;

use axum::{Json, extract::State};

use super::tier_types::{RuleInfo, RuleList};
use crate::{
    gateway::Core,
    rules::{Rule, Terms},
};

/// `GET /v1/rules`
pub(super) async fn rules(State(core): State<Arc<Core>>) -> Json<RuleList> {
    let rules = core.rules.iter().map(|(rule, terms)| info(Some(rule), terms)).collect();
    Json(RuleList { rules, otherwise: info(None, core.rules.otherwise()) })
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
