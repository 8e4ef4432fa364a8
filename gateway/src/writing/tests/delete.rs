use std::sync::atomic::Ordering::SeqCst;

use super::*;

const PATH: &str = "/v1/segments/1001";

#[tokio::test]
async fn a_deleted_segment_is_gone_everywhere() {
    let mut home = Home::new(2).await;
    for worker in &home.workers {
        worker.held.lock().insert("1001".into(), worker::Held::default());
        copies::publish(&home, worker, &["1001"]).await;
    }
    home.send("POST", "/v1/segments/1001/raise", json!({"copies": 2})).await;
    assert_eq!(home.send("DELETE", PATH, json!({})).await.0, StatusCode::NO_CONTENT);
    assert!(home.workers.iter().all(|worker| worker.held.lock().is_empty()));
    assert_eq!(home.store.file("/1/1001.sqlite"), None);
    assert_eq!(code(&home.send("GET", PATH, json!({})).await), (404, "segment_not_found"));
    assert_eq!(home.send("DELETE", PATH, json!({})).await.0, StatusCode::NO_CONTENT, "again");
    assert_eq!(code(&home.send("DELETE", "/v1/segments/9999", json!({})).await), (404, "segment_not_found"));
    home.restart().await;
    assert_eq!(code(&home.send("GET", PATH, json!({})).await), (404, "segment_not_found"));
    // A new one of that name is another segment.
    let new = home.provision("1001").await;
    assert_eq!(new["created"], true);
    home.execute("1001").await;
    assert_eq!(home.promote("1001").await.0, StatusCode::OK);
    home.send("POST", "/v1/discovery?full=true", json!({})).await;
    assert_eq!(home.show("1001").await["size"], 101);
}

#[tokio::test]
async fn not_under_a_write_lock() {
    let home = Home::new(1).await;
    home.provision("1001").await;
    assert_eq!(code(&home.send("DELETE", PATH, json!({})).await), (409, "locked"));
    assert!(home.store.file("/1/1001.sqlite").is_some());
    home.send("POST", "/v1/segments/1001/release", json!({})).await;
    assert_eq!(home.send("DELETE", PATH, json!({})).await.0, StatusCode::NO_CONTENT);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_goes_on_once_the_store_answers() {
    let home = Home::new(1).await;
    home.workers[0].held.lock().insert("1001".into(), worker::Held::default());
    copies::publish(&home, &home.workers[0], &["1001"]).await;
    home.workers[0].mute.store(true, SeqCst);
    home.store.unremovable.store(true, SeqCst);
    // The worker says nothing until its lease ends; then the store fails.
    assert_eq!(code(&home.send("DELETE", PATH, json!({})).await), (503, "worker_lost"));
    assert_eq!(code(&home.send("DELETE", PATH, json!({})).await), (503, "store_unavailable"));
    // From the tombstone on it is not there for anybody, whatever a listing says.
    home.send("POST", "/v1/discovery?full=true", json!({})).await;
    assert_eq!(code(&home.query("1001").await), (404, "segment_not_found"));
    assert!(home.store.file("/1/1001.sqlite").is_some());
    let (_, list) = home.send("GET", "/v1/segments", json!({})).await;
    assert_eq!(list["total"], 4, "nor in the list");
    // Nobody asks again: it is ended in the background.
    home.store.unremovable.store(false, SeqCst);
    while home.store.file("/1/1001.sqlite").is_some() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // The worker comes back with its copy, and is told to drop it.
    home.workers[0].mute.store(false, SeqCst);
    home.beat(&home.workers[0], report(1000)).await;
    copies::publish(&home, &home.workers[0], &["1001"]).await;
    let told = home.gateway.registrar().assignment("h0", 1, None).await.expect("an assignment");
    assert_eq!(told.drop, ["1001"]);
    assert_eq!(code(&home.query("1001").await), (404, "segment_not_found"));
}

#[tokio::test(start_paused = true)]
async fn one_that_waits_for_its_worker_holds_up_no_other() {
    const WAITING: [&str; 4] = ["1001", "1003", "1004", "1005"];
    let home = Home::new(1).await;
    let mute = &home.workers[0];
    home.store.unremovable.store(true, SeqCst);
    for id in WAITING.into_iter().chain(["1002"]) {
        let begun = home.send("DELETE", &format!("/v1/segments/{id}"), json!({})).await;
        assert_eq!(code(&begun), (503, "store_unavailable"));
    }
    // It says that it has them after all, and then nothing until its lease ends.
    for id in WAITING {
        mute.held.lock().insert(id.into(), worker::Held::default());
    }
    copies::publish(&home, mute, &WAITING).await;
    mute.mute.store(true, SeqCst);
    home.beat(mute, report(1000)).await;
    home.store.unremovable.store(false, SeqCst);
    let gone = async {
        while home.store.file("/1/1002.sqlite").is_some() {
            home.store.removed.notified().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("held up by the others");
    assert!(WAITING.iter().all(|id| home.store.file(&format!("/1/{id}.sqlite")).is_some()), "in its time");
}

#[tokio::test]
async fn a_late_listing_does_not_bring_it_back() {
    let home = Home::new(1).await;
    let before = home.store.file("/1/1001.sqlite").expect("a file");
    home.send("DELETE", PATH, json!({})).await;
    // What a listing that was begun before the deletion saw.
    home.store.put_back("/1/1001.sqlite", before);
    home.send("POST", "/v1/discovery?full=true", json!({})).await;
    assert_eq!(home.send("GET", "/v1/segments", json!({})).await.1["total"], 4);
    // A file that somebody puts there afterwards is a new one.
    home.store.write("/1/1001.sqlite", 66, 9000);
    home.send("POST", "/v1/discovery?full=true", json!({})).await;
    assert_eq!(home.show("1001").await["size"], 66);
}
