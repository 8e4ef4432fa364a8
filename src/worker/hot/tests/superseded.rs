//! A write lock that a newer generation ended.

use super::*;

#[tokio::test]
async fn what_was_not_promoted_is_kept_aside_and_named() {
    let bench = Bench::new().await;
    bench.provision(5, None).await;
    bench.insert(5, 1).await;
    bench.promote(5).await;
    bench.insert(5, 2).await;
    bench.insert(5, 3).await;
    let theirs = database("CREATE TABLE t(a); INSERT INTO t VALUES (9)");
    let generation = bench.store.put(&path(PATH), theirs).expect("put").to_string();
    let aside = bench.good("superseded", 5, json!({})).await;
    let file = aside["kept"].as_str().expect("a name").to_owned();
    assert_eq!(aside["transactions"], 2);
    assert_eq!(bench.kept(), [bench.dir.path().join("kept").join(&file)]);
    assert_eq!(crate::query::test_numbers(&bench.kept()[0], SQL), [1, 2, 3]);
    assert_eq!(bench.good("superseded", 5, json!({})).await, aside, "again");
    assert_eq!(bench.refused("execute", 5, json!({"sql": "DELETE FROM t"})).await, "not_provisioned");

    // Somebody provisions; the gateway did not hear the answer, and asks once more: nothing new is touched.
    bench.provision(6, Some(&generation)).await;
    bench.insert(6, 10).await;
    assert_eq!(bench.good("superseded", 5, json!({})).await, aside);
    assert_eq!(bench.rows().await.0, json!([[9], [10]]));
    let bench = bench.restart().await;
    assert_eq!(bench.good("superseded", 5, json!({})).await, aside, "after a restart, too");
    assert_eq!(bench.rows().await.0, json!([[9], [10]]));
    assert_eq!(bench.kept().len(), 1);
    bench.worker.shutdown().await;
}

#[tokio::test]
async fn what_was_promoted_need_not_be_kept() {
    let bench = Bench::new().await;
    assert_eq!(bench.good("superseded", 5, json!({})).await["known"], false, "nothing is known of it");
    bench.provision(5, None).await;
    bench.insert(5, 1).await;
    bench.promote(5).await;
    let aside = bench.good("superseded", 5, json!({})).await;
    assert_eq!((&aside["kept"], &aside["known"]), (&Json::Null, &json!(true)));
    assert_eq!(bench.kept(), Vec::<std::path::PathBuf>::new());
    assert_eq!(bench.refused("execute", 5, json!({"sql": "DELETE FROM t"})).await, "not_provisioned");
    bench.worker.shutdown().await;
}

/// Somebody takes over on the same worker before it hears that the lock was over.
#[tokio::test]
async fn a_higher_token_may_come_first() {
    let bench = Bench::new().await;
    bench.provision(5, None).await;
    bench.insert(5, 1).await;
    let theirs = database("CREATE TABLE t(a); INSERT INTO t VALUES (9)");
    let generation = bench.store.put(&path(PATH), theirs).expect("put").to_string();
    bench.provision(6, Some(&generation)).await;
    bench.insert(6, 10).await;
    let aside = bench.good("superseded", 5, json!({})).await;
    let file = aside["kept"].as_str().expect("a name");
    assert!(file.starts_with("1234567.5."), "{file}");
    assert_eq!(crate::query::test_numbers(&bench.kept()[0], SQL), [1]);
    assert_eq!(bench.rows().await.0, json!([[9], [10]]));
    bench.worker.shutdown().await;
}
