//! Configuration: the samples are true, `check` says what is wrong, `show` says where each value is from.

use std::{fs, path::Path, process::Command, time::Duration};

use crate::{
    harness::{process, repository, scratch, springhouse},
    registry::tests,
};

tests! {
    [] samples_are_good, samples_are_whole, check_names_every_problem, show_names_the_source;
}

const ROLES: [&str; 4] = ["mount", "worker", "gateway", "serve"];
const LIMIT: Duration = Duration::from_secs(60);

fn samples_are_good() {
    for role in ROLES {
        let sample = repository().join(format!("config/{role}.toml"));
        let output = run(springhouse(), &["config", "check", &text(&sample)]);
        assert_eq!(output.code, Some(0), "{role}: {output:?}");
    }
}

/// The samples are the manual: a key that exists stands in them.
fn samples_are_whole() {
    for role in ROLES {
        let sample = fs::read_to_string(repository().join(format!("config/{role}.toml"))).expect("a sample");
        let printed = run(springhouse(), &["config", "sample", role]);
        assert_eq!(printed.code, Some(0), "{printed:?}");
        assert!(
            printed.stdout == sample,
            "config/{role}.toml is not what `springhouse config sample {role}` prints"
        );
    }
}

fn check_names_every_problem() {
    let dir = scratch();
    let file = dir.path().join("gateway.toml");
    fs::write(&file, "store = \"nowhere\"\nlistn = \"127.0.0.1:1\"\nlease_ttl = \"1 fortnight\"\n")
        .expect("a file");
    let output = run(springhouse(), &["config", "check", &text(&file)]);
    assert_eq!(output.code, Some(2), "{output:?}");
    for (line, word) in [(1, "store"), (2, "listen"), (3, "lease_ttl")] {
        let place = format!("gateway.toml:{line}");
        let found = output.stderr.lines().find(|l| l.contains(&place));
        assert!(found.is_some_and(|l| l.contains(word)), "line {line}: {}", output.stderr);
    }
    assert_eq!(output.stderr.lines().count(), 3, "{}", output.stderr);
}

fn show_names_the_source() {
    let dir = scratch();
    let file = dir.path().join("serve.toml");
    fs::write(&file, "store = \"file:///from/file\"\nmemory = \"1GiB\"\nfreshness = \"3s\"\n")
        .expect("a file");
    let mut command = springhouse();
    command.env("SPRINGHOUSE_MEMORY", "2GiB").env("SPRINGHOUSE_FRESHNESS", "4s");
    let output = run(command, &["config", "show", "serve", "--config", &text(&file), "--freshness", "5s"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    let line = |key: &str| {
        let found = output.stdout.lines().find(|line| line.starts_with(&format!("{key} = ")));
        found.unwrap_or_else(|| panic!("{key} in {}", output.stdout)).to_owned()
    };
    for (key, value, source) in [
        ("store", "file:///from/file", "serve.toml:1"),
        ("memory", "2GiB", "SPRINGHOUSE_MEMORY"),
        ("freshness", "5s", "--freshness"),
        ("listen", "127.0.0.1:6110", "default"),
    ] {
        assert!(line(key).contains(value) && line(key).contains(source), "{}", line(key));
    }
    // What it prints is a configuration itself.
    let again = dir.path().join("again.toml");
    fs::write(&again, &output.stdout).expect("a file");
    let checked = run(springhouse(), &["config", "check", "--role", "serve", &text(&again)]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

fn run(mut command: Command, args: &[&str]) -> process::Output {
    command.args(args);
    process::run(command, LIMIT)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
