//! What a query through the gateway does when its segment changes, or its store fails, under it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    harness::{
        cluster::Serve,
        eventually,
        hdfs::{Hdfs, HdfsDir},
        http::{End, RawQuery},
        scratch,
        segments::{self, Dedup},
    },
    registry::tests,
};

tests! {
    [Fuse, Hdfs] replaced_in_the_middle_of_an_answer, replaced_before_the_first_row, datanode_stopped,
        both_datanodes_stopped;
}

/// Nothing is read twice from a cache of ours; the kernel's has what SQLite has read.
const UNCACHED: [&str; 4] = ["--memory-blocks", "0", "--readahead-max", "0"];
/// Rows of a segment of which the sockets between SQLite and a client hold a part only.
const MANY: u64 = 250_000;
const FEW: u64 = 20_000;
const ALL_ROWS: &str = "select digest_key, url, date, id from dedup";
const LIMIT: Duration = Duration::from_secs(120);

fn replaced_in_the_middle_of_an_answer() {
    let hdfs = Arc::new(Hdfs::own());
    let dir = hdfs.dir("replaced");
    let old_blocks = put(&dir, "large1", 1, MANY);
    let serve = Serve::with(&dir.url(), &[&UNCACHED[..], &["--discovery-interval", "1h"]].concat());
    let api = serve.api();
    let before = api.query("large1", "select count(*) from dedup where rowid < 3").generation;

    let mut answer = RawQuery::send(api.address(), "large1", &all_rows(), "application/x-ndjson");
    answer.read_to(100_000);
    replace(&dir, "large1", 2, FEW);
    hdfs.wait_blocks_gone(&old_blocks);
    let (text, end) = answer.finish();
    assert_eq!(end, End::Whole, "an answer that ends in an error is whole HTTP");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(['[', '{'])).collect();
    let (last, rows) = lines[1..].split_last().expect("a last line");
    let last: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(last["error"]["code"], "segment_replaced", "{last}");
    assert_eq!(last["error"]["retry"], true, "{last}");
    assert!(!rows.is_empty() && (rows.len() as u64) < MANY, "{} rows came", rows.len());
    for (i, row) in rows.iter().enumerate().step_by(997) {
        let wanted = Dedup::of(1, i as u64, MANY);
        let wanted = json!([wanted.digest_key, wanted.url, wanted.date, wanted.id]).to_string();
        // A chunk of HTTP may end in the middle of a row.
        assert!(*row == wanted || !row.ends_with(']'), "row {i} is not the old one's: {row}");
    }

    let after = api.query("large1", "select count(*) from dedup");
    assert_eq!(after.rows, [[json!(FEW)]], "asked again, it is the new one");
    assert_ne!(after.generation, before);
}

/// The old one is open in a pool, and its bytes are gone: nobody has to know.
fn replaced_before_the_first_row() {
    let hdfs = Arc::new(Hdfs::own());
    let dir = hdfs.dir("replaced");
    let old_blocks = put(&dir, "small1", 1, FEW);
    // The catalog and the mount both go on believing in the old generation.
    let believing = ["--discovery-interval", "1h", "--freshness", "1h"];
    let serve = Serve::with(&dir.url(), &[&UNCACHED[..], &believing].concat());
    let api = serve.api();
    let one_row = |seed: u64| {
        let wanted = Dedup::of(seed, 3, FEW);
        let sql = "select url from dedup where digest_key = ?";
        let answer = api.ask("small1", json!({ "sql": sql, "params": [wanted.digest_key] }));
        let answer = answer.expect("an answer");
        (answer.rows == [[json!(wanted.url)]], answer.generation)
    };
    let (found, before) = one_row(1);
    assert!(found);
    replace(&dir, "small1", 2, FEW);
    hdfs.wait_blocks_gone(&old_blocks);
    // Reads every page, most of them for the first time.
    let sum = api.query("small1", "select count(*), min(id) from dedup");
    let least = (0..FEW).map(|i| Dedup::of(2, i, FEW).id).min();
    assert_eq!(sum.rows, [[json!(FEW), json!(least)]], "all of the new one");
    assert_ne!(sum.generation, before);
}

fn datanode_stopped() {
    let hdfs = Arc::new(Hdfs::own());
    let dir = hdfs.dir("stopped");
    put(&dir, "first1", 1, FEW);
    put(&dir, "large1", 2, MANY);
    let serve = Serve::with(&dir.url(), &[&UNCACHED[..], &["--store-deadline", "20s"]].concat());
    let api = serve.api();
    let mut answer = RawQuery::send(api.address(), "large1", &all_rows(), "application/x-ndjson");
    answer.read_to(100_000);
    hdfs.datanode(0).stop();
    let least = (0..FEW).map(|i| Dedup::of(1, i, FEW).id).min();
    let whole =
        api.ask("first1", json!({ "sql": "select count(*), min(id) from dedup", "timeout_ms": 120_000 }));
    assert_eq!(whole.expect("an answer from the other replica").rows, [[json!(FEW), json!(least)]]);
    let (text, end) = answer.finish();
    assert_eq!(end, End::Whole);
    let tail = &text[text.len().saturating_sub(300)..];
    assert!(tail.contains(&format!("{{\"end\":{{\"rows\":{MANY},")), "the answer goes on: {tail}");
    hdfs.datanode(0).cont();
}

fn both_datanodes_stopped() {
    let hdfs = Arc::new(Hdfs::own());
    let dir = hdfs.dir("stopped");
    for (n, rows) in [(1, FEW), (2, FEW), (3, MANY)] {
        put(&dir, &format!("seg00{n}"), n, rows);
    }
    let serve = Serve::with(&dir.url(), &[&UNCACHED[..], &["--store-deadline", "10s"]].concat());
    let api = serve.api();
    let all = "select count(*), min(id) from dedup";
    let is_known = |n: u64, rows: &[Vec<Value>]| {
        let least = (0..FEW).map(|i| Dedup::of(n, i, FEW).id).min();
        rows == [[json!(FEW), json!(least)]]
    };
    // One that the worker has open, one that it has never seen, and one in the middle of its answer.
    assert_eq!(api.query("seg001", "select count(*) from dedup where rowid < 3").rows, [[json!(2)]]);
    let mut answer = RawQuery::send(api.address(), "seg003", &all_rows(), "application/x-ndjson");
    answer.read_to(100_000);
    hdfs.datanodes().iter().for_each(|datanode| datanode.stop());

    let started = Instant::now();
    for segment in ["seg001", "seg002", "seg001"] {
        let refusal = api.refused(segment, all);
        assert_eq!(
            (refusal.status, refusal.code.as_str(), refusal.retry),
            (503, "store_unavailable", true),
            "{segment}: {refusal:?}"
        );
        assert!(refusal.retry_after_s.is_some(), "{refusal:?}");
    }
    // Three deadlines and what a busy machine takes; far from the time-outs of HDFS's own clients.
    assert!(started.elapsed() < LIMIT, "three refusals took {:?}", started.elapsed());
    let (text, end) = answer.finish();
    assert_eq!(end, End::Whole);
    let tail = &text[text.len().saturating_sub(400)..];
    assert!(tail.contains("{\"error\":{\"code\":\"store_unavailable\""), "{tail}");

    hdfs.datanodes().iter().for_each(|datanode| datanode.cont());
    for (n, segment) in [(1, "seg001"), (2, "seg002")] {
        eventually("answers again", LIMIT, || match api.ask(segment, json!({ "sql": all })) {
            Ok(answer) => {
                assert!(is_known(n, &answer.rows), "{segment}: {:?}", answer.rows);
                Some(())
            }
            Err(refusal) => {
                assert_eq!(refusal.code, "store_unavailable", "{segment}: {refusal:?}");
                None
            }
        });
    }
}

/// Everything, with a deadline that what a test waits for meanwhile does not reach.
fn all_rows() -> Value {
    json!({ "sql": ALL_ROWS, "timeout_ms": 290_000 })
}

/// Writes a deduplication segment into HDFS; the block files that hold it.
fn put(dir: &HdfsDir, id: &str, seed: u64, rows: u64) -> Vec<std::path::PathBuf> {
    let local = scratch();
    let before = dir.hdfs().block_files();
    dir.put_file(&segments::relative_path(id), &segments::dedup(local.path(), id, seed, rows), None);
    dir.hdfs().block_files().difference(&before).cloned().collect()
}

/// Replaces it as promotion does.
fn replace(dir: &HdfsDir, id: &str, seed: u64, rows: u64) {
    let local = scratch();
    let made = segments::dedup(local.path(), id, seed, rows);
    dir.replace(&segments::relative_path(id), std::fs::read(made).expect("the segment"));
}
