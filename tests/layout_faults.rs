//! Killed while a segment in the store is laid out anew, and while a takeover takes up what was shipped; on a
//! real HDFS; docs/SEMANTICS.md.

use std::{fs, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use springhouse::failpoint::VARIABLE;

use crate::{
    harness::{
        cluster::{Gateway, Worker},
        eventually,
        hdfs::Hdfs,
        http::Api,
        scratch, segments,
    },
    life::{execute, good, names, of, post, provision},
    life_faults::{FIRST, LIMIT, Stage, stored, temporaries},
    registry::tests,
};

tests! {
    [Hdfs] killed_in_a_layout, killed_in_a_recovery;
}

/// So long after an operation the process that it kills is dead, or it is tried once more.
const AGAIN: Duration = Duration::from_secs(2);

/// Beside the rows that all these tests have, a tree whose interior pages lie about in it.
fn scattered() -> Vec<u8> {
    let dir = scratch();
    let values: Vec<String> = FIRST.iter().map(|row| format!("({row})")).collect();
    let sql = format!(
        "create table t (id integer primary key); insert into t values {};
         create table u (id integer primary key, name text);
         with recursive c(n) as (select 1 union all select n + 1 from c limit 20000)
             insert into u select n, 'a name that takes its time ' || n from c;
         create index i on u (name)",
        values.join(", ")
    );
    fs::read(segments::from_sql(dir.path(), "made", &sql)).expect("a database")
}

/// The old layout or the new one, whole; the next attempt ends well, and nothing is left over.
fn killed_in_a_layout() {
    let points =
        ["optimize.after_copy", "optimize.after_upload", "gateway.commit.uploaded", "gateway.commit.renamed"];
    let ids: Vec<String> = (0..points.len()).map(|n| format!("seg{n:03}")).collect();
    let mut stage = Stage::new("laid-out", &[]);
    let bytes = scattered();
    ids.iter().for_each(|id| stage.dir.put(&segments::relative_path(id), bytes.clone()));
    for (id, point) in ids.iter().zip(points) {
        stage.set(&format!("{point}=abort"));
        let died = eventually(&format!("somebody passes {point}"), LIMIT, || {
            let _ = stage.try_post(&of(id, "optimize"), &json!({}));
            stage.victim(point).wait(AGAIN)
        });
        assert!(!died.success(), "{point}: {died}");
        assert_eq!(stored(&stage.dir, id), FIRST, "{point}");
        stage.restart(point);
        let laid = good(&stage.insist(&Method::POST, &of(id, "optimize"), &[], &json!({})));
        let again = good(&stage.insist(&Method::POST, &of(id, "optimize"), &[], &json!({})));
        assert_eq!(again["changed"], false, "{point}: {laid} {again}");
        assert_eq!(stored(&stage.dir, id), FIRST, "{point}");
        assert_ne!(stage.dir.read(&segments::relative_path(id)), bytes, "{point}: it is another layout");
        assert_eq!(lock(stage.api(), id), Value::Null, "{point}: it leaves none");
        provision(stage.api(), id, &json!({}));
        stage.insert(id, 10);
        assert_eq!(stage.rows(id), [1, 2, 3, 10], "{point}");
    }
    eventually("no temporary is left in the store", LIMIT, || {
        temporaries(&stage.dir).is_empty().then_some(())
    });
    eventually("nor on the worker", LIMIT, || {
        names(&stage.worker.copies().join("parts")).is_empty().then_some(())
    });
}

const RULE: &str = "[[rule]]\nname = \"crawls\"\nprefix = \"crawl\"\nship_every = \"200ms\"\n";

fn lock(api: &Api, id: &str) -> Value {
    let locks = api.get("/v1/locks").json();
    let all = locks["locks"].as_array().expect("locks");
    all.iter().find(|lock| lock["segment"] == id).cloned().unwrap_or_default()
}

/// The holder is gone with its disk, and the one who takes over dies while it takes up what was shipped: the
/// next takeover has it all.
fn killed_in_a_recovery() {
    let dir = Hdfs::shared().dir("recovered");
    let files = scratch();
    let (config, points) = (files.path().join("gateway.toml"), files.path().join("points"));
    fs::write(&config, RULE).and_then(|()| fs::write(&points, "")).expect("files");
    let set = |text: &str| {
        let new = points.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, &points)).expect("points are set");
    };
    let gateway = Gateway::with(&dir.url(), &["--config", &config.display().to_string()]);
    let api = gateway.api();
    let setting = format!("@{}", points.display());
    let mut workers = ["recovers-1", "recovers-2"]
        .map(|name| Worker::hot_with(&dir.url(), &gateway, name, &[], &[(VARIABLE, &setting)]));
    gateway.wait_workers(&["recovers-1", "recovers-2"]);
    for (n, point) in
        ["recover.after_base", "recover.after_file", "recover.before_record"].into_iter().enumerate()
    {
        let id = format!("crawl{n:03}");
        let granted = provision(api, &id, &json!({}));
        good(&execute(api, &id, "create table t (id integer primary key); insert into t values (1)"));
        // The change files are of a generation in the store.
        good(&post(api, &of(&id, "promote"), &json!({})));
        let mut change = Value::Null;
        for row in [10, 11] {
            change = good(&execute(api, &id, &format!("insert into t values ({row})")))["change"].clone();
            eventually("it is shipped", LIMIT, || {
                (lock(api, &id)["safe_change"].as_u64() >= change.as_u64()).then_some(())
            });
        }
        let (holder, other) = if granted["worker"] == "recovers-1" { (0, 1) } else { (1, 0) };
        workers[holder].kill();
        fs::remove_dir_all(workers[holder].copies()).expect("its disk is gone");
        eventually("the lock is suspended", LIMIT, || (lock(api, &id)["state"] == "suspended").then_some(()));
        set(&format!("{point}=abort"));
        let take = || {
            let headers = [("content-type", "application/json")];
            let body = json!({ "takeover": true }).to_string();
            api.send(Method::POST, &of(&id, "provision"), &headers, Some(body)).ok()
        };
        let died = eventually(&format!("somebody passes {point}"), LIMIT, || {
            let _ = take();
            workers[other].process().wait(AGAIN)
        });
        assert!(!died.success(), "{point}: {died}");
        set("");
        workers[other].start_again();
        let taken = eventually("it is taken over", LIMIT, || take().filter(|reply| reply.status == 200));
        let taken = good(&taken);
        assert_eq!(taken["recovered"]["change"], change, "{point}: {taken}");
        let rows = || api.query(&id, "select id from t order by id").rows;
        assert_eq!(rows(), [[json!(1)], [json!(10)], [json!(11)]], "{point}");
        good(&execute(api, &id, "insert into t values (12)"));
        good(&post(api, &of(&id, "promote"), &json!({ "release": true })));
        assert_eq!(stored(&dir, &id), [1, 10, 11, 12], "{point}");
        workers[holder].start_again();
        gateway.wait_workers(&["recovers-1", "recovers-2"]);
    }
    eventually("what was shipped is collected, and nothing is left", LIMIT, || {
        dir.list("crawl").iter().all(|file| file.name.ends_with(".sqlite")).then_some(())
    });
}
