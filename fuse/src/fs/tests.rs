use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::store::{
    Generation, Operation,
    memory::{Fault, Injection, MemoryStore},
};

fn path(text: &str) -> StorePath {
    StorePath::parse(text).expect("a valid path")
}

fn data(seed: u8, len: usize) -> Bytes {
    (0..len).map(|i| (i.wrapping_mul(37) as u8).wrapping_add(seed)).collect()
}

fn settings() -> FsSettings {
    FsSettings { cache_bytes: 1 << 20, block_bytes: 4096, prefetch_bytes: 1 << 20, ..FsSettings::default() }
}

fn fs_with(store: &MemoryStore, settings: FsSettings) -> FileSystem {
    FileSystem::new(Arc::new(store.clone()), settings, Handle::current()).expect("good settings")
}

fn fs(store: &MemoryStore) -> FileSystem {
    fs_with(store, settings())
}

async fn ino(fs: &FileSystem, parent: u64, name: &str) -> u64 {
    fs.lookup(me(), parent, name).await.expect("looked up").attr.expect("there").ino
}

async fn after(time: Duration) {
    tokio::time::advance(time).await;
}

fn me() -> Caller {
    Caller::own()
}

fn kind<T: std::fmt::Debug>(outcome: Result<T>) -> ErrorKind {
    outcome.expect_err("an error").kind()
}

/// The kernel asks for attributes before a read that goes beyond the end of a file.
#[tokio::test(start_paused = true)]
async fn an_open_file_has_its_attributes_while_the_store_does_not_answer() {
    let store = MemoryStore::new();
    store.put(&path("f"), data(1, 10)).expect("put");
    let mount = fs(&store);
    let file = ino(&mount, ROOT, "f").await;
    let fh = mount.open(me(), file).await.expect("opened").fh;
    for kind_of in [ErrorKind::TimedOut, ErrorKind::Unavailable] {
        after(Duration::from_secs(2)).await;
        let outage = store.inject(Injection::new(Fault::Fail(kind_of)).on(Operation::Stat));
        let (attr, ttl) = mount.getattr(me(), file).await.expect("known");
        assert_eq!((attr.len, attr.nlink, ttl), (10, 1, Duration::ZERO));
        outage.release();
    }
    let denied = store.inject(Injection::new(Fault::Fail(ErrorKind::PermissionDenied)).on(Operation::Stat));
    assert_eq!(kind(mount.getattr(me(), file).await), ErrorKind::PermissionDenied, "an answer is an answer");
    denied.release();
    store.inject(Injection::new(Fault::Fail(ErrorKind::TimedOut)).on(Operation::Stat));
    mount.release(fh).await;
    after(Duration::from_secs(2)).await;
    assert_eq!(kind(mount.getattr(me(), file).await), ErrorKind::TimedOut, "nobody has it open");
}

#[tokio::test(start_paused = true)]
async fn numbers_follow_generations() {
    let store = MemoryStore::new();
    store.put(&path("/d/f"), data(1, 10)).expect("put");
    let mount = fs(&store);
    let dir = ino(&mount, ROOT, "d").await;
    let first = ino(&mount, dir, "f").await;
    assert_eq!(ino(&mount, dir, "f").await, first);
    mount.forget(first, 2);
    assert_eq!(kind(mount.getattr(me(), first).await), ErrorKind::Stale);
    assert_eq!(ino(&mount, dir, "f").await, first, "after the kernel forgot it");
    let remounted = fs(&store);
    let dir_again = ino(&remounted, ROOT, "d").await;
    assert_eq!((dir_again, ino(&remounted, dir_again, "f").await), (dir, first), "after a remount");

    store.put(&path("/d/f"), data(2, 10)).expect("replaced");
    after(Duration::from_millis(1100)).await;
    assert_ne!(ino(&mount, dir, "f").await, first);
    assert_eq!(ino(&mount, ROOT, "d").await, dir, "a directory stays itself");
}

#[tokio::test(start_paused = true)]
async fn answers_are_kept_for_the_freshness_and_no_longer() {
    let store = MemoryStore::new();
    store.put(&path("/f"), data(1, 10)).expect("put");
    let fs = fs(&store);
    let looked = fs.lookup(me(), ROOT, "f").await.expect("looked up");
    assert_eq!(looked.ttl, Duration::from_secs(1));
    assert_eq!(fs.lookup(me(), ROOT, "none").await.expect("looked up").attr, None);
    let asked = store.calls(Operation::Stat);
    after(Duration::from_millis(400)).await;
    assert_eq!(fs.lookup(me(), ROOT, "f").await.expect("looked up").ttl, Duration::from_millis(600));
    assert_eq!(fs.lookup(me(), ROOT, "none").await.expect("looked up").attr, None);
    assert_eq!(store.calls(Operation::Stat), asked);
    after(Duration::from_millis(600)).await;
    fs.lookup(me(), ROOT, "f").await.expect("looked up");
    fs.lookup(me(), ROOT, "none").await.expect("looked up");
    assert_eq!(store.calls(Operation::Stat), asked + 2);
}

#[tokio::test(start_paused = true)]
async fn open_of_a_replaced_file_is_stale_and_the_next_lookup_sees_the_new_one() {
    let store = MemoryStore::new();
    store.put(&path("/f"), data(1, 10)).expect("put");
    let fs = fs(&store);
    let old = ino(&fs, ROOT, "f").await;
    store.put(&path("/f"), data(2, 20)).expect("replaced");
    // The name is still fresh, so the kernel comes with the old number.
    assert_eq!(kind(fs.open(me(), old).await), ErrorKind::Stale);
    let new = ino(&fs, ROOT, "f").await;
    assert_ne!(new, old);
    let fh = fs.open(me(), new).await.expect("opened").fh;
    assert_eq!(fs.read(fh, 0, 100).await.expect("read"), data(2, 20));
}

#[tokio::test(start_paused = true)]
async fn an_open_file_is_one_generation_or_stale() {
    let store = MemoryStore::new();
    let old = data(1, 20_000);
    let generation = store.put(&path("/f"), old.clone()).expect("put");
    let fs = fs(&store);
    let number = ino(&fs, ROOT, "f").await;
    let fh = fs.open(me(), number).await.expect("opened").fh;
    assert_eq!(fs.read(fh, 0, 100).await.expect("read"), old[..100]);
    store.put(&path("/f"), data(2, 30_000)).expect("replaced");
    assert_eq!(fs.read(fh, 50, 100).await.expect("cached"), old[50..150]);
    assert_eq!(kind(fs.read(fh, 10_000, 100).await), ErrorKind::Stale);
    let value = fs.xattr(number, XATTR_GENERATION).expect("known").expect("a file has one");
    assert_eq!(String::from_utf8(value).expect("text"), generation.to_string());
    after(Duration::from_secs(2)).await;
    let (attr, _) = fs.getattr(me(), number).await.expect("still open");
    assert_eq!((attr.len, attr.nlink), (20_000, 0));
    fs.release(fh).await;
    assert_eq!(kind(fs.getattr(me(), number).await), ErrorKind::Stale);
}

#[tokio::test(start_paused = true)]
async fn an_open_asks_once_what_it_is_and_once_whether_it_still_is() {
    let store = MemoryStore::new();
    let asked = || [Operation::Stat, Operation::Open, Operation::Read].map(|of| store.calls(of));
    for name in ["plain", "a.sqlite"] {
        let before = asked();
        store.put(&path(&format!("/{name}")), data(1, 3000)).expect("put");
        let fs = fs(&store);
        let number = ino(&fs, ROOT, name).await;
        let fh = fs.open(me(), number).await.expect("opened").fh;
        assert_eq!(fs.read(fh, 0, 100).await.expect("read"), data(1, 100));
        let cost: Vec<_> = asked().iter().zip(before).map(|(now, before)| now - before).collect();
        // The memory store does not share the lookup's stat with an open on suspicion, HDFS does.
        let guessed = u64::from(name.ends_with("sqlite"));
        assert!(cost[0] <= 2 + guessed && cost[1..] == [1, 1], "{name}: {cost:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn replaced_between_stat_and_open_is_never_mixed() {
    for name in ["plain", "a.sqlite"] {
        let store = MemoryStore::new();
        store.put(&path(&format!("/{name}")), data(1, 3000)).expect("put");
        let fs = fs(&store);
        let number = ino(&fs, ROOT, name).await;
        let other: Bytes = data(2, 3000);
        store.inject(Injection::new(Fault::Replace(other.clone())).on(Operation::Open).times(1));
        match fs.open(me(), number).await {
            Ok(opened) => assert_eq!(fs.read(opened.fh, 0, 3000).await.expect("read"), data(1, 3000)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Stale),
        }
        let again = ino(&fs, ROOT, name).await;
        let fh = fs.open(me(), again).await.expect("opened").fh;
        assert_eq!(fs.read(fh, 0, 3000).await.expect("read"), other);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_cached_is_opened_again_without_the_store() {
    const FILES: usize = 600;
    let store = MemoryStore::new();
    for n in 0..FILES {
        store.put(&path(&format!("/{n}.sqlite")), data(n as u8, 1000)).expect("put");
    }
    let fs = fs_with(&store, FsSettings { cache_bytes: 16 << 20, ..settings() });
    let asked = || [Operation::Stat, Operation::Open, Operation::Read].map(|of| store.calls(of));
    let open_all = async |numbers: &[u64]| {
        for (n, &number) in numbers.iter().enumerate() {
            let fh = fs.open(me(), number).await.expect("opened").fh;
            assert_eq!(fs.read(fh, 0, 1000).await.expect("read"), data(n as u8, 1000));
            fs.release(fh).await;
        }
    };
    let look_up_all = async || {
        let mut numbers = Vec::new();
        for n in 0..FILES {
            numbers.push(ino(&fs, ROOT, &format!("{n}.sqlite")).await);
        }
        numbers
    };
    let numbers = look_up_all().await;
    open_all(&numbers).await;
    let first = asked();
    open_all(&numbers).await;
    assert_eq!(asked(), first, "fresh, and all there: no question at all");
    after(Duration::from_secs(40)).await;
    fs.maintain();
    assert_eq!(fs.snapshot().idle_readers, 0);
    open_all(&look_up_all().await).await;
    let later = asked();
    assert_eq!(later[0] - first[0], FILES as u64, "whether it is still the same");
    assert!(later[1] - first[1] <= 8, "only what is opened on suspicion before it is known");
    assert_eq!(later[2], first[2], "no byte twice");
}

#[tokio::test(start_paused = true)]
async fn a_cached_file_that_was_replaced_is_stale_once_a_byte_is_missing() {
    let store = MemoryStore::new();
    store.put(&path("/f"), data(1, 9000)).expect("put");
    let fs = fs(&store);
    let number = ino(&fs, ROOT, "f").await;
    let read_all = async |fh| fs.read(fh, 0, 9000).await;
    let fh = fs.open(me(), number).await.expect("opened").fh;
    assert_eq!(read_all(fh).await.expect("read"), data(1, 9000));
    fs.release(fh).await;
    after(Duration::from_secs(40)).await;
    fs.maintain();
    let opens = store.calls(Operation::Open);
    let fh = fs.open(me(), number).await.expect("opened").fh;
    store.put(&path("/f"), data(2, 9000)).expect("replaced");
    assert_eq!(read_all(fh).await.expect("cached"), data(1, 9000));
    assert_eq!(store.calls(Operation::Open), opens);
    fs.cache().drop_all(false).await;
    assert_eq!(kind(read_all(fh).await), ErrorKind::Stale);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_times_out_everywhere() {
    let store = MemoryStore::new();
    store.put(&path("/d/f"), data(1, 100_000)).expect("put");
    let fs = fs(&store);
    let dir = ino(&fs, ROOT, "d").await;
    let file = ino(&fs, dir, "f").await;
    let fh = fs.open(me(), file).await.expect("opened").fh;
    let list = fs.opendir(me(), dir).await.expect("opened");
    after(Duration::from_secs(2)).await;
    let hang = store.inject(Injection::new(Fault::Hang));
    let begun = Instant::now();
    assert_eq!(kind(fs.read(fh, 0, 100).await), ErrorKind::TimedOut);
    assert_eq!(begun.elapsed(), Duration::from_secs(10));
    assert_eq!(kind(fs.lookup(me(), dir, "f").await), ErrorKind::TimedOut);
    assert_eq!(kind(fs.getattr(me(), file).await), ErrorKind::TimedOut);
    assert_eq!(kind(fs.open(me(), file).await), ErrorKind::TimedOut);
    assert_eq!(kind(fs.readdir(list, 0, true).await), ErrorKind::TimedOut);
    assert_eq!(kind(fs.statfs().await), ErrorKind::TimedOut);
    assert_eq!(begun.elapsed(), Duration::from_secs(60), "no operation longer than the deadline");
    hang.release();
    assert_eq!(fs.read(fh, 0, 100).await.expect("recovered"), data(1, 100));
}

#[tokio::test(start_paused = true)]
async fn handles_do_not_leak_and_a_reader_is_shared_and_kept_a_while() {
    let store = MemoryStore::new();
    store.put(&path("/f"), data(1, 100)).expect("put");
    let fs = fs(&store);
    let file = ino(&fs, ROOT, "f").await;
    for _ in 0..100 {
        let (a, b) =
            (fs.open(me(), file).await.expect("opened").fh, fs.open(me(), file).await.expect("opened").fh);
        assert_eq!(fs.snapshot().open_files, 2);
        fs.release(a).await;
        fs.release(b).await;
        fs.release(b).await;
    }
    let snapshot = fs.snapshot();
    assert_eq!((snapshot.open_files, snapshot.idle_readers), (0, 1));
    assert_eq!(store.calls(Operation::Open), 1);
    after(Duration::from_secs(31)).await;
    fs.maintain();
    assert_eq!(fs.snapshot().idle_readers, 0);
    fs.open(me(), file).await.expect("opened anew");
    assert_eq!(store.calls(Operation::Open), 2);
}

#[tokio::test]
async fn what_is_dropped_is_opened_anew() {
    let store = MemoryStore::new();
    for name in ["/d/f", "/d/g"] {
        store.put(&path(name), data(1, 100)).expect("put");
    }
    let fs = fs(&store);
    let dir = ino(&fs, ROOT, "d").await;
    for (dropped, left) in [("/d/f", 1), ("/d", 0), ("/", 0)] {
        for name in ["f", "g"] {
            let file = ino(&fs, dir, name).await;
            let fh = fs.open(me(), file).await.expect("opened").fh;
            fs.read(fh, 0, 100).await.expect("read");
            fs.release(fh).await;
        }
        assert_eq!(fs.snapshot().idle_readers, 2);
        fs.drop_cached(&[path(dropped)], false).await.expect("dropped");
        assert_eq!(fs.snapshot().idle_readers, left, "{dropped}");
    }
    // Whoever has it open keeps its reader; the next one gets another.
    let file = ino(&fs, dir, "f").await;
    let held = fs.open(me(), file).await.expect("opened").fh;
    fs.drop_cached(&[path("/d/f")], false).await.expect("dropped");
    let before = store.calls(Operation::Open);
    let other = fs.open(me(), file).await.expect("opened").fh;
    assert_eq!(store.calls(Operation::Open), before + 1);
    for fh in [held, other] {
        assert_eq!(fs.read(fh, 0, 100).await.expect("read"), data(1, 100));
        fs.release(fh).await;
    }
}

#[tokio::test]
async fn wrong_kinds_are_refused() {
    let store = MemoryStore::new();
    store.put(&path("/d/f"), data(1, 1)).expect("put");
    let fs = fs(&store);
    let dir = ino(&fs, ROOT, "d").await;
    let file = ino(&fs, dir, "f").await;
    assert_eq!(kind(fs.open(me(), dir).await), ErrorKind::IsADirectory);
    assert_eq!(kind(fs.opendir(me(), file).await), ErrorKind::NotADirectory);
    assert_eq!(kind(fs.lookup(me(), file, "x").await), ErrorKind::NotADirectory);
    assert_eq!(kind(fs.lookup(me(), ROOT, &"x".repeat(256)).await), ErrorKind::NameTooLong);
    assert_eq!(fs.xattr(dir, XATTR_GENERATION).expect("known"), None);
    assert_eq!(fs.xattr(dir, XATTR_PATH).expect("known"), Some(b"/d".to_vec()));
    assert_eq!(kind(fs.read(999, 0, 1).await), ErrorKind::InvalidArgument);
}

/// Lists as the kernel does, with room for `room` entries an answer.
async fn list(fs: &FileSystem, fh: u64, mut offset: u64, room: usize) -> Vec<DirEntry> {
    let mut all = Vec::new();
    loop {
        let entries = fs.readdir(fh, offset, true).await.expect("listed");
        let Some(last) = entries.get(..entries.len().min(room)).and_then(<[DirEntry]>::last) else {
            return all;
        };
        offset = last.next;
        all.extend(entries.into_iter().take(room));
    }
}

#[tokio::test]
async fn a_large_directory_is_listed_once_each_from_any_offset() {
    let store = MemoryStore::new();
    for i in 0..6000 {
        store.put(&path(&format!("/d/{i:05}")), data(1, 1)).expect("put");
    }
    let fs = fs(&store);
    let dir = ino(&fs, ROOT, "d").await;
    let fh = fs.opendir(me(), dir).await.expect("opened");
    let all = list(&fs, fh, 0, 7).await;
    assert_eq!((all[0].name.as_str(), all[1].name.as_str(), all[1].ino), (".", "..", ROOT));
    let names: Vec<_> = all.iter().skip(2).map(|entry| entry.name.clone()).collect();
    assert_eq!(names, (0..6000).map(|i| format!("{i:05}")).collect::<Vec<_>>());
    // Back to the start, a little back, and far back.
    for from in [0, 5990, 100] {
        let offset = all.get(from as usize).map_or(0, |entry| entry.next);
        let tail = list(&fs, fh, offset, 1000).await;
        assert_eq!(tail.len(), 6001 - from as usize, "from {from}");
    }
    let entry = &all[10];
    let told = fs.told(entry);
    assert_eq!(told, ino(&fs, dir, &entry.name).await);
    fs.releasedir(fh);
    assert_eq!(fs.snapshot().open_directories, 0);
}

#[tokio::test]
async fn surplus_inodes_are_offered_up() {
    let store = MemoryStore::new();
    for i in 0..30 {
        store.put(&path(&format!("/{i}")), data(1, 1)).expect("put");
    }
    let fs = fs_with(&store, FsSettings { inodes_max: 16, ..settings() });
    for i in 0..30 {
        ino(&fs, ROOT, &i.to_string()).await;
    }
    let surplus = fs.surplus();
    assert_eq!(surplus.len(), 31 - 14);
    assert!(surplus.iter().all(|(parent, _)| *parent == ROOT));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Random reads of files that are replaced meanwhile, under any cache size: the bytes of the
    /// generation that was opened, or `Stale`, and nothing else.
    #[test]
    fn reads_equal_the_model(
        cache_bytes in 0_u64..200_000,
        prefetch_bytes in 0_u64..200_000,
        readahead_bytes_max in 0_u64..300_000,
        steps in prop::collection::vec((0_usize..4, 0_u64..140_000, 0_usize..70_000, 0_u8..20), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
            .expect("a runtime");
        runtime.block_on(async {
            let store = MemoryStore::new();
            let settings = FsSettings {
                cache_bytes, prefetch_bytes, readahead_bytes_max, freshness: Duration::ZERO, ..settings()
            };
            let fs = fs_with(&store, settings);
            let mut contents: Vec<(Generation, Bytes)> = Vec::new();
            let mut open: Vec<Option<(u64, usize, bool)>> = vec![None; 4];
            let replace = |contents: &mut Vec<(Generation, Bytes)>| {
                let content = data(contents.len() as u8, 100_000 + contents.len() * 777);
                let generation = store.put(&path("/f"), content.clone()).expect("put");
                contents.push((generation, content));
            };
            replace(&mut contents);
            for (slot, offset, len, action) in steps {
                match action {
                    0 => replace(&mut contents),
                    1 => if let Some((fh, _, _)) = open[slot].take() {
                        fs.release(fh).await;
                    },
                    _ => {
                        let (fh, which, mut stale) = match open[slot] {
                            Some(handle) => handle,
                            None => {
                                let number = ino(&fs, ROOT, "f").await;
                                (fs.open(me(), number).await.expect("opened").fh, contents.len() - 1, false)
                            }
                        };
                        let content = &contents[which].1;
                        match fs.read(fh, offset, len).await {
                            Ok(read) => {
                                let start = (offset as usize).min(content.len());
                                let end = (offset as usize + len).min(content.len());
                                prop_assert_eq!(&read[..], &content[start..end]);
                            }
                            Err(error) => {
                                prop_assert_eq!(error.kind(), ErrorKind::Stale);
                                prop_assert!(which + 1 < contents.len(), "only if it was replaced");
                                stale = true;
                            }
                        }
                        open[slot] = Some((fh, which, stale));
                    }
                }
            }
            for (fh, _, _) in open.into_iter().flatten() {
                fs.release(fh).await;
            }
            prop_assert_eq!(fs.snapshot().open_files, 0);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_large_directory_is_listed_once_and_not_asked_for_again() {
    const ENTRIES: usize = 100_000;
    let store = MemoryStore::new();
    for n in 0..ENTRIES {
        store.make_dir(&path(&format!("/{n:06}")), None).await.expect("made");
    }
    let mount = fs_with(&store, FsSettings { freshness: Duration::from_secs(3600), ..settings() });
    let (dir, stats) = (mount.opendir(me(), ROOT).await.expect("opened"), store.calls(Operation::Stat));
    let (mut offset, mut found, mut most) = (0, 0, 0);
    loop {
        // As the kernel asks for `ls -l`: with attributes, a buffer at a time.
        let entries = mount.readdir(dir, offset, true).await.expect("listed");
        let Some(last) = entries.last() else { break };
        offset = last.next;
        most = most.max(entries.len());
        for entry in entries.iter().filter(|entry| entry.attr.is_some()) {
            mount.told(entry);
            found += 1;
        }
    }
    mount.releasedir(dir);
    assert_eq!((found, store.calls(Operation::List)), (ENTRIES, 1));
    assert_eq!(store.calls(Operation::Stat), stats, "the attributes came with the listing");
    assert!(most <= 1024, "{most} entries in one answer");
}
