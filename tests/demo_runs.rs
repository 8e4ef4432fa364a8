//! The demo does what the README says, on hosts with and without FUSE.

use std::{process::Command, time::Duration};

use reqwest::Method;
use serde_json::Value;

use crate::{
    harness::{
        demo_binary, eventually,
        http::Api,
        mount::mounts,
        process::{self, Process, children_of},
        scratch,
        without_fuse::{Lack, without_fuse},
    },
    registry::tests,
};

tests! {
    [Demo] stays_until_ctrl_c, says_what_it_does_not_know;
    [Demo, Fuse, Hdfs] on_hdfs;
    [Demo, Namespaces] goes_on_without_fuse;
}

const LIMIT: Duration = Duration::from_secs(180);

fn stays_until_ctrl_c() {
    let temp = scratch();
    let mut demo = Process::start("demo", demo(temp.path(), &[]));
    let url = demo.stdout_line("a URL to ask", LIMIT, |line| {
        let (url, _) = line.strip_prefix("curl -s ")?.split_once(' ')?;
        Some(url.to_owned())
    });
    demo.stdout_line("that it stays", LIMIT, |line| line.contains("Ctrl-C").then_some(()));
    let screen = demo.stdout();
    shows_three_answers(&screen);
    assert!(screen.contains("a FUSE mount") || screen.contains("the files directly"), "{screen}");

    // What it prints to try next works.
    let body = screen.lines().find_map(|line| line.trim().strip_prefix("-d '")?.strip_suffix('\''));
    let (base, path) = url.split_at(url.find("/v1/").expect("a path in the URL"));
    let kind = [("content-type", "application/json")];
    let reply = Api::new(base).send(Method::POST, path, &kind, body.map(Into::into)).expect("an answer");
    let answer: Value = reply.json();
    assert!(reply.status == 200 && answer["end"]["rows"].as_u64() > Some(0), "{answer}");

    let started = everything_below(demo.id());
    assert!(started.len() >= 2, "the server, and the demo itself: {started:?}");
    demo.interrupt_group();
    let status = demo.wait(LIMIT).expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", demo.transcript());
    assert_eq!(demo.stderr(), "", "a clean end has nothing to say");
    leaves_nothing(temp.path(), &started);
}

fn on_hdfs() {
    let temp = scratch();
    let demo = demo(temp.path(), &["--store", "hdfs", "--once"]);
    let output = process::run(demo, LIMIT);
    assert!(output.success(), "{output:?}");
    shows_three_answers(&output.stdout);
    assert!(output.stdout.contains("hdfs://127.0.0.1:"), "{}", output.stdout);
    let cost = output.stdout.lines().find(|line| line.contains("read from the store:"));
    assert!(cost.is_some_and(|line| !line.contains(" 0 reads")), "the first answer was cold: {cost:?}");
    leaves_nothing(temp.path(), &[]);
}

fn goes_on_without_fuse() {
    for lack in [Lack::Missing, Lack::Closed] {
        let (temp, dev) = (scratch(), scratch());
        let once = without_fuse(lack, dev.path(), &demo(temp.path(), &["--once"]));
        let output = process::run(once, LIMIT);
        assert!(output.success(), "{lack:?}: {output:?}");
        shows_three_answers(&output.stdout);
        let access = output.stdout.lines().find(|line| line.trim().starts_with("access"));
        assert!(
            access.is_some_and(|line| line.contains("directly")
                && line.contains("/dev/fuse")
                && line.contains("; ")),
            "why, and how to get it: {access:?}"
        );

        let hdfs = without_fuse(lack, dev.path(), &demo(temp.path(), &["--once", "--store", "hdfs"]));
        let output = process::run(hdfs, LIMIT);
        assert_eq!(output.code, Some(1), "{lack:?}: {output:?}");
        assert!(output.stderr.lines().count() == 1 && output.stderr.contains("/dev/fuse"), "{output:?}");
    }
}

fn says_what_it_does_not_know() {
    let temp = scratch();
    for args in [&["--stroe"][..], &["--store", "s3"], &["--store"]] {
        let output = process::run(demo(temp.path(), args), LIMIT);
        assert_eq!((output.code, output.stderr.lines().count()), (Some(2), 1), "{args:?}: {output:?}");
    }
}

fn shows_three_answers(screen: &str) {
    for query in ["\n1. ", "\n2. ", "\n3. "] {
        let (_, shown) = screen.split_once(query).unwrap_or_else(|| panic!("{query:?} in {screen}"));
        let cost = shown.lines().find(|line| line.contains(" row") && line.contains("read from the store"));
        assert!(cost.is_some(), "rows, time and cost of {query:?} in {screen}");
    }
}

/// The small demo, with a temp dir of its own so that what it leaves shows.
fn demo(temp: &std::path::Path, args: &[&str]) -> Command {
    let mut command = Command::new(demo_binary().expect("it was asked for as a need"));
    command.args(["--size", "small"]).args(args).env("TMPDIR", temp);
    command
}

fn everything_below(id: u32) -> Vec<u32> {
    children_of(id).into_iter().flat_map(everything_below).chain([id]).collect()
}

fn leaves_nothing(temp: &std::path::Path, started: &[u32]) {
    let is_over = |id: &u32| ['-', 'Z'].contains(&process::state_of(*id));
    eventually("all that it started is gone", LIMIT, || started.iter().all(is_over).then_some(()));
    let mounted: Vec<_> = mounts().into_iter().filter(|point| point.starts_with(temp)).collect();
    assert!(mounted.is_empty(), "{mounted:?}");
    let left: Vec<_> = std::fs::read_dir(temp).expect("the temp dir").flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "left in the temp dir: {left:?}");
}
