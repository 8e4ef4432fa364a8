//! How mounts come to be at boot, and end: mount(8) with lines of /etc/fstab, a service manager, a script;
//! docs/MOUNT.md. None of it changes this host: what needs a link in /sbin has a /sbin of its own.

use std::{
    fs,
    os::linux::net::SocketAddrExt,
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::{SocketAddr, UnixDatagram},
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    harness::{
        eventually, file_url,
        mount::{is_mounted, unmount_lazily},
        process::{self, Output, Process, Signal},
        repository, scratch, springhouse, springhouse_binary, with_environment_of,
    },
    operators::{json, ok, run, text_of},
    registry::tests,
};

tests! {
    [Fuse, Namespaces] fstab_line, mount_all_at_boot, options_that_cannot_be;
    [Fuse] helper_by_itself, daemon_returns_when_it_answers, service_unit;
    [] make_install;
}

const LIMIT: Duration = Duration::from_secs(60);

/// A store, a mount point and an fstab.
struct Host {
    home: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let home = scratch();
        for dir in ["store", "mnt", "sbin", "lower", "hadoop"] {
            fs::create_dir(home.path().join(dir)).expect("a directory");
        }
        fs::write(home.path().join("store/file"), "bytes\n").expect("a file");
        Self { home }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn url(&self) -> String {
        file_url(&self.path("store"))
    }

    /// The line of the store with these options.
    fn fstab(&self, options: &str) -> &Self {
        let log = self.path("log");
        let line = format!(
            "# <source> <dir> <type> <options> <dump> <pass>\n{} {} springhouse {options},log_file={} 0 0\n",
            self.url(),
            self.path("mnt").display(),
            log.display()
        );
        fs::write(self.path("fstab"), line).expect("a file");
        self
    }

    /// Runs a script that finds the mount point in `$MNT`, the fstab in `$FSTAB` and `springhouse`, in a mount
    /// namespace in which /sbin has the helper. Whatever it mounts goes with it.
    fn sh(&self, script: &str) -> Output {
        // mount(8) looks for helpers in /sbin alone. What else is there stays reachable.
        let inside = format!(
            "set -eu\n\
             mount --bind /usr/sbin \"$HOST/lower\"\n\
             for f in \"$HOST\"/lower/*; do ln -sfn \"$f\" \"$HOST/sbin/\"; done\n\
             ln -sfn \"$PROGRAM\" \"$HOST/sbin/mount.springhouse\"\n\
             ln -sfn \"$PROGRAM\" \"$HOST/sbin/springhouse\"\n\
             mount --bind \"$HOST/sbin\" /usr/sbin\n\
             [ -L /sbin ] || mount --bind \"$HOST/sbin\" /sbin\n\
             trap 'umount -l \"$MNT\" 2> /dev/null || true' EXIT\n\
             set +e\n{script}"
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &inside]);
        command
            .env("HOST", self.home.path())
            .env("MNT", self.path("mnt"))
            .env("FSTAB", self.path("fstab"))
            .env("LIBMOUNT_FSTAB", self.path("fstab"))
            .env("PROGRAM", springhouse_binary())
            .env("PATH", "/usr/sbin:/usr/bin:/bin");
        process::run(with_environment_of(&springhouse(), command), LIMIT)
    }
}

/// `mount DIR` and `umount DIR`, with options of mount(8) and of ours.
fn fstab_line() {
    let host = Host::new();
    let cache = host.path("ca,che");
    host.fstab(&format!(
        "_netdev,noauto,nofail,noatime,x-systemd.automount,allow_other,memory=128MiB,freshness=7s,\
         entry-lifetime=3s,cache_dir=\"{}\",cache_size=64MiB,noexec,ro",
        cache.display()
    ));
    let output = host.sh("mount \"$MNT\" || exit 1\n\
         cat \"$MNT/file\"\n\
         grep \" $MNT \" /proc/self/mountinfo\n\
         springhouse cache set \"$MNT\"\n\
         springhouse mounts\n\
         touch \"$MNT/new\"\n\
         id=$(springhouse cache stats --json \"$MNT\" | sed -n 's/^  \"pid\": \\([0-9]*\\),$/\\1/p')\n\
         umount \"$MNT\" && echo \"unmounted $id\"\n\
         for i in $(seq 800); do kill -0 \"$id\" 2> /dev/null || break; sleep 0.05; done\n\
         kill -0 \"$id\" 2> /dev/null || echo daemon ended\n\
         grep -c \" $MNT \" /proc/self/mountinfo");
    let said = |words: &str| assert!(output.stdout.contains(words), "{words}: {output:?}");
    assert_eq!(output.stdout.lines().next(), Some("bytes"), "{output:?}");
    let line = output.stdout.lines().find(|line| line.contains(" - fuse.springhouse ")).expect("a mount");
    for option in ["ro", "nosuid", "nodev", "noexec", "allow_other"] {
        assert!(line.split([' ', ',']).any(|given| given == option), "{option}: {line}");
    }
    assert!(line.contains(&host.url()), "{line}");
    for (key, value) in [("freshness", "7s"), ("entry_lifetime", "3s"), ("cache_size", "64MiB")] {
        let set = |line: &str| line.starts_with(key) && line.ends_with(value);
        assert!(output.stdout.lines().any(set), "{key} {value}: {output:?}");
    }
    said("of 128.0 MiB");
    assert!(output.stderr.contains("Read-only file system"), "{output:?}");
    assert!(cache.is_dir(), "a comma in quotes is part of the value");
    said("unmounted ");
    said("daemon ended");
    assert_eq!(output.stdout.lines().last(), Some("0"), "nothing is left: {output:?}");
    let log = fs::read_to_string(host.path("log")).expect("the daemon's log");
    assert!(log.contains("mounted") && log.contains("unmounted"), "{log}");
}

/// `mount -a`, as it runs at boot: network mounts when it is their turn, and each once.
fn mount_all_at_boot() {
    let host = Host::new();
    host.fstab("_netdev,nofail,memory=128MiB");
    let output = host.sh("mount -a -O no_netdev; grep -c \" $MNT \" /proc/self/mountinfo\n\
         mount -a -O _netdev; grep -c \" $MNT \" /proc/self/mountinfo\n\
         mount -a; grep -c \" $MNT \" /proc/self/mountinfo\n\
         cat \"$MNT/file\"; umount \"$MNT\"; echo $?");
    assert_eq!(output.stdout, "0\n1\n1\nbytes\n0\n", "{output:?}");
}

/// One line that says which option, why and what to do; nothing is mounted, mount(8) knows that it failed.
fn options_that_cannot_be() {
    let host = Host::new();
    for (options, code, words) in [
        ("memry=1GiB", 1, "mount.springhouse: option memry is not known; did you mean memory?"),
        ("uid=1000", 1, "option uid: owners are those of the store; see identity=caller|fixed"),
        ("memory=1MiB", 1, "memory"),
        ("freshness=7", 1, "has no unit"),
        ("memory", 1, "option memory needs a value"),
        ("cache_size=1GiB", 1, "name a directory with cache_dir"),
        ("hadoop_conf=/nowhere,store_deadline=soon", 1, "store_deadline"),
    ] {
        let output =
            host.fstab(options).sh("mount \"$MNT\"; echo $?; grep -c \" $MNT \" /proc/self/mountinfo");
        assert_eq!(output.stdout, format!("{code}\n0\n"), "{options}: {output:?}");
        assert!(output.stderr.contains(words), "{options}: {output:?}");
        assert_eq!(output.stderr.lines().count(), 1, "{options}: {output:?}");
    }
    // A URL that names nothing is a wrong line as well.
    fs::remove_dir_all(host.path("store")).expect("an own directory");
    let output = host.fstab("memory=128MiB").sh("mount \"$MNT\"; echo $?");
    assert!(output.stdout == "1\n" && output.stderr.contains("there is no such directory"), "{output:?}");
}

/// `mount.springhouse URL DIR -o OPTIONS`, as mount(8) calls it; `-f` looks only.
fn helper_by_itself() {
    let host = Host::new();
    let helper = host.path("sbin/mount.springhouse");
    symlink(springhouse_binary(), &helper).expect("a link");
    let point = text_of(host.path("mnt"));
    let log = format!("rw,memory=128MiB,log_file={}", host.path("log").display());
    let call = |args: &[&str]| {
        let mut command = Command::new(&helper);
        command.args(args);
        process::run(with_environment_of(&springhouse(), command), LIMIT)
    };
    let fake = call(&[&host.url(), &point, "-f", "-v", "-o", &log]);
    assert!(fake.success() && !is_mounted(&host.path("mnt")), "{fake:?}");
    let unmount = Unmount(host.path("mnt"));
    let mounted = call(&[&host.url(), &point, "-v", "-o", &log]);
    assert!(
        mounted.success() && mounted.stdout.contains(&format!("mounted {} at {point}", host.url())),
        "{mounted:?}"
    );
    assert_eq!(fs::read_to_string(host.path("mnt/file")).expect("it reads"), "bytes\n");
    fs::write(host.path("mnt/new"), "rw").expect("it writes");
    let again = call(&[&host.url(), &point, "-o", &log]);
    assert!(again.code == Some(32) && again.stderr.contains(&point), "{again:?}");
    ok(&["unmount", &point]);
    assert!(!is_mounted(&host.path("mnt")));
    drop(unmount);
    for args in [vec![host.url()], vec!["-x".into(), host.url(), point.clone()]] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let wrong = call(&args);
        assert!(wrong.code == Some(1) && wrong.stderr.contains("mount.springhouse URL DIR"), "{wrong:?}");
    }
}

/// With `--daemon` the command returns when the mount answers, and not before; and SIGTERM ends it cleanly.
fn daemon_returns_when_it_answers() {
    let host = Host::new();
    let point = text_of(host.path("mnt"));
    let nowhere = file_url(&host.path("nowhere"));
    let log = format!("--log-file={}", host.path("log").display());
    let failed = run(&["mount", "--daemon", &nowhere, &point, &log]);
    assert!(failed.code == Some(2) && !is_mounted(&host.path("mnt")), "{failed:?}");
    assert!(failed.stderr.lines().count() == 1 && failed.stderr.contains("nowhere"), "{failed:?}");
    let unmount = Unmount(host.path("mnt"));
    // Each call to the store takes its time: the first answer of the mount is waited for as well.
    let slow = ["mount", "--daemon", &host.url(), &point, &log, "--memory=128MiB", "--added-latency=300ms"];
    let started = ok(&slow);
    assert_eq!(started.stdout, format!("mounted {} at {point}\n", host.url()));
    assert!(is_mounted(&host.path("mnt")));
    assert_eq!(fs::read_to_string(host.path("mnt/file")).expect("it answers"), "bytes\n");
    let stats = json(&["cache", "stats", "--json", &point]);
    let id = u32::try_from(stats["pid"].as_u64().expect("a process")).expect("a process id");
    let terminate = Command::new("kill").arg(id.to_string()).status();
    assert!(terminate.is_ok_and(|status| status.success()));
    eventually("the daemon ends, and its mount", LIMIT, || {
        let ended = matches!(process::state_of(id), '-' | 'Z');
        (ended && !is_mounted(&host.path("mnt"))).then_some(())
    });
    let log = fs::read_to_string(host.path("log")).expect("a log");
    assert!(log.contains("stopping"), "{log}");
    drop(unmount);
}

/// The unit that is installed: ready when the mount answers, stopped cleanly, cleared after a crash.
fn service_unit() {
    let host = Host::new();
    let point = host.path("mnt");
    let unit = fs::read_to_string(repository().join("config/springhouse-mount@.service")).expect("the unit");
    let value = |key: &str| {
        let line =
            unit.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("{key} in {unit}"));
        line.to_owned()
    };
    assert_eq!((value("Type="), value("KillSignal=")), ("notify".into(), "SIGTERM".into()));
    let config = host.path("mount-mnt.toml");
    fs::write(&config, format!("store = \"{}\"\nmemory = \"128MiB\"\n", host.url())).expect("a file");
    let command = |key: &str| {
        let line = value(key).replace("/etc/springhouse/mount-%i.toml", &text_of(config.clone()));
        let line = line.replace("%f", &text_of(point.clone()));
        let line = line.trim_start_matches('-').replace("/usr/local/bin/springhouse", "");
        let mut command = springhouse();
        command.args(line.split_whitespace());
        command
    };
    // As systemd does where it can: an address without a file.
    let name = format!("springhouse-test-{}", std::process::id());
    let manager =
        UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).expect("a name")).expect("a socket");
    manager.set_read_timeout(Some(LIMIT)).expect("a socket option");
    let next = || {
        let mut message = [0; 256];
        let n = manager.recv(&mut message).expect("a message to the service manager");
        String::from_utf8_lossy(&message[..n]).into_owned()
    };
    let start = || {
        let mut command = command("ExecStart=");
        command.env("NOTIFY_SOCKET", format!("@{name}"));
        Process::start("service", command)
    };
    let unmount = Unmount(point.clone());
    let mut service = start();
    assert_eq!(next(), "READY=1", "{}", service.transcript());
    assert!(is_mounted(&point));
    assert_eq!(fs::read_to_string(point.join("file")).expect("it answers"), "bytes\n");
    service.signal(Signal::Term);
    assert_eq!(next(), "STOPPING=1");
    assert!(service.wait(LIMIT).is_some_and(|status| status.success()), "{}", service.transcript());
    assert!(!is_mounted(&point));

    let mut service = start();
    assert_eq!(next(), "READY=1");
    service.kill();
    assert!(is_mounted(&point), "a dead mount stays");
    let cleared = process::run(command("ExecStopPost="), LIMIT);
    assert!(cleared.success() && !is_mounted(&point), "{cleared:?}");
    drop(unmount);
}

/// `make install` puts everything where the manual says, and nothing else; what was edited stays.
fn make_install() {
    let home = scratch();
    let destination = home.path().join("root");
    let install = || {
        let mut command = Command::new("make");
        command.current_dir(repository()).args(["--silent", "install", "PREFIX=/opt/springhouse"]);
        command.arg(format!("DESTDIR={}", destination.display()));
        command.arg(format!("PROGRAM={}", springhouse_binary().display()));
        let output = process::run(command, LIMIT);
        assert!(output.success(), "{output:?}");
    };
    install();
    let mut found = Vec::new();
    list(&destination, &destination, &mut found);
    // A page for each command.
    let (pages, mut found): (Vec<_>, Vec<_>) = found.into_iter().partition(|path| path.contains("/man1/"));
    for page in ["springhouse.1", "springhouse-mount.1", "springhouse-segment-promote.1"] {
        assert!(pages.contains(&format!("opt/springhouse/share/man/man1/{page}")), "{pages:?}");
    }
    found.sort();
    let documents = fs::read_dir(repository().join("docs")).expect("documents").flatten();
    let mut wanted: Vec<String> = documents
        .map(|entry| format!("opt/springhouse/share/doc/springhouse/{}", entry.file_name().display()))
        .collect();
    wanted.extend(
        [
            "etc/springhouse/gateway.toml",
            "etc/springhouse/mount.toml",
            "etc/springhouse/serve.toml",
            "etc/springhouse/worker.toml",
            "opt/springhouse/bin/springhouse",
            "opt/springhouse/lib/systemd/system/springhouse-mount@.service",
            "opt/springhouse/share/bash-completion/completions/springhouse",
            "opt/springhouse/share/fish/vendor_completions.d/springhouse.fish",
            "opt/springhouse/share/zsh/site-functions/_springhouse",
            "sbin/mount.springhouse",
        ]
        .map(str::to_owned),
    );
    wanted.sort();
    assert_eq!(found, wanted);
    let link = fs::read_link(destination.join("sbin/mount.springhouse")).expect("a link");
    assert_eq!(link, Path::new("/opt/springhouse/bin/springhouse"));
    let program = destination.join("opt/springhouse/bin/springhouse");
    assert_eq!(fs::metadata(&program).expect("the program").permissions().mode() & 0o777, 0o755);
    let unit =
        fs::read_to_string(destination.join("opt/springhouse/lib/systemd/system/springhouse-mount@.service"));
    let unit = unit.expect("the unit");
    assert!(unit.contains("\nExecStart=/opt/springhouse/bin/springhouse mount "), "{unit}");
    assert!(!unit.contains("/usr/local/"), "{unit}");
    // A second time, over a configuration that somebody wrote.
    let edited = destination.join("etc/springhouse/mount.toml");
    fs::write(&edited, "store = \"file:///srv\"\n").expect("a file");
    install();
    assert_eq!(fs::read_to_string(&edited).expect("a file"), "store = \"file:///srv\"\n");
}

fn list(root: &Path, dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            list(root, &path, found);
        } else {
            found.push(path.strip_prefix(root).expect("below it").display().to_string());
        }
    }
}

/// Takes away what a test that fails leaves.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        if is_mounted(&self.0) {
            unmount_lazily(&self.0);
        }
    }
}
