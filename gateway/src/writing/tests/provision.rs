use std::sync::atomic::Ordering::SeqCst;

use super::*;

#[tokio::test]
async fn an_existing_segment_is_provisioned_with_its_generation() {
    let home = Home::new(2).await;
    let first = home.provision("1001").await;
    assert_eq!((&first["granted"], &first["created"]), (&json!(true), &json!(false)));
    assert_eq!(first["schema"], "default");
    let held = home.worker(&first["worker"]).get("1001");
    assert_eq!(held.generation, home.store.file("/1/1001.sqlite").map(|entry| entry.generation.to_string()));
    let again = home.provision("1001").await;
    assert_eq!((&again["granted"], &again["token"]), (&json!(false), &first["token"]));
    assert_eq!(again["worker"], first["worker"]);
    let locks = home.locks().await;
    assert_eq!(locks.len(), 1);
    assert_eq!((&locks[0]["state"], &locks[0]["promoting"]), (&json!("held"), &json!(false)));
    let shown = home.show("1001").await;
    assert_eq!((&shown["lock"]["token"], &shown["workers"]), (&first["token"], &json!([first["worker"]])));
}

#[tokio::test]
async fn a_new_segment_needs_a_store_that_surely_has_none() {
    let home = Home::new(1).await;
    home.send("PUT", "/v1/schemas/logs", json!({"sql": "create table a(b)"})).await;
    home.store.down.store(true, SeqCst);
    let path = "/v1/segments/new-1/provision";
    let answer = home.send("POST", path, json!({"schema": "logs"})).await;
    assert_eq!(code(&answer), (503, "store_unavailable"));
    assert!(home.locks().await.is_empty() && home.workers[0].granted.lock().is_empty());
    home.store.down.store(false, SeqCst);
    let (status, answer) = home.send("POST", path, json!({"schema": "logs"})).await;
    assert_eq!(
        (status, &answer["created"], &answer["schema"]),
        (StatusCode::OK, &json!(true), &json!("logs"))
    );
    assert_eq!(home.workers[0].get("new-1").schema_sql, "create table a(b)");
    let shown = home.show("new-1").await;
    assert_eq!((&shown["generation"], &shown["path"]), (&json!(""), &json!("/ne/new-1.sqlite")));
    let unknown = home.send("POST", "/v1/segments/new-2/provision", json!({"schema": "nope"})).await;
    assert_eq!(code(&unknown), (404, "schema_not_found"));
    let wrong = home.send("POST", "/v1/segments/new-2/provision", json!({"scheme": 1})).await;
    assert_eq!(code(&wrong), (400, "bad_request"));
}

#[tokio::test]
async fn a_segment_that_is_not_in_the_catalog_yet_is_found_in_the_store() {
    let home = Home::new(1).await;
    home.store.write("/1/1009.sqlite", 77, 2000);
    let answer = home.provision("1009").await;
    assert_eq!(answer["created"], false);
}

#[tokio::test]
async fn many_requests_at_once_give_one_lock() {
    let home = Home::new(3).await;
    let all = futures::future::join_all((0..20).map(|_| home.provision("1001"))).await;
    assert_eq!(all.iter().filter(|answer| answer["granted"] == true).count(), 1);
    assert!(all.iter().all(|answer| answer["token"] == all[0]["token"]));
    let granted: usize = home.workers.iter().map(|worker| worker.granted.lock().len()).sum();
    assert_eq!((granted, home.locks().await.len()), (1, 1));
}

#[tokio::test]
async fn locks_spread_over_the_workers() {
    let home = Home::new(3).await;
    for n in 1001..=1005 {
        home.provision(&n.to_string()).await;
    }
    home.provision("x1").await;
    for worker in &home.workers {
        assert_eq!(worker.granted.lock().len(), 2, "{}", worker.name);
    }
}

#[tokio::test]
async fn who_is_full_is_passed_over_and_nobody_is_said_so() {
    let home = Home::new(2).await;
    home.workers[0].full.store(true, SeqCst);
    for n in 1001..=1004 {
        assert_eq!(home.provision(&n.to_string()).await["worker"], "h1");
    }
    home.workers[1].full.store(true, SeqCst);
    let answer = home.send("POST", "/v1/segments/1005/provision", json!({})).await;
    assert_eq!(code(&answer), (503, "no_room"));
    assert_eq!(home.locks().await.len(), 4, "no lock stays behind");
    for worker in &home.workers {
        home.beat(worker, report(5)).await;
    }
    let answer = home.send("POST", "/v1/segments/1005/provision", json!({})).await;
    assert_eq!(code(&answer), (503, "no_room"), "10 bytes have no room in 5");
}

#[tokio::test(start_paused = true)]
async fn without_workers() {
    let home = Home::new(0).await;
    let path = "/v1/segments/1001/provision";
    assert_eq!(code(&home.send("POST", path, json!({})).await), (503, "warming"));
    tokio::time::advance(Duration::from_secs(20)).await;
    assert_eq!(code(&home.send("POST", path, json!({})).await), (503, "no_worker"));
}

#[tokio::test]
async fn writes_go_to_the_holder_and_queries_see_them() {
    let home = Home::new(2).await;
    assert_eq!(code(&home.execute("1001").await), (409, "not_provisioned"));
    let lock = home.provision("1001").await;
    for n in 1..=3 {
        let (status, answer) = home.execute("1001").await;
        assert_eq!((status, &answer["change"]), (StatusCode::OK, &json!(n)));
        assert_eq!(home.query("1001").await.1, json!({"hot": lock["worker"], "change": n}));
    }
    let with = async |key: &str| {
        let headers = [("idempotency-key", key)];
        home.send_with("POST", "/v1/segments/1001/execute", &headers, json!({"sql": "x"})).await
    };
    assert_eq!(with("k1").await.1["change"], 4);
    assert_eq!(with("k1").await.1, json!({"results": [], "change": 4, "repeated": true}));
    assert_eq!(code(&with("a b").await), (400, "bad_request"));
    let token = lock["token"].as_u64().expect("a number");
    for (sent, expected) in [
        (token.to_string(), 200),
        ((token - 1).to_string(), 409),
        ((token + 1).to_string(), 409),
        ("x".into(), 400),
    ] {
        let headers = [("springhouse-token", sent.as_str())];
        let answer = home.send_with("POST", "/v1/segments/1001/execute", &headers, json!({"sql": "x"})).await;
        assert_eq!(answer.0.as_u16(), expected, "{sent}: {}", answer.1);
    }
    let old = [("springhouse-token", "1")];
    for what in ["execute", "promote", "release"] {
        let path = format!("/v1/segments/1001/{what}");
        let answer = home.send_with("POST", &path, &old, json!({"sql": "x"})).await;
        let expected = if what == "execute" { (409, "fenced") } else { (400, "bad_request") };
        assert_eq!(code(&answer), expected);
        let answer = home.send_with("POST", &path, &old, json!({})).await;
        assert_eq!(code(&answer), (409, "fenced"), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_outlives_its_holders_lease_and_is_taken_over_on_purpose_only() {
    let mut home = Home::new(2).await;
    let first = home.provision("1001").await;
    let new = home.provision("new1").await;
    home.execute("1001").await;
    assert_ne!(first["worker"], new["worker"]);
    tokio::time::advance(Duration::from_secs(20)).await;
    assert_eq!(home.locks().await[0]["state"], "suspended");
    assert_eq!(code(&home.execute("1001").await), (503, "lock_suspended"));
    let path = "/v1/segments/1001/provision";
    assert_eq!(code(&home.send("POST", path, json!({})).await), (503, "lock_suspended"));
    assert_eq!(code(&home.promote("1001").await), (503, "lock_suspended"));
    // Reads go on, from the last generation, and say so.
    let other = home.workers.iter().find(|w| first["worker"] != *w.name).expect("two").clone();
    let cold = axum::Router::new().route(
        "/v1/segments/{id}/query",
        axum::routing::post(|| async { axum::Json(json!({"cold": true})) }),
    );
    home.gateway.attach_local("cold", cold);
    home.gateway.registrar().renew("cold", &lease(1, "local")).await.expect("a lease");
    let query = "/v1/segments/1001/query";
    let (parts, answer) = home.raw("POST", query, &[], json!({"sql": "select 1"})).await;
    assert_eq!((parts.status, answer), (StatusCode::OK, json!({"cold": true})));
    assert_eq!(parts.headers["springhouse-lock"], "suspended");
    assert_eq!(code(&home.query("new1").await), (503, "lock_suspended"), "nobody else has it");
    // The other worker takes over.
    home.beat(&other, report(1000)).await;
    let (status, taken) = home.send("POST", path, json!({"takeover": true})).await;
    assert_eq!(
        (status, &taken["worker"], &taken["granted"]),
        (StatusCode::OK, &json!(other.name), &json!(true))
    );
    assert!(taken["token"].as_u64() > first["token"].as_u64());
    let (parts, answer) = home.raw("POST", query, &[], json!({"sql": "select 1"})).await;
    assert_eq!(answer, json!({"hot": other.name, "change": 0}));
    assert!(!parts.headers.contains_key("springhouse-lock"));
    // The old holder comes back, and is told that it holds nothing any more.
    let back = home.worker(&first["worker"]).clone();
    home.beat(&back, report(1000)).await;
    let answer = copies::publish(&home, &back, &["1001"]).await;
    assert_eq!(answer.fenced, ["1001"]);
    let answer = copies::publish(&home, &other, &["1001"]).await;
    assert!(answer.fenced.is_empty());
    home.restart().await;
    assert_eq!(home.locks().await.len(), 2);
}

#[tokio::test]
async fn a_takeover_from_a_live_holder_goes_elsewhere_if_it_can() {
    let home = Home::new(2).await;
    let first = home.provision("1001").await;
    let path = "/v1/segments/1001/provision";
    let (_, second) = home.send("POST", path, json!({"takeover": true})).await;
    assert_ne!(first["worker"], second["worker"]);
    let (_, third) = home.send("POST", path, json!({"takeover": true})).await;
    assert_eq!(third["worker"], first["worker"]);
    let tokens: Vec<_> = [&first, &second, &third].map(|a| a["token"].as_u64()).into();
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

#[tokio::test]
async fn a_write_that_a_takeover_overtakes_is_not_acknowledged() {
    let home = Home::new(2).await;
    let lock = home.provision("1001").await;
    let old = home.worker(&lock["worker"]).clone();
    old.hold_writes.store(true, SeqCst);
    let meanwhile = async {
        old.uploading.notified().await;
        let taken = home.send("POST", "/v1/segments/1001/provision", json!({"takeover": true})).await;
        assert_eq!(taken.0, StatusCode::OK, "{}", taken.1);
        old.go.notify_one();
    };
    let (answer, ()) = tokio::join!(home.execute("1001"), meanwhile);
    assert_eq!(code(&answer), (409, "fenced"), "{}", answer.1);
    assert_eq!(home.query("1001").await.1["change"], 0);
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_was_never_ready_is_replaced_without_asking() {
    let home = Home::new(2).await;
    for worker in &home.workers {
        worker.mute.store(true, SeqCst);
    }
    // Its lease runs out while it is asked.
    let answer = home.send("POST", "/v1/segments/1001/provision", json!({})).await;
    assert_eq!(code(&answer), (503, "worker_lost"));
    assert_eq!(home.locks().await.len(), 1);
    assert_eq!(code(&home.execute("1001").await), (409, "not_provisioned"));
    for worker in &home.workers {
        worker.mute.store(false, SeqCst);
        home.beat(worker, report(1000)).await;
    }
    let before = home.locks().await[0]["token"].as_u64();
    let answer = home.provision("1001").await;
    assert!(answer["token"].as_u64() > before && answer["granted"] == true);
}

#[tokio::test]
async fn after_a_restart_nobody_is_suspended_before_he_could_report() {
    let mut home = Home::new(1).await;
    home.provision("1001").await;
    let workers = std::mem::take(&mut home.workers);
    home.restart().await;
    assert_eq!(code(&home.execute("1001").await), (503, "warming"));
    assert_eq!(code(&home.query("1001").await), (503, "warming"));
    assert_eq!(code(&home.send("POST", "/v1/segments/1001/provision", json!({})).await), (503, "warming"));
    home.workers = workers;
    home.greet().await;
    assert_eq!(home.execute("1001").await.0, StatusCode::OK);
}

#[tokio::test]
async fn release_refuses_what_was_not_promoted_unless_forced() {
    let home = Home::new(1).await;
    let path = "/v1/segments/1001/release";
    assert_eq!(code(&home.send("POST", path, json!({})).await), (409, "not_provisioned"));
    home.provision("1001").await;
    assert_eq!(home.send("POST", path, json!({})).await.0, StatusCode::NO_CONTENT);
    assert!(home.locks().await.is_empty());
    assert_eq!(code(&home.execute("1001").await), (409, "not_provisioned"));
    home.provision("1001").await;
    home.execute("1001").await;
    assert_eq!(code(&home.send("POST", path, json!({})).await), (409, "unpromoted"));
    assert_eq!(home.locks().await.len(), 1);
    assert_eq!(home.send("POST", path, json!({"force": true})).await.0, StatusCode::NO_CONTENT);
    assert!(home.locks().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_suspended_lock_is_released_by_force_only() {
    let home = Home::new(1).await;
    home.provision("1001").await;
    tokio::time::advance(Duration::from_secs(20)).await;
    let path = "/v1/segments/1001/release";
    assert_eq!(code(&home.send("POST", path, json!({})).await), (503, "lock_suspended"));
    assert_eq!(home.send("POST", path, json!({"force": true})).await.0, StatusCode::NO_CONTENT);
    home.beat(&home.workers[0], report(1000)).await;
    assert_eq!(copies::publish(&home, &home.workers[0], &["1001"]).await.fenced, ["1001"]);
}

#[tokio::test]
async fn schemas_have_versions() {
    let mut home = Home::new(1).await;
    let put = async |name: &str, sql: &str| {
        home.send("PUT", &format!("/v1/schemas/{name}"), json!({"sql": sql})).await
    };
    assert_eq!(put("a", "one").await.0, StatusCode::CREATED);
    assert_eq!(put("a", "two").await.1["version"], 2);
    let same = put("a", "two").await;
    assert_eq!((same.0, &same.1["version"]), (StatusCode::OK, &json!(2)));
    assert_eq!(code(&put("a", "wrong").await), (400, "sql_error"));
    assert_eq!(home.send("GET", "/v1/schemas/default", json!({})).await.1["sql"], "");
    assert_eq!(put("default", "").await.1["version"], 1, "it says so already");
    assert_eq!(put("default", "three").await.1["version"], 2, "there is always one");
    assert_eq!(code(&put("%2e", "x").await), (400, "bad_request"));
    home.restart().await;
    let (_, list) = home.send("GET", "/v1/schemas", json!({})).await;
    let names: Vec<_> = list["schemas"].as_array().expect("a list").iter().map(|s| &s["name"]).collect();
    assert_eq!(names, ["a", "default"]);
    let (_, versions) = home.send("GET", "/v1/schemas/a/versions", json!({})).await;
    let sql: Vec<_> = versions["schemas"].as_array().expect("a list").iter().map(|s| &s["sql"]).collect();
    assert_eq!(sql, ["one", "two"]);
    assert_eq!(home.send("GET", "/v1/schemas/a", json!({})).await.1["sql"], "two");
    assert_eq!(home.send("GET", "/v1/schemas/default", json!({})).await.1["sql"], "three");
    assert_eq!(code(&home.send("GET", "/v1/schemas/b", json!({})).await), (404, "schema_not_found"));
}

#[tokio::test]
async fn a_damaged_lock_row_is_named_and_refuses_writes_until_taken_over() {
    let mut home = Home::new(1).await;
    let lock = home.provision("1001").await;
    home.provision("1002").await;
    home.gateway.shutdown().await;
    {
        let mut rows = home.registry.rows.lock();
        let value = rows.get_mut(&b"!lock\x001001"[..]).expect("a row");
        let last = value.len() - 1;
        value[last] ^= 1;
    }
    home.restart().await;
    assert!(home.registry.rows.lock().contains_key(&b"!lock\x001001"[..]), "never dropped");
    let path = "/v1/segments/1001/provision";
    for answer in [
        home.send("POST", path, json!({})).await,
        home.execute("1001").await,
        home.promote("1001").await,
        home.send("DELETE", "/v1/segments/1001", json!({})).await,
        home.send("POST", "/v1/segments/1001/release", json!({})).await,
    ] {
        assert_eq!(code(&answer), (409, "conflict"), "{}", answer.1);
        assert!(answer.1["error"]["message"].to_string().contains("!lock 1001"), "{}", answer.1);
    }
    assert!(copies::publish(&home, &home.workers[0], &["1001"]).await.fenced.is_empty(), "nobody knows");
    assert_eq!(home.execute("1002").await.0, StatusCode::OK, "others go on");
    let (status, taken) = home.send("POST", path, json!({"takeover": true})).await;
    assert_eq!(status, StatusCode::OK, "{taken}");
    assert!(taken["token"].as_u64() > lock["token"].as_u64());
    assert_eq!(home.execute("1001").await.0, StatusCode::OK);
}

#[tokio::test]
async fn without_the_count_of_tokens_none_is_given() {
    let mut home = Home::new(1).await;
    home.provision("1001").await;
    home.gateway.shutdown().await;
    home.registry.rows.lock().insert(b"!token".to_vec(), b"?".to_vec());
    home.restart().await;
    let answer = home.send("POST", "/v1/segments/1002/provision", json!({"takeover": true})).await;
    assert_eq!(code(&answer), (500, "internal"));
    assert!(answer.1["error"]["message"].to_string().contains("!token"), "{}", answer.1);
    assert_eq!(home.execute("1001").await.0, StatusCode::OK, "a lock that was given is good");
}
