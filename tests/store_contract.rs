//! The store's contract, held by a real HDFS.

use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use springhouse_fuse::{
    error::{ErrorKind, Result},
    store::{
        AttributeChanges, CreateOptions, HdfsOptions, Store, StoreOptions, StorePath, contract,
        hdfs_tasks_running, open,
    },
};

use crate::{
    harness::{
        block_on, eventually,
        hdfs::{BLOCK_SIZE, Hdfs},
        segments::{mix, noise},
    },
    registry::tests,
};

tests! {
    [Hdfs] hdfs_outage_and_corruption_are_told_apart, hdfs_reads_around_corrupt_replicas,
        hdfs_odd_names_users_and_states, hdfs_keeps_the_contract, hdfs_does_what_the_model_does,
        each_user_may_what_hdfs_lets_him, who_writes_keeps_others_from_writing,
        what_is_deleted_while_it_is_written_is_not_found, settings_of_new_files_and_limits, viewfs_puts_directories_together;
}

/// Each operation is several calls to the NameNode.
const OPERATIONS: u64 = 150;

/// A write whose pipeline is silent for half the deadline is lost: the default is too short for machines that
/// stand still now and then.
fn options() -> StoreOptions {
    StoreOptions { deadline: Duration::from_secs(60), ..StoreOptions::default() }
}

fn hdfs_keeps_the_contract() {
    on_hdfs("contract", async |store| contract::check_store(store, &path()).await);
}

fn hdfs_does_what_the_model_does() {
    let operations: Vec<_> = (0..OPERATIONS).map(|i| contract::Operation::from_bits(mix(8, i))).collect();
    on_hdfs("model", async |store| contract::check_operations(store, &path(), &operations).await);
}

/// Both DataNodes hold bad bytes, but no byte is bad on both: every read gives the right ones.
fn hdfs_reads_around_corrupt_replicas() {
    let dir = Hdfs::shared().dir("corrupt");
    let bytes = noise(11, 3 * BLOCK);
    dir.put("f", bytes.clone());
    for (datanode, offset) in
        [(0, 100_000), (1, BLOCK + 10), (0, 2 * BLOCK + 300_000), (1, 2 * BLOCK + 700_000)]
    {
        flip(dir.hdfs(), datanode, &bytes, offset);
    }
    let url = dir.url().parse().expect("a store URL");
    block_on(async {
        let opened = open(&url, &options()).expect("the store opens");
        // HDFS shuffles replicas: each opening meets others first.
        for _ in 0..5 {
            let reader = opened.store.open(&at("/f"), None).await.expect("open");
            let got = reader.read_at(0, bytes.len()).await.expect("every byte has a good replica");
            assert!(got == bytes, "the bytes are those that were written");
            for offset in (0..bytes.len()).step_by(150_001) {
                let got = reader.read_at(offset as u64, 4096).await.expect("a small read");
                assert!(got == bytes[offset..(offset + 4096).min(bytes.len())], "at {offset}");
            }
        }
    });
}

/// No right bytes anywhere is `Corrupt`; no answer is not, and takes nothing with it.
fn hdfs_outage_and_corruption_are_told_apart() {
    let hdfs = Arc::new(Hdfs::own());
    let dir = hdfs.dir("outage");
    let bytes = noise(12, 2 * BLOCK);
    dir.put("f", bytes.clone());
    dir.put("good", bytes[..BLOCK].to_vec());
    let bad = BLOCK + 500_000;
    // The first block of `f` has the same bytes as `good`; the second is its own.
    flip(&hdfs, 0, &bytes, bad);
    flip(&hdfs, 1, &bytes, bad);
    let url = dir.url().parse().expect("a store URL");
    let options = StoreOptions { deadline: Duration::from_secs(15), ..options() };
    block_on(async {
        let opened = open(&url, &options).expect("the store opens");
        let reader = opened.store.open(&at("/f"), None).await.expect("open");
        for _ in 0..3 {
            let error = reader.read_at(bad as u64, 10).await.expect_err("no replica has the right bytes");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            let got = reader.read_at(BLOCK as u64, 4096).await.expect("the same HDFS block elsewhere");
            assert!(got == bytes[BLOCK..BLOCK + 4096]);
        }
        let error = reader.read_at(0, bytes.len()).await.expect_err("it is in this read, too");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_eq!(opened.counters.snapshot().refused, 0, "the store was never left alone for it");

        // One replica is wrong, the other silent: it may be right.
        hdfs.datanode(1).stop();
        let error = reader.read_at(bad as u64, 10).await.expect_err("no good answer");
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        let good = opened.store.open(&at("/good"), None).await.expect("open");
        good.read_at(0, 4096).await.expect("one DataNode is enough");

        // An outage under load: all end, some given up early, and nothing is left behind.
        hdfs.datanode(0).stop();
        let reads = (0..64u64).map(|i| {
            let (reader, offset) = (Arc::clone(if i % 2 == 0 { &reader } else { &good }), i * 8192);
            let patience = Duration::from_millis(if i % 4 == 0 { 100 * i } else { 60_000 });
            tokio::spawn(tokio::time::timeout(patience, async move { reader.read_at(offset, 4096).await }))
        });
        for read in futures::future::join_all(reads).await {
            if let Ok(outcome) = read.expect("no read panics") {
                let error = outcome.expect_err("nobody answers");
                assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Unavailable), "{error}");
            }
        }
        assert_eq!(opened.counters.running(), 0);
        hdfs.datanodes().iter().for_each(|datanode| datanode.cont());
        for _ in 0..60 {
            if let Ok(got) = good.read_at(0, 4096).await {
                assert!(got == bytes[..4096]);
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("reads do not come back on the open file");
    });
    // Those of another test, too, which has none between its calls.
    eventually("no task is left on the HDFS runtime", Duration::from_secs(60), || {
        (hdfs_tasks_running() == 0).then_some(())
    });
}

fn hdfs_odd_names_users_and_states() {
    let dir = Hdfs::shared().dir("odd");
    dir.put("file", &b"bytes"[..]);
    dir.put("secret/file", &b"bytes"[..]);
    dir.hdfs().web().set_mode(&dir.path("secret"), 0o700);
    let url = dir.url();
    let kind = |outcome: springhouse_fuse::error::Result<()>| outcome.map_err(|e| e.kind());
    block_on(async {
        let opened = open(&url.parse().expect("a URL"), &options()).expect("the store opens");
        let store = &opened.store;
        // HDFS takes no colon: nothing can have such a name, and nothing can be given it.
        assert_eq!(kind(store.stat(&at("/a:b")).await.map(drop)), Err(ErrorKind::NotFound));
        assert_eq!(kind(store.open(&at("/a:b"), None).await.map(drop)), Err(ErrorKind::NotFound));
        let created = store.create(&at("/a:b"), CreateOptions::default()).await.map(drop);
        assert_eq!(kind(created), Err(ErrorKind::InvalidArgument));
        let long = at(&"/0123456789".repeat(800));
        assert_eq!(kind(store.stat(&long).await.map(drop)), Err(ErrorKind::NotFound));
        assert_eq!(kind(store.create_dir(&long).await), Err(ErrorKind::NameTooLong));

        // A file being written: what is synchronised is there for who opens it then, and stays his.
        let growing = at("/growing");
        let mut writer = store.create(&growing, CreateOptions::default()).await.expect("create");
        writer.write(noise(13, 100_000).into()).await.expect("write");
        writer.sync().await.expect("sync");
        let reader = store.open(&growing, None).await.expect("open");
        let seen = usize::try_from(reader.metadata().len).expect("small");
        assert!(seen <= 100_000);
        writer.write(noise(14, 50_000).into()).await.expect("write");
        assert!(reader.read_at(0, 1 << 20).await.expect("read") == noise(13, 100_000)[..seen]);
        writer.close().await.expect("close");
        match reader.read_at(0, 1 << 20).await {
            Ok(got) => assert!(got == noise(13, 100_000)[..seen], "as it was opened"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Stale, "{error}"),
        }
        assert_eq!(store.stat(&growing).await.expect("stat").len, 150_000);

        // A file as the root, and somebody who may not.
        let file = open(&format!("{url}/file").parse().expect("a URL"), &options()).expect("opens");
        let error = file.check_root().await.expect_err("a file is no store");
        assert_eq!(error.kind(), ErrorKind::NotADirectory, "{error}");
        let stranger = HdfsOptions { user: Some("stranger".into()), ..HdfsOptions::default() };
        let options = StoreOptions { hdfs: stranger, ..options() };
        let stranger = open(&url.parse().expect("a URL"), &options).expect("the store opens").store;
        stranger.open(&at("/file"), None).await.expect("open to all");
        assert_eq!(
            kind(stranger.open(&at("/secret/file"), None).await.map(drop)),
            Err(ErrorKind::PermissionDenied)
        );
        assert_eq!(kind(stranger.create_dir(&at("/d")).await), Err(ErrorKind::PermissionDenied));
    });
}

const BLOCK: usize = BLOCK_SIZE as usize;

/// Spoils the byte at `offset` of a file of these bytes, on one DataNode only.
fn flip(hdfs: &Hdfs, datanode: usize, bytes: &[u8], offset: usize) {
    let start = offset / BLOCK * BLOCK;
    let replicas = replicas(hdfs, datanode, &bytes[start..start + 64]);
    assert_eq!(replicas.len(), 1, "the HDFS block has one replica on each DataNode");
    let replica = File::options().write(true).open(&replicas[0]).expect("the replica");
    replica.write_all_at(&[!bytes[offset]], (offset - start) as u64).expect("a flipped byte");
}

/// The files on a DataNode that begin with these 64 bytes.
fn replicas(hdfs: &Hdfs, datanode: usize, begin: &[u8]) -> Vec<PathBuf> {
    let home = format!("data{datanode}");
    let mut replicas: Vec<PathBuf> = hdfs.block_files().into_iter().collect();
    replicas.retain(|path| {
        let mut head = [0; 64];
        path.iter().any(|part| part == home.as_str())
            && File::open(path).and_then(|replica| replica.read_exact_at(&mut head, 0)).is_ok()
            && head == begin
    });
    replicas
}

fn at(path: &str) -> StorePath {
    StorePath::parse(path).expect("a valid path")
}

fn on_hdfs(name: &str, check: impl AsyncFnOnce(&dyn Store)) {
    let dir = Hdfs::shared().dir(name);
    let url = dir.url().parse().expect("a store URL");
    block_on(async {
        let opened = open(&url, &options()).expect("the store opens");
        check(&*opened.store).await;
        assert_eq!(opened.counters.running(), 0, "every call that started has ended");
    });
}

fn path() -> StorePath {
    StorePath::parse("/t").expect("a valid path")
}

async fn put(store: &dyn Store, name: &str, mode: u32, text: &'static str) -> Result<()> {
    let options = CreateOptions { mode: Some(mode), ..CreateOptions::default() };
    let mut writer = store.create(&at(name), options).await?;
    writer.write(Bytes::from_static(text.as_bytes())).await?;
    writer.close().await
}

async fn read(store: &dyn Store, name: &str) -> std::result::Result<Bytes, ErrorKind> {
    let read = async { store.open(&at(name), None).await?.read_at(0, 100).await };
    read.await.map_err(|error| error.kind())
}

fn each_user_may_what_hdfs_lets_him() {
    let dir = Hdfs::shared().dir("own-users");
    block_on(async {
        let opened = open(&dir.url().parse().expect("a URL"), &options()).expect("opens");
        let open_to_all = AttributeChanges { mode: Some(0o1777), ..AttributeChanges::default() };
        opened.store.set_attributes(&StorePath::root(), &open_to_all).await.expect("chmod");
        let (alice, bob) = (opened.as_user("alice").expect("alice"), opened.as_user("bob").expect("bob"));
        put(&*bob, "/secret", 0o600, "bob's").await.expect("bob writes");
        put(&*bob, "/shared", 0o644, "for all").await.expect("bob writes");
        assert_eq!(bob.stat(&at("/secret")).await.expect("stat").owner, "bob");
        assert_eq!(read(&*bob, "/secret").await, Ok(Bytes::from_static(b"bob's")));
        assert_eq!(read(&*alice, "/secret").await, Err(ErrorKind::PermissionDenied));
        assert_eq!(read(&*alice, "/shared").await, Ok(Bytes::from_static(b"for all")));
        assert_eq!(read(&*opened.store, "/secret").await, Ok(Bytes::from_static(b"bob's")), "the superuser");
        let kind = |outcome: Result<()>| outcome.map_err(|error| error.kind());
        let denied = Err(ErrorKind::PermissionDenied);
        alice.truncate(&at("/shared"), 0).await.expect_err("not hers");
        assert_eq!(kind(alice.append(&at("/shared")).await.map(drop)), denied, "not hers");
        assert_eq!(kind(alice.set_attributes(&at("/shared"), &open_to_all).await), denied, "not hers");
        assert_eq!(kind(alice.delete(&at("/shared"), false).await), denied, "a sticky directory");
        let to_alice = AttributeChanges { owner: Some("alice".into()), ..AttributeChanges::default() };
        assert_eq!(
            kind(bob.set_attributes(&at("/shared"), &to_alice).await),
            denied,
            "given away by root only"
        );
        // Another's file that he may write: cut only by who may restore its owner.
        let writable = AttributeChanges { mode: Some(0o666), ..AttributeChanges::default() };
        bob.set_attributes(&at("/shared"), &writable).await.expect("chmod");
        assert_eq!(kind(alice.truncate(&at("/shared"), 0).await), Err(ErrorKind::Unsupported));
        assert_eq!(read(&*alice, "/shared").await, Ok(Bytes::from_static(b"for all")), "left as it was");
        opened.store.truncate(&at("/shared"), 0).await.expect("the superuser cuts");
        let cut = bob.stat(&at("/shared")).await.expect("stat");
        assert_eq!((cut.len, cut.owner.as_str(), cut.mode), (0, "bob", 0o666), "still bob's");
        assert!(
            opened.counters.snapshot().operations.iter().map(|of| of.count).sum::<u64>() > 20,
            "counted as one"
        );
    });
}

fn who_writes_keeps_others_from_writing() {
    let dir = Hdfs::shared().dir("own-leases");
    block_on(async {
        let opened = open(&dir.url().parse().expect("a URL"), &options()).expect("opens");
        put(&*opened.store, "/f", 0o666, "one").await.expect("write");
        let (mut writer, end) = opened.store.append(&at("/f")).await.expect("append");
        let other = opened.as_user("root2").expect("another client");
        let busy = other.append(&at("/f")).await.map(drop).map_err(|error| error.kind());
        assert_eq!((end, busy), (3, Err(ErrorKind::Busy)));
        writer.write(Bytes::from_static(b" two")).await.expect("write");
        writer.close().await.expect("close");
        assert_eq!(read(&*opened.store, "/f").await, Ok(Bytes::from_static(b"one two")));
        let (mut writer, _) = opened.store.append(&at("/f")).await.expect("append");
        writer.write(Bytes::from_static(b"!")).await.expect("write");
        opened.store.delete(&at("/f"), false).await.expect("delete");
        let closed = writer.close().await.map_err(|error| error.kind());
        assert_eq!(closed, Err(ErrorKind::NotFound), "deleted while it was written");
    });
}

/// Also where the DataNodes have heard of it before the writer closes.
fn what_is_deleted_while_it_is_written_is_not_found() {
    let dir = Hdfs::shared().dir("own-deleted");
    let bytes = noise(15, 100_000);
    dir.put("f", bytes.clone());
    let options = StoreOptions { deadline: Duration::from_secs(20), ..options() };
    let opened = open(&dir.url().parse().expect("a URL"), &options).expect("opens");
    let mut writer = block_on(async {
        let (mut writer, _) = opened.store.append(&at("/f")).await.expect("append");
        writer.write(Bytes::from_static(b"!")).await.expect("write");
        writer.sync().await.expect("sync");
        writer.write(Bytes::from_static(b"!")).await.expect("write");
        writer
    });
    let replicas: Vec<_> = (0..2).flat_map(|i| replicas(dir.hdfs(), i, &bytes[..64])).collect();
    assert_eq!(replicas.len(), 2, "{replicas:?}");
    dir.delete("f");
    dir.hdfs().wait_blocks_gone(&replicas);
    let synced = block_on(writer.sync()).map_err(|error| error.kind());
    assert_eq!(synced, Err(ErrorKind::NotFound));
}

fn settings_of_new_files_and_limits() {
    let dir = Hdfs::shared().dir("own-settings");
    block_on(async {
        let opened = open(&dir.url().parse().expect("a URL"), &options()).expect("opens");
        let options =
            CreateOptions { replication: Some(1), block_size: Some(8192), ..CreateOptions::default() };
        let writer = opened.store.create(&at("/f"), options).await.expect("create");
        writer.close().await.expect("close");
        let found = opened.store.stat(&at("/f")).await.expect("stat");
        assert_eq!((found.replication, found.block_size), (1, 8192));
        for options in [
            CreateOptions { block_size: Some(1000), ..CreateOptions::default() },
            CreateOptions { block_size: Some(512), ..CreateOptions::default() },
            CreateOptions { replication: Some(5000), ..CreateOptions::default() },
        ] {
            let error =
                opened.store.create(&at("/g"), options).await.map(drop).expect_err("beyond its limits");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        }
    });
}

fn viewfs_puts_directories_together() {
    let dir = Hdfs::shared().dir("own-view");
    block_on(async {
        let opened = open(&dir.url().parse().expect("a URL"), &options()).expect("opens");
        opened.store.make_dir(&at("/a"), None).await.expect("mkdir");
        opened.store.make_dir(&at("/b"), None).await.expect("mkdir");
        let (url, table) = (opened.store.url().to_string(), "fs.viewfs.mounttable.t");
        let properties: BTreeMap<_, _> =
            ["a", "b"].map(|dir| (format!("{table}.link./{dir}"), format!("{url}/{dir}"))).into();
        let hdfs = HdfsOptions { properties, ..HdfsOptions::default() };
        let options = StoreOptions { hdfs, ..options() };
        let view = open(&"viewfs://t/a".parse().expect("a URL"), &options).expect("opens");
        view.check_root().await.expect("below a link");
        contract::check_store(&*view.store, &at("/t")).await;
        put(&*view.store, "/f", 0o644, "in a").await.expect("write");
        assert_eq!(read(&*opened.store, "/a/f").await, Ok(Bytes::from_static(b"in a")));
    });
}
