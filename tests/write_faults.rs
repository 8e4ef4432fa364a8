//! What becomes of writes when something under the mount breaks; docs/SEMANTICS.md.

use std::{
    fs::{self, File},
    io::Write,
    sync::Arc,
    time::Duration,
};

use crate::{
    harness::{
        eventually,
        hdfs::{Hdfs, HdfsDir},
        mount::Mount,
        process::Signal,
        segments::noise,
    },
    registry::tests,
};

tests! {
    [Fuse, Hdfs] datanode_killed_in_the_middle_of_a_write, datanode_stopped_in_the_middle_of_a_write,
        all_datanodes_gone, safe_mode, daemon_killed_in_the_middle_of_a_write, both_replicas_corrupt,
        datanodes_report_late, namenode_stands_still;
}

const LEN: usize = 24 << 20;
const LIMIT: Duration = Duration::from_secs(60);

fn own() -> (Arc<Hdfs>, HdfsDir) {
    let hdfs = Arc::new(Hdfs::own());
    let dir = hdfs.dir("write-faults");
    (hdfs, dir)
}

fn datanode_killed_in_the_middle_of_a_write() {
    write_ends_clearly(|hdfs| hdfs.datanode(0).kill());
}

fn datanode_stopped_in_the_middle_of_a_write() {
    write_ends_clearly(|hdfs| hdfs.datanode(0).stop());
}

/// The write goes on over the other DataNode, or fails in time with an error at write, fsync or close;
/// never success with other bytes in the store.
fn write_ends_clearly(hurt: fn(&Hdfs)) {
    let hdfs = Arc::new(Hdfs::own_that_notices());
    let dir = hdfs.dir("write-faults");
    // Of HDFS blocks as small as the cluster's, the last but one may be on the DataNode that is hurt, and
    // the NameNode would give no next one for as long as nobody has reported it.
    let mount = Mount::with(&dir.url(), &["--store-deadline=20s", "--hdfs-block-size=8MiB"]);
    let bytes = noise(1, LEN);
    let mut file = File::create(mount.file("file")).expect("made");
    file.write_all(&bytes[..LEN / 2]).expect("the first half");
    hurt(&hdfs);
    let rest = bytes[LEN / 2..].to_vec();
    let (sender, outcome) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let outcome = file.write_all(&rest).and_then(|()| file.sync_all());
        let _ = sender.send(outcome.map_err(|error| error.raw_os_error()));
    });
    let outcome = outcome.recv_timeout(LIMIT).expect("it ends within its deadlines");
    clear(outcome, &bytes, &mount.file("file"));
    // The NameNode goes on to place HDFS blocks on the dead DataNode until it knows.
    let other = |name: &str| {
        let mut file = File::create(mount.file(name))?;
        file.write_all(&bytes[..1 << 20]).and_then(|()| file.sync_all())
    };
    let soon = other("soon").map_err(|error| error.raw_os_error());
    clear(soon, &bytes[..1 << 20], &mount.file("soon"));
    hdfs.wait_live(1);
    // It stops placing there a moment after it shows it as dead.
    eventually("written to the one that is left", LIMIT, || other("later").ok());
    clear(Ok(()), &bytes[..1 << 20], &mount.file("later"));
}

/// What was acknowledged is there; what failed says so in the words of the documents.
fn clear(outcome: Result<(), Option<i32>>, bytes: &[u8], path: &std::path::Path) {
    match outcome {
        Ok(()) => {
            let found = fs::read(path).expect("it reads");
            assert!(found == bytes, "{path:?}: {} of {} bytes", found.len(), bytes.len());
        }
        Err(errno) => {
            let clear = [libc::ETIMEDOUT, libc::EREMOTEIO, libc::EBUSY, libc::EIO];
            assert!(clear.contains(&errno.expect("an errno")), "{path:?}: {errno:?}");
        }
    }
}

/// Nowhere to write to: an error in time, no hang, and the mount lives.
fn all_datanodes_gone() {
    let (hdfs, dir) = own();
    let mount = Mount::with(&dir.url(), &["--store-deadline=15s"]);
    for i in 0..2 {
        hdfs.datanode(i).kill();
    }
    let output = mount.try_sh("head -c 3000000 /dev/zero > file".as_ref(), LIMIT).expect("it ends");
    assert!(!output.success(), "{output:?}");
    assert!(mount.try_sh("ls".as_ref(), LIMIT).expect("it ends").success());
}

fn safe_mode() {
    let (hdfs, dir) = own();
    let mount = Mount::with(&dir.url(), &["--store-deadline=15s"]);
    let mut before = File::create(mount.file("before")).expect("made");
    before.write_all(b"x").and_then(|()| before.sync_all()).expect("written");
    drop(before);
    hdfs.safemode(true);
    let error = fs::write(mount.file("during"), "x").expect_err("refused");
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "{error}");
    assert_eq!(fs::read(mount.file("before")).expect("reads go on"), b"x");
    hdfs.safemode(false);
    fs::write(mount.file("after"), "x").expect("written");
}

/// A NameNode that stands still for longer than a question waits, and not as long as the deadline: changes,
/// which look before they act, are made when it goes on.
fn namenode_stands_still() {
    let (hdfs, dir) = own();
    let mut mount = Mount::with(&dir.url(), &["--store-deadline=120s", "--freshness=1h"]);
    // The kernel knows, and need not ask for the name before it is made.
    fs::metadata(mount.file("dir")).expect_err("it is not there");
    hdfs.namenode().stop();
    let made = std::thread::spawn({
        let dir = mount.file("dir");
        move || fs::create_dir(dir)
    });
    mount
        .daemon()
        .stderr_line("that it waits no longer", LIMIT, |line| line.contains("connecting anew").then_some(()));
    hdfs.namenode().cont();
    made.join().expect("no panic").expect("made");
    assert!(dir.list("").iter().any(|entry| entry.name == "dir"));
}

/// A file whose writer died is taken over by HDFS's lease recovery; the name can be written again.
fn daemon_killed_in_the_middle_of_a_write() {
    let (_hdfs, dir) = own();
    let mut mount = Mount::of(&dir.url());
    let mut file = File::create(mount.file("file")).expect("made");
    file.write_all(&noise(2, 2_000_000)).expect("written");
    mount.daemon().signal(Signal::Kill);
    drop(file);
    let mount = mount.kill_and_mount_again();
    fs::write(mount.file("file"), "again").expect("overwritten");
    assert_eq!(dir.read("file"), b"again");
}

/// No replica gives the right bytes: EIO, and only then.
fn both_replicas_corrupt() {
    let (hdfs, dir) = own();
    let before = hdfs.block_files();
    let bytes = noise(3, 300_000);
    dir.put("file", bytes.clone());
    let mut blocks: Vec<_> = hdfs.block_files().difference(&before).cloned().collect();
    blocks.retain(|path| path.extension().is_none_or(|extension| extension != "meta"));
    assert_eq!(blocks.len(), 2, "one block, two replicas: {blocks:?}");
    flip(&blocks[0]);
    let mount = Mount::with(&dir.url(), &["--store-deadline=15s"]);
    assert!(fs::read(mount.file("file")).expect("the other replica") == bytes);
    flip(&blocks[1]);
    // Another generation of the mount's caches: nothing remembered helps.
    drop(mount);
    let mount = Mount::with(&dir.url(), &["--store-deadline=15s"]);
    let error = fs::read(mount.file("file")).expect_err("no good replica");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    let output = mount.try_sh("ls -l".as_ref(), LIMIT).expect("it ends");
    assert!(output.success(), "{output:?}");
}

/// Changes bytes in the middle of a file on a DataNode's disk.
fn flip(block: &std::path::Path) {
    let mut bytes = fs::read(block).expect("a block file");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 16].iter_mut().for_each(|byte| *byte ^= 0xff);
    fs::write(block, bytes).expect("a block file");
}

/// HDFS blocks that are written faster than DataNodes report them: the NameNode refuses the next one, and
/// the write goes on nevertheless.
fn datanodes_report_late() {
    let hdfs = Arc::new(Hdfs::own_that_reports_late());
    let dir = hdfs.dir("late");
    let mut mount = Mount::with(&dir.url(), &["--store-deadline=30s"]);
    let bytes = noise(2, 7 << 20);
    let (first, second) = bytes.split_at((4 << 20) + 4321);
    let write = |mut file: File, bytes: &[u8]| {
        file.write_all(bytes).and_then(|()| file.sync_all()).expect("written");
    };
    write(File::create(mount.file("file")).expect("made"), first);
    assert!(fs::read(mount.file("file")).expect("it reads") == first);
    let end = fs::OpenOptions::new().append(true).open(mount.file("file")).expect("opened");
    write(end, second);
    clear(Ok(()), &bytes, &mount.file("file"));
    assert!(dir.read("file") == bytes, "and in the store");
    mount
        .daemon()
        .stderr_line("that it was refused", LIMIT, |line| line.contains("late to report").then_some(()));
}
