//! Killed at every named point of a segment's life, and whatever else can go wrong between worker, gateway
//! and a real HDFS; docs/SEMANTICS.md.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use reqwest::Method;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use springhouse::failpoint::{POINTS, VARIABLE};

use crate::{
    harness::{
        cluster::{Gateway, Worker},
        eventually,
        hdfs::{Hdfs, HdfsDir},
        http::{Api, Reply},
        process::Process,
        scratch, segments,
    },
    life::{good, kept, names, of, post, provision, refused, send},
    registry::tests,
};

tests! {
    [Hdfs] killed_at_every_point, promotions_at_once, foreign_file_in_a_promotion, lost_answer_and_takeover;
}

pub const LIMIT: Duration = Duration::from_secs(120);

/// So long after an operation the process that it kills is dead, or it is tried once more.
const AGAIN: Duration = Duration::from_secs(2);

/// What every segment of these tests has in the store at first.
pub const FIRST: [i64; 3] = [1, 2, 3];

/// One part of a segment's life, and its points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Story {
    Fetch,
    Provision,
    Write,
    Promote,
    Delete,
    Release,
    Supersede,
}

/// A point that is not told of here fails the test. `None`: another file kills there.
fn story(point: &str) -> Option<Story> {
    let part = point.strip_prefix("gateway.").unwrap_or(point);
    let story = match part.split_once('.').map(|(part, _)| part) {
        Some("copy") => Story::Fetch,
        Some("provision") => Story::Provision,
        Some("write") => Story::Write,
        Some("promote" | "commit") => Story::Promote,
        Some("drop" | "delete") => Story::Delete,
        Some("release") => Story::Release,
        Some("keep" | "supersede") => Story::Supersede,
        Some("import" | "rebuild" | "ship" | "optimize" | "recover" | "verify") => {
            let others = [
                include_str!("disaster.rs"),
                include_str!("layout_faults.rs"),
                include_str!("ship.rs"),
                include_str!("verify.rs"),
            ];
            assert!(others.iter().any(|text| text.contains(point)), "no test kills at {point}");
            return None;
        }
        _ => panic!("no test kills at {point}"),
    };
    Some(story)
}

/// Gateway and hot worker over a directory of HDFS, with points that can be set while they run.
pub struct Stage {
    pub dir: HdfsDir,
    gateway: Gateway,
    pub worker: Worker,
    points: PathBuf,
    _files: tempfile::TempDir,
}

impl Stage {
    /// `ids` are in the store.
    pub fn new(name: &str, ids: &[String]) -> Self {
        Self::with(name, ids, &[])
    }

    /// With further arguments of the gateway.
    fn with(name: &str, ids: &[String], args: &[&str]) -> Self {
        let dir = Hdfs::shared().dir(name);
        ids.iter().for_each(|id| put(&dir, id, &FIRST));
        let files = scratch();
        let points = files.path().join("points");
        let setting = format!("@{}", points.display());
        let environment = [(VARIABLE, setting.as_str())];
        let gateway = Gateway::with_environment(&dir.url(), args, &environment);
        let worker = Worker::hot_with(&dir.url(), &gateway, &format!("{name}-1"), &[], &environment);
        gateway.wait_workers(&[&format!("{name}-1")]);
        Self { dir, gateway, worker, points, _files: files }
    }

    pub fn api(&self) -> &Api {
        self.gateway.api()
    }

    pub fn set(&self, points: &str) {
        // At once: a reader must not find half of it.
        let new = self.points.with_extension("new");
        fs::write(&new, points).and_then(|()| fs::rename(&new, &self.points)).expect("points are set");
    }

    pub fn victim(&mut self, point: &str) -> &mut Process {
        if point.starts_with("gateway.") { self.gateway.process() } else { self.worker.process() }
    }

    pub fn restart(&mut self, point: &str) {
        self.set("");
        if point.starts_with("gateway.") {
            self.gateway.start_again();
        } else {
            self.worker.start_again();
        }
    }

    /// A request whose answer may not come.
    pub fn try_post(&self, path: &str, body: &Value) -> Option<Reply> {
        let headers = [("content-type", "application/json")];
        self.api().send(Method::POST, path, &headers, Some(body.to_string())).ok()
    }

    /// The same until it is answered by something that no repetition changes.
    pub fn insist(&self, method: &Method, path: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
        let headers = [headers, &[("content-type", "application/json")]].concat();
        eventually(&format!("{method} {path} is answered"), LIMIT, || {
            let reply = self.api().send(method.clone(), path, &headers, Some(body.to_string())).ok()?;
            (reply.status < 500).then_some(reply)
        })
    }

    /// Once, however often it has to be asked.
    pub fn insert(&self, id: &str, row: i64) {
        let (key, body) = (row.to_string(), json!({ "sql": format!("insert into t values ({row})") }));
        good(&self.insist(&Method::POST, &of(id, "execute"), &[("idempotency-key", &key)], &body));
    }

    /// What a client sees.
    pub fn rows(&self, id: &str) -> Vec<i64> {
        let answer = eventually(&format!("{id} answers"), LIMIT, || {
            self.api().ask(id, json!({ "sql": "select id from t order by id" })).ok()
        });
        answer.rows.iter().map(|row| row[0].as_i64().expect("a number")).collect()
    }

    fn state(&self, id: &str) -> Value {
        self.api().get(&format!("/v1/segments/{id}")).json()["copies"][0]["state"].clone()
    }

    fn kept(&self) -> PathBuf {
        self.worker.copies().join("kept")
    }

    /// What is needed before the point can be reached.
    fn prepare(&self, story: Story, id: &str) {
        let api = self.api();
        match story {
            Story::Fetch | Story::Provision => {}
            Story::Write | Story::Release => {
                provision(api, id, &json!({}));
                self.insert(id, 10);
            }
            Story::Promote | Story::Supersede => {
                provision(api, id, &json!({}));
                self.insert(id, 10);
                good(&self.insist(&Method::POST, &of(id, "promote"), &[], &json!({})));
                self.insert(id, 11);
            }
            Story::Delete => {
                good(&self.insist(&Method::POST, &of(id, "raise"), &[], &json!({ "copies": 1 })));
                eventually("a copy to be dropped", LIMIT, || (self.state(id) == "available").then_some(()));
            }
        }
    }

    /// What passes the point. Whether it succeeds does not matter: the process dies.
    fn operate(&self, story: Story, id: &str) {
        match story {
            Story::Fetch => drop(self.try_post(&of(id, "raise"), &json!({ "copies": 1 }))),
            Story::Provision => drop(self.try_post(&of(id, "provision"), &json!({}))),
            Story::Write => drop(self.api().send(
                Method::POST,
                &of(id, "execute"),
                &[("content-type", "application/json"), ("idempotency-key", "once")],
                Some(json!({ "sql": "insert into t values (11)" }).to_string()),
            )),
            Story::Promote => drop(self.try_post(&of(id, "promote"), &json!({}))),
            Story::Delete => drop(self.api().send(Method::DELETE, &format!("/v1/segments/{id}"), &[], None)),
            Story::Release => drop(self.try_post(&of(id, "release"), &json!({ "force": true }))),
            Story::Supersede => drop(self.try_post("/v1/discovery", &json!({}))),
        }
    }

    /// After the restart: nothing acknowledged is lost, and the same request succeeds.
    fn recover(&self, story: Story, id: &str) {
        match story {
            Story::Fetch => {
                eventually("it is copied", LIMIT, || (self.state(id) == "available").then_some(()));
                assert_eq!(self.rows(id), FIRST);
            }
            Story::Provision => {
                good(&self.insist(&Method::POST, &of(id, "provision"), &[], &json!({})));
                self.insert(id, 10);
                assert_eq!(self.rows(id), [1, 2, 3, 10]);
            }
            Story::Write => {
                let body = json!({ "sql": "insert into t values (11)" });
                good(&self.insist(&Method::POST, &of(id, "execute"), &[("idempotency-key", "once")], &body));
                assert_eq!(self.rows(id), [1, 2, 3, 10, 11], "acknowledged, and applied once");
            }
            Story::Promote => {
                good(&self.insist(&Method::POST, &of(id, "promote"), &[], &json!({})));
                assert_eq!(stored(&self.dir, id), [1, 2, 3, 10, 11]);
                assert_eq!(self.rows(id), [1, 2, 3, 10, 11]);
            }
            Story::Delete => {
                let path = format!("/v1/segments/{id}");
                let gone = self.insist(&Method::DELETE, &path, &[], &Value::Null);
                assert_eq!(gone.status, 204, "{}", gone.body);
                assert_eq!(refused(&self.api().get(&path)), (404, "segment_not_found".into()));
                assert!(!self.dir.list("seg").iter().any(|file| file.name.starts_with(id)));
                eventually("its copy is gone", LIMIT, || {
                    let copies = segments::segments_below(&self.worker.copies().join("segments"));
                    copies.iter().all(|path| !path.ends_with(format!("{id}.sqlite"))).then_some(())
                });
            }
            Story::Release => {
                let reply = self.insist(&Method::POST, &of(id, "release"), &[], &json!({ "force": true }));
                assert!(reply.status == 204 || refused(&reply).1 == "not_provisioned", "{}", reply.body);
                let aside =
                    eventually("what was written is kept aside", LIMIT, || kept(&self.worker.copies(), id));
                assert_eq!(rows_of(&self.kept().join(aside)), [1, 2, 3, 10]);
                good(&self.insist(&Method::POST, &of(id, "provision"), &[], &json!({})));
                assert_eq!(self.rows(id), FIRST);
            }
            Story::Supersede => {
                let over = eventually("the lock is over, and the file named", LIMIT, || {
                    let shown = self.api().get(&format!("/v1/segments/{id}")).json();
                    shown["superseded"]["kept"].as_str().map(str::to_owned)
                });
                assert_eq!(rows_of(&self.kept().join(&over)), [1, 2, 3, 10, 11]);
                let refusal = self.insist(
                    &Method::POST,
                    &of(id, "execute"),
                    &[],
                    &json!({ "sql": "insert into t values (12)" }),
                );
                assert!(
                    refused(&refusal).1 == "superseded" && refusal.body.contains(&over),
                    "{}",
                    refusal.body
                );
                good(&self.insist(&Method::POST, &of(id, "provision"), &[], &json!({})));
                self.insert(id, 101);
                assert_eq!((self.rows(id), stored(&self.dir, id)), (vec![100, 101], vec![100]));
            }
        }
    }
}

/// A database of these rows.
pub fn database(rows: &[i64]) -> Vec<u8> {
    let dir = scratch();
    let values: Vec<String> = rows.iter().map(|row| format!("({row})")).collect();
    let sql = format!("create table t (id integer primary key); insert into t values {}", values.join(", "));
    let made = segments::from_sql(dir.path(), "made", &sql);
    fs::read(made).expect("a database")
}

pub fn put(dir: &HdfsDir, id: &str, rows: &[i64]) {
    dir.put(&segments::relative_path(id), database(rows));
}

/// As another client of HDFS would.
pub fn replace(dir: &HdfsDir, id: &str, rows: &[i64]) {
    dir.replace(&segments::relative_path(id), database(rows));
}

/// Rows of a whole database.
pub fn rows_of(file: &Path) -> Vec<i64> {
    let database = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE).expect("a database");
    let check: String = database.query_row("pragma integrity_check", [], |row| row.get(0)).expect("a check");
    assert_eq!(check, "ok", "{}", file.display());
    let mut select = database.prepare("select id from t order by id").expect("SQL");
    let rows = select.query_map([], |row| row.get(0)).expect("rows");
    rows.map(|row| row.expect("a row")).collect()
}

/// Rows of what the store has, whole.
pub fn stored(dir: &HdfsDir, id: &str) -> Vec<i64> {
    let files = scratch();
    let file = files.path().join("stored.sqlite");
    fs::write(&file, dir.read(&segments::relative_path(id))).expect("a file");
    rows_of(&file)
}

/// Temporary files in the store's directory of these segments.
pub fn temporaries(dir: &HdfsDir) -> Vec<String> {
    let names = dir.list("seg").into_iter().map(|file| file.name);
    names.filter(|name| name.contains("_COPYING_")).collect()
}

/// One process after the other dies at each point: what was acknowledged is there, the store's file is the old
/// or the new one, whole; the same request then succeeds, and nothing is left over.
fn killed_at_every_point() {
    let id = |n: usize| format!("seg{n:03}");
    let points: Vec<(&str, Story)> =
        POINTS.into_iter().filter_map(|point| Some((point, story(point)?))).collect();
    let ids: Vec<String> = (0..points.len()).map(id).collect();
    // Each of many deaths is waited for, and what is refused meanwhile is asked again.
    let mut stage = Stage::with("killed", &ids, &["--lease-ttl", "3s"]);
    let mut kept = BTreeSet::new();
    for (id, (point, story)) in ids.iter().zip(points) {
        stage.prepare(story, id);
        stage.set(&format!("{point}=abort"));
        if story == Story::Supersede {
            replace(&stage.dir, id, &[100]);
        }
        // The other process may still be waiting for the one that was started again.
        let died = eventually(&format!("somebody passes {point}"), LIMIT, || {
            stage.operate(story, id);
            stage.victim(point).wait(AGAIN)
        });
        assert!(!died.success(), "{point}: {died}");
        let path = segments::relative_path(id);
        if story == Story::Promote {
            let there = stored(&stage.dir, id);
            assert!(there == [1, 2, 3, 10] || there == [1, 2, 3, 10, 11], "{point}: {there:?}");
        } else if story != Story::Delete {
            let expected: &[i64] = if story == Story::Supersede { &[100] } else { &FIRST };
            assert_eq!(stored(&stage.dir, id), expected, "{point}: {path}");
        }
        stage.restart(point);
        stage.recover(story, id);
        if matches!(story, Story::Release | Story::Supersede) {
            kept.insert(id.clone());
        }
    }
    eventually("no temporary is left in the store", LIMIT, || {
        temporaries(&stage.dir).is_empty().then_some(())
    });
    eventually("nor on the worker", LIMIT, || {
        names(&stage.worker.copies().join("parts")).is_empty().then_some(())
    });
    let mut aside = names(&stage.kept());
    aside.retain(|name| name.ends_with(".sqlite"));
    let of: BTreeSet<String> = aside.iter().filter_map(|name| Some(name.split_once('.')?.0.into())).collect();
    assert_eq!((aside.len(), of), (kept.len(), kept), "kept aside once, and nothing but what has to be");
}

/// One segment twice at once, and many at once.
fn promotions_at_once() {
    let ids: Vec<String> = (0..8).map(|n| format!("seg{n:03}")).collect();
    let stage = Stage::new("at-once", &ids);
    let api = stage.api();
    ids.iter().for_each(|id| {
        provision(api, id, &json!({}));
        stage.insert(id, 10);
    });
    let promote = |id: &str| post(api, &of(id, "promote"), &json!({}));
    let replies: Vec<(String, Reply)> = thread::scope(|scope| {
        let twice = ids.iter().chain(&ids).map(|id| scope.spawn(move || (id.clone(), promote(id))));
        let running: Vec<_> = twice.collect();
        running.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    for id in &ids {
        let of_it: Vec<&Reply> = replies.iter().filter(|(of, _)| of == id).map(|(_, reply)| reply).collect();
        assert!(of_it.iter().any(|reply| reply.status == 200), "{of_it:?}");
        for reply in of_it.iter().filter(|reply| reply.status != 200) {
            assert_eq!(refused(reply), (409, "conflict".into()));
        }
        assert_eq!(stored(&stage.dir, id), [1, 2, 3, 10]);
    }
    assert_eq!(temporaries(&stage.dir), [""; 0]);
}

/// Another client of HDFS replaces the file while it is uploaded, and right before it is committed.
fn foreign_file_in_a_promotion() {
    let ids = ["seg000".to_owned(), "seg001".to_owned()];
    let stage = Stage::new("foreign", &ids);
    for (id, point) in ids.iter().zip(["promote.after_upload", "gateway.commit.uploaded"]) {
        let lock = provision(stage.api(), id, &json!({}));
        stage.insert(id, 10);
        let here = stage.points.with_file_name(point);
        stage.set(&format!("{point}=pause({})", here.display()));
        let reply = thread::scope(|scope| {
            let promotion = scope.spawn(|| post(stage.api(), &of(id, "promote"), &json!({})));
            eventually("it is uploaded", LIMIT, || here.exists().then_some(()));
            replace(&stage.dir, id, &[100]);
            fs::remove_file(&here).expect("it goes on");
            promotion.join().expect("no panic")
        });
        assert_eq!(refused(&reply), (409, "superseded".into()), "{}", reply.body);
        assert_eq!(stored(&stage.dir, id), [100], "theirs stays");
        let over = eventually("the file is named", LIMIT, || {
            let over = stage.api().get(&format!("/v1/segments/{id}")).json()["superseded"].clone();
            over["kept"].as_str().map(|kept| (kept.to_owned(), over["token"].clone()))
        });
        assert_eq!((rows_of(&stage.kept().join(over.0)), &over.1), (vec![1, 2, 3, 10], &lock["token"]));
        eventually("no temporary is left", LIMIT, || temporaries(&stage.dir).is_empty().then_some(()));
    }
}

/// The worker dies when it is told that its promotion is in the store; then somebody takes over. What it wrote
/// after the promotion is kept aside, and nothing is in neither place.
fn lost_answer_and_takeover() {
    let id = "seg000";
    let mut stage = Stage::new("lost", &[id.to_owned()]);
    let lock = provision(stage.api(), id, &json!({}));
    stage.insert(id, 10);
    stage.set("promote.before_record=abort");
    // The store has it: that its holder does not know is no failure.
    good(&post(stage.api(), &of(id, "promote"), &json!({})));
    assert!(stage.worker.process().wait(LIMIT).is_some(), "it was to be killed");
    stage.restart("promote.before_record");
    let body = json!({ "sql": "insert into t values (11)" });
    good(&stage.insist(&Method::POST, &of(id, "execute"), &[("idempotency-key", "11")], &body));
    let other = Worker::hot(&stage.dir.url(), &stage.gateway, "lost-2");
    stage.gateway.wait_workers(&["lost-1", "lost-2"]);
    let taken = provision(stage.api(), id, &json!({ "takeover": true }));
    assert_eq!((&taken["worker"], &lock["worker"]), (&json!("lost-2"), &json!("lost-1")));
    assert_eq!(stage.rows(id), [1, 2, 3, 10], "what was promoted");
    stage.insert(id, 12);
    let aside = eventually("the later write is kept aside", LIMIT, || kept(&stage.worker.copies(), id));
    assert_eq!(rows_of(&stage.kept().join(aside)), [1, 2, 3, 10, 11]);
    good(&stage.insist(&Method::POST, &of(id, "promote"), &[], &json!({})));
    assert_eq!(stored(&stage.dir, id), [1, 2, 3, 10, 12]);
    let old = lock["token"].to_string();
    let late =
        send(stage.api(), Method::POST, &of(id, "promote"), &[("springhouse-token", &old)], Some(&json!({})));
    assert_eq!(refused(&late), (409, "fenced".into()));
    drop(other);
}
