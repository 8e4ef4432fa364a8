//! The mount gives the store's bytes, names and attributes; docs/SEMANTICS.md.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt},
    },
    path::Path,
    process::Command,
};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::{
    harness::{
        file_url,
        hdfs::{BLOCK_SIZE, Hdfs},
        mount::Mount,
        need::{self, NOBODY},
        process, scratch,
        segments::{self, CrawledUrl, noise},
    },
    registry::tests,
};

tests! {
    [Fuse, Hdfs] random_reads_equal_the_store, ordinary_tools, attributes_are_the_stores, hundreds_of_megabytes;
    [Fuse] more_than_four_gigabytes, read_only, statfs, mapped_files, statistics;
    [Fuse, Hdfs, Sqlite3] sqlite_command_line;
    [Fuse, UserMounts] ordinary_user;
}

/// Smallest HDFS block that the cluster takes: many boundaries in a small file.
const SMALL_BLOCK: u64 = 4_096;

fn random_reads_equal_the_store() {
    let dir = Hdfs::shared().dir("random-reads");
    // The model: what was written, of lengths around every boundary there is.
    let lengths = [0, 1, 4_095, 4_096, 4_097, 65_536, 3 * BLOCK_SIZE as usize + 17];
    let model: Vec<Vec<u8>> = lengths.iter().enumerate().map(|(i, len)| noise(i as u64, *len)).collect();
    for (i, bytes) in model.iter().enumerate() {
        let block_size = if i % 2 == 0 { SMALL_BLOCK } else { BLOCK_SIZE };
        dir.put_in_blocks(&format!("f{i}"), bytes.clone(), block_size);
    }
    // Too small a cache to hold the files: blocks come and go meanwhile.
    let mount = Mount::with(&dir.url(), &["--memory-blocks", "1MiB"]);
    let files: Vec<File> =
        (0..model.len()).map(|i| File::open(mount.file(format!("f{i}"))).expect("it opens")).collect();

    let read = (0..model.len(), any::<prop::sample::Index>(), 0..300_000_usize);
    let mut runner = TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    let checked = runner.run(&read, |(i, at, len)| {
        // Offsets reach a little past the end.
        let offset = at.index(model[i].len() + 10);
        let end = (offset + len).min(model[i].len());
        let expected = model[i].get(offset..end).unwrap_or_default();
        let mut got = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match files[i].read_at(&mut got[filled..], (offset + filled) as u64).expect("a read") {
                0 => break,
                n => filled += n,
            }
        }
        got.truncate(filled);
        prop_assert!(got == expected, "file {i}, {len} bytes from {offset}: {filled} bytes came");
        Ok(())
    });
    checked.expect("every read gives the store's bytes");
    // And once by a way that shares no code with the harness's writes: HDFS gives the same back.
    assert_eq!(dir.read("f6"), model[6]);
}

/// The same tree in HDFS and in a local directory, so that every tool has something to agree with.
fn ordinary_tools() {
    let local = scratch();
    let dir = Hdfs::shared().dir("tools");
    let long = "n".repeat(255);
    let names = ["plain", "with blanks and 'quotes'", "Ünïcødé-数据", "a/b/c/deep", &long, "-dash", "empty"];
    for (i, name) in names.iter().enumerate() {
        let bytes = if *name == "empty" { Vec::new() } else { noise(i as u64, 10_000 * i + 1) };
        let path = local.path().join(name);
        fs::create_dir_all(path.parent().expect("in a directory")).expect("a directory");
        fs::write(&path, &bytes).expect("a file");
        dir.put_in_blocks(name, bytes, SMALL_BLOCK);
    }
    let mount = Mount::of(&dir.url());
    let local_sh = |script: &str| {
        let mut sh = Command::new("sh");
        sh.arg("-c").arg(script).current_dir(local.path()).env("LC_ALL", "C.UTF-8");
        process::run(sh, std::time::Duration::from_secs(60)).stdout
    };
    let same = |script: &str| assert_eq!(mount.sh(script), local_sh(script), "{script}");
    same("ls -1R");
    same("find . | sort");
    same("find . -type f -size -30k | sort");
    same("find . -type f -exec sha256sum {} + | sort");
    same("find . -type f -exec stat -c '%n %s %F' {} + | sort");
    same("cat ./* 2>/dev/null | sha256sum");
    same("tail -c 100 'with blanks and '\\''quotes'\\''' | od -c");
    same("du -ab --apparent-size a/b/c/deep");
    let copy = scratch();
    mount.sh(format!("cp -r . '{}/copy' && diff -r . '{0}/copy'", copy.path().display()));
    mount.sh(format!("for f in plain empty a/b/c/deep; do cmp $f '{}'/$f; done", local.path().display()));
    let status = mount.try_sh("cat missing".as_ref(), std::time::Duration::from_secs(30)).expect("it ends");
    assert!(status.stderr.contains("No such file or directory"), "{status:?}");

    let latin = OsStr::from_bytes(b"caf\xe9");
    let invalid =
        |result: std::io::Result<()>| result.map_err(|e| e.raw_os_error()) == Err(Some(libc::EINVAL));
    assert!(invalid(fs::write(mount.file(latin), "x")) && invalid(fs::create_dir(mount.file(latin))));
    assert!(invalid(fs::rename(mount.file("plain"), mount.file(latin))));
    fs::write(local.path().join(latin), "x").expect("a local file");
    let mount = Mount::of(&file_url(local.path()));
    let listed = mount.sh("ls -A");
    assert!(listed.contains("plain") && !listed.contains("caf"), "it is left out: {listed}");
}

fn attributes_are_the_stores() {
    let dir = Hdfs::shared().dir("attributes");
    dir.put("file", noise(1, 12_345));
    let web = dir.hdfs().web();
    web.create_dir(&dir.path("sub"));
    web.set_mode(&dir.path("file"), 0o640);
    web.set_mtime(&dir.path("file"), 1_600_000_000_123);
    dir.put("foreign", &b"x"[..]);
    web.set_owner(&dir.path("foreign"), "nobody-knows-me", "nor-my-group");
    let mount = Mount::of(&dir.url());

    let file = fs::metadata(mount.file("file")).expect("stat");
    assert_eq!((file.len(), file.mode() & 0o7777, file.nlink()), (12_345, 0o640, 1));
    assert_eq!((file.mtime(), file.mtime_nsec()), (1_600_000_000, 123_000_000));
    assert!(file.is_file());
    let foreign = fs::metadata(mount.file("foreign")).expect("stat");
    assert_eq!(foreign.uid(), NOBODY, "an unknown owner is nobody");
    let sub = fs::metadata(mount.file("sub")).expect("stat");
    assert!(sub.is_dir());
    assert_eq!(sub.nlink(), 1);

    // Inode numbers are those of the listing, of a second look, and of another mount.
    let listed = mount.sh("ls -i1 file").trim().split(' ').next().and_then(|n| n.parse().ok());
    assert_eq!(listed, Some(file.ino()));
    assert_eq!(fs::metadata(mount.file("file")).expect("stat").ino(), file.ino());
    let again = Mount::of(&dir.url());
    assert_eq!(fs::metadata(again.file("file")).expect("stat").ino(), file.ino());
}

fn hundreds_of_megabytes() {
    const LEN: usize = 200 << 20;
    let dir = Hdfs::shared().dir("large");
    let bytes = noise(9, LEN);
    dir.put_in_blocks("large", bytes.clone(), 32 << 20);
    let mount = Mount::of(&dir.url());
    let mut file = File::open(mount.file("large")).expect("it opens");
    let mut chunk = vec![0; 1 << 20];
    for expected in bytes.chunks(chunk.len()) {
        file.read_exact(&mut chunk).expect("a sequential read");
        assert!(chunk == expected, "a chunk differs");
    }
    assert_eq!(file.read(&mut chunk).expect("a read at the end"), 0);
}

/// A sparse file: 5 GB in length, with bytes around each power of two that might be a limit.
fn more_than_four_gigabytes() {
    let root = scratch();
    let marks = [0_u64, (1 << 31) - 3, (1 << 32) - 3, 5_000_000_000];
    let mut file = File::create(root.path().join("huge")).expect("a file");
    for mark in marks {
        file.seek(SeekFrom::Start(mark)).expect("a seek");
        file.write_all(format!("mark {mark:>10}").as_bytes()).expect("a write");
    }
    drop(file);
    let mount = Mount::of(&format!("file://{}", root.path().display()));
    let file = File::open(mount.file("huge")).expect("it opens");
    assert_eq!(file.metadata().expect("stat").len(), 5_000_000_015);
    for mark in marks {
        let mut text = [0; 15];
        file.read_exact_at(&mut text, mark).expect("a read");
        assert_eq!(String::from_utf8_lossy(&text), format!("mark {mark:>10}"));
    }
    let mut hole = [1; 100];
    file.read_exact_at(&mut hole, 3 << 30).expect("a read in the hole");
    assert_eq!(hole, [0; 100]);
}

fn read_only() {
    let root = scratch();
    fs::create_dir(root.path().join("dir")).expect("a directory");
    fs::write(root.path().join("file"), "bytes").expect("a file");
    let mount = Mount::with(&format!("file://{}", root.path().display()), &["--read-only=true"]);
    for change in [
        "echo x > file",
        "echo x >> file",
        "touch new",
        "mkdir new",
        "rm file",
        "rmdir dir",
        "mv file other",
        "ln file other",
        "ln -s file other",
        "chmod 600 file",
        "chown 1 file",
        "truncate -s 0 file",
        "touch file",
    ] {
        let output = mount.try_sh(change.as_ref(), std::time::Duration::from_secs(30)).expect("it ends");
        assert!(!output.success() && output.stderr.contains("Read-only file system"), "{change}: {output:?}");
    }
    assert_eq!(fs::read(root.path().join("file")).expect("the file"), b"bytes");
}

fn statfs() {
    let root = scratch();
    let mount = Mount::of(&format!("file://{}", root.path().display()));
    let of = |path: &Path| {
        let mut stat = Command::new("stat");
        stat.args(["-f", "-c", "%b %S"]).arg(path);
        let output = process::run(stat, std::time::Duration::from_secs(30)).stdout;
        let numbers: Vec<u128> = output.split_whitespace().map(|n| n.parse().expect("a number")).collect();
        numbers[0] * numbers[1]
    };
    let (own, below) = (of(&mount.path()), of(root.path()));
    assert!(own > 0 && own.abs_diff(below) <= below / 1_000, "{own} bytes on the mount, {below} below it");
}

fn statistics() {
    let root = scratch();
    fs::write(root.path().join("file"), noise(1, 300_000)).expect("a file");
    let mount = Mount::of(&format!("file://{}", root.path().display()));
    let before = mount.stats();
    assert_eq!(fs::read(mount.file("file")).expect("a read").len(), 300_000);
    assert_ne!(mount.stats(), before, "a read shows in the daemon's statistics: {before}");
}

fn mapped_files() {
    let root = scratch();
    let bytes = noise(3, 3_000_001);
    fs::write(root.path().join("mapped"), &bytes).expect("a file");
    let mount = Mount::of(&format!("file://{}", root.path().display()));
    let map = Map::of(&File::open(mount.file("mapped")).expect("it opens"));
    // Backwards in steps that are no multiple of a page: every page is a fault of its own.
    for at in (0..bytes.len()).rev().step_by(1_021) {
        assert_eq!(map.bytes()[at], bytes[at], "at {at}");
    }
    assert!(map.bytes() == bytes);
}

fn sqlite_command_line() {
    let root = scratch();
    let path = segments::crawl_statistics(root.path(), "555123", 5, 3_000);
    let dir = Hdfs::shared().dir("sqlite3");
    dir.put_in_blocks("a segment.sqlite", fs::read(path).expect("the segment"), SMALL_BLOCK);
    let mount = Mount::of(&dir.url());
    let expected: i64 = (0..3_000).map(|i| CrawledUrl::of(5, i).size).sum();
    let sum = mount.sh("sqlite3 'file:a%20segment.sqlite?immutable=1' 'select sum(size) from crawled_url'");
    assert_eq!(sum.trim(), expected.to_string());
    let check = mount.sh("sqlite3 'file:a%20segment.sqlite?immutable=1' 'pragma integrity_check'");
    assert_eq!(check.trim(), "ok");
    // Without immutable=1 SQLite looks for a journal, which nobody else has here either.
    assert_eq!(
        mount.sh("sqlite3 -readonly 'a segment.sqlite' 'select count(*) from crawled_url'").trim(),
        "3000"
    );
}

fn ordinary_user() {
    let root = scratch();
    fs::write(root.path().join("file"), "bytes").expect("a file");
    fs::write(root.path().join("secret"), "not for others").expect("a file");
    fs::set_permissions(root.path().join("secret"), PermissionsExt::from_mode(0o600)).expect("chmod");
    let mount = Mount::as_nobody(&format!("file://{}", root.path().display()));
    let as_nobody = |script: &str| {
        let mut sh = Command::new("sh");
        sh.arg("-c").arg(script).env("MOUNT", mount.path());
        process::run(need::as_nobody(sh), std::time::Duration::from_secs(30))
    };
    assert_eq!(as_nobody("cat \"$MOUNT\"/file").stdout.trim(), "bytes");
    assert!(as_nobody("cat \"$MOUNT\"/secret").stderr.contains("Permission denied"));
    // Root is somebody else, and sees nothing.
    let error = fs::read(mount.file("file")).expect_err("the mount is its user's alone");
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
}

/// A file mapped for reading.
struct Map {
    start: *mut libc::c_void,
    len: usize,
}

#[allow(unsafe_code, reason = "mmap(2)")]
impl Map {
    fn of(file: &File) -> Self {
        use std::os::fd::AsRawFd;
        let len = file.metadata().expect("stat").len() as usize;
        let (prot, flags) = (libc::PROT_READ, libc::MAP_SHARED);
        // SAFETY: a fresh mapping at an address of the kernel's choice; the descriptor is open.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, file.as_raw_fd(), 0) };
        assert_ne!(start, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Self { start, len }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `start` is a live mapping of `len` readable bytes, which nobody truncates.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len) }
    }
}

#[allow(unsafe_code, reason = "munmap(2)")]
impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped by `of`, and no slice outlives `self`.
        unsafe { libc::munmap(self.start, self.len) };
    }
}
