//! A newer generation in the store ends the write lock.

use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::{
    registry::{packed::Facts, state::Change},
    segment::SegmentId,
};

const TARGET: &str = "/1/1001.sqlite";

async fn list(home: &Home) -> Value {
    home.send("GET", "/v1/locks", json!({})).await.1
}

#[tokio::test]
async fn a_promotion_finds_it_and_names_the_file() {
    let home = Home::new(1).await;
    let lock = home.provision("1001").await;
    home.execute("1001").await;
    assert_eq!(home.promote("1001").await.0, StatusCode::OK);
    home.execute("1001").await;
    home.execute("1001").await;
    home.store.replace(TARGET, 55, 7000);
    let theirs = home.store.file(TARGET).expect("a file").generation.to_string();
    let answer = home.promote("1001").await;
    assert_eq!(code(&answer), (409, "superseded"), "{}", answer.1);
    let message = answer.1["error"]["message"].as_str().expect("a text");
    let file = format!("1001.{}.sqlite", lock["token"]);
    for part in [&file, &theirs, "2 transactions", "h0", "provision"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert_eq!(code(&home.execute("1001").await), (409, "superseded"));
    let release = home.send("POST", "/v1/segments/1001/release", json!({})).await;
    assert_eq!(code(&release), (409, "superseded"));
    let over = &list(&home).await["superseded"][0];
    assert_eq!(
        (&over["kept"], &over["transactions"], &over["worker"], &over["generation"], &over["heard"]),
        (&json!(file), &json!(2), &json!("h0"), &json!(theirs), &json!(true))
    );
    let shown = home.show("1001").await;
    assert_eq!((&shown["superseded"]["kept"], &shown["generation"]), (&json!(file), &json!(theirs)));
    // Whoever provisions builds upon theirs; what was is still told, and does not stand in the way.
    assert_eq!(home.provision("1001").await["granted"], true);
    assert_eq!(home.workers[0].get("1001").generation, Some(theirs));
    assert_eq!(home.execute("1001").await.0, StatusCode::OK);
    assert_eq!(list(&home).await["superseded"], Value::Null);
    assert_eq!(home.show("1001").await["superseded"]["kept"], json!(file));
    assert_eq!(home.promote("1001").await.0, StatusCode::OK);
    let release = home.send("POST", "/v1/segments/1001/release", json!({})).await;
    assert_eq!(release.0, StatusCode::NO_CONTENT);
    assert_eq!(code(&home.execute("1001").await), (409, "not_provisioned"));
}

#[tokio::test]
async fn discovery_finds_it() {
    let mut home = Home::new(1).await;
    home.provision("1001").await;
    home.execute("1001").await;
    home.provision("1002").await;
    home.look_around().await;
    assert_eq!(home.locks().await.len(), 2, "nothing happened");
    home.store.replace(TARGET, 55, 7000);
    home.look_around().await;
    assert_eq!(home.locks().await.len(), 1, "that of the other segment");
    assert_eq!(code(&home.execute("1001").await), (409, "superseded"));
    assert_eq!(home.execute("1002").await.0, StatusCode::OK);
    home.restart().await;
    assert_eq!(code(&home.execute("1001").await), (409, "superseded"));
    // Seen, and not decided about, before the gateway died.
    home.store.replace("/1/1002.sqlite", 56, 7000);
    home.send("POST", "/v1/discovery", json!({})).await;
    home.restart().await;
    home.look_around().await;
    assert_eq!(code(&home.execute("1002").await), (409, "superseded"));
}

/// A lock that began where the store had nothing: a file that then appears is as foreign, wherever it lies.
#[tokio::test]
async fn a_file_that_appears() {
    for path in ["/n/new1.sqlite", "/other/new1.sqlite"] {
        for by_discovery in [true, false] {
            let home = Home::new(1).await;
            home.provision("new1").await;
            home.execute("new1").await;
            home.store.write(path, 77, 7000);
            home.send("POST", "/v1/discovery?full=true", json!({})).await;
            if by_discovery {
                home.look_around().await;
                assert_eq!(list(&home).await["locks"], json!([]), "{path}");
            } else {
                assert_eq!(code(&home.promote("new1").await), (409, "superseded"), "{path}");
            }
            assert_eq!(code(&home.execute("new1").await), (409, "superseded"), "{path}");
            assert_eq!(home.show("new1").await["size"], 77);
            assert_eq!(home.provision("new1").await["created"], false);
        }
    }
}

/// A file that is gone is nothing newer: the lock stays, and the next promotion puts it there again.
#[tokio::test]
async fn a_file_that_goes() {
    let home = Home::new(1).await;
    home.provision("1001").await;
    home.execute("1001").await;
    home.store.delete(TARGET, 7000);
    home.look_around().await;
    assert_eq!(home.locks().await.len(), 1);
    assert_eq!(home.execute("1001").await.0, StatusCode::OK);
    assert_eq!(home.promote("1001").await.0, StatusCode::OK);
    assert_eq!(home.store.file(TARGET).map(|entry| entry.len), Some(102));
    let home = Home::with(1, |settings| settings.foreign_generation = crate::ForeignGeneration::Refuse).await;
    home.provision("1001").await;
    home.store.delete(TARGET, 7000);
    assert_eq!(code(&home.promote("1001").await), (409, "conflict"));
}

#[tokio::test]
async fn while_it_is_uploaded() {
    let home = Home::new(1).await;
    home.provision("1001").await;
    home.execute("1001").await;
    home.workers[0].hold_uploads.store(true, SeqCst);
    let meanwhile = async {
        home.workers[0].uploading.notified().await;
        home.store.replace(TARGET, 56, 7000);
        home.look_around().await;
        assert_eq!(home.locks().await.len(), 1, "the promotion finds it for itself");
        home.workers[0].go.notify_one();
    };
    let (answer, ()) = tokio::join!(home.promote("1001"), meanwhile);
    assert_eq!(code(&answer), (409, "superseded"), "{}", answer.1);
    assert_eq!(home.store.file(TARGET).map(|entry| entry.len), Some(56));
    assert!(home.temporaries().is_empty());
    home.look_around().await;
    assert_eq!(list(&home).await["superseded"][0]["heard"], true);
}

/// The holder cannot be reached: the lock ends all the same, and the name follows.
#[tokio::test]
async fn the_holder_hears_of_it_later() {
    let home = Home::new(1).await;
    let lock = home.provision("1001").await;
    home.execute("1001").await;
    home.workers[0].mute.store(true, SeqCst);
    home.store.replace(TARGET, 55, 7000);
    home.look_around().await;
    let over = list(&home).await["superseded"][0].clone();
    assert_eq!((&over["heard"], &over["kept"]), (&json!(false), &Value::Null));
    let refused = home.execute("1001").await;
    let message = refused.1["error"]["message"].as_str().expect("a text");
    assert!(message.contains("once it is reached"), "{message}");
    home.workers[0].mute.store(false, SeqCst);
    // Somebody may provision before: the old token's file is named all the same.
    home.provision("1001").await;
    home.look_around().await;
    assert_eq!(home.show("1001").await["superseded"]["kept"], format!("1001.{}.sqlite", lock["token"]));
    assert_eq!(home.execute("1001").await.1["change"], 1);
}

/// People are told what was kept aside until somebody can write again: not by a layout, which takes a lock for
/// itself, nor by a provision that failed.
#[tokio::test]
async fn what_was_kept_aside_stays_in_sight() {
    let home = Home::new(1).await;
    let lock = home.provision("1001").await;
    home.execute("1001").await;
    home.store.replace(TARGET, 55, 7000);
    home.look_around().await;
    let file = format!("1001.{}.sqlite", lock["token"]);
    let in_sight = async |after: &str| {
        let over = list(&home).await["superseded"][0].clone();
        assert_eq!((&over["kept"], &over["transactions"]), (&json!(file), &json!(1)), "{after}");
        let refused = home.execute("1001").await;
        assert_eq!(code(&refused), (409, "superseded"), "{after}");
        let message = refused.1["error"]["message"].as_str().expect("a text");
        assert!(message.contains(&file), "{after}: {message}");
    };
    in_sight("the lock ended").await;
    let (status, answer) = home.send("POST", "/v1/segments/1001/optimize", json!({})).await;
    assert_eq!((status, &answer["changed"]), (StatusCode::OK, &json!(true)), "{answer}");
    in_sight("a layout").await;
    home.workers[0].full.store(true, SeqCst);
    let refused = home.send("POST", "/v1/segments/1001/provision", json!({})).await;
    assert_eq!(refused.1["error"]["code"], "no_room", "{}", refused.1);
    in_sight("a provision that failed").await;
    home.workers[0].full.store(false, SeqCst);
    home.provision("1001").await;
    assert_eq!(list(&home).await["superseded"], Value::Null);
    assert_eq!(home.show("1001").await["superseded"]["kept"], json!(file));
}

/// The holder comes back without its disk: nobody says that everything had been promoted.
#[tokio::test]
async fn the_holder_has_lost_its_data() {
    let home = Home::new(1).await;
    home.provision("1001").await;
    home.execute("1001").await;
    home.workers[0].held.lock().clear();
    home.workers[0].granted.lock().clear();
    home.store.replace(TARGET, 55, 7000);
    let answer = home.promote("1001").await;
    assert_eq!(code(&answer), (409, "superseded"));
    let message = answer.1["error"]["message"].as_str().expect("a text");
    assert!(message.contains("without its data"), "{message}");
    assert_eq!(list(&home).await["superseded"][0]["lost"], true);
}

/// A write that is under way when the lock ends is not said to be done.
#[tokio::test]
async fn a_write_that_comes_too_late() {
    let home = Home::new(1).await;
    home.provision("1001").await;
    home.workers[0].hold_writes.store(true, SeqCst);
    let meanwhile = async {
        home.workers[0].uploading.notified().await;
        home.store.replace(TARGET, 55, 7000);
        home.look_around().await;
        home.workers[0].go.notify_one();
    };
    let (answer, ()) = tokio::join!(home.execute("1001"), meanwhile);
    assert_eq!(code(&answer), (409, "superseded"), "{}", answer.1);
}

/// A listing from before our own promotion comes late: the catalog is put right, and the lock stays.
#[tokio::test]
async fn an_old_listing_ends_nothing() {
    let home = Home::new(1).await;
    home.provision("1001").await;
    let old = home.store.file(TARGET).expect("a file");
    home.execute("1001").await;
    let (_, promoted) = home.promote("1001").await;
    let facts = Facts { generation: old.generation, size: old.len, mtime_ms: old.mtime_ms };
    let id = SegmentId::parse("1001").expect("an id");
    let change = Change::Segment { directory: "/1".into(), id, facts: Some(facts) };
    home.gateway.core().state.commit(vec![change]).expect("taken");
    home.gateway.core().writing.supersede_all().await;
    assert_eq!(home.locks().await.len(), 1);
    let writing = &home.gateway.core().writing;
    writing.supersede_all().await;
    home.look_around().await;
    assert_eq!(home.show("1001").await["generation"], promoted["generation"]);
    assert_eq!(home.execute("1001").await.0, StatusCode::OK);
}

/// As long as the store does not answer nothing ends; then it does, without anybody asking.
#[tokio::test]
async fn nothing_ends_on_a_guess() {
    let home = Home::new(1).await;
    home.provision("1001").await;
    home.execute("1001").await;
    home.store.replace(TARGET, 55, 7000);
    let writing = &home.gateway.core().writing;
    let turn = writing.turns.take(&SegmentId::parse("1001").expect("an id")).await;
    home.send("POST", "/v1/discovery?full=true", json!({})).await;
    writing.supersede_all().await;
    home.store.down.store(true, SeqCst);
    drop(turn);
    writing.supersede_all().await;
    assert_eq!(home.execute("1001").await.0, StatusCode::OK);
    home.store.down.store(false, SeqCst);
    home.look_around().await;
    assert_eq!(code(&home.execute("1001").await), (409, "superseded"));
}
