//! Files written by way of the staging area, on a store in memory.

use std::{fs as disk, path::Path, sync::Arc};

use futures::StreamExt;
use tempfile::TempDir;

use super::*;
use crate::store::{
    AttributeChanges, Operation,
    memory::{Fault, Injection, MemoryStore},
};

fn path(text: &str) -> StorePath {
    StorePath::parse(text).expect("a valid path")
}

pub(super) fn me() -> Caller {
    Caller::own()
}

pub(super) fn settings(dir: &Path) -> FsSettings {
    let writes = WriteSettings {
        mode: WriteMode::Staged,
        staging_dir: Some(dir.to_owned()),
        staging_bytes_max: 2 << 20,
        ..WriteSettings::default()
    };
    FsSettings { writes, sqlite: false, ..FsSettings::default() }
}

fn fs(store: &MemoryStore, dir: &Path) -> FileSystem {
    FileSystem::new(Arc::new(store.clone()), settings(dir), Handle::current()).expect("settings")
}

fn scratch() -> (MemoryStore, TempDir) {
    (MemoryStore::new(), tempfile::tempdir().expect("a directory"))
}

fn kind<T: std::fmt::Debug>(outcome: Result<T>) -> ErrorKind {
    outcome.expect_err("an error").kind()
}

pub(super) async fn ino(fs: &FileSystem, name: &str) -> Option<u64> {
    fs.lookup(me(), ROOT, name).await.expect("looked up").attr.map(|attr| attr.ino)
}

const TRUNCATE: OpenFor = OpenFor { truncate: true, append: false, exclusive: false };

/// As the kernel does, made if it is not there: number and handle.
pub(super) async fn open(fs: &FileSystem, name: &str, wanted: OpenFor) -> Result<(u64, u64)> {
    let Some(number) = ino(fs, name).await else {
        let created = fs.create(me(), ROOT, name, 0o640, wanted).await?;
        return Ok((created.attr.ino, created.opened.fh));
    };
    match fs.open_for_writing(me(), number, wanted).await {
        Err(error) if error.kind() == ErrorKind::Stale => {
            let again = ino(fs, name).await.expect("there");
            Ok((again, fs.open_for_writing(me(), again, wanted).await?.fh))
        }
        opened => Ok((number, opened?.fh)),
    }
}

pub(super) async fn write(fs: &FileSystem, fh: u64, offset: u64, bytes: &[u8]) -> Result<()> {
    fs.write(fh, offset, Bytes::copy_from_slice(bytes), false).await
}

pub(super) async fn close(fs: &FileSystem, fh: u64) -> Result<()> {
    let flushed = fs.flush(fh).await;
    fs.release(fh).await;
    flushed
}

pub(super) async fn set_len(fs: &FileSystem, number: u64, len: u64) -> Result<()> {
    fs.setattr(me(), number, SetAttr { len: Some(len), ..SetAttr::default() }).await.map(drop)
}

pub(super) async fn content(fs: &FileSystem, name: &str) -> Option<Bytes> {
    let fh = match fs.open(me(), ino(fs, name).await?).await {
        Err(error) if error.kind() == ErrorKind::Stale => {
            fs.open(me(), ino(fs, name).await?).await.expect("opened").fh
        }
        opened => opened.expect("opened").fh,
    };
    let bytes = fs.read(fh, 0, 4 << 20).await.expect("read");
    fs.release(fh).await;
    Some(bytes)
}

pub(super) async fn stored(store: &dyn Store, name: &str) -> Option<Bytes> {
    let reader = store.open(&path(name), None).await.ok()?;
    Some(reader.read_at(0, 4 << 20).await.expect("read"))
}

pub(super) async fn names_in(store: &dyn Store) -> Vec<String> {
    let root = StorePath::root();
    let mut names: Vec<String> = store.list(&root).map(|entry| entry.expect("listed").name).collect().await;
    names.sort();
    names
}

async fn names(store: &MemoryStore) -> Vec<String> {
    names_in(store).await
}

pub(super) fn staged(dir: &Path) -> Vec<String> {
    let entries = disk::read_dir(dir).expect("listed").map(|entry| entry.expect("an entry"));
    let names = entries.map(|entry| entry.file_name().into_string().expect("UTF-8"));
    names.filter(|name| name != "lock").collect()
}

/// What is on the disk at this moment, as a crash would leave it.
pub(super) fn copy(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    for name in staged(dir) {
        disk::copy(dir.join(&name), copy.path().join(&name)).expect("copied");
    }
    copy
}

#[tokio::test]
async fn any_pattern_comes_to_the_store_at_fsync_and_close() {
    let (store, dir) = scratch();
    let fs = fs(&store, dir.path());
    let (number, fh) = open(&fs, "f", OpenFor::default()).await.expect("opened");
    write(&fs, fh, 5, b"world").await.expect("written");
    write(&fs, fh, 0, b"hello").await.expect("before what was written");
    assert_eq!(stored(&store, "f").await.expect("made"), "", "others see the old file");
    assert_eq!(fs.read(fh, 3, 4).await.expect("read"), "lowo");
    assert_eq!(fs.getattr(me(), number).await.expect("known").0.len, 10);
    fs.fsync(fh).await.expect("sent");
    assert_eq!(stored(&store, "f").await.expect("there"), "helloworld");
    set_len(&fs, number, 3).await.expect("cut");
    set_len(&fs, number, 6).await.expect("longer");
    assert_eq!(content(&fs, "f").await.expect("there"), &b"hel\0\0\0"[..], "all handles read the copy");
    close(&fs, fh).await.expect("closed");
    assert_eq!(stored(&store, "f").await.expect("there"), &b"hel\0\0\0"[..]);
    assert_eq!(names(&store).await, ["f"]);
    assert_eq!(staged(dir.path()), Vec::<String>::new());
    let snapshot = fs.snapshot();
    assert_eq!((snapshot.files_staged, snapshot.bytes_staged, snapshot.files_written), (0, 0, 0));
    assert_eq!(store.stat(&path("f")).await.expect("there").mode, 0o640);
}

#[tokio::test]
async fn the_end_of_a_write_is_seen_while_it_is_still_being_settled() {
    let (store, dir) = scratch();
    store.put(&path("/f"), "old").expect("put");
    let fs = fs(&store, dir.path());
    assert_eq!(content(&fs, "f").await.expect("there"), "old");
    let (number, fh) = open(&fs, "f", TRUNCATE).await.expect("opened");
    // Somebody reads it, so its last writer opens it for him: here that takes long.
    let reader = fs.open(me(), number).await.expect("opened").fh;
    let hang = store.inject(Injection::new(Fault::Hang).on(Operation::Open).at(&path("/f")));
    let closed = async {
        fs.flush(fh).await.expect("closed");
        fs.release(fh).await;
    };
    let looked = async {
        hang.reached(1).await;
        let attr = fs.lookup(me(), ROOT, "f").await.expect("looked up").attr.expect("there");
        hang.release();
        attr
    };
    let ((), attr) = tokio::join!(closed, looked);
    assert_eq!((attr.len, attr.ino), (0, number), "as it was written, not as it was remembered");
    fs.release(reader).await;
}

#[tokio::test]
async fn what_is_replaced_bequeaths_mode_and_owner() {
    let (store, dir) = scratch();
    store.put(&path("f"), "old bytes").expect("put");
    let changes = AttributeChanges {
        mode: Some(0o604),
        owner: Some("ann".into()),
        group: Some("staff".into()),
        ..AttributeChanges::default()
    };
    store.set_attributes(&path("f"), &changes).await.expect("set");
    let fs = fs(&store, dir.path());
    let (number, fh) = open(&fs, "f", OpenFor::default()).await.expect("opened");
    write(&fs, fh, 4, b"B").await.expect("written");
    fs.setattr(me(), number, SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.expect("chmod");
    close(&fs, fh).await.expect("closed");
    let there = store.stat(&path("f")).await.expect("there");
    assert_eq!((there.mode, &*there.owner, &*there.group), (0o600, "ann", "staff"));
    assert_eq!(content(&fs, "f").await.expect("there"), "old Bytes");
}

#[tokio::test]
async fn a_full_area_is_no_space_and_nothing_is_lost() {
    let (store, dir) = scratch();
    let fs = fs(&store, dir.path());
    let (_, fh) = open(&fs, "f", OpenFor::default()).await.expect("opened");
    let piece = vec![7; 1 << 20];
    write(&fs, fh, 0, &piece).await.expect("written");
    write(&fs, fh, 8 << 20, &piece[1..]).await.expect("holes take no room");
    assert_eq!(kind(write(&fs, fh, 1 << 20, &piece).await), ErrorKind::NoSpace);
    write(&fs, fh, 100, &piece[..1000]).await.expect("where something is already");
    assert_eq!(fs.snapshot().bytes_staged, 2 << 20);
    close(&fs, fh).await.expect("what had room is sent");
    assert_eq!(store.stat(&path("f")).await.expect("there").len, (9 << 20) - 1);
    // A copy that does not fit is no error of those that do.
    store.put(&path("large"), vec![1; 3 << 20]).expect("put");
    let (_, large) = open(&fs, "large", OpenFor::default()).await.expect("opened");
    assert_eq!(kind(write(&fs, large, 0, b"x").await), ErrorKind::NoSpace);
    let (_, cut) = open(&fs, "large", TRUNCATE).await.expect("opened");
    write(&fs, cut, 0, b"x").await.expect("nothing of it is needed");
    close(&fs, cut).await.expect("closed");
    close(&fs, large).await.expect("closed");
    assert_eq!(stored(&store, "large").await.expect("there"), "x");
    assert_eq!(fs.snapshot().bytes_staged, 0);
}

#[tokio::test]
async fn names_change_while_a_file_is_open() {
    let (store, dir) = scratch();
    let fs = fs(&store, dir.path());
    let (_, fh) = open(&fs, "f", OpenFor::default()).await.expect("opened");
    write(&fs, fh, 0, b"one").await.expect("written");
    fs.rename(me(), (ROOT, "f"), (ROOT, "g"), RenameMode::Replace).await.expect("renamed");
    fs.fsync(fh).await.expect("sent");
    assert_eq!((names(&store).await, stored(&store, "g").await), (vec!["g".into()], Some("one".into())));
    write(&fs, fh, 0, b"two").await.expect("written");
    fs.unlink(me(), ROOT, "g").await.expect("removed");
    assert_eq!(staged(dir.path()), Vec::<String>::new(), "nothing would bring it back");
    write(&fs, fh, 3, b" three").await.expect("into nothing");
    assert_eq!(fs.read(fh, 0, 99).await.expect("read"), "two three");
    fs.fsync(fh).await.expect("nowhere to");
    close(&fs, fh).await.expect("closed");
    assert_eq!(names(&store).await, Vec::<String>::new());
}

/// An upload that fails at any step tells so, changes nothing and is made up for.
#[tokio::test(start_paused = true)]
async fn an_upload_that_fails_is_tried_again() {
    use Operation::{Close, Create, Rename, Stat, Write};
    for operation in [Create, Write, Close, Stat, Rename] {
        for failure in [ErrorKind::Unavailable, ErrorKind::NoSpace, ErrorKind::TimedOut] {
            let (store, dir) = scratch();
            store.put(&path("f"), "old").expect("put");
            let fs = fs(&store, dir.path());
            let (_, fh) = open(&fs, "f", OpenFor::default()).await.expect("opened");
            write(&fs, fh, 0, b"new!").await.expect("written");
            let fault = store.inject(Injection::new(Fault::Fail(failure)).on(operation));
            assert_eq!(kind(fs.fsync(fh).await), failure, "{operation:?}");
            assert_eq!(kind(close(&fs, fh).await), failure, "{operation:?}");
            assert_eq!((fs.snapshot().files_not_sent, staged(dir.path()).len()), (1, 2));
            fault.release();
            assert_eq!(stored(&store, "f").await.expect("there"), "old");
            assert_eq!(content(&fs, "f").await.expect("there"), "new!", "here it is what was written");
            // Nobody has it open: it is sent by itself.
            tokio::time::advance(Duration::from_secs(60)).await;
            fs.maintain();
            let lives = fs.inodes.lock().all_live();
            for live in lives {
                live.1.finish().await.expect("sent");
            }
            fs.maintain();
            assert_eq!(stored(&store, "f").await.expect("there"), "new!", "{operation:?}");
            assert_eq!(names(&store).await, ["f"], "{operation:?}");
            assert_eq!((fs.snapshot().files_staged, fs.snapshot().files_written), (0, 0));
        }
    }
}

#[tokio::test]
async fn the_end_sends_what_is_open() {
    let (store, dir) = scratch();
    let fs = fs(&store, dir.path());
    let (_, fh) = open(&fs, "f", OpenFor::default()).await.expect("opened");
    write(&fs, fh, 0, b"late").await.expect("written");
    assert!(fs.finish_writes().await.is_empty());
    assert_eq!(stored(&store, "f").await.expect("there"), "late");
}

#[tokio::test]
async fn who_changes_it_meanwhile_keeps_his_and_ours_lies_beside() {
    let (store, dir) = scratch();
    store.put(&path("f"), "old").expect("put");
    let fs = fs(&store, dir.path());
    let (_, fh) = open(&fs, "f", OpenFor::default()).await.expect("opened");
    write(&fs, fh, 0, b"our").await.expect("written");
    store.put(&path("f"), "theirs").expect("put");
    assert_eq!(kind(fs.fsync(fh).await), ErrorKind::Stale);
    assert_eq!(kind(write(&fs, fh, 0, b"x").await), ErrorKind::Stale);
    assert_eq!(content(&fs, "f").await.expect("there"), "theirs");
    let _ = close(&fs, fh).await;
    let names = names(&store).await;
    assert!(names.len() == 2 && names[1].starts_with("f.springhouse-recovered-2"), "{names:?}");
    assert_eq!(stored(&store, &names[1]).await.expect("kept"), "our");
    assert_eq!(staged(dir.path()), Vec::<String>::new());
}

#[tokio::test]
async fn an_area_has_one_user_at_a_time() {
    let (store, dir) = scratch();
    let first = fs(&store, dir.path());
    let second = FileSystem::new(Arc::new(store.clone()), settings(dir.path()), Handle::current());
    let error = second.expect_err("in use");
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.message().contains("--staging-dir"), "{error}");
    drop(first);
    fs(&store, dir.path());
}

/// A crash at any step of an upload, and after the last.
#[tokio::test(start_paused = true)]
async fn a_crash_in_an_upload_loses_nothing() {
    use Operation::{Close, Create, Rename, Stat, Write};
    for operation in [None, Some(Create), Some(Write), Some(Close), Some(Stat), Some(Rename)] {
        let (store, dir) = scratch();
        store.put(&path("f"), "old").expect("put");
        let crashed = Arc::new(fs(&store, dir.path()));
        let (_, fh) = open(&crashed, "f", OpenFor::default()).await.expect("opened");
        write(&crashed, fh, 1, b"new").await.expect("written");
        let left = match operation {
            Some(operation) => {
                let fault = store.inject(Injection::new(Fault::Hang).on(operation));
                let fs = crashed.clone();
                let upload = tokio::spawn(async move { fs.fsync(fh).await });
                fault.reached(1).await;
                let left = copy(dir.path());
                upload.abort();
                let _ = upload.await;
                fault.release();
                left
            }
            None => {
                let left = copy(dir.path());
                crashed.fsync(fh).await.expect("sent, and the record is still there");
                left
            }
        };
        drop(crashed);
        let fs = fs(&store, left.path());
        assert_eq!(fs.recover().await.expect("read"), Recovered { sent: 1, waiting: 0 });
        assert_eq!(stored(&store, "f").await.expect("there"), "onew");
        assert_eq!(content(&fs, "f").await.expect("there"), "onew");
        assert_eq!(names(&store).await, ["f"], "{operation:?}");
        assert_eq!(staged(left.path()), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_left_over_whose_place_was_taken_is_kept_beside() {
    for theirs in [Some("theirs"), None] {
        let (store, dir) = scratch();
        store.put(&path("f"), "old").expect("put");
        let crashed = fs(&store, dir.path());
        let (_, fh) = open(&crashed, "f", TRUNCATE).await.expect("opened");
        write(&crashed, fh, 0, b"ours").await.expect("written");
        let left = copy(dir.path());
        drop(crashed);
        match theirs {
            Some(bytes) => drop(store.put(&path("f"), bytes).expect("put")),
            None => store.delete(&path("f"), false).await.expect("deleted"),
        }
        // Refused at first: it stays where it is.
        let fault =
            store.inject(Injection::new(Fault::Fail(ErrorKind::PermissionDenied)).on(Operation::Rename));
        let refused = fs(&store, left.path());
        assert_eq!(refused.recover().await.expect("read"), Recovered { sent: 0, waiting: 1 });
        assert_eq!(staged(left.path()).len(), 2);
        drop(refused);
        fault.release();
        let fs = fs(&store, left.path());
        assert_eq!(fs.recover().await.expect("read"), Recovered { sent: 1, waiting: 0 });
        assert_eq!(content(&fs, "f").await, theirs.map(Bytes::from));
        let kept: Vec<String> = names(&store).await.into_iter().filter(|name| name != "f").collect();
        assert!(kept.len() == 1 && kept[0].contains(".springhouse-recovered-"), "{kept:?}");
        assert_eq!(stored(&store, &kept[0]).await.expect("kept"), "ours");
        assert_eq!(staged(left.path()), Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_belongs_elsewhere_or_cannot_be_read_is_left_alone() {
    let (store, dir) = scratch();
    let crashed = fs(&store, dir.path());
    let (_, fh) = open(&crashed, "f", OpenFor::default()).await.expect("opened");
    write(&crashed, fh, 0, b"ours").await.expect("written");
    let left = copy(dir.path());
    drop(crashed);
    let record = staged(left.path()).into_iter().find(|name| name.ends_with(".json")).expect("a record");
    let record = left.path().join(record);
    let text = disk::read_to_string(&record).expect("text");
    for damaged in [text.replace("file:///memory", "hdfs://elsewhere/"), text[..text.len() / 2].to_owned()] {
        disk::write(&record, damaged).expect("written");
        let fs = fs(&store, left.path());
        assert_eq!(fs.recover().await.expect("read").sent, 0);
        drop(fs);
        assert_eq!(staged(left.path()).len(), 2);
    }
    disk::write(&record, text).expect("written");
    // Without a record no byte was promised to anybody.
    disk::write(left.path().join("00.data"), "x").expect("written");
    assert_eq!(fs(&store, left.path()).recover().await.expect("read"), Recovered { sent: 1, waiting: 0 });
    assert_eq!(stored(&store, "f").await.expect("there"), "ours");
    assert_eq!(staged(left.path()), Vec::<String>::new());
}
