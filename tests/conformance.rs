//! Public conformance suites on the mount: `pjdfstest` (POSIX, call by call) and `fsx` (random
//! operations, every read checked).
//!
//! What fails is listed with its reason in `tests/conformance/`. A failure that is not listed fails the
//! test, and so does a listed one that passes now.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};

use crate::{
    harness::{
        file_url,
        hdfs::Hdfs,
        mount::{Mount, is_mounted},
        need, process, repository, scratch,
    },
    registry::tests,
};

tests! {
    [Fuse, SecondUser, Pjdfstest] pjdfstest_on_a_directory;
    [Fuse, Hdfs, SecondUser, Pjdfstest] pjdfstest_on_hdfs;
    [Fuse, Fsx] fsx_on_a_directory;
    [Fuse, Hdfs, Fsx] fsx_on_hdfs;
}

const LIMIT: Duration = Duration::from_secs(200);

/// Users that every Debian has; the suite changes to them.
const CONFIG: &str = r#"[features]
[settings]
naptime = 0.02
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["games", "games"]]
"#;

/// Random operations of one run of `fsx`.
const OPERATIONS: u32 = 2_000;
const SEEDS: [u32; 2] = [7, 2026];

fn pjdfstest_on_a_directory() {
    let root = scratch();
    pjdfstest(&file_url(root.path()), "pjdfstest-directory.txt");
}

fn pjdfstest_on_hdfs() {
    let dir = Hdfs::shared().dir("pjdfstest");
    pjdfstest(&dir.url(), "pjdfstest-hdfs.txt");
}

fn pjdfstest(url: &str, list: &str) {
    let expected = expected(&repository().join("tests/conformance").join(list));
    let mount = Mount::with(url, &["--identity=caller", "--allow-other=true"]);
    let home = scratch();
    let config = home.path().join("config.toml");
    fs::write(&config, CONFIG).expect("a configuration");
    let mut command = Command::new(need::tool("pjdfstest"));
    command.arg("-c").arg(&config).arg("-p").arg(mount.path());
    let output = process::run(command, LIMIT);
    assert!(is_mounted(&mount.path()), "the mount is still there");
    let results = results(&output.stdout);
    assert!(results.len() > 300, "the suite ran: {output:?}");
    let failed: BTreeSet<&str> =
        results.iter().filter(|(_, outcome)| **outcome == "FAILED").map(|(name, _)| *name).collect();
    let listed: BTreeSet<&str> = expected.keys().map(String::as_str).collect();
    let new: Vec<_> = failed.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&failed).collect();
    let passed = results.values().filter(|outcome| **outcome == "ok").count();
    println!("{list}: {passed} passed, {} expected failures", failed.len());
    assert!(
        new.is_empty() && gone.is_empty(),
        "{list} has changed.\nfail, and are not listed: {new:#?}\nlisted, and do not fail: {gone:#?}\n{}",
        reasons(&output.stdout, &new)
    );
}

/// Names and outcomes as the suite prints them.
fn results(text: &str) -> BTreeMap<&str, &str> {
    let lines = text.lines().filter(|line| !line.starts_with(char::is_whitespace));
    lines
        .filter_map(|line| {
            let (name, outcome) = line.split_once(char::is_whitespace)?;
            name.contains("::").then(|| (name, outcome.trim()))
        })
        .collect()
}

/// What the suite says of some tests.
fn reasons(text: &str, names: &[&&str]) -> String {
    let mut told = String::new();
    let mut wanted = false;
    for line in text.lines() {
        if !line.starts_with(char::is_whitespace) {
            wanted = line.split_whitespace().next().is_some_and(|name| names.iter().any(|n| **n == name));
        }
        if wanted {
            told.push_str(line);
            told.push('\n');
        }
    }
    told
}

/// Names of a list with the reason that stands above each group of them.
fn expected(list: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(list).unwrap_or_else(|e| panic!("{}: {e}", list.display()));
    let mut reason = String::new();
    let mut in_reason = false;
    let mut names = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(words) = line.strip_prefix('#') {
            if !in_reason {
                reason.clear();
            }
            in_reason = true;
            reason.push_str(words);
        } else {
            in_reason = false;
            assert!(!reason.trim().is_empty(), "{}: {line} has no reason", list.display());
            let twice = names.insert(line.to_owned(), reason.clone());
            assert!(twice.is_none(), "{}: {line} is listed twice", list.display());
        }
    }
    names
}

fn fsx_on_a_directory() {
    let root = scratch();
    fsx(&file_url(root.path()));
}

fn fsx_on_hdfs() {
    let dir = Arc::clone(&Hdfs::shared()).dir("fsx");
    fsx(&dir.url());
}

/// Random writes need the staging area.
fn fsx(url: &str) {
    let home = scratch();
    let staging = format!("--staging-dir={}", home.path().join("staging").display());
    let mount = Mount::with(url, &["--write-mode=staged", &staging]);
    let config = home.path().join("fsx.toml");
    fs::write(&config, FSX).expect("a configuration");
    for seed in SEEDS {
        let mut command = Command::new(need::tool("fsx"));
        command.current_dir(home.path()).arg("-f").arg(&config).args(["-q", "-P"]).arg(home.path());
        command.args(["-N", &OPERATIONS.to_string(), "-S", &seed.to_string()]).arg(mount.file("fsx"));
        let output = process::run(command, LIMIT);
        assert!(output.success(), "seed {seed}: {output:?}");
    }
}

/// All that the mount promises of staged files: mapped reads and writes included.
const FSX: &str = "flen = 262144
[opsize]
max = 65536
[weights]
close_open = 1
read = 10
write = 10
mapread = 5
mapwrite = 5
truncate = 3
invalidate = 0
fsync = 1
fdatasync = 1
posix_fallocate = 0
punch_hole = 0
sendfile = 1
posix_fadvise = 1
copy_file_range = 0
";
