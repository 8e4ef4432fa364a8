//! Files whose generation does not tell them apart: of one length and one time in ms, as in HDFS. What this
//! mount changes it must never answer from what it remembers of the bytes before.

use std::time::{SystemTime, UNIX_EPOCH};

use super::*;
use crate::store::memory::MemoryStore;

fn me() -> Caller {
    Caller::own()
}

/// The one time that all writes have.
fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000)
}

fn fs() -> FileSystem {
    let store = Arc::new(MemoryStore::at(noon()));
    FileSystem::new(store, FsSettings::default(), Handle::current()).expect("settings")
}

async fn ino(fs: &FileSystem, name: &str) -> u64 {
    fs.lookup(me(), ROOT, name).await.expect("looked up").attr.expect("there").ino
}

async fn make(fs: &FileSystem, name: &str, bytes: &'static [u8]) {
    let made = fs.create(me(), ROOT, name, 0o644, OpenFor::default()).await.expect("made");
    finish(fs, made.opened.fh, bytes).await;
}

async fn finish(fs: &FileSystem, fh: u64, bytes: &'static [u8]) {
    fs.write(fh, 0, Bytes::from_static(bytes), false).await.expect("written");
    fs.flush(fh).await.expect("closed");
    fs.release(fh).await;
}

async fn overwrite(fs: &FileSystem, name: &str, bytes: &'static [u8]) {
    let wanted = OpenFor { truncate: true, ..OpenFor::default() };
    let opened = match fs.open_for_writing(me(), ino(fs, name).await, wanted).await {
        Err(error) if error.kind() == ErrorKind::Stale => {
            fs.open_for_writing(me(), ino(fs, name).await, wanted).await
        }
        outcome => outcome,
    };
    finish(fs, opened.expect("opened").fh, bytes).await;
}

async fn set_time(fs: &FileSystem, name: &str, time: SystemTime) {
    let set = SetAttr { mtime: Some(SetTime::At(time)), ..SetAttr::default() };
    fs.setattr(me(), ino(fs, name).await, set).await.expect("set");
}

/// Opens by name, as anybody does; with the number.
async fn read(fs: &FileSystem, name: &str) -> (Bytes, u64) {
    let number = ino(fs, name).await;
    let fh = fs.open(me(), number).await.expect("opened").fh;
    let bytes = fs.read(fh, 0, 1 << 20).await.expect("read");
    fs.release(fh).await;
    (bytes, number)
}

#[tokio::test]
async fn overwritten_within_the_same_millisecond() {
    let fs = fs();
    make(&fs, "f", b"aaaa").await;
    let (old, number) = read(&fs, "f").await;
    assert_eq!(old, "aaaa");
    // Somebody keeps it open, and with it the kernel its pages.
    let held = fs.open(me(), number).await.expect("opened").fh;
    overwrite(&fs, "f", b"bbbb").await;
    let now = ino(&fs, "f").await;
    assert_ne!(now, number, "the kernel has old pages under the old number");
    let first = fs.open(me(), now).await.expect("opened");
    assert!(!first.keep_pages, "those of the writer are dropped");
    fs.release(first.fh).await;
    assert_eq!(read(&fs, "f").await, ("bbbb".into(), now));
    // The kernel forgets the younger number, and looks the name up again.
    fs.forget(now, u64::MAX);
    let (bytes, again) = read(&fs, "f").await;
    assert_eq!(bytes, "bbbb");
    assert_ne!(again, number);
    fs.release(held).await;
}

#[tokio::test]
async fn its_time_set_back_to_that_of_older_bytes() {
    let fs = fs();
    let morning = noon() - Duration::from_secs(3600);
    make(&fs, "f", b"aaaa").await;
    set_time(&fs, "f", morning).await;
    let (old, number) = read(&fs, "f").await;
    assert_eq!(old, "aaaa");
    let held = fs.open(me(), number).await.expect("opened").fh;
    overwrite(&fs, "f", b"bbbb").await;
    assert_eq!(read(&fs, "f").await.0, "bbbb");
    set_time(&fs, "f", morning).await;
    let (bytes, now) = read(&fs, "f").await;
    assert_eq!(bytes, "bbbb");
    assert_ne!(now, number, "the kernel has old pages under the old number");
    fs.forget(now, u64::MAX);
    let (bytes, again) = read(&fs, "f").await;
    assert_eq!(bytes, "bbbb");
    assert_ne!(again, number);
    fs.release(held).await;
}

#[tokio::test]
async fn another_one_renamed_over_it() {
    let fs = fs();
    make(&fs, "f", b"aaaa").await;
    make(&fs, "g", b"bbbb").await;
    let (old, number) = read(&fs, "f").await;
    assert_eq!(old, "aaaa");
    let moved = read(&fs, "g").await.1;
    fs.rename(me(), (ROOT, "g"), (ROOT, "f"), RenameMode::Replace).await.expect("renamed");
    assert_eq!(read(&fs, "f").await, ("bbbb".into(), moved));
    fs.forget(moved, u64::MAX);
    let (bytes, again) = read(&fs, "f").await;
    assert_eq!(bytes, "bbbb");
    assert_ne!(again, number, "the kernel may hold that still");
    // A name that is free again, and was of other bytes.
    make(&fs, "g", b"cccc").await;
    assert_eq!(read(&fs, "g").await.0, "cccc");
}
