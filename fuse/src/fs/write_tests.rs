//! Changes through the file system, on a store in memory.

use std::sync::Arc;

use super::*;
use crate::store::{
    Operation,
    memory::{Fault, Injection, MemoryStore},
};

fn path(text: &str) -> StorePath {
    StorePath::parse(text).expect("a valid path")
}

fn me() -> Caller {
    Caller::own()
}

fn fs(store: &MemoryStore) -> FileSystem {
    FileSystem::new(Arc::new(store.clone()), FsSettings::default(), Handle::current()).expect("settings")
}

fn kind<T: std::fmt::Debug>(outcome: Result<T>) -> ErrorKind {
    outcome.expect_err("an error").kind()
}

async fn ino(fs: &FileSystem, name: &str) -> Option<u64> {
    fs.lookup(me(), ROOT, name).await.expect("looked up").attr.map(|attr| attr.ino)
}

/// Opens as the kernel does: once more, by a new lookup, after `Stale`.
async fn open_to_write(fs: &FileSystem, name: &str, wanted: OpenFor) -> Result<Opened> {
    let number = ino(fs, name).await.expect("there");
    match fs.open_for_writing(me(), number, wanted).await {
        Err(error) if error.kind() == ErrorKind::Stale => {
            let again = ino(fs, name).await.expect("there");
            assert_ne!(again, number, "a writer has a number of its own");
            fs.open_for_writing(me(), again, wanted).await
        }
        outcome => outcome,
    }
}

async fn create(fs: &FileSystem, name: &str) -> Created {
    fs.create(me(), ROOT, name, 0o644, OpenFor::default()).await.expect("created")
}

async fn put(fs: &FileSystem, name: &str, bytes: &'static [u8]) -> u64 {
    let created = create(fs, name).await;
    fs.write(created.opened.fh, 0, Bytes::from_static(bytes), false).await.expect("written");
    fs.flush(created.opened.fh).await.expect("closed");
    fs.release(created.opened.fh).await;
    created.attr.ino
}

async fn content(fs: &FileSystem, name: &str) -> Bytes {
    let number = ino(fs, name).await.expect("there");
    let fh = fs.open(me(), number).await.expect("opened").fh;
    let bytes = fs.read(fh, 0, 1 << 20).await.expect("read");
    fs.release(fh).await;
    bytes
}

#[tokio::test]
async fn a_new_file_keeps_its_number_and_is_read_back() {
    let store = MemoryStore::new();
    let fs = fs(&store);
    let number = put(&fs, "f", b"hello").await;
    assert_eq!(ino(&fs, "f").await, Some(number));
    let (attr, _) = fs.getattr(me(), number).await.expect("known");
    assert_eq!((attr.len, attr.nlink), (5, 1));
    let first = fs.open(me(), number).await.expect("opened");
    assert!(!first.keep_pages, "what the kernel kept while it was written is dropped once");
    assert!(fs.open(me(), number).await.expect("opened").keep_pages);
    assert_eq!(content(&fs, "f").await, "hello");
    assert_eq!(fs.snapshot().files_written, 0);
}

#[tokio::test]
async fn writers_and_readers_never_share_a_number() {
    let store = MemoryStore::new();
    let fs = fs(&store);
    let old = put(&fs, "f", b"old old").await;
    let reader = fs.open(me(), old).await.expect("opened").fh;
    assert_eq!(fs.read(reader, 0, 3).await.expect("read"), "old");
    let writer = open_to_write(&fs, "f", OpenFor { truncate: true, ..OpenFor::default() }).await;
    let writer = writer.expect("opened").fh;
    fs.write(writer, 0, Bytes::from_static(b"new"), false).await.expect("written");
    fs.flush(writer).await.expect("closed");
    fs.release(writer).await;
    assert_eq!(content(&fs, "f").await, "new");
    match fs.read(reader, 0, 7).await {
        Ok(bytes) => assert_eq!(bytes, "old old"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Stale),
    }
}

#[tokio::test]
async fn an_editor_finds_that_it_writes_the_file_that_it_read() {
    let store = MemoryStore::new();
    let fs = fs(&store);
    let read = put(&fs, "f", b"old").await;
    let read = fs.getattr(me(), read).await.expect("known").0.ino;
    let writer = open_to_write(&fs, "f", OpenFor::default()).await.expect("opened").fh;
    let live = ino(&fs, "f").await.expect("there");
    assert_ne!(live, read, "pages are not shared");
    assert_eq!(fs.getattr(me(), live).await.expect("known").0.ino, read, "what fstat shows");
    fs.release(writer).await;
}

#[tokio::test]
async fn who_may_not_write_is_told_when_he_opens_or_cuts() {
    let store = MemoryStore::new();
    let fs = fs(&store);
    let number = put(&fs, "f", b"kept").await;
    let fault = Injection::new(Fault::Fail(ErrorKind::PermissionDenied));
    store.inject(fault.on(Operation::SetAttributes));
    for truncate in [false, true] {
        let wanted = OpenFor { truncate, ..OpenFor::default() };
        assert_eq!(kind(open_to_write(&fs, "f", wanted).await), ErrorKind::PermissionDenied);
    }
    let cut = SetAttr { len: Some(2), ..SetAttr::default() };
    assert_eq!(kind(fs.setattr(me(), number, cut).await), ErrorKind::PermissionDenied);
    assert_eq!(content(&fs, "f").await, "kept");
    // Whoever makes a file may write to it, and cut it, by the descriptor that he got; nobody else may
    // open it meanwhile.
    let made = create(&fs, "new").await;
    fs.write(made.opened.fh, 0, Bytes::from_static(b"abc"), false).await.expect("written");
    assert_eq!(kind(open_to_write(&fs, "new", OpenFor::default()).await), ErrorKind::PermissionDenied);
    let other = fs.create(me(), ROOT, "new", 0o644, OpenFor::default()).await;
    assert_eq!(kind(other), ErrorKind::PermissionDenied);
    let cut = SetAttr { len: Some(0), through_handle: true, ..SetAttr::default() };
    fs.setattr(me(), made.attr.ino, cut).await.expect("cut");
    fs.release(made.opened.fh).await;
    assert_eq!(content(&fs, "new").await, "");
}

#[tokio::test]
async fn a_descriptor_closed_before_the_program_writes_ends_nothing() {
    let store = MemoryStore::new();
    let fs = fs(&store);
    let fh = create(&fs, "f").await.opened.fh;
    fs.flush(fh).await.expect("a copy is closed");
    fs.write(fh, 0, Bytes::from_static(b"one"), false).await.expect("written");
    fs.flush(fh).await.expect("a child ended");
    fs.write(fh, 3, Bytes::from_static(b" two"), false).await.expect("another goes on");
    fs.flush(fh).await.expect("closed");
    fs.release(fh).await;
    assert_eq!(content(&fs, "f").await, "one two");
}

#[tokio::test]
async fn a_random_write_is_refused_and_costs_nothing() {
    let store = MemoryStore::new();
    let fs = fs(&store);
    let fh = create(&fs, "f").await.opened.fh;
    fs.write(fh, 0, Bytes::from_static(b"abc"), false).await.expect("written");
    assert_eq!(kind(fs.write(fh, 1, Bytes::from_static(b"x"), false).await), ErrorKind::Unsupported);
    fs.write(fh, 3, Bytes::from_static(b"def"), false).await.expect("in order again");
    fs.flush(fh).await.expect("closed");
    fs.release(fh).await;
    assert_eq!(content(&fs, "f").await, "abcdef");
}

#[tokio::test]
async fn parts_of_one_direct_write_may_come_in_any_order() {
    let store = MemoryStore::new();
    let fs = fs(&store);
    let fh = create(&fs, "f").await.opened.fh;
    let (second, first) = tokio::join!(
        fs.write(fh, 3, Bytes::from_static(b"def"), true),
        fs.write(fh, 0, Bytes::from_static(b"abc"), true),
    );
    first.and(second).expect("both written");
    fs.release(fh).await;
    assert_eq!(content(&fs, "f").await, "abcdef");
}

#[tokio::test]
async fn appending_goes_on_at_the_end() {
    let store = MemoryStore::new();
    let fs = fs(&store);
    put(&fs, "f", b"one").await;
    let append = OpenFor { append: true, ..OpenFor::default() };
    let fh = open_to_write(&fs, "f", append).await.expect("opened").fh;
    fs.write(fh, 0, Bytes::from_static(b" two"), false).await.expect("written");
    fs.flush(fh).await.expect("closed");
    fs.release(fh).await;
    assert_eq!(content(&fs, "f").await, "one two");
}

#[tokio::test]
async fn a_failed_write_is_told_at_close_and_the_file_is_not_believed() {
    let store = MemoryStore::new();
    let fs = fs(&store);
    let created = create(&fs, "f").await;
    store.inject(Injection::new(Fault::Fail(ErrorKind::NoSpace)).on(Operation::Write));
    fs.write(created.opened.fh, 0, Bytes::from_static(b"lost"), false).await.expect("queued");
    assert_eq!(kind(fs.flush(created.opened.fh).await), ErrorKind::NoSpace);
    assert_eq!(kind(fs.fsync(created.opened.fh).await), ErrorKind::NoSpace);
    fs.release(created.opened.fh).await;
    assert_eq!(kind(fs.getattr(me(), created.attr.ino).await), ErrorKind::Stale);
    assert_eq!(content(&fs, "f").await, "", "what the store has");
}

#[tokio::test]
async fn a_renamed_file_keeps_its_number_also_below_a_renamed_directory() {
    let store = MemoryStore::new();
    let fs = fs(&store);
    store.put(&path("/d/f"), "bytes").expect("put");
    let dir = ino(&fs, "d").await.expect("there");
    let file = fs.lookup(me(), dir, "f").await.expect("looked up").attr.expect("there").ino;
    let reader = fs.open(me(), file).await.expect("opened").fh;
    fs.rename(me(), (ROOT, "d"), (ROOT, "e"), RenameMode::Replace).await.expect("renamed");
    assert_eq!((ino(&fs, "d").await, ino(&fs, "e").await), (None, Some(dir)));
    assert_eq!(fs.lookup(me(), dir, "f").await.expect("looked up").attr.expect("there").ino, file);
    assert_eq!(fs.read(reader, 0, 9).await.expect("read"), "bytes");
    fs.rename(me(), (dir, "f"), (ROOT, "g"), RenameMode::Replace).await.expect("renamed");
    assert_eq!(ino(&fs, "g").await, Some(file));
    assert_eq!(content(&fs, "g").await, "bytes");
}

#[tokio::test]
async fn a_file_is_renamed_over_another_while_it_is_written() {
    let store = MemoryStore::new();
    let fs = fs(&store);
    put(&fs, "target", b"old").await;
    let fh = create(&fs, "temp").await.opened.fh;
    fs.write(fh, 0, Bytes::from_static(b"new "), false).await.expect("written");
    fs.rename(me(), (ROOT, "temp"), (ROOT, "target"), RenameMode::Replace).await.expect("renamed");
    fs.write(fh, 4, Bytes::from_static(b"bytes"), false).await.expect("written");
    fs.flush(fh).await.expect("closed");
    fs.release(fh).await;
    assert_eq!(content(&fs, "target").await, "new bytes");
    assert_eq!(ino(&fs, "temp").await, None);
    let keep = RenameMode::KeepExisting;
    put(&fs, "other", b"x").await;
    let outcome = fs.rename(me(), (ROOT, "other"), (ROOT, "target"), keep).await;
    assert_eq!(kind(outcome), ErrorKind::AlreadyExists);
}

#[tokio::test]
async fn a_deleted_file_fails_its_writer_clearly() {
    let store = MemoryStore::new();
    let fs = fs(&store);
    let created = create(&fs, "f").await;
    fs.write(created.opened.fh, 0, Bytes::from_static(b"x"), false).await.expect("written");
    fs.unlink(me(), ROOT, "f").await.expect("deleted");
    assert_eq!(ino(&fs, "f").await, None);
    assert_eq!(fs.getattr(me(), created.attr.ino).await.expect("open").0.nlink, 0);
    assert_eq!(kind(fs.flush(created.opened.fh).await), ErrorKind::Stale);
    fs.release(created.opened.fh).await;
    assert_eq!(fs.snapshot().files_written, 0);
    assert_ne!(create(&fs, "f").await.attr.ino, created.attr.ino);
}

#[tokio::test]
async fn times_set_before_the_close_survive_it() {
    let store = MemoryStore::new();
    let fs = fs(&store);
    let created = create(&fs, "f").await;
    fs.write(created.opened.fh, 0, Bytes::from_static(b"x"), false).await.expect("written");
    let time = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let set = SetAttr { mtime: Some(SetTime::At(time)), ..SetAttr::default() };
    fs.setattr(me(), created.attr.ino, set).await.expect("set");
    fs.flush(created.opened.fh).await.expect("closed");
    fs.release(created.opened.fh).await;
    assert_eq!(fs.getattr(me(), created.attr.ino).await.expect("known").0.mtime, time);
    let chmod = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    let (attr, _) = fs.setattr(me(), created.attr.ino, chmod).await.expect("set");
    assert_eq!((attr.mode, attr.mtime), (0o600, time));
}

#[tokio::test]
async fn wrong_changes_are_refused() {
    let store = MemoryStore::new();
    let mount = fs(&store);
    put(&mount, "f", b"x").await;
    assert!(mount.mkdir(me(), ROOT, "d", 0o755).await.expect("made").attr.is_some());
    assert_eq!(kind(mount.mkdir(me(), ROOT, "d", 0o755).await), ErrorKind::AlreadyExists);
    assert_eq!(kind(mount.unlink(me(), ROOT, "d").await), ErrorKind::IsADirectory);
    assert_eq!(kind(mount.rmdir(me(), ROOT, "f").await), ErrorKind::NotADirectory);
    let exclusive = OpenFor { exclusive: true, ..OpenFor::default() };
    assert_eq!(kind(mount.create(me(), ROOT, "f", 0, exclusive).await), ErrorKind::AlreadyExists);
    mount.rmdir(me(), ROOT, "d").await.expect("removed");
    let writes = WriteSettings { read_only: true, ..WriteSettings::default() };
    let settings = FsSettings { writes, ..FsSettings::default() };
    let read_only = FileSystem::new(Arc::new(store), settings, Handle::current()).expect("settings");
    assert_eq!(kind(read_only.create(me(), ROOT, "g", 0, exclusive).await), ErrorKind::ReadOnly);
    assert_eq!(kind(read_only.unlink(me(), ROOT, "f").await), ErrorKind::ReadOnly);
}

#[tokio::test]
async fn truncate_by_name() {
    let store = MemoryStore::new();
    let fs = fs(&store);
    put(&fs, "f", b"abcdef").await;
    for (len, expected) in [(6, "abcdef"), (3, "abc"), (0, "")] {
        let set = SetAttr { len: Some(len), ..SetAttr::default() };
        let number = ino(&fs, "f").await.expect("there");
        if fs.setattr(me(), number, set).await.is_err_and(|e| e.kind() == ErrorKind::Stale) {
            let number = ino(&fs, "f").await.expect("there");
            assert_eq!(fs.setattr(me(), number, set).await.expect("cut").0.len, len);
        }
        assert_eq!(content(&fs, "f").await, expected);
    }
}

#[tokio::test]
async fn a_program_started_meanwhile_does_not_finish_the_file() {
    let store = MemoryStore::new();
    let fs = fs(&store);
    let (writer, started) = (1, 2);
    let fh = create(&fs, "f").await.opened.fh;
    fs.written_by(fh, writer);
    fs.write(fh, 0, Bytes::from_static(b"one"), false).await.expect("written");
    fs.flush_by(fh, started).await.expect("a copy is closed");
    fs.write(fh, 3, Bytes::from_static(b" two"), false).await.expect("written");
    assert_eq!(store.calls(Operation::Append), 0, "the same writer goes on");
    fs.flush_by(fh, writer).await.expect("closed");
    fs.release(fh).await;
    assert_eq!(content(&fs, "f").await, "one two");
}

/// As little memory as is allowed, so that there is little room for what is on its way.
fn small(store: &MemoryStore) -> FileSystem {
    let settings = FsSettings { memory_bytes: 128 << 20, ..FsSettings::default() };
    FileSystem::new(Arc::new(store.clone()), settings, Handle::current()).expect("settings")
}

#[tokio::test]
async fn many_small_writes_need_no_more_room_than_their_bytes() {
    let store = MemoryStore::new();
    let fs = small(&store);
    let room = fs.division().dirty_bytes;
    let fh = create(&fs, "f").await.opened.fh;
    // More writes than the room has KiB, all in one chunk.
    let writes = (room >> 10) + 1_000;
    for n in 0..writes {
        fs.write(fh, n, Bytes::from_static(b"x"), false).await.expect("written");
    }
    assert!(fs.snapshot().bytes_on_their_way <= writes + 1024);
    fs.flush(fh).await.expect("closed");
    fs.release(fh).await;
    assert_eq!(store.stat(&path("/f")).await.expect("there").len, writes);
    assert_eq!(fs.snapshot().bytes_on_their_way, 0);
}

#[tokio::test(start_paused = true)]
async fn idle_writers_leave_the_room_to_those_at_work() {
    let store = MemoryStore::new();
    let fs = small(&store);
    let room = fs.division().dirty_bytes;
    let each = Bytes::from(vec![7; 200 << 10]);
    let mut idle = Vec::new();
    // Together they want more than there is; none of them is closed or synced.
    for n in 0..100 {
        let fh = create(&fs, &format!("idle{n}")).await.opened.fh;
        fs.write(fh, 0, each.clone(), false).await.expect("written");
        idle.push(fh);
    }
    assert!(100 * each.len() as u64 > room);
    let busy = create(&fs, "busy").await.opened.fh;
    for n in 0..100 {
        fs.write(busy, n * each.len() as u64, each.clone(), false).await.expect("written");
    }
    for (n, fh) in idle.into_iter().enumerate() {
        fs.flush(fh).await.expect("closed");
        assert_eq!(store.stat(&path(&format!("/idle{n}"))).await.expect("there").len, 200 << 10);
    }
    fs.flush(busy).await.expect("closed");
    assert_eq!(store.stat(&path("/busy")).await.expect("there").len, 100 * (200 << 10));
}

#[tokio::test]
async fn what_failed_leaves_its_room_to_others() {
    let store = MemoryStore::new();
    let fs = small(&store);
    let failing = create(&fs, "failing").await.opened.fh;
    store.inject(Injection::new(Fault::Fail(ErrorKind::NoSpace)).on(Operation::Write).at(&path("/failing")));
    let large = Bytes::from(vec![1; 1 << 20]);
    let mut offset = 0;
    let failure = loop {
        match fs.write(failing, offset, large.clone(), false).await {
            Ok(()) => offset += large.len() as u64,
            Err(error) => break error.kind(),
        }
    };
    assert_eq!(failure, ErrorKind::NoSpace);
    assert_eq!(kind(fs.write(failing, offset, large.clone(), false).await), ErrorKind::NoSpace, "for ever");
    assert_eq!(fs.snapshot().bytes_on_their_way, 0);
    assert_eq!(kind(fs.flush(failing).await), ErrorKind::NoSpace);
}

#[tokio::test]
async fn an_unknown_owner_can_be_given_to_nobody() {
    let store = MemoryStore::new();
    let fs = fs(&store);
    let number = put(&fs, "f", b"x").await;
    // The store's own names are shown as nobody, and are not.
    let (attr, _) = fs.getattr(me(), number).await.expect("known");
    assert_eq!((attr.uid, attr.gid), (NOBODY, NOBODY));
    let set = SetAttr { uid: Some(NOBODY), gid: Some(NOBODY), ..SetAttr::default() };
    fs.setattr(me(), number, set).await.expect("given");
    let found = store.stat(&path("/f")).await.expect("there");
    assert_eq!((found.owner.as_str(), found.group.as_str()), ("nobody", "nogroup"));
}
