//! Killed in the middle of group commits: every acknowledged change is there, and no key applies twice.

use std::{
    collections::HashSet,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use super::*;

/// Names the directory to a child.
const CHILD: &str = "SPRINGHOUSE_TEST_WRITER_DIR";
const CLIENTS: u64 = 8;

fn insert(number: u64) -> ExecuteRequest {
    script(&format!("INSERT INTO t VALUES ({number}); UPDATE n SET n = n + 1"))
}

/// Not a test of its own: the process that is killed. Writes and says what was acknowledged, for ever.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (changes, writer) = open(Path::new(&dir), limits());
        let begun = changes.seen().done;
        let clients = (0..CLIENTS).map(|client| {
            let writer = &writer;
            async move {
                for round in 0.. {
                    // No other client, and no child before or after, has the same.
                    let number = (begun * 10_000 + round) * 10 + client;
                    let request = insert(number);
                    let digest = xxhash_rust::xxh3::xxh3_128(&serde_json::to_vec(&request).expect("JSON"));
                    // Half of them have keys.
                    let key = (client % 2 == 0).then(|| Key { text: format!("k{number}"), digest });
                    let deadline = Instant::now() + LONG;
                    let execute = Execute { request, key, deadline, size: 10 };
                    let answer = writer.execute(execute).await.expect("applied");
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "\nwrote {number} {}", answer.change)
                        .and_then(|()| out.flush())
                        .expect("told");
                }
            }
        });
        futures::future::join_all(clients).await;
    });
}

fn killed_at(dir: &Path, point: &str) -> Vec<(u64, u64)> {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["query::write::tests::kill::child", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .env("SPRINGHOUSE_FAILPOINTS", point)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let wrote = lines.map_while(Result::ok).filter_map(|line| {
        let (number, change) = line.strip_prefix("wrote ")?.split_once(' ')?;
        Some((number.parse().ok()?, change.parse().ok()?))
    });
    let wrote: Vec<(u64, u64)> = wrote.collect();
    let status = child.wait().expect("its end");
    assert!(!status.success(), "it was to be killed at {point}");
    wrote
}

const LATE: &str = "write.after_commit=40*abort";

#[tokio::test]
async fn what_was_acknowledged_is_there() {
    let dir = tempfile::tempdir().expect("a directory");
    make(dir.path(), "CREATE TABLE t(a UNIQUE); CREATE TABLE n(n); INSERT INTO n VALUES (0)", &limits());
    let mut all = Vec::new();
    let points = [
        "write.after_commit=9*abort",
        "write.after_keys=5*abort",
        "write.before_commit=12*abort",
        "write.after_commit=1*abort",
        "write.after_keys=1*abort",
    ];
    // Some hundreds are acknowledged as a rule; of commits of one each it takes some rounds more.
    for (round, point) in points.into_iter().chain([LATE; 20]).enumerate() {
        if round > points.len() && all.len() > 100 {
            break;
        }
        all.extend(killed_at(dir.path(), point));
        let (changes, writer) = open(dir.path(), limits());
        let last = changes.seen().done;
        let connection = rusqlite::Connection::open(dir.path().join("a.sqlite")).expect("a database");
        let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).expect(sql) as u64;
        // As many transactions as rows as increments: none is half there, none counted twice.
        assert_eq!((number("SELECT count(*) FROM t"), number("SELECT n FROM n")), (last, last), "{point}");
        for (row, change) in &all {
            assert_eq!(number(&format!("SELECT count(*) FROM t WHERE a = {row}")), 1, "{point}");
            assert!(*change <= last);
        }
        assert_eq!(all.iter().map(|(_, change)| change).collect::<HashSet<_>>().len(), all.len());
        // What had a key is answered as it was.
        for (row, change) in all.iter().filter(|(row, _)| row % 2 == 0) {
            let request = insert(*row);
            let digest = xxhash_rust::xxh3::xxh3_128(&serde_json::to_vec(&request).expect("JSON"));
            let key = Some(Key { text: format!("k{row}"), digest });
            let deadline = Instant::now() + LONG;
            let answer = writer.execute(Execute { request, key, deadline, size: 10 }).await.expect("known");
            assert_eq!((answer.repeated, answer.change), (true, *change), "{point}");
        }
        writer.close().await;
    }
    assert!(all.len() > 100, "{} acknowledged", all.len());
}
