//! A write lock that is somebody else's by now: what was written under it is kept aside.

use super::*;

impl Bench {
    /// One more row under token 5, so that the manifest changes with the next upkeep, if it was not told already
    /// and the worker is giving up. What was acknowledged so far.
    async fn write_on(&self) -> Vec<i64> {
        let (status, body) = self.post("execute", 5, json!({"sql": "INSERT INTO t VALUES (2)"})).await;
        match status {
            StatusCode::OK => vec![1, 2],
            _ => {
                assert_eq!(body["error"]["code"], "not_provisioned", "{body}");
                vec![1]
            }
        }
    }
}

/// Worker, somebody else, and the same worker again, before it heard of the one between.
#[tokio::test]
async fn what_was_written_under_another_lock_than_the_one_before_is_kept_aside() {
    let bench = Bench::new().await;
    bench.provision(5, None).await;
    bench.insert(5, 1).await;
    let asked = |taken: Token| {
        let recover = json!({"token": taken, "from": taken, "promoted_change": 0});
        json!({"path": PATH, "generation": null, "schema_sql": "CREATE TABLE t(a)", "recover": recover})
    };
    let own = bench.good("provision", 6, asked(5)).await;
    assert_eq!((&own["recovered"]["token"], &own["recovered"]["change"]), (&json!(5), &json!(1)), "{own}");
    assert_eq!((bench.rows().await.0, bench.kept().len()), (json!([[1]]), 0));
    let shown = bench.good("provision", 8, asked(7)).await;
    assert_eq!(shown["recovered"], Json::Null, "{shown}");
    assert_eq!(bench.rows().await.0, json!([]));
    assert_eq!((bench.kept().len(), crate::query::test_numbers(&bench.kept()[0], SQL)), (1, vec![1]));
}

#[tokio::test]
async fn a_lock_that_was_lost_to_a_provision_that_came_to_nothing_is_given_up() {
    let bench = Bench::new().await;
    bench.provision(5, None).await;
    bench.insert(5, 1).await;
    // Its token is written down, and the generation that it names is not there.
    let nowhere = json!({"path": PATH, "generation": format!("{:032x}", 7), "schema_sql": ""});
    bench.refused("provision", 6, nowhere).await;
    bench.gateway.fenced.lock().push("1234567".into());
    let bench = bench.restart().await; // says all it has
    bench.until(|shown| shown["state"] == "gone").await;
    assert_eq!((bench.kept().len(), crate::query::test_numbers(&bench.kept()[0], SQL)), (1, vec![1]));
}

#[tokio::test]
async fn a_lock_that_was_lost_is_given_up_and_its_writes_are_kept() {
    let bench = Bench::new().await;
    bench.provision(5, None).await;
    bench.insert(5, 1).await;
    bench.gateway.fenced.lock().push("1234567".into());
    let acknowledged = bench.write_on().await;
    bench.until(|shown| shown["state"] == "gone").await;
    assert_eq!(bench.refused("execute", 5, json!({"sql": "DELETE FROM t"})).await, "not_provisioned");
    let kept = bench.kept();
    assert_eq!((kept.len(), crate::query::test_numbers(&kept[0], SQL)), (1, acknowledged));
}

/// It is tried until it succeeds, though nothing else changes meanwhile.
#[tokio::test]
async fn a_lock_that_was_lost_and_cannot_be_given_up_is_tried_again() {
    let bench = Bench::new().await;
    bench.provision(5, None).await;
    bench.insert(5, 1).await;
    // Its record cannot be written.
    let shards = std::fs::read_dir(bench.dir.path().join("segments")).expect("a directory");
    let mut shards = shards.map(|shard| shard.expect("an entry").path());
    let shard = shards.find(|shard| shard.join("1234567.json").exists()).expect("a record");
    let in_the_way = shard.join("1234567.json.new");
    std::fs::create_dir(&in_the_way).expect("made");
    bench.gateway.lost.lock().push("1234567".into());
    let acknowledged = bench.write_on().await;
    let failed = bench.until(|shown| shown["reason"].is_string()).await;
    assert_eq!((&failed["state"], &failed["token"]), (&json!("available"), &json!(5)), "{failed}");
    // What changed by that is told as well, and fails in the same way.
    let told = bench.gateway.manifests.lock().len();
    let again =
        bench.gateway.until(async || (bench.gateway.manifests.lock().len() >= told + 2).then_some(()));
    again.await.expect("it tries again");
    std::fs::remove_dir(&in_the_way).expect("empty");
    bench.until(|shown| shown["state"] == "gone").await;
    assert_eq!((bench.kept().len(), crate::query::test_numbers(&bench.kept()[0], SQL)), (1, acknowledged));
}
