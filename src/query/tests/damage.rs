//! Files that are no databases, or were some: any outcome but a panic, a hang or unbounded memory.

use proptest::{prelude::*, test_runner::TestRunner};

use super::*;

async fn code_of(bench: &Bench, bytes: &[u8]) -> (Option<ErrorCode>, String) {
    std::fs::write(bench.path("a.sqlite"), bytes).expect("write");
    match bench.rows("SELECT count(*), max(length(b)) FROM t").await {
        Ok(_) => (None, String::new()),
        Err(error) => (Some(error.code), error.message),
    }
}

fn sample() -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.sqlite");
    make_database(
        &path,
        "PRAGMA page_size = 1024; CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT); CREATE INDEX i ON t (b);
         CREATE VIRTUAL TABLE f USING fts5 (body);
         WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 300)
         INSERT INTO t SELECT i, hex(randomblob(i)) FROM n;
         INSERT INTO f SELECT b FROM t LIMIT 20;",
    );
    std::fs::read(path).expect("read")
}

#[tokio::test]
async fn what_is_no_database_is_told() {
    let bench = Bench::new();
    let good = sample();
    let mut wal = good.clone();
    wal[18..20].copy_from_slice(&[2, 2]);
    for (bytes, hint) in [
        (&b""[..], "0 bytes"),
        (&b"SQLite format 3\0"[..], "not an SQLite database"),
        (&[b'x'; 4096][..], "not an SQLite database"),
        (&wal[..], "WAL"),
        (&good[..good.len() / 2], ""),
        (&good[..1024], ""),
    ] {
        let (code, message) = code_of(&bench, bytes).await;
        assert_eq!(code, Some(ErrorCode::SegmentCorrupt), "{hint}: {message}");
        assert!(message.contains(hint), "{message}");
    }
    assert_eq!(code_of(&bench, &good).await.0, None);
    let missing = bench.json(query("/b.sqlite", "SELECT 1")).await.expect_err("missing");
    assert_eq!(missing.code, ErrorCode::SegmentNotFound);
    for ending in ["-wal", "-journal"] {
        let beside = bench.path(&format!("a.sqlite{ending}"));
        std::fs::write(&beside, b"x").expect("write");
        let (code, message) = code_of(&bench, &good).await;
        assert_eq!(code, Some(ErrorCode::SegmentCorrupt));
        assert!(message.contains(ending), "{message}");
        std::fs::remove_file(beside).expect("remove");
    }
}

/// Flips bytes and cuts.
#[test]
fn any_damage_ends_in_an_answer_or_an_error() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let bench = Bench::with(QuerySettings {
        query_memory_bytes: 16 << 20,
        sql: crate::query::SqlLimits { value_bytes: 4 << 20, ..Default::default() },
        ..settings()
    });
    let good = sample();
    let damage = (
        proptest::collection::vec((0..good.len(), any::<u8>()), 0..30),
        proptest::option::of(0..good.len()),
        proptest::collection::vec((0..200_usize, any::<u8>()), 0..4),
    );
    let mut runner = TestRunner::new(ProptestConfig { cases: 150, ..ProptestConfig::default() });
    runner
        .run(&damage, |(flips, cut, header)| {
            let mut bytes = good.clone();
            for (at, byte) in flips.into_iter().chain(header) {
                bytes[at] = byte;
            }
            bytes.truncate(cut.unwrap_or(bytes.len()));
            std::fs::write(bench.path("a.sqlite"), &bytes).expect("write");
            for sql in [
                "SELECT count(*), max(length(b)) FROM t",
                "SELECT b FROM t WHERE b > 'A' ORDER BY b",
                "SELECT count(*) FROM f WHERE f MATCH 'a*'",
                "SELECT * FROM sqlite_schema",
            ] {
                let outcome = runtime.block_on(bench.rows(sql));
                let fine = match &outcome {
                    Ok(_) => true,
                    Err(error) => error.code != ErrorCode::Internal,
                };
                prop_assert!(fine, "{}: {:?}", sql, outcome);
            }
            Ok(())
        })
        .expect("no damage does more");
}
