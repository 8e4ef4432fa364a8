//! The life of a segment, a line for each step: provisioned, written, promoted, read in place, raised,
//! deleted.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    cost::Meter,
    harness::{self, http::Api},
    interrupt, screen,
};

/// In a directory of its own.
const SEGMENT: &str = "springhouse-demo-written";
const ROWS: u64 = 50_000;
const LIMIT: Duration = Duration::from_secs(60);
const QUESTION: &str = "select status, count(*) as urls from page group by status order by urls desc";

pub fn run(number: usize, api: &Api, meter: &Meter) -> Result<(), String> {
    screen::title(&format!("{number}. The life of a segment: {SEGMENT}"));
    let (lock, took) = timed(|| {
        // Until the worker has told the gateway of its room.
        harness::within(LIMIT, || match call(api, Method::POST, "/provision", &json!({})) {
            Err(why) if why.starts_with("503") => None,
            outcome => Some(outcome),
        })
        .unwrap_or_else(|| Err(format!("no worker takes it after {LIMIT:?}")))
    })?;
    let (token, worker) = (&lock["token"], lock["worker"].as_str().unwrap_or_default());
    screen::fact("provision", &format!("{worker} may write it, under token {token} ({took})"));

    let schema = "create table page (id integer primary key, url text, status integer);
        create index page_status on page (status)";
    call(api, Method::POST, "/execute", &json!({ "sql": schema }))?;
    let row = |n: u64| {
        let status = [200, 200, 200, 301, 404][n as usize % 5];
        json!([n, format!("https://example.org/{n:08}"), status])
    };
    let rows: Vec<Value> = (0..ROWS).map(row).collect();
    let batch = json!({ "statements": [{ "sql": "insert into page values (?, ?, ?)", "rows": rows }] });
    let (_, took) = timed(|| call(api, Method::POST, "/execute", &batch))?;
    screen::fact("write", &format!("{} rows, one transaction, durable ({took})", screen::count(ROWS)));
    let (_, took) = timed(|| ask(api))?;
    screen::fact("query", &format!("from the worker's local copy, which has every write ({took})"));

    interrupt::check()?;
    let (promoted, took) = timed(|| call(api, Method::POST, "/promote", &json!({ "release": true })))?;
    let size = screen::bytes(promoted["size"].as_u64().unwrap_or(0));
    screen::fact("promote", &format!("{size} at {}, interior pages first ({took})", text(&promoted["url"])));
    let before = meter.read();
    let (_, took) = timed(|| ask(api))?;
    screen::fact("query", &format!("in place; {} ({took})", meter.describe(&before)));

    let (_, took) = timed(|| {
        call(api, Method::POST, "/raise", &json!({ "copies": 1 }))?;
        let there = || {
            let info = api.get(&format!("/v1/segments/{SEGMENT}")).json();
            (info["copies"][0]["state"] == "available").then_some(())
        };
        harness::within(LIMIT, there).ok_or_else(|| format!("no copy after {LIMIT:?}"))
    })?;
    screen::fact("raise", &format!("a verified copy on a hot worker ({took})"));
    let before = meter.read();
    let (rows, took) = timed(|| ask(api))?;
    screen::fact("query", &format!("from that copy; {} ({took})", meter.describe(&before)));
    call(api, Method::POST, "/lower", &json!({}))?;
    let (_, took) = timed(|| call(api, Method::DELETE, "", &Value::Null))?;
    screen::fact("delete", &format!("from workers, store and catalog ({took})"));
    println!();
    screen::table(&["status", "urls"], &rows);
    Ok(())
}

fn ask(api: &Api) -> Result<Vec<Vec<Value>>, String> {
    let answer = api.ask(SEGMENT, json!({ "sql": QUESTION }));
    answer.map(|answer| answer.rows).map_err(|refusal| format!("{}: {}", refusal.code, refusal.message))
}

fn call(api: &Api, method: Method, what: &str, body: &Value) -> Result<Value, String> {
    let path = format!("/v1/segments/{SEGMENT}{what}");
    let body = (!body.is_null()).then(|| body.to_string());
    let reply = api.send(method, &path, &[("content-type", "application/json")], body)?;
    if !(200..300).contains(&reply.status) {
        return Err(format!("{} {what}: {}", reply.status, reply.body));
    }
    Ok(if reply.body.is_empty() { Value::Null } else { reply.json() })
}

/// With the time that it took, as text.
fn timed<T>(work: impl FnOnce() -> Result<T, String>) -> Result<(T, String), String> {
    let started = Instant::now();
    work().map(|done| (done, screen::time(started.elapsed())))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
