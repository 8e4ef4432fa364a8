//! What the demo asks, and how it shows the answers.

use std::time::Instant;

use serde_json::{Value, json};

use crate::{
    cost::Meter,
    harness::{
        http::{Api, query_path},
        segments::Dedup,
    },
    screen, store,
};

/// Which of the crawls the statistics are of.
const CRAWL: u64 = 42;

pub struct Query {
    pub title: String,
    pub segment: String,
    pub sql: &'static str,
    pub params: Value,
}

pub fn all(size: store::Size) -> Vec<Query> {
    let rows = size.large_rows();
    // Any row will do; from the middle, it is as far from both ends of the tree as can be.
    let wanted = Dedup::of(store::LARGE_SEED, rows / 2, rows);
    let large = format!("one of {} digests", screen::count(rows));
    let crawl = store::crawl_id(CRAWL);
    vec![
        Query {
            title: format!("Point lookup: {large}"),
            segment: store::LARGE_ID.into(),
            sql: "select url, date, id from dedup where digest_key = ?",
            params: json!([wanted.digest_key]),
        },
        Query {
            title: format!("Aggregate: what crawl {crawl} was answered"),
            segment: crawl.clone(),
            sql: "select status_code, count(*) as urls, sum(size) as bytes, sum(is_duplicate) as duplicates
  from crawled_url group by status_code order by urls desc",
            params: json!([]),
        },
        Query {
            title: format!("Statistics: the largest hosts of crawl {crawl}"),
            segment: crawl,
            sql: "select host, urls, bytes, last_fetch from host_statistics order by bytes desc limit 5",
            params: json!([]),
        },
    ]
}

pub fn run(number: usize, query: &Query, api: &Api, meter: &Meter) -> Result<(), String> {
    screen::title(&format!("{number}. {}", query.title));
    println!("{}", query.sql);
    let params = query.params.as_array().into_iter().flatten();
    for (n, value) in params.enumerate() {
        println!("  ?{} = {value}", n + 1);
    }
    println!();

    let before = meter.read();
    let started = Instant::now();
    let answer = api.ask(&query.segment, json!({ "sql": query.sql, "params": query.params }));
    let took = started.elapsed();
    let rows = answer.map_err(|refusal| format!("{}: {}", refusal.code, refusal.message))?;
    if rows.rows.is_empty() {
        return Err(format!(
            "segment {} has no such row: remove the demo directory and try again",
            query.segment
        ));
    }
    let names: Vec<&str> = rows.columns.iter().map(|(name, _)| name.as_str()).collect();
    screen::table(&names, &rows.rows);
    let read = meter.describe(&before);
    let s = if rows.rows.len() == 1 { "" } else { "s" };
    println!("\n{} row{s} in {}; {read}", rows.rows.len(), screen::time(took));
    Ok(())
}

/// The command that asks `query` from a shell.
pub fn curl(query: &Query, base: &str) -> String {
    let sql = query.sql.split_whitespace().collect::<Vec<_>>().join(" ");
    let body = json!({ "sql": sql });
    let url = format!("{base}{}", query_path(&query.segment));
    format!(
        "curl -s {url} -H 'content-type: application/json' \\\n  -d '{}'",
        body.to_string().replace('\'', "'\\''")
    )
}
