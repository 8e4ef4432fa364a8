//! The mount on every kind of HDFS: two NameNodes, ViewFS, erasure coding, Kerberos; docs/SEMANTICS.md.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::FileExt,
    sync::Arc,
    time::Duration,
};

use crate::{
    harness::{
        eventually, ha::HaHdfs, hdfs::Hdfs, kerberos::KerberosHdfs, kms::Kms, mount::Mount, scratch,
        segments::noise,
    },
    registry::tests,
};

tests! {
    [Fuse, Hdfs] failover_in_the_middle_of_reads_and_writes, viewfs_and_replication_settings, erasure_coding,
        encryption_zone;
    [Fuse, Hdfs, Kerberos] kerberos_by_ticket_and_by_keytab;
}

const LIMIT: Duration = Duration::from_secs(60);
const LEN: usize = 12 << 20;

/// A NameNode dies while files are read and written: readers and writers go on with the other.
fn failover_in_the_middle_of_reads_and_writes() {
    let hdfs = HaHdfs::start();
    let conf = format!("--hadoop-conf={}", hdfs.conf().display());
    let mount = Mount::with(
        &hdfs.url("/"),
        &[&conf, "--store-deadline=40s", "--memory=128MiB", "--hdfs-block-size=3MiB"],
    );
    let bytes = noise(1, LEN);
    fs::write(mount.file("read"), &bytes).expect("written by the name service");

    let mut reader = File::open(mount.file("read")).expect("it opens");
    let mut got = vec![0; LEN];
    reader.read_exact(&mut got[..LEN / 2]).expect("the first half");
    let mut writer = File::create(mount.file("written")).expect("made");
    writer.write_all(&bytes[..LEN / 2]).expect("the first half");
    // So that no call for a new HDFS block is under way: nobody could tell whether it was done.
    writer.sync_all().expect("synced");
    hdfs.fail_over_from(0);
    reader.read_exact(&mut got[LEN / 2..]).expect("the second half");
    assert!(got == bytes);
    writer.write_all(&bytes[LEN / 2..]).expect("the second half, in new HDFS blocks");
    writer.sync_all().expect("synced");
    drop(writer);
    // By names, too: stat, list, open, create with the NameNode that is active now.
    eventually("names are answered", LIMIT, || fs::metadata(mount.file("written")).ok().map(drop));
    assert!(fs::read(mount.file("written")).expect("it reads") == bytes);
    fs::write(mount.file("after"), "x").expect("written");
    assert_eq!(mount.sh("ls").lines().collect::<Vec<_>>(), ["after", "read", "written"]);
}

/// `viewfs://` puts directories of clusters into one tree; replication and block size are the mount's.
fn viewfs_and_replication_settings() {
    let hdfs = Hdfs::shared();
    let (a, b) = (Arc::clone(&hdfs).dir("view-a"), Arc::clone(&hdfs).dir("view-b"));
    let conf = scratch();
    let property =
        |name: &str, value: &str| format!("<property><name>{name}</name><value>{value}</value></property>");
    let core = [
        property("fs.defaultFS", "viewfs://archive"),
        property("fs.viewfs.mounttable.archive.link./one", &a.url()),
        property("fs.viewfs.mounttable.archive.link./two", &b.url()),
    ];
    let text = format!("<configuration>{}</configuration>", core.concat());
    fs::write(conf.path().join("core-site.xml"), text).expect("a file");
    let conf = format!("--hadoop-conf={}", conf.path().display());
    let mount = Mount::with("viewfs://archive/one", &[&conf, "--replication=1", "--hdfs-block-size=2MiB"]);
    let bytes = noise(2, 3 << 20);
    fs::write(mount.file("file"), &bytes).expect("written");
    assert!(a.read("file") == bytes);
    let status = &a.list("")[0];
    assert_eq!((status.replication, status.block_size), (1, 2 << 20));
    assert!(b.list("").is_empty());
    fs::create_dir(mount.file("d")).expect("made");
    fs::rename(mount.file("file"), mount.file("d/file")).expect("renamed");
    assert_eq!(mount.sh("find . -type f").trim(), "./d/file");
}

/// Files in a directory with a policy: what the mount writes others read, and the other way round, at any
/// offset; also when a DataNode that has a part of each stripe is gone.
fn erasure_coding() {
    let hdfs = Arc::new(Hdfs::own_with_erasure_coding("/coded"));
    let mount = Mount::of(&format!("{}/coded", hdfs.url()));
    // No multiple of a cell, a stripe (3 MiB) or an HDFS block.
    let bytes = noise(4, (7 << 20) + 12_345);
    hdfs.web().put("/coded/theirs", bytes.clone(), None);
    let mut file = File::create(mount.file("ours")).expect("made");
    file.write_all(&bytes).expect("written");
    file.sync_all().expect("finished, as nothing else makes it safe");
    drop(file);
    let found = hdfs.web().read("/coded/ours", None);
    let equal = found.iter().zip(&bytes).take_while(|(a, b)| a == b).count();
    assert!(found == bytes, "{equal} bytes of {} are right, {} were to be there", found.len(), bytes.len());
    fs::copy(mount.file("theirs"), mount.file("appended")).expect("copied");
    let mut more = OpenOptions::new().append(true).open(mount.file("appended")).expect("it opens");
    more.write_all(b"more").and_then(|()| more.sync_all()).expect("appended");
    assert!(hdfs.web().read("/coded/appended", None) == [&bytes[..], b"more"].concat());
    for (round, name) in ["theirs", "ours", "theirs"].into_iter().enumerate() {
        if round == 2 {
            hdfs.datanode(0).kill();
        }
        let file = File::open(mount.file(name)).expect("it opens");
        for (offset, len) in [(0, 100), (1 << 20, 1), ((3 << 20) - 7, 20), (5_000_001, 2 << 20)] {
            let mut part = vec![0; len];
            file.read_exact_at(&mut part, offset).expect("read");
            assert!(part == bytes[offset as usize..offset as usize + len], "{name} at {offset}");
        }
        assert!(fs::read(mount.file(name)).expect("read") == bytes, "{name}");
    }
}

/// In an encryption zone: what the mount writes others can read, and the other way round; on the DataNodes'
/// disks it cannot be read.
fn encryption_zone() {
    let kms = Kms::start();
    let hdfs = Arc::new(Hdfs::own_with_encryption(&kms, "/secret"));
    let zone = format!("{}/secret", hdfs.url());
    let conf = format!("--hadoop-conf={}", hdfs.conf().display());
    // What waits for a key server that is gone waits so long.
    let mount = Mount::with(&zone, &[&conf, "--store-deadline=20s"]);
    let before = hdfs.block_files();
    // More than one HDFS block, and no multiple of anything.
    let bytes: Vec<u8> = b"a word that is easy to find; ".iter().copied().cycle().take(2_500_001).collect();
    fs::write(mount.file("ours"), &bytes[..1_500_000]).expect("written");
    let mut more = OpenOptions::new().append(true).open(mount.file("ours")).expect("it opens");
    more.write_all(&bytes[1_500_000..]).and_then(|()| more.sync_all()).expect("appended");
    drop(more);
    assert!(hdfs.web().read("/secret/ours", None) == bytes);
    hdfs.web().put("/secret/theirs", bytes.clone(), None);
    assert!(fs::read(mount.file("theirs")).expect("read") == bytes);
    let file = File::open(mount.file("theirs")).expect("it opens");
    let mut part = [0; 99];
    file.read_exact_at(&mut part, 1_234_567).expect("read");
    assert!(part == bytes[1_234_567..][..99]);
    let blocks: Vec<_> = hdfs.block_files().difference(&before).cloned().collect();
    assert!(blocks.len() >= 8, "{blocks:?}");
    for block in blocks {
        let found = fs::read(&block).expect("a block");
        assert!(!found.windows(6).any(|word| word == b"a word"), "{block:?}");
    }

    // Who was not told where the key server is.
    let without = Mount::of(&zone);
    let refused = fs::read(without.file("theirs")).expect_err("it cannot be decrypted");
    assert_eq!(refused.raw_os_error(), Some(libc::EOPNOTSUPP), "{refused}");
    // The keys of files that are open are known; of others nobody can tell.
    drop(kms);
    file.read_exact_at(&mut part, 99_999).expect("read");
    assert!(part == bytes[99_999..][..99]);
    let refused = fs::read(mount.file("ours")).expect_err("its key is not known");
    assert_eq!(refused.raw_os_error(), Some(libc::ETIMEDOUT), "{refused}");
}

/// A secure cluster: with alice's tickets in the environment, with her ticket cache, and with her keytab,
/// the mount is alice.
fn kerberos_by_ticket_and_by_keytab() {
    let hdfs = KerberosHdfs::start();
    let conf = format!("--hadoop-conf={}", hdfs.conf().display());
    let tickets = hdfs.ticket_of_alice();
    let cache = format!("--kerberos-cache={}", tickets.display());
    let keytab = format!("--kerberos-keytab={}", hdfs.keytab("alice").display());
    let principal = format!("--kerberos-principal={}", hdfs.alice());
    let krb5 = ("KRB5_CONFIG", hdfs.krb5_conf());
    let bytes = noise(3, 3 << 20);
    for (name, args, environment) in [
        ("environment", vec![&conf], vec![krb5.clone(), ("KRB5CCNAME", tickets.clone())]),
        ("cache", vec![&conf, &principal, &cache], vec![krb5.clone()]),
        ("keytab", vec![&conf, &principal, &keytab], vec![krb5.clone()]),
    ] {
        let args: Vec<&str> = args.into_iter().map(String::as_str).collect();
        let mount = Mount::with_environment(&hdfs.url(), &args, &environment);
        // What fails at close, `fs::write` would not tell.
        let mut file = File::create(mount.file(name)).expect("made");
        file.write_all(&bytes).and_then(|()| file.sync_all()).expect("written");
        drop(file);
        let found = fs::read(mount.file(name)).expect("it reads");
        let equal = found.iter().zip(&bytes).take_while(|(a, b)| a == b).count();
        assert!(found == bytes, "{name}: {equal} bytes are right of {}", found.len());
    }
}
