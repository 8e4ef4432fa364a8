//! What a person gets who makes a mistake: one line with the reason and the remedy, the right exit code,
//! nothing left behind.

use std::{fs, net::TcpListener, path::Path, process::Command, time::Duration};

use crate::{
    harness::{
        file_url as url,
        mount::{Mount, is_mounted},
        need, ports, process, scratch, segments, springhouse, springhouse_binary,
    },
    registry::tests,
};

tests! {
    [] urls, unreachable_namenode, missing_directory, settings, port_in_use, data_in_use, command_line,
       query_without_a_gateway;
    [Fuse] mount_points, daemon_fails_in_the_foreground;
    [SecondUser] no_permission, store_permissions;
}

/// Exit codes, as docs/CONFIGURATION.md has them.
const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;
const MOUNT_POINT: i32 = 4;
const IN_USE: i32 = 5;
const DENIED: i32 = 6;

/// Longer than the deadline of any store call by default.
const LIMIT: Duration = Duration::from_secs(60);

fn urls() {
    let dir = scratch();
    for url in
        ["/srv/x", "http://x/y", "file://host/x", "hdfs://nn:port/x", "file:///a/../b", "s3://bucket/x", ""]
    {
        for args in [
            vec!["mount", url, &text(dir.path())],
            vec!["serve", "--store", url],
            vec!["gateway", "--store", url],
            vec!["worker", "--store", url],
        ] {
            let line = fails(USAGE, &args);
            assert!(line.contains("file:///path"), "{args:?} shows no good URL: {line}");
        }
    }
    assert!(!is_mounted(dir.path()));
}

fn unreachable_namenode() {
    let dir = scratch();
    let url = format!("hdfs://127.0.0.1:{}/x", ports::free());
    let data = text(&dir.path().join("data"));
    let listen = format!("127.0.0.1:{}", ports::free());
    for args in [
        vec!["mount", &url, &text(dir.path()), "--store-deadline", "2s"],
        vec!["gateway", "--store", &url, "--data", &data, "--listen", &listen, "--store-deadline", "2s"],
        vec!["serve", "--store", &url, "--data", &data, "--listen", &listen, "--store-deadline", "2s"],
        vec!["worker", "--store", &url, "--listen", &listen, "--store-deadline", "2s"],
    ] {
        let line = fails(UNREACHABLE, &args);
        assert!(line.contains(&url), "{line}");
    }
    assert!(!is_mounted(dir.path()));
    TcpListener::bind(&listen).expect("nobody is left on the port");
}

fn missing_directory() {
    let dir = scratch();
    let missing = url(&dir.path().join("missing"));
    let file = dir.path().join("file");
    fs::write(&file, "x").expect("a file");
    fs::create_dir(dir.path().join("mnt")).expect("a directory");
    let mnt = text(&dir.path().join("mnt"));
    for store in [missing, url(&file)] {
        for args in [
            vec!["mount", &store, &mnt],
            vec!["serve", "--store", &store, "--listen", "127.0.0.1:0"],
            vec!["gateway", "--store", &store, "--listen", "127.0.0.1:0"],
        ] {
            let line = fails(USAGE, &args);
            assert!(line.contains(&store), "{line}");
        }
    }
}

fn mount_points() {
    let dir = scratch();
    let store = scratch();
    let url = url(store.path());
    let missing = fails(MOUNT_POINT, &["mount", &url, &text(&dir.path().join("missing"))]);
    assert!(missing.contains("missing"), "{missing}");
    let file = dir.path().join("file");
    fs::write(&file, "x").expect("a file");
    fails(MOUNT_POINT, &["mount", &url, &text(&file)]);
    let not_empty = fails(MOUNT_POINT, &["mount", &url, &text(dir.path())]);
    assert!(not_empty.contains("empty"), "{not_empty}");

    // What the daemon works in would wait for the daemon.
    for (hidden, more) in [(&store, None), (&dir, Some("--cache-dir")), (&dir, Some("--staging-dir"))] {
        let at = text(hidden.path());
        let inside = format!("{at}/inside");
        let mut args = vec!["mount", &url, &at, "--allow-nonempty"];
        args.extend(more.into_iter().flat_map(|flag| [flag, &*inside]));
        args.extend(["--write-mode", "staged"].into_iter().filter(|_| more == Some("--staging-dir")));
        let refused = fails(USAGE, &args);
        assert!(refused.contains(if more.is_some() { &*inside } else { &*at }), "{refused}");
        assert!(!is_mounted(hidden.path()));
    }
    let mount = Mount::of(&url);
    let in_use = fails(MOUNT_POINT, &["mount", &url, &text(&mount.path())]);
    assert!(in_use.contains("mount"), "{in_use}");
    assert_eq!(fs::read_dir(mount.path()).expect("the first mount still works").count(), 0);
    let nothing = fails(MOUNT_POINT, &["unmount", &text(dir.path())]);
    assert!(nothing.contains("mount"), "{nothing}");
}

/// `--daemon` must not return 0 and fail afterwards.
fn daemon_fails_in_the_foreground() {
    let dir = scratch();
    let missing = url(&dir.path().join("missing"));
    fs::create_dir(dir.path().join("mnt")).expect("a directory");
    let mnt = dir.path().join("mnt");
    fails(USAGE, &["mount", "--daemon", &missing, &text(&mnt)]);
    assert!(!is_mounted(&mnt));

    // And a good one returns when the mount answers; unmount ends it.
    let store = scratch();
    fs::write(store.path().join("file"), "bytes").expect("a file");
    let log = text(&dir.path().join("log"));
    let output = run(&["mount", "--daemon", "--log-file", &log, &url(store.path()), &text(&mnt)]);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(fs::read(mnt.join("file")).expect("it answers"), b"bytes");
    assert_eq!(run(&["unmount", &text(&mnt)]).code, Some(0));
    assert!(!is_mounted(&mnt));

    // What reads its output through a pipe does not wait for the daemon.
    assert_eq!(run(&["mount", "--daemon", &url(store.path()), &text(&mnt)]).code, Some(0));
    assert_eq!(fs::read(mnt.join("file")).expect("it answers"), b"bytes");
    assert_eq!(run(&["unmount", &text(&mnt)]).code, Some(0));
}

fn store_permissions() {
    // A store that its user may not read: somebody's private directory.
    let store = scratch();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(store.path(), fs::Permissions::from_mode(0o700)).expect("chmod");
    let home = home_of_nobody();
    let mut command = Command::new(home.path().join("springhouse"));
    command.args([
        "gateway",
        "--log",
        "error",
        "--store",
        &url(store.path()),
        "--listen",
        "127.0.0.1:0",
        "--data",
    ]);
    command.arg(home.path().join("data"));
    let output = process::run(need::as_nobody(command), LIMIT);
    one_line(&["gateway"], DENIED, &output);
}

fn no_permission() {
    let home = home_of_nobody();
    let store = scratch();
    let data = scratch();
    let mut command = Command::new(home.path().join("springhouse"));
    command.args([
        "gateway",
        "--log",
        "error",
        "--store",
        &url(store.path()),
        "--listen",
        "127.0.0.1:0",
        "--data",
    ]);
    command.arg(data.path().join("data"));
    let output = process::run(need::as_nobody(command), LIMIT);
    one_line(&["gateway", "--data"], DENIED, &output);
    let mut low_port = Command::new(home.path().join("springhouse"));
    low_port.args([
        "gateway",
        "--log",
        "error",
        "--store",
        &url(store.path()),
        "--listen",
        "127.0.0.1:1",
        "--data",
    ]);
    low_port.arg(home.path().join("data"));
    if fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .is_ok_and(|text| text.trim() != "0")
    {
        one_line(&["gateway", "--listen"], DENIED, &process::run(need::as_nobody(low_port), LIMIT));
    }
}

fn settings() {
    let dir = scratch();
    let file = dir.path().join("serve.toml");
    let store = url(dir.path());
    let with_file = |content: &str| {
        fs::write(&file, content).expect("a file");
        fails(USAGE, &["serve", "--config", &text(&file)])
    };
    let unknown = with_file(&format!("store = {store:?}\ncash_size = \"1GiB\"\n"));
    assert!(
        unknown.contains("serve.toml:2") && unknown.contains("cash_size") && unknown.contains("cache_size"),
        "{unknown}"
    );
    let bad_size = with_file(&format!("store = {store:?}\ncache_size = \"many\"\n"));
    assert!(bad_size.contains("serve.toml:2") && bad_size.contains("cache_size"), "{bad_size}");
    let not_toml = with_file("store = \n");
    assert!(not_toml.contains("serve.toml:1"), "{not_toml}");
    let none = fails(USAGE, &["serve", "--config", &text(&dir.path().join("none.toml"))]);
    assert!(none.contains("none.toml"), "{none}");
    let flag = fails(USAGE, &["serve", "--store", &store, "--store-deadline", "soon"]);
    assert!(flag.contains("store-deadline") || flag.contains("store_deadline"), "{flag}");
    let nothing = fails(USAGE, &["serve"]);
    assert!(nothing.contains("--store"), "{nothing}");
    let mut command = springhouse();
    command.args(["serve", "--store", &store]).env("SPRINGHOUSE_CASH_SIZE", "1GiB");
    let output = process::run(command, LIMIT);
    assert!(one_line(&["serve"], USAGE, &output).contains("SPRINGHOUSE_CACHE_SIZE"));
}

fn port_in_use() {
    let store = scratch();
    let data = scratch();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    for role in ["gateway", "serve"] {
        let data = text(&data.path().join(role));
        let line =
            fails(IN_USE, &[role, "--store", &url(store.path()), "--listen", &address, "--data", &data]);
        assert!(line.contains(&address) && line.contains("--listen"), "{line}");
    }
}

fn data_in_use() {
    let store = scratch();
    segments::from_sql(store.path(), "data01", "create table t (n)");
    let first = crate::harness::cluster::Gateway::of(&url(store.path()));
    let data = text(&first.data().join("data"));
    let line = fails(
        IN_USE,
        &["gateway", "--store", &url(store.path()), "--listen", "127.0.0.1:0", "--data", &data],
    );
    assert!(line.contains(&data), "{line}");
    assert_eq!(first.api().get("/livez").status, 200);
}

fn command_line() {
    for args in [
        &["mount"][..],
        &["no-such-command"],
        &["serve", "--no-such-flag"],
        &["query"],
        &["worker", "--tier", "warm"],
    ] {
        fails(USAGE, args);
    }
    let output = run(&["--version"]);
    assert_eq!((output.code, output.stdout.split(' ').next()), (Some(0), Some("springhouse")));
    assert_eq!(run(&["--help"]).code, Some(0));
}

fn query_without_a_gateway() {
    let gateway = format!("http://127.0.0.1:{}", ports::free());
    let line = fails(UNREACHABLE, &["query", "seg001", "select 1", "--gateway", &gateway]);
    assert!(line.contains(&gateway), "{line}");
}

/// Runs the binary; it must fail with `code` and one line, which is returned.
fn fails(code: i32, args: &[&str]) -> String {
    one_line(args, code, &run(args))
}

fn run(args: &[&str]) -> process::Output {
    let mut command = springhouse();
    // Above "error" a start is logged as well; the line that counts is not a log line.
    command.args(args).env("SPRINGHOUSE_LOG", "error");
    process::run(command, LIMIT)
}

fn one_line(args: &[&str], code: i32, output: &process::Output) -> String {
    assert_eq!(output.code, Some(code), "{args:?}: {output:?}");
    assert_eq!(output.stdout, "", "{args:?}");
    let lines: Vec<&str> = output.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{args:?}: {output:?}");
    let line = lines[0];
    assert!(line.starts_with("springhouse"), "{line}");
    for word in ["panicked", "backtrace", ".rs:", "Error {", "Os {"] {
        assert!(!line.contains(word), "{args:?}: {line}");
    }
    line.to_owned()
}

/// A directory of nobody's, with a copy of the binary: the build directory may be closed to others.
fn home_of_nobody() -> tempfile::TempDir {
    let home = scratch();
    fs::copy(springhouse_binary(), home.path().join("springhouse")).expect("a copy of the binary");
    std::os::unix::fs::chown(home.path(), Some(need::NOBODY), Some(need::NOBODY)).expect("chown by root");
    home
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
