//! Tiers by rules and heat.

use super::*;
use crate::{
    heat::AnsweredFrom,
    registry::{
        RegistryError,
        ledger::{Entry, Raise, RaisedBy},
        state::Amendment,
    },
    rules::{Rule, TierRule},
    segment::SegmentId,
};

fn id(text: &str) -> SegmentId {
    SegmentId::parse(text).expect("an id")
}

/// Heat is looked at only when a test says so, and stays short.
fn quiet(settings: &mut Settings) {
    settings.heat.interval = Duration::from_secs(3600);
    settings.heat.stay_min = Duration::ZERO;
    settings.heat.half_life = Duration::from_secs(600);
}

/// So many slow answers from the store.
fn ask(home: &Home, segment: &str, times: usize) {
    let heat = &home.gateway.core().routing.heat;
    for _ in 0..times {
        heat.answered(&id(segment), AnsweredFrom::Store, 1.0, tokio::time::Instant::now().into_std());
    }
}

async fn look(home: &Home) {
    home.gateway.core().writing.follow_tiers(false).await;
}

async fn tier(home: &Home, segment: &str) -> Value {
    home.send("GET", &format!("/v1/segments/{segment}/tier"), json!({})).await.1
}

fn wish(home: &Home, segment: &str) -> Option<(u32, RaisedBy)> {
    home.gateway.core().state.ledger().wish(&id(segment)).map(|wish| (wish.copies, wish.by))
}

#[tokio::test]
async fn demand_raises_is_written_down_and_outlives_the_gateway() {
    let mut home = Home::with(2, quiet).await;
    ask(&home, "1001", 7);
    look(&home).await;
    assert_eq!(wish(&home, "1001"), None, "too few");
    ask(&home, "1001", 7);
    let before = tier(&home, "1001").await;
    assert_eq!(
        (&before["action"], before["would_go"].as_array().map(Vec::len)),
        (&json!("raise"), Some(1)),
        "{before}"
    );
    assert_eq!(wish(&home, "1001"), None, "to explain changes nothing");
    look(&home).await;
    assert_eq!(wish(&home, "1001"), Some((1, RaisedBy::Heat)));
    let after = tier(&home, "1001").await;
    assert_eq!((&after["raised_by"], &after["assigned"]), (&json!("heat"), &before["would_go"]), "{after}");
    look(&home).await;
    assert_eq!(wish(&home, "1001"), Some((1, RaisedBy::Heat)));
    let (_, list) = home.send("GET", "/v1/tiers", json!({})).await;
    assert_eq!((&list["total"], &list["segments"][0]["segment"]), (&json!(1), &json!("1001")), "{list}");
    home.restart().await;
    look(&home).await;
    assert_eq!(
        wish(&home, "1001"),
        Some((1, RaisedBy::Heat)),
        "nothing is known yet, and nothing taken down"
    );
}

#[tokio::test]
async fn what_the_store_has_not_any_more_is_not_wished_for() {
    let home = Home::with(1, quiet).await;
    ask(&home, "1001", 20);
    look(&home).await;
    assert_eq!(wish(&home, "1001"), Some((1, RaisedBy::Heat)));
    home.store.delete("/1/1001.sqlite", 9000);
    home.send("POST", "/v1/discovery?full=true", json!({})).await;
    look(&home).await;
    assert_eq!(wish(&home, "1001"), None);
}

#[tokio::test]
async fn nothing_is_raised_without_room() {
    let home = Home::with(1, quiet).await;
    home.beat(&home.workers[0], HotReport { quota_bytes: 15, ..HotReport::default() }).await;
    for segment in ["1001", "1002"] {
        ask(&home, segment, 20);
    }
    look(&home).await;
    let raised = ["1001", "1002"].map(|segment| wish(&home, segment).is_some());
    assert_eq!(raised.iter().filter(|raised| **raised).count(), 1, "there is room for one of them");
    let other = if raised[0] { "1002" } else { "1001" };
    let why = tier(&home, other).await;
    assert_eq!(why["action"], "none", "{why}");
    assert!(why["reasons"].to_string().contains("no hot worker has room"), "{why}");
}

#[tokio::test]
async fn what_is_colder_gives_way() {
    let home = Home::with(1, quiet).await;
    // Raised long ago, and measured since long ago.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3600)).await;
    tokio::time::resume();
    home.beat(&home.workers[0], HotReport { quota_bytes: 15, ..HotReport::default() }).await;
    let old = Raise { copies: 1, by: RaisedBy::Heat, since_ms: 1, until_ms: None };
    let core = home.gateway.core();
    core.state
        .amend(|_, _| {
            Ok::<_, RegistryError>(Amendment::ledger(vec![Entry::Raise(id("1001"), Some(old))], ()))
        })
        .expect("written");
    core.writing.place_copies().await;
    ask(&home, "1001", 100);
    ask(&home, "1002", 300);
    look(&home).await;
    assert_eq!(wish(&home, "1001"), Some((1, RaisedBy::Heat)), "three times as much is not enough");
    ask(&home, "1002", 300);
    look(&home).await;
    assert_eq!((wish(&home, "1001"), wish(&home, "1002")), (None, Some((1, RaisedBy::Heat))));
    assert_eq!(tier(&home, "1002").await["assigned"], json!(["h0"]));
}

#[tokio::test]
async fn a_wish_of_somebody_is_not_overwritten() {
    let home = Home::with(1, quiet).await;
    ask(&home, "1001", 20);
    home.send("POST", "/v1/segments/1001/lower", json!({})).await;
    look(&home).await;
    assert_eq!(wish(&home, "1001"), Some((0, RaisedBy::Hand)));
    let shown = home.show("1001").await;
    assert_eq!((&shown["raised"], &shown["copies"]), (&Value::Null, &Value::Null), "{shown}");
    home.send("POST", "/v1/segments/1001/raise", json!({})).await;
    look(&home).await;
    assert_eq!(wish(&home, "1001"), Some((1, RaisedBy::Hand)));
}

#[tokio::test]
async fn rules_keep_segments_hot_and_cold() {
    let rules = |settings: &mut Settings| {
        quiet(settings);
        let rule =
            |name: &str, tier| Rule { name: name.into(), prefix: Some(name.into()), tier, ..Rule::default() };
        settings.rules =
            vec![rule("1001", TierRule::Hot), rule("1002", TierRule::Cold), rule("9", TierRule::Cold)];
    };
    let mut home = Home::with(1, rules).await;
    look(&home).await;
    home.gateway.core().writing.place_copies().await;
    assert_eq!(tier(&home, "1001").await["assigned"], json!(["h0"]));
    assert_eq!(home.show("1001").await["raised"], 1);
    // A new generation of it, and one that is gone.
    home.store.replace("/1/1001.sqlite", 20, 8000);
    home.send("POST", "/v1/discovery", json!({})).await;
    look(&home).await;
    home.gateway.core().writing.place_copies().await;
    assert_eq!(home.show("1001").await["copies"][0]["size"], 20);
    for (method, what) in [("POST", "raise"), ("POST", "provision"), ("PUT", "pin/h0")] {
        let refused = home.send(method, &format!("/v1/segments/1002/{what}"), json!({})).await;
        assert_eq!(code(&refused), (409, "cold_range"), "{what}");
    }
    assert_eq!(code(&home.send("POST", "/v1/segments/9001/provision", json!({})).await), (409, "cold_range"));
    ask(&home, "1002", 1000);
    look(&home).await;
    assert_eq!(wish(&home, "1002"), None);
    home.restart().await;
    look(&home).await;
    home.gateway.core().writing.place_copies().await;
    assert_eq!(tier(&home, "1001").await["assigned"], json!(["h0"]));
}
