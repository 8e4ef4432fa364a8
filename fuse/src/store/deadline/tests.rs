//! Time in these tests is tokio's stopped clock: nothing waits, and every duration is exact.

use std::sync::Arc;

use futures::TryStreamExt;
use tokio::time::{Duration, Instant};

use crate::{
    error::ErrorKind,
    store::{
        CreateOptions, OpenedStore, Operation, Reader, StoreOptions, StorePath,
        contract::content,
        decorate,
        memory::{Fault, Injection, MemoryStore},
    },
};

const DEADLINE: Duration = Duration::from_secs(10);

fn path(text: &str) -> StorePath {
    StorePath::parse(text).expect("a valid path")
}

/// A store with the files `/f0` to `/f9`, and what is around it in production.
fn fixture() -> (MemoryStore, OpenedStore) {
    let memory = MemoryStore::new();
    for i in 0..10u64 {
        memory.put(&path(&format!("/f{i}")), content(i, 10_000)).expect("put");
    }
    let opened = decorate(Arc::new(memory.clone()), &StoreOptions::default()).expect("decorate");
    (memory, opened)
}

async fn open(opened: &OpenedStore, name: &str) -> Arc<dyn Reader> {
    opened.store.open(&path(name), None).await.expect("open")
}

async fn outcome(reader: &Arc<dyn Reader>) -> Result<(), ErrorKind> {
    reader.read_at(0, 100).await.map(drop).map_err(|e| e.kind())
}

#[tokio::test(start_paused = true)]
async fn a_read_that_hangs_ends_at_the_deadline_and_leaves_nothing_behind() {
    let (memory, opened) = fixture();
    let reader = open(&opened, "/f1").await;
    memory.inject(Injection::new(Fault::Hang).on(Operation::Read));
    let start = Instant::now();
    assert_eq!(outcome(&reader).await, Err(ErrorKind::TimedOut));
    assert_eq!(start.elapsed(), DEADLINE);
    assert_eq!(opened.counters.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_ends_below_too() {
    let (memory, opened) = fixture();
    let reader = open(&opened, "/f1").await;
    let hang = memory.inject(Injection::new(Fault::Hang));
    let (store, f) = (Arc::clone(&opened.store), path("/f2"));
    let tasks = [
        tokio::spawn(async move { reader.read_at(0, 100).await.map(drop) }),
        tokio::spawn(async move { store.stat(&f).await.map(drop) }),
    ];
    hang.reached(2).await;
    assert_eq!(opened.counters.running(), 2);
    for task in tasks {
        task.abort();
        assert!(task.await.expect_err("cancelled").is_cancelled());
    }
    assert_eq!(opened.counters.running(), 0, "nothing is left running in the store");
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_is_waited_out_and_the_file_reopened() {
    let (memory, opened) = fixture();
    let reader = open(&opened, "/f1").await;
    let outage = memory.inject(Injection::new(Fault::Fail(ErrorKind::Unavailable)));
    let opens = memory.calls(Operation::Open);
    let reading = tokio::spawn(async move { reader.read_at(10, 100).await });
    outage.reached(4).await;
    outage.release();
    let bytes = reading.await.expect("join").expect("read");
    assert_eq!(bytes, content(1, 10_000)[10..110]);
    assert!(memory.calls(Operation::Open) > opens, "through a new reader");
    assert!(opened.counters.snapshot().retries >= 2);
}

#[tokio::test(start_paused = true)]
async fn a_file_replaced_during_an_outage_is_stale_never_mixed() {
    let (memory, opened) = fixture();
    let reader = open(&opened, "/f1").await;
    memory.inject(Injection::new(Fault::Fail(ErrorKind::Unavailable)).on(Operation::Read).times(1));
    memory.inject(Injection::new(Fault::Replace(content(99, 10_000))).on(Operation::Open).times(1));
    assert_eq!(outcome(&reader).await, Err(ErrorKind::Stale));
    let reader = open(&opened, "/f2").await;
    memory.inject(Injection::new(Fault::Fail(ErrorKind::Unavailable)).on(Operation::Read).times(1));
    opened.store.delete(&path("/f2"), false).await.expect("delete");
    assert_eq!(outcome(&reader).await, Err(ErrorKind::Stale));
}

#[tokio::test(start_paused = true)]
async fn deadlines_do_not_add_up() {
    let (memory, opened) = fixture();
    let reader = open(&opened, "/f1").await;
    let outage = memory.inject(Injection::new(Fault::Hang).on(Operation::Read));
    let start = Instant::now();
    assert_eq!(outcome(&reader).await, Err(ErrorKind::TimedOut));
    for _ in 0..1_000 {
        assert_eq!(outcome(&reader).await, Err(ErrorKind::Unavailable), "page by page, as the kernel asks");
    }
    assert_eq!(start.elapsed(), DEADLINE, "a thousand more reads took no time");
    let other = open(&opened, "/f2").await;
    outage.release();
    assert_eq!(outcome(&other).await, Ok(()), "another file is none the worse");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(outcome(&reader).await, Ok(()), "and this one is back after the cool-down");
    assert_eq!(opened.counters.snapshot().refused, 1_000);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_noticed_for_all_files() {
    let (memory, opened) = fixture();
    let mut readers = Vec::new();
    for i in 0..10 {
        readers.push(open(&opened, &format!("/f{i}")).await);
    }
    let outage = memory.inject(Injection::new(Fault::Hang).on(Operation::Read));
    let start = Instant::now();
    let reads = readers[..3].iter().map(outcome);
    for found in futures::future::join_all(reads).await {
        assert_eq!(found, Err(ErrorKind::TimedOut));
    }
    for reader in &readers {
        assert_eq!(outcome(reader).await, Err(ErrorKind::Unavailable), "none takes its own deadline");
    }
    assert_eq!(start.elapsed(), DEADLINE);
    assert!(opened.store.stat(&path("/f1")).await.is_ok(), "the NameNode is asked as ever");
    outage.release();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for reader in &readers {
        assert_eq!(outcome(reader).await, Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_node_that_hangs_is_left_alone() {
    let (memory, opened) = fixture();
    let reader = open(&opened, "/f1").await;
    let hang = memory.inject(Injection::new(Fault::Hang).on(Operation::Stat));
    let f = path("/f1");
    let start = Instant::now();
    let kind = |outcome: crate::error::Result<_>| outcome.map(drop).map_err(|e| e.kind());
    assert_eq!(kind(opened.store.stat(&f).await), Err(ErrorKind::TimedOut));
    assert_eq!(kind(opened.store.stat(&f).await), Err(ErrorKind::Unavailable));
    assert_eq!(start.elapsed(), DEADLINE);
    assert_eq!(outcome(&reader).await, Ok(()), "open files are read as ever");
    hang.release();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(kind(opened.store.stat(&f).await), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn changes_are_never_repeated() {
    let (memory, opened) = fixture();
    for fault in [Fault::Fail(ErrorKind::Unavailable), Fault::Fail(ErrorKind::Other), Fault::Hang] {
        let calls = memory.calls(Operation::Delete);
        let struck = memory.inject(Injection::new(fault).on(Operation::Delete));
        opened.store.delete(&path("/f1"), false).await.expect_err("struck");
        struck.release();
        assert_eq!(memory.calls(Operation::Delete), calls + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_tree_that_takes_long_to_delete_is_no_outage() {
    let (memory, opened) = fixture();
    memory.inject(Injection::new(Fault::Hang).on(Operation::Delete).times(2));
    let error = opened.store.delete(&path("/f1"), true).await.expect_err("hangs");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(opened.store.stat(&path("/f2")).await.is_ok(), "others are asked as ever");
    let error = opened.store.delete(&path("/f1"), false).await.expect_err("hangs");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let error =
        opened.store.stat(&path("/f2")).await.expect_err("one file is quickly deleted, or nobody is there");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn safe_mode_refuses_changes_and_leaves_questions_alone() {
    let (memory, opened) = fixture();
    memory.inject(Injection::new(Fault::Fail(ErrorKind::Unavailable)).on(Operation::CreateDir));
    for _ in 0..5 {
        let error = opened.store.create_dir(&path("/d")).await.expect_err("safe mode");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(opened.store.stat(&path("/f1")).await.is_ok());
    }
    assert_eq!(opened.counters.snapshot().refused, 0);
}

#[tokio::test(start_paused = true)]
async fn a_lasting_failure_is_told_at_once() {
    let (memory, opened) = fixture();
    let start = Instant::now();
    let error = opened.store.stat(&path("/none")).await.expect_err("there is none");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(start.elapsed(), Duration::ZERO);
    memory.inject(Injection::new(Fault::Fail(ErrorKind::Other)).on(Operation::Stat));
    let error = opened.store.stat(&path("/f1")).await.expect_err("struck");
    assert_eq!(error.kind(), ErrorKind::Other);
    assert_eq!(memory.calls(Operation::Stat), 1 + 3, "an odd failure is tried a few times");
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_listing_is_tried_again_only_before_its_first_entry() {
    let (memory, opened) = fixture();
    memory.inject(Injection::new(Fault::Fail(ErrorKind::Unavailable)).on(Operation::List).times(2));
    let root = StorePath::root();
    let entries: Vec<_> = opened.store.list(&root).try_collect().await.expect("list");
    assert_eq!(entries.len(), 10);
    assert_eq!(memory.calls(Operation::List), 3);
}

#[tokio::test(start_paused = true)]
async fn a_writer_stops_at_its_first_failure() {
    let (memory, opened) = fixture();
    let mut writer = opened.store.create(&path("/new"), CreateOptions::default()).await.expect("create");
    writer.write("a".into()).await.expect("write");
    memory.inject(Injection::new(Fault::Hang).on(Operation::Write).times(1));
    assert_eq!(writer.write("b".into()).await.expect_err("hangs").kind(), ErrorKind::TimedOut);
    assert_eq!(writer.write("c".into()).await.expect_err("broken").kind(), ErrorKind::Other);
    assert!(writer.close().await.is_err(), "never closed as if it were whole");
}

#[tokio::test(start_paused = true)]
async fn many_reads_reopen_the_file_once() {
    let (memory, opened) = fixture();
    let reader = open(&opened, "/f1").await;
    memory.inject(Injection::new(Fault::Fail(ErrorKind::Unavailable)).on(Operation::Read).times(1));
    memory.inject(Injection::new(Fault::Delay(Duration::from_secs(1))).on(Operation::Open));
    let opens = memory.calls(Operation::Open);
    let reads = (0..16).map(|_| outcome(&reader));
    for found in futures::future::join_all(reads).await {
        assert_eq!(found, Ok(()));
    }
    assert_eq!(memory.calls(Operation::Open), opens + 1);
}

#[tokio::test(start_paused = true)]
async fn equal_questions_at_once_are_one() {
    let (memory, opened) = fixture();
    let slow = memory.inject(Injection::new(Fault::Delay(Duration::from_secs(1))));
    let f = path("/f1");
    let stats = futures::future::join_all((0..20).map(|_| opened.store.stat(&f))).await;
    assert!(stats.iter().all(Result::is_ok));
    let opens = futures::future::join_all((0..20).map(|_| opened.store.open(&f, None))).await;
    assert!(opens.iter().all(Result::is_ok));
    assert_eq!((memory.calls(Operation::Stat), memory.calls(Operation::Open)), (1, 1));
    assert_eq!(opened.counters.snapshot().shared, 38);
    slow.release();
    opened.store.stat(&f).await.expect("stat");
    assert_eq!(memory.calls(Operation::Stat), 2, "an answer is shared, not kept");
}

#[tokio::test(start_paused = true)]
async fn cancelling_one_of_many_fails_none_of_the_others() {
    let (memory, opened) = fixture();
    let hang = memory.inject(Injection::new(Fault::Hang).on(Operation::Stat));
    let ask = || {
        let store = Arc::clone(&opened.store);
        tokio::spawn(async move { store.stat(&path("/f1")).await })
    };
    let first = ask();
    hang.reached(1).await;
    let second = ask();
    tokio::task::yield_now().await;
    first.abort();
    assert!(first.await.expect_err("cancelled").is_cancelled());
    hang.release();
    assert!(second.await.expect("join").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_change_is_seen_by_who_made_it() {
    let (memory, opened) = fixture();
    // A stat from before the change is still under way, and will tell of what was.
    let hang = memory.inject(Injection::new(Fault::Hang).on(Operation::Stat).times(1));
    let store = Arc::clone(&opened.store);
    let early = tokio::spawn(async move { store.stat(&path("/f1")).await });
    hang.reached(1).await;
    opened.store.delete(&path("/f1"), false).await.expect("delete");
    let found = opened.store.stat(&path("/f1")).await.expect_err("deleted");
    assert_eq!(found.kind(), ErrorKind::NotFound);
    early.abort();
}

#[tokio::test(start_paused = true)]
async fn files_without_replicas_leave_the_store_open() {
    let (memory, opened) = fixture();
    let mut readers = Vec::new();
    for i in 0..10 {
        let file = format!("/f{i}");
        readers.push(open(&opened, &file).await);
        if i < 9 {
            let lost = Injection::new(Fault::FailFile(ErrorKind::Unavailable)).on(Operation::Read);
            memory.inject(lost.at(&path(&file)));
        }
    }
    for lost in &readers[..9] {
        assert_eq!(outcome(lost).await, Err(ErrorKind::TimedOut));
        assert_eq!(outcome(lost).await, Err(ErrorKind::Unavailable), "this file is left alone for a while");
    }
    assert_eq!(outcome(&readers[9]).await, Ok(()), "nine lost files are no outage");
    memory.inject(Injection::new(Fault::FailFile(ErrorKind::Unavailable)).on(Operation::Open));
    let error = opened.store.open(&path("/f1"), None).await.expect_err("its last HDFS block has no length");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(opened.store.stat(&path("/f1")).await.is_ok(), "the NameNode has answered all the time");
}

#[tokio::test(start_paused = true)]
async fn deadlines_short_and_long_are_kept() {
    for seconds in [1, 60] {
        let memory = MemoryStore::new();
        memory.put(&path("/f"), content(1, 100)).expect("put");
        let options = StoreOptions { deadline: Duration::from_secs(seconds), ..StoreOptions::default() };
        let opened = decorate(Arc::new(memory.clone()), &options).expect("decorate");
        let reader = open(&opened, "/f").await;
        memory.inject(Injection::new(Fault::Fail(ErrorKind::Unavailable)).on(Operation::Read));
        memory.inject(Injection::new(Fault::Hang).on(Operation::Stat));
        let start = Instant::now();
        assert_eq!(outcome(&reader).await, Err(ErrorKind::TimedOut));
        assert_eq!(start.elapsed().as_secs(), seconds);
        assert!(opened.store.stat(&path("/f")).await.is_err());
        assert_eq!(start.elapsed().as_secs(), 2 * seconds);
    }
}

/// Calls of all kinds, dropped at whatever point they are, on a store that fails in all ways: nothing is
/// left running, nobody waits for what was dropped, and once the store is well all is well.
#[tokio::test(start_paused = true)]
async fn dropping_calls_anywhere_leaves_nothing_behind() {
    use rand::{RngExt, SeedableRng, rngs::StdRng};
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let (memory, opened) = fixture();
        let readers = [open(&opened, "/f1").await, open(&opened, "/f2").await];
        let mut faults = Vec::new();
        let mut calls = Vec::new();
        for _ in 0..200 {
            if random.random_ratio(1, 10) {
                let fault = match random.random_range(0..4) {
                    0 => Fault::Hang,
                    1 => Fault::Fail(ErrorKind::Unavailable),
                    2 => Fault::FailFile(ErrorKind::Unavailable),
                    _ => Fault::Delay(Duration::from_millis(random.random_range(0..3_000))),
                };
                faults.push(memory.inject(Injection::new(fault).times(random.random_range(1..10))));
            }
            let (store, reader) =
                (Arc::clone(&opened.store), Arc::clone(&readers[random.random_range(0..2)]));
            let (kind, file) = (random.random_range(0..4), path(&format!("/f{}", random.random_range(0..3))));
            let call = async move {
                match kind {
                    0 => drop(store.stat(&file).await),
                    1 => drop(store.open(&file, None).await),
                    2 => drop(store.list(&StorePath::root()).try_collect::<Vec<_>>().await),
                    _ => drop(reader.read_at(0, 100).await),
                }
            };
            let patience = Duration::from_millis(random.random_range(0..15_000));
            calls.push(tokio::spawn(async move { drop(tokio::time::timeout(patience, call).await) }));
            tokio::time::sleep(Duration::from_millis(random.random_range(0..200))).await;
        }
        for call in calls {
            call.await.expect("no call panics");
        }
        assert_eq!(opened.counters.running(), 0, "seed {seed}");
        faults.iter().for_each(super::super::memory::Injected::release);
        // The longest cool-down.
        tokio::time::sleep(Duration::from_secs(10)).await;
        for reader in &readers {
            assert_eq!(outcome(reader).await, Ok(()), "seed {seed}: a probe was lost");
        }
        for i in 0..10 {
            open(&opened, &format!("/f{i}")).await;
        }
    }
}
