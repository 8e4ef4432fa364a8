//! `springhouse query`, for people at a terminal and for programs behind a pipe.

use std::{fs, process::Command, time::Duration};

use serde_json::{Value, json};

use crate::{
    harness::{
        cluster::Serve,
        file_url,
        process::{self, Output},
        scratch, segments, springhouse, springhouse_binary, with_environment_of,
    },
    registry::tests,
};

tests! {
    [] piped, errors_and_exit_codes, completions_and_manuals;
    [Terminal] at_a_terminal;
}

const LIMIT: Duration = Duration::from_secs(60);
const SQL: &str = "create table t (n integer, name text);
    insert into t values (1, 'one'), (2, 'two, with a long name'), (3, null);";

fn piped() {
    let (_root, serve) = serving();
    let out = ok(&serve, "springhouse query seg001 'select n, name from t order by n'");
    let answer: Value = serde_json::from_str(&out).expect("JSON behind a pipe");
    assert_eq!(
        answer["columns"],
        json!([{"name": "n", "type": "INTEGER"}, {"name": "name", "type": "TEXT"}])
    );
    assert_eq!(answer["rows"], json!([[1, "one"], [2, "two, with a long name"], [3, null]]));
    assert_eq!(answer["end"], json!({ "rows": 3, "truncated": false }));
    assert_eq!(answer["generation"].as_str().map(str::len), Some(32));

    let lines = ok(&serve, "springhouse query seg001 'select n from t' --format ndjson --max-rows 2");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[1..], [json!([1]), json!([2]), json!({ "end": { "rows": 2, "truncated": true } })]);

    let stdin = ok(&serve, "echo 'select count(*) from t' | springhouse query seg001 - --format ndjson");
    assert!(stdin.lines().any(|line| line == "[3]"), "{stdin}");
    let params = ok(
        &serve,
        "springhouse query seg001 'select typeof(:a), :b' --param :a=7 --param ':b=a=b' --format ndjson",
    );
    assert!(params.contains(r#"["integer","a=b"]"#), "{params}");
    // A reader that has seen enough is no failure.
    let endless =
        "with recursive c(n) as (select 1 union all select n + 1 from c limit 300000) select n from c";
    let head = ok(
        &serve,
        &format!(
            "set -o pipefail; springhouse query seg001 '{endless}' --format ndjson | head -n 2 | tail -n 1"
        ),
    );
    assert_eq!(head.trim(), "[1]");
}

fn at_a_terminal() {
    let (_root, serve) = serving();
    let script = "script -qec \"springhouse query seg001 'select n, name from t order by n'\" /dev/null";
    let screen = ok(&serve, script).replace('\r', "");
    let lines: Vec<&str> = screen.lines().collect();
    let at = |word: &str| {
        let found = lines.iter().position(|line| line.contains(word));
        found.unwrap_or_else(|| panic!("{word} on {screen}"))
    };
    assert!(at("name") < at("one") && at("one") < at("two, with a long name"), "{screen}");
    // Columns stand below their names.
    assert_eq!(lines[at("name")].find("name"), lines[at("one")].find("one"), "{screen}");
    assert!(screen.contains("(3 rows; generation "), "{screen}");
    assert!(!screen.contains('{'), "no JSON for people: {screen}");
    let json =
        ok(&serve, "script -qec \"springhouse query seg001 'select n from t' --format json\" /dev/null");
    assert!(
        serde_json::from_str::<Value>(&json).is_ok_and(|answer| answer["rows"][2] == json!([3])),
        "{json}"
    );
}

fn errors_and_exit_codes() {
    let (_root, serve) = serving();
    for (command, code, word) in [
        ("springhouse query seg001 'selekt'", 1, "selekt"),
        ("springhouse query seg001 'drop table t'", 1, "not allowed"),
        ("springhouse query nowhere 'select 1'", 1, "nowhere"),
        ("springhouse query ../etc/passwd 'select 1'", 2, "segment"),
        ("springhouse query seg001 'select ?' --param 1 --param :a=2", 2, "--param"),
        ("springhouse query seg001 'select 1' --timeout soon", 2, "--timeout"),
        ("springhouse query seg001 'select 1' --gateway nowhere:x", 2, "nowhere:x"),
    ] {
        let output = shell(&serve, command);
        assert_eq!(output.code, Some(code), "{command}: {output:?}");
        let lines: Vec<&str> = output.stderr.lines().collect();
        assert!(lines.len() == 1 && lines[0].to_lowercase().contains(word), "{command}: {output:?}");
        assert_eq!(output.stdout, "", "{command}");
    }
    // Rows came, and then an error: the rows are there, the line says it, and so does the exit code.
    let endless = "with recursive c(n) as (select 1 union all select n + 1 from c) select n from c";
    let output = shell(
        &serve,
        &format!("springhouse query seg001 '{endless}' --timeout 1s --format ndjson > /dev/null"),
    );
    assert_eq!((output.code, output.stderr.lines().count()), (Some(1), 1), "{output:?}");
}

/// A shell that completes finds our commands and flags; every command has its manual page.
fn completions_and_manuals() {
    let run = |script: &str| {
        let mut command = Command::new("bash");
        command.args(["-c", script]).env("SPRINGHOUSE", springhouse_binary());
        process::run(command, LIMIT)
    };
    let complete = |words: &str| {
        let script = format!(
            "source <(\"$SPRINGHOUSE\" completions bash); COMP_WORDS=({words}); \
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _springhouse springhouse \"${{COMP_WORDS[$COMP_CWORD]}}\" \"${{COMP_WORDS[$((COMP_CWORD - 1))]}}\"; \
             printf '%s ' \"${{COMPREPLY[@]}}\""
        );
        let output = run(&script);
        assert!(output.success(), "{output:?}");
        output.stdout
    };
    assert_eq!(complete("springhouse segment prov").trim(), "provision");
    assert_eq!(complete("springhouse mount --cache-d").trim(), "--cache-dir");
    for (shell, line) in [("zsh", "#compdef springhouse"), ("fish", "complete -c springhouse")] {
        let script = run(&format!("\"$SPRINGHOUSE\" completions {shell}"));
        assert!(script.success() && script.stdout.contains(line), "{script:?}");
    }

    let page = run("\"$SPRINGHOUSE\" manual segment promote");
    for wanted in [".TH springhouse-segment-promote 1", "\\-\\-release"] {
        assert!(page.stdout.contains(wanted), "{wanted}: {page:?}");
    }
    let home = scratch();
    let all = run(&format!("\"$SPRINGHOUSE\" manual --dir {}/man1", home.path().display()));
    assert!(all.success(), "{all:?}");
    let written = fs::read_to_string(home.path().join("man1/springhouse-segment-promote.1"));
    assert!(written.expect("a page").contains("write lock"));
    let unknown = run("\"$SPRINGHOUSE\" manual segment nothing");
    assert!(unknown.code == Some(2) && unknown.stderr.contains("`springhouse segment` has"), "{unknown:?}");
}

fn serving() -> (tempfile::TempDir, Serve) {
    let root = scratch();
    segments::from_sql(root.path(), "seg001", SQL);
    let serve = Serve::of(&file_url(root.path()));
    (root, serve)
}

fn ok(serve: &Serve, script: &str) -> String {
    let output = shell(serve, script);
    assert!(output.success(), "{script}: {output:?}");
    output.stdout
}

/// Runs a line of bash that finds `springhouse`, and that the gateway.
fn shell(serve: &Serve, script: &str) -> Output {
    let mut command = with_environment_of(&springhouse(), Command::new("bash"));
    let binary = springhouse_binary();
    let dir = binary.parent().expect("it lies in a directory");
    let path = std::env::var("PATH").unwrap_or_default();
    command.args(["-c", script]).env("PATH", format!("{}:{path}", dir.display())).env("TERM", "dumb");
    command.env("SPRINGHOUSE_GATEWAY", serve.api().base());
    process::run(command, LIMIT)
}
