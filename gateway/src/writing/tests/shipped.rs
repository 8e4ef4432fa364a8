//! What was shipped belongs to a lock as long as anybody may take it up.

use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::rules::{Rule, Ship};

fn shipping(settings: &mut Settings) {
    let ship = Ship { every: Some(Duration::from_secs(1)), pages: None };
    settings.rules = vec![Rule { name: "all".into(), ship, ..Rule::default() }];
}

const TAKEOVER: &str = "/v1/segments/1001/provision";

#[tokio::test]
async fn a_takeover_that_fails_leaves_what_was_shipped_to_the_next_one() {
    let home = Home::with(2, shipping).await;
    let first = home.provision("1001").await;
    let token = first["token"].as_u64().expect("a token");
    let shipped = format!("/1/1001.sqlite._SHIPPED_.{token}.1");
    home.store.write(&shipped, 10, 2000);
    home.workers.iter().for_each(|worker| worker.cut_off.store(true, SeqCst));
    let refused = home.send("POST", TAKEOVER, json!({"takeover": true})).await;
    assert_eq!(code(&refused), (503, "store_unavailable"));
    assert_eq!(home.locks().await.len(), 1, "it is not over");
    // What discovery sees of it now is nobody's to collect.
    home.look_around().await;
    for (directory, id) in home.gateway.core().discovery.take_strays() {
        home.gateway.core().writing.collect_strays(&directory, &id).await;
    }
    assert!(home.store.file(&shipped).is_some(), "it is all that there is");
    home.workers.iter().for_each(|worker| worker.cut_off.store(false, SeqCst));
    let taken = home.provision("1001").await;
    let asked = home.worker(&taken["worker"]).recovers.lock().last().copied().flatten();
    let asked = asked.expect("what was shipped is to be taken up");
    assert_eq!(asked.from, token);
    assert!(asked.token > token && taken["token"].as_u64() > Some(asked.token));
}

#[tokio::test]
async fn a_holder_that_lost_its_data_is_not_begun_anew_without_a_word() {
    let home = Home::with(1, shipping).await;
    let first = home.provision("1001").await;
    home.execute("1001").await;
    home.workers[0].held.lock().clear();
    home.workers[0].granted.lock().clear();
    let refused = home.send("POST", TAKEOVER, json!({})).await;
    assert_eq!(code(&refused), (409, "conflict"), "{}", refused.1);
    let message = refused.1["error"]["message"].as_str().expect("a message");
    assert!(message.contains("takeover"), "{message}");
    let released = home.send("POST", "/v1/segments/1001/release", json!({})).await;
    assert_eq!(code(&released), (409, "conflict"), "{}", released.1);
    assert!(home.workers[0].granted.lock().is_empty());
    let taken = home.send("POST", TAKEOVER, json!({"takeover": true})).await;
    assert_eq!(taken.0, StatusCode::OK, "{}", taken.1);
    let asked = home.workers[0].recovers.lock().last().copied().flatten().expect("taken up");
    assert_eq!(Some(asked.token), first["token"].as_u64());
}

/// The worker may still have writes of a lock before, and has not heard that it ended.
#[tokio::test]
async fn a_takeover_names_the_lock_whose_writes_count() {
    let home = Home::with(1, |_| {}).await;
    let first = home.provision("1001").await;
    let taken = home.send("POST", TAKEOVER, json!({"takeover": true})).await;
    assert_eq!(taken.0, StatusCode::OK, "{}", taken.1);
    let asked = home.workers[0].recovers.lock().last().copied().flatten().expect("named");
    assert_eq!((Some(asked.token), asked.from), (first["token"].as_u64(), asked.token));
}
