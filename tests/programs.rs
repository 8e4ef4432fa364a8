//! Real programs on the mount, reading and writing; docs/SEMANTICS.md.

use std::{fs, process::Command, time::Duration};

use crate::{
    harness::{
        hdfs::{Hdfs, HdfsDir},
        mount::Mount,
        need, process,
        process::Process,
        scratch,
        segments::noise,
    },
    registry::tests,
};

tests! {
    [Fuse, Hdfs, Rsync] rsync_both_ways;
    [Fuse, Hdfs] tar_both_ways, dd_of_odd_sizes, tail_follows_a_name, storms_of_stat, locks_on_one_host;
    [Fuse, Hdfs, Sqlite3] sqlite_writes_where_staged;
    [Fuse, Hdfs, DuckDb] parquet_by_duckdb;
}

const LIMIT: Duration = Duration::from_secs(60);

/// A tree of some depth: small files, an empty one, one of several HDFS blocks, names of all kinds.
fn tree() -> tempfile::TempDir {
    let local = scratch();
    for (i, name) in ["a", "b/c", "b/with blanks", "b/d/Ünïcødé", "b/d/empty", "big"].iter().enumerate() {
        let path = local.path().join(name);
        fs::create_dir_all(path.parent().expect("in a directory")).expect("a directory");
        let len = match *name {
            "b/d/empty" => 0,
            "big" => 3_500_001,
            _ => 1_000 * i + 1,
        };
        fs::write(path, noise(i as u64, len)).expect("a file");
    }
    local
}

fn on_hdfs(name: &str, args: &[&str]) -> (HdfsDir, Mount) {
    let dir = Hdfs::shared().dir(name);
    let mount = Mount::with(&dir.url(), args);
    (dir, mount)
}

fn local_sh(dir: &std::path::Path, script: &str) -> String {
    let mut sh = Command::new("sh");
    sh.arg("-c").arg(script).current_dir(dir).env("LC_ALL", "C.UTF-8");
    let output = process::run(sh, LIMIT);
    assert!(output.success(), "{script}: {output:?}");
    output.stdout
}

/// Times, modes and contents arrive; a second run finds nothing to do.
fn rsync_both_ways() {
    let (dir, mount) = on_hdfs("rsync", &[]);
    let local = tree();
    let from = local.path().display();
    mount.sh(format!("rsync -a '{from}/' copy/"));
    assert_eq!(mount.sh(format!("rsync -ai '{from}/' copy/")), "", "nothing is left to do");
    let back = scratch();
    mount.sh(format!("rsync -a copy/ '{}/'", back.path().display()));
    mount.sh(format!("diff -r '{from}' '{}'", back.path().display()));
    // HDFS itself has the bytes, and no temporary name is left.
    assert!(dir.read("copy/big") == noise(5, 3_500_001));
    let names: Vec<String> = dir.list("copy").into_iter().map(|status| status.name).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    // A changed file replaces the old one.
    fs::write(local.path().join("a"), "changed").expect("a file");
    mount.sh(format!("rsync -a '{from}/' copy/"));
    assert_eq!(dir.read("copy/a"), b"changed");
}

fn tar_both_ways() {
    let (_dir, mount) = on_hdfs("tar", &[]);
    let local = tree();
    let from = local.path().display();
    mount.sh(format!("tar -C '{from}' -cf all.tar . && mkdir out && tar -C out -xf all.tar"));
    mount.sh(format!("diff -r '{from}' out"));
    mount.sh("tar -C out -czf again.tgz . && mkdir out2 && tar -C out2 -xzf again.tgz && diff -r out out2");
}

fn dd_of_odd_sizes() {
    let (dir, mount) = on_hdfs("dd", &[]);
    let local = scratch();
    let bytes = noise(3, 2_000_003);
    fs::write(local.path().join("in"), &bytes).expect("a file");
    for (i, size) in ["1", "13", "4095", "4097", "131073", "3000000"].iter().enumerate() {
        // Byte by byte only the beginning: each is a request.
        let count = if *size == "1" { "count=5000" } else { "" };
        let input = local.path().join("in");
        mount.sh(format!("dd if='{}' of=out{i} bs={size} {count} conv=fsync status=none", input.display()));
        let expected = if *size == "1" { &bytes[..5_000] } else { &bytes[..] };
        assert!(dir.read(&format!("out{i}")) == expected, "bs={size}");
        assert!(fs::read(mount.file(format!("out{i}"))).expect("it reads") == expected, "bs={size}");
    }
    mount.sh("dd if=out2 of=/dev/null bs=1M iflag=direct status=none");
    // The end of a file is where HDFS can go on.
    mount.sh("printf more >> out2 && tail -c 4 out2 | grep -q more");
    assert_eq!(dir.read("out2").len(), bytes.len() + 4);
}

/// A log that another client appends to: `tail -F` shows each line.
fn tail_follows_a_name() {
    let (dir, mount) = on_hdfs("tail", &["--freshness=200ms"]);
    let mount_of_writer = Mount::of(&dir.url());
    mount_of_writer.sh("echo first > log");
    let mut command = Command::new("tail");
    // Polls: what others do in the store no kernel tells.
    command.args(["-s", "0.2", "---disable-inotify", "-n", "+1", "-F"]).arg(mount.file("log"));
    let mut tail = Process::start("tail", command);
    tail.stdout_line("the first line", LIMIT, |line| (line == "first").then_some(()));
    for n in 0..3 {
        let line = format!("line {n}");
        mount_of_writer.sh(format!("echo '{line}' >> log"));
        tail.stdout_line("what was appended", LIMIT, |found| (found == line).then_some(()));
    }
}

/// As `git status` does: many stats, again and again, of what is and what is not there.
fn storms_of_stat() {
    let (dir, mount) = on_hdfs("storm", &["--freshness=1h"]);
    for i in 0..200 {
        dir.put(&format!("d/f{i:03}"), format!("{i}"));
    }
    assert_eq!(mount.sh("ls -l d | wc -l").trim(), "201");
    let calls = |mount: &Mount| {
        let stats = mount.stats();
        let calls = &stats["store_calls"]["operations"];
        calls["stat"]["calls"].as_u64().unwrap_or(0) + calls["list"]["calls"].as_u64().unwrap_or(0)
    };
    let storm = "for n in 1 2 3 4 5; do ls -l d > /dev/null; for f in d/f00*; do stat $f > /dev/null; \
                 test -e $f.lock && exit 1; done; done; true";
    mount.sh(storm);
    let before = calls(&mount);
    mount.sh(storm);
    let asked = calls(&mount) - before;
    // Each `ls` opens the directory anew and lists it; names and their absence are remembered.
    assert!(asked <= 20, "{asked} calls for 5 listings and 100 known answers");
}

/// Locks are the kernel's: they hold between processes of one host.
fn locks_on_one_host() {
    let (_dir, mount) = on_hdfs("locks", &[]);
    mount.sh("echo x > file");
    mount.sh("exec 9< file && flock -s 9 && ! flock -n -x file true && flock -n -s file true");
    mount.sh("flock -x file true");
    let script = "import fcntl, os, sys\nf = open('file', 'rb')\nfcntl.lockf(f, fcntl.LOCK_SH)\n\
        pid = os.fork()\nif pid == 0:\n    g = open('file', 'rb')\n    fcntl.lockf(g, fcntl.LOCK_SH | fcntl.LOCK_NB)\n    os._exit(0)\n\
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))";
    mount.sh(format!("python3 -c \"{script}\""));
}

fn sqlite_writes_where_staged() {
    let home = scratch();
    let staging = format!("--staging-dir={}", home.path().join("staging").display());
    let (dir, mount) = on_hdfs("sqlite-writes", &["--write-mode=staged", &staging]);
    let rows = "with recursive c(n) as (select 1 union all select n + 1 from c limit 20000)";
    mount.sh(format!(
        "sqlite3 new.db \"create table t(a integer primary key, b); insert into t {rows} select n, hex(randomblob(20)) from c;\""
    ));
    assert_eq!(mount.sh("sqlite3 new.db 'select count(*) from t; pragma integrity_check'"), "20000\nok\n");
    mount.sh("sqlite3 new.db \"update t set b = 'x' where a % 2; delete from t where a > 15000; vacuum\"");
    assert_eq!(mount.sh("sqlite3 new.db \"select count(*), sum(b = 'x') from t\""), "15000|7500\n");
    // What HDFS has is the database, whole.
    let copy = scratch();
    fs::write(copy.path().join("copy.db"), dir.read("new.db")).expect("a file");
    let found = local_sh(copy.path(), "sqlite3 copy.db 'pragma integrity_check; select count(*) from t'");
    assert_eq!(found, "ok\n15000\n");
    let left: Vec<String> = dir.list("").into_iter().map(|status| status.name).collect();
    assert_eq!(left, ["new.db"], "no journal and no temporary is left");
}

fn parquet_by_duckdb() {
    let local = scratch();
    let root = local.path().display();
    let python = need::tool("duckdb/bin/python");
    let run = |code: String| {
        let mut command = Command::new(&python);
        command.arg("-c").arg(code);
        let output = process::run(command, LIMIT);
        assert!(output.success(), "{output:?}");
        output.stdout
    };
    let make = "select i, i % 97 as k, hash(i)::varchar as h from range(300000) t(i)";
    run(format!("import duckdb; duckdb.sql(\"copy ({make}) to '{root}/t.parquet' (row_group_size 20000)\")"));
    let (dir, mount) = on_hdfs("parquet", &[]);
    dir.put_file("t.parquet", &local.path().join("t.parquet"), None);
    let ask = |path: String| {
        run(format!(
            "import duckdb\nprint(duckdb.sql(\"select k, count(*), min(h), max(i) from '{path}' \
             where i between 40000 and 260000 group by k order by k\").fetchall())"
        ))
    };
    let expected = ask(format!("{root}/t.parquet"));
    assert!(expected.len() > 1_000, "{expected}");
    assert_eq!(ask(mount.file("t.parquet").display().to_string()), expected);
    // Written through the mount as well: DuckDB writes Parquet from front to end.
    let out = mount.file("out.parquet");
    run(format!("import duckdb; duckdb.sql(\"copy ({make}) to '{}'\")", out.display()));
    assert_eq!(ask(out.display().to_string()), expected);
}
