use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use super::*;
use crate::api::{
    hot::{Assignment, CopyState, HotSegment, Manifest, ManifestAnswer},
    types::CopyInfo,
};

static VERSIONS: AtomicU64 = AtomicU64::new(1);

fn manifest(base: Option<u64>, segments: Vec<HotSegment>, all: &[HotSegment]) -> Manifest {
    let digest = all.iter().fold(0u64, |sum, segment| sum.wrapping_add(segment.digest()));
    Manifest { epoch: 1, version: VERSIONS.fetch_add(1, SeqCst), base, segments, digest }
}

/// Sends a manifest with just these segments, as the worker has them.
pub(super) async fn publish(home: &Home, worker: &FakeHot, ids: &[&str]) -> ManifestAnswer {
    let segments: Vec<HotSegment> = ids.iter().map(|id| worker.segment(id)).collect();
    let manifest = manifest(None, segments.clone(), &segments);
    home.gateway.registrar().manifest(&worker.name, &manifest).await.expect("taken")
}

async fn assignment(home: &Home, worker: &FakeHot, since: Option<u64>) -> Assignment {
    home.gateway.registrar().assignment(&worker.name, 1, since).await.expect("an assignment")
}

fn held(assignment: &Assignment) -> Vec<&str> {
    assignment.hold.iter().map(|segment| segment.id.as_str()).collect()
}

/// Makes the worker have `id` in the generation that is in the store.
fn fetch(home: &Home, worker: &FakeHot, id: &str) {
    let generation = home.store.file(&format!("/1/{id}.sqlite")).map(|entry| entry.generation.to_string());
    worker.held.lock().insert(id.to_owned(), worker::Held { generation, ..Default::default() });
}

async fn raise(home: &Home, id: &str, copies: u32) -> Value {
    let path = format!("/v1/segments/{id}/raise");
    let (status, answer) = home.send("POST", &path, json!({"copies": copies})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

async fn copies_of(home: &Home, id: &str) -> Vec<CopyInfo> {
    serde_json::from_value(home.show(id).await["copies"].clone()).unwrap_or_default()
}

#[tokio::test]
async fn raised_segments_are_assigned_served_and_lowered() {
    let home = Home::new(2).await;
    let answer = raise(&home, "1001", 1).await;
    let name = answer["assigned"][0].clone();
    assert_eq!((&answer["copies"], answer["assigned"].as_array().map(Vec::len)), (&json!(1), Some(1)));
    let holder = home.worker(&name).clone();
    let told = assignment(&home, &holder, None).await;
    assert_eq!((held(&told), told.base), (vec!["1001"], None));
    assert_eq!((told.hold[0].path.as_str(), told.hold[0].size), ("/1/1001.sqlite", 10));
    // Visible from the start.
    assert_eq!(copies_of(&home, "1001").await[0].state, CopyState::Assigned);
    assert_eq!(code(&home.query("1001").await), (503, "warming"), "there is no copy and no cold worker");
    fetch(&home, &holder, "1001");
    publish(&home, &holder, &["1001"]).await;
    assert_eq!(copies_of(&home, "1001").await[0].state, CopyState::Available);
    assert_eq!(home.query("1001").await.1["hot"], name);
    // Lowered: told to drop it, and not asked any more once it is gone.
    home.send("POST", "/v1/segments/1001/lower", json!({})).await;
    let later = assignment(&home, &holder, Some(told.version)).await;
    assert_eq!((later.base, later.drop.clone()), (Some(told.version), vec!["1001".to_owned()]));
    publish(&home, &holder, &[]).await;
    assert_eq!(assignment(&home, &holder, Some(later.version)).await.drop, Vec::<String>::new());
    for bad in [json!({"copies": 0}), json!({"copies": 5}), json!({"copy": 1})] {
        assert_eq!(code(&home.send("POST", "/v1/segments/1001/raise", bad).await), (400, "bad_request"));
    }
    assert_eq!(
        code(&home.send("POST", "/v1/segments/9999/raise", json!({})).await),
        (404, "segment_not_found")
    );
}

#[tokio::test]
async fn a_copy_of_another_generation_is_not_asked() {
    let home = Home::new(1).await;
    let holder = &home.workers[0];
    raise(&home, "1001", 1).await;
    fetch(&home, holder, "1001");
    publish(&home, holder, &["1001"]).await;
    let before = assignment(&home, holder, None).await;
    home.store.replace("/1/1001.sqlite", 20, 8000);
    home.send("POST", "/v1/discovery", json!({})).await;
    assert_eq!(code(&home.query("1001").await), (503, "warming"), "the copy is stale");
    // The new generation is assigned, as a change, as soon as it is known.
    home.gateway.core().writing.place_copies().await;
    let now = assignment(&home, holder, Some(before.version)).await;
    assert_eq!((now.base, now.hold[0].size), (Some(before.version), 20));
    fetch(&home, holder, "1001");
    publish(&home, holder, &["1001"]).await;
    assert_eq!(home.query("1001").await.1["hot"], "h0");
}

#[tokio::test]
async fn the_cold_tier_answers_if_the_copy_does_not() {
    let home = Home::new(1).await;
    let cold = axum::Router::new().route(
        "/v1/segments/{id}/query",
        axum::routing::post(|| async { axum::Json(json!({"cold": true})) }),
    );
    home.gateway.attach_local("cold", cold);
    home.gateway.registrar().renew("cold", &lease(1, "local")).await.expect("a lease");
    fetch(&home, &home.workers[0], "1001");
    publish(&home, &home.workers[0], &["1001"]).await;
    assert_eq!(home.query("1001").await.1["hot"], "h0", "the copy comes first");
    home.workers[0].held.lock().clear();
    assert_eq!(home.query("1001").await.1, json!({"cold": true}), "gone without a word");
    assert_eq!(home.query("1002").await.1, json!({"cold": true}));
}

#[tokio::test]
async fn manifests_are_versioned_and_checked() {
    let home = Home::new(1).await;
    let worker = &home.workers[0];
    let registrar = home.gateway.registrar();
    let (a, b) = (worker.segment("1001"), worker.segment("1002"));
    assert_eq!(home.beat(worker, report(1000)).await.manifest_version, None, "none: send all");
    let early = manifest(Some(3), vec![a.clone()], std::slice::from_ref(&a));
    assert!(registrar.manifest("h0", &early).await.expect("taken").send_all);
    let first = manifest(None, vec![a.clone()], std::slice::from_ref(&a));
    assert!(!registrar.manifest("h0", &first).await.expect("taken").send_all);
    assert_eq!(home.beat(worker, report(1000)).await.manifest_version, Some(first.version));
    let second = manifest(Some(first.version), vec![b.clone()], &[a.clone(), b.clone()]);
    assert!(!registrar.manifest("h0", &second).await.expect("taken").send_all);
    assert!(!registrar.manifest("h0", &second).await.expect("taken").send_all, "the same once more");
    let gone = HotSegment { state: CopyState::Gone, ..a.clone() };
    let third = manifest(Some(second.version), vec![gone], std::slice::from_ref(&b));
    assert!(!registrar.manifest("h0", &third).await.expect("taken").send_all);
    assert!(copies_of(&home, "1001").await.is_empty() && copies_of(&home, "1002").await.len() == 1);
    // A worker that knows better than we do what it has: all of it, please.
    let off = manifest(Some(third.version), vec![], &[]);
    assert!(registrar.manifest("h0", &off).await.expect("taken").send_all);
    assert_eq!(home.beat(worker, report(1000)).await.manifest_version, None);
    assert!(copies_of(&home, "1002").await.is_empty());
    let stranger = Manifest { epoch: 2, ..first };
    for answer in [registrar.manifest("h0", &stranger).await, registrar.manifest("h9", &stranger).await] {
        let error = answer.map(drop).expect_err("refused").to_string();
        assert!(error.contains("lease"), "{error}");
    }
    let bad = HotSegment { generation: Some("x".into()), ..b };
    assert!(registrar.manifest("h0", &manifest(None, vec![bad], &[])).await.is_err());
}

#[tokio::test]
async fn a_token_from_a_lost_registry_is_never_given_again() {
    let home = Home::new(2).await;
    let worker = &home.workers[0];
    let token = 7 << 40 | 5;
    worker.held.lock().insert("1003".into(), worker::Held { token: Some(token), ..Default::default() });
    assert_eq!(publish(&home, worker, &["1003"]).await.fenced, ["1003"], "nobody gave it that lock");
    let lock = home.provision("1001").await;
    assert!(lock["token"].as_u64() > Some(token), "{lock}");
}

#[tokio::test]
async fn a_draining_worker_gives_up_what_others_have() {
    let mut home = Home::new(3).await;
    let names = raise(&home, "1001", 2).await["assigned"].clone();
    let (first, second) = (home.worker(&names[0]).clone(), home.worker(&names[1]).clone());
    let third =
        home.workers.iter().find(|w| w.name != first.name && w.name != second.name).expect("3").clone();
    for worker in [&first, &second] {
        fetch(&home, worker, "1001");
        publish(&home, worker, &["1001"]).await;
    }
    let path = format!("/v1/workers/{}/drain", first.name);
    let (status, answer) = home.send("POST", &path, json!({})).await;
    assert_eq!((status, &answer["draining"], &answer["assigned"]), (StatusCode::OK, &json!(true), &json!(0)));
    let copies: BTreeSet<_> = copies_of(&home, "1001").await.into_iter().map(|copy| copy.worker).collect();
    assert_eq!(copies.len(), 3, "the third one gets it: {copies:?}");
    assert_eq!(held(&assignment(&home, &third, None).await), ["1001"]);
    // `minimum` is 1: the second one's copy is enough.
    assert_eq!(assignment(&home, &first, None).await.drop, ["1001"]);
    // It takes no lock either, and stays drained over a restart.
    home.restart().await;
    for n in 1001..=1005 {
        assert_ne!(home.provision(&n.to_string()).await["worker"], json!(first.name));
    }
    assert_eq!(home.send("DELETE", &path, json!({})).await.1["draining"], false);
    assert_eq!(home.provision("x1").await["worker"], json!(first.name), "the least loaded");
}

#[tokio::test]
async fn the_last_copies_stay_until_others_live() {
    let home = Home::with(2, |settings| settings.copies_minimum = 2).await;
    raise(&home, "1001", 2).await;
    let (a, b) = (home.workers[0].clone(), home.workers[1].clone());
    for worker in [&a, &b] {
        fetch(&home, worker, "1001");
        publish(&home, worker, &["1001"]).await;
    }
    let before = assignment(&home, &a, None).await;
    home.send("POST", "/v1/workers/h0/drain", json!({})).await;
    let told = assignment(&home, &a, Some(before.version)).await;
    assert_eq!(told.drop, Vec::<String>::new(), "one other copy is below the minimum of 2");
    // A third worker gets it; once it has it, h0 hears of it by itself.
    let c = FakeHot::new("h2", &home.store);
    home.gateway.attach_local("h2", c.router());
    home.beat(&c, report(1000)).await;
    home.gateway.core().writing.place_copies().await;
    assert_eq!(held(&assignment(&home, &c, None).await), ["1001"]);
    let version = home.beat(&a, report(1000)).await.assignment_version;
    fetch(&home, &c, "1001");
    publish(&home, &c, &["1001"]).await;
    let later = home.beat(&a, report(1000)).await.assignment_version;
    assert!(later > version, "{later:?} {version:?}");
    assert_eq!(assignment(&home, &a, version).await.drop, ["1001"]);
}

#[tokio::test]
async fn a_locked_copy_is_never_given_up() {
    let home = Home::new(1).await;
    home.provision("1001").await;
    home.execute("1001").await;
    let worker = &home.workers[0];
    publish(&home, worker, &["1001"]).await;
    assert_eq!(assignment(&home, worker, None).await.drop, Vec::<String>::new());
    home.send("POST", "/v1/segments/1001/release", json!({"force": true})).await;
    // Released, but with writes that are nowhere else.
    publish(&home, worker, &["1001"]).await;
    assert_eq!(assignment(&home, worker, None).await.drop, Vec::<String>::new());
    worker.held.lock().entry("1001".into()).or_default().promoted = 1;
    publish(&home, worker, &["1001"]).await;
    assert_eq!(assignment(&home, worker, None).await.drop, ["1001"]);
}

#[tokio::test]
async fn pins_hold_whatever_placement_says() {
    let mut home = Home::new(3).await;
    for worker in ["h0", "h1", "h2"] {
        let (status, answer) = home.send("PUT", &format!("/v1/segments/1001/pin/{worker}"), json!({})).await;
        assert_eq!(status, StatusCode::OK);
        assert!(answer["assigned"].as_array().expect("a list").contains(&json!(worker)), "{answer}");
    }
    home.restart().await;
    home.gateway.core().writing.place_copies().await;
    for worker in &home.workers {
        assert_eq!(held(&assignment(&home, worker, None).await), ["1001"]);
    }
    let (_, answer) = home.send("DELETE", "/v1/segments/1001/pin/h1", json!({})).await;
    assert_eq!(answer["pinned"], json!(["h0", "h2"]));
    assert_eq!(held(&assignment(&home, &home.workers[1], None).await), Vec::<&str>::new());
    assert_eq!(home.show("1001").await["pinned"], json!(["h0", "h2"]));
    assert_eq!(code(&home.send("PUT", "/v1/segments/1001/pin/a%20b", json!({})).await), (400, "bad_request"));
}

#[tokio::test(start_paused = true)]
async fn a_dead_workers_share_goes_elsewhere_after_a_grace() {
    let home = Home::new(2).await;
    let name = raise(&home, "1001", 1).await["assigned"][0].clone();
    let other = home.workers.iter().find(|worker| name != *worker.name).expect("two").clone();
    for _ in 0..2 {
        tokio::time::advance(Duration::from_secs(10)).await;
        home.beat(&other, report(1000)).await;
    }
    home.gateway.core().writing.place_copies().await;
    assert_eq!(held(&assignment(&home, &other, None).await), Vec::<&str>::new(), "it may only restart");
    for _ in 0..6 {
        tokio::time::advance(Duration::from_secs(10)).await;
        home.beat(&other, report(1000)).await;
    }
    home.gateway.core().writing.place_copies().await;
    assert_eq!(held(&assignment(&home, &other, None).await), ["1001"]);
}

#[tokio::test]
async fn never_over_quota() {
    let home = Home::new(2).await;
    for worker in &home.workers {
        home.beat(worker, report(25)).await;
    }
    for n in 1001..=1005 {
        raise(&home, &n.to_string(), 2).await;
    }
    for worker in &home.workers {
        let told = assignment(&home, worker, None).await;
        assert!(told.hold.iter().map(|segment| segment.size).sum::<u64>() <= 25);
        assert_eq!(told.hold.len(), 2);
    }
}

#[tokio::test]
async fn who_found_no_room_gets_it_when_room_appears() {
    let home = Home::new(1).await;
    let worker = &home.workers[0];
    home.beat(worker, report(25)).await;
    for id in ["1001", "1002", "1003", "1004"] {
        raise(&home, id, 1).await;
    }
    assert_eq!(assignment(&home, worker, None).await.hold.len(), 2);
    assert!(copies_of(&home, "1003").await.is_empty());
    // Others go.
    home.send("POST", "/v1/segments/1001/lower", json!({})).await;
    let told = assignment(&home, worker, None).await;
    assert_eq!(held(&told).len(), 2, "{told:?}");
    assert!(!held(&told).contains(&"1001"));
    // Something that is written there is over.
    home.provision("1005").await;
    publish(&home, worker, &["1005"]).await;
    home.beat(worker, report(35)).await;
    home.gateway.core().writing.place_copies().await;
    assert_eq!(assignment(&home, worker, None).await.hold.len(), 2, "30 bytes with 1005");
    home.send("POST", "/v1/segments/1005/release", json!({"force": true})).await;
    worker.held.lock().clear();
    publish(&home, worker, &[]).await;
    home.gateway.core().writing.place_copies().await;
    assert_eq!(assignment(&home, worker, None).await.hold.len(), 3);
}

#[tokio::test]
async fn a_worker_whose_lock_was_taken_is_asked_for_its_manifest_again() {
    let home = Home::new(2).await;
    let answer = home.provision("1001").await;
    let former = home.worker(&answer["worker"]).clone();
    publish(&home, &former, &["1001"]).await;
    assert!(home.beat(&former, report(1000)).await.manifest_version.is_some());
    let (status, answer) = home.send("POST", "/v1/segments/1001/provision", json!({"takeover": true})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_ne!(answer["worker"], *former.name);
    // Only the answer to a manifest says that its token is old, and nothing changed there.
    assert_eq!(home.beat(&former, report(1000)).await.manifest_version, None);
    assert_eq!(publish(&home, &former, &["1001"]).await.fenced, ["1001"]);
}
