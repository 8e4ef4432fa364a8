//! A hot worker's disk is full, the store is away, a replica rots; docs/SEMANTICS.md.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use serde_json::{Value, json};

use crate::{
    harness::{
        cluster::{Gateway, Worker},
        eventually,
        hdfs::{Hdfs, HdfsDir},
        http::Api,
        mount, process, scratch, segments,
    },
    life::{execute, good, of, post, provision, refused},
    life_faults::{FIRST, LIMIT, put},
    registry::tests,
};

tests! {
    [Tmpfs, Hdfs] disk_full;
    [Hdfs] store_away, corrupt_replicas;
}

/// A file system of its own in memory, small; gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(mib: u64) -> Self {
        let dir = scratch();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "springhouse-test"]).arg(dir.path());
        let done = process::run(command, LIMIT);
        assert!(done.success(), "mount: {}", done.stderr);
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// A file that takes so much of it.
    fn ballast(&self, mib: usize) -> PathBuf {
        let path = self.path().join("ballast");
        fs::write(&path, vec![1; mib << 20]).expect("there is room");
        path
    }

    /// A file that takes all that is left of it.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("fill");
        let mut file = fs::File::create(&path).expect("a name takes no room");
        let full = std::io::copy(&mut std::io::repeat(1), &mut file).expect_err("it is small");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        mount::unmount_lazily(self.path());
    }
}

fn rows(api: &Api, id: &str) -> Vec<i64> {
    let answer = api.query(id, "select id from t order by id");
    answer.rows.iter().map(|row| row[0].as_i64().expect("a number")).collect()
}

fn copy(api: &Api, id: &str) -> Value {
    api.get(&format!("/v1/segments/{id}")).json()["copies"][0].clone()
}

fn raise(api: &Api, id: &str) {
    good(&post(api, &of(id, "raise"), &json!({ "copies": 1 })));
}

fn available(api: &Api, id: &str) {
    eventually(&format!("a copy of {id}"), LIMIT, || (copy(api, id)["state"] == "available").then_some(()));
}

/// Writes are refused with a reason and lose nothing; a copy that does not fit is refused with a reason; both
/// go on when there is room again.
fn disk_full() {
    let dir = Hdfs::shared().dir("full");
    put(&dir, "seg000", &FIRST);
    let large = scratch();
    let sql = "create table t (id integer primary key, filling); insert into t values (1, zeroblob(6291456))";
    let file = segments::from_sql(large.path(), "seg001", sql);
    dir.put_file(&segments::relative_path("seg001"), &file, None);
    let disk = SmallDisk::new(32);
    let ballast = disk.ballast(26);
    let gateway = Gateway::of(&dir.url());
    let data = disk.path().join("data").display().to_string();
    let start = || Worker::with_tier("hot", &dir.url(), &gateway, "small", &["--data", &data]);
    let mut worker = start();
    gateway.wait_workers(&["small"]);
    let api = gateway.api();
    raise(api, "seg001");
    let refused_copy = eventually("its copy is refused", LIMIT, || {
        let copy = copy(api, "seg001");
        (copy["state"] == "refused").then_some(copy)
    });
    assert!(refused_copy["reason"].as_str().is_some_and(|why| why.contains("no room")), "{refused_copy}");

    provision(api, "seg000", &json!({}));
    good(&execute(api, "seg000", "create table filling (bytes)"));
    let mut acknowledged = 0;
    let refusal = loop {
        let reply = execute(api, "seg000", "insert into filling values (randomblob(1000000))");
        if reply.status != 200 {
            break reply;
        }
        acknowledged += 1;
        assert!(acknowledged < 40, "32 MiB hold no {acknowledged} MB");
    };
    assert_eq!(refused(&refusal), (503, "no_room".into()), "{}", refusal.body);
    let error = refusal.json()["error"].clone();
    assert!(
        error["retry"] == true && error["message"].as_str().is_some_and(|m| m.contains("full")),
        "{error}"
    );
    let count = || api.query("seg000", "select count(*) from filling").rows[0][0].clone();
    assert_eq!((count(), rows(api, "seg000")), (json!(acknowledged), FIRST.to_vec()), "nothing is lost");

    // Back on a disk without a byte of room: what is there may be all that there is of it.
    worker.kill();
    let fill = disk.fill();
    let _worker = start();
    eventually("it is read again", LIMIT, || {
        let reply = api.post_query("seg000", &json!({"sql": "select 1"}), "application/json");
        reply.is_ok_and(|reply| reply.status == 200).then_some(())
    });
    assert_eq!((count(), rows(api, "seg000")), (json!(acknowledged), FIRST.to_vec()), "nothing is lost");

    fs::remove_file(fill).expect("room again");
    fs::remove_file(ballast).expect("room again");
    eventually("writes go on", LIMIT, || {
        (execute(api, "seg000", "insert into filling values (1)").status == 200).then_some(())
    });
    assert_eq!(count(), json!(acknowledged + 1));
    available(api, "seg001");
    assert_eq!(rows(api, "seg001"), [1]);
}

/// HDFS of the test's own.
fn own(name: &str) -> (Arc<Hdfs>, HdfsDir) {
    let hdfs = Arc::new(Hdfs::own());
    let dir = hdfs.dir(name);
    (hdfs, dir)
}

/// Copies answer, and say that nobody knows the store; writes go on, promotions wait; all of it ends by itself
/// when the NameNode is back.
fn store_away() {
    let (hdfs, dir) = own("away");
    put(&dir, "seg000", &FIRST);
    put(&dir, "seg001", &FIRST);
    let slow = ["--store-deadline", "8s"];
    let gateway = Gateway::with(&dir.url(), &slow);
    let _worker = Worker::hot_with(&dir.url(), &gateway, "away-1", &slow, &[]);
    gateway.wait_workers(&["away-1"]);
    let api = gateway.api();
    raise(api, "seg000");
    available(api, "seg000");
    provision(api, "seg001", &json!({}));
    good(&execute(api, "seg001", "insert into t values (10)"));
    let told = |id: &str| {
        let reply = api.post_query(id, &json!({ "sql": "select id from t order by id" }), "application/json");
        let reply = reply.expect("an answer");
        assert_eq!(reply.status, 200, "{}", reply.body);
        (reply.json()["rows"].clone(), reply.header("springhouse-store").map(str::to_owned))
    };
    assert_eq!(told("seg000"), (json!([[1], [2], [3]]), None));
    hdfs.namenode().kill();
    eventually("it is said that the store is away", LIMIT, || {
        told("seg000").1.filter(|how| how == "unreachable")
    });
    assert_eq!(told("seg000").0, json!([[1], [2], [3]]));
    good(&execute(api, "seg001", "insert into t values (11)"));
    assert_eq!(told("seg001").0, json!([[1], [2], [3], [10], [11]]));
    let failed = post(api, &of("seg001", "promote"), &json!({}));
    assert_eq!(refused(&failed), (503, "store_unavailable".into()));
    assert_eq!(failed.json()["error"]["retry"], true);
    hdfs.restart_namenode();
    eventually("it is promoted", LIMIT, || {
        let reply = post(api, &of("seg001", "promote"), &json!({}));
        (reply.status == 200).then_some(())
    });
    let bytes = dir.read(&segments::relative_path("seg001"));
    let file = scratch();
    fs::write(file.path().join("it"), bytes).expect("a file");
    assert_eq!(crate::life_faults::rows_of(&file.path().join("it")), [1, 2, 3, 10, 11]);
    eventually("and the store is known again", LIMIT, || told("seg000").1.is_none().then_some(()));
}

/// A copy comes from the replica that is good; where none is, it is refused, and never offered.
fn corrupt_replicas() {
    let (hdfs, dir) = own("corrupt");
    let replicas = |id: &str| {
        let before = hdfs.block_files();
        put(&dir, id, &FIRST);
        let mut blocks: Vec<_> = hdfs.block_files().difference(&before).cloned().collect();
        blocks.retain(|path| path.extension().is_none_or(|ending| ending != "meta"));
        assert_eq!(blocks.len(), 2, "one block, two replicas: {blocks:?}");
        blocks
    };
    let (one, both) = (replicas("seg000"), replicas("seg001"));
    flip(&one[0]);
    both.iter().for_each(|block| flip(block));
    let gateway = Gateway::with(&dir.url(), &["--store-deadline", "10s"]);
    let worker = Worker::hot_with(&dir.url(), &gateway, "rot-1", &["--store-deadline", "10s"], &[]);
    gateway.wait_workers(&["rot-1"]);
    let api = gateway.api();
    raise(api, "seg000");
    raise(api, "seg001");
    available(api, "seg000");
    assert_eq!(rows(api, "seg000"), FIRST);
    let copy = eventually("the other is refused", LIMIT, || {
        let copy = copy(api, "seg001");
        (copy["state"] == "refused").then_some(copy)
    });
    assert!(copy["reason"].as_str().is_some_and(|why| !why.is_empty()), "{copy}");
    assert!(api.ask("seg001", json!({ "sql": "select 1" })).is_err(), "nobody answers from it");
    let provisioned = post(api, &of("seg001", "provision"), &json!({}));
    assert!(provisioned.status >= 400, "{}", provisioned.body);
    assert_eq!(api.get("/v1/locks").json()["locks"], json!([]), "nobody writes upon it");
    let copies = segments::segments_below(&worker.copies().join("segments"));
    assert!(copies.iter().all(|path| !path.ends_with("seg001.sqlite")), "{copies:?}");
}

/// Changes bytes in the middle of a file on a DataNode's disk.
fn flip(block: &Path) {
    let mut bytes = fs::read(block).expect("a block file");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 16].iter_mut().for_each(|byte| *byte ^= 0xff);
    fs::write(block, bytes).expect("a block file");
}
