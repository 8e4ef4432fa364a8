use std::{
    ffi::OsString,
    fs,
    os::unix::{ffi::OsStringExt, fs::symlink},
    sync::Arc,
};

use futures::TryStreamExt;
use proptest::prelude::*;

use super::*;
use crate::store::{
    StoreOptions,
    contract::{Operation, check_operations, check_store, content},
    decorate,
};

fn path(text: &str) -> StorePath {
    StorePath::parse(text).expect("a valid path")
}

fn store() -> (tempfile::TempDir, LocalStore) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = LocalStore::new(dir.path().to_owned());
    (dir, store)
}

#[tokio::test]
async fn keeps_the_contract() {
    let (_dir, store) = store();
    check_store(&store, &path("/t")).await;
    let decorated = decorate(Arc::new(store), &StoreOptions::default()).expect("decorate");
    check_store(&*decorated.store, &path("/t")).await;
    assert_eq!(decorated.counters.running(), 0, "every call that started has ended");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn does_what_the_model_does(bits in proptest::collection::vec(any::<u64>(), 1..60)) {
        let operations: Vec<_> = bits.into_iter().map(Operation::from_bits).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (_dir, store) = store();
        runtime.block_on(check_operations(&store, &path("/t"), &operations));
    }
}

#[tokio::test]
async fn no_link_leads_out_of_the_root() {
    let outside = tempfile::tempdir().expect("a temporary directory");
    fs::write(outside.path().join("secret"), "secret").expect("write");
    let (dir, store) = store();
    fs::write(dir.path().join("f"), "f").expect("write");
    symlink(outside.path(), dir.path().join("out")).expect("link");
    symlink(outside.path().join("secret"), dir.path().join("file")).expect("link");
    symlink("f", dir.path().join("inside")).expect("link");
    nix::unistd::mkfifo(&dir.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let listed: Vec<_> = store.list(&StorePath::root()).try_collect().await.expect("list");
    assert_eq!(listed.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["f"]);
    for link in ["/out", "/out/secret", "/file", "/inside", "/pipe"] {
        let error = store.stat(&path(link)).await.expect_err(link);
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let error = store.open(&path(link), None).await.expect_err(link);
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let error = store.delete(&path(link), true).await.expect_err(link);
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    let over = CreateOptions { overwrite: true, create_parents: true, ..CreateOptions::default() };
    assert!(store.create(&path("/out/secret"), over).await.is_err());
    assert!(store.create_dir(&path("/out/d")).await.is_err());
    assert!(store.rename(&path("/f"), &path("/out/f"), true).await.is_err());
    store.create(&path("/file"), over).await.expect("replaces the link").close().await.expect("close");
    assert_eq!(fs::read_to_string(outside.path().join("secret")).expect("read"), "secret");
    assert_eq!(fs::read_dir(outside.path()).expect("list").count(), 1, "nothing was made outside");
}

#[tokio::test]
async fn deleting_a_tree_spares_what_its_links_point_to() {
    let outside = tempfile::tempdir().expect("a temporary directory");
    fs::write(outside.path().join("kept"), "kept").expect("write");
    let (dir, store) = store();
    fs::create_dir_all(dir.path().join("d/e/f/g")).expect("mkdir");
    fs::write(dir.path().join("d/e/f/g/x"), "x").expect("write");
    symlink(outside.path(), dir.path().join("d/e/link")).expect("link");
    store.delete(&path("/d"), true).await.expect("delete");
    assert!(!dir.path().join("d").exists());
    assert!(outside.path().join("kept").exists());
}

#[tokio::test]
async fn a_replaced_file_goes_on_giving_its_bytes() {
    let (dir, store) = store();
    let (old, new) = (content(1, 10_000), content(2, 10_000));
    fs::write(dir.path().join("f"), &old).expect("write");
    let reader = store.open(&path("/f"), None).await.expect("open");
    fs::write(dir.path().join("g"), &new).expect("write");
    fs::rename(dir.path().join("g"), dir.path().join("f")).expect("rename");
    assert_eq!(reader.read_at(0, 10_000).await.expect("read"), old);
    fs::remove_file(dir.path().join("f")).expect("remove");
    assert_eq!(reader.read_at(5_000, 10).await.expect("read"), old[5_000..5_010]);
}

#[tokio::test]
async fn a_file_changed_in_place_is_stale() {
    let (dir, store) = store();
    let file = dir.path().join("f");
    let change: [&dyn Fn(); 3] = [
        &|| fs::write(&file, content(2, 10_000)).expect("write"),
        &|| fs::File::options().write(true).open(&file).and_then(|f| f.set_len(100)).expect("cut"),
        &|| fs::File::options().write(true).open(&file).and_then(|f| f.set_len(90_000)).expect("grow"),
    ];
    for change in change {
        fs::write(&file, content(1, 10_000)).expect("write");
        // So that the change below surely gets another time, whatever the kernel's clock tick.
        fs::File::options()
            .write(true)
            .open(&file)
            .and_then(|f| f.set_modified(std::time::UNIX_EPOCH))
            .expect("age");
        let reader = store.open(&path("/f"), None).await.expect("open");
        assert_eq!(reader.read_at(0, 10_000).await.expect("read"), content(1, 10_000));
        change();
        let error = reader.read_at(0, 10_000).await.expect_err("the bytes have changed");
        assert_eq!(error.kind(), ErrorKind::Stale, "{error}");
    }
}

#[tokio::test]
async fn setting_the_time_back_hides_no_change() {
    let (dir, store) = store();
    let file = dir.path().join("f");
    fs::write(&file, content(1, 10_000)).expect("write");
    let written = fs::metadata(&file).expect("stat").modified().expect("mtime");
    let reader = store.open(&path("/f"), None).await.expect("open");
    // As rsync --inplace --times does it.
    let handle = fs::File::options().write(true).open(&file).expect("open");
    std::os::unix::fs::FileExt::write_all_at(&handle, &content(2, 5_000), 0).expect("write");
    handle.set_modified(written).expect("set the time back");
    for _ in 0..2 {
        let error = reader.read_at(0, 10_000).await.expect_err("the bytes have changed");
        assert_eq!(error.kind(), ErrorKind::Stale, "{error}");
    }
}

#[tokio::test]
async fn what_leaves_the_bytes_alone_leaves_the_reader_alone() {
    let (dir, store) = store();
    let file = dir.path().join("f");
    fs::write(&file, "bytes").expect("write");
    let reader = store.open(&path("/f"), None).await.expect("open");
    let harmless: [&dyn Fn(); 4] = [
        &|| fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("chmod"),
        &|| fs::hard_link(&file, dir.path().join("backup")).expect("link"),
        &|| fs::remove_file(dir.path().join("backup")).expect("unlink"),
        &|| fs::remove_file(&file).expect("unlink"),
    ];
    for harmless in harmless {
        std::thread::sleep(std::time::Duration::from_millis(20));
        harmless();
        assert_eq!(reader.read_at(0, 10).await.expect("read"), "bytes");
    }
}

#[tokio::test]
async fn a_file_opened_at_once_after_a_write_tells_of_the_next_write() {
    let (dir, store) = store();
    let file = dir.path().join("f");
    for round in 0..20u64 {
        fs::write(&file, content(round, 1_000)).expect("write");
        let reader = store.open(&path("/f"), None).await.expect("open");
        fs::write(&file, content(100 + round, 1_000)).expect("write");
        let outcome = reader.read_at(0, 1_000).await.map_err(|e| e.kind());
        assert_eq!(outcome, Err(ErrorKind::Stale), "round {round}");
    }
}

#[tokio::test]
async fn many_entries_come_in_pieces_and_each_once() {
    let (dir, store) = store();
    for i in 0..3_000 {
        fs::write(dir.path().join(format!("f{i}")), "").expect("write");
        if i % 10 == 0 {
            symlink("nowhere", dir.path().join(format!("l{i}"))).expect("link");
        }
    }
    let root = StorePath::root();
    let mut names = std::collections::HashSet::new();
    let mut listing = store.list(&root);
    while let Some(entry) = listing.try_next().await.expect("list") {
        assert!(names.insert(entry.name.clone()), "{} twice", entry.name);
        // What goes while it is listed is told or not, and is no failure.
        let _ = fs::remove_file(dir.path().join(entry.name));
    }
    assert_eq!(names.len(), 3_000);
}

#[tokio::test]
async fn a_full_disk_is_told_as_one() {
    // Every write to it says that the disk is full.
    let file = fs::File::options().write(true).open("/dev/full").expect("open");
    let dir = Arc::new(fs::File::open("/dev").expect("open").into());
    let mut writer = LocalWriter { dir, path: path("/f"), file: Arc::new(file), offset: 0 };
    let error = writer.write(content(1, 10)).await.expect_err("full");
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    // Which length is too large depends on the disk: tmpfs and XFS take every one.
    let longer_than_the_disk_takes = std::io::Error::from_raw_os_error(libc::EFBIG);
    assert_eq!(Error::from_io(&longer_than_the_disk_takes, "f").kind(), ErrorKind::NoSpace);
}

#[tokio::test]
async fn a_root_reached_through_a_link_is_a_root() {
    let (dir, _) = store();
    fs::create_dir(dir.path().join("real")).expect("mkdir");
    symlink("real", dir.path().join("link")).expect("link");
    let store = LocalStore::new(dir.path().join("link"));
    check_store(&store, &path("/t")).await;
}

#[tokio::test]
async fn workers_see_the_same_generation() {
    let (dir, store) = store();
    fs::write(dir.path().join("f"), "x").expect("write");
    let theirs = generation_of(&fs::metadata(dir.path().join("f")).expect("stat"));
    assert_eq!(store.stat(&path("/f")).await.expect("stat").generation, theirs);
}

#[tokio::test]
async fn names_that_are_not_utf8_are_left_out() {
    let (dir, store) = store();
    fs::write(dir.path().join(OsString::from_vec(b"bad\xff".to_vec())), "").expect("write");
    fs::write(dir.path().join("good"), "").expect("write");
    let listed: Vec<_> = store.list(&StorePath::root()).try_collect().await.expect("list");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].name, "good");
}

#[tokio::test]
async fn a_missing_root_is_told_with_its_remedy() {
    let (dir, _) = store();
    let store = LocalStore::new(dir.path().join("none"));
    let opened = decorate(Arc::new(store), &StoreOptions::default()).expect("decorate");
    let error = opened.check_root().await.expect_err("there is none");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.message().ends_with("there is no such directory; create it, or correct the URL"),
        "{error}"
    );
    fs::write(dir.path().join("none"), "").expect("write");
    let error = opened.check_root().await.expect_err("it is a file");
    assert_eq!(error.kind(), ErrorKind::NotADirectory, "{error}");
}

/// Closing makes the name durable where it is, not where it was.
#[tokio::test]
async fn a_directory_may_move_while_a_file_in_it_is_written() {
    let (_dir, store) = store();
    store.make_dir(&path("/d"), None).await.expect("made");
    let writer = store.create(&path("/d/new"), CreateOptions::default()).await.expect("made");
    store.rename(&path("/d"), &path("/e"), false).await.expect("moved");
    writer.close().await.expect("closed");
    let (mut writer, _) = store.append(&path("/e/new")).await.expect("opened");
    writer.write("more".into()).await.expect("written");
    store.rename(&path("/e"), &path("/f"), false).await.expect("moved");
    // Its old place is of another kind now.
    store.create(&path("/e"), CreateOptions::default()).await.expect("made").close().await.expect("closed");
    writer.close().await.expect("closed");
    assert_eq!(store.stat(&path("/f/new")).await.expect("there").len, 4);
    // A directory that is gone has no names to keep.
    let writer = store.create(&path("/f/last"), CreateOptions::default()).await.expect("made");
    store.delete(&path("/f"), true).await.expect("deleted");
    writer.close().await.expect("closed");
}
