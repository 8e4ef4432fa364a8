//! The registry as a whole: backed up, restored, checked, lost and rebuilt; docs/REGISTRY.md.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    harness::{
        cluster::{Gateway, Worker},
        eventually, file_url as url,
        http::Api,
        process::{Output, run},
        scratch, segments, springhouse,
    },
    registry::tests,
};

tests! {
    [] export_and_import, killed_in_an_import, killed_in_a_rebuild, registry_in_use, verify, rebuilt_under_unpromoted_writes,
       lost_without_a_word;
}

const LIMIT: Duration = Duration::from_secs(120);

fn command(args: &[&str]) -> Command {
    let mut command = springhouse();
    command.arg("registry").args(args);
    command
}

fn registry(args: &[&str]) -> Output {
    run(command(args), LIMIT)
}

fn good(output: Output) -> Output {
    assert!(output.success(), "{output:?}");
    output
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).expect("a file")
}

/// Where a gateway keeps its registry.
fn data(gateway: &Gateway) -> PathBuf {
    gateway.data().join("data")
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Posts until it is not "not yet".
fn done(api: &Api, path: &str, body: &Value) -> Value {
    static REQUESTS: AtomicU64 = AtomicU64::new(0);
    let key = format!("request-{}", REQUESTS.fetch_add(1, Relaxed));
    eventually(path, LIMIT, || {
        // Asked again it is applied once.
        let headers = [("content-type", "application/json"), ("idempotency-key", key.as_str())];
        let reply = api.send(Method::POST, path, &headers, Some(body.to_string()));
        let reply = reply.unwrap_or_else(|e| panic!("POST {path}: {e}"));
        match reply.status {
            503 => None,
            200..300 => Some(reply.json()),
            _ => panic!("{path}: {} {}", reply.status, reply.body),
        }
    })
}

fn provision(api: &Api, segment: &str) -> Value {
    done(api, &format!("/v1/segments/{segment}/provision"), &json!({}))
}

fn execute(api: &Api, segment: &str, sql: &str) {
    done(api, &format!("/v1/segments/{segment}/execute"), &json!({ "sql": sql }));
}

fn count(api: &Api, segment: &str) -> i64 {
    eventually("an answer", LIMIT, || {
        let asked = api.ask(segment, json!({"sql": "select count(*) from t"}));
        asked.ok().map(|rows| rows.rows[0][0].as_i64().expect("a number"))
    })
}

/// A store with a few segments, its gateway, and a hot worker that has written `new0001`.
struct Bench {
    root: tempfile::TempDir,
    gateway: Gateway,
    worker: Worker,
}

impl Bench {
    fn new() -> Self {
        let root = scratch();
        for id in ["seg001", "seg002", "other01"] {
            segments::from_sql(root.path(), id, "create table t (n); insert into t values (1)");
        }
        let gateway = Gateway::of(&url(root.path()));
        let worker = Worker::hot(&url(root.path()), &gateway, "h1");
        gateway.wait_workers(&["h1"]);
        eventually("the store is discovered", LIMIT, || {
            (gateway.api().get("/v1/segments").json()["total"] == 3).then_some(())
        });
        let api = gateway.api();
        let schema = json!({"sql": "create table t (n)"});
        let headers = [("content-type", "application/json")];
        let put =
            api.send(Method::PUT, "/v1/schemas/pages", &headers, Some(schema.to_string())).expect("put");
        assert!((200..300).contains(&put.status), "{} {}", put.status, put.body);
        done(api, "/v1/segments/new0001/provision", &json!({"schema": "pages"}));
        execute(api, "new0001", "insert into t values (1), (2), (3)");
        done(api, "/v1/segments/seg001/raise", &json!({"copies": 1}));
        // New directories are looked at again for a few seconds.
        eventually("the store is quiet", LIMIT, || {
            (api.get("/v1/discovery").json()["last"]["dirs_listed"] == 1).then_some(())
        });
        Self { root, gateway, worker }
    }
}

/// What a gateway that was started from an import knows is what the other one knew.
fn export_and_import() {
    let Bench { root, mut gateway, worker } = Bench::new();
    let out = scratch();
    let (running, stopped, again) =
        (out.path().join("running"), out.path().join("stopped"), out.path().join("again"));
    // The root, in which the gateway has put its mark, is quiet last; that is noted in the registry, too.
    eventually("all of the store is quiet", LIMIT, || {
        good(registry(&["export", "--gateway", gateway.api().base(), shown(&running)]));
        (!text(&running).contains("\"quiet\":false")).then_some(())
    });
    let token = provision(gateway.api(), "new0001")["token"].clone();
    gateway.kill();
    good(registry(&["export", "--data", shown(&data(&gateway)), shown(&stopped)]));
    assert_eq!(text(&running), text(&stopped), "running or not, it is the same registry");
    assert!(text(&running).starts_with("{\"springhouse_registry\":1,"));

    // A registry with something in it is not replaced without being told to.
    let refused = registry(&["import", "--data", shown(&data(&gateway)), shown(&stopped)]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("--replace"), "{refused:?}");
    // One line less is no export.
    let cut = out.path().join("cut");
    let whole = text(&stopped);
    fs::write(&cut, &whole[..whole.trim_end().rfind('\n').expect("lines") + 1]).expect("written");
    let refused = registry(&["import", "--replace", "--data", shown(&data(&gateway)), shown(&cut)]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("cut short"), "{refused:?}");

    fs::remove_dir_all(data(&gateway).join("registry")).expect("lost");
    good(registry(&["import", "--complete", "--data", shown(&data(&gateway)), shown(&stopped)]));
    good(registry(&["export", "--data", shown(&data(&gateway)), shown(&again)]));
    assert_eq!(text(&stopped), text(&again));
    gateway.start_again();
    gateway.wait_workers(&["h1"]);
    let api = gateway.api();
    let lock = provision(api, "new0001");
    assert_eq!((&lock["granted"], &lock["token"]), (&json!(false), &token), "{lock}");
    execute(api, "new0001", "insert into t values (4)");
    assert_eq!(count(api, "new0001"), 4);
    assert_eq!(api.get("/v1/segments/seg001").json()["raised"], 1);
    assert_eq!(api.get("/v1/schemas/pages").json()["version"], 1);
    done(api, "/v1/segments/new0001/promote", &json!({"release": true}));
    assert!(root.path().join(segments::relative_path("new0001")).exists());
    // Tokens go on where they were.
    let next = provision(api, "new0001")["token"].as_u64().expect("a token");
    assert!(next > token.as_u64().expect("a token"));
    drop(worker);
}

/// Wherever an import is killed, there is the old registry or the new one, whole.
fn killed_in_an_import() {
    let home = scratch();
    let (data, file) = (home.path().join("data"), home.path().join("export"));
    fs::create_dir(&data).expect("a directory");
    let import = |point: Option<&str>, args: &[&str]| {
        let mut command = command(&[&["import", "--data", shown(&data), shown(&file)], args].concat());
        if let Some(point) = point {
            command.env("SPRINGHOUSE_FAILPOINTS", format!("{point}=abort"));
        }
        run(command, LIMIT)
    };
    let out = home.path().join("out");
    let exported = || {
        let output = registry(&["export", "--data", shown(&data), shown(&out)]);
        output.success().then(|| text(&out))
    };
    let (old, new) = (export_of("a", 10), export_of("b", 120_000));
    fs::write(&file, &new).expect("written");
    for point in ["import.batch", "import.before_swap"] {
        assert!(!import(Some(point), &[]).success(), "{point}");
        assert_eq!(exported(), None, "{point}: there was none, and there is none");
    }
    fs::write(&file, &old).expect("written");
    good(import(None, &[]));
    assert_eq!(exported().as_deref(), Some(&*old));
    fs::write(&file, &new).expect("written");
    for point in ["import.batch", "import.before_swap"] {
        assert!(!import(Some(point), &["--replace"]).success(), "{point}");
        assert!(exported().as_deref() == Some(&*old), "{point}: the old one is there");
    }
    assert!(!import(Some("import.after_swap"), &["--replace"]).success());
    assert!(exported().as_deref() == Some(&*new), "the new one is there");
    good(import(None, &["--replace"]));
    assert!(exported().as_deref() == Some(&*new));
    let kept = fs::read_dir(&data).expect("a directory").flatten();
    let kept = kept.filter(|entry| entry.file_name().to_string_lossy().starts_with("registry.replaced-"));
    assert!(kept.count() >= 2, "nothing that was replaced is removed");
}

/// Wherever a rebuild is killed, there is no registry or a whole one, and the next one succeeds.
fn killed_in_a_rebuild() {
    let (home, root) = (scratch(), scratch());
    segments::from_sql(root.path(), "seg001", "create table t (id)");
    let (data, out) = (home.path().join("data"), home.path().join("out"));
    fs::create_dir(&data).expect("a directory");
    let store = url(root.path());
    let rebuild = |point: Option<&str>| {
        let args = ["rebuild", "--store", &store, "--data", shown(&data), "--replace", "--wait", "0s"];
        let mut command = command(&args);
        if let Some(point) = point {
            command.env("SPRINGHOUSE_FAILPOINTS", format!("{point}=abort"));
        }
        run(command, LIMIT)
    };
    for (point, there) in [("rebuild.before_swap", false), ("rebuild.after_swap", true)] {
        assert!(!rebuild(Some(point)).success(), "{point}");
        let output = registry(&["export", "--data", shown(&data), shown(&out)]);
        assert_eq!(output.success(), there, "{point}: {output:?}");
    }
    good(rebuild(None));
    good(registry(&["export", "--data", shown(&data), shown(&out)]));
    assert!(text(&out).contains("seg001"));
}

/// An export of a registry of `count` segments.
fn export_of(name: &str, count: u32) -> String {
    use xxhash_rust::xxh3::xxh3_64;
    let mut text = format!(
        "{{\"springhouse_registry\":1,\"registry_id\":\"{:0>32}\",\"epoch\":3,\"store_url\":null,\"discovered\":true}}\n",
        name.replace(|c: char| !c.is_ascii_hexdigit(), "0")
    );
    text += "{\"entry\":\"token\",\"value\":5}\n";
    for n in 0..count {
        let directory = format!("/{name}{:05}", n / 1_000);
        if n % 1_000 == 0 {
            text += &format!(
                "{{\"directory\":\"{directory}\",\"seen\":null,\"has_subdirs\":false,\"quiet\":false,\"bad_names\":0}}\n"
            );
        }
        text += &format!(
            "{{\"segment\":\"{directory}/{name}{n:08}.sqlite\",\"generation\":\"{n:032x}\",\"size\":{n},\"mtime_ms\":{n}}}\n"
        );
    }
    let (lines, sum) = (text.lines().count(), xxh3_64(text.as_bytes()));
    text + &format!("{{\"end\":{{\"lines\":{lines},\"checksum\":\"{sum:016x}\"}}}}\n")
}

/// A gateway has its registry for itself, and whoever wants it is told how to get it.
fn registry_in_use() {
    let root = scratch();
    let gateway = Gateway::of(&url(root.path()));
    let data = data(&gateway);
    let file = root.path().join("export");
    for args in [
        vec!["export", "--data", shown(&data), shown(&file)],
        vec!["verify", "--data", shown(&data)],
        vec!["import", "--data", shown(&data), "--replace", "-"],
        vec!["rebuild", "--data", shown(&data), "--replace", "--store", "file:///tmp"],
    ] {
        let output = registry(&args);
        assert_eq!(output.code, Some(5), "{args:?} {output:?}");
        assert!(
            output.stderr.contains("in use by process") && output.stderr.contains("without --data"),
            "{output:?}"
        );
    }
    let nothing = registry(&["export", "--data", shown(&root.path().join("nowhere")), shown(&file)]);
    assert_eq!(nothing.code, Some(2), "{nothing:?}");
    assert!(nothing.stderr.contains("has no registry") && !file.exists(), "{nothing:?}");
}

/// `verify` says what does not fit, running or not, with the store or without.
fn verify() {
    let Bench { root, mut gateway, mut worker } = Bench::new();
    let base = gateway.api().base().to_owned();
    let found = |args: &[&str]| {
        let output = registry(&[&["verify", "--json"], args].concat());
        let findings: Value = serde_json::from_str(&output.stdout).expect("JSON");
        let all = findings["findings"].as_array().expect("a list").iter();
        let kinds: Vec<String> =
            all.map(|finding| finding["kind"].as_str().expect("a kind").to_owned()).collect();
        (output.code, kinds)
    };
    eventually("all is in order", LIMIT, || {
        (found(&["--gateway", &base, "--store"]) == (Some(0), vec![])).then_some(())
    });
    worker.kill();
    eventually("the holder is missed", LIMIT, || {
        let (code, kinds) = found(&["--gateway", &base]);
        (code == Some(7) && kinds == ["holder_silent"]).then_some(())
    });
    gateway.kill();
    let (data, store) = (data(&gateway), url(root.path()));
    assert_eq!(found(&["--data", shown(&data)]), (Some(0), vec![]));
    assert_eq!(found(&["--data", shown(&data), "--store", &store]), (Some(0), vec![]));
    fs::remove_file(root.path().join(segments::relative_path("seg002"))).expect("removed");
    let strange = root.path().join("other/other01.sqlite._COPYING_.99999999999999999");
    fs::create_dir_all(strange.parent().expect("a directory")).expect("made");
    fs::write(&strange, "x").expect("written");
    let (code, mut kinds) = found(&["--data", shown(&data), "--store", &store]);
    kinds.sort();
    assert_eq!(
        (code, kinds),
        (Some(7), vec!["left_over_upload".to_owned(), "not_in_store".into(), "token_beyond_mark".into()])
    );
}

/// The registry is gone, the worker has writes that nobody promoted: they are writable and promotable again.
fn rebuilt_under_unpromoted_writes() {
    let Bench { root, mut gateway, worker } = Bench::new();
    let backup = scratch();
    let file = backup.path().join("old-export");
    good(registry(&["export", "--gateway", gateway.api().base(), shown(&file)]));
    let token = provision(gateway.api(), "new0001")["token"].as_u64().expect("a token");
    // Granted after the export, and written to.
    let later = provision(gateway.api(), "seg002")["token"].as_u64().expect("a token");
    execute(gateway.api(), "seg002", "insert into t values (2), (3)");
    // What a promotion that was killed leaves.
    let left = root.path().join(format!("{}._COPYING_.{}", segments::relative_path("other01"), later + 1000));
    fs::write(&left, "half").expect("written");
    gateway.kill();
    fs::remove_dir_all(data(&gateway).join("registry")).expect("lost");

    let data = data(&gateway);
    let store = url(root.path());
    let rebuilt = good(registry(&[
        "rebuild",
        "--store",
        &store,
        "--data",
        shown(&data),
        "--from",
        shown(&file),
        "--wait",
        "16s",
        "--json",
    ]));
    let said: Value = serde_json::from_str(&rebuilt.stdout).expect("JSON");
    assert_eq!((&said["segments"], &said["uploads"]), (&json!(3), &json!(1)), "{said}");
    assert_eq!(said["token_seen"], later + 1000, "{said}");
    gateway.start_again();
    gateway.wait_workers(&["h1"]);
    let api = gateway.api();
    for (segment, token, rows) in [("new0001", token, 3), ("seg002", later, 3)] {
        let lock = eventually("the lock is taken up", LIMIT, || {
            let locks = api.get("/v1/locks").json();
            let all = locks["locks"].as_array().expect("a list").clone();
            all.into_iter().find(|lock| lock["segment"] == segment)
        });
        assert_eq!((&lock["token"], &lock["worker"]), (&json!(token), &json!("h1")), "{lock}");
        assert_eq!(count(api, segment), rows, "{segment}: what was acknowledged is there");
        execute(api, segment, "insert into t values (9)");
        done(api, &format!("/v1/segments/{segment}/promote"), &json!({}));
        assert_eq!(count(api, segment), rows + 1);
        assert!(root.path().join(segments::relative_path(segment)).exists());
    }
    assert_eq!(api.get("/v1/segments/seg001").json()["raised"], 1, "from the export");
    assert_eq!(api.get("/v1/schemas/pages").json()["version"], 1, "from the export");
    // New locks come once all workers had their time, above every token that there was.
    let next = provision(api, "other01")["token"].as_u64().expect("a token");
    assert!(next > later + 1000, "{next}");
    assert!(
        fs::read_dir(worker.copies().join("kept")).map_or(true, |kept| kept.count() == 0),
        "nothing was set aside"
    );
}

/// Without a rebuild, by taking the store over: the same, but for what only the registry knew.
fn lost_without_a_word() {
    let Bench { root, mut gateway, worker } = Bench::new();
    let store = url(root.path());
    gateway.kill();
    let address = gateway.api().address().to_owned();
    let other = scratch();
    let data = other.path().join("data");
    let mut command = springhouse();
    command.args(["gateway", "--store", &store, "--data", shown(&data), "--listen", &address]);
    command.args(["--take-over-store", "--lease-ttl", "12s", "--discovery-interval", "300ms"]);
    let _other = crate::harness::process::Process::start("another gateway", command);
    let api = Api::new(&format!("http://{address}"));
    eventually("the lock is taken up", LIMIT, || {
        let reply = api.send(Method::GET, "/v1/locks", &[], None).ok()?;
        (reply.json()["locks"][0]["segment"] == "new0001").then_some(())
    });
    execute(&api, "new0001", "insert into t values (4)");
    assert_eq!(count(&api, "new0001"), 4);
    drop(worker);
}
