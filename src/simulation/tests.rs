//! Schedules by the hundred, in processes of their own: a simulation rules a whole process.
//!
//! That they can fail was tried by breaking the program by hand. Seen within the first 20 seeds: a write
//! answered before its commit; a registry that writes nothing; a worker's records kept in memory; writes
//! dropped where they are kept aside; a promotion that counts as promoted what came after it; an answer named
//! after a generation that it is not; queries of a locked segment answered from the store; a worker that is
//! not told that its lock was taken; a copy that never follows the store again; and, of what was added later,
//! idempotency keys forgotten, within 100. Not seen within 100, because another check stands behind each:
//! - Tokens unchecked on the worker alone: the gateway sends no others than the lock's, and looks at the lock
//!   again before it passes an answer on (`writing/execute.rs`).
//! - An acknowledgement under a lock that is gone, which is that look: the former holder would have to be busy
//!   with a write during all of a takeover. `a_write_that_a_takeover_overtakes_is_not_acknowledged` has just that.
//! - A rename without a look at the token: it is looked at when the upload is there and before the rename, and
//!   whoever ends a lock takes the intent out and the upload away
//!   (`a_takeover_in_the_middle_of_an_upload_wins`).
//! - Or at the generation: it is looked at before the upload, after it, and before the rename
//!   (`a_foreign_generation_is_not_replaced`).
//! - An upload left behind by a takeover: the promotion that had begun it removes it when it ends, and what a dead
//!   gateway left is collected (`writing/uploads.rs`).
//! - A copy of another generation asked: the request names the generation, and the worker refuses another.

#![allow(clippy::print_stdout, reason = "it is how a schedule in a process of its own reports")]

use std::{
    env,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use super::{PANICS, schedule};

/// First seed.
const SEED: &str = "SPRINGHOUSE_SIMULATION_SEED";
/// How many schedules.
const SCHEDULES: &str = "SPRINGHOUSE_SIMULATION_SCHEDULES";
/// Most steps of each.
const STEPS: &str = "SPRINGHOUSE_SIMULATION_STEPS";
/// Distance of a child's seeds; tells a process that it is one.
const STRIDE: &str = "SPRINGHOUSE_SIMULATION_STRIDE";
/// What `make test` runs.
const SCHEDULES_USUAL: u64 = 200;
/// A schedule takes a fraction of a second; one that has not ended by then hangs, on any machine.
const HANGS_AFTER: Duration = Duration::from_secs(300);

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// In memory if possible: what a simulation syncs need not survive a power cut.
fn scratch() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() && tempfile::tempdir_in(&memory).is_ok() { memory } else { env::temp_dir() }
}

fn schedule_of(seed: u64, steps: u64) -> schedule::Outcome {
    schedule::run(seed, steps, &scratch())
}

/// The shortest beginning of the schedule that breaks a promise as well.
fn shortest(seed: u64, outcome: schedule::Outcome) -> (u64, schedule::Outcome) {
    let (mut good, mut bad) = (0, outcome.broken.as_ref().map_or(0, |(_, step)| step + 1));
    let mut best = outcome;
    let mut last = bad;
    while good < bad {
        let middle = good + (bad - good) / 2;
        let shorter = schedule_of(seed, middle);
        if shorter.broken.is_some() {
            (bad, best, last) = (middle, shorter, middle);
        } else {
            good = middle + 1;
        }
    }
    (last, best)
}

/// Not a test of its own: the process that simulates.
#[test]
fn child() {
    let Some(stride) = number(STRIDE) else { return };
    let (first, count) = (number(SEED).unwrap_or(1), number(SCHEDULES).unwrap_or(1));
    let steps = number(STEPS).unwrap_or(u64::MAX);
    std::panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        PANICS.lock().push(info.to_string());
    }));
    if env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    }
    let (alive, watch) = mpsc::channel::<u64>();
    std::thread::spawn(move || {
        let mut seed = 0;
        loop {
            match watch.recv_timeout(HANGS_AFTER) {
                Ok(next) => seed = next,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    println!("\nfailed {seed} the schedule hangs");
                    std::process::exit(1);
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    });
    for seed in (first..first + count).step_by(usize::try_from(stride).expect("small")) {
        alive.send(seed).expect("the watch watches");
        println!("\nbegun {seed}");
        let outcome = schedule_of(seed, steps);
        if outcome.broken.is_none() {
            println!("ended {seed} {} {} {:016x}", outcome.steps, outcome.trace.0, outcome.trace.1);
            continue;
        }
        let (steps, outcome) = shortest(seed, outcome);
        for line in &outcome.last {
            println!("| {line}");
        }
        let why = outcome.broken.map_or_else(|| "not again".into(), |(why, _)| why);
        println!("failed {seed} {why}");
        println!("| make simulate SEED={seed} SCHEDULES=1 STEPS={steps}");
        std::process::exit(1);
    }
}

/// What a child said.
#[derive(Debug, Default)]
struct Said {
    ended: Vec<String>,
    begun: Option<String>,
    failed: Option<String>,
    report: Vec<String>,
    good: bool,
}

fn children(first: u64, count: u64, steps: Option<u64>, processes: u64) -> Vec<Said> {
    let processes = processes.clamp(1, count.max(1));
    let start = |n: u64| {
        let mut command = Command::new(env::current_exe().expect("this program"));
        command
            .args(["simulation::tests::child", "--exact", "--nocapture", "--test-threads=1"])
            .env(SEED, (first + n).to_string())
            .env(SCHEDULES, (count - n).to_string())
            .env(STRIDE, processes.to_string())
            .env_remove(STEPS)
            .stdout(Stdio::piped());
        if let Some(steps) = steps {
            command.env(STEPS, steps.to_string());
        }
        command.spawn().expect("a child")
    };
    let started: Vec<_> = (0..processes).map(start).collect();
    let listening = started.into_iter().map(|mut child| {
        std::thread::spawn(move || {
            let mut said = Said::default();
            let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
            for line in lines.map_while(Result::ok) {
                match line.split_once(' ') {
                    Some(("begun", seed)) => said.begun = Some(seed.to_owned()),
                    Some(("ended", what)) => said.ended.push(what.to_owned()),
                    Some(("failed", why)) => said.failed = Some(why.to_owned()),
                    Some(("|", what)) => said.report.push(what.to_owned()),
                    _ => {}
                }
            }
            said.good = child.wait().expect("its end").success();
            said
        })
    });
    let listening: Vec<_> = listening.collect();
    listening.into_iter().map(|thread| thread.join().expect("a child is listened to")).collect()
}

/// Fails with a report of what a child broke.
fn judge(said: &Said) {
    if said.good && said.failed.is_none() {
        return;
    }
    let seed = said.begun.as_deref().unwrap_or("?");
    let died = format!("{seed} the process died");
    panic!(
        "\n{}\n\nsimulation: seed {}\nagain: {}\n",
        said.report.join("\n"),
        said.failed.as_ref().unwrap_or(&died),
        said.report
            .last()
            .filter(|line| line.starts_with("make"))
            .cloned()
            .unwrap_or(format!("make simulate SEED={seed} SCHEDULES=1")),
    );
}

/// See the module [`super::model`] for what holds in each of them.
#[test]
fn promises_hold_in_every_schedule() {
    let (first, count) = (number(SEED).unwrap_or(1), number(SCHEDULES).unwrap_or(SCHEDULES_USUAL));
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let said = children(first, count, number(STEPS), cores);
    said.iter().for_each(judge);
    let ended: usize = said.iter().map(|said| said.ended.len()).sum();
    assert_eq!(ended as u64, count, "schedules that were simulated");
}

#[test]
fn a_seed_is_a_schedule_event_for_event() {
    // Side by side: each disturbs the other's threads.
    let twice = [(); 2].map(|()| std::thread::spawn(|| children(1, 12, None, 1).remove(0)));
    let twice = twice.map(|child| child.join().expect("a child is listened to"));
    twice.iter().for_each(judge);
    assert_eq!(twice[0].ended, twice[1].ended);
    let hashes: std::collections::BTreeSet<_> =
        twice[0].ended.iter().map(|line| line.rsplit(' ').next()).collect();
    assert_eq!(hashes.len(), 12, "each seed has a schedule of its own");
}
