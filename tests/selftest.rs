//! The harness itself: what it gives to the other tests is what it says.

use std::{process::Command, time::Duration};

use rusqlite::Connection;

use crate::{
    harness::{
        eventually,
        hdfs::{BLOCK_SIZE, Hdfs},
        process::{self, Process},
        scratch, segments,
        segments::{CrawledUrl, Dedup},
    },
    registry::tests,
};

tests! {
    [] a_command_that_hangs_is_killed, segments_hold_what_they_say;
    [Hdfs] files_in_blocks_come_back, daemons_count_stop_and_start;
}

const LIMIT: Duration = Duration::from_secs(60);

fn a_command_that_hangs_is_killed() {
    // At first it may not sleep yet.
    eventually("it is killed in its sleep", LIMIT, || {
        let mut sleep = Command::new("sleep");
        sleep.arg("600");
        let state = process::try_run(sleep, Duration::from_millis(50)).expect_err("it does not end");
        (state == 'S').then_some(())
    });
    let mut echo = Command::new("sh");
    echo.args(["-c", "echo one; echo two >&2; exit 3"]);
    let mut process = Process::start("echo", echo);
    process.stderr_line("two", LIMIT, |line| (line == "two").then_some(()));
    let status = process.wait(LIMIT).expect("it ends");
    assert_eq!((status.code(), process.stdout().as_str()), (Some(3), "one\n"));
}

fn segments_hold_what_they_say() {
    let root = scratch();
    let crawl = segments::crawl_statistics(root.path(), "1234567", 7, 500);
    assert_eq!(crawl, root.path().join("1234/1234567.sqlite"));
    let db = Connection::open(&crawl).expect("a database");
    let sum: i64 = db.query_row("select sum(size) from crawled_url", [], |r| r.get(0)).expect("a sum");
    assert_eq!(sum, (0..500).map(|i| CrawledUrl::of(7, i).size).sum::<i64>());
    let hosts: i64 = db.query_row("select sum(urls) from host_statistics", [], |r| r.get(0)).expect("a sum");
    assert_eq!(hosts, 500);

    let dedup = segments::dedup(root.path(), "123", 1, 2_000);
    assert_eq!(dedup, root.path().join("123.sqlite"));
    let db = Connection::open(&dedup).expect("a database");
    let row = Dedup::of(1, 1_234, 2_000);
    let url: String = db
        .query_row("select url from dedup where digest_key = ?", [&row.digest_key], |r| r.get(0))
        .expect("the row is there");
    assert_eq!(url, row.url);
    let ok: String = db.query_row("pragma integrity_check", [], |r| r.get(0)).expect("a check");
    assert_eq!(ok, "ok");
    assert_eq!(segments::files_below(root.path()).len(), 2);
}

fn files_in_blocks_come_back() {
    let dir = Hdfs::shared().dir("blocks");
    let bytes = segments::noise(1, 50_000);
    dir.put_in_blocks("a b ü", bytes.clone(), 4_096);
    assert_eq!(dir.read("a b ü"), bytes);
    assert_eq!(dir.read_at("a b ü", 4_000, 200), bytes[4_000..4_200]);
    dir.put("plain", &b"x"[..]);
    dir.replace("plain", &b"yz"[..]);
    let listed: Vec<_> =
        dir.list("").into_iter().map(|s| (s.name, s.len, s.block_size, s.replication)).collect();
    assert_eq!(listed, [("a b ü".into(), 50_000, 4_096, 2), ("plain".into(), 2, BLOCK_SIZE, 2)]);
}

fn daemons_count_stop_and_start() {
    let hdfs = std::sync::Arc::new(Hdfs::own());
    let dir = hdfs.dir("faults");
    dir.put("large", segments::noise(2, 3 * BLOCK_SIZE as usize));
    let before = hdfs.counters();
    assert_eq!(dir.read("large").len() as u64, 3 * BLOCK_SIZE);
    let cost = hdfs.counters() - before;
    assert_eq!((cost.reads, cost.payload_bytes()), (3, 3 * BLOCK_SIZE));

    dir.put("file", &b"bytes"[..]);
    hdfs.datanode(0).kill();
    assert_eq!(dir.read("file"), b"bytes");
    hdfs.restart_datanode(0);
    hdfs.restart_namenode();
    assert_eq!(dir.read("file"), b"bytes");
    hdfs.datanode(1).stop();
    hdfs.datanode(1).cont();
    hdfs.safemode(true);
    hdfs.safemode(false);
    dir.put("file", &b"more"[..]);
    assert_eq!(dir.read("file"), b"more");
}
