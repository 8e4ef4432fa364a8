use std::sync::atomic::Ordering::SeqCst;

use super::*;

const TARGET: &str = "/1/1001.sqlite";

#[tokio::test]
async fn what_was_written_becomes_the_generation_in_the_store() {
    for renames_anew in [false, true] {
        let mut home = Home::new(1).await;
        home.store.renames_anew.store(renames_anew, SeqCst);
        let lock = home.provision("1001").await;
        home.execute("1001").await;
        home.execute("1001").await;
        let (status, answer) = home.promote("1001").await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let there = home.store.file(TARGET).expect("a file");
        assert_eq!((there.len, &answer["size"]), (102, &json!(102)));
        assert_eq!(answer["generation"], there.generation.to_string());
        assert_eq!(
            (&answer["path"], &answer["url"]),
            (&json!(TARGET), &json!("memory:///store/1/1001.sqlite"))
        );
        assert_eq!((&answer["change"], &answer["released"]), (&json!(2), &json!(false)));
        assert!(home.temporaries().is_empty());
        // Catalog, checksum and lock say so at once, and the worker was told.
        let shown = home.show("1001").await;
        assert_eq!((&shown["generation"], &shown["size"]), (&answer["generation"], &json!(102)));
        assert_eq!((&shown["checksum"], &shown["lock"]["token"]), (&answer["checksum"], &lock["token"]));
        let held = home.workers[0].get("1001");
        assert_eq!((held.promoted, held.generation.as_deref()), (2, answer["generation"].as_str()));
        home.restart().await;
        assert_eq!(home.show("1001").await["checksum"], answer["checksum"]);
        // The next one builds upon it.
        home.execute("1001").await;
        assert_eq!(home.promote("1001").await.1["size"], 103);
    }
}

#[tokio::test]
async fn locks_tell_at_once_what_is_in_the_store() {
    let home = Home::new(2).await;
    let in_store = async || {
        let lock = home.locks().await.remove(0);
        (lock["change"].as_u64(), lock["safe_change"].as_u64())
    };
    // No worker sends a manifest here.
    let holder = home.provision("1001").await["worker"].clone();
    assert_eq!(in_store().await, (Some(0), Some(0)));
    home.execute("1001").await;
    home.execute("1001").await;
    assert_eq!(in_store().await, (Some(2), Some(0)));
    home.promote("1001").await;
    assert_eq!(in_store().await, (Some(2), Some(2)));
    home.execute("1001").await;
    home.gateway.core().writing.place_copies().await;
    assert_eq!(in_store().await, (Some(3), Some(2)), "remembered as long as the lock is held");
    let path = "/v1/segments/1001/provision";
    let (_, answer) = home.send("POST", path, json!({"takeover": true})).await;
    assert_ne!(answer["worker"], holder);
    assert_eq!(answer["recovered"]["acknowledged"], 3, "{answer}");
    assert!(in_store().await.0 < Some(3), "another lock");
}

#[tokio::test]
async fn a_new_segment_is_promoted_and_released() {
    let home = Home::new(1).await;
    home.provision("new1").await;
    home.execute("new1").await;
    let path = "/v1/segments/new1/promote";
    let (status, answer) = home.send("POST", path, json!({"release": true})).await;
    assert_eq!((status, &answer["released"]), (StatusCode::OK, &json!(true)), "{answer}");
    assert_eq!(home.store.file("/n/new1.sqlite").map(|entry| entry.len), Some(101));
    assert!(home.locks().await.is_empty());
    assert_eq!(home.show("new1").await["generation"], answer["generation"]);
    assert_eq!(code(&home.send("POST", path, json!({})).await), (409, "not_provisioned"));
}

#[tokio::test]
async fn what_is_written_meanwhile_keeps_the_lock() {
    let home = Home::new(1).await;
    home.provision("1001").await;
    home.execute("1001").await;
    home.workers[0].hold_uploads.store(true, SeqCst);
    let promotion = home.send("POST", "/v1/segments/1001/promote", json!({"release": true}));
    let meanwhile = async {
        home.workers[0].uploading.notified().await;
        assert_eq!(home.locks().await[0]["promoting"], true);
        assert_eq!(code(&home.promote("1001").await), (409, "conflict"), "one at a time");
        let release = home.send("POST", "/v1/segments/1001/release", json!({})).await;
        assert_eq!(code(&release), (409, "locked"));
        assert_eq!(home.execute("1001").await.1["change"], 2, "writes go on");
        home.workers[0].go.notify_one();
    };
    let (answer, ()) = tokio::join!(promotion, meanwhile);
    assert_eq!((&answer.1["change"], &answer.1["released"]), (&json!(1), &json!(false)), "{}", answer.1);
    let lock = &home.locks().await[0];
    assert_eq!((&lock["promoting"], &lock["state"]), (&json!(false), &json!("held")));
}

#[tokio::test]
async fn a_foreign_generation_is_not_replaced() {
    let home = Home::with(1, |settings| settings.foreign_generation = crate::ForeignGeneration::Refuse).await;
    home.provision("1001").await;
    home.execute("1001").await;
    home.store.replace(TARGET, 55, 7000);
    home.look_around().await;
    let answer = home.promote("1001").await;
    assert_eq!(code(&answer), (409, "conflict"), "{}", answer.1);
    assert_eq!(home.locks().await.len(), 1, "the lock stays");
    assert_eq!(home.store.file(TARGET).map(|entry| entry.len), Some(55));
    // Replaced while it is uploaded.
    home.provision("1002").await;
    home.workers[0].hold_uploads.store(true, SeqCst);
    let meanwhile = async {
        home.workers[0].uploading.notified().await;
        home.store.replace("/1/1002.sqlite", 56, 7000);
        home.workers[0].go.notify_one();
    };
    let (answer, ()) = tokio::join!(home.promote("1002"), meanwhile);
    assert_eq!(code(&answer), (409, "conflict"), "{}", answer.1);
    assert_eq!(home.store.file("/1/1002.sqlite").map(|entry| entry.len), Some(56));
    assert!(home.temporaries().is_empty());
}

#[tokio::test]
async fn the_rule_may_say_that_it_is_replaced() {
    let home =
        Home::with(1, |settings| settings.foreign_generation = crate::ForeignGeneration::Overwrite).await;
    home.provision("1001").await;
    home.store.replace(TARGET, 55, 7000);
    home.look_around().await;
    assert_eq!(home.promote("1001").await.0, StatusCode::OK);
    assert_eq!(home.store.file(TARGET).map(|entry| entry.len), Some(100));
}

#[tokio::test]
async fn a_takeover_in_the_middle_of_an_upload_wins() {
    let home = Home::new(2).await;
    let lock = home.provision("1001").await;
    home.execute("1001").await;
    let old = home.worker(&lock["worker"]).clone();
    old.hold_uploads.store(true, SeqCst);
    let meanwhile = async {
        old.uploading.notified().await;
        let (status, taken) =
            home.send("POST", "/v1/segments/1001/provision", json!({"takeover": true})).await;
        assert_eq!(status, StatusCode::OK, "{taken}");
        old.go.notify_one();
    };
    let (answer, ()) = tokio::join!(home.promote("1001"), meanwhile);
    assert_eq!(code(&answer), (409, "fenced"), "{}", answer.1);
    assert_eq!(home.store.file(TARGET).map(|entry| entry.len), Some(10), "nothing was replaced");
    assert!(home.temporaries().is_empty());
    home.execute("1001").await;
    assert_eq!(home.promote("1001").await.0, StatusCode::OK, "the new holder's counts");
}

#[tokio::test]
async fn an_upload_that_is_not_whole_is_not_taken() {
    let home = Home::new(1).await;
    home.provision("1001").await;
    home.workers[0].cut_uploads.store(true, SeqCst);
    assert_eq!(code(&home.promote("1001").await), (503, "store_unavailable"));
    assert_eq!(home.store.file(TARGET).map(|entry| entry.len), Some(10));
    assert!(home.temporaries().is_empty());
    home.workers[0].cut_uploads.store(false, SeqCst);
    assert_eq!(home.promote("1001").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_rename_that_comes_late_moves_no_later_upload() {
    for renames_anew in [false, true] {
        let home = Home::new(1).await;
        home.store.renames_anew.store(renames_anew, SeqCst);
        home.provision("1001").await;
        home.execute("1001").await;
        // Nobody knows what became of the rename; the next request makes it once more, and that one happens.
        home.store.late_renames.store(true, SeqCst);
        assert_eq!(code(&home.promote("1001").await), (503, "store_unavailable"));
        home.store.late_renames.store(false, SeqCst);
        assert_eq!(home.promote("1001").await.0, StatusCode::OK);
        let good = home.store.file(TARGET).expect("a file");
        // The next upload is not whole, and before anybody has looked at it the first rename is carried out.
        home.execute("1001").await;
        home.workers[0].cut_uploads.store(true, SeqCst);
        home.workers[0].late_catch_up.store(true, SeqCst);
        assert_eq!(code(&home.promote("1001").await), (503, "store_unavailable"));
        assert_eq!(home.store.file(TARGET), Some(good), "what was promoted last is there");
        home.workers[0].cut_uploads.store(false, SeqCst);
        assert_eq!(home.promote("1001").await.1["size"], 102);
        assert!(home.temporaries().is_empty());
    }
}

#[tokio::test]
async fn no_two_attempts_have_the_same_name() {
    let mut home = Home::new(1).await;
    home.provision("1001").await;
    let mut names = std::collections::BTreeSet::new();
    for round in 0..6 {
        home.workers[0].cut_uploads.store(true, SeqCst);
        home.workers[0].hold_uploads.store(true, SeqCst);
        let meanwhile = async {
            home.workers[0].uploading.notified().await;
            let id = crate::segment::SegmentId::parse("1001").expect("an id");
            let intent = home.gateway.core().state.ledger().intent(&id).cloned().expect("it is written down");
            home.workers[0].go.notify_one();
            intent.temporary
        };
        let (_, name) = tokio::join!(home.promote("1001"), meanwhile);
        assert!(names.insert(name.clone()), "{name} comes twice, in round {round}");
        if round % 2 == 1 {
            home.restart().await;
        }
    }
}
