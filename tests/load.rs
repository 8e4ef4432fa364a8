//! Many clients at once, and not all of them kind.

use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::{
    harness::{
        cluster::Serve,
        file_url as url,
        http::{Api, RawQuery, Rows},
        scratch,
        segments::{self, CrawledUrl, Dedup},
    },
    registry::tests,
};

tests! {
    [] many_at_once, good_and_bad_clients;
}

fn many_at_once() {
    let root = scratch();
    for n in 0..8 {
        segments::crawl_statistics(root.path(), &format!("many{n}"), n, 500);
    }
    let serve = Serve::of(&url(root.path()));
    std::thread::scope(|scope| {
        for client in 0..16_u64 {
            let api = serve.api();
            scope.spawn(move || {
                for i in 0..25 {
                    let seed = (client + i) % 8;
                    let row = CrawledUrl::of(seed, i * 7);
                    let request =
                        json!({ "sql": "select url from crawled_url where id = ?", "params": [i * 7 + 1] });
                    let answer = api.ask(&format!("many{seed}"), request).expect("an answer");
                    assert_eq!(answer.rows, [[json!(row.url)]]);
                }
            });
        }
    });
    // The file is where it was, and still what it was.
    let db = Connection::open(root.path().join(segments::relative_path("many0"))).expect("a database");
    let check: String = db.query_row("pragma quick_check", [], |row| row.get(0)).expect("a check");
    assert_eq!(check, "ok");
}

/// 64 clients, every third one hostile: the others get right answers, all of them.
fn good_and_bad_clients() {
    const CLIENTS: u64 = 64;
    const ROUNDS: u64 = 6;
    const DIGESTS: u64 = 5_000;
    let root = scratch();
    for n in 0..6 {
        segments::crawl_statistics(root.path(), &format!("crawl{n}"), n, 800);
    }
    segments::dedup(root.path(), "digests", 9, DIGESTS);
    let mut serve = Serve::with(
        &url(root.path()),
        &["--query-memory", "16MiB", "--sql-value-size-max", "8MiB", "--query-threads", "6"],
    );
    let pid = serve.process().id();
    let api = serve.api().clone();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let api = &api;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let turn = client * ROUNDS + round;
                    match client % 3 {
                        0 => attack(api, turn),
                        1 => {
                            let (seed, row) = (turn % 6, turn * 13 % 800);
                            let sql = "select url, size from crawled_url where id = ?";
                            let got = patiently(
                                api,
                                &format!("crawl{seed}"),
                                &json!({ "sql": sql, "params": [row + 1] }),
                            );
                            let wanted = CrawledUrl::of(seed, row);
                            assert_eq!(got.rows, [[json!(wanted.url), json!(wanted.size)]]);
                        }
                        _ => {
                            let wanted = Dedup::of(9, turn * 31 % DIGESTS, DIGESTS);
                            let sql = "select id from dedup where digest_key = :key";
                            let request = json!({ "sql": sql, "params": { "key": wanted.digest_key } });
                            assert_eq!(patiently(api, "digests", &request).rows, [[json!(wanted.id)]]);
                        }
                    }
                }
            });
        }
    });
    assert_eq!((serve.process().id(), serve.process().exited()), (pid, None));
    let count = patiently(&api, "crawl0", &json!({ "sql": "select count(*) from crawled_url" }));
    assert_eq!(count.rows, [[json!(800)]]);
}

/// Asks again as long as the answer says that this is of use.
fn patiently(api: &Api, segment: &str, request: &Value) -> Rows {
    loop {
        match api.ask(segment, request.clone()) {
            Ok(rows) => return rows,
            Err(refusal) => assert!(refusal.retry, "{segment} {request}: {refusal:?}"),
        }
        // Not the pause of a polite client, which would be seconds.
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn attack(api: &Api, turn: u64) {
    const ENDLESS: &str =
        "with recursive c(n) as (select 1 union all select n + 1 from c) select count(*) from c";
    const STREAM: &str = "with recursive c(n) as (select 1 union all select n + 1 from c) select n from c";
    let refused = |segment: &str, sql: &str, codes: &[&str]| {
        let request = json!({ "sql": sql, "timeout_ms": 250 });
        let refusal = api.ask(segment, request).expect_err(sql);
        let busy = ["overloaded", "deadline_exceeded"].contains(&refusal.code.as_str());
        assert!(busy || codes.contains(&refusal.code.as_str()), "{sql}: {refusal:?}");
    };
    match turn % 8 {
        0 => refused("digests", ENDLESS, &[]),
        1 => refused("digests", "select randomblob(1 << 30)", &["memory_limit"]),
        2 => refused("crawl1", "delete from crawled_url", &["sql_forbidden"]),
        3 => refused("crawl2", "selekt", &["sql_error"]),
        4 => refused("nowhere", "select 1", &["segment_not_found"]),
        5 => refused("..%2f..%2fx", "select 1", &["bad_request"]),
        6 => {
            let sort = "select a.url || b.url from crawled_url a, crawled_url b order by 1 desc";
            refused("crawl3", sort, &["memory_limit", "row_limit"]);
        }
        // Asks for everything, reads a little, and is gone.
        _ => {
            let mut left =
                RawQuery::send(api.address(), "crawl4", &json!({ "sql": STREAM }), "application/x-ndjson");
            left.read_to(10_000);
        }
    }
}
