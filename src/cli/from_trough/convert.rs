//! What each setting of Trough becomes.

use super::{
    lambda,
    settings::{Setting, Settings},
};

/// A line of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// A key of ours, if the role has it. `from`: the settings that say so.
    Key { key: &'static str, value: String, from: String },
    /// What a person has to know.
    Note(String),
    /// A rule that a person has to look at, as TOML.
    Rule { why: String, members: Vec<(&'static str, String)> },
}

/// Every setting that Trough has.
const KNOWN: [&str; 30] = [
    "COLD_STORAGE_PATH",
    "COLD_STORE_SEGMENT",
    "COPY_THREAD_POOL_SIZE",
    "ELECTION_CYCLE",
    "EXTERNAL_IP",
    "HDFS_HOST",
    "HDFS_PATH",
    "HDFS_PORT",
    "HOSTNAME",
    "HOST_CHECK_WAIT_PERIOD",
    "LOCAL_DATA",
    "LOG_LEVEL",
    "MAXIMUM_ASSIGNMENTS",
    "MINIMUM_ASSIGNMENTS",
    "READ_DATABASE_DNS_TTL",
    "READ_NODE_DNS_TTL",
    "READ_PORT",
    "READ_THREADS",
    "RETHINKDB_HOSTS",
    "ROLE",
    "RUN_AS_COLD_STORAGE_NODE",
    "SEGMENT_INITIALIZATION_SQL",
    "SENTRY_DSN",
    "STORAGE_IN_BYTES",
    "SYNC_LOCAL_PORT",
    "SYNC_LOOP_TIMING",
    "SYNC_PORT",
    "SYNC_SERVER_PORT",
    "WRITE_PORT",
    "WRITE_THREADS",
];

/// Settings that Trough does not have, with their lines.
pub(super) fn unknown(settings: &Settings) -> Vec<(usize, &str)> {
    settings.names().filter(|(_, name)| !KNOWN.contains(name)).collect()
}

struct Conversion<'s> {
    settings: &'s Settings,
    lines: Vec<Line>,
}

/// The settings as lines for any role.
pub(super) fn lines(settings: &Settings) -> Vec<Line> {
    let mut conversion = Conversion { settings, lines: Vec::new() };
    conversion.store();
    conversion.local_data();
    // The first rule that matches holds: what is cold has no copies.
    conversion.cold();
    conversion.copies();
    conversion.ports();
    conversion.others();
    conversion.without_limits();
    conversion.lines
}

impl Conversion<'_> {
    fn key(&mut self, key: &'static str, value: impl Into<String>, from: impl Into<String>) {
        self.lines.push(Line::Key { key, value: value.into(), from: from.into() });
    }

    fn note(&mut self, text: impl Into<String>) {
        self.lines.push(Line::Note(text.into()));
    }

    /// A text, or Trough's default.
    fn text(&self, name: &str, default: &str) -> String {
        self.settings.get(name).map_or_else(|| default.to_owned(), Setting::shown)
    }

    fn number(&mut self, name: &str) -> Option<i64> {
        match self.settings.get(name)? {
            Setting::Number(number) => Some(*number),
            // In its own defaults some numbers are texts.
            Setting::Text(text) if text.trim().parse::<i64>().is_ok() => text.trim().parse().ok(),
            other => {
                let shown = other.shown();
                self.note(format!("{name} is no whole number ({shown}): left out."));
                None
            }
        }
    }

    fn truth(&self, name: &str) -> bool {
        match self.settings.get(name) {
            None => false,
            Some(Setting::Truth(truth)) => *truth,
            Some(Setting::Number(number)) => *number != 0,
            Some(Setting::Text(text)) => !text.is_empty(),
            Some(Setting::List(list)) => !list.is_empty(),
            Some(Setting::Nothing | Setting::Strange) => false,
        }
    }

    fn store(&mut self) {
        let host = self.text("HDFS_HOST", "localhost");
        let port = self.text("HDFS_PORT", "8020");
        let path = self.text("HDFS_PATH", "/tmp/trough");
        let path = path.trim_matches('/');
        self.key("store", format!("hdfs://{host}:{port}/{path}"), "HDFS_HOST, HDFS_PORT, HDFS_PATH");
        self.note(
            "The layout is the same: {prefix}/{segment}.sqlite below HDFS_PATH. On a cluster with two NameNodes \
             write hdfs://NAMESERVICE/path and set hadoop_conf; act as the user that owns the files with \
             hadoop_user.",
        );
    }

    fn local_data(&mut self) {
        let local = self.text("LOCAL_DATA", "/var/tmp/trough");
        // Beside, not inside: Trough takes every name in its directory for a segment.
        self.key("data", format!("{}-springhouse", local.trim_end_matches('/')), "beside LOCAL_DATA");
        self.note(format!(
            "Nothing in {local} is touched or read. Segments that Trough has written and not promoted are \
             there alone: docs/MIGRATING-FROM-TROUGH.md says how to take them over."
        ));
        match self.number("STORAGE_IN_BYTES") {
            Some(bytes) => self.key("quota", format!("{bytes}B"), "STORAGE_IN_BYTES"),
            None => self.note("STORAGE_IN_BYTES is not set: 80 % of the disk, here as there."),
        }
        if let Some(copies) = self.number("COPY_THREAD_POOL_SIZE") {
            self.key("copy_parallelism", copies.to_string(), "COPY_THREAD_POOL_SIZE");
        }
    }

    fn copies(&mut self) {
        // Trough fails where the maximum is less than the minimum; `config check` too.
        let mut least = 0;
        for (name, key) in
            [("MINIMUM_ASSIGNMENTS", "copies_minimum"), ("MAXIMUM_ASSIGNMENTS", "copies_maximum")]
        {
            let lambda = match self.settings.get(name) {
                Some(Setting::Text(text)) if lambda::is_lambda(text) => Some(text.clone()),
                _ => None,
            };
            let (number, from) = match lambda.as_deref().map(|text| (text, lambda::choice(text))) {
                Some((text, Some(choice))) => {
                    let from = format!("{name}: {text}");
                    if let Some(pattern) = choice.when.pattern() {
                        let members = vec![("pattern", pattern), (key, choice.then.to_string())];
                        self.lines.push(Line::Rule { why: from.clone(), members });
                    }
                    least = least.max(choice.then.into());
                    (choice.otherwise.into(), from)
                }
                Some((text, None)) => {
                    self.note(format!(
                        "{name} is a program: {text}. Rules are data: write a [[rule]] with `prefix` or `pattern` \
                         and `{key}` for each case."
                    ));
                    continue;
                }
                None => match (self.settings.get(name).is_some(), self.number(name)) {
                    (true, Some(number)) => (number, name.to_owned()),
                    (true, None) => continue,
                    (false, _) => (2, format!("{name}, as Trough has it where it is not set")),
                },
            };
            if key == "copies_minimum" {
                least = least.max(number);
                self.key(key, number.to_string(), from);
            } else {
                self.key(key, number.max(least).to_string(), from);
            }
        }
        self.note(
            "In Trough every segment has its copies. Here those have some that are asked often, raised by hand \
             (springhouse segment raise), or named by a rule with tier = \"hot\"; all others are read in place.",
        );
    }

    fn cold(&mut self) {
        match self.settings.get("COLD_STORE_SEGMENT") {
            Some(Setting::Text(text)) if lambda::is_lambda(text) => {
                let text = text.clone();
                match lambda::range(&text).and_then(lambda::Range::pattern) {
                    Some(pattern) => self.lines.push(Line::Rule {
                        why: format!("COLD_STORE_SEGMENT: {text}"),
                        members: vec![("pattern", pattern), ("tier", "cold".into())],
                    }),
                    None => self.note(format!(
                        "COLD_STORE_SEGMENT is a program: {text}. Write the ids that it is true for as a \
                         [[rule]] with `prefix`, `pattern` or `older_than` and tier = \"cold\"."
                    )),
                }
            }
            _ if self.truth("COLD_STORE_SEGMENT") => self.lines.push(Line::Rule {
                why: "COLD_STORE_SEGMENT: every segment".into(),
                members: vec![("tier", "cold".into())],
            }),
            _ => {}
        }
        let is_cold = self.truth("RUN_AS_COLD_STORAGE_NODE");
        if self.settings.get("RUN_AS_COLD_STORAGE_NODE").is_some() {
            self.key("tier", if is_cold { "cold" } else { "hot" }, "RUN_AS_COLD_STORAGE_NODE");
        } else {
            self.key(
                "tier",
                "hot,cold",
                "RUN_AS_COLD_STORAGE_NODE, which is not set; \"hot\" is what it means",
            );
        }
        if let Some(path) = self.settings.get("COLD_STORAGE_PATH") {
            let path = path.shown();
            self.note(format!(
                "COLD_STORAGE_PATH is {path}: no longer needed, a cold worker mounts the store by itself. Segments \
                 are looked for in the whole store, wherever they lie."
            ));
        }
    }

    fn ports(&mut self) {
        for (name, key, default) in [
            ("READ_PORT", "trough_read", 6444),
            ("WRITE_PORT", "trough_write", 6222),
            ("SYNC_SERVER_PORT", "trough_manager", 6111),
            ("SYNC_LOCAL_PORT", "trough_local", 6112),
        ] {
            let port = match self.settings.get(name) {
                Some(_) => self.number(name),
                None => Some(default),
            };
            if let Some(port) = port {
                self.key(key, format!("0.0.0.0:{port}"), name);
            }
        }
    }

    fn others(&mut self) {
        if let Some(name) = self.settings.get("HOSTNAME") {
            let name = name.shown();
            self.key("worker_name", name, "HOSTNAME");
        }
        if let Some(ip) = self.settings.get("EXTERNAL_IP") {
            let ip = ip.shown();
            self.note(format!(
                "EXTERNAL_IP is {ip}: of a worker on another host than its gateway give listen = \
                 \"0.0.0.0:6200\", advertise = \"http://{ip}:6200\", gateway and cluster_secret_file."
            ));
        }
        if let Some(level) = self.settings.get("LOG_LEVEL") {
            let log = match &*level.shown().to_ascii_uppercase() {
                "TRACE" | "NOTSET" => "trace",
                "DEBUG" => "debug",
                "WARN" | "WARNING" => "warn",
                "ERROR" | "CRITICAL" | "FATAL" => "error",
                _ => "info",
            };
            self.key("log", log, "LOG_LEVEL");
        }
        for (name, why) in [
            (
                "RETHINKDB_HOSTS",
                "there is no RethinkDB: the gateway has its registry itself. Schemas that are in it have to be registered again",
            ),
            ("ELECTION_CYCLE", "there is one gateway, and no election"),
            (
                "SYNC_LOOP_TIMING",
                "nothing walks over all segments: discovery_interval (10s) says how soon a change in HDFS is seen",
            ),
            ("HOST_CHECK_WAIT_PERIOD", "workers come to the gateway"),
            ("READ_THREADS", "query_threads follows the processors"),
            ("WRITE_THREADS", "each segment that is written has one writer"),
            ("READ_NODE_DNS_TTL", "nothing reads it in Trough either"),
            ("READ_DATABASE_DNS_TTL", "nothing reads it in Trough either"),
            ("SEGMENT_INITIALIZATION_SQL", "register it as a schema: springhouse schema put NAME FILE"),
            ("ROLE", "a role is a subcommand: gateway, worker, serve"),
            ("SYNC_PORT", "see trough_manager"),
            ("SENTRY_DSN", "errors are in the log (log_format = \"json\") and in /metrics"),
        ] {
            if self.settings.get(name).is_some() {
                self.note(format!("{name} has no counterpart: {why}."));
            }
        }
        let unknown: Vec<String> = unknown(self.settings)
            .into_iter()
            .map(|(line, name)| format!("{name} (line {line}) is no setting of Trough: left out."))
            .collect();
        self.lines.extend(unknown.into_iter().map(Line::Note));
    }

    /// Trough has no limits, and its clients none in mind.
    fn without_limits(&mut self) {
        for (key, value) in [
            ("deadline_max", "10m"),
            ("body_size_max", "64MiB"),
            ("query_timeout_max", "10m"),
            ("rows_max", "1000000000"),
            ("answer_size_max", "16GiB"),
            ("sql_statement_size_max", "64MiB"),
            ("sql_columns_max", "2000"),
            ("sql_expression_depth_max", "1000"),
            ("sql_compound_selects_max", "500"),
            ("sql_like_pattern_size_max", "50000B"),
        ] {
            self.key(key, value, "Trough has no such limits; the defaults are lower");
        }
    }
}
