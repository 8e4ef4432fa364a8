//! What an operator asks of mounts that run: `springhouse mounts`, `springhouse cache …` and the metrics;
//! docs/SEMANTICS.md. What can be set is in `tuning`.

use std::{
    fs::{self, File},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::{
    harness::{
        eventually, file_url,
        http::{get_unix, metric},
        mount::{Mount, is_mounted, unmount_lazily},
        need,
        process::{self, Output, Process, Signal},
        scratch,
        segments::noise,
        springhouse, springhouse_at, springhouse_binary,
    },
    registry::tests,
};

tests! {
    [Fuse] mounts_are_listed, stats_and_top, pins_survive_a_scan, warm_reads_are_free,
        drop_takes_directories, advice_is_a_table_and_a_chart, metrics_are_whole, refused_commands;
    [Fuse, SecondUser] other_users_are_refused;
    [Fuse, UserMounts] root_may_ask_every_daemon;
}

const LIMIT: Duration = Duration::from_secs(60);

/// The cached unit where it is counted.
pub const BLOCK: u64 = 64 << 10;

/// Each mount of this host with process, store, health and hits; also one whose daemon is stopped or gone.
fn mounts_are_listed() {
    let root = store(&[("file", 1 << 20)]);
    let url = file_url(root.path());
    let (mut well, mut stopped, mut dead) = (Mount::of(&url), Mount::of(&url), Mount::of(&url));
    read_direct(&well.file("file"));
    stopped.daemon().signal(Signal::Stop);
    dead.daemon().kill();
    let dir = |mount: &Mount| mount.path().display().to_string();
    // A daemon that is too slow to answer in two seconds is said to hang, rightly: not the one that is well.
    let (text, all) = eventually("the one that is well answers in time", LIMIT, || {
        let (text, all) = (ok(&["mounts"]).stdout, json(&["mounts", "--json"]));
        let line = text.lines().find(|line| line.starts_with(&dir(&well)))?;
        let entry = all.as_array()?.iter().find(|entry| entry["dir"] == dir(&well).as_str())?;
        (entry["health"] == "ok" && !line.contains("hangs")).then_some((text, all))
    });
    stopped.daemon().signal(Signal::Cont);
    let listed = |mount: &Mount| {
        let dir = dir(mount);
        let found = all.as_array().expect("a list").iter().find(|entry| entry["dir"] == dir.as_str());
        let line = text.lines().find(|line| line.starts_with(&dir));
        (found.expect("it is listed").clone(), line.expect("it is listed").to_owned())
    };
    let (entry, line) = listed(&well);
    assert_eq!((&entry["health"], &entry["url"]), (&"ok".into(), &url.clone().into()));
    assert_eq!(entry["pid"], well.daemon().id());
    let ratio = entry["hit_ratio"].as_f64().expect("something was read");
    assert!((0.0..=1.0).contains(&ratio) && line.contains(&format!("{:.1} %", ratio * 100.0)), "{line}");
    assert!(line.contains(&url) && line.contains(&well.daemon().id().to_string()), "{line}");
    let (entry, line) = listed(&stopped);
    assert_eq!((&entry["health"], &entry["pid"]), (&"hangs".into(), &stopped.daemon().id().into()));
    assert!(line.contains("hangs"), "{line}");
    let (entry, line) = listed(&dead);
    assert_eq!(
        (&entry["health"], &entry["pid"], &entry["hit_ratio"]),
        (&"dead".into(), &Value::Null, &Value::Null)
    );
    assert!(line.contains("dead"), "{line}");
    ok(&["unmount", &text_of(dead.path())]);
    assert!(!is_mounted(&dead.path()));
    // The stopped one goes on as if nothing had been.
    read_direct(&stopped.file("file"));
}

/// What `stats` and `top` say is what was read.
fn stats_and_top() {
    let root = store(&[("often", 8 * BLOCK), ("seldom", 8 * BLOCK)]);
    let mount = Mount::with(&file_url(root.path()), &["--readahead-max=0", "--cache-block=64KiB"]);
    for name in ["often", "often", "often", "seldom"] {
        read_direct(&mount.file(name));
    }
    let stats = json(&["cache", "stats", "--json", &text_of(mount.path())]);
    let cache = &stats["fs"]["cache"];
    assert_eq!(cache["bytes_fetched"], 16 * BLOCK, "each byte once: {cache}");
    // With what it costs to know where each block is.
    let cached = cache["cached_bytes"].as_u64().expect("a size");
    assert!((16 * BLOCK..16 * BLOCK * 101 / 100).contains(&cached), "{cache}");
    // The path may be anything in the mount, whether it exists or not.
    let text = ok(&["cache", "stats", &text_of(mount.file("no/such/file"))]).stdout;
    for word in
        [file_url(root.path()).as_str(), "1.0 MiB", "blocks were in memory", "reads of the store gave"]
    {
        assert!(text.contains(word), "{word}: {text}");
    }
    let top = json(&["cache", "top", "--json", &text_of(mount.path())]);
    let names: Vec<_> = top.as_array().expect("a list").iter().map(|file| &file["path"]).collect();
    assert_eq!(names, ["/often", "/seldom"], "{top}");
    assert_eq!((&top[0]["bytes"], &top[1]["bytes"]), (&(24 * BLOCK).into(), &(8 * BLOCK).into()), "{top}");
    let first = ok(&["cache", "top", "-n", "1", &text_of(mount.path())]).stdout;
    assert!(first.contains("/often") && !first.contains("/seldom"), "{first}");
}

/// A pinned file stays whatever else is read; unpinned it is like any other.
fn pins_survive_a_scan() {
    let root = store(&[("dir/pinned", 4 << 20), ("scanned", 48 << 20)]);
    let mount = small(root.path());
    let dir = text_of(mount.file("dir"));
    let said = ok(&["cache", "pin", &dir]).stdout;
    assert!(said.contains("pinned 1 files, 4.0 MiB"), "{said}");
    assert_eq!(mount.stats()["pinned"][0]["path"], "/dir/pinned");
    let lost = |mount: &Mount| {
        read_direct(&mount.file("scanned"));
        reads_of_store(mount, || read_direct(&mount.file("dir/pinned")))
    };
    assert_eq!(lost(&mount), 0, "all of it is there");
    // `drop` does not take what somebody wants to keep.
    ok(&["cache", "drop", &text_of(mount.path())]);
    assert_eq!(lost(&mount), 0);
    let said = ok(&["cache", "unpin", &dir]).stdout;
    assert!(said.contains("let go of 1 files, 4.0 MiB"), "{said}");
    let stats = mount.stats();
    assert!(stats["pinned"].as_array().is_some_and(Vec::is_empty), "{stats}");
    assert_eq!(stats["fs"]["cache"]["pinned_bytes"], 0);
    assert!(lost(&mount) > 0, "a scan pushes it out now");
    // What does not fit is said, with the key to raise.
    let refused = run(&["cache", "pin", &text_of(mount.file("scanned"))]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("raise memory_pins"), "{refused:?}");
}

/// After `warm`, no read of those files asks the store.
fn warm_reads_are_free() {
    let root = store(&[("warm/a", 5 << 20), ("warm/deep/b", 300_000), ("warm/empty", 0), ("cold", BLOCK)]);
    let mount = Mount::of(&file_url(root.path()));
    let said = ok(&["cache", "warm", &text_of(mount.file("warm"))]).stdout;
    assert!(said.contains("3 of 3 files"), "{said}");
    let store_reads = |mount: &Mount| {
        let stats = mount.stats();
        let all = stats["store_calls"]["operations"].as_array().expect("operations");
        let read = all
            .iter()
            .find(|of| of["operation"].as_str().is_some_and(|name| name.eq_ignore_ascii_case("read")));
        read.unwrap_or_else(|| panic!("no reads in {stats}"))["count"].as_u64()
    };
    assert!(store_reads(&mount).is_some_and(|reads| reads > 0), "{}", mount.stats()["store_calls"]);
    let before = store_reads(&mount);
    for name in ["warm/a", "warm/deep/b", "warm/empty"] {
        let bytes = fs::read(mount.file(name)).expect("it reads");
        assert!(bytes == fs::read(root.path().join(name)).expect("it reads"), "{name}");
    }
    assert_eq!(store_reads(&mount), before, "by the count of the store's own calls");
    assert!(reads_of_store(&mount, || read_direct(&mount.file("cold"))) > 0);
    // What is not there is named, and the rest is read nevertheless.
    let partly = run(&["cache", "warm", &text_of(mount.file("gone")), &text_of(mount.file("cold"))]);
    assert_eq!(partly.code, Some(1), "{partly:?}");
    assert!(partly.stderr.contains("/gone") && partly.stdout.contains("1 of 1 files"), "{partly:?}");
}

/// `drop` of a directory frees what is cached of the files below it, and nothing else.
fn drop_takes_directories() {
    let root = store(&[("a/one", 1 << 20), ("a/deep/two", 1 << 20), ("b/three", 1 << 20)]);
    let cache = scratch();
    let args = [format!("--cache-dir={}", cache.path().display()), "--cache-size=1GiB".into()];
    let mount = Mount::with(&file_url(root.path()), &[&args[0], &args[1]]);
    ok(&["cache", "warm", &text_of(mount.path())]);
    let on_disk =
        |mount: &Mount| mount.stats()["fs"]["cache"]["disk"]["used_bytes"].as_u64().expect("a size");
    eventually("all is on disk", LIMIT, || (on_disk(&mount) >= 3 << 20).then_some(()));
    let dropped = json(&["cache", "drop", "--json", &text_of(mount.file("a"))]);
    for tier in ["ram_bytes", "disk_bytes"] {
        assert!(dropped[tier].as_u64().is_some_and(|bytes| bytes >= 2 << 20), "{tier}: {dropped}");
    }
    assert_eq!(reads_of_store(&mount, || read_direct(&mount.file("b/three"))), 0, "others stay");
    for name in ["a/one", "a/deep/two"] {
        assert!(reads_of_store(&mount, || read_direct(&mount.file(name))) > 0, "{name} is read anew");
    }
    // The whole mount: memory, and the disk only if that is asked for.
    let dropped = json(&["cache", "drop", "--json", &text_of(mount.path())]);
    assert!(dropped["ram_bytes"].as_u64().is_some_and(|bytes| bytes >= 1 << 20), "{dropped}");
    assert_eq!(dropped["disk_bytes"], 0, "{dropped}");
    assert_eq!(reads_of_store(&mount, || read_direct(&mount.file("b/three"))), 0, "from the disk");
    json(&["cache", "drop", "--disk", "--json", &text_of(mount.path())]);
    assert!(reads_of_store(&mount, || read_direct(&mount.file("b/three"))) > 0);
    let gone = run(&["cache", "drop", &text_of(mount.file("gone"))]);
    assert!(gone.code == Some(2) && gone.stderr.contains("/gone"), "{gone:?}");
}

/// One sentence, then a line with a bar for each size, the present one marked; as the manual shows it.
fn advice_is_a_table_and_a_chart() {
    let root = store(&[("file", 24 << 20)]);
    let mount = small(root.path());
    let nothing = ok(&["cache", "advise", &text_of(mount.path())]).stdout;
    assert!(nothing.contains("nothing was read through it yet"), "{nothing}");
    // A loop over more than fits: only a larger cache helps.
    let file = direct(&mount.file("file"));
    let mut page = Page::new();
    for n in 0..6 * 384_u64 {
        file.read_exact_at(page.bytes(), n * 37 % 384 * BLOCK).expect("a read");
    }
    let advice = json(&["cache", "advise", "--json", &text_of(mount.path())]);
    let points = advice["ram"]["points"].as_array().expect("points");
    let ratios: Vec<f64> = points.iter().map(|p| p["hit_ratio"].as_f64().expect("a ratio")).collect();
    assert!(points.len() >= 4 && ratios.is_sorted(), "{advice}");
    // 16 MiB hold at most two thirds of 24; 32 MiB hold all but the first pass.
    let at = |mib: u64| {
        let point = points.iter().find(|point| point["bytes"] == mib << 20);
        point.and_then(|point| point["hit_ratio"].as_f64()).unwrap_or_else(|| panic!("{mib} MiB in {advice}"))
    };
    assert!(at(16) < 0.70 && at(32) > 0.75, "{advice}");
    let text = ok(&["cache", "advise", &text_of(mount.path())]).stdout;
    let first = text.lines().next().expect("a sentence");
    assert!(first.starts_with("RAM 16 MiB now: "), "{text}");
    assert!(first.contains("; 32 MiB: ") && first.contains(" store reads a minute"), "{text}");
    let point = |line: &&str| line.contains("iB ") && line.contains(" %") && !line.starts_with("RAM");
    let lines: Vec<_> = text.lines().filter(point).collect();
    assert!(lines.len() >= 4, "a line for each size: {text}");
    let now: Vec<_> = lines.iter().filter(|line| line.starts_with("now")).collect();
    assert!(now.len() == 1 && now[0].contains("16.0 MiB"), "{text}");
    let bar = |line: &str| line.matches('█').count();
    assert!(lines.last().is_some_and(|line| bar(line) > 30), "{text}");
    assert!(lines.iter().map(|line| bar(line)).collect::<Vec<_>>().is_sorted(), "{text}");
    // The remedy works as it stands there.
    let hint = text.lines().find_map(|line| line.strip_prefix("To try it: springhouse ")).expect("a hint");
    assert!(hint.contains(" memory_blocks=32MiB"), "{text}");
    ok(&hint.split(' ').collect::<Vec<_>>());
    assert_eq!(mount.stats()["fs"]["cache"]["cache_bytes_max"], 32 << 20);
}

/// All tiers, all purposes, all operations; and no more files than a scraper can bear.
fn metrics_are_whole() {
    let names: Vec<String> = (0..60).map(|n| format!("files/{n:02}")).collect();
    let files: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), BLOCK)).collect();
    let (root, cache, stage) = (store(&files), scratch(), scratch());
    let (cache, stage) = (cache.path().display(), stage.path().display());
    let args = [format!("--cache-dir={cache}"), format!("--staging-dir={stage}")];
    let mount = Mount::with(&file_url(root.path()), &[&args[0], &args[1], "--write-mode=staged"]);
    mount.sh("cat files/* > /dev/null; echo x > new; mkdir d; mv new d/new; chmod 600 d/new; sync d/new; rm d/new; \
        rmdir d; df . > /dev/null; test ! -e nothing");
    let text = get_unix(&mount.path().with_file_name("control"), "/metrics").expect("an answer").1;
    let value = |name: &str, labels: &str| metric(&text, name, labels);
    for name in [
        "springhouse_cache_hits_total",
        "springhouse_cache_misses_total",
        "springhouse_cache_pinned_hits_total",
        "springhouse_cache_readahead_hits_total",
        "springhouse_cache_store_reads_total",
        "springhouse_cache_fetched_bytes_total",
        "springhouse_cache_wasted_bytes_total",
        "springhouse_cache_evictions_total",
        "springhouse_cache_bytes",
        "springhouse_cache_bytes_max",
        "springhouse_readahead_bytes",
        "springhouse_readahead_bytes_max",
        "springhouse_pinned_bytes",
        "springhouse_pinned_bytes_max",
        "springhouse_disk_cache_hits_total",
        "springhouse_disk_cache_misses_total",
        "springhouse_disk_cache_evictions_total",
        "springhouse_disk_cache_corrupt_total",
        "springhouse_disk_cache_written_bytes_total",
        "springhouse_disk_cache_read_bytes_total",
        "springhouse_disk_cache_bytes",
        "springhouse_disk_cache_bytes_max",
        "springhouse_mount_files_written",
        "springhouse_mount_write_bytes",
        "springhouse_staging_files",
        "springhouse_staging_bytes",
        "springhouse_staging_files_not_sent",
        "springhouse_mount_memory_bytes",
        "springhouse_mount_memory_bytes_max",
        "springhouse_mount_hints_total",
        "springhouse_mount_deadlines_total",
    ] {
        let sample = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' '));
        assert!(text.lines().any(sample), "{name}: {text}");
    }
    assert!(value("springhouse_mount_memory_bytes", "") > 1e6);
    assert_eq!(value("springhouse_mount_memory_bytes_max", ""), f64::from(512 << 20));
    for purpose in ["demand", "interior", "lookahead", "readahead", "warm"] {
        let label = format!("purpose=\"{purpose}\"");
        assert!(text.contains(&label), "{label}: {text}");
    }
    let by_purpose = value("springhouse_cache_store_reads_by_purpose_total", "");
    assert_eq!(by_purpose, value("springhouse_cache_store_reads_total", ""), "each read has one purpose");
    for operation in [
        "lookup", "getattr", "setattr", "open", "create", "read", "write", "flush", "fsync", "release",
        "readdir", "mkdir", "unlink", "rmdir", "rename", "statfs", "opendir",
    ] {
        let count = value("springhouse_mount_operation_seconds_count", &format!("op=\"{operation}\""));
        assert!(count >= 1.0, "{operation}: {count}");
    }
    let shown = text.lines().filter(|line| line.starts_with("springhouse_file_bytes{")).count();
    assert_eq!(shown, 20, "the most read of 60");
    assert!(value("springhouse_file_reads", "result=\"miss\"") >= 1.0);
    // Every family says what it is.
    for line in text.lines().filter(|line| line.starts_with("# TYPE springhouse_")) {
        let name = line.split(' ').nth(2).expect("a name");
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
    }
}

/// What cannot be done is one line that names the thing, the reason and the remedy.
fn refused_commands() {
    let root = store(&[("file", BLOCK)]);
    let mut mount = Mount::of(&file_url(root.path()));
    let dir = text_of(mount.path());
    let elsewhere = scratch();
    let outside = text_of(elsewhere.path().to_owned());
    let missing = text_of(mount.file("missing"));
    for (args, code, words) in [
        (vec!["stats", &outside], 4, vec!["lies in no springhouse mount", dir.as_str()]),
        (vec!["set", &dir, "freshness"], 2, vec!["is no setting", "KEY=VALUE"]),
        (vec!["set", &dir, "freshnes=1s"], 2, vec!["freshnes is no key", "what can be changed is"]),
        (vec!["warm", &dir, "--parallelism=0"], 2, vec!["--parallelism", "from 1 to 64"]),
        (vec!["pin", &missing], 2, vec!["/missing", "; "]),
        (vec!["top", &dir, "-n", "many"], 2, vec!["--count", "many"]),
    ] {
        let output = run(&[vec!["cache"], args.clone()].concat());
        assert_eq!(output.code, Some(code), "{args:?}: {output:?}");
        for word in words {
            assert!(output.stderr.contains(word), "{args:?}: {word}: {output:?}");
        }
        assert_eq!(output.stdout, "", "{args:?}");
    }
    mount.daemon().kill();
    let dead = run(&["cache", "stats", &dir]);
    assert!(dead.code.is_some_and(|code| code == 3) && dead.stderr.contains(&dir), "{dead:?}");
}

/// Neither by the commands nor at the socket itself.
fn other_users_are_refused() {
    let root = store(&[("file", BLOCK)]);
    let mount = Mount::of(&file_url(root.path()));
    let home = scratch();
    let binary = copy_for_all(home.path());
    let dir = text_of(mount.path());
    let as_nobody = |args: &[&str], runtime: &Path| {
        let mut command = springhouse_at(&binary);
        command.args(args).env("XDG_RUNTIME_DIR", runtime);
        process::run(need::as_nobody(command), LIMIT)
    };
    let drop_root = text_of(mount.path());
    for args in [
        vec!["stats", &dir],
        vec!["set", &dir],
        vec!["set", &dir, "memory_blocks=0"],
        vec!["pin", &dir],
        vec!["unpin", &dir],
        vec!["drop", &drop_root],
        vec!["warm", &dir],
        vec!["advise", &dir],
        vec!["top", &dir],
    ] {
        let refused = as_nobody(&[vec!["cache"], args.clone()].concat(), home.path());
        assert_eq!(refused.code, Some(6), "{args:?}: {refused:?}");
        assert!(refused.stderr.contains("run as the user who mounted it or as root"), "{refused:?}");
    }
    let listed = as_nobody(&["mounts"], home.path()).stdout;
    let line = listed.lines().find(|line| line.starts_with(&dir)).expect("it is seen");
    assert!(line.contains("unreachable"), "{line}");
    // Whoever opens the socket's directory and the socket: the daemon looks at who asks.
    let socket = mount.path().with_file_name("control");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).expect("an own socket");
    let own = home.path().join("springhouse");
    fs::DirBuilder::new().mode(0o755).create(&own).expect("a directory");
    let name = usual_name(&socket);
    std::os::unix::fs::symlink(&socket, own.join(name)).expect("a link");
    let refused = as_nobody(&["cache", "set", &dir, "memory_blocks=0"], home.path());
    assert!(!refused.success() && refused.stderr.contains(&own.display().to_string()), "{refused:?}");
    assert_ne!(json(&["cache", "set", "--json", &dir])["memory_blocks"], "0", "nothing was changed");
}

/// The name of the link to `socket` that root's daemons leave for `springhouse cache`.
fn usual_name(socket: &Path) -> PathBuf {
    let links = fs::read_dir("/run/springhouse").expect("the directory of root's sockets").flatten();
    let ours = links.map(|entry| entry.path()).find(|path| fs::read_link(path).is_ok_and(|to| to == socket));
    ours.and_then(|path| Some(path.file_name()?.into())).expect("the daemon left a link")
}

/// Root asks the daemon of an ordinary user, and changes it.
fn root_may_ask_every_daemon() {
    let root = store(&[("file", BLOCK)]);
    let home = scratch();
    let binary = copy_for_all(home.path());
    let point = home.path().join("mnt");
    fs::create_dir(&point).expect("a mount point");
    for dir in [home.path(), &point] {
        std::os::unix::fs::chown(dir, Some(need::NOBODY), Some(need::NOBODY)).expect("chown by root");
    }
    let mut command = springhouse_at(&binary);
    command.args(["mount", &file_url(root.path())]).arg(&point).env("HOME", home.path());
    let mut daemon = Process::start("mount as nobody", need::as_nobody(command));
    daemon.stdout_line("that it mounted", LIMIT, |line| line.contains("mounted").then_some(()));
    let dir = text_of(point.clone());
    // One that is too slow to answer in two seconds is said to hang.
    let entry = eventually("it answers in time", LIMIT, || {
        let listed = json(&["mounts", "--json"]);
        let entry = listed.as_array()?.iter().find(|entry| entry["dir"] == dir.as_str())?;
        (entry["health"] == "ok").then(|| entry.clone())
    });
    let set = run(&["cache", "set", &dir, "freshness=7s"]);
    let now = run(&["cache", "set", &dir]);
    daemon.signal(Signal::Term);
    let ended = daemon.wait(LIMIT);
    if is_mounted(&point) {
        unmount_lazily(&point);
    }
    // Of a user without a session: nothing else of the test's lies there.
    let _ = fs::remove_dir(format!("/tmp/springhouse-{}", need::NOBODY));
    assert_eq!((&entry["health"], &entry["pid"]), (&"ok".into(), &daemon.id().into()));
    assert!(set.success() && set.stdout.contains("7s"), "{set:?}");
    assert!(now.stdout.lines().any(|line| line.starts_with("freshness ") && line.ends_with("7s")), "{now:?}");
    assert!(ended.is_some_and(|status| status.success()), "{}", daemon.transcript());
}

/// A local store with these files, each of so many bytes.
pub fn store(files: &[(&str, u64)]) -> tempfile::TempDir {
    let root = scratch();
    for (n, (name, len)) in (1..).zip(files) {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
        fs::write(path, noise(n, usize::try_from(*len).expect("small"))).expect("a file");
    }
    root
}

/// With 16 MiB for blocks, and nothing read ahead.
pub fn small(root: &Path) -> Mount {
    let args = ["--memory=128MiB", "--memory-blocks=16MiB", "--readahead-max=0", "--cache-block=64KiB"];
    Mount::with(&file_url(root), &args)
}

/// Runs the program; it must end.
pub fn run(args: &[&str]) -> Output {
    let mut command = springhouse();
    command.args(args);
    process::run(command, LIMIT)
}

/// [`run`], and it must succeed.
pub fn ok(args: &[&str]) -> Output {
    let output = run(args);
    assert!(output.success(), "{args:?}: {output:?}");
    output
}

/// [`ok`], and it must print JSON.
pub fn json(args: &[&str]) -> Value {
    let output = ok(args);
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {output:?}"))
}

/// Reads that the cache sent to the store while `work` was done.
pub fn reads_of_store(mount: &Mount, work: impl FnOnce()) -> u64 {
    let reads = || mount.stats()["fs"]["cache"]["store_reads"].as_u64().expect("a count");
    let before = reads();
    work();
    reads() - before
}

pub fn text_of(path: PathBuf) -> String {
    path.display().to_string()
}

/// Past the kernel's page cache, which would answer in the daemon's place.
pub fn direct(path: &Path) -> File {
    File::options().read(true).custom_flags(libc::O_DIRECT).open(path).expect("it opens")
}

/// Reads every byte of a file of whole blocks, past the kernel's page cache.
pub fn read_direct(path: &Path) {
    let file = direct(path);
    let len = file.metadata().expect("a stat").len();
    let mut buffer = Page::new();
    for at in (0..len).step_by(Page::BYTES) {
        let read = file.read_at(buffer.bytes(), at).expect("a read");
        assert_eq!(read as u64, (len - at).min(Page::BYTES as u64), "{} at {at}", path.display());
    }
}

/// Memory at an address that O_DIRECT takes.
pub struct Page(Vec<u8>);

impl Page {
    const BYTES: usize = 32 << 10;

    pub fn new() -> Self {
        Self(vec![0; Self::BYTES + 4096])
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        let start = self.0.as_ptr().align_offset(4096);
        &mut self.0[start..start + Self::BYTES]
    }
}

fn copy_for_all(dir: &Path) -> PathBuf {
    let binary = dir.join("program");
    fs::copy(springhouse_binary(), &binary).expect("a copy of the program");
    binary
}
