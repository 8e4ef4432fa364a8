//! The process dies, or one call fails, at every single call that an operation makes. Whatever the moment:
//! no acknowledged lock is lost, the file in the store is the old or the new one, no token is given twice,
//! and the same request succeeds afterwards.

use std::collections::BTreeSet;

use super::*;

const TARGET: &str = "/1/1001.sqlite";

/// How a call fails.
#[derive(Debug, Clone, Copy)]
struct Kind {
    /// With its effect.
    after: bool,
    /// The process goes on.
    once: bool,
}

const KINDS: [Kind; 4] = [
    Kind { after: false, once: false },
    Kind { after: true, once: false },
    Kind { after: false, once: true },
    Kind { after: true, once: true },
];

/// Every token was granted for one segment on one worker only.
fn tokens_are_unique(home: &Home) {
    let mut seen = BTreeSet::new();
    for worker in &home.workers {
        for (id, token) in worker.granted.lock().iter() {
            assert!(seen.insert(*token), "token {token} of {id} was given twice");
        }
    }
}

/// Runs `operation` with a failure at its first call, its second, and so on, until it makes no more calls.
async fn at_every_call(
    prepare: impl AsyncFn(&mut Home),
    operation: impl AsyncFn(&Home) -> (StatusCode, Value),
    check: impl AsyncFn(&mut Home, Kind, bool),
) {
    for kind in KINDS {
        for renames_anew in [false, true] {
            let mut n = 0;
            loop {
                let mut home = Home::new(2).await;
                home.store.renames_anew.store(renames_anew, std::sync::atomic::Ordering::SeqCst);
                prepare(&mut home).await;
                home.crash().arm(n, kind.after, kind.once);
                let (status, answer) = operation(&home).await;
                let happened = home.crash().happened();
                assert!(happened || status.is_success(), "call {n}: {answer}");
                if !kind.once {
                    home.restart().await;
                }
                home.crash().disarm();
                check(&mut home, kind, status.is_success()).await;
                tokens_are_unique(&home);
                assert!(home.temporaries().is_empty(), "{kind:?} at call {n}: {:?}", home.temporaries());
                if !happened {
                    assert!(n >= 3, "it makes more calls than {n}");
                    break;
                }
                n += 1;
                assert!(n < 100, "it does not end");
            }
        }
    }
}

#[tokio::test]
async fn provision_at_every_call() {
    at_every_call(
        async |_| {},
        async |home| home.send("POST", "/v1/segments/1001/provision", json!({})).await,
        async |home, kind, acknowledged| {
            let locks = home.locks().await;
            assert!(locks.len() <= 1);
            if acknowledged {
                assert_eq!(locks.len(), 1, "{kind:?}: an acknowledged lock is lost");
                assert_eq!(home.execute("1001").await.0, StatusCode::OK);
            }
            let answer = home.provision("1001").await;
            assert!(!acknowledged || answer["granted"] == false, "{kind:?}: {answer}");
            assert_eq!(home.execute("1001").await.0, StatusCode::OK);
            let writable =
                home.workers.iter().filter(|worker| answer["token"].as_u64() == worker.get("1001").token);
            assert_eq!(writable.count(), 1);
        },
    )
    .await;
}

/// The registry's disk fails with its effect, and the process goes on for a while.
#[tokio::test]
async fn no_write_is_acknowledged_under_a_lock_that_a_restart_does_not_know() {
    let mut refused = 0;
    for n in 0..100 {
        let mut home = Home::new(2).await;
        home.provision("1001").await;
        home.crash().arm(n, true, false);
        home.send("POST", "/v1/segments/1001/provision", json!({"takeover": true})).await;
        let happened = home.crash().happened();
        let locks = home.locks().await;
        let (status, answer) = home.execute("1001").await;
        home.restart().await;
        home.crash().disarm();
        if status.is_success() {
            assert_eq!(home.locks().await[0]["token"], locks[0]["token"], "call {n}");
        } else if code(&(status, answer)) == (503, "worker_lost") {
            refused += 1;
        }
        if !happened {
            break;
        }
    }
    assert!(refused > 0, "it never came to that");
}

#[tokio::test]
async fn takeover_at_every_call() {
    at_every_call(
        async |home| {
            home.provision("1001").await;
        },
        async |home| home.send("POST", "/v1/segments/1001/provision", json!({"takeover": true})).await,
        async |home, kind, acknowledged| {
            let locks = home.locks().await;
            assert_eq!(locks.len(), 1, "{kind:?}: some lock is there, the old or the new one");
            let answer = home.provision("1001").await;
            if acknowledged {
                assert_eq!(answer["token"], locks[0]["token"]);
            }
            assert_eq!(home.execute("1001").await.0, StatusCode::OK);
            assert_eq!(home.promote("1001").await.0, StatusCode::OK);
        },
    )
    .await;
}

#[tokio::test]
async fn promote_at_every_call() {
    at_every_call(
        async |home| {
            home.provision("1001").await;
            home.execute("1001").await;
        },
        async |home| home.promote("1001").await,
        async |home, kind, acknowledged| {
            let there = home.store.file(TARGET).expect("the segment is never gone");
            let expected: &[u64] = if acknowledged { &[101] } else { &[10, 101] };
            assert!(expected.contains(&there.len), "{kind:?}: {} bytes", there.len);
            home.look_around().await;
            assert_eq!(home.locks().await.len(), 1, "{kind:?}: our own generation ends no lock");
            assert_eq!(home.execute("1001").await.1["change"], 2, "no write is lost");
            let (status, answer) = home.promote("1001").await;
            assert_eq!(status, StatusCode::OK, "{kind:?}: {answer}");
            assert_eq!(home.store.file(TARGET).map(|entry| entry.len), Some(102));
            let shown = home.show("1001").await;
            assert_eq!(
                (&shown["generation"], &shown["checksum"]),
                (&answer["generation"], &answer["checksum"])
            );
            assert_eq!(
                home.send("POST", "/v1/segments/1001/release", json!({})).await.0,
                StatusCode::NO_CONTENT
            );
        },
    )
    .await;
}

#[tokio::test]
async fn optimize_at_every_call() {
    at_every_call(
        async |_| {},
        async |home| home.send("POST", "/v1/segments/1001/optimize", json!({})).await,
        async |home, kind, acknowledged| {
            let there = home.store.file(TARGET).expect("the segment is never gone");
            let expected: &[u64] = if acknowledged { &[100] } else { &[10, 100] };
            assert!(expected.contains(&there.len), "{kind:?}: {} bytes", there.len);
            home.look_around().await;
            let (status, answer) = home.send("POST", "/v1/segments/1001/optimize", json!({})).await;
            assert_eq!(status, StatusCode::OK, "{kind:?}: {answer}");
            let there = home.store.file(TARGET).expect("the segment is never gone");
            assert_eq!(
                (there.len, answer["generation"].as_str()),
                (100, Some(&*there.generation.to_string()))
            );
            assert_eq!(home.show("1001").await["generation"], answer["generation"]);
            assert_eq!(home.locks().await, [json!(null); 0], "{kind:?}: it leaves no lock");
            home.provision("1001").await;
            assert_eq!(home.execute("1001").await.0, StatusCode::OK);
        },
    )
    .await;
}

/// Somebody else has replaced the file: whatever fails, the lock ends once, what was written is kept aside under
/// a name that is known in the end, and theirs is not touched.
async fn superseded_at_every_call(find: impl AsyncFn(&Home)) {
    at_every_call(
        async |home| {
            home.provision("1001").await;
            home.execute("1001").await;
            home.store.replace(TARGET, 55, 7000);
        },
        async |home| {
            find(home).await;
            // Everything was done, or something went wrong.
            let (_, list) = home.send("GET", "/v1/locks", json!({})).await;
            let heard = list["superseded"][0]["heard"] == true && list["locks"] == json!([]);
            let status = if heard { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            (status, list)
        },
        async |home, kind, _| {
            home.look_around().await;
            let (_, list) = home.send("GET", "/v1/locks", json!({})).await;
            assert_eq!(list["locks"], json!([]), "{kind:?}: the lock is over");
            let over = &list["superseded"][0];
            let file = format!("1001.{}.sqlite", over["token"]);
            assert_eq!(over["kept"], file, "{kind:?}: {list}");
            let refused = home.execute("1001").await;
            assert_eq!(code(&refused), (409, "superseded"), "{kind:?}");
            assert!(refused.1["error"]["message"].as_str().is_some_and(|text| text.contains(&file)));
            assert_eq!(home.store.file(TARGET).map(|entry| entry.len), Some(55), "{kind:?}");
            assert_eq!(home.provision("1001").await["granted"], true);
            assert_eq!(home.execute("1001").await.1["change"], 1, "upon theirs");
            assert_eq!(home.promote("1001").await.0, StatusCode::OK);
            assert_eq!(home.store.file(TARGET).map(|entry| entry.len), Some(101), "{kind:?}");
        },
    )
    .await;
}

#[tokio::test]
async fn superseded_by_a_promotion_at_every_call() {
    superseded_at_every_call(async |home| drop(home.promote("1001").await)).await;
}

#[tokio::test]
async fn superseded_by_discovery_at_every_call() {
    superseded_at_every_call(async |home| home.look_around().await).await;
}

#[tokio::test]
async fn a_promotion_that_was_cut_is_settled_without_anybody_asking() {
    for n in 0..20 {
        let mut home = Home::new(1).await;
        home.provision("1001").await;
        home.execute("1001").await;
        home.crash().arm(n, true, false);
        home.promote("1001").await;
        if !home.crash().happened() {
            assert!(n > 5);
            return;
        }
        home.restart().await;
        home.gateway.core().writing.settle_all().await;
        let there = home.store.file(TARGET).expect("the segment is never gone");
        assert_eq!(home.show("1001").await["generation"], there.generation.to_string(), "after call {n}");
        assert!(home.temporaries().is_empty(), "after call {n}");
        assert!(!home.registry.rows.lock().keys().any(|key| key.starts_with(b"!intent")), "after call {n}");
    }
    panic!("it makes fewer calls");
}

#[tokio::test]
async fn delete_at_every_call() {
    at_every_call(
        async |home| {
            home.workers[0].held.lock().insert("1001".into(), worker::Held::default());
            copies::publish(home, &home.workers[0], &["1001"]).await;
        },
        async |home| home.send("DELETE", "/v1/segments/1001", json!({})).await,
        async |home, kind, acknowledged| {
            // A late manifest of the worker's copy, and a whole pass.
            copies::publish(home, &home.workers[0], &["1001"]).await;
            home.send("POST", "/v1/discovery?full=true", json!({})).await;
            let buried = home.registry.rows.lock().contains_key(&b"!tombstone\x001001"[..]);
            assert!(buried || !acknowledged);
            // If the process lives on after a write that failed, the memory is right: the deletion did not
            // begin, and what reached the disk is taken back by the next write.
            if acknowledged || (buried && !kind.once) {
                assert_eq!(code(&home.query("1001").await), (404, "segment_not_found"), "{kind:?}");
            }
            let again = home.send("DELETE", "/v1/segments/1001", json!({})).await;
            assert_eq!(again.0, StatusCode::NO_CONTENT, "{kind:?}: {}", again.1);
            home.send("POST", "/v1/discovery?full=true", json!({})).await;
            assert_eq!(home.store.file(TARGET), None);
            assert_eq!(
                code(&home.send("GET", "/v1/segments/1001", json!({})).await),
                (404, "segment_not_found")
            );
            assert_eq!(home.provision("1001").await["created"], true, "{kind:?}");
        },
    )
    .await;
}
