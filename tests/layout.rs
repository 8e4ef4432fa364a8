//! Segments in the store laid out anew, and long work that is cancelled; docs/SEMANTICS.md.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, types::Value as Cell};
use serde_json::{Value, json};
use springhouse::failpoint::VARIABLE;

use crate::{
    harness::{
        cluster::{Gateway, Worker},
        eventually, file_url as url,
        http::{Api, Reply},
        process::{self, Output},
        scratch, segments, springhouse,
    },
    life::{execute, good, names, of, post, provision, refused},
    registry::tests,
};

tests! {
    [] laid_out_anew, promotion_cancelled, layout_cancelled, copy_cancelled;
}

const LIMIT: Duration = Duration::from_secs(120);
const PAGE: usize = 4096;
/// Of random bytes, so that it goes in so many pieces.
const MIB: i64 = 20;
/// So slow that it is surely under way when it is cancelled: twenty pieces of it take a minute.
const SLOW: &str = "sleep(3000)";

fn command(api: &Api, args: &[&str]) -> Output {
    let mut command = springhouse();
    command.args(["segment", "--gateway", api.base()]).args(args);
    process::run(command, LIMIT)
}

fn open(file: &Path) -> Connection {
    Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("a database")
}

/// Every row of every table, and the schema.
fn contents(file: &Path) -> Vec<Vec<Cell>> {
    let database = open(file);
    let check: String = database.query_row("pragma integrity_check", [], |row| row.get(0)).expect("a check");
    assert_eq!(check, "ok", "{}", file.display());
    let rows = |sql: &str| -> Vec<Vec<Cell>> {
        let mut select = database.prepare(sql).expect("SQL");
        let columns = select.column_count();
        let rows = select.query_map([], |row| (0..columns).map(|n| row.get(n)).collect()).expect("rows");
        rows.map(|row| row.expect("a row")).collect()
    };
    let mut all = rows("select type, name, sql from sqlite_schema order by rowid");
    for table in rows("select name from sqlite_schema where type = 'table' order by name") {
        let [Cell::Text(name)] = table.as_slice() else { panic!("{table:?}") };
        all.append(&mut rows(&format!("select rowid, * from \"{name}\" order by rowid")));
    }
    all
}

/// Numbers of the pages that are interior ones.
fn interior(file: &Path) -> Vec<usize> {
    let bytes = fs::read(file).expect("a file");
    let pages = bytes.chunks(PAGE).enumerate().skip(1);
    pages.filter(|(_, page)| matches!(page[0], 2 | 5)).map(|(n, _)| n + 1).collect()
}

/// A segment that was only vacuumed gets its interior pages first, with the same contents, once.
fn laid_out_anew() {
    let root = scratch();
    let file = segments::crawl_statistics(root.path(), "seg001", 7, 20_000);
    let store = url(root.path());
    let gateway = Gateway::of(&store);
    let api = gateway.api();
    let _worker = Worker::hot(&store, &gateway, "lays-out");
    gateway.wait_workers(&["lays-out"]);
    let (before, scattered) = (contents(&file), interior(&file));
    assert!(scattered.len() > 3 && scattered.last() > Some(&(scattered.len() + 1)), "{scattered:?}");

    let output = command(api, &["optimize", "--json", "seg001"]);
    let answer: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let number = |name: &str| answer["layout"][name].as_u64().unwrap_or_else(|| panic!("{name}: {answer}"));
    assert_eq!((output.code, &answer["changed"]), (Some(0), &json!(true)), "{answer}");
    assert!(number("cold_reads_after") < number("cold_reads_before"), "{answer}");
    assert_eq!(number("interior_pages"), scattered.len() as u64);
    assert_eq!(number("pages_before"), number("pages_after"), "it was vacuumed: {answer}");
    let first: Vec<usize> = (2..2 + scattered.len()).collect();
    assert_eq!(interior(&file), first, "right after the first page");
    assert_eq!(contents(&file), before);
    let shown = api.get("/v1/segments/seg001").json();
    assert_eq!((&shown["generation"], &shown["lock"]), (&answer["generation"], &Value::Null));
    assert!(shown["checksum"].is_string(), "{shown}");
    assert_eq!(command(api, &["verify", "seg001"]).code, Some(0));

    let bytes = fs::read(&file).expect("a file");
    let again = command(api, &["optimize", "seg001"]);
    assert!(again.code == Some(0) && again.stdout.contains("laid out well already"), "{again:?}");
    assert_eq!(fs::read(&file).expect("a file"), bytes, "nothing was changed");
    assert_eq!(names(file.parent().expect("a directory")), ["seg001.sqlite"]);

    provision(api, "seg001", &json!({}));
    let locked = post(api, &of("seg001", "optimize"), &json!({}));
    assert_eq!(refused(&locked), (409, "locked".into()));
    let none = command(api, &["optimize", "none001"]);
    assert!(none.code == Some(1) && none.stderr.contains("no segment none001"), "{none:?}");
}

/// A gateway and a hot worker that is slow at the points that are set.
struct Stage {
    root: tempfile::TempDir,
    gateway: Gateway,
    worker: Worker,
    points: PathBuf,
    _files: tempfile::TempDir,
}

impl Stage {
    fn new(name: &str) -> Self {
        let (root, files) = (scratch(), scratch());
        let points = files.path().join("points");
        fs::write(&points, "").expect("points");
        let store = url(root.path());
        let gateway = Gateway::of(&store);
        let environment = format!("@{}", points.display());
        let worker = Worker::hot_with(&store, &gateway, name, &[], &[(VARIABLE, &environment)]);
        gateway.wait_workers(&[name]);
        Self { root, gateway, worker, points, _files: files }
    }

    fn api(&self) -> &Api {
        self.gateway.api()
    }

    fn set(&self, points: &str) {
        let new = self.points.with_extension("new");
        fs::write(&new, points).and_then(|()| fs::rename(&new, &self.points)).expect("points are set");
    }

    fn file(&self, id: &str) -> PathBuf {
        self.root.path().join(segments::relative_path(id))
    }

    /// Cancels as soon as `what` is seen; the answers to `work` and to the cancellation.
    fn cancelled(&self, id: &str, what: &str, work: impl FnOnce() -> Reply + Send) -> (Reply, Value) {
        thread::scope(|scope| {
            let working = scope.spawn(work);
            eventually(&format!("it is {what}"), LIMIT, || {
                let shown = self.api().get(&format!("/v1/segments/{id}")).json();
                let now = shown["work"].as_array()?;
                now.iter().any(|work| work["what"] == what).then_some(())
            });
            let answer = good(&post(self.api(), &of(id, "cancel"), &json!({})));
            (working.join().expect("no panic"), answer)
        })
    }

    /// Neither in the store nor on the worker.
    fn nothing_is_left(&self, id: &str) {
        let directory = self.file(id).parent().expect("a directory").to_owned();
        eventually("nothing is left", LIMIT, || {
            let stored = names(&directory) == [format!("{id}.sqlite")];
            (stored && names(&self.worker.copies().join("parts")).is_empty()).then_some(())
        });
    }
}

/// Some MiB that no page of is like another; `id` from 1.
fn large() -> String {
    format!(
        "create table t (id integer primary key, bytes blob);
         with recursive c(n) as (select 1 union all select n + 1 from c limit {MIB})
             insert into t select n, randomblob(1 << 20) from c"
    )
}

/// The old generation stays, whole; so do the lock and what was written, and the next promotion has it.
fn promotion_cancelled() {
    let stage = Stage::new("cancels-1");
    let api = stage.api();
    let lock = provision(api, "seg001", &json!({}));
    good(&execute(api, "seg001", &large().replace("randomblob(1 << 20)", "zeroblob(1 << 20)")));
    good(&post(api, &of("seg001", "promote"), &json!({})));
    let old = fs::read(stage.file("seg001")).expect("it is in the store");
    good(&execute(api, "seg001", "insert into t values (-1, x'00')"));
    stage.set(&format!("promote.chunk={SLOW}"));
    let (promoted, answer) =
        stage.cancelled("seg001", "uploading", || post(api, &of("seg001", "promote"), &json!({})));
    assert_eq!((&answer["promotion"], &answer["workers"]), (&json!(true), &json!(["cancels-1"])), "{answer}");
    assert_eq!(refused(&promoted), (409, "conflict".into()));
    assert_eq!(fs::read(stage.file("seg001")).expect("a file"), old, "the old generation, whole");
    stage.nothing_is_left("seg001");
    stage.set("");
    assert_eq!(provision(api, "seg001", &json!({}))["token"], lock["token"], "the lock stays");
    good(&execute(api, "seg001", "insert into t values (-2, x'00')"));
    good(&post(api, &of("seg001", "promote"), &json!({})));
    let there = open(&stage.file("seg001"));
    let count: i64 = there.query_row("select count(*) from t", [], |row| row.get(0)).expect("a count");
    assert_eq!(count, MIB + 2, "with what was written before");
    stage.nothing_is_left("seg001");
    assert_eq!(refused(&post(api, &of("seg001", "cancel"), &json!({}))), (409, "conflict".into()));
}

/// The same of a new layout, which leaves no lock either.
fn layout_cancelled() {
    let stage = Stage::new("cancels-2");
    let api = stage.api();
    // A page in the middle of it is interior, so there is something to gain.
    let sql = format!(
        "{}; create table u (id integer primary key, name text);
         with recursive c(n) as (select 1 union all select n + 1 from c limit 60000)
             insert into u select n, 'a name that takes its time ' || n from c;
         create index i on u (name)",
        large()
    );
    let file = segments::from_sql(stage.root.path(), "seg001", &sql);
    let old = fs::read(&file).expect("a file");
    stage.set(&format!("promote.chunk={SLOW}"));
    let (laid, answer) =
        stage.cancelled("seg001", "uploading", || post(api, &of("seg001", "optimize"), &json!({})));
    assert_eq!((&answer["promotion"], &answer["workers"]), (&json!(true), &json!(["cancels-2"])), "{answer}");
    assert_eq!(refused(&laid), (409, "conflict".into()));
    assert_eq!(fs::read(&file).expect("a file"), old, "the old generation, whole");
    stage.nothing_is_left("seg001");
    assert_eq!(api.get("/v1/locks").json()["locks"], json!([]));
    stage.set(&format!("copy.write={SLOW}"));
    let (laid, _) =
        stage.cancelled("seg001", "fetching", || post(api, &of("seg001", "optimize"), &json!({})));
    assert_eq!(refused(&laid), (409, "conflict".into()));
    stage.nothing_is_left("seg001");
    stage.set("");
    let laid = good(&post(api, &of("seg001", "optimize"), &json!({})));
    assert_eq!(laid["changed"], true, "{laid}");
    provision(api, "seg001", &json!({}));
    good(&execute(api, "seg001", "insert into t values (-1, x'00')"));
}

/// A copy that is cancelled is not begun again by itself, and says why; what was copied of it goes.
fn copy_cancelled() {
    let stage = Stage::new("cancels-3");
    let api = stage.api();
    segments::from_sql(stage.root.path(), "seg001", &large());
    stage.set(&format!("copy.write={SLOW}"));
    let raise = || post(api, &of("seg001", "raise"), &json!({ "copies": 1 }));
    let (_, answer) = stage.cancelled("seg001", "fetching", raise);
    assert_eq!(
        (&answer["promotion"], &answer["workers"]),
        (&json!(false), &json!(["cancels-3"])),
        "{answer}"
    );
    let copy = || api.get("/v1/segments/seg001").json()["copies"][0].clone();
    eventually("it says so", LIMIT, || {
        let copy = copy();
        let says = copy["reason"].as_str().is_some_and(|why| why.contains("was cancelled"));
        (copy["state"] == "refused" && says).then_some(())
    });
    stage.nothing_is_left("seg001");
    stage.set("");
    good(&post(api, &of("seg001", "lower"), &json!({})));
    eventually("it is not wanted any more", LIMIT, || copy().is_null().then_some(()));
    good(&raise());
    eventually("it is copied", LIMIT, || (copy()["state"] == "available").then_some(()));
    let count = api.query("seg001", "select count(*) from t").rows;
    assert_eq!(count, [[json!(MIB)]]);
}
