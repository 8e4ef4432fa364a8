//! Settings of all kinds, and what becomes of them.

use proptest::prelude::*;

use super::{For, convert, lambda, lambda::Range, settings::Settings, toml};
use crate::config::{resolve::check_file, roles};

fn settings(text: &str) -> Settings {
    Settings::parse(text).expect("settings")
}

/// All problems of the three results.
fn problems(text: &str) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = settings(text);
    let mut problems = Vec::new();
    for role in For::ALL {
        let path = dir.path().join(format!("{}.toml", role.name()));
        std::fs::write(&path, toml(&settings, role)).expect("a file");
        let found = match role {
            For::Gateway => check_file::<roles::Gateway>(&path),
            For::Worker => check_file::<roles::Worker>(&path),
            For::Serve => check_file::<roles::Serve>(&path),
        };
        problems.extend(found.iter().map(ToString::to_string));
    }
    problems
}

/// The settings of Trough's own sample.
const SAMPLE: &str = r#"HDFS_PATH: /ait/prod/trough/
HDFS_HOST: namenode
HDFS_PORT: 6000
MINIMUM_ASSIGNMENTS: "lambda segment_id: 2 if segment_id.isnumeric() and int(segment_id) > 200000 else 1"
COLD_STORE_SEGMENT: "lambda segment_id: segment_id.isnumeric() and int(segment_id) < 600000"
RUN_AS_COLD_STORAGE_NODE: True
COLD_STORAGE_PATH: "/var/trough/cold_storage/{prefix}/{segment_id}"
"#;

#[test]
fn troughs_own_sample() {
    let serve = toml(&settings(SAMPLE), For::Serve);
    for line in [
        "store = \"hdfs://namenode:6000/ait/prod/trough\"",
        "tier = \"cold\"",
        "data = \"/var/tmp/trough-springhouse/serve\"",
        "[trough]",
        "read = \"0.0.0.0:6444\"",
        "manager = \"0.0.0.0:6111\"",
        "#[[rule]]",
        "#tier = 'cold'",
        "#pattern = '[1-5][0-9]{5}|[1-9][0-9]{0,4}|0'",
        "#copies_minimum = 2",
    ] {
        assert!(serve.lines().any(|found| found == line), "{line:?} is not in\n{serve}");
    }
    assert_eq!(problems(SAMPLE), Vec::<String>::new());
}

#[test]
fn nothing_at_all_is_troughs_defaults() {
    for text in ["", "# only a comment\n", "---\n"] {
        assert!(toml(&settings(text), For::Gateway).contains("store = \"hdfs://localhost:8020/tmp/trough\""));
        assert_eq!(problems(text), Vec::<String>::new(), "{text:?}");
    }
}

#[test]
fn every_setting_is_converted_or_named() {
    let text = "LOCAL_DATA: /data/trough/\nREAD_THREADS: '10'\nWRITE_THREADS: '5'\nELECTION_CYCLE: 10\n\
                READ_PORT: 7444\nWRITE_PORT: 7222\nSYNC_SERVER_PORT: 7111\nSYNC_LOCAL_PORT: 7112\n\
                EXTERNAL_IP: 10.1.2.3\nHOST_CHECK_WAIT_PERIOD: 5\nSTORAGE_IN_BYTES: 1000000000\n\
                HOSTNAME: hot-1\nREAD_NODE_DNS_TTL: 600\nSYNC_LOOP_TIMING: 120\nRETHINKDB_HOSTS: [a, b]\n\
                MINIMUM_ASSIGNMENTS: 3\nMAXIMUM_ASSIGNMENTS: 5\nSENTRY_DSN: https://x\nLOG_LEVEL: WARNING\n\
                RUN_AS_COLD_STORAGE_NODE: no\nCOLD_STORE_SEGMENT: off\nCOPY_THREAD_POOL_SIZE: 4\n\
                READ_PROT: 1\n";
    let worker = toml(&settings(text), For::Worker);
    for line in [
        "data = \"/data/trough-springhouse/worker\"",
        "quota = \"1000000000B\"",
        "copy_parallelism = 4",
        "worker_name = \"hot-1\"",
        "tier = \"hot\"",
        "log = \"warn\"",
    ] {
        assert!(worker.lines().any(|found| found == line), "{line:?} is not in\n{worker}");
    }
    assert!(!worker.contains("[trough]"), "a worker has no such ports");
    let gateway = toml(&settings(text), For::Gateway);
    for line in ["read = \"0.0.0.0:7444\"", "local = \"0.0.0.0:7112\""] {
        assert!(gateway.lines().any(|found| found == line), "{line:?} is not in\n{gateway}");
    }
    for name in ["RETHINKDB_HOSTS", "ELECTION_CYCLE", "SENTRY_DSN", "READ_PROT (line 23)", "10.1.2.3"] {
        assert!(gateway.contains(name), "{name}");
    }
    assert_eq!(convert::unknown(&settings(text)), [(23, "READ_PROT")]);
    assert_eq!(problems(text), Vec::<String>::new());
}

/// Where a maximum is not set it is 2 in Trough, whatever the minimum is.
#[test]
fn no_maximum_is_below_its_minimum() {
    for text in ["MINIMUM_ASSIGNMENTS: 3\n", "MINIMUM_ASSIGNMENTS: 'lambda s: 5 if int(s) < 9 else 1'\n"] {
        assert_eq!(problems(text), Vec::<String>::new(), "{text}");
        // Also when the rules are let in.
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("serve.toml");
        let rules =
            toml(&settings(text), For::Serve).replace("\n#[[", "\n[[").replace("\n#pattern", "\npattern");
        std::fs::write(&path, rules.replace("\n#copies", "\ncopies")).expect("a file");
        assert_eq!(check_file::<roles::Serve>(&path), [], "{text}");
    }
}

#[test]
fn what_cannot_be_is_told_and_left_out() {
    let text = "STORAGE_IN_BYTES: 5\nREAD_PORT: 99999\nWRITE_PORT: many\nCOPY_THREAD_POOL_SIZE: 1000\n\
                HDFS_HOST: 'two words'\nMINIMUM_ASSIGNMENTS: \"lambda s: \\n\\\"\\\"\\\" weird\"\n";
    let serve = toml(&settings(text), For::Serve);
    for told in [
        "STORAGE_IN_BYTES: 5B is too small for quota",
        "READ_PORT: 0.0.0.0:99999",
        "WRITE_PORT is no whole number",
    ] {
        assert!(serve.replace("\n# ", " ").contains(told), "{told:?} is not in\n{serve}");
    }
    // The manager's answers would name a write port that is not open: left to be seen by `config check`.
    assert!(problems(text).iter().all(|problem| problem.contains("trough_write")), "{:?}", problems(text));
}

#[test]
fn what_is_no_settings_file() {
    for (text, why) in [
        ("a: [", "is not YAML"),
        ("- a\n- b\n", "holds no settings"),
        ("text", "holds no settings"),
        ("A: 1\n---\nB: 2\n", "several"),
        ("A: 1\nA: 2\n", "is not YAML"),
    ] {
        let error = Settings::parse(text).map(|_| ()).expect_err(text);
        assert!(error.contains(why), "{text:?}: {error}");
    }
}

#[test]
fn lambdas_of_the_usual_shape() {
    for (text, range) in [
        ("lambda s: int(s) < 600000", Some(Range::Below(600_000))),
        ("lambda segment_id: segment_id.isnumeric() and int(segment_id) <= 5", Some(Range::Below(6))),
        ("lambda s: s.isdigit() and int(s) >= 1_000", Some(Range::From(1000))),
        ("lambda s: int(s) > 9", Some(Range::From(10))),
        ("lambda s: int(t) < 5", None),
        ("lambda s: s.startswith('x') and int(s) < 5", None),
        ("lambda s: int(s) == 5", None),
        ("lambda s: int(s) < 5 or True", None),
        ("lambda s: len(s) < 5", None),
        ("lambda: 5", None),
    ] {
        assert_eq!(lambda::range(text), range, "{text}");
    }
    let choice = lambda::choice("lambda s: 2 if int(s) > 9 else 1").expect("a choice");
    assert_eq!((choice.then, choice.when, choice.otherwise), (2, Range::From(10), 1));
    assert_eq!(lambda::choice("lambda s: f(s) if int(s) > 9 else 1"), None);
}

proptest! {
    /// The pattern of a range matches just the numbers in it.
    #[test]
    fn patterns_are_their_ranges(limit in prop_oneof![0_u64..120, 0_u64..2_000_000], number in prop_oneof![0_u64..150, 0_u64..3_000_000]) {
        for (range, inside) in [(Range::Below(limit), number < limit), (Range::From(limit), number >= limit)] {
            let matches = range.pattern().is_some_and(|pattern| {
                fancy_regex::Regex::new(&format!("^(?:{pattern})$")).expect("a pattern").is_match(&number.to_string()).expect("it ends")
            });
            prop_assert_eq!(matches, inside, "{:?} {:?} {}", range, range.pattern(), number);
        }
    }

    /// Whatever stands in the file, the result is TOML that nobody's text has broken out of.
    #[test]
    fn any_text_is_only_a_text(value in "[ -~äöü\\n\\t\"'#\\[\\]=]{0,40}") {
        let yaml = format!("HOSTNAME: {0}\nMINIMUM_ASSIGNMENTS: {0}\nEXTERNAL_IP: {0}\nHDFS_HOST: {0}\n", serde_json::to_string(&value).expect("JSON"));
        let Ok(settings) = Settings::parse(&yaml) else { return Ok(()) };
        for role in For::ALL {
            let text = toml(&settings, role);
            prop_assert!(toml_edit::Document::parse(text.as_str()).is_ok(), "{}", text);
        }
    }
}
