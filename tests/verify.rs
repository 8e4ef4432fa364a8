//! `springhouse segment verify`: what is wrong with a segment is named, wherever it is; docs/SEMANTICS.md.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use springhouse::failpoint::VARIABLE;

use crate::{
    harness::{
        cluster::{Gateway, Serve, Worker},
        eventually, file_url as url,
        hdfs::Hdfs,
        http::Api,
        process::{self, Output},
        scratch, segments, springhouse,
    },
    life::{execute, good, names, of, post, provision},
    registry::tests,
};

tests! {
    [] sound, damaged_in_the_store, damaged_copy, nobody_to_ask, seen_and_cancelled, reader_dies;
    [Fuse, Hdfs] other_bytes_under_the_same_generation;
}

const LIMIT: Duration = Duration::from_secs(120);
const PAGE: u64 = 4096;

/// Enough pages for trees of two levels.
const SQL: &str = "create table t (id integer primary key, name text);
    with recursive c(n) as (select 1 union all select n + 1 from c limit 5000)
        insert into t select n, 'name number ' || n from c;
    create index i on t (name)";

fn verify(api: &Api, args: &[&str]) -> Output {
    let mut command = springhouse();
    command.args(["segment", "verify", "--gateway", api.base()]).args(args);
    process::run(command, LIMIT)
}

/// Exit code, and the answer for one segment.
fn verified(api: &Api, segment: &str, args: &[&str]) -> (Option<i32>, Value) {
    let output = verify(api, &[args, &["--json", segment]].concat());
    let answer = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("no answer: {output:?}"));
    (output.code, answer)
}

fn kinds(answer: &Value) -> Vec<String> {
    let findings = answer["findings"].as_array().expect("findings").iter();
    findings.map(|finding| finding["kind"].as_str().expect("a kind").to_owned()).collect()
}

fn serve(store: &str) -> Serve {
    Serve::with(store, &["--tier", "hot,cold", "--lease-ttl", "12s", "--discovery-interval", "300ms"])
}

fn raise(api: &Api, segment: &str) {
    good(&post(api, &of(segment, "raise"), &json!({ "copies": 1 })));
    available(api, segment);
}

fn available(api: &Api, segment: &str) {
    eventually("the copy is there", LIMIT, || {
        let copies = api.get(&format!("/v1/segments/{segment}")).json()["copies"].clone();
        (copies[0]["state"] == "available").then_some(())
    });
}

/// Turns the bits of the byte at `at`.
fn flip(file: &Path, at: u64) {
    let open = fs::OpenOptions::new().read(true).write(true).open(file).expect("a file");
    let mut byte = [0];
    open.read_exact_at(&mut byte, at).expect("a byte");
    open.write_all_at(&[!byte[0]], at).expect("written");
}

/// Where a page in the middle of a file begins.
fn middle(file: &Path) -> u64 {
    file.metadata().expect("a file").len() / PAGE / 2 * PAGE
}

/// The one copy below a worker's directory.
fn copy_of(copies: &Path, segment: &str) -> PathBuf {
    let all = segments::segments_below(&copies.join("segments"));
    all.into_iter().find(|path| path.ends_with(format!("{segment}.sqlite"))).expect("a copy")
}

/// Put there by hand, promoted, raised, being written, never promoted: all is as it should be.
fn sound() {
    let root = scratch();
    segments::from_sql(root.path(), "seg001", SQL);
    let serve = serve(&url(root.path()));
    let api = serve.api();
    let (code, byhand) = verified(api, "seg001", &[]);
    assert_eq!(
        (code, &byhand["sound"], &byhand["findings"]),
        (Some(0), &json!(true), &json!([])),
        "{byhand}"
    );
    assert!(byhand["store"]["checksum"].is_string() && byhand["store"]["kept"].is_null(), "{byhand}");
    assert_eq!(byhand["store"]["checked"], true);

    provision(api, "seg002", &json!({}));
    good(&execute(api, "seg002", SQL));
    let (code, unpromoted) = verified(api, "seg002", &[]);
    assert_eq!((code, &unpromoted["sound"]), (Some(0), &json!(true)), "{unpromoted}");
    assert!(unpromoted["store"].is_null() && unpromoted["copies"][0]["checked"] == true, "{unpromoted}");
    let promoted = good(&post(api, &of("seg002", "promote"), &json!({})));
    good(&execute(api, "seg002", "insert into t values (-1, 'later')"));
    let (code, written) = verified(api, "seg002", &[]);
    assert_eq!((code, &written["sound"]), (Some(0), &json!(true)), "{written}");
    assert_eq!(
        (&written["store"]["checksum"], &written["store"]["kept"]),
        (&promoted["checksum"], &promoted["checksum"])
    );
    assert!(written["copies"][0]["checksum"].is_null(), "it is being written: {written}");

    raise(api, "seg001");
    let (code, raised) = verified(api, "seg001", &["--quick"]);
    assert_eq!(
        (code, &raised["depth"], &raised["sound"]),
        (Some(0), &json!("quick"), &json!(true)),
        "{raised}"
    );
    assert_eq!(raised["copies"][0]["kept"], byhand["store"]["checksum"]);
    assert_eq!(raised["store"]["kept"], byhand["store"]["checksum"], "a copy keeps one: {raised}");
    let (code, header) = verified(api, "seg001", &["--header"]);
    assert_eq!((code, &header["store"]["checked"]), (Some(0), &json!(false)), "{header}");
    assert!(header["store"]["checksum"].is_null() && header["store"]["size"] == byhand["store"]["size"]);

    let table = verify(api, &["seg001", "seg002"]);
    assert_eq!(table.code, Some(0), "{table:?}");
    let lines: Vec<&str> = table.stdout.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("SEGMENT  STATE"), "{table:?}");
    assert!(lines[1].starts_with("seg001   sound") && lines[2].contains("as kept"), "{table:?}");
    let mut command = springhouse();
    command.args(["segment", "verify", "--gateway", api.base(), "--quick", "--header", "seg001"]);
    assert_eq!(process::run(command, LIMIT).code, Some(2), "one or the other");
}

/// A byte that is another, a file that is cut short, one that is gone.
fn damaged_in_the_store() {
    let root = scratch();
    let ids = ["seg001", "seg002", "seg003", "seg004"];
    let files: Vec<PathBuf> = ids.iter().map(|id| segments::from_sql(root.path(), id, SQL)).collect();
    // What happens is not taken up by a discovery.
    let serve = Serve::with(&url(root.path()), &["--lease-ttl", "12s", "--discovery-interval", "1h"]);
    let api = serve.api();
    assert_eq!(verify(api, &ids).code, Some(0));
    flip(&files[0], middle(&files[0]));
    let (code, flipped) = verified(api, "seg001", &[]);
    assert_eq!(code, Some(7), "{flipped}");
    assert_eq!(kinds(&flipped), ["generation_behind", "store_integrity"], "{flipped}");
    assert!(flipped["findings"][1]["text"].as_str().is_some_and(|text| text.contains("integrity_check")));
    let cut = fs::OpenOptions::new().write(true).open(&files[1]).expect("a file");
    cut.set_len(middle(&files[1])).expect("cut");
    let (code, cut) = verified(api, "seg002", &["--header"]);
    assert_eq!(
        (code, kinds(&cut)),
        (Some(7), vec!["generation_behind".into(), "store_header".into()]),
        "{cut}"
    );
    assert!(cut["findings"][1]["text"].as_str().is_some_and(|text| text.contains("cut short")), "{cut}");
    assert_eq!(kinds(&verified(api, "seg002", &[]).1), kinds(&cut), "the same when all is read");
    fs::remove_file(&files[2]).expect("removed");
    let (code, gone) = verified(api, "seg003", &[]);
    assert_eq!((code, kinds(&gone)), (Some(7), vec!["not_in_store".into()]), "{gone}");
    // For people: each with its findings, the sound one too, and how many.
    let all = verify(api, &ids);
    assert_eq!(all.code, Some(7), "{all:?}");
    assert!(all.stderr.contains("3 of 4 segments"), "{all:?}");
    assert!(all.stdout.contains("error not_in_store: ") && all.stdout.contains("seg004   sound"), "{all:?}");
    let findings =
        [&flipped, &cut, &gone].map(|answer| answer["findings"].as_array().expect("a list").clone());
    assert!(
        findings
            .concat()
            .iter()
            .all(|finding| finding["remedy"].as_str().is_some_and(|text| text.len() > 10))
    );
}

/// A copy that is not what was copied is named, is not used any more, and comes anew.
fn damaged_copy() {
    let root = scratch();
    segments::from_sql(root.path(), "seg001", SQL);
    let store = url(root.path());
    let gateway = Gateway::of(&store);
    let api = gateway.api();
    // It answers from copies only, and sees the store in another way than one with a mount.
    let worker = Worker::hot(&store, &gateway, "damaged");
    gateway.wait_workers(&["damaged"]);
    raise(api, "seg001");
    let (code, before) = verified(api, "seg001", &[]);
    assert_eq!((code, &before["store"]["worker"]), (Some(0), &json!("damaged")), "{before}");
    for cut in [false, true] {
        let copy = copy_of(&worker.copies(), "seg001");
        match cut {
            false => flip(&copy, middle(&copy) + 100),
            true => {
                let open = fs::OpenOptions::new().write(true).open(&copy).expect("a copy");
                open.set_len(middle(&copy)).expect("cut");
            }
        }
        let (code, found) = verified(api, "seg001", if cut { &["--header"] } else { &[] });
        assert_eq!(code, Some(7), "{found}");
        let expected = if cut { "copy_length" } else { "copy_checksum" };
        assert!(kinds(&found).iter().any(|kind| kind == expected), "{found}");
        assert!(kinds(&found).iter().all(|kind| kind.starts_with("copy_")), "the store's is good: {found}");
        assert!(found["findings"][0]["text"].as_str().is_some_and(|text| text.contains("worker damaged")));
        eventually("it is copied anew", LIMIT, || {
            let (code, after) = verified(api, "seg001", &[]);
            (code == Some(0) && after["copies"].as_array().is_some_and(|copies| copies.len() == 1))
                .then_some(())
        });
        assert_eq!(api.query("seg001", "select count(*) from t").rows, [[json!(5000)]]);
    }
    let parts = worker.copies().join("parts");
    eventually("nothing is left", LIMIT, || names(&parts).is_empty().then_some(()));
}

/// Whatever keeps it from looking is an error that says so.
fn nobody_to_ask() {
    let root = scratch();
    segments::from_sql(root.path(), "seg001", SQL);
    let store = url(root.path());
    let gateway = Gateway::of(&store);
    let api = gateway.api();
    let mut cold = Worker::with(&store, &gateway, "asked-cold", &["--access", "direct"]);
    let mut hot = Worker::hot(&store, &gateway, "asked-hot");
    gateway.wait_workers(&["asked-cold", "asked-hot"]);
    let none = verify(api, &["none001"]);
    assert!(none.code == Some(1) && none.stderr.contains("no segment none001"), "{none:?}");
    let some = verify(api, &["none001", "seg001"]);
    assert!(some.code == Some(1) && some.stdout.contains("seg001   sound"), "{some:?}");
    assert!(some.stderr.contains("none001: ") && some.stderr.contains("1 of 2 failed"), "{some:?}");
    let bad = verify(api, &["../etc"]);
    assert_eq!(bad.code, Some(2), "{bad:?}");
    raise(api, "seg001");
    hot.kill();
    eventually("the copy's worker is missed", LIMIT, || {
        let (code, found) = verified(api, "seg001", &[]);
        let silent = kinds(&found) == ["copy_unverified"] && code == Some(7);
        (silent && found.to_string().contains("asked-hot")).then_some(())
    });
    cold.kill();
    let alone = eventually("nobody reads any more", LIMIT, || {
        let alone = verify(api, &["seg001"]);
        alone.stderr.contains("no worker is alive").then_some(alone)
    });
    assert_eq!(alone.code, Some(3), "{alone:?}");
    let unknown = post(api, &of("seg001", "verify"), &json!({ "depth": "deep" }));
    assert!(unknown.status == 400 && unknown.body.contains("deep"), "{}", unknown.body);
}

/// It is in `segment work` and in `segment show`, and can be ended; so does the client's going away.
fn seen_and_cancelled() {
    let root = scratch();
    segments::from_sql(root.path(), "seg001", SQL);
    let store = url(root.path());
    let gateway = Gateway::of(&store);
    let api = gateway.api();
    let files = scratch();
    let here = files.path().join("here");
    let pause = format!("verify.read=pause({})", here.display());
    let direct = ["--access", "direct"];
    let _worker = Worker::with_environment(&store, &gateway, "seen", &direct, &[(VARIABLE, &pause)]);
    gateway.wait_workers(&["seen"]);
    let run = |args: &[&str]| {
        let mut command = springhouse();
        command.args(["segment", "--gateway", api.base()]).args(args);
        process::run(command, LIMIT)
    };
    let ended = thread::scope(|scope| {
        let verifying = scope.spawn(|| verify(api, &["seg001"]));
        eventually("it reads", LIMIT, || here.exists().then_some(()));
        let work = api.get("/v1/work").json()["work"][0].clone();
        assert_eq!(
            (&work["segment"], &work["worker"], &work["what"]),
            (&json!("seg001"), &json!("seen"), &json!("reading")),
            "{work}"
        );
        assert!(work["total"].as_u64() > Some(100_000), "{work}");
        let shown = run(&["show", "seg001"]);
        assert!(shown.stdout.contains("reading on seen, 0 B of "), "{shown:?}");
        assert_eq!(api.get("/v1/segments/seg001").json()["work"], json!([work]));
        let cancelled = run(&["cancel", "seg001"]);
        assert!(cancelled.stdout.contains("verification ended"), "{cancelled:?}");
        verifying.join().expect("no panic")
    });
    assert!(ended.code == Some(1) && ended.stderr.contains("cancelled"), "{ended:?}");
    let idle = || api.get("/v1/work").json()["work"] == json!([]);
    eventually("the worker does nothing any more", LIMIT, || idle().then_some(()));
    assert_eq!(api.get("/v1/segments/seg001").json()["work"], Value::Null);
    fs::remove_file(&here).expect("it goes on");

    let mut command = springhouse();
    command.args(["segment", "verify", "--gateway", api.base(), "seg001"]);
    let mut client = process::Process::start("a client that goes away", command);
    eventually("it reads again", LIMIT, || here.exists().then_some(()));
    client.kill();
    eventually("the work ends with it", LIMIT, || idle().then_some(()));
    fs::remove_file(&here).expect("it goes on");
    let nothing = run(&["cancel", "seg001"]);
    assert!(nothing.code == Some(1) && nothing.stderr.contains("nothing is under way"), "{nothing:?}");
}

/// A worker that dies while it reads changes nothing: another reads, or the command says that there is none.
fn reader_dies() {
    let root = scratch();
    segments::from_sql(root.path(), "seg001", SQL);
    let store = url(root.path());
    let gateway = Gateway::of(&store);
    let dies = [(VARIABLE, "verify.read=abort")];
    let mut worker = Worker::with_environment(&store, &gateway, "reader-1", &["--access", "direct"], &dies);
    gateway.wait_workers(&["reader-1"]);
    let alone = verify(gateway.api(), &["seg001"]);
    assert!(alone.code == Some(3) && alone.stderr.contains("reader-1"), "{alone:?}");
    assert!(worker.process().wait(LIMIT).is_some_and(|status| !status.success()));
    worker.start_again();
    let _other = Worker::with(&store, &gateway, "reader-2", &["--access", "direct"]);
    gateway.wait_workers(&["reader-1", "reader-2"]);
    let (code, answer) = verified(gateway.api(), "seg001", &[]);
    assert_eq!((code, &answer["store"]["worker"]), (Some(0), &json!("reader-2")), "{answer}");
}

/// What no look at times and lengths can see: the checksum of the promotion tells, and the hot copy is put
/// back as the answer says.
fn other_bytes_under_the_same_generation() {
    let dir = Hdfs::shared().dir("verify");
    let gateway = Gateway::of(&dir.url());
    let api = gateway.api();
    let _hot = ["same-1", "same-2"].map(|name| Worker::hot(&dir.url(), &gateway, name));
    // It reads through a mount, which has a memory of its own.
    let _cold = Worker::of(&dir.url(), &gateway, "same-cold");
    gateway.wait_workers(&["same-1", "same-2", "same-cold"]);
    provision(api, "seg001", &json!({}));
    good(&execute(api, "seg001", SQL));
    good(&post(api, &of("seg001", "promote"), &json!({ "release": true })));
    // The former holder's was written, and has no checksum: one that was copied has.
    good(&post(api, &of("seg001", "raise"), &json!({ "copies": 2 })));
    let copied = eventually("both have a copy", LIMIT, || {
        let (code, answer) = verified(api, "seg001", &[]);
        let copies = answer["copies"].as_array()?.iter();
        let copied: Vec<&Value> = copies.filter(|copy| copy["kept"].is_string()).collect();
        (code == Some(0) && copied.len() == 1)
            .then(|| copied[0]["worker"].as_str().expect("a name").to_owned())
    });
    let path = segments::relative_path("seg001");
    let mut bytes = dir.read(&path);
    let at = bytes.windows(17).position(|window| window == b"name number 4321\0").unwrap_or_else(|| {
        bytes.windows(16).position(|window| window == b"name number 4321").expect("a row")
    });
    bytes[at] = b'N';
    let mtime_ms = dir.list("seg").iter().find(|file| file.name == "seg001.sqlite").expect("a file").mtime_ms;
    dir.replace_at(&path, bytes, mtime_ms);
    let (code, other) = verified(api, "seg001", &[]);
    assert_eq!(code, Some(7), "{other}");
    assert!(kinds(&other).contains(&"store_checksum".to_owned()), "{other}");
    assert!(!kinds(&other).contains(&"generation_behind".to_owned()), "{other}");
    assert_eq!(other["store"]["worker"], "same-cold");
    let remedy = other["findings"]
        .as_array()
        .and_then(|all| all.iter().find(|finding| finding["kind"] == "store_checksum")?["remedy"].as_str());
    assert!(
        remedy.is_some_and(|text| text.contains(&format!("worker {copied} has a sound copy"))),
        "{other}"
    );
    provision(api, "seg001", &json!({}));
    good(&post(api, &of("seg001", "promote"), &json!({ "release": true })));
    eventually("it is sound again", LIMIT, || (verified(api, "seg001", &[]).0 == Some(0)).then_some(()));
    assert_eq!(api.query("seg001", "select name from t where id = 4321").rows, [[json!("name number 4321")]]);
}
