//! On a real HDFS, whose superuser is the user of this process. The end-to-end tests start one; these
//! are for trying things while writing this folder:
//!
//! `SPRINGHOUSE_TEST_HDFS=hdfs://HOST:PORT cargo test -p springhouse-fuse hdfs::tests -- --ignored`

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::error::{ErrorKind, Result};
use crate::store::{
    AttributeChanges, CreateOptions, HdfsOptions, OpenedStore, Store, StoreOptions, StorePath, StoreUrl,
    contract::{Operation, check_operations, check_store},
    open,
};

fn url(dir: &str) -> StoreUrl {
    let base = std::env::var("SPRINGHOUSE_TEST_HDFS").expect("SPRINGHOUSE_TEST_HDFS names an HDFS");
    format!("{base}/store-tests/{dir}-{}", std::process::id()).parse().expect("a store URL")
}

async fn fresh(dir: &str) -> OpenedStore {
    let url = url(dir);
    let StoreUrl::Hdfs { authority, path, .. } = &url else { panic!("an HDFS URL") };
    let top = format!("hdfs://{authority}/").parse().expect("a URL");
    open(&top, &StoreOptions::default()).expect("opens").store.create_dir(path).await.expect("mkdirs");
    open(&url, &StoreOptions::default()).expect("the store opens")
}

fn path(text: &str) -> StorePath {
    StorePath::parse(text).expect("a valid path")
}

#[tokio::test]
#[ignore = "needs a real HDFS"]
async fn keeps_the_contract() {
    check_store(&*fresh("contract").await.store, &path("/t")).await;
}

#[tokio::test]
#[ignore = "needs a real HDFS"]
async fn does_what_the_model_does() {
    let store = fresh("model").await.store;
    for seed in 0..3u64 {
        let bits = |i: u64| xxhash_rust::xxh3::xxh3_64_with_seed(&i.to_le_bytes(), seed);
        let operations: Vec<_> = (0..150).map(|i| Operation::from_bits(bits(i))).collect();
        check_operations(&*store, &path(&format!("/t{seed}")), &operations).await;
    }
}

async fn put(store: &dyn Store, name: &str, mode: u32, text: &'static str) -> Result<()> {
    let options = CreateOptions { mode: Some(mode), ..CreateOptions::default() };
    let mut writer = store.create(&path(name), options).await?;
    writer.write(Bytes::from_static(text.as_bytes())).await?;
    writer.close().await
}

async fn read(store: &dyn Store, name: &str) -> std::result::Result<Bytes, ErrorKind> {
    let read = async { store.open(&path(name), None).await?.read_at(0, 100).await };
    read.await.map_err(|error| error.kind())
}

#[tokio::test]
#[ignore = "needs a real HDFS"]
async fn each_user_may_what_hdfs_lets_him() {
    let opened = fresh("users").await;
    let open_to_all = AttributeChanges { mode: Some(0o1777), ..AttributeChanges::default() };
    opened.store.set_attributes(&StorePath::root(), &open_to_all).await.expect("chmod");
    let (alice, bob) = (opened.as_user("alice").expect("alice"), opened.as_user("bob").expect("bob"));
    put(&*bob, "/secret", 0o600, "bob's").await.expect("bob writes");
    put(&*bob, "/shared", 0o644, "for all").await.expect("bob writes");
    assert_eq!(bob.stat(&path("/secret")).await.expect("stat").owner, "bob");
    assert_eq!(read(&*bob, "/secret").await, Ok(Bytes::from_static(b"bob's")));
    assert_eq!(read(&*alice, "/secret").await, Err(ErrorKind::PermissionDenied));
    assert_eq!(read(&*alice, "/shared").await, Ok(Bytes::from_static(b"for all")));
    assert_eq!(read(&*opened.store, "/secret").await, Ok(Bytes::from_static(b"bob's")), "the superuser");
    let kind = |outcome: Result<()>| outcome.map_err(|error| error.kind());
    let denied = Err(ErrorKind::PermissionDenied);
    alice.truncate(&path("/shared"), 0).await.expect_err("not hers");
    assert_eq!(kind(alice.append(&path("/shared")).await.map(drop)), denied, "not hers");
    assert_eq!(kind(alice.set_attributes(&path("/shared"), &open_to_all).await), denied, "not hers");
    assert_eq!(kind(alice.delete(&path("/shared"), false).await), denied, "a sticky directory");
    let to_alice = AttributeChanges { owner: Some("alice".into()), ..AttributeChanges::default() };
    assert_eq!(
        kind(bob.set_attributes(&path("/shared"), &to_alice).await),
        denied,
        "given away by root only"
    );
    // Another's file that he may write: cut only by who may restore its owner.
    let writable = AttributeChanges { mode: Some(0o666), ..AttributeChanges::default() };
    bob.set_attributes(&path("/shared"), &writable).await.expect("chmod");
    assert_eq!(kind(alice.truncate(&path("/shared"), 0).await), Err(ErrorKind::Unsupported));
    assert_eq!(read(&*alice, "/shared").await, Ok(Bytes::from_static(b"for all")), "left as it was");
    opened.store.truncate(&path("/shared"), 0).await.expect("the superuser cuts");
    let cut = bob.stat(&path("/shared")).await.expect("stat");
    assert_eq!((cut.len, cut.owner.as_str(), cut.mode), (0, "bob", 0o666), "still bob's");
    assert!(
        opened.counters.snapshot().operations.iter().map(|of| of.count).sum::<u64>() > 20,
        "counted as one"
    );
}

#[tokio::test]
#[ignore = "needs a real HDFS"]
async fn who_writes_keeps_others_from_writing() {
    let opened = fresh("leases").await;
    put(&*opened.store, "/f", 0o666, "one").await.expect("write");
    let (mut writer, end) = opened.store.append(&path("/f")).await.expect("append");
    let other = opened.as_user("root2").expect("another client");
    let busy = other.append(&path("/f")).await.map(drop).map_err(|error| error.kind());
    assert_eq!((end, busy), (3, Err(ErrorKind::Busy)));
    writer.write(Bytes::from_static(b" two")).await.expect("write");
    writer.close().await.expect("close");
    assert_eq!(read(&*opened.store, "/f").await, Ok(Bytes::from_static(b"one two")));
    let (mut writer, _) = opened.store.append(&path("/f")).await.expect("append");
    writer.write(Bytes::from_static(b"!")).await.expect("write");
    opened.store.delete(&path("/f"), false).await.expect("delete");
    let closed = writer.close().await.map_err(|error| error.kind());
    assert_eq!(closed, Err(ErrorKind::NotFound), "deleted while it was written");
}

#[tokio::test]
#[ignore = "needs a real HDFS"]
async fn settings_of_new_files_and_limits() {
    let opened = fresh("settings").await;
    let options = CreateOptions { replication: Some(1), block_size: Some(8192), ..CreateOptions::default() };
    let writer = opened.store.create(&path("/f"), options).await.expect("create");
    writer.close().await.expect("close");
    let found = opened.store.stat(&path("/f")).await.expect("stat");
    assert_eq!((found.replication, found.block_size), (1, 8192));
    for options in [
        CreateOptions { block_size: Some(1000), ..CreateOptions::default() },
        CreateOptions { block_size: Some(512), ..CreateOptions::default() },
        CreateOptions { replication: Some(5000), ..CreateOptions::default() },
    ] {
        let error = opened.store.create(&path("/g"), options).await.map(drop).expect_err("beyond its limits");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
}

#[tokio::test]
#[ignore = "needs a real HDFS"]
async fn viewfs_puts_directories_together() {
    let opened = fresh("view").await;
    opened.store.make_dir(&path("/a"), None).await.expect("mkdir");
    opened.store.make_dir(&path("/b"), None).await.expect("mkdir");
    let (url, table) = (opened.store.url().to_string(), "fs.viewfs.mounttable.t");
    let properties: BTreeMap<_, _> =
        ["a", "b"].map(|dir| (format!("{table}.link./{dir}"), format!("{url}/{dir}"))).into();
    let hdfs = HdfsOptions { properties, ..HdfsOptions::default() };
    let options = StoreOptions { hdfs, ..StoreOptions::default() };
    let view = open(&"viewfs://t/a".parse().expect("a URL"), &options).expect("opens");
    view.check_root().await.expect("below a link");
    check_store(&*view.store, &path("/t")).await;
    put(&*view.store, "/f", 0o644, "in a").await.expect("write");
    assert_eq!(read(&*opened.store, "/a/f").await, Ok(Bytes::from_static(b"in a")));
}
