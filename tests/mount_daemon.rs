//! The mount daemon as a process: who it tells what, and who looks after it; docs/SEMANTICS.md.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::json;
use springhouse::mount::ControlClient;

use crate::{
    harness::{
        block_on,
        cluster::{Gateway, Worker, free_address},
        eventually, file_url,
        http::Api,
        mount::{is_mounted, mounts},
        process::{Process, Signal, children_of},
        scratch, segments, springhouse,
    },
    registry::tests,
};

tests! {
    [Fuse] frozen_daemon_is_replaced, daemon_goes_with_its_worker, service_manager_and_ready_fd,
        metrics_over_tcp, control_socket;
}

const LIMIT: Duration = Duration::from_secs(60);

/// A stopped daemon leaves everybody in its mount waiting: the worker must notice by itself.
fn frozen_daemon_is_replaced() {
    let root = store();
    let gateway = Gateway::of(&file_url(root.path()));
    // The worker takes its daemon for hung after so long.
    let mut worker = worker(&root, &gateway, &["--store-deadline", "8s"]);
    gateway.query_works();
    let first = daemon_of(&mut worker);
    signal(first, "STOP");
    let frozen = Instant::now();
    eventually("another daemon", LIMIT, || {
        let now = try_daemon_of(&mut worker)?;
        (now != first).then_some(())
    });
    eventually("queries go on", LIMIT, || gateway.api().ask("seg", json!({ "sql": "select n from t" })).ok());
    assert!(worker.process().exited().is_none(), "the worker lives, {:?} after the freeze", frozen.elapsed());
    eventually("the frozen one is gone", LIMIT, || {
        (!PathBuf::from(format!("/proc/{first}/fd")).exists()).then_some(())
    });
}

fn daemon_goes_with_its_worker() {
    let root = store();
    let gateway = Gateway::of(&file_url(root.path()));
    let mut worker = worker(&root, &gateway, &[]);
    gateway.query_works();
    let daemon = daemon_of(&mut worker);
    let point = mount_point_of(daemon);
    assert!(is_mounted(&point), "{}", point.display());
    worker.kill();
    eventually("the daemon unmounts and ends", LIMIT, || {
        let gone = !PathBuf::from(format!("/proc/{daemon}")).exists() && !mounts().contains(&point);
        gone.then_some(())
    });
}

fn service_manager_and_ready_fd() {
    let (root, home) = (store(), scratch());
    let socket = home.path().join("notify");
    let manager = UnixDatagram::bind(&socket).expect("a socket");
    manager.set_read_timeout(Some(LIMIT)).expect("a socket option");
    let next = || {
        let mut message = [0; 256];
        let n = manager.recv(&mut message).expect("a message to the service manager");
        String::from_utf8_lossy(&message[..n]).into_owned()
    };
    let ready = home.path().join("ready");
    let mut command = shell("exec \"$PROGRAM\" \"$@\" --ready-fd 3 3> \"$READY\"", &root, &home, &[]);
    command.env("NOTIFY_SOCKET", &socket).env("READY", &ready);
    let mut daemon = Process::start("mount", command);
    assert_eq!(next(), "READY=1", "{}", daemon.transcript());
    assert_eq!(fs::read_to_string(&ready).expect("what the descriptor got"), "ready\n");
    assert!(is_mounted(&home.path().join("mnt")), "ready means mounted");
    daemon.signal(Signal::Term);
    assert_eq!(next(), "STOPPING=1");
    assert!(daemon.wait(LIMIT).is_some_and(|status| status.success()));
}

fn metrics_over_tcp() {
    let (root, home) = (store(), scratch());
    let address = free_address();
    let mut daemon = start(&root, &home, &["--metrics-listen", &address]);
    let api = Api::new(&format!("http://{address}"));
    assert_eq!(api.get("/livez").status, 200);
    let point = home.path().join("mnt");
    let file = point.join(segments::relative_path("seg"));
    let bytes = fs::metadata(&file).expect("stat").len();
    fs::read(&file).expect("a read");
    assert!(api.metric("springhouse_cache_fetched_bytes_total", "") >= bytes as f64);
    // Of a file that nobody has open the kernel may forget the number at any time.
    let open = fs::File::open(&file).expect("it opens");
    assert!(api.metric("springhouse_mount_inodes", "") >= 2.0);
    drop(open);
    daemon.signal(Signal::Term);
    assert!(daemon.wait(LIMIT).is_some_and(|status| status.success()));
}

fn control_socket() {
    let (root, home) = (store(), scratch());
    let mut daemon = start(&root, &home, &[]);
    let socket = home.path().join("control");
    let client = ControlClient::new(&socket).expect("a client");
    // The client waits for some seconds; a busy machine may need more of them.
    let lives = || eventually("it lives", LIMIT, || block_on(client.livez()).ok());
    lives();
    let stats = eventually("statistics", LIMIT, || block_on(client.stats()).ok());
    assert_eq!((stats.pid, stats.dir), (daemon.id(), home.path().join("mnt")));
    let metrics = eventually("metrics", LIMIT, || block_on(client.metrics()).ok());
    assert!(metrics.contains("springhouse_cache_hits_total"), "{metrics}");
    daemon.signal(Signal::Stop);
    let asked = Instant::now();
    block_on(client.livez()).expect_err("a frozen daemon does not answer");
    assert!(asked.elapsed() < LIMIT, "and nobody waits for it for ever");
    daemon.signal(Signal::Cont);
    lives();
    daemon.signal(Signal::Term);
    assert!(daemon.wait(LIMIT).is_some_and(|status| status.success()));
    assert!(!socket.exists(), "the socket goes with its daemon");
    block_on(client.livez()).expect_err("nobody is there");
}

/// A mount of `root` in `home` that answers.
fn start(root: &tempfile::TempDir, home: &tempfile::TempDir, args: &[&str]) -> Process {
    let mut daemon = Process::start("mount", shell("exec \"$PROGRAM\" \"$@\"", root, home, args));
    daemon.stdout_line("that it mounted", LIMIT, |line| line.contains("mounted").then_some(()));
    daemon
}

fn shell(script: &str, root: &tempfile::TempDir, home: &tempfile::TempDir, args: &[&str]) -> Command {
    let point = home.path().join("mnt");
    fs::create_dir(&point).expect("a mount point");
    let program = springhouse();
    let mut command = Command::new("sh");
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("PROGRAM", program.get_program());
    command.args(["-c", script, "sh", "mount", &file_url(root.path())]).arg(point);
    command.arg("--control-socket").arg(home.path().join("control")).args(args);
    command
}

trait QueryWorks {
    fn query_works(&self);
}

impl QueryWorks for Gateway {
    fn query_works(&self) {
        self.wait_workers(&["w1"]);
        assert_eq!(self.api().query("seg", "select n from t").rows, [[json!(7)]]);
    }
}

fn worker(root: &tempfile::TempDir, gateway: &Gateway, more: &[&str]) -> Worker {
    Worker::with(&file_url(root.path()), gateway, "w1", &[&["--access", "fuse"], more].concat())
}

fn try_daemon_of(worker: &mut Worker) -> Option<u32> {
    let arguments = |id: u32| fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let is_mount = |id: &u32| arguments(*id).split(|byte| *byte == 0).nth(1) == Some(b"mount");
    children_of(worker.process().id()).into_iter().find(is_mount)
}

fn daemon_of(worker: &mut Worker) -> u32 {
    try_daemon_of(worker).expect("the worker has a mount daemon as a child")
}

fn mount_point_of(daemon: u32) -> PathBuf {
    let arguments = fs::read(format!("/proc/{daemon}/cmdline")).expect("its arguments");
    let arguments = String::from_utf8_lossy(&arguments).into_owned();
    let point = arguments.split('\0').find_map(|argument| argument.strip_prefix("--mount-point="));
    point.expect("a mount point").into()
}

fn signal(id: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &id.to_string()]).status();
    assert!(status.expect("kill runs").success());
}

fn store() -> tempfile::TempDir {
    let root = scratch();
    let sql = "create table t (n integer); insert into t values (7);";
    segments::from_sql(root.path(), "seg", sql);
    root
}
