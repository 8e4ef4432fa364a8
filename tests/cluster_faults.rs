//! What the cluster does when a part of it dies; docs/SEMANTICS.md.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use crate::{
    harness::{
        cluster::{Gateway, Worker},
        eventually, file_url as url,
        http::{End, RawQuery},
        process::{self, children_of},
        scratch, segments, springhouse,
    },
    registry::tests,
};

tests! {
    [] gateway_killed, gateway_warms_up, worker_killed, worker_frozen, worker_killed_in_the_middle_of_an_answer, secret,
       worker_of_another_store_refused,
       second_registry_refused;
    [Fuse] mount_killed;
}

const LIMIT: Duration = Duration::from_secs(120);
/// An answer of far more than any buffer between SQLite and the client.
const LONG_ANSWER: &str = "with recursive c(n) as (select 1 union all select n + 1 from c limit 800000)
    select n, 'a row with some bytes to make the answer long, about a hundred of them in each row' from c";

fn gateway_killed() {
    let root = store();
    // Nobody's lease ends here, however busy the machine is.
    let mut gateway = Gateway::with(&url(root.path()), &["--lease-ttl", "60s"]);
    let _worker = Worker::of(&url(root.path()), &gateway, "w1");
    gateway.wait_workers(&["w1"]);
    let before = gateway.api().query("seg001", "select n from t");
    let listed = eventually("all are discovered", LIMIT, || {
        let listed = gateway.api().get("/v1/segments").json();
        (listed["total"] == 20).then_some(listed)
    });
    gateway.kill();
    gateway.start_again();
    // The catalog is there before any discovery; the worker renews its lease unasked.
    assert_eq!(gateway.api().get("/v1/segments").json()["segments"], listed["segments"]);
    let after = eventually("queries go on", LIMIT, || {
        match gateway.api().ask("seg001", json!({ "sql": "select n from t" })) {
            Ok(answer) => Some(answer),
            Err(refusal) => {
                assert_eq!((refusal.status, refusal.code.as_str(), refusal.retry), (503, "warming", true));
                assert!(refusal.retry_after_s.is_some(), "a Retry-After: {refusal:?}");
                None
            }
        }
    });
    assert_eq!((after.rows, after.generation), (before.rows, before.generation));
    gateway.wait_workers(&["w1"]);
}

fn gateway_warms_up() {
    // Two of them: one waits longer than this test, one not long.
    for (ttl, code) in [("120s", "warming"), ("2s", "no_worker")] {
        let root = store();
        let mut gateway = Gateway::with(&url(root.path()), &["--lease-ttl", ttl]);
        let mut worker = Worker::of(&url(root.path()), &gateway, "w1");
        gateway.wait_workers(&["w1"]);
        worker.kill();
        gateway.kill();
        gateway.start_again();
        let told =
            eventually("it cannot know yet that nobody comes, or has waited long enough", LIMIT, || {
                let refusal = gateway.api().refused("seg001", "select 1");
                (refusal.code == code || refusal.code != "warming").then_some(refusal)
            });
        assert_eq!((told.status, told.code.as_str(), told.retry), (503, code, true));
    }
}

fn worker_killed() {
    let root = store();
    let gateway = Gateway::of(&url(root.path()));
    let mut workers = ["w1", "w2"].map(|name| Worker::of(&url(root.path()), &gateway, name));
    gateway.wait_workers(&["w1", "w2"]);
    // Segments spread over both, each always to the same one.
    let answered_by = |id: &str| gateway.api().query(id, "select n from t").worker;
    let ids: Vec<String> = (1..=20).map(|n| format!("seg{n:03}")).collect();
    let first: Vec<String> = ids.iter().map(|id| answered_by(id)).collect();
    assert_eq!(first, ids.iter().map(|id| answered_by(id)).collect::<Vec<_>>(), "placement is steady");
    assert!(first.contains(&"w1".into()) && first.contains(&"w2".into()), "{first:?}");

    workers[0].kill();
    // At once, before the lease runs out: the gateway asks the next one.
    for id in &ids {
        let answer = gateway.api().query(id, "select n from t");
        assert_eq!((answer.rows, answer.worker.as_str()), (vec![vec![json!(7)]], "w2"), "{id}");
    }
    gateway.wait_workers(&["w2"]);
    workers[0] = Worker::of(&url(root.path()), &gateway, "w1");
    gateway.wait_workers(&["w1", "w2"]);
    let again: Vec<String> = ids.iter().map(|id| answered_by(id)).collect();
    assert_eq!(again, first, "segments come back to the worker whose cache they know");
}

/// A frozen worker keeps its connections open: only a timeout tells.
fn worker_frozen() {
    let root = store();
    let gateway = Gateway::of(&url(root.path()));
    let mut workers = ["w1", "w2"].map(|name| Worker::of(&url(root.path()), &gateway, name));
    gateway.wait_workers(&["w1", "w2"]);
    workers[0].stop();
    gateway.wait_workers(&["w2"]);
    for n in 1..=10 {
        let answer = gateway.api().query(&format!("seg{n:03}"), "select n from t");
        assert_eq!((answer.rows, answer.worker.as_str()), (vec![vec![json!(7)]], "w2"));
    }
}

fn worker_killed_in_the_middle_of_an_answer() {
    let root = store();
    let gateway = Gateway::of(&url(root.path()));
    let mut worker = Worker::of(&url(root.path()), &gateway, "w1");
    gateway.wait_workers(&["w1"]);
    for accept in ["application/json", "application/x-ndjson"] {
        let address = gateway.api().address();
        let mut answer = RawQuery::send(address, "seg001", &long_answer(), accept);
        let head = String::from_utf8_lossy(answer.read_to(100_000)).into_owned();
        assert!(head.starts_with("HTTP/1.1 200"), "{head:.100}");
        worker.kill();
        let (text, end) = answer.finish();
        assert_eq!(end, End::CutShort, "{accept}: an answer that looks whole after {} bytes", text.len());
        assert!(!text.contains("\"end\""), "{accept}: no end mark");
        worker = Worker::of(&url(root.path()), &gateway, "w1");
        eventually("the new worker answers", LIMIT, || {
            gateway.api().ask("seg001", json!({ "sql": "select 1" })).ok()
        });
    }
    // Without a murder the same answer is whole.
    let whole = RawQuery::send(gateway.api().address(), "seg001", &long_answer(), "application/x-ndjson");
    let (text, end) = whole.finish();
    assert_eq!(end, End::Whole);
    assert!(text.contains("{\"end\":{\"rows\":800000,\"truncated\":false}}"), "{:.200}", text);
}

fn mount_killed() {
    let root = store();
    let gateway = Gateway::of(&url(root.path()));
    let mut worker = Worker::with(&url(root.path()), &gateway, "w1", &["--access", "fuse"]);
    gateway.wait_workers(&["w1"]);
    gateway.api().query("seg001", "select n from t");
    let pid = worker.process().id();
    let mount = children_of(pid).into_iter().find(|child| command_line(*child).contains("mount"));
    kill(mount.expect("the worker has a mount daemon as a child"));
    let answer = eventually("the worker has mounted anew", LIMIT, || {
        match gateway.api().ask("seg001", json!({ "sql": "select n from t" })) {
            Ok(answer) => Some(answer),
            Err(refusal) => {
                assert!(refusal.retry, "{refusal:?}");
                None
            }
        }
    });
    assert_eq!(answer.rows, [[json!(7)]]);
    assert!(worker.process().exited().is_none(), "the worker itself lives");
}

fn secret() {
    let root = store();
    let files = scratch();
    let file = |name: &str, secret: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = files.path().join(name);
        fs::write(&path, secret).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        path.display().to_string()
    };
    let (right, wrong) =
        (file("right", "open-sesame-says-Ali-Baba"), file("wrong", "open-barley-says-Cassim"));
    let gateway = Gateway::with(&url(root.path()), &["--cluster-secret-file", &right]);
    let mut refused =
        Worker::with(&url(root.path()), &gateway, "intruder", &["--cluster-secret-file", &wrong]);
    let mut unknown = Worker::of(&url(root.path()), &gateway, "nobody");
    let _welcome = Worker::with(&url(root.path()), &gateway, "friend", &["--cluster-secret-file", &right]);
    gateway.wait_workers(&["friend"]);
    // The others say why, or end; and never come in.
    for worker in [&mut refused, &mut unknown] {
        eventually("it says that the secret is wrong", LIMIT, || {
            worker.process().stderr().contains("secret").then_some(())
        });
    }
    gateway.wait_workers(&["friend"]);
    assert_eq!(gateway.api().query("seg001", "select n from t").worker, "friend");
}

/// A worker that reads another store would answer with another one's rows.
fn worker_of_another_store_refused() {
    let (root, other) = (store(), store());
    let gateway = Gateway::of(&url(root.path()));
    let mut stranger = Worker::of(&url(other.path()), &gateway, "stranger");
    let _right = Worker::of(&url(root.path()), &gateway, "right");
    stranger.process().stderr_line("that it is refused", LIMIT, |line| {
        (line.contains("refuses") && line.contains(&url(root.path()))).then_some(())
    });
    gateway.wait_workers(&["right"]);
    assert_eq!(gateway.api().query("seg001", "select n from t").worker, "right");
}

fn second_registry_refused() {
    let root = store();
    let gateway = Gateway::of(&url(root.path()));
    let data = scratch();
    let mut second = springhouse();
    second.args(["gateway", "--store", &url(root.path()), "--listen", "127.0.0.1:0", "--log", "error"]);
    second.arg("--data").arg(data.path().join("data"));
    let output = process::run(second, LIMIT);
    assert_eq!(output.code, Some(5), "{output:?}");
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
    assert!(output.stderr.contains("take_over_store"), "it names the way out: {output:?}");
    assert_eq!(gateway.api().get("/livez").status, 200, "the first one does not mind");
}

/// With a deadline that no slow machine reaches.
fn long_answer() -> Value {
    json!({ "sql": LONG_ANSWER, "timeout_ms": 240_000 })
}

/// A local store of 20 small segments.
fn store() -> tempfile::TempDir {
    let root = scratch();
    for n in 1..=20 {
        segments::from_sql(
            root.path(),
            &format!("seg{n:03}"),
            "create table t (n integer); insert into t values (7);",
        );
    }
    root
}

fn command_line(id: u32) -> String {
    let bytes = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

fn kill(id: u32) {
    let mut kill = std::process::Command::new("kill");
    kill.args(["-9", &id.to_string()]);
    assert!(process::run(kill, LIMIT).success());
}
