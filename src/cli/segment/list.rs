//! Lists and tables.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;
use springhouse_gateway::api::{
    client::GatewayClient,
    hot::{LockList, LockState},
    types::SegmentList,
    work::Work,
};

use super::{print, print_json};
use crate::{
    cli::{columns::Columns, mounts::size},
    error::Failure,
};

/// `springhouse segment list`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Ids that begin with this
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
    /// All of them
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

/// Most in one call.
const PAGE: u32 = 10_000;

pub(super) async fn run(client: &GatewayClient, args: Args, json: bool) -> Result<(), Failure> {
    let mut left = if args.all { u32::MAX } else { args.limit };
    let mut after = None;
    let mut shown = 0_u64;
    while left > 0 {
        let page = client.segments(args.prefix.as_deref(), after.as_deref(), Some(left.min(PAGE))).await?;
        left = left.saturating_sub(u32::try_from(page.segments.len()).unwrap_or(u32::MAX));
        shown += page.segments.len() as u64;
        print_page(&page, json)?;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if !json && after.is_some() {
        return print(&format!("{shown} shown, there are more: --all, --limit N or --prefix TEXT\n"));
    }
    Ok(())
}

fn print_page(page: &SegmentList, json: bool) -> Result<(), Failure> {
    if json {
        let lines: String = page
            .segments
            .iter()
            .filter_map(|segment| serde_json::to_string(segment).ok())
            .map(|line| line + "\n")
            .collect();
        return print(&lines);
    }
    let mut table = Columns::new(["SEGMENT", "#SIZE", "MODIFIED", "PATH"]);
    for segment in &page.segments {
        table.row([segment.id.clone(), size(segment.size), time(segment.mtime_ms), segment.path.clone()]);
    }
    print(&table.text())
}

pub(super) async fn locks(client: &GatewayClient, json: bool) -> Result<(), Failure> {
    let LockList { locks, superseded } = client.locks().await?;
    if json {
        return print_json(&LockList { locks, superseded });
    }
    if locks.is_empty() && superseded.is_empty() {
        return print("no segment is provisioned for writing\n");
    }
    let mut table = Columns::new(["SEGMENT", "WORKER", "STATE", "#TOKEN", "SINCE", "SCHEMA", "IN STORE"]);
    for lock in locks {
        let state = match (lock.state, lock.promoting) {
            (LockState::Held, false) => "held",
            (LockState::Held, true) => "held, promoting",
            (LockState::Suspended, _) => "suspended",
        };
        table.row([
            lock.segment,
            lock.worker,
            state.into(),
            lock.token.to_string(),
            time(lock.since_ms),
            lock.schema,
            in_store(lock.change, lock.safe_change, lock.ship.is_some()),
        ]);
    }
    for over in superseded {
        let kept = match (&over.kept, over.heard) {
            _ if over.lost => "superseded, the worker came back without its data".into(),
            (Some(file), _) => format!("superseded, {} transactions kept as {file}", over.transactions),
            (None, true) => "superseded, all was promoted".into(),
            (None, false) => "superseded, the worker has not heard of it yet".into(),
        };
        table.row([
            over.segment,
            over.worker,
            kept,
            over.token.to_string(),
            time(over.at_ms),
            String::new(),
            String::new(),
        ]);
    }
    print(&table.text())
}

/// Which of the transactions under a lock are in the store.
fn in_store(change: Option<u64>, safe: Option<u64>, shipped: bool) -> String {
    match (change, safe) {
        (Some(change), Some(safe)) if safe >= change => format!("all {change}"),
        (Some(change), Some(safe)) if shipped => format!("{safe} of {change}, shipped"),
        (Some(change), Some(safe)) => format!("{safe} of {change}"),
        _ => "?".into(),
    }
}

pub(super) async fn work(client: &GatewayClient, json: bool) -> Result<(), Failure> {
    let list = client.work().await?;
    if json {
        return print_json(&list);
    }
    let mut text = String::new();
    if list.work.is_empty() {
        text.push_str("nothing is under way\n");
    } else {
        let mut table = Columns::new(["SEGMENT", "WORKER", "WHAT", "#DONE", "#OF"]);
        for work in &list.work {
            let row = [work.segment.clone(), work.worker.clone(), work.what.clone()];
            let [segment, worker, what] = row;
            table.row([segment, worker, what, size(work.done), size(work.total)]);
        }
        text.push_str(&table.text());
    }
    for name in &list.silent {
        text.push_str(&format!("worker {name} does not answer\n"));
    }
    print(&text)
}

/// What is being done with one segment, a line each.
pub(super) fn doing(work: &[Work]) -> String {
    let line = |work: &Work| match work.total {
        0 => format!("{} on {}", work.what, work.worker),
        total => format!("{} on {}, {} of {}", work.what, work.worker, size(work.done), size(total)),
    };
    work.iter().map(line).collect::<Vec<_>>().join("; ")
}

/// Members of an object side by side, for people; objects and lists within as JSON.
pub(super) fn facts(value: &Value) -> String {
    let Value::Object(members) = value else { return format!("{value}\n") };
    let width = members.keys().map(String::len).max().unwrap_or(0);
    let line = |(name, value): (&String, &Value)| {
        let text = match (name.as_str(), value) {
            ("size", Value::Number(bytes)) => bytes.as_u64().map_or_else(|| bytes.to_string(), size),
            (name, Value::Number(ms)) if name.ends_with("_ms") => {
                ms.as_i64().map_or_else(|| ms.to_string(), time)
            }
            (_, Value::String(text)) => text.clone(),
            (_, other) => other.to_string(),
        };
        format!("{:width$}  {text}\n", name.trim_end_matches("_ms"))
    };
    members.iter().map(line).collect()
}

/// As UTC to the second.
fn time(ms: i64) -> String {
    match u64::try_from(ms) {
        Ok(ms) => humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string(),
        Err(_) => "before 1970".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn facts_for_people() {
        let value = json!({ "id": "a", "size": 2048, "mtime_ms": 1000, "workers": ["w"] });
        let text = facts(&value);
        assert!(text.contains("id        a\n") && text.contains("size      2.0 KiB\n"), "{text}");
        assert!(text.contains("1970-01-01T00:00:01Z") && text.contains("workers   [\"w\"]"), "{text}");
    }
}
