//! What the gateway knows of the store: segments that come, change and go, and how much it takes to know.

use std::{
    collections::HashMap,
    fs::{self, File, FileTimes},
    time::{Duration, SystemTime},
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    harness::{
        cluster::{Gateway, Serve},
        eventually, file_url as url,
        hdfs::Hdfs,
        http::Api,
        scratch, segments,
    },
    registry::tests,
};

tests! {
    [] new_segment_is_found, segments_are_listed, same_id_in_two_directories, a_hundred_thousand_segments;
    [Hdfs] changes_in_hdfs_are_found;
}

const EVERY_300_MS: [&str; 2] = ["--discovery-interval", "300ms"];
/// Only what is asked for is looked for.
const NEVER: [&str; 2] = ["--discovery-interval", "1h"];
const LIMIT: Duration = Duration::from_secs(60);

fn new_segment_is_found() {
    let root = scratch();
    segments::from_sql(root.path(), "first1", "create table t (n)");
    // So rare a discovery that only the look at the moment of asking can find it.
    let serve = Serve::with(&url(root.path()), &["--discovery-interval", "1h"]);
    let api = serve.api();
    let seven = "create table t (n); insert into t values (7);";
    assert_eq!(api.refused("later1", "select 1").code, "segment_not_found");
    segments::from_sql(root.path(), "later1", seven);
    segments::from_sql(root.path(), "later2", seven);
    assert_eq!(api.query("later2", "select n from t").rows, [[json!(7)]], "at once");
    // That an id is nowhere is believed for a second.
    let found = eventually("one that was asked for before", LIMIT, || {
        api.ask("later1", json!({ "sql": "select n from t" })).ok()
    });
    assert_eq!(found.rows, [[json!(7)]]);

    // A listing shows what comes and goes after the discovery interval.
    drop(serve);
    let serve = Serve::with(&url(root.path()), &["--discovery-interval", "300ms", "--take-over-store"]);
    let ids = || -> Vec<String> {
        let list = serve.api().get("/v1/segments").json();
        let segments = list["segments"].as_array().expect("a list").iter();
        segments.map(|s| s["id"].as_str().expect("an id").to_owned()).collect()
    };
    let shows = |what: &str, wanted: &[&str]| {
        eventually(what, LIMIT, || (ids() == wanted).then_some(()));
    };
    shows("all are listed", &["first1", "later1", "later2"]);
    segments::from_sql(root.path(), "new1", "create table t (n)");
    shows("a new one is listed", &["first1", "later1", "later2", "new1"]);
    fs::remove_file(root.path().join(segments::relative_path("first1"))).expect("it is there");
    shows("a deleted one is not", &["later1", "later2", "new1"]);
    assert_eq!(serve.api().refused("first1", "select 1").code, "segment_not_found");
}

fn segments_are_listed() {
    let root = scratch();
    let ids: Vec<String> = (0..25).map(|n| format!("list{:04}", n * 137)).collect();
    for id in &ids {
        segments::from_sql(root.path(), id, "create table t (n)");
    }
    fs::write(root.path().join("notes.txt"), "no segment").expect("a file");
    fs::write(root.path().join("list0001.sqlite._COPYING_.5"), "no segment yet").expect("a file");
    let serve = Serve::with(&url(root.path()), &EVERY_300_MS);
    let api = serve.api();
    eventually("all are known", LIMIT, || {
        (api.get("/v1/segments?limit=1").json()["total"] == 25).then_some(())
    });
    let mut seen = Vec::new();
    let mut path = "/v1/segments?limit=10".to_owned();
    loop {
        let page = api.get(&path).json();
        seen.extend(
            page["segments"]
                .as_array()
                .expect("a page")
                .iter()
                .map(|s| s["id"].as_str().expect("an id").to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/segments?limit=10&after={next}"),
            None => break,
        }
    }
    seen.sort();
    assert_eq!(seen, ids);
    let one = api.get(&format!("/v1/segments/{}", ids[3])).json();
    let size = fs::metadata(root.path().join(segments::relative_path(&ids[3]))).expect("stat").len();
    assert_eq!((&one["id"], &one["size"]), (&json!(ids[3]), &json!(size)));
    assert_eq!(one["path"], json!(format!("/{}", segments::relative_path(&ids[3]))));
    assert_eq!(one["workers"].as_array().map(Vec::len), Some(1));
    assert_eq!(one["generation"], json!(api.query(&ids[3], "select 1").generation));
}

fn same_id_in_two_directories() {
    let root = scratch();
    let path = segments::from_sql(root.path(), "twice1", "create table t (n)");
    fs::create_dir(root.path().join("other")).expect("a directory");
    fs::copy(path, root.path().join("other/twice1.sqlite")).expect("a copy");
    let serve = Serve::with(&url(root.path()), &EVERY_300_MS);
    let refusal =
        eventually("both are known", LIMIT, || serve.api().ask("twice1", json!({ "sql": "select 1" })).err());
    assert_eq!((refusal.status, refusal.code.as_str()), (409, "segment_ambiguous"));
    for path in ["/twi/twice1.sqlite", "/other/twice1.sqlite"] {
        assert!(refusal.message.contains(path), "{refusal:?}");
    }
}

/// As many as a cluster has after its first year: all are found, and then only what changed is looked at.
fn a_hundred_thousand_segments() {
    const DIRS: usize = 125;
    const IN_EACH: usize = 800;
    let root = scratch();
    // What changed a moment ago is looked at again until it is quiet: everything here is an hour old.
    let old = FileTimes::new().set_modified(SystemTime::now() - Duration::from_secs(3_600));
    for dir in 0..DIRS {
        let path = root.path().join((1_000 + dir).to_string());
        fs::create_dir(&path).expect("a directory");
        for n in 0..IN_EACH {
            let mut file = File::create(path.join(format!("{}{n:03}.sqlite", 1_000 + dir))).expect("a file");
            std::io::Write::write_all(&mut file, b"tiny").expect("a write");
            file.set_times(old).expect("a time");
        }
        File::open(&path).and_then(|dir| dir.set_times(old)).expect("a time");
    }
    let serve = Serve::with(&url(root.path()), &NEVER);
    let api = serve.api();
    // No time is asserted here, on whatever machine this is; the harness gives up after minutes.
    let first = eventually("the first pass ends", Duration::from_secs(200), || {
        let last = api.get("/v1/discovery").json()["last"].clone();
        (last["complete"] == true).then_some(last)
    });
    assert_eq!(counts(&first), (DIRS as u64 + 1, 0, [(DIRS * IN_EACH) as u64, 0, 0]), "{first}");
    assert_eq!(first["errors"], 0, "{first}");

    let mut ids: Vec<String> = listed(api).into_keys().collect();
    ids.sort_unstable();
    let wanted = (0..DIRS).flat_map(|dir| (0..IN_EACH).map(move |n| format!("{}{n:03}", 1_000 + dir)));
    assert!(ids.iter().cloned().eq(wanted), "{} segments are listed", ids.len());

    // The root has subdirectories: its listing shows which of them changed.
    let second = pass(api);
    assert_eq!(counts(&second), (1, DIRS as u64, [0, 0, 0]), "{second}");
    fs::write(root.path().join("1007/new.sqlite"), "tiny").expect("a file");
    fs::remove_file(root.path().join("1100/1100799.sqlite")).expect("it is there");
    let third = pass(api);
    assert_eq!(counts(&third), (3, DIRS as u64 - 2, [1, 0, 1]), "{third}");
}

fn changes_in_hdfs_are_found() {
    let dir = Hdfs::shared().dir("discovery");
    dir.put("100/100001.sqlite", &b"one"[..]);
    dir.put("100/100002.sqlite", &b"two"[..]);
    let gateway = Gateway::of(&dir.url());
    let api = gateway.api();
    let shows = |what: &str, wanted: &[(&str, u64)]| {
        eventually(what, LIMIT, || {
            let segments = listed(api);
            let same = segments.len() == wanted.len()
                && wanted.iter().all(|(id, size)| segments.get(*id).is_some_and(|s| s["size"] == *size));
            same.then_some(segments)
        })
    };
    let first = shows("both", &[("100001", 3), ("100002", 3)]);
    dir.put("200/200001.sqlite", &b"in a new directory"[..]);
    dir.put("100/100003.sqlite", &b"in an old one"[..]);
    shows("what was added", &[("100001", 3), ("100002", 3), ("100003", 13), ("200001", 18)]);
    // Of the same length: only the generation tells.
    dir.replace("100/100001.sqlite", &b"ONE"[..]);
    dir.delete("100/100002.sqlite");
    let then = shows("what is gone", &[("100001", 3), ("100003", 13), ("200001", 18)]);
    let generation = |segments: &HashMap<String, Value>| segments["100001"]["generation"].clone();
    let now = if generation(&then) == generation(&first) {
        eventually("the new generation", LIMIT, || {
            let segments = listed(api);
            (generation(&segments) != generation(&first)).then_some(segments)
        })
    } else {
        then
    };
    assert_eq!(now.len(), 3);
    dir.delete("200");
    shows("a directory is gone with what was in it", &[("100001", 3), ("100003", 13)]);
}

/// All pages of the catalog, by id.
fn listed(api: &Api) -> HashMap<String, Value> {
    let mut segments = HashMap::new();
    let mut path = "/v1/segments?limit=10000".to_owned();
    loop {
        let page = api.get(&path).json();
        for segment in page["segments"].as_array().expect("a page") {
            segments.insert(segment["id"].as_str().expect("an id").to_owned(), segment.clone());
        }
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/segments?limit=10000&after={next}"),
            None => return segments,
        }
    }
}

/// The report of a discovery pass run now.
fn pass(api: &Api) -> Value {
    let report = api.send(Method::POST, "/v1/discovery", &[], None).expect("an answer").json();
    assert_eq!(report["complete"], true, "{report}");
    report
}

/// Directories listed and skipped; segments added, changed and removed.
fn counts(report: &Value) -> (u64, u64, [u64; 3]) {
    let count = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name} in {report}"));
    (
        count("dirs_listed"),
        count("dirs_skipped"),
        ["segments_added", "segments_changed", "segments_removed"].map(count),
    )
}
