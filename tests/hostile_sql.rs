//! SQL that nobody should send, and files that nobody should keep; docs/SEMANTICS.md.

use std::{fs, path::Path, time::Duration};

use rusqlite::Connection;
use serde_json::json;

use crate::{
    harness::{
        cluster::Serve,
        file_url as url,
        process::resident_bytes,
        scratch,
        segments::{self, files_below, noise},
    },
    registry::tests,
};

tests! {
    [] refused, bad_files, hostile_databases, runaway;
}

/// A query of a good segment answers within this, whatever the others do.
const NEIGHBOUR_LIMIT: Duration = Duration::from_secs(20);

fn refused() {
    let root = scratch();
    segments::crawl_statistics(root.path(), "victim", 1, 200);
    let outside = scratch();
    segments::from_sql(
        outside.path(),
        "other",
        "create table secrets (s); insert into secrets values ('s3cret');",
    );
    let other = outside.path().join(segments::relative_path("other")).display().to_string();
    let files_before = contents(root.path());
    let mut serve = Serve::of(&url(root.path()));
    let pid = serve.process().id();
    let api = serve.api().clone();

    let new_file = outside.path().join("written").display().to_string();
    for sql in [
        "insert into crawled_url (url) values ('x')",
        "update crawled_url set size = 0",
        "delete from crawled_url",
        "replace into host_statistics values ('x', 1, 1, 1, 1)",
        "with x as (select 1) delete from crawled_url",
        "create table t (n)",
        "create temp table t (n)",
        "create view v as select 1",
        "create trigger t after insert on crawled_url begin select 1; end",
        "create virtual table f using fts5(x)",
        "drop table crawled_url",
        "alter table crawled_url rename to x",
        "create index i on crawled_url (size)",
        "reindex",
        "analyze",
        "vacuum",
        &format!("vacuum into '{new_file}'"),
        &format!("attach database '{other}' as o"),
        &format!("attach database '{new_file}' as o"),
        "attach ':memory:' as o",
        "detach main",
        "begin",
        "commit",
        "savepoint s",
        "pragma journal_mode = wal",
        "pragma trusted_schema = on",
        "pragma writable_schema = on",
        "pragma mmap_size = 100000000",
        "pragma temp_store_directory = '/'",
        "pragma query_only = off",
        "pragma database_list",
        "select * from pragma_database_list",
        "select * from pragma_journal_mode",
    ] {
        let refusal = api.refused("victim", sql);
        assert_eq!(
            (refusal.status, refusal.code.as_str(), refusal.retry),
            (403, "sql_forbidden", false),
            "{sql}: {refusal:?}"
        );
    }
    // Not there at all, or there and forbidden: no matter which.
    for sql in [
        "select load_extension('libc.so.6')",
        &format!("select writefile('{new_file}', 'x')"),
        &format!("select readfile('{other}')"),
        "select fts3_tokenizer('simple')",
        "select edit('x', 'sh')",
        &format!("select * from fsdir('{}')", outside.path().display()),
        "select sqlite_compileoption_get(0)",
        "select 1; vacuum",
    ] {
        match api.ask("victim", json!({ "sql": sql })) {
            Err(refusal) => assert!([400, 403].contains(&refusal.status), "{sql}: {refusal:?}"),
            Ok(rows) => assert!(sql.contains("compileoption"), "{sql} was answered: {rows:?}"),
        }
    }
    // What reads goes on working, FTS and table information included.
    assert_eq!(api.query("victim", "select count(*) from crawled_url").rows, [[json!(200)]]);
    assert!(!api.query("victim", "select name from pragma_table_info('crawled_url')").rows.is_empty());
    assert_eq!(serve.process().id(), pid);
    assert!(serve.process().exited().is_none());
    drop(serve);
    assert_eq!(contents(outside.path()).len(), 1, "nothing was written elsewhere");
    let mut files_after = contents(root.path());
    // The gateway's mark that the store has an owner is the only file that may come.
    files_after.retain(|(name, _)| files_before.iter().any(|(before, _)| before == name));
    assert!(files_after == files_before, "the segments are as they were");
}

fn bad_files() {
    let root = scratch();
    let good = segments::crawl_statistics(root.path(), "good01", 1, 2_000);
    let bytes = fs::read(&good).expect("the segment");
    let put = |id: &str, bytes: &[u8]| {
        let path = root.path().join(segments::relative_path(id));
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, bytes).expect("a file");
    };
    put("text01", b"I am a letter, not a database. ".repeat(200).as_slice());
    put("noise1", &noise(1, 100_000));
    put("short1", &bytes[..50]);
    put("page01", &bytes[..4096]);
    put("half01", &bytes[..bytes.len() / 2 / 4096 * 4096]);
    put("ragged", &bytes[..bytes.len() / 2 + 77]);
    let mut garbage = bytes.clone();
    garbage[4096..].copy_from_slice(&noise(2, bytes.len() - 4096));
    put("garble", &garbage);
    // A header that says WAL: committed rows may lie in a file that is not here.
    let mut wal = bytes.clone();
    wal[18..20].copy_from_slice(&[2, 2]);
    put("wal001", &wal);
    put("empty1", b"");

    let mut serve = Serve::of(&url(root.path()));
    let api = serve.api().clone();
    for id in ["text01", "noise1", "short1", "page01", "half01", "ragged", "garble", "wal001"] {
        let refusal = api.refused(id, "select sum(size), max(url) from crawled_url not indexed");
        assert_eq!(
            (refusal.status, refusal.code.as_str(), refusal.retry),
            (422, "segment_corrupt", false),
            "{id}: {refusal:?}"
        );
        assert!(
            !refusal.message.contains(&root.path().display().to_string()),
            "no path of the host: {refusal:?}"
        );
    }
    // SQLite takes an empty file for an empty database; so it has no tables.
    let refusal = api.refused("empty1", "select 1 from crawled_url");
    assert!(["sql_error", "segment_corrupt"].contains(&refusal.code.as_str()), "{refusal:?}");
    assert_eq!(api.query("good01", "select count(*) from crawled_url").rows, [[json!(2000)]]);
    assert!(serve.process().exited().is_none());
}

/// Databases made to hurt whoever opens them.
fn hostile_databases() {
    let root = scratch();
    let schema = |id: &str, sql: &str| {
        let path =
            segments::from_sql(root.path(), id, "create table t (n integer); insert into t values (1);");
        let db = Connection::open(path).expect("a database");
        db.execute_batch(&format!("pragma writable_schema = on; {sql}; pragma writable_schema = reset;"))
            .expect(sql);
    };
    schema("root01", "update sqlite_schema set rootpage = 99999");
    schema("self01", "update sqlite_schema set rootpage = 1");
    schema("sqltxt", "update sqlite_schema set sql = 'create table t (this is (not sql'");
    schema("trojan", "create view v as select load_extension('/tmp/x.so') as x");
    schema("fts001", "create view v as select * from pragma_database_list");
    schema("loop01", "create view a as select * from b; create view b as select * from a");
    let deep = format!("create view v as select {} as x", "abs(".repeat(180) + "1" + &")".repeat(180));
    schema("deep01", &deep);
    schema("trig01", "create trigger tr after insert on t begin select raise(abort, 'x'); end");
    let bomb =
        "create view v as with recursive c(n) as (select 1 union all select n + 1 from c) select n from c";
    schema("bomb01", bomb);
    segments::crawl_statistics(root.path(), "good01", 1, 100);

    let mut serve = Serve::of(&url(root.path()));
    let api = serve.api().clone();
    for id in ["root01", "self01", "sqltxt", "trojan", "fts001", "loop01", "deep01", "trig01", "bomb01"] {
        let from = if ["root01", "self01", "sqltxt", "trig01"].contains(&id) {
            "t"
        } else if id == "loop01" {
            "a"
        } else {
            "v"
        };
        let request = json!({ "sql": format!("select count(*) from {from}"), "timeout_ms": 1000 });
        match api.ask(id, request) {
            // The deep view is odd but lawful, and a trigger does not fire on reads.
            Ok(_) => assert!(["deep01", "trig01"].contains(&id), "{id} was answered"),
            Err(refusal) => {
                assert!(refusal.code != "internal" && !refusal.message.is_empty(), "{id}: {refusal:?}")
            }
        }
        assert_eq!(
            api.query("good01", "select count(*) from crawled_url").rows,
            [[json!(100)]],
            "after {id}"
        );
    }
    assert!(serve.process().exited().is_none());
}

fn runaway() {
    let root = scratch();
    segments::crawl_statistics(root.path(), "victim", 1, 3_000);
    let mut serve = Serve::with(
        &url(root.path()),
        &["--query-memory", "32MiB", "--idle-memory", "32MiB", "--query-threads", "4"],
    );
    let pid = serve.process().id();
    let api = serve.api().clone();
    api.query("victim", "select 1");
    let before = resident_bytes(pid);
    let attacks = [
        "with recursive c(n) as (select 1 union all select n + 1 from c) select count(*) from c",
        "with recursive c(n) as (select 1 union select n + 1 from c) select count(*) from c",
        "select zeroblob(1000000000)",
        "select length(randomblob(900000000))",
        "select length(hex(zeroblob(30000000)))",
        "select replace(hex(zeroblob(1000000)), '0', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa')",
        "select printf('%.*c', 1000000000, 'x')",
        "select group_concat(a.url || b.url) from crawled_url a, crawled_url b",
        "select a.url || b.url as t from crawled_url a, crawled_url b order by t desc",
        "select count(distinct a.url || b.url || c.url) from crawled_url a, crawled_url b, crawled_url c",
        "select count(*) from crawled_url a, crawled_url b, crawled_url c, crawled_url d",
        "select json_group_array(a.url) from crawled_url a, crawled_url b",
        "select 'a' like '%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%b'",
    ];
    let mut most = 0;
    std::thread::scope(|scope| {
        let attackers: Vec<_> = (0..3)
            .map(|n| {
                let api = api.clone();
                scope.spawn(move || {
                    for (i, sql) in attacks.iter().enumerate().filter(|(i, _)| i % 3 == n) {
                        let ended =
                            api.ask("victim", json!({ "sql": sql, "timeout_ms": 2_000, "max_rows": 1_000 }));
                        match ended {
                            Ok(_) => assert!(ended_by_itself(i), "{sql} was answered"),
                            Err(refusal) => assert!(expected(&refusal.code), "{sql}: {refusal:?}"),
                        }
                    }
                })
            })
            .collect();
        // A neighbour goes on being answered, and memory stays within bounds.
        while attackers.iter().any(|attacker| !attacker.is_finished()) {
            let asked = std::time::Instant::now();
            assert_eq!(api.query("victim", "select count(*) from crawled_url").rows, [[json!(3000)]]);
            assert!(asked.elapsed() < NEIGHBOUR_LIMIT, "a neighbour waited {:?}", asked.elapsed());
            most = most.max(resident_bytes(pid));
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    assert!(serve.process().exited().is_none());
    // Four queries of 32 MiB, 32 MiB idle, and as much again for answers on their way.
    let bound = before + 2 * (5 * (32 << 20));
    assert!(most < bound, "{} MiB resident, {} MiB before", most >> 20, before >> 20);
}

/// A LIKE of harmless length, and a stream that its reader cuts, may end well.
fn ended_by_itself(attack: usize) -> bool {
    [8, 12].contains(&attack)
}

fn expected(code: &str) -> bool {
    ["deadline_exceeded", "memory_limit", "byte_limit", "row_limit", "sql_error", "sql_forbidden"]
        .contains(&code)
}

fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let files = files_below(dir).into_iter();
    files.map(|path| (path.display().to_string(), fs::read(&path).expect("a file"))).collect()
}
