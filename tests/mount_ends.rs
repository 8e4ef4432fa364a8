//! However a mount's daemon, or the worker that it serves, comes to its end: no dead mount stays behind
//! where anything was left alive to take it away.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::json;

use crate::{
    harness::{
        cluster::{Gateway, Worker},
        eventually, file_url,
        http::RawQuery,
        mount::{Mount, is_mounted, mounts, unmount_lazily},
        need, process,
        process::{Signal, children_of},
        scratch, segments, springhouse, state_home, with_environment_of,
    },
    registry::tests,
};

tests! {
    [Fuse] killed_worker, worker_killed_at_its_start, worker_at_a_terminal, impatient_stop, nobody_reads_the_log,
        terminal_closes, mounted_again_while_in_use, what_is_mounted_meanwhile_stays;
    [Fuse, UserMounts] ordinary_user_after_a_crash;
}

const LIMIT: Duration = Duration::from_secs(60);
/// Workers killed at their start, each a little later than the one before.
const STARTS: u64 = 10;
/// Some 40 MB.
const ANSWER: &str =
    "select a.url || b.url, hex(zeroblob(1000)) from crawled_url a, crawled_url b limit 20000";
const LONG_ANSWER: &str = "with recursive c(n) as (select 1 union all select n + 1 from c limit 900000)
    select n, (select max(url) from crawled_url where id = n % 100), hex(zeroblob(50)) from c";

/// Unmounted while a file is open: the daemon serves it to its end, and only then gives the place away.
fn mounted_again_while_in_use() {
    let (root, point) = (scratch(), scratch());
    let bytes = segments::noise(1, 3_000_000);
    fs::write(root.path().join("file"), &bytes).expect("a file");
    let at = point.path().display().to_string();
    let run = |args: &[&str]| {
        let mut command = springhouse();
        command.args(args);
        process::run(command, LIMIT)
    };
    let mount = || run(&["mount", "--daemon", "--log-file", "/dev/null", &file_url(root.path()), &at]);
    assert_eq!(mount().code, Some(0));
    let old = File::open(point.path().join("file")).expect("it opens");
    assert_eq!(run(&["unmount", &at]).code, Some(0));
    let early = mount();
    assert!(early.code != Some(0) && !is_mounted(point.path()), "{early:?}");
    assert!(early.stderr.contains("in use by process") && early.stderr.contains(&at), "{}", early.stderr);
    let mut page = vec![0; 4096];
    old.read_exact_at(&mut page, 2_000_000).expect("what was open goes on");
    assert!(page == bytes[2_000_000..2_004_096]);
    drop(old);
    eventually("the old daemon ends and another may serve", LIMIT, || {
        (mount().code == Some(0)).then_some(())
    });
    assert!(fs::read(point.path().join("file")).expect("a read") == bytes);
    assert_eq!(run(&["unmount", &at]).code, Some(0));
}

/// Detached while a file is open, and something else is mounted in its place: at its end the old daemon takes
/// nothing away that is not its own.
fn what_is_mounted_meanwhile_stays() {
    let (root, other, point, sockets) = (scratch(), scratch(), scratch(), scratch());
    fs::write(root.path().join("file"), "old").expect("a file");
    fs::write(other.path().join("file"), "new").expect("a file");
    let mount = |store: &Path, socket_name: &str| {
        let socket = sockets.path().join(socket_name);
        let mut command = springhouse();
        command.args(["mount", "--log-format=json"]).arg(file_url(store)).arg(point.path());
        command.arg("--control-socket").arg(socket);
        let daemon = process::Process::start(socket_name, command);
        eventually("it is mounted", LIMIT, || is_mounted(point.path()).then_some(()));
        daemon
    };
    let mut before = mount(root.path(), "before");
    let open = File::open(point.path().join("file")).expect("it opens");
    unmount_lazily(point.path());
    let mut after = mount(other.path(), "after");
    drop(open);
    assert!(
        before.wait(LIMIT).is_some_and(|status| status.success()),
        "the old daemon ends when its last file is closed"
    );
    assert_eq!(fs::read_to_string(point.path().join("file")).expect("it is there"), "new");
    unmount_lazily(point.path());
    assert!(after.wait(LIMIT).is_some_and(|status| status.success()));
}

/// Killed with files open on its mount, and in the middle of an answer.
fn killed_worker() {
    let root = store();
    let gateway = Gateway::of(&file_url(root.path()));
    let mut worker = fuse_worker(&root, &gateway, "victim");
    gateway.wait_workers(&["victim"]);
    let mount = own_mount("victim").expect("the worker's mount");
    let mut answer = RawQuery::send(
        gateway.api().address(),
        "seg001",
        &json!({ "sql": LONG_ANSWER }),
        "application/x-ndjson",
    );
    answer.read_to(50_000);
    let daemons = children_of(worker.process().id());
    assert_eq!(daemons.len(), 1);
    worker.kill();
    eventually("the mount goes with its worker", LIMIT, || (!is_mounted(&mount)).then_some(()));
    eventually("its daemon too", LIMIT, || (process::state_of(daemons[0]) == '-').then_some(()));
}

/// Whatever it was doing: before its daemon is tied to it, while that asks the store, while it mounts.
fn worker_killed_at_its_start() {
    let root = store();
    let gateway = Gateway::of(&file_url(root.path()));
    let mut mounted = 0;
    for step in 0..STARTS {
        let mut worker = fuse_worker(&root, &gateway, "early");
        std::thread::sleep(Duration::from_millis(step * 30));
        let daemons = children_of(worker.process().id());
        mounted += u32::from(own_mount("early").is_some());
        worker.kill();
        eventually("its daemon goes", LIMIT, || {
            daemons.iter().all(|id| process::state_of(*id) == '-').then_some(())
        });
        eventually("no mount stays", LIMIT, || own_mount("early").is_none().then_some(()));
    }
    // On a slow machine none may get so far; the test above has one that has.
    println!("{mounted} of {STARTS} workers were killed with a mount");
}

/// Ctrl-C goes to the worker and to all that it started: the mount must outlive the answers on their way.
fn worker_at_a_terminal() {
    let root = store();
    let gateway = Gateway::of(&file_url(root.path()));
    let args = ["--access", "fuse", "--drain-max", "60s"];
    let mut worker = Worker::with(&file_url(root.path()), &gateway, "terminal", &args);
    gateway.wait_workers(&["terminal"]);
    let mount = own_mount("terminal").expect("the worker's mount");
    // More than the sockets on its way take: it runs for as long as nobody reads on.
    let mut answer = RawQuery::send(
        gateway.api().address(),
        "seg001",
        &json!({ "sql": ANSWER, "timeout_ms": 120_000 }),
        "application/x-ndjson",
    );
    answer.read_to(50_000);
    eventually("the query runs", LIMIT, || {
        let workers = gateway.api().get("/v1/workers").json();
        (workers["workers"][0]["in_flight"] == 1).then_some(())
    });
    worker.process().interrupt_group();
    let (text, _) = answer.finish();
    let tail = text.lines().rev().take(3).collect::<Vec<_>>();
    assert!(text.contains("{\"end\":"), "the answer that was on its way is whole: {tail:?}");
    let status = worker.process().wait(LIMIT).expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", worker.process().transcript());
    assert!(!is_mounted(&mount));
}

/// A terminal that is closed ends what runs in its foreground, and leaves no dead mount; `nohup` keeps it.
fn terminal_closes() {
    let root = scratch();
    fs::write(root.path().join("file"), "bytes").expect("a file");
    let mut mount = Mount::of(&file_url(root.path()));
    mount.daemon().signal(Signal::Hangup);
    let status = mount.daemon().wait(LIMIT).expect("it ends");
    assert_eq!((status.code(), is_mounted(&mount.path())), (Some(0), false), "exit status {status}");

    let home = scratch();
    let point = home.path().join("mnt");
    fs::create_dir(&point).expect("a directory");
    let mut command = springhouse();
    let socket = home.path().join("c");
    command.args(["mount", &file_url(root.path())]).arg(&point).arg("--control-socket").arg(&socket);
    let mut kept = std::process::Command::new("sh");
    kept.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
    let mut daemon = process::Process::start("mount", with_environment_of(&command, kept));
    daemon.stdout_line("that it is mounted", LIMIT, |line| line.contains("mounted").then_some(()));
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.id())).expect("it runs");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask").trim();
    assert_eq!(u64::from_str_radix(ignored, 16).expect("a mask") & 1, 1, "{ignored}");
    daemon.signal(Signal::Hangup);
    assert_eq!(fs::read(point.join("file")).expect("it answers"), b"bytes");
    daemon.signal(Signal::Term);
    let status = daemon.wait(LIMIT).expect("it ends");
    assert_eq!((status.code(), is_mounted(&point)), (Some(0), false), "exit status {status}");
}

/// A second signal ends the daemon at once, but not without its mount.
fn impatient_stop() {
    let root = scratch();
    fs::write(root.path().join("file"), "bytes").expect("a file");
    let mut mount = Mount::of(&file_url(root.path()));
    // Keeps it busy: the daemon would wait some seconds for its end.
    let held = File::open(mount.file("file")).expect("it opens");
    mount.daemon().signal(Signal::Term);
    mount.daemon().stderr_line("that it stops", LIMIT, |line| line.contains("stopping").then_some(()));
    mount.daemon().signal(Signal::Term);
    mount.daemon().wait(LIMIT).expect("it ends");
    assert!(!is_mounted(&mount.path()));
    let read = held.read_at(&mut [0; 1], 0).map_err(|e| e.raw_os_error());
    assert!(read.is_ok() || read == Err(Some(libc::ENOTCONN)), "{read:?}");
}

/// `springhouse mount … 2>&1 | head -1`: that nobody reads its log is no reason to leave a mount behind.
fn nobody_reads_the_log() {
    let home = scratch();
    fs::write(home.path().join("file"), "bytes").expect("a file");
    let point = home.path().join("mnt");
    let root = home.path().join("root");
    fs::create_dir(&point).and_then(|()| fs::create_dir(&root)).expect("directories");
    let mut command = springhouse();
    command.args(["mount", &file_url(&root)]).arg(&point).arg("--control-socket").arg(home.path().join("c"));
    let pipe = "exec \"$0\" \"$@\" 2> >(exec head -n 1 > /dev/null)";
    let mut piped = std::process::Command::new("bash");
    piped.args(["-c", pipe]).arg(command.get_program()).args(command.get_args()).stdout(Stdio::null());
    let mut daemon = process::Process::start("mount", with_environment_of(&command, piped));
    daemon.stdout_line("that it is mounted", LIMIT, |line| line.contains("mounted").then_some(()));
    daemon.signal(Signal::Term);
    let status = daemon.wait(LIMIT).expect("it ends");
    let left = is_mounted(&point);
    if left {
        unmount_lazily(&point);
    }
    assert_eq!((status.code(), left), (Some(0), false), "exit status {status}");
}

/// An ordinary user clears the dead mount of a daemon that was killed, mounts anew, and unmounts.
fn ordinary_user_after_a_crash() {
    let root = scratch();
    fs::write(root.path().join("file"), "bytes").expect("a file");
    let mut mount = Mount::as_nobody(&file_url(root.path()));
    let (point, binary) = (mount.path(), mount.path().with_file_name("springhouse"));
    mount.daemon().kill();
    assert!(is_mounted(&point), "a dead mount stays");
    let mount = mount.mount_again_as_nobody();
    let mut cat = std::process::Command::new("cat");
    cat.arg(mount.file("file"));
    assert_eq!(process::run(need::as_nobody(cat), LIMIT).stdout.trim(), "bytes");
    assert_eq!(mounts().iter().filter(|mounted| **mounted == point).count(), 1, "not on top of the dead one");

    let mut unmount = crate::harness::springhouse_at(&binary);
    unmount.arg("unmount").arg(&point);
    let output = process::run(need::as_nobody(unmount), LIMIT);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(!is_mounted(&point));
    // And once more, of a daemon that is dead.
    let mut mount = mount.mount_again_as_nobody();
    mount.daemon().kill();
    let mut unmount = crate::harness::springhouse_at(&binary);
    unmount.arg("unmount").arg(&point);
    let output = process::run(need::as_nobody(unmount), LIMIT);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(!is_mounted(&point));
}

fn store() -> tempfile::TempDir {
    let root = scratch();
    segments::crawl_statistics(root.path(), "seg001", 1, 1_500);
    root
}

fn fuse_worker(root: &tempfile::TempDir, gateway: &Gateway, name: &str) -> Worker {
    Worker::with(&file_url(root.path()), gateway, name, &["--access", "fuse"])
}

/// The mount that the worker of this name has made for itself.
fn own_mount(name: &str) -> Option<PathBuf> {
    let end = PathBuf::from(format!("worker-{name}")).join("mount");
    mounts().into_iter().find(|point| point.starts_with(state_home()) && point.ends_with(&end))
}
