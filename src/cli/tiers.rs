//! `springhouse tiers …`: which segments are hot, by which rules, and why.

use std::time::{Duration, UNIX_EPOCH};

use clap::Subcommand;
use springhouse_gateway::{
    api::{
        client::GatewayClient,
        tier_types::{RaisedBy, RuleInfo, TierAction, TierInfo},
    },
    rules::TierRule,
    segment::SegmentId,
};

use super::{block_on, columns::Columns, mounts::size, print, print_json, problem, segment::Common};
use crate::error::{Exit, Failure};

/// `springhouse tiers`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    springhouse tiers list\n  \
    springhouse tiers explain 1234567\n  \
    springhouse tiers rules --json")]
pub struct Args {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the segments that shall have hot copies, the hottest first
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// Go on after an earlier list: its `next`
        #[arg(long, value_name = "TEXT")]
        after: Option<String>,
        /// All of them, page by page; as JSON an object for each page, a line each
        #[arg(long, conflicts_with_all = ["limit", "after"])]
        all: bool,
    },
    /// Say what would be done with a segment's hot copies, and why; nothing is changed
    Explain {
        /// Id of the segment
        segment: String,
    },
    /// List the rules, in their order
    Rules,
}

/// Runs it.
pub fn run(args: Args) -> Result<(), Failure> {
    let Args { what, common } = args;
    block_on(async move {
        let client = common.client()?;
        match what {
            What::List { limit, after, all } => {
                list(&client, if all { PAGE } else { limit }, after, all, common.json).await
            }
            What::Explain { segment } => {
                let id = SegmentId::parse(&segment).map_err(|error| problem(error.to_string()))?;
                let info = client.tier(&id).await?;
                if common.json { print_json(&info) } else { print(&explanation(&info)) }
            }
            What::Rules => {
                let list = client.rules().await?;
                if common.json {
                    return print_json(&list);
                }
                let mut table = Columns::new(["RULE", "MATCHES", "TIER", "#COPIES", "SHIPPED"]);
                for rule in list.rules.iter().chain([&list.otherwise]) {
                    table.row(rule_row(rule));
                }
                print(&table.text())
            }
        }
    })
}

/// Most in one call.
const PAGE: u32 = 10_000;

async fn list(
    client: &GatewayClient,
    limit: u32,
    mut after: Option<String>,
    all: bool,
    json: bool,
) -> Result<(), Failure> {
    loop {
        let page = client.tiers(limit, after.as_deref()).await?;
        let is_first = after.is_none();
        after.clone_from(&page.next);
        if json && all {
            let line = serde_json::to_string(&page).map_err(|error| Failure::new(Exit::Internal, error))?;
            print(&format!("{line}\n"))?;
        } else if json {
            print_json(&page)?;
        } else if page.segments.is_empty() && is_first {
            print("no segment is raised, pinned or kept hot by a rule\n")?;
        } else {
            let mut table =
                Columns::new(["SEGMENT", "#SIZE", "#COPIES", "BY", "#QUERIES/S", "NEXT", "BECAUSE"]);
            page.segments.iter().for_each(|info| table.row(row(info)));
            print(&table.text())?;
        }
        let Some(next) = &after else { return Ok(()) };
        if !all {
            let shown = page.segments.len();
            return match json {
                true => Ok(()),
                false => {
                    print(&format!("{shown} of {} shown: --limit N, --all or --after {next}\n", page.total))
                }
            };
        }
    }
}

fn row(info: &TierInfo) -> [String; 7] {
    let next = match info.action {
        TierAction::None => "stays",
        action => action.as_str(),
    };
    [
        info.segment.clone(),
        size(info.size),
        format!("{}/{}", info.assigned.len(), info.copies),
        by(info).into(),
        format!("{:.2}", info.queries_per_s),
        next.into(),
        info.reasons.last().cloned().unwrap_or_default(),
    ]
}

/// Why it has copies, in a word.
fn by(info: &TierInfo) -> &'static str {
    match (info.raised_by, info.tier) {
        (Some(RaisedBy::Hand), _) => "hand",
        (Some(RaisedBy::Heat), _) => "heat",
        (None, TierRule::Hot) if info.copies > 0 => "rule",
        (None, _) if info.lowered_until_ms.is_some() => "lowered",
        (None, _) => "pin",
    }
}

/// All of it for people: the facts, then the decision and why.
fn explanation(info: &TierInfo) -> String {
    let how = |measured: bool, how: &'static str| if measured { how } else { "assumed, or the mean of all" };
    let rule = info.rule.as_ref().map_or_else(|| "none matches".to_owned(), |rule| format!("{rule:?}"));
    let (least, most) = (info.copies_minimum, info.copies_maximum);
    let mut facts = vec![
        ("segment", info.segment.clone()),
        ("in the store", format!("{}, modified {}", size(info.size), date(info.mtime_ms))),
        ("rule", format!("{rule}; tier {}, {least} to {most} copies", info.tier.as_str())),
        (
            "heat",
            format!(
                "{:.1} queries lately (at least {:.1}), {:.2} a second",
                info.queries,
                (info.queries - info.queries_error).max(0.0),
                info.queries_per_s
            ),
        ),
        ("cold answer", format!("{} ({})", time(info.cold_ms), how(info.cold_measured, "measured here"))),
        ("hot answer", time(info.hot_ms)),
        (
            "copying",
            format!(
                "{} ({})",
                time(info.copy_ms),
                how(info.copy_measured, "at the speed of the last copies")
            ),
        ),
        ("copies save", time(info.saved_ms)),
        (
            "thresholds",
            format!(
                "raised above {}, lowered below {}",
                time(info.raise_above_ms),
                time(info.lower_below_ms)
            ),
        ),
        ("copies now", format!("{}{}", info.copies, names(" on ", &info.assigned))),
    ];
    if let Some(by) = info.raised_by {
        let who = if by == RaisedBy::Hand { "by hand" } else { "by heat" };
        let since = info.since_ms.map(|since| format!(", since {}", date(since))).unwrap_or_default();
        facts.push(("raised", format!("{who}{since}")));
    }
    if let Some(until) = info.lowered_until_ms {
        facts.push(("lowered", format!("by hand, until {}", date(until))));
    }
    let would_go = names("; they would be on ", &info.would_go);
    let decision = match info.action {
        TierAction::None => "nothing changes".to_owned(),
        TierAction::Raise => format!("raise it to {}{would_go}", copies(info.copies_then)),
        TierAction::Lower => "lower it".into(),
        TierAction::More | TierAction::Fewer => {
            format!("{} instead of {}{would_go}", copies(info.copies_then), info.copies)
        }
    };
    facts.push(("decision", decision));
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text: String = facts.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect();
    for (nth, reason) in info.reasons.iter().enumerate() {
        let name = if nth == 0 { "because" } else { "" };
        text.push_str(&format!("{name:width$}  {reason}\n"));
    }
    text
}

fn rule_row(rule: &RuleInfo) -> [String; 5] {
    let mut matches = Vec::new();
    matches.extend(rule.prefix.as_ref().map(|prefix| format!("{prefix}*")));
    matches.extend(rule.pattern.as_ref().map(|pattern| format!("/{pattern}/")));
    matches.extend(rule.older_than_ms.map(|ms| format!("older than {}", span(ms))));
    let matches = if matches.is_empty() { "all others".to_owned() } else { matches.join(", ") };
    let copies = match rule.tier {
        TierRule::Cold => "-".to_owned(),
        _ => format!("{} to {}", rule.copies_minimum, rule.copies_maximum),
    };
    let mut shipped = Vec::new();
    shipped.extend(rule.ship_every_ms.map(|ms| format!("every {}", span(ms))));
    shipped.extend(rule.ship_pages.map(|pages| format!("every {pages} pages")));
    let shipped = if shipped.is_empty() { "at promotion".to_owned() } else { shipped.join(" or ") };
    let name = rule.name.clone().unwrap_or_else(|| "(none)".into());
    [name, matches, rule.tier.as_str().into(), copies, shipped]
}

fn copies(count: u32) -> String {
    if count == 1 { "1 copy".into() } else { format!("{count} copies") }
}

fn names(before: &str, names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("{before}{}", names.join(", ")) }
}

fn span(ms: u64) -> String {
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

/// Milliseconds as people read them.
fn time(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1e3 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

/// As UTC to the second.
fn date(ms: i64) -> String {
    match u64::try_from(ms) {
        Ok(ms) => humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string(),
        Err(_) => "before 1970".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> TierInfo {
        TierInfo {
            segment: "seg001".into(),
            size: 2048,
            mtime_ms: 1000,
            rule: Some("crawls".into()),
            tier: TierRule::Heat,
            copies_minimum: 2,
            copies_maximum: 4,
            raised_by: None,
            since_ms: None,
            lowered_until_ms: None,
            queries: 12.0,
            queries_error: 2.0,
            queries_per_s: 0.5,
            cold_ms: 200.0,
            cold_measured: true,
            hot_ms: 1.0,
            copy_ms: 100.0,
            copy_measured: false,
            saved_ms: 5000.0,
            raise_above_ms: 100.0,
            lower_below_ms: 25.0,
            copies: 0,
            copies_then: 2,
            action: TierAction::Raise,
            reasons: vec!["first".into(), "second".into()],
            assigned: Vec::new(),
            would_go: vec!["hot-1".into(), "hot-2".into()],
        }
    }

    #[test]
    fn a_decision_is_explained_with_its_facts() {
        let text = explanation(&info());
        for line in [
            "segment       seg001\n",
            "in the store  2.0 KiB, modified 1970-01-01T00:00:01Z\n",
            "rule          \"crawls\"; tier heat, 2 to 4 copies\n",
            "heat          12.0 queries lately (at least 10.0), 0.50 a second\n",
            "cold answer   200 ms (measured here)\n",
            "copying       100 ms (assumed, or the mean of all)\n",
            "copies save   5.0 s\n",
            "thresholds    raised above 100 ms, lowered below 25 ms\n",
            "decision      raise it to 2 copies; they would be on hot-1, hot-2\n",
            "because       first\n              second\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn who_decided_in_a_word() {
        let hot = TierInfo { tier: TierRule::Hot, copies: 2, ..info() };
        let lowered = TierInfo { lowered_until_ms: Some(1), ..info() };
        let heat = TierInfo { raised_by: Some(RaisedBy::Heat), ..info() };
        assert_eq!([by(&hot), by(&lowered), by(&heat), by(&info())], ["rule", "lowered", "heat", "pin"]);
    }
}
