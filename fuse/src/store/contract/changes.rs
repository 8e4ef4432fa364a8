//! Promises about changing what is there.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;

use super::{content, fails, get, names as listed, promises::tick, put, stat, sub};
use crate::{
    error::ErrorKind::{AlreadyExists, IsADirectory, NotADirectory, NotFound, Unsupported},
    store::{AttributeChanges, CreateOptions, Store, StorePath},
};

const DEEP: CreateOptions = CreateOptions {
    overwrite: false,
    create_parents: true,
    mode: Some(0o640),
    replication: None,
    block_size: None,
};

async fn file(store: &dyn Store, path: &StorePath, data: Bytes) {
    put(store, path, data, DEEP).await.expect("write a file");
}

pub(super) async fn appending(store: &dyn Store, at: &StorePath) {
    let f = sub(at, "f");
    let data = content(11, 70_000);
    file(store, &f, data.slice(..9_000)).await;
    let reader = store.open(&f, None).await.expect("open");
    let before = stat(store, &f).await;
    let mut end = 9_000;
    for next in [9_001, 20_000, 70_000] {
        tick().await;
        let (mut writer, start) = store.append(&f).await.expect("append");
        assert_eq!(start, end as u64, "it begins where the file ends");
        let middle = (end + next) / 2;
        writer.write(data.slice(end..middle)).await.expect("write");
        writer.sync().await.expect("sync");
        // HDFS's client cannot read the HDFS block that is being written, not even its old bytes.
        let seen = get(store, &f).await.expect("read");
        assert!(data[..middle].starts_with(&seen), "while it is written, its bytes or less of them");
        writer.write(data.slice(middle..next)).await.expect("write");
        writer.close().await.expect("close");
        assert!(get(store, &f).await.expect("read") == data[..next], "appended to");
        end = next;
    }
    let after = stat(store, &f).await;
    assert_ne!(before.generation, after.generation, "a new generation");
    assert_eq!((after.mode, after.len), (before.mode, 70_000), "the same file");
    if let Ok(old) = reader.read_at(0, 70_000).await {
        assert!(old == data[..9_000], "who had it open sees its generation, or that it is gone");
    }
    let (writer, start) = store.append(&f).await.expect("append");
    writer.close().await.expect("close without a byte");
    assert!((start, get(store, &f).await.expect("read")) == (70_000, data), "nothing appended");
    let empty = sub(at, "empty");
    file(store, &empty, Bytes::new()).await;
    let (mut writer, start) = store.append(&empty).await.expect("append");
    writer.write(Bytes::from_static(b"x")).await.expect("write");
    writer.close().await.expect("close");
    assert_eq!((start, get(store, &empty).await.expect("read")), (0, Bytes::from_static(b"x")), "to nothing");
    fails(store.append(&sub(at, "none")).await, &[NotFound], "nothing to append to");
    fails(store.append(at).await, &[IsADirectory], "a directory takes no bytes");
    fails(store.append(&sub(&f, "x")).await, &[NotADirectory, NotFound], "through a file");
}

pub(super) async fn truncation(store: &dyn Store, at: &StorePath) {
    let f = sub(at, "f");
    let data = content(12, 30_000);
    file(store, &f, data.clone()).await;
    let before = stat(store, &f).await;
    store.truncate(&f, 30_000).await.expect("to the length it has");
    assert_eq!(stat(store, &f).await, before, "that changes nothing");
    for len in [20_000usize, 25_000] {
        let was = get(store, &f).await.expect("read");
        let mut wanted = was.to_vec();
        match store.truncate(&f, len as u64).await {
            Ok(()) => wanted.resize(len, 0),
            Err(error) => assert_eq!(error.kind(), Unsupported, "done, or not to be had: {error}"),
        }
        assert!(get(store, &f).await.expect("read") == wanted, "cut, made longer by zeros, or left alone");
    }
    tick().await;
    store.truncate(&f, 0).await.expect("to nothing");
    let after = stat(store, &f).await;
    assert_eq!(after.len, 0, "cut to nothing");
    assert_ne!(before.generation, after.generation, "a new generation");
    let kept = |of: &crate::store::Metadata| (of.mode, of.owner.clone(), of.group.clone(), of.replication);
    assert_eq!((kept(&after), after.block_size), (kept(&before), before.block_size), "all else stays");
    assert_eq!(listed(store, at).await.expect("list"), ["f"], "nothing is left beside it");
    fails(store.truncate(&sub(at, "none"), 0).await, &[NotFound], "nothing to cut");
    fails(store.truncate(at, 0).await, &[IsADirectory], "a directory has no length");
}

pub(super) async fn attributes(store: &dyn Store, at: &StorePath) {
    let (f, d) = (sub(at, "d/f"), sub(at, "d"));
    file(store, &f, content(13, 100)).await;
    let none = AttributeChanges::default();
    let before = stat(store, &f).await;
    store.set_attributes(&f, &none).await.expect("nothing to change");
    assert_eq!(stat(store, &f).await, before, "nothing changed");
    for (path, mode) in [(&f, 0o600), (&f, 0o444), (&d, 0o1777), (&d, 0o700)] {
        let change = AttributeChanges { mode: Some(mode), ..none.clone() };
        store.set_attributes(path, &change).await.expect("chmod");
        assert_eq!(stat(store, path).await.mode, mode, "chmod of {path}");
    }
    let time = |ms| Some(UNIX_EPOCH + Duration::from_millis(ms));
    let mtime = AttributeChanges { mtime: time(1_000_000_000_123), ..none.clone() };
    store.set_attributes(&f, &mtime).await.expect("set mtime");
    let found = stat(store, &f).await;
    assert_eq!((Some(found.mtime), found.atime), (mtime.mtime, before.atime), "one and not the other");
    assert_eq!(get(store, &f).await.expect("read"), content(13, 100), "its bytes stay");
    let both =
        AttributeChanges { mtime: time(1_600_000_000_001), atime: time(1_500_000_000_999), ..none.clone() };
    store.set_attributes(&f, &both).await.expect("set both");
    let found = stat(store, &f).await;
    assert_eq!((Some(found.mtime), Some(found.atime)), (both.mtime, both.atime), "both");
    store.set_attributes(&d, &mtime).await.expect("set a directory's");
    assert_eq!(Some(stat(store, &d).await.mtime), mtime.mtime, "a directory's time");
    let own = AttributeChanges { owner: Some(found.owner.clone()), group: Some(found.group.clone()), ..none };
    store.set_attributes(&f, &own).await.expect("to whom it belongs already");
    let owned = stat(store, &f).await;
    assert_eq!((owned.owner, owned.group), (found.owner, found.group), "it belongs to the same");
    fails(store.set_attributes(&sub(at, "none"), &mtime).await, &[NotFound], "nothing to change");
}

pub(super) async fn one_directory(store: &dyn Store, at: &StorePath) {
    let f = sub(at, "f");
    file(store, &f, Bytes::new()).await;
    let d = sub(at, "d");
    store.make_dir(&d, Some(0o750)).await.expect("make a directory");
    let found = stat(store, &d).await;
    assert_eq!((found.is_dir(), found.mode), (true, 0o750), "of the mode that was asked for");
    store.make_dir(&sub(&d, "e"), None).await.expect("make one in it");
    fails(store.make_dir(&d, None).await, &[AlreadyExists], "there is one");
    fails(store.make_dir(&f, None).await, &[AlreadyExists], "there is a file");
    fails(store.make_dir(&StorePath::root(), None).await, &[AlreadyExists], "the root is there");
    fails(store.make_dir(&sub(at, "no/x"), None).await, &[NotFound], "its parent must be there");
    fails(store.make_dir(&sub(&f, "x"), None).await, &[NotADirectory], "not below a file");
}
