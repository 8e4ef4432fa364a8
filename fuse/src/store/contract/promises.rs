//! One function for each group of promises.

use bytes::Bytes;
use futures::StreamExt;

use super::{content, entries, fails, get, names as listed, put, stat, sub};
use crate::{
    error::ErrorKind::{
        AlreadyExists, InvalidArgument, IsADirectory, NotADirectory, NotEmpty, NotFound, Stale,
    },
    store::{CreateOptions, FileKind, Generation, Store, StorePath},
};

const fn new_file(overwrite: bool, create_parents: bool) -> CreateOptions {
    CreateOptions { overwrite, create_parents, mode: None, replication: None, block_size: None }
}

const NEW: CreateOptions = new_file(false, false);
const OVER: CreateOptions = new_file(true, false);
const DEEP: CreateOptions = new_file(false, true);

async fn dir(store: &dyn Store, path: &StorePath) {
    store.create_dir(path).await.expect("make a directory");
}

async fn file(store: &dyn Store, path: &StorePath, text: &'static str) {
    put(store, path, Bytes::from_static(text.as_bytes()), OVER).await.expect("write a file");
}

pub(super) async fn directories(store: &dyn Store, at: &StorePath) {
    let deep = sub(at, "a/b/c");
    dir(store, &deep).await;
    dir(store, &deep).await;
    let metadata = stat(store, &deep).await;
    assert!(metadata.is_dir() && metadata.len == 0, "a directory is one, of length 0: {metadata:?}");
    assert_eq!(listed(store, &deep).await.expect("list"), Vec::<String>::new(), "empty");
    file(store, &sub(at, "f"), "x").await;
    fails(store.create_dir(&sub(at, "f")).await, &[AlreadyExists], "no directory over a file");
    fails(store.create_dir(&sub(at, "f/x")).await, &[NotADirectory], "no directory below a file");
    fails(listed(store, &sub(at, "f")).await, &[NotADirectory], "a file has no listing");
    fails(listed(store, &sub(at, "nothing")).await, &[NotFound], "nothing has no listing");
    fails(store.stat(&sub(at, "nothing")).await, &[NotFound], "nothing has no stat");
    let before = stat(store, &sub(at, "a")).await.generation;
    tick().await;
    file(store, &sub(at, "a/new"), "x").await;
    let made = stat(store, &sub(at, "a")).await.generation;
    assert_ne!(before, made, "a new entry changes its directory's generation");
    tick().await;
    store.delete(&sub(at, "a/new"), false).await.expect("delete");
    assert_ne!(made, stat(store, &sub(at, "a")).await.generation, "an entry's end changes it too");
    let many = sub(at, "many");
    dir(store, &many).await;
    for i in 0..40 {
        dir(store, &sub(&many, &format!("d{i}"))).await;
    }
    assert_eq!(listed(store, &many).await.expect("list").len(), 40, "each entry once");
    assert!(store.list(&many).next().await.is_some(), "a listing may be dropped after its first entry");
    store.usage().await.expect("usage");
}

/// A new modification time needs a new millisecond.
pub(super) async fn tick() {
    tokio::time::sleep(std::time::Duration::from_millis(3)).await;
}

pub(super) async fn names(store: &dyn Store, at: &StorePath) {
    dir(store, at).await;
    let long = "n".repeat(255);
    let odd = ["a b", "ü€𝄞", "%41", "a+b?c#d&e=f", "'\"`$(x)", "-rf", "*[a]{b}\\", ".hidden", &long];
    for name in odd {
        file(store, &sub(at, name), "x").await;
    }
    let mut expected: Vec<&str> = odd.to_vec();
    expected.sort_unstable();
    assert_eq!(listed(store, at).await.expect("list"), expected, "names come back as they were given");
    for name in odd {
        assert_eq!(get(store, &sub(at, name)).await.expect(name), "x");
        store.delete(&sub(at, name), false).await.expect(name);
    }
}

pub(super) async fn reads(store: &dyn Store, at: &StorePath) {
    let path = sub(at, "deep/f");
    let data = content(1, 300_001);
    put(store, &path, data.clone(), DEEP).await.expect("write");
    let reader = store.open(&path, None).await.expect("open");
    let metadata = reader.metadata();
    assert_eq!((metadata.kind, metadata.len), (FileKind::File, 300_001), "stat at open");
    assert_eq!(metadata.generation, stat(store, &path).await.generation, "open and stat agree");
    let listed = entries(store, &sub(at, "deep")).await.expect("list");
    assert_eq!(listed[0].metadata, stat(store, &path).await, "list and stat agree");
    for (offset, len) in
        [(0usize, 0usize), (0, 1), (0, 300_001), (150_000, 4096), (299_999, 100), (1, usize::MAX)]
    {
        let end = offset.saturating_add(len).min(data.len());
        let got = reader.read_at(offset as u64, len).await.expect("read");
        assert_eq!(got, data[offset..end], "{len} bytes from {offset}");
    }
    for offset in [300_001, 300_002, u64::MAX - 1, u64::MAX] {
        assert_eq!(reader.read_at(offset, 10).await.expect("read"), "", "nothing past the end");
    }
    let many = (0..32u64).map(|i| reader.read_at(i * 9_000, 10_000));
    for (i, got) in futures::future::join_all(many).await.into_iter().enumerate() {
        assert_eq!(got.expect("read"), data[i * 9_000..(i * 9_000 + 10_000)], "32 reads at once");
    }
    let empty = sub(at, "empty");
    put(store, &empty, Bytes::new(), NEW).await.expect("write");
    assert_eq!(get(store, &empty).await.expect("read"), "", "an empty file");
    fails(store.open(&sub(at, "deep"), None).await, &[IsADirectory], "a directory cannot be opened");
    fails(store.open(&sub(at, "none"), None).await, &[NotFound], "nothing cannot be opened");
    fails(store.open(&sub(at, "deep/f/x"), None).await, &[NotADirectory, NotFound], "through a file");
}

pub(super) async fn creation(store: &dyn Store, at: &StorePath) {
    dir(store, at).await;
    let f = sub(at, "f");
    file(store, &f, "old").await;
    fails(store.create(&f, NEW).await, &[AlreadyExists], "create keeps what is there");
    assert_eq!(get(store, &f).await.expect("read"), "old");
    file(store, &f, "new and longer").await;
    assert_eq!(get(store, &f).await.expect("read"), "new and longer", "overwrite");
    file(store, &f, "s").await;
    assert_eq!(get(store, &f).await.expect("read"), "s", "overwrite by less");
    fails(store.create(&sub(at, "no/f"), NEW).await, &[NotFound], "parents only when asked for");
    fails(store.create(&sub(at, "f/x"), DEEP).await, &[NotADirectory], "no file below a file");
    dir(store, &sub(at, "d")).await;
    fails(store.create(&sub(at, "d"), NEW).await, &[AlreadyExists], "no file over a directory");
    fails(store.create(&sub(at, "d"), OVER).await, &[IsADirectory], "not by overwriting, either");
    let mode = CreateOptions { mode: Some(0o640), ..NEW };
    put(store, &sub(at, "mode"), Bytes::new(), mode).await.expect("write");
    assert_eq!(stat(store, &sub(at, "mode")).await.mode, 0o640, "the mode that was asked for");
    let synced = sub(at, "synced");
    let mut writer = store.create(&synced, NEW).await.expect("create");
    writer.write(Bytes::from_static(b"one")).await.expect("write");
    writer.sync().await.expect("sync");
    writer.write(Bytes::from_static(b" two")).await.expect("write");
    writer.close().await.expect("close");
    assert_eq!(get(store, &synced).await.expect("read"), "one two", "sync in the middle");
}

pub(super) async fn renames(store: &dyn Store, at: &StorePath) {
    dir(store, at).await;
    let (a, b, d) = (sub(at, "a"), sub(at, "b"), sub(at, "d"));
    file(store, &a, "a").await;
    store.rename(&a, &b, false).await.expect("rename");
    assert_eq!(get(store, &b).await.expect("read"), "a");
    fails(store.stat(&a).await, &[NotFound], "the old name is gone");
    file(store, &a, "a2").await;
    fails(store.rename(&a, &b, false).await, &[AlreadyExists], "no rename over a file unasked");
    store.rename(&a, &b, true).await.expect("rename over");
    assert_eq!(get(store, &b).await.expect("read"), "a2", "replaced");
    fails(store.rename(&a, &b, true).await, &[NotFound], "nothing to rename");
    fails(store.rename(&b, &sub(at, "no/x"), false).await, &[NotFound], "no parent to rename into");
    fails(store.rename(&b, &b, false).await, &[AlreadyExists], "onto itself");
    store.rename(&b, &b, true).await.expect("onto itself, by leave");
    dir(store, &sub(&d, "inner")).await;
    file(store, &sub(&d, "inner/f"), "in d").await;
    fails(store.rename(&b, &d, false).await, &[AlreadyExists], "a file over a directory, unasked");
    fails(store.rename(&b, &d, true).await, &[IsADirectory], "a file over a directory");
    fails(store.rename(&d, &b, true).await, &[NotADirectory], "a directory over a file");
    fails(store.rename(&d, &sub(&d, "inner/x"), true).await, &[InvalidArgument], "into itself");
    store.rename(&d, &sub(at, "e"), false).await.expect("rename a directory");
    assert_eq!(get(store, &sub(at, "e/inner/f")).await.expect("read"), "in d", "with all below it");
    dir(store, &d).await;
    fails(store.rename(&d, &sub(at, "e"), true).await, &[NotEmpty], "over a directory with entries");
    store.rename(&sub(at, "e"), &d, true).await.expect("a directory over an empty one");
    assert_eq!(get(store, &sub(&d, "inner/f")).await.expect("read"), "in d", "in its place");
    dir(store, &sub(at, "e")).await;
    fails(store.rename(&b, &sub(at, "e"), true).await, &[IsADirectory], "a file over an empty directory");
    fails(store.rename(&sub(at, "e"), &b, true).await, &[NotADirectory], "an empty directory over a file");
    fails(store.rename(&StorePath::root(), &d, true).await, &[InvalidArgument], "the root stays");
}

pub(super) async fn deletion(store: &dyn Store, at: &StorePath) {
    file_below(store, at, "d/e/f").await;
    fails(store.delete(&sub(at, "none"), true).await, &[NotFound], "nothing to delete");
    fails(store.delete(&sub(at, "d"), false).await, &[NotEmpty], "a directory with entries");
    store.delete(&sub(at, "d"), true).await.expect("delete all");
    fails(store.stat(&sub(at, "d/e/f")).await, &[NotFound], "all below is gone");
    dir(store, &sub(at, "empty")).await;
    store.delete(&sub(at, "empty"), false).await.expect("delete an empty directory");
    file(store, &sub(at, "f"), "x").await;
    store.delete(&sub(at, "f"), false).await.expect("delete a file");
    assert_eq!(listed(store, at).await.expect("list"), Vec::<String>::new());
    fails(store.delete(&StorePath::root(), true).await, &[InvalidArgument], "the root stays");
}

async fn file_below(store: &dyn Store, at: &StorePath, name: &str) {
    put(store, &sub(at, name), Bytes::from_static(b"x"), DEEP).await.expect("write");
}

pub(super) async fn generations(store: &dyn Store, at: &StorePath) {
    dir(store, at).await;
    let f = sub(at, "f");
    file(store, &f, "one").await;
    let first = stat(store, &f).await.generation;
    assert_eq!(first, stat(store, &f).await.generation, "stays while nothing is written");
    assert_eq!(Generation::parse(&first.to_string()), Some(first), "there and back as text");
    store.open(&f, Some(first)).await.expect("open the right generation");
    tick().await;
    file(store, &f, "two").await;
    assert_ne!(first, stat(store, &f).await.generation, "new bytes of the same length");
    fails(store.open(&f, Some(first)).await, &[Stale], "the generation that was is not to be had");
}

pub(super) async fn replacement(store: &dyn Store, at: &StorePath) {
    dir(store, at).await;
    let (f, next) = (sub(at, "f"), sub(at, "f._COPYING_"));
    let (old, new) = (content(7, 50_000), content(8, 60_000));
    put(store, &f, old.clone(), NEW).await.expect("write");
    let reader = store.open(&f, None).await.expect("open");
    assert_eq!(reader.read_at(0, 50_000).await.expect("read"), old);
    put(store, &next, new.clone(), NEW).await.expect("write");
    store.rename(&next, &f, true).await.expect("replace");
    for offset in [0u64, 1_000, 49_000] {
        let start = usize::try_from(offset).expect("small");
        match reader.read_at(offset, 5_000).await {
            Ok(got) => assert_eq!(got, old[start..(start + 5_000).min(50_000)], "old bytes, never a mix"),
            Err(error) => assert_eq!(error.kind(), Stale, "{error}"),
        }
    }
    assert_eq!(get(store, &f).await.expect("read"), new, "who opens it now gets the new one");
}

/// Who opens ahead may be given a reader of what is not there any more, but never a byte of what is.
pub(super) async fn opened_ahead(store: &dyn Store, at: &StorePath) {
    dir(store, at).await;
    let f = sub(at, "f");
    fails(store.open_ahead(&f, None).await, &[NotFound], "nothing cannot be opened");
    fails(store.open_ahead(at, None).await, &[IsADirectory], "a directory cannot be opened");
    file(store, &f, "one").await;
    let known = stat(store, &f).await;
    for known in [None, Some(&known)] {
        let reader = store.open_ahead(&f, known).await.expect("opened");
        assert_eq!(reader.metadata().generation, stat(store, &f).await.generation);
        assert_eq!(reader.read_at(1, 9).await.expect("read"), "ne");
        reader.confirm().await.expect("is what it was");
    }
    tick().await;
    file(store, &f, "two").await;
    match store.open_ahead(&f, Some(&known)).await {
        Ok(reader) => {
            fails(reader.read_at(0, 3).await, &[Stale], "no byte of another generation");
            fails(reader.confirm().await, &[Stale], "it is another one");
        }
        Err(error) => assert_eq!(error.kind(), Stale, "{error}"),
    }
    store.delete(&f, false).await.expect("delete");
    let reader = store.open_ahead(&f, Some(&known)).await;
    let read = match reader {
        Ok(reader) => reader.read_at(0, 3).await,
        Err(error) => Err(error),
    };
    fails(read, &[Stale, NotFound], "it is gone");
}
