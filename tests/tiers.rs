//! Which segments are hot: by demand, by rules, by hand; docs/SEMANTICS.md.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    harness::{
        cluster::{Gateway, Worker},
        eventually, file_url as url,
        http::{Api, Reply, path_of},
        process, scratch, segments, springhouse,
    },
    registry::tests,
};

tests! {
    [] raised_and_lowered_by_demand, people_win, cold_range, grown_old, copies_by_rule, listed_page_by_page;
}

const LIMIT: Duration = Duration::from_secs(120);
const SQL: &str = "create table t (id integer primary key); insert into t values (1), (2)";
/// Some milliseconds of work, so that an answer takes longer than the copy of such a small segment is taken to.
const WORK: &str =
    "with recursive c(n) as (select 1 union all select n + 1 from c limit 50000) select max(n) from c";

/// A gateway with this in its configuration file.
fn gateway(store: &str, dir: &Path, config: &str) -> Gateway {
    let file = dir.join("gateway.toml");
    fs::write(&file, config).expect("a file");
    Gateway::with(store, &["--config", &file.display().to_string()])
}

fn cold(store: &str, gateway: &Gateway) -> Worker {
    Worker::with(store, gateway, "cold-1", &["--access", "direct"])
}

/// Status and code of an error.
fn refused(reply: &Reply) -> (u16, String) {
    let code = reply.json()["error"]["code"].as_str().map(str::to_owned);
    (reply.status, code.unwrap_or_else(|| panic!("no error: {} {}", reply.status, reply.body)))
}

fn tier(api: &Api, segment: &str) -> Value {
    api.get(&path_of(segment, "tier")).good()
}

/// Workers whose copy of the segment answers.
fn available(api: &Api, segment: &str) -> Vec<String> {
    let shown = api.get(&format!("/v1/segments/{segment}")).json();
    let copies = shown["copies"].as_array().cloned().unwrap_or_default();
    let there = copies.iter().filter(|copy| copy["state"] == "available");
    there.filter_map(|copy| copy["worker"].as_str().map(str::to_owned)).collect()
}

fn reasons(info: &Value) -> String {
    let reasons = info["reasons"].as_array().expect("reasons");
    reasons.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
}

/// What `springhouse tiers …` prints.
fn tiers(gateway: &Gateway, args: &[&str]) -> String {
    let mut command = springhouse();
    command.arg("tiers").args(args).env("SPRINGHOUSE_GATEWAY", gateway.api().base());
    let output = process::run(command, Duration::from_secs(30));
    assert!(output.success(), "{args:?}: {output:?}");
    output.stdout
}

fn in_store(root: &Path, segment: &str) -> PathBuf {
    root.join(segments::relative_path(segment))
}

/// Makes the file of a segment look as if it was modified so long ago.
fn age(root: &Path, segment: &str, age: Duration) {
    let file = fs::File::options().write(true).open(in_store(root, segment)).expect("a segment");
    file.set_modified(SystemTime::now() - age).expect("a time");
}

/// A cold segment that is asked all the time gets a copy by itself and is answered from it; that outlives the
/// gateway; after a silence the copy goes.
fn raised_and_lowered_by_demand() {
    let (root, dir) = (scratch(), scratch());
    segments::from_sql(root.path(), "busy001", SQL);
    segments::from_sql(root.path(), "idle001", SQL);
    let store = url(root.path());
    let config = "heat_half_life = \"10s\"\nheat_horizon = \"1m\"\nheat_queries_min = 3\nheat_interval = \"100ms\"\n\
                  heat_stay_min = \"0s\"\n";
    let mut gateway = gateway(&store, dir.path(), config);
    let (_cold, _hot) = (cold(&store, &gateway), Worker::hot(&store, &gateway, "hot-1"));
    gateway.wait_workers(&["cold-1", "hot-1"]);
    let api = gateway.api();
    api.post("/v1/discovery", &json!({})).good();
    assert_eq!(api.query("idle001", "select count(*) from t").worker, "cold-1");
    assert_eq!(api.query("busy001", WORK).worker, "cold-1");
    let asleep = tier(api, "busy001");
    assert_eq!(
        (&asleep["action"], &asleep["copies"], &asleep["tier"]),
        (&json!("none"), &json!(0), &json!("heat"))
    );
    assert!(reasons(&asleep).contains("must be 3 times before anything is copied"), "{asleep}");

    eventually("the copy answers", LIMIT, || (api.query("busy001", WORK).worker == "hot-1").then_some(()));
    // So hot that it stays for many half-lives, should what follows take its time.
    (0..100).for_each(|_| drop(api.query("busy001", WORK)));
    let raised = tier(api, "busy001");
    assert_eq!((&raised["raised_by"], &raised["assigned"]), (&json!("heat"), &json!(["hot-1"])), "{raised}");
    let listed = tiers(&gateway, &["list"]);
    assert!(
        listed.lines().nth(1).is_some_and(|line| line.starts_with("busy001 ") && line.contains("heat")),
        "{listed}"
    );
    let listed: Value = serde_json::from_str(&tiers(&gateway, &["list", "--json"])).expect("JSON");
    assert_eq!((&listed["total"], &listed["segments"][0]["segment"]), (&json!(1), &json!("busy001")));
    assert!(api.metric("springhouse_gateway_tier_changes_total", "what=\"raised\"") >= 1.0);
    assert_eq!(tier(api, "idle001")["copies"], 0, "nobody asked for it");

    // It is written down, and a gateway that knows nothing yet takes nothing down.
    gateway.kill();
    gateway.start_again();
    let api = gateway.api();
    let again = eventually("the gateway knows the segment", LIMIT, || {
        let reply = api.get(&path_of("busy001", "tier"));
        (reply.status == 200).then(|| reply.json())
    });
    assert_eq!((&again["raised_by"], &again["copies"]), (&json!("heat"), &json!(1)), "{again}");
    eventually("it is lowered again", LIMIT, || {
        let info = tier(api, "busy001");
        (info["raised_by"].is_null() && info["copies"] == 0).then_some(())
    });
    eventually("the copy goes", LIMIT, || available(api, "busy001").is_empty().then_some(()));
    eventually("it is read in place", LIMIT, || {
        (api.query("busy001", "select count(*) from t").worker == "cold-1").then_some(())
    });
}

/// What people raise, lower and pin stays so whatever heat says, and `explain` says why.
fn people_win() {
    let (root, dir) = (scratch(), scratch());
    segments::from_sql(root.path(), "seg001", SQL);
    let store = url(root.path());
    let config =
        "heat_half_life = \"1h\"\nheat_queries_min = 1\nheat_interval = \"100ms\"\nlowered_for = \"1h\"\n";
    let gateway = gateway(&store, dir.path(), config);
    let (_cold, _hot) = (cold(&store, &gateway), Worker::hot(&store, &gateway, "hot-1"));
    gateway.wait_workers(&["cold-1", "hot-1"]);
    let api = gateway.api();
    api.post("/v1/discovery", &json!({})).good();
    api.post(&path_of("seg001", "lower"), &json!({})).good();
    for _ in 0..20 {
        assert_eq!(api.query("seg001", WORK).worker, "cold-1");
    }
    let explained = tiers(&gateway, &["explain", "seg001"]);
    for text in
        ["decision      nothing changes\n", "it was lowered by hand", "lowered       by hand, until 2"]
    {
        assert!(explained.contains(text), "{text:?} is not in\n{explained}");
    }
    eventually("it is hot all the same", LIMIT, || {
        (tier(api, "seg001")["queries"].as_f64() >= Some(19.0)).then_some(())
    });
    api.post(&path_of("seg001", "raise"), &json!({})).good();
    let raised = tier(api, "seg001");
    assert_eq!((&raised["raised_by"], &raised["copies"]), (&json!("hand"), &json!(1)), "{raised}");
    assert!(reasons(&raised).contains("raised to 1 copy by hand"), "{raised}");
    let missing = api.post(&path_of("nowhere", "raise"), &json!({}));
    assert_eq!(refused(&missing), (404, "segment_not_found".into()));
    assert_eq!(refused(&api.get(&path_of("nowhere", "tier"))), (404, "segment_not_found".into()));
}

/// The cold range is never hot, and cannot be written; rules are told in their order.
fn cold_range() {
    let (root, dir) = (scratch(), scratch());
    for segment in ["arc001", "old001", "new001"] {
        segments::from_sql(root.path(), segment, SQL);
    }
    age(root.path(), "old001", Duration::from_secs(3 * 86_400));
    let store = url(root.path());
    let config = "[[rule]]\nname = \"archive\"\nprefix = \"arc\"\ntier = \"cold\"\n\
                  [[rule]]\nname = \"aged\"\npattern = '(old|new)[0-9]+'\nolder_than = \"2days\"\ntier = \"cold\"\n";
    let gateway = gateway(&store, dir.path(), config);
    let (_cold, _hot) = (cold(&store, &gateway), Worker::hot(&store, &gateway, "hot-1"));
    gateway.wait_workers(&["cold-1", "hot-1"]);
    let api = gateway.api();
    api.post("/v1/discovery", &json!({})).good();
    for (segment, rule) in [("arc001", "archive"), ("arc999", "archive"), ("old001", "aged")] {
        let refusal = api.post(&path_of(segment, "provision"), &json!({}));
        assert_eq!(refused(&refusal), (409, "cold_range".into()), "{segment}");
        assert!(refusal.body.contains(rule), "{}", refusal.body);
    }
    let raise = api.post(&path_of("old001", "raise"), &json!({}));
    assert_eq!(refused(&raise), (409, "cold_range".into()));
    let pin = api.send(Method::PUT, &path_of("old001", "pin/hot-1"), &[], None).expect("an answer");
    assert_eq!(refused(&pin), (409, "cold_range".into()));
    assert_eq!(api.query("old001", "select count(*) from t").worker, "cold-1");
    api.post(&path_of("new001", "provision"), &json!({})).good();

    let explained = tiers(&gateway, &["explain", "arc001"]);
    assert!(explained.contains("rule \"archive\", tier = \"cold\": it never has hot copies"), "{explained}");
    let rules = tiers(&gateway, &["rules"]);
    let lines: Vec<&str> = rules.lines().collect();
    assert!(lines[1].starts_with("archive ") && lines[1].contains("arc*"), "{rules}");
    assert!(
        lines[2].starts_with("aged ") && lines[2].contains("/(old|new)[0-9]+/, older than 2days"),
        "{rules}"
    );
    assert!(lines[3].starts_with("(none) ") && lines[3].contains("all others"), "{rules}");
    let list = api.get("/v1/rules").json();
    assert_eq!(
        (&list["rules"][1]["older_than_ms"], &list["otherwise"]["tier"]),
        (&json!(172_800_000), &json!("heat"))
    );
}

/// A segment that grows old while it has a copy loses it.
fn grown_old() {
    let (root, dir) = (scratch(), scratch());
    segments::from_sql(root.path(), "seg001", SQL);
    let store = url(root.path());
    let config =
        "heat_interval = \"100ms\"\n[[rule]]\nname = \"aged\"\nolder_than = \"20s\"\ntier = \"cold\"\n";
    // Made some years in the future, so that it does not age while the test is slow; and then long ago.
    let year = Duration::from_secs(365 * 86_400);
    let file = fs::File::options().write(true).open(in_store(root.path(), "seg001")).expect("a segment");
    file.set_modified(SystemTime::now() + year).expect("a time");
    let gateway = gateway(&store, dir.path(), config);
    let (_cold, _hot) = (cold(&store, &gateway), Worker::hot(&store, &gateway, "hot-1"));
    gateway.wait_workers(&["cold-1", "hot-1"]);
    let api = gateway.api();
    eventually("it is raised", LIMIT, || {
        (api.post(&path_of("seg001", "raise"), &json!({})).status == 200).then_some(())
    });
    eventually("it has a copy", LIMIT, || (available(api, "seg001") == ["hot-1"]).then_some(()));
    // Nothing but its age is to change: twenty seconds old in some moments.
    file.set_modified(SystemTime::now()).expect("a time");
    api.post("/v1/discovery?full=true", &json!({})).good();
    // With its new time it is another version, which is copied first: for a moment there may be no copy.
    eventually("its copy goes", LIMIT, || {
        let info = tier(api, "seg001");
        let told = (&info["rule"], &info["copies"], &info["assigned"]);
        (told == (&json!("aged"), &json!(0), &json!([])) && available(api, "seg001").is_empty()).then_some(())
    });
}

/// Numbers of copies by prefix, on three workers; a rule that keeps segments hot needs nobody to ask.
fn copies_by_rule() {
    let (root, dir) = (scratch(), scratch());
    for segment in ["two001", "one001", "hot001"] {
        segments::from_sql(root.path(), segment, SQL);
    }
    let store = url(root.path());
    let config = "heat_interval = \"100ms\"\ncopies_maximum = 3\n\
                  [[rule]]\nname = \"pairs\"\nprefix = \"two\"\ncopies_minimum = 2\n\
                  [[rule]]\nname = \"single\"\nprefix = \"one\"\ncopies_maximum = 1\n\
                  [[rule]]\nname = \"always\"\nprefix = \"hot\"\ntier = \"hot\"\ncopies_minimum = 3\n";
    let gateway = gateway(&store, dir.path(), config);
    let hot: Vec<Worker> = ["hot-1", "hot-2", "hot-3"].map(|name| Worker::hot(&store, &gateway, name)).into();
    gateway.wait_workers(&["hot-1", "hot-2", "hot-3"]);
    let api = gateway.api();
    eventually("a rule's segment is on all three", LIMIT, || {
        (available(api, "hot001").len() == 3).then_some(())
    });
    // Also one that comes later, and in its new version.
    segments::from_sql(root.path(), "hot002", SQL);
    eventually("a new one too", LIMIT, || (available(api, "hot002").len() == 3).then_some(()));
    let answer = api.post(&path_of("two001", "raise"), &json!({})).good();
    assert_eq!(
        (&answer["copies"], answer["assigned"].as_array().map(Vec::len)),
        (&json!(2), Some(2)),
        "{answer}"
    );
    eventually("both answer", LIMIT, || (available(api, "two001").len() == 2).then_some(()));
    let few = api.post(&path_of("two001", "raise"), &json!({ "copies": 1 }));
    assert_eq!(refused(&few), (400, "bad_request".into()));
    assert!(few.body.contains("2 to 3") && few.body.contains("pairs"), "{}", few.body);
    let many = api.post(&path_of("one001", "raise"), &json!({ "copies": 2 }));
    assert!(many.status == 400 && many.body.contains("single"), "{}", many.body);
    api.post(&path_of("one001", "raise"), &json!({})).good();
    eventually("one answers", LIMIT, || (available(api, "one001").len() == 1).then_some(()));
    let explained = tiers(&gateway, &["explain", "hot001"]);
    assert!(explained.contains("tier = \"hot\": it always has 3 copies at least"), "{explained}");
    drop(hot);
}

/// Pages together have each segment once, the hottest first; whatever the command or a program asks for.
fn listed_page_by_page() {
    let root = scratch();
    let ids: Vec<String> = (1..=5).map(|n| format!("seg00{n}")).collect();
    ids.iter().for_each(|id| drop(segments::from_sql(root.path(), id, SQL)));
    let store = url(root.path());
    let gateway = Gateway::of(&store);
    let api = gateway.api();
    let _cold = cold(&store, &gateway);
    gateway.wait_workers(&["cold-1"]);
    for (id, asked) in [("seg004", 2), ("seg002", 1)] {
        (0..asked).for_each(|_| drop(api.query(id, "select count(*) from t")));
    }
    // An answer is counted when its body has gone, which may be after the client has it.
    eventually("both are counted", LIMIT, || {
        let asked = |id: &str| tier(api, id)["queries"].as_f64();
        (asked("seg004") > Some(1.5) && asked("seg002") > Some(0.5)).then_some(())
    });
    ids.iter().for_each(|id| drop(api.post(&path_of(id, "raise"), &json!({ "copies": 1 })).good()));
    let expected = ["seg004", "seg002", "seg001", "seg003", "seg005"];
    for limit in 1..=6 {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = api.get(&format!("/v1/tiers?limit={limit}{after}")).good();
            let segments = page["segments"].as_array().expect("a list");
            assert!(segments.len() <= limit && page["total"] == 5, "{page}");
            seen.extend(segments.iter().map(|info| info["segment"].as_str().expect("an id").to_owned()));
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        assert_eq!(seen, expected, "{limit}");
    }
    let first = tiers(&gateway, &["list", "--limit", "2"]);
    assert!(first.contains("2 of 5 shown: --limit N, --all or --after "), "{first}");
    let next = first.trim().rsplit(' ').next().expect("a word");
    let second = tiers(&gateway, &["list", "--limit", "2", "--after", next]);
    assert!(second.contains("seg001") && second.contains("seg003") && !second.contains("seg002"), "{second}");
    let all: Value = serde_json::from_str(&tiers(&gateway, &["list", "--all", "--json"])).expect("one page");
    assert_eq!((all["segments"].as_array().map(Vec::len), &all["next"]), (Some(5), &Value::Null));
    let bad = api.get("/v1/tiers?after=nonsense");
    assert_eq!(refused(&bad), (400, "bad_request".into()));
}
