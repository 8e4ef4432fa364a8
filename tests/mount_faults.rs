//! What the mount does when something under it breaks; docs/SEMANTICS.md.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::{
    harness::{
        eventually, file_url as url,
        hdfs::{Hdfs, HdfsDir},
        mount::{Mount, is_mounted},
        process::{self, Process},
        scratch,
        segments::noise,
    },
    registry::tests,
};

tests! {
    [Fuse, Hdfs] datanode_killed_in_the_middle_of_a_read, datanode_stopped_in_the_middle_of_a_read,
        both_datanodes_stopped, namenode_restarted, replaced_while_open, foreign_change_shows;
    [Fuse] replaced_file_has_a_new_inode, daemon_killed_then_mounted_again, terminated_daemon_unmounts;
}

const LARGE: usize = 64 << 20;
/// Deadline given to mounts here, so that tests need not wait for the default.
const DEADLINE: Duration = Duration::from_secs(10);
/// No cache and no readahead: every read asks the DataNodes.
const UNCACHED: [&str; 4] = ["--memory-blocks", "0", "--readahead-max", "0"];
/// What a reader may take beyond the deadline: the kernel splits a read, and machines are busy.
const SLACK: Duration = Duration::from_secs(30);
/// Reads, one after the other, that would take far longer if their deadlines added up.
const READS: u64 = 20;
/// For what is waited for.
const LIMIT: Duration = Duration::from_secs(60);

fn datanode_killed_in_the_middle_of_a_read() {
    read_goes_on_after(|hdfs, i| hdfs.datanode(i).kill());
}

fn datanode_stopped_in_the_middle_of_a_read() {
    read_goes_on_after(|hdfs, i| hdfs.datanode(i).stop());
}

/// Reads a file of many HDFS blocks; half-way, something happens to one DataNode. HDFS shuffles
/// replicas, so over the remaining blocks the hurt one is asked first many times.
fn read_goes_on_after(hurt: fn(&Hdfs, usize)) {
    let hdfs = Arc::new(Hdfs::own());
    let (dir, bytes) = large_file(&hdfs);
    let mount = Mount::with(&dir.url(), &["--store-deadline", "15s"]);
    let mut file = File::open(mount.file("large")).expect("it opens");
    let mut got = vec![0; LARGE];
    file.read_exact(&mut got[..LARGE / 2]).expect("the first half");
    hurt(&hdfs, 0);
    file.read_exact(&mut got[LARGE / 2..]).expect("the second half, from the other DataNode");
    assert!(got == bytes, "the bytes are those of the store");
    // A file opened only now, too.
    assert!(fs::read(mount.file("other")).expect("a fresh open") == bytes[..LARGE / 8]);
}

fn both_datanodes_stopped() {
    let hdfs = Arc::new(Hdfs::own());
    let (dir, bytes) = large_file(&hdfs);
    let mount = Mount::with(&dir.url(), &[&UNCACHED[..], &["--store-deadline", "10s"]].concat());
    let file = Arc::new(File::open(mount.file("large")).expect("it opens"));
    let mut page = [0; 4096];
    file.read_exact_at(&mut page, 0).expect("a read while all is well");
    for datanode in hdfs.datanodes() {
        datanode.stop();
    }
    // A reader of its own process: it ends by itself in time, or at least can be killed.
    let mut cat = Process::start("cat", command("cat", &mount.file("large")));
    // And one that nobody waits for: killed, it is gone when its read is, at the latest.
    let mut victim = Process::start("cat", command("cat", &mount.file("other")));
    victim.signal(process::Signal::Kill);
    let gone = victim.wait(DEADLINE + SLACK);
    assert!(gone.is_some(), "a killed reader is in state {}", process::state_of(victim.id()));
    // Reads at far places, one after the other: each an error of its own, and their deadlines do not add up.
    let started = Instant::now();
    for i in 1..=READS {
        let outcome = read_in_thread(&file, i * (LARGE as u64 / 32));
        let outcome = outcome.recv_timeout(DEADLINE + SLACK).expect("a read ends at its deadline");
        assert_eq!(outcome.map_err(|e| e.raw_os_error()), Err(Some(libc::ETIMEDOUT)), "read {i}");
    }
    let all = started.elapsed();
    assert!(all < 2 * (DEADLINE + SLACK), "{READS} reads took {all:?}: deadlines add up");

    let ended = cat.wait(DEADLINE + SLACK);
    assert!(ended.is_some(), "cat is in state {} after its deadline", process::state_of(cat.id()));
    assert!(cat.stderr().contains("Connection timed out"), "{}", cat.transcript());

    for datanode in hdfs.datanodes() {
        datanode.cont();
    }
    eventually("reads succeed again on the same open file", LIMIT, || {
        let mut page = [0; 4096];
        file.read_exact_at(&mut page, 5 << 20).ok()?;
        assert!(page == bytes[5 << 20..(5 << 20) + 4096]);
        Some(())
    });
}

fn namenode_restarted() {
    let hdfs = Arc::new(Hdfs::own());
    let (dir, bytes) = large_file(&hdfs);
    let mount = Mount::with(&dir.url(), &["--store-deadline", "10s", "--memory-blocks", "0"]);
    let file = File::open(mount.file("large")).expect("it opens");
    let mut page = vec![0; 1 << 20];
    // The client asks the NameNode for its defaults once, before its first connection to a DataNode.
    file.read_exact_at(&mut page, 0).expect("a read while all is well");
    hdfs.namenode().kill();
    // From now on an open file needs no NameNode.
    file.read_exact_at(&mut page, 20 << 20).expect("an open file goes on");
    assert!(page == bytes[20 << 20..21 << 20]);
    // To its end, beyond which every program asks; the kernel wants to know the length then.
    let last = bytes.len() as u64 - page.len() as u64 / 2;
    let ends = in_thread(move || {
        let tail = file.read_at(&mut page, last)?;
        match file.read_at(&mut page, last + tail as u64)? {
            0 if tail == 512 << 10 => Ok(()),
            more => Err(std::io::Error::other(format!("{tail} and {more} bytes"))),
        }
    });
    let ends = ends.recv_timeout(2 * (DEADLINE + SLACK)).expect("no hang");
    ends.expect("it is read to its end");
    // A name does: an error in time, not a hang.
    let path = mount.file("never seen");
    let outcome = in_thread(move || fs::metadata(path).map(|_| ()));
    let outcome = outcome.recv_timeout(DEADLINE + SLACK).expect("stat ends at its deadline");
    assert_eq!(outcome.map_err(|e| e.raw_os_error()), Err(Some(libc::ETIMEDOUT)));
    hdfs.restart_namenode();
    eventually("names work again", LIMIT, || {
        let found = fs::read(mount.file("other")).ok()?;
        assert!(found == bytes[..LARGE / 8]);
        Some(())
    });
}

/// The peers' corruption: a file replaced by another of the same length, while a reader is half-way.
fn replaced_while_open() {
    let dir = Hdfs::shared().dir("replaced");
    for (number, len_new) in [(0, LARGE / 8), (1, LARGE / 16), (2, LARGE / 4)] {
        let (old, new) = (noise(1, LARGE / 8), noise(2, len_new));
        let name = format!("file{number}");
        dir.put(&name, old.clone());
        let mount = Mount::with(&dir.url(), &UNCACHED);
        let file = File::open(mount.file(&name)).expect("it opens");
        let mut half = vec![0; LARGE / 16];
        file.read_exact_at(&mut half, 0).expect("the first half");
        assert!(half == old[..LARGE / 16]);

        dir.replace(&name, new.clone());
        // Old bytes or ESTALE at every offset, whatever was read before.
        let mut page = vec![0; 4096];
        for offset in (0..old.len()).step_by(100_000) {
            match file.read_at(&mut page, offset as u64) {
                Ok(n) => {
                    assert!(n > 0, "an end before the old file's, at {offset}");
                    assert!(page[..n] == old[offset..offset + n], "bytes at {offset} are not the old ones");
                }
                Err(e) => assert_eq!(e.raw_os_error(), Some(libc::ESTALE), "at {offset}"),
            }
        }
        // Opened anew it is the new one, whole, within the freshness bound.
        eventually("a new open gives the new file", LIMIT, || {
            let got = fs::read(mount.file(&name)).ok()?;
            assert!(got == new || got == old, "a mix of {} bytes", got.len());
            (got == new).then_some(())
        });
    }
}

fn replaced_file_has_a_new_inode() {
    let root = scratch();
    fs::write(root.path().join("file"), "old bytes").expect("a file");
    let mount = Mount::of(&url(root.path()));
    let before = fs::metadata(mount.file("file")).expect("stat").ino();
    fs::write(root.path().join("next"), "new bytes").expect("a file");
    fs::rename(root.path().join("next"), root.path().join("file")).expect("rename over");
    let after = eventually("the new inode", LIMIT, || {
        let found = fs::metadata(mount.file("file")).expect("stat").ino();
        (found != before).then_some(found)
    });
    assert_eq!(fs::read(mount.file("file")).expect("a read"), b"new bytes");
    // The number stays over a remount.
    let mount = mount.kill_and_mount_again();
    assert_eq!(fs::metadata(mount.file("file")).expect("stat").ino(), after);
}

fn foreign_change_shows() {
    let dir = Hdfs::shared().dir("foreign");
    dir.put("first", &b"1"[..]);
    let mount = Mount::of(&dir.url());
    let names = || -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(mount.path())
            .expect("a listing")
            .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    let shows = |what: &str, seen: &dyn Fn() -> bool| {
        // The bound is 1 s; the rest is for a busy machine.
        eventually(what, LIMIT, || seen().then_some(()));
    };
    assert_eq!(names(), ["first"]);
    assert!(fs::metadata(mount.file("second")).is_err(), "the kernel knows now that it is not there");
    dir.put("second", &b"22"[..]);
    shows("a new file in the listing", &|| names() == ["first", "second"]);
    shows("a new file by name", &|| fs::read(mount.file("second")).is_ok_and(|b| b == b"22"));
    dir.replace("second", &b"333"[..]);
    shows("a new length", &|| fs::metadata(mount.file("second")).is_ok_and(|m| m.len() == 3));
    dir.delete("first");
    shows("a deleted file is gone", &|| names() == ["second"] && fs::metadata(mount.file("first")).is_err());
}

fn daemon_killed_then_mounted_again() {
    let root = scratch();
    fs::write(root.path().join("file"), "bytes").expect("a file");
    let mut mount = Mount::of(&url(root.path()));
    mount.daemon().kill();
    let error = fs::read(mount.file("file")).expect_err("the daemon is gone");
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    let mount = mount.kill_and_mount_again();
    assert_eq!(fs::read(mount.file("file")).expect("a read"), b"bytes");
    let stacked = crate::harness::mount::mounts().iter().filter(|point| **point == mount.path()).count();
    assert_eq!(stacked, 1, "the dead mount is gone, not hidden");
}

fn terminated_daemon_unmounts() {
    let root = scratch();
    fs::write(root.path().join("file"), "bytes").expect("a file");
    let mut mount = Mount::of(&url(root.path()));
    let held = File::open(mount.file("file")).expect("it opens");
    mount.daemon().signal(process::Signal::Term);
    let status = mount.daemon().wait(LIMIT).expect("it ends, with a file open");
    assert!(status.success(), "{status}");
    assert!(!is_mounted(&mount.path()));
    drop(held);
}

/// A directory with `large` of many HDFS blocks, and `other`, its first eighth.
fn large_file(hdfs: &Arc<Hdfs>) -> (HdfsDir, Vec<u8>) {
    let dir = hdfs.dir("faults");
    let bytes = noise(4, LARGE);
    dir.put("large", bytes.clone());
    dir.put("other", bytes[..LARGE / 8].to_vec());
    (dir, bytes)
}

fn read_in_thread(file: &Arc<File>, offset: u64) -> mpsc::Receiver<io::Result<()>> {
    let file = Arc::clone(file);
    in_thread(move || file.read_exact_at(&mut [0; 4096], offset))
}

/// Runs what may hang where it harms nobody.
fn in_thread(call: impl FnOnce() -> io::Result<()> + Send + 'static) -> mpsc::Receiver<io::Result<()>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(call()));
    receiver
}

fn command(program: &str, argument: &PathBuf) -> std::process::Command {
    let mut command = std::process::Command::new("sh");
    // The output is of no interest and large.
    command.arg("-c").arg(format!("exec {program} \"$FILE\" > /dev/null")).env("FILE", argument);
    command
}
