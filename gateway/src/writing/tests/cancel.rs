//! New layouts that are refused, and work that is ended.

use std::sync::atomic::Ordering::SeqCst;

use super::*;

#[tokio::test]
async fn a_layout_gives_way_to_writers() {
    let home = Home::new(1).await;
    let optimize = || home.send("POST", "/v1/segments/1001/optimize", json!({}));
    let (status, answer) = optimize().await;
    assert_eq!((status, &answer["changed"]), (StatusCode::OK, &json!(true)), "{answer}");
    let (_, again) = optimize().await;
    assert_eq!((&again["changed"], &again["generation"]), (&json!(false), &answer["generation"]), "{again}");
    home.provision("1001").await;
    assert_eq!(code(&optimize().await), (409, "locked"));
    // Also where the store has nothing yet.
    home.provision("new1").await;
    let new = home.send("POST", "/v1/segments/new1/optimize", json!({})).await;
    assert_eq!(code(&new), (409, "locked"));
    for (method, path) in [("POST", "/v1/segments/new1/raise"), ("PUT", "/v1/segments/new1/pin/h0")] {
        let refused = home.send(method, path, json!({})).await;
        assert_eq!(code(&refused), (404, "segment_not_found"));
        assert!(refused.1.to_string().contains("never promoted"), "{}", refused.1);
    }
    let none = home.send("POST", "/v1/segments/none1/optimize", json!({})).await;
    assert_eq!(code(&none), (404, "segment_not_found"));
    assert!(home.temporaries().is_empty());
}

/// Of each kind one is held in its upload and cancelled: nothing has changed but that it is over.
#[tokio::test]
async fn cancelled_in_the_upload() {
    for what in ["promote", "optimize"] {
        let home = Home::new(1).await;
        if what == "promote" {
            home.provision("1001").await;
            home.execute("1001").await;
        }
        let locks = home.locks().await;
        home.workers[0].hold_uploads.store(true, SeqCst);
        let path = format!("/v1/segments/1001/{what}");
        let uploading = home.workers[0].uploading.notified();
        let working = home.send("POST", &path, json!({}));
        let cancelling = async {
            uploading.await;
            home.send("POST", "/v1/segments/1001/cancel", json!({})).await
        };
        let (worked, cancelled) = tokio::join!(working, cancelling);
        assert_eq!(code(&worked), (409, "conflict"), "{what}");
        assert_eq!(
            cancelled,
            (
                StatusCode::OK,
                json!({"segment": "1001", "workers": ["h0"], "promotion": true, "verification": false})
            ),
            "{what}"
        );
        assert_eq!(home.store.file("/1/1001.sqlite").map(|entry| entry.len), Some(10), "{what}");
        assert!(home.temporaries().is_empty(), "{what}");
        assert_eq!(
            home.locks().await.len(),
            locks.len(),
            "{what}: a layout leaves none, a promotion its own"
        );
        let nothing = home.send("POST", "/v1/segments/1001/cancel", json!({})).await;
        assert_eq!(code(&nothing), (409, "conflict"), "{what}");
        home.workers[0].hold_uploads.store(false, SeqCst);
        assert_eq!(home.send("POST", &path, json!({})).await.0, StatusCode::OK, "{what}");
    }
}

/// Nobody can read the store's file: the verification says so, and leaves nothing that could be cancelled.
#[tokio::test]
async fn a_verification_needs_somebody_who_reads() {
    let home = Home::new(0).await;
    let verify = |body| home.send("POST", "/v1/segments/1001/verify", body);
    let refused = verify(json!({})).await;
    assert!(matches!(code(&refused), (503, "no_worker" | "warming")), "{}", refused.1);
    assert_eq!(code(&verify(json!({"depth": "deep"})).await), (400, "bad_request"));
    let none = home.send("POST", "/v1/segments/none1/verify", json!({})).await;
    assert_eq!(code(&none), (404, "segment_not_found"));
    home.store.delete("/1/1002.sqlite", 2000);
    let (status, answer) = home.send("POST", "/v1/segments/1002/verify", json!({})).await;
    assert_eq!((status, &answer["sound"]), (StatusCode::OK, &json!(false)), "{answer}");
    assert_eq!(answer["findings"][0]["kind"], "not_in_store", "{answer}");
    let nothing = home.send("POST", "/v1/segments/1001/cancel", json!({})).await;
    assert_eq!(code(&nothing), (409, "conflict"));
}
