//! Changes made through the mount; docs/SEMANTICS.md.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::{
    harness::{
        eventually, file_url,
        hdfs::{Hdfs, HdfsDir},
        mount::Mount,
        need::as_nobody,
        process, scratch,
        segments::noise,
    },
    registry::tests,
};

tests! {
    [Fuse, Hdfs] stream_is_the_default, synced_bytes_are_durable, appends, rename_replaces_atomically,
        directories_and_attributes, refused_for_ever, unmount_finishes_writes, open_file_of_another_name,
        what_one_writes_another_reads, staged_any_pattern, staged_upload_killed, staging_area_full;
    [Fuse] stream_in_a_directory;
    [Fuse, Hdfs, SecondUser] callers_are_themselves, fixed_identity;
}

const LIMIT: Duration = Duration::from_secs(60);

fn on_hdfs(name: &str, args: &[&str]) -> (HdfsDir, Mount) {
    let dir = Hdfs::shared().dir(name);
    let mount = Mount::with(&dir.url(), args);
    (dir, mount)
}

fn errno<T>(outcome: io::Result<T>) -> Option<i32> {
    outcome.err().and_then(|error| error.raw_os_error())
}

/// Sequential writes of any size; a random one is refused, and the log names the remedy.
fn stream_is_the_default() {
    let (dir, mut mount) = on_hdfs("stream", &[]);
    let bytes = noise(1, 5_000_003);
    let mut file = File::create(mount.file("file")).expect("it is made");
    for piece in bytes.chunks(77_777) {
        file.write_all(piece).expect("a sequential write");
    }
    file.seek(SeekFrom::Start(10)).expect("a seek is nothing yet");
    assert_eq!(errno(file.write_all(b"random")), Some(libc::EOPNOTSUPP));
    mount
        .daemon()
        .stderr_line("the remedy", LIMIT, |line| line.contains("--write-mode staged").then_some(()));
    // What was written before is not lost by it.
    drop(file);
    assert!(dir.read("file") == bytes);
    assert!(fs::read(mount.file("file")).expect("it reads") == bytes);
    assert_eq!(fs::metadata(mount.file("file")).expect("a stat").len(), bytes.len() as u64);
}

fn stream_in_a_directory() {
    let root = scratch();
    let mount = Mount::of(&file_url(root.path()));
    let bytes = noise(2, 3_000_001);
    fs::write(mount.file("file"), &bytes).expect("written");
    assert!(fs::read(root.path().join("file")).expect("there") == bytes);
    fs::write(mount.file("file"), "less").expect("truncated and written");
    assert_eq!(fs::read(root.path().join("file")).expect("there"), b"less");
}

/// After fsync the bytes are on the DataNodes' disks: a daemon that is killed takes none with it.
fn synced_bytes_are_durable() {
    let (dir, mut mount) = on_hdfs("synced", &[]);
    let bytes = noise(3, 2_500_000);
    let mut file = File::create(mount.file("file")).expect("it is made");
    file.write_all(&bytes).expect("written");
    file.sync_all().expect("synced");
    mount.daemon().kill();
    drop(file);
    let found = dir.read("file");
    assert!(found.starts_with(&bytes), "{} of {} bytes", found.len(), bytes.len());
}

fn appends() {
    let (dir, mount) = on_hdfs("appends", &[]);
    let mut model = noise(4, 1_500_000);
    fs::write(mount.file("file"), &model).expect("written");
    for n in 0..4 {
        let more = noise(5 + n, 100_001);
        let mut file = OpenOptions::new().append(true).open(mount.file("file")).expect("it opens");
        file.write_all(&more).expect("appended");
        drop(file);
        model.extend_from_slice(&more);
        assert_eq!(fs::metadata(mount.file("file")).expect("a stat").len(), model.len() as u64);
        assert!(fs::read(mount.file("file")).expect("it reads") == model, "append {n}");
    }
    assert!(dir.read("file") == model);
}

/// Whoever opens the name meanwhile finds the old file or the new one, whole.
fn rename_replaces_atomically() {
    let (dir, mount) = on_hdfs("rename", &["--freshness=0s"]);
    let versions: Vec<Vec<u8>> = (0..6).map(|n| vec![n; 300_000 + usize::from(n)]).collect();
    fs::write(mount.file("file"), &versions[0]).expect("written");
    let reader = File::open(mount.file("file")).expect("it opens");
    let (stop, looks) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (point, stop, looks, versions) = (mount.file("file"), &stop, &looks, &versions);
        let watcher = scope.spawn(move || {
            while !stop.load(Relaxed) {
                match fs::read(&point) {
                    Ok(found) => assert!(versions.contains(&found), "{} bytes of no version", found.len()),
                    Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}"),
                }
                looks.fetch_add(1, Relaxed);
            }
        });
        for version in &versions[1..] {
            fs::write(mount.file("next"), version).expect("written");
            let before = looks.load(Relaxed);
            fs::rename(mount.file("next"), mount.file("file")).expect("renamed over");
            // However slow its thread is: it looks at each of them.
            let looked = || watcher.is_finished() || looks.load(Relaxed) >= before + 2;
            eventually("somebody looks meanwhile", LIMIT, || looked().then_some(()));
        }
        stop.store(true, Relaxed);
        watcher.join().expect("no mixture was seen");
    });
    assert!(dir.read("file") == versions[5]);
    assert!(fs::metadata(mount.file("next")).is_err(), "the other name is gone");
    // The file that was open all the time gives its own bytes, or says that they are gone.
    let mut page = [9; 100];
    match reader.read_exact_at(&mut page, 1_000) {
        Ok(()) => assert_eq!(page, [0; 100]),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}"),
    }
}

fn directories_and_attributes() {
    let (dir, mount) = on_hdfs("attributes", &[]);
    mount.sh("mkdir -p a/b/c && echo 1 > a/b/c/file && mkdir empty && rmdir empty");
    assert_eq!(errno(fs::remove_dir(mount.file("a/b"))), Some(libc::ENOTEMPTY));
    assert_eq!(errno(fs::create_dir(mount.file("a"))), Some(libc::EEXIST));
    assert_eq!(errno(fs::create_dir(mount.file("none/x"))), Some(libc::ENOENT));
    mount.sh("mv a/b moved && cat moved/c/file && test ! -e a/b");
    mount.sh("chmod 640 moved/c/file && touch -d @1600000000.123 moved/c/file");
    let found = fs::metadata(mount.file("moved/c/file")).expect("a stat");
    assert_eq!((found.permissions().mode() & 0o7777, found.mtime()), (0o640, 1_600_000_000));
    assert_eq!(found.mtime_nsec(), 123_000_000, "HDFS keeps milliseconds");
    mount.sh("chown nobody:nogroup moved/c/file");
    let status = &dir.list("moved/c")[0];
    assert_eq!((status.owner.as_str(), status.group.as_str()), ("nobody", "nogroup"));
    mount.sh("umask 027 && echo x > masked && mkdir maskeddir");
    for (name, mode) in [("masked", 0o640), ("maskeddir", 0o750)] {
        let found = fs::metadata(mount.file(name)).expect("a stat");
        assert_eq!(found.permissions().mode() & 0o777, mode, "{name}");
    }
    mount.sh("rm moved/c/file && rm -r moved && truncate -s 0 masked && test ! -s masked");
    let exclusive = OpenOptions::new().write(true).create_new(true).open(mount.file("masked"));
    assert_eq!(errno(exclusive), Some(libc::EEXIST));
}

/// What HDFS cannot do is refused with the errno that says so.
fn refused_for_ever() {
    let (_dir, mount) = on_hdfs("refused", &[]);
    fs::write(mount.file("file"), "bytes").expect("written");
    assert_eq!(errno(std::os::unix::fs::symlink("file", mount.file("link"))), Some(libc::EPERM));
    assert_eq!(errno(fs::hard_link(mount.file("file"), mount.file("link"))), Some(libc::EPERM));
    let setfattr =
        "import os\ntry:\n  os.setxattr('file', 'user.x', b'1')\nexcept OSError as e: print(e.errno)";
    let said = mount.sh(format!("python3 -c \"{setfattr}\""));
    assert_eq!(said.trim(), libc::EOPNOTSUPP.to_string());
    let file = OpenOptions::new().write(true).open(mount.file("file")).expect("it opens");
    assert_eq!(errno(file.set_len(3)), Some(libc::EOPNOTSUPP), "HDFS's client has no truncate");
    drop(file);
    assert_eq!(fs::read(mount.file("file")).expect("it reads"), b"bytes");
}

/// SIGTERM while a file is open for writing: what was written so far is in the store.
fn unmount_finishes_writes() {
    let (dir, mut mount) = on_hdfs("finish", &[]);
    let bytes = noise(9, 3_000_000);
    let mut file = File::create(mount.file("file")).expect("it is made");
    file.write_all(&bytes).expect("written");
    mount.daemon().signal(process::Signal::Term);
    mount.daemon().wait(LIMIT).expect("it ends");
    drop(file);
    let found = dir.read("file");
    assert!(found == bytes, "{} of {} bytes", found.len(), bytes.len());
}

/// A file that is renamed or removed while it is open.
fn open_file_of_another_name() {
    let (dir, mount) = on_hdfs("open-names", &[]);
    let bytes = noise(10, 400_000);
    fs::create_dir(mount.file("d")).expect("made");
    fs::write(mount.file("d/file"), &bytes).expect("written");
    let file = File::open(mount.file("d/file")).expect("it opens");
    fs::rename(mount.file("d"), mount.file("e")).expect("renamed");
    let mut found = Vec::new();
    (&file).read_to_end(&mut found).expect("it reads on");
    assert!(found == bytes);
    assert!(fs::read(mount.file("e/file")).expect("by its new name") == bytes);
    // Being written while its name changes.
    let mut writer = File::create(mount.file("e/new")).expect("made");
    writer.write_all(&bytes[..200_000]).expect("written");
    fs::rename(mount.file("e/new"), mount.file("e/named")).expect("renamed");
    writer.write_all(&bytes[200_000..]).expect("written on");
    drop(writer);
    eventually("all of it is there", LIMIT, || (dir.read("e/named") == bytes).then_some(()));
}

/// Close-to-open: once a writer has closed, whoever opens the file after the freshness has all of it,
/// on another mount as well.
fn what_one_writes_another_reads() {
    let (dir, first) = on_hdfs("two-mounts", &["--freshness=0s"]);
    let second = Mount::with(&dir.url(), &["--freshness=0s"]);
    for n in 0..8_u64 {
        let bytes = noise(n, 50_000 + n as usize);
        let (writer, reader) = if n % 2 == 0 { (&first, &second) } else { (&second, &first) };
        fs::write(writer.file("file"), &bytes).expect("written");
        assert!(fs::read(reader.file("file")).expect("read") == bytes, "round {n}");
        assert!(fs::read(writer.file("file")).expect("read") == bytes, "round {n}, by its writer");
    }
}

fn staged(name: &str, more: &[&str]) -> (HdfsDir, Mount, tempfile::TempDir) {
    let home = scratch();
    let staging = format!("--staging-dir={}", home.path().join("staging").display());
    let args: Vec<&str> = ["--write-mode=staged", &staging].into_iter().chain(more.iter().copied()).collect();
    let (dir, mount) = on_hdfs(name, &args);
    (dir, mount, home)
}

fn staged_any_pattern() {
    let (dir, mount, home) = staged("staged", &[]);
    let mut model = noise(20, 1_000_000);
    fs::write(mount.file("file"), &model).expect("written");
    let file = OpenOptions::new().read(true).write(true).open(mount.file("file")).expect("it opens");
    for n in 0..50_u64 {
        let (at, piece) = ((n * 37_991 % 1_100_000) as usize, noise(n, 3_001));
        file.write_all_at(&piece, at as u64).expect("a random write");
        if model.len() < at + piece.len() {
            model.resize(at + piece.len(), 0);
        }
        model[at..at + piece.len()].copy_from_slice(&piece);
    }
    let mut found = vec![0; model.len()];
    file.read_exact_at(&mut found, 0).expect("its own writes");
    assert!(found == model, "a writer reads what it wrote");
    file.set_len(700_000).expect("cut");
    model.truncate(700_000);
    file.sync_all().expect("synced");
    assert!(dir.read("file") == model, "fsync brings it to HDFS");
    file.write_all_at(b"end", 699_997).expect("written");
    model[699_997..].copy_from_slice(b"end");
    drop(file);
    assert!(dir.read("file") == model, "close brings it to HDFS");
    assert!(fs::read(mount.file("file")).expect("it reads") == model);
    let names: Vec<String> = dir.list("").into_iter().map(|status| status.name).collect();
    assert_eq!(names, ["file"], "no temporary is left");
    // The kernel tells of the last close later, and nobody waits for that.
    eventually("nothing large stays staged", LIMIT, || {
        files_in(&home.path().join("staging")).iter().all(|(_, len)| *len < 1_000).then_some(())
    });
}

/// kill -9 with bytes staged, before and in the middle of the upload: the next start brings them to the
/// store or keeps them under a name that it tells.
fn staged_upload_killed() {
    let (dir, mut mount, home) = staged("staged-killed", &[]);
    let bytes = noise(30, 6_000_000);
    let file = File::create(mount.file("late")).expect("made");
    file.write_all_at(&bytes, 0).expect("staged");
    mount.daemon().kill();
    drop(file);
    let staging = format!("--staging-dir={}", home.path().join("staging").display());
    let mount = Mount::with(&dir.url(), &["--write-mode=staged", &staging]);
    eventually("what was staged is uploaded", LIMIT, || {
        (fs::read(mount.file("late")).ok()? == bytes).then_some(())
    });
    assert!(dir.read("late") == bytes);
    drop(mount);
    // A file that somebody else replaced meanwhile: theirs stays, ours is kept aside.
    let mut mount = Mount::with(&dir.url(), &["--write-mode=staged", &staging]);
    let file = OpenOptions::new().write(true).open(mount.file("late")).expect("it opens");
    file.write_all_at(b"mine", 0).expect("staged");
    mount.daemon().kill();
    drop(file);
    dir.replace("late", "theirs");
    let mut mount = Mount::with(&dir.url(), &["--write-mode=staged", &staging]);
    let beside = format!("{}/late.springhouse-recovered-", dir.url());
    let kept = mount.daemon().stderr_line("where it keeps ours", LIMIT, |line| {
        let path = line[line.find(&beside)?..].split_whitespace().next()?;
        Some(path.trim_end_matches([',', ';', '"', ':'])[dir.url().len() + 1..].to_owned())
    });
    assert_eq!(dir.read("late"), b"theirs");
    let ours = dir.read(&kept);
    assert!(ours.starts_with(b"mine") && ours.len() == bytes.len() && ours[4..] == bytes[4..]);
    drop(mount);
}

fn staging_area_full() {
    let (dir, mount, _home) = staged("staged-full", &["--staging-size=2MiB"]);
    let file = File::create(mount.file("large")).expect("made");
    let mut failed = None;
    for n in 0..64_u64 {
        if let Err(error) = file.write_all_at(&noise(n, 64 << 10), n * (64 << 10)) {
            failed = Some((n, error.raw_os_error()));
            break;
        }
    }
    let (pieces, errno) = failed.expect("the area is full some time");
    assert_eq!(errno, Some(libc::ENOSPC));
    assert!((16..=32).contains(&pieces), "{pieces} pieces of 64 KiB in 2 MiB");
    drop(file);
    // What had room is not lost, and room comes back.
    assert_eq!(dir.read("large").len() as u64, pieces * (64 << 10));
    // The kernel tells of the last close later, and nobody waits for that.
    eventually("there is room again", LIMIT, || fs::write(mount.file("small"), noise(1, 100_000)).ok());
    assert!(dir.read("small") == noise(1, 100_000));
}

fn sh_as_nobody(mount: &Mount, script: &str) -> process::Output {
    let mut command = as_nobody(Command::new("sh"));
    // The shell changes directory, as in `Mount::sh`.
    command.arg("-c").arg(format!("cd \"$MOUNT\" && {script}")).env("MOUNT", mount.path());
    command.env("LC_ALL", "C.UTF-8");
    process::run(command, LIMIT)
}

/// HDFS decides by the caller's name: files are his, and others' are closed to him.
fn callers_are_themselves() {
    let (dir, mount) = on_hdfs("callers", &["--identity=caller", "--allow-other=true"]);
    let web = dir.hdfs().web();
    dir.put("secret", "root's");
    web.set_mode(&dir.path("secret"), 0o600);
    web.create_dir(&dir.path("closed"));
    dir.put("closed/inside", "x");
    web.set_mode(&dir.path("closed"), 0o700);
    web.create_dir(&dir.path("open"));
    web.set_mode(&dir.path("open"), 0o777);
    // Root looks first: what is remembered for root must not be told to others.
    mount.sh("cat secret closed/inside && ls -l closed");
    let denied = |script: &str| {
        let output = sh_as_nobody(&mount, script);
        assert!(!output.success() && output.stderr.contains("Permission denied"), "{script}: {output:?}");
    };
    denied("cat secret");
    denied("cat closed/inside");
    denied("ls closed");
    denied("echo x > new");
    denied("rm secret");
    denied("chown nobody secret");
    dir.put("shown", "root's");
    denied("exec 9>> shown");
    denied("python3 -c 'import os; os.open(\"shown\", os.O_WRONLY)'");
    denied("python3 -c 'import os; os.truncate(\"shown\", 3)'");
    // Nor while somebody who may has it open.
    let writer = fs::File::options().append(true).open(mount.file("shown")).expect("opened");
    denied("exec 9>> shown");
    drop(writer);
    assert_eq!(dir.read("shown"), b"root's");
    let output = sh_as_nobody(
        &mount,
        "echo mine > open/file && mkdir open/dir && cat open/file && umask 777 && echo x > open/dir/f",
    );
    assert!(output.success(), "{output:?}");
    let owners: Vec<String> = dir.list("open").into_iter().map(|status| status.owner).collect();
    assert_eq!(owners, ["nobody", "nobody"]);
    // Root is HDFS's superuser here, and stays so.
    mount.sh("cat open/file && chown root open/file && rm open/file");
}

fn fixed_identity() {
    let (dir, mount) = on_hdfs("fixed", &["--identity=fixed", "--allow-other=true"]);
    dir.put("secret", "root's");
    dir.hdfs().web().set_mode(&dir.path("secret"), 0o600);
    let output = sh_as_nobody(&mount, "cat secret && echo x > new");
    assert!(output.success(), "everybody is the daemon's user: {output:?}");
    assert!(dir.list("").iter().all(|status| status.owner == "root"));
}

fn files_in(dir: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(dir).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let len = |entry: &fs::DirEntry| entry.metadata().map_or(0, |metadata| metadata.len());
    entries.iter().map(|entry| (entry.file_name().to_string_lossy().into_owned(), len(entry))).collect()
}
