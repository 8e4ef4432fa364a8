use std::sync::atomic::AtomicI64;

use proptest::prelude::*;

use super::{
    look::{Looked, Looker},
    memory_store::MemoryStore,
    owner::{Claim, claim},
    *,
};
use crate::{
    registry::{Meta, catalog::Lookup, memory::MemoryRegistry},
    segment::SegmentId,
    store::{Generation, StoreFailure},
};

const NOW: i64 = 1_700_000_000_000;

struct Setup {
    store: Arc<MemoryStore>,
    state: Arc<State>,
    discovery: Arc<Discovery>,
    now: Arc<AtomicI64>,
}

impl Setup {
    fn new(store: Arc<MemoryStore>) -> Self {
        let meta = || Meta::new("0");
        let state = State::open(Box::new(MemoryRegistry::default()), meta).expect("memory opens");
        let (state, now) = (Arc::new(state), Arc::new(AtomicI64::new(NOW)));
        let clock: Clock = {
            let now = now.clone();
            Arc::new(move || now.load(Ordering::SeqCst))
        };
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let discovery = Arc::new(Discovery::new(store.clone(), state.clone(), metrics, clock, 3));
        Self { store, state, discovery, now }
    }

    async fn pass(&self) -> DiscoveryReport {
        self.discovery.run(false).await
    }

    fn catalog(&self) -> Vec<(String, Generation)> {
        let (page, _) = self.state.catalog().page("", None, usize::MAX);
        let mut all: Vec<_> = page
            .into_iter()
            .map(|(dir, id, f)| (format!("{}/{id}.sqlite", dir.trim_end_matches('/')), f.generation))
            .collect();
        all.sort();
        all
    }
}

fn old_store() -> Arc<MemoryStore> {
    let store = MemoryStore::new();
    for n in 1000..1050 {
        store.write(&format!("/{}/{n}.sqlite", n / 1000), 10, NOW - 1_000_000);
        store.write(&format!("/{}/{n}555.sqlite", n), 10, NOW - 1_000_000);
    }
    store.write("/deep/er/x.sqlite", 10, NOW - 1_000_000);
    store
}

/// A local store that is unmounted, or moved away, in the middle of a pass is away, not empty.
#[tokio::test]
async fn a_store_that_goes_in_the_middle_of_a_pass() {
    let setup = Setup::new(old_store());
    setup.pass().await;
    let known = setup.catalog();
    setup.store.vanishes.store(true, Ordering::SeqCst);
    let report = setup.discovery.run(true).await;
    assert_eq!((report.complete, report.errors), (false, 1), "{report:?}");
    assert_eq!(setup.catalog(), known);
}

#[tokio::test]
async fn the_second_pass_touches_only_what_changed() {
    let setup = Setup::new(old_store());
    let first = setup.pass().await;
    assert!(first.complete && setup.state.discovered());
    assert_eq!((first.segments_added, first.dirs_listed, first.dirs_skipped), (101, 54, 0));
    assert_eq!(setup.catalog(), setup.store.segments());
    setup.store.take_listed();

    let second = setup.pass().await;
    // The root and /deep have subdirectories; leaves stay alone.
    assert_eq!(setup.store.take_listed(), ["/", "/deep"]);
    assert_eq!((second.dirs_listed, second.dirs_skipped, second.segments_added), (2, 52, 0));

    setup.store.write("/1007/1007999.sqlite", 5, NOW - 900_000);
    setup.store.delete("/1008/1008555.sqlite", NOW - 900_000);
    let third = setup.pass().await;
    assert_eq!(setup.store.take_listed(), ["/", "/1007", "/1008", "/deep"]);
    assert_eq!((third.segments_added, third.segments_removed, third.segments_changed), (1, 1, 0));
    assert_eq!(setup.catalog(), setup.store.segments());

    let full = setup.discovery.run(true).await;
    assert_eq!((full.dirs_listed, full.dirs_skipped), (54, 0));
}

#[tokio::test]
async fn a_directory_is_listed_until_it_is_quiet() {
    let setup = Setup::new(old_store());
    setup.pass().await;
    setup.store.write("/1007/1007999.sqlite", 0, NOW);
    setup.pass().await;
    setup.store.take_listed();
    // It grows without its directory's time moving, as in HDFS.
    for (seconds, len) in [(60, 100), (120, 200)] {
        setup.now.store(NOW + seconds * 1000, Ordering::SeqCst);
        setup.store.write("/1007/1007999.sqlite", len, NOW);
        assert_eq!(setup.pass().await.segments_changed, 1, "{seconds} s");
    }
    // Unchanged twice: quiet.
    assert_eq!(setup.pass().await.segments_changed, 0);
    setup.store.take_listed();
    setup.pass().await;
    assert_eq!(setup.store.take_listed(), ["/", "/deep"]);
}

#[tokio::test]
async fn one_bad_directory_does_not_stop_the_pass() {
    let setup = Setup::new(old_store());
    setup.store.fail("/1010", true);
    let first = setup.pass().await;
    assert_eq!((first.errors, first.segments_added, first.complete), (1, 100, true));
    setup.store.fail("/1010", false);
    assert_eq!(setup.pass().await.segments_added, 1);
    // Known, then unreadable: what is known stays.
    setup.store.write("/1010/1010111.sqlite", 1, NOW - 800_000);
    setup.store.fail("/1010", true);
    assert_eq!(setup.pass().await.errors, 1);
    assert!(setup.catalog().iter().any(|(path, _)| path == "/1010/1010555.sqlite"));
    setup.store.fail("/1010", false);
    setup.pass().await;
    assert_eq!(setup.catalog(), setup.store.segments());
    // The whole store unreadable: nothing is forgotten.
    setup.store.down.store(true, Ordering::SeqCst);
    let down = setup.pass().await;
    assert!(!down.complete && down.errors == 1);
    assert_eq!(setup.catalog().len(), 102);
}

#[tokio::test]
async fn bad_names_are_counted_once_and_hidden_ones_ignored() {
    let store = MemoryStore::new();
    store.write("/a/b ad.sqlite", 1, 1);
    store.write("/a/.hidden.sqlite", 1, 1);
    store.write("/a/x.sqlite._COPYING_", 1, 1);
    store.write("/.trash/1.sqlite", 1, 1);
    let setup = Setup::new(store);
    for _ in 0..2 {
        setup.discovery.run(true).await;
        let status = setup.discovery.status();
        assert_eq!((status.bad_names, status.segments, status.directories), (1, 0, 2));
    }
    assert_eq!(setup.discovery.logged.lock().len(), 1);
}

#[tokio::test]
async fn waiters_share_a_pass_that_began_after_they_asked() {
    let setup = Setup::new(old_store());
    let turn = setup.discovery.turn.lock().await;
    let passes: Vec<_> = (0..5)
        .map(|_| {
            let discovery = setup.discovery.clone();
            tokio::spawn(async move { discovery.run(false).await.pass })
        })
        .collect();
    tokio::task::yield_now().await;
    drop(turn);
    for pass in passes {
        assert_eq!(pass.await.expect("a pass"), 1);
    }
    assert_eq!(setup.pass().await.pass, 2);
}

fn looker(setup: &Setup) -> Arc<Looker> {
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    Arc::new(Looker::new(setup.store.clone(), setup.state.clone(), metrics))
}

#[tokio::test(start_paused = true)]
async fn a_look_finds_refreshes_and_forgets() {
    let setup = Setup::new(old_store());
    setup.pass().await;
    let looker = looker(&setup);
    let id = SegmentId::parse("1007777").expect("an id");
    let lookup = || setup.state.catalog().lookup(&id);
    setup.store.write("/1007/1007777.sqlite", 7, NOW);
    assert_eq!(lookup(), Lookup::Absent);
    assert_eq!(looker.look(&id, "/1007".into()).await.expect("a look"), Looked::Done);
    let Lookup::Found(first) = lookup() else { panic!("not found") };
    setup.store.write("/1007/1007777.sqlite", 8, NOW);
    looker.look(&id, first.directory.clone()).await.expect("a look");
    let Lookup::Found(second) = lookup() else { panic!("not found") };
    assert!(second.facts.size == 8 && second.facts.generation != first.facts.generation);
    setup.store.delete("/1007/1007777.sqlite", NOW);
    looker.look(&id, first.directory).await.expect("a look");
    assert_eq!(lookup(), Lookup::Absent);
    // In a directory that the catalog has never seen; the next pass lists it.
    setup.store.write("/new/new123.sqlite", 1, NOW);
    let new = SegmentId::parse("new123").expect("an id");
    looker.look(&new, "/new".into()).await.expect("a look");
    assert!(matches!(setup.state.catalog().lookup(&new), Lookup::Found(_)));
    setup.pass().await;
    assert_eq!(setup.catalog(), setup.store.segments());
    setup.store.down.store(true, Ordering::SeqCst);
    assert!(looker.look(&id, "/1007".into()).await.is_ok(), "known to be absent a moment ago");
    assert!(looker.look(&new, "/new".into()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn looks_are_limited_and_single_flight() {
    let setup = Setup::new(old_store());
    let looker = looker(&setup);
    let one = SegmentId::parse("nothing1").expect("an id");
    let looks = (0..50).map(|_| looker.look(&one, "/nothi".into()));
    assert!(futures::future::join_all(looks).await.into_iter().all(|r| r == Ok(Looked::Done)));
    assert_eq!(setup.store.inner.lock().stats.len(), 1);
    let mut limited = 0;
    for n in 0..1000 {
        let id = SegmentId::parse(&format!("absent{n}")).expect("an id");
        limited += u32::from(looker.look(&id, "/abs".into()).await == Ok(Looked::Limited));
    }
    assert!(limited > 0, "1,000 looks in a moment are too many");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_lies_costs_few_looks() {
    let setup = Setup::new(old_store());
    setup.pass().await;
    let looker = looker(&setup);
    let stats = || setup.store.inner.lock().stats.len();
    let before = stats();
    let one = SegmentId::parse("1007555").expect("an id");
    for _ in 0..200 {
        assert_eq!(looker.refresh(&one, "/1007".into()).await, Ok(Looked::Done));
    }
    assert_eq!(stats() - before, 1, "what was found a moment ago is believed");
    assert_eq!(setup.catalog(), setup.store.segments(), "the store's word counts, not the worker's");
    let mut limited = 0;
    for n in 1000..1050 {
        for id in [format!("{n}555"), format!("{n}")] {
            let id = SegmentId::parse(&id).expect("an id");
            let refreshed = looker.refresh(&id, id.canonical_dir().into()).await;
            limited += u32::from(refreshed == Ok(Looked::Limited));
        }
    }
    assert!(limited > 0, "refreshes have a limit of their own");
    let new = SegmentId::parse("1007999").expect("an id");
    assert_eq!(looker.look(&new, "/1007".into()).await, Ok(Looked::Done), "below that of requests");
}

impl PartialEq for StoreFailure {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

#[tokio::test]
async fn one_registry_owns_a_store() {
    let store = MemoryStore::new();
    let ask = |id: &'static str, take_over| {
        let store = store.clone();
        async move { claim(&*store, id, take_over).await.expect("the store answers") }
    };
    assert_eq!(ask("a", false).await, Claim::Taken);
    assert_eq!(ask("a", false).await, Claim::Ours);
    let foreign = Claim::Foreign { marker: "/.springhouse-owner".into(), owner: "a".into() };
    assert_eq!(ask("b", false).await, foreign);
    assert_eq!(ask("b", true).await, Claim::Taken);
    assert_eq!(ask("b", true).await, Claim::Ours);
    let taken = Claim::Foreign { marker: "/.springhouse-owner.2".into(), owner: "b".into() };
    assert_eq!(ask("a", false).await, taken);
    assert_eq!(ask("a", true).await, Claim::Taken);
    assert_eq!(ask("a", false).await, Claim::Ours);
    store.inner.lock().small.insert("/.springhouse-owner.4".into(), b"{".to_vec());
    assert!(matches!(ask("a", false).await, Claim::Foreign { owner, .. } if owner.contains("unreadable")));
    // Its writer died between creating and writing it.
    store.inner.lock().small.insert("/.springhouse-owner.4".into(), Vec::new());
    assert!(matches!(ask("a", false).await, Claim::Foreign { owner, .. } if owner.contains("being empty")));
    assert_eq!(ask("a", true).await, Claim::Taken);

    let denying = MemoryStore::new();
    denying.denied.store(true, Ordering::SeqCst);
    assert!(matches!(claim(&*denying, "a", false).await, Ok(Claim::ReadOnly(_))));
}

#[derive(Debug, Clone)]
enum Step {
    Write { dir: usize, n: u16, len: u64 },
    Delete { dir: usize, n: u16 },
    DeleteDir { dir: usize },
    Fail { dir: usize, failing: bool },
    Pass { full: bool },
}

const DIRS: [&str; 8] = ["/1", "/1-b", "/1/2", "/1/2/3", "/2", "/2/1", "/10", "/é"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_catalog_follows_the_store(
        steps in prop::collection::vec(prop_oneof![
            6 => (0..DIRS.len(), 1000u16..1006, 0u64..3).prop_map(|(dir, n, len)| Step::Write { dir, n, len }),
            3 => (0..DIRS.len(), 1000u16..1006).prop_map(|(dir, n)| Step::Delete { dir, n }),
            1 => (0..DIRS.len()).prop_map(|dir| Step::DeleteDir { dir }),
            1 => (0..DIRS.len(), any::<bool>()).prop_map(|(dir, failing)| Step::Fail { dir, failing }),
            3 => any::<bool>().prop_map(|full| Step::Pass { full }),
        ], 1..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let setup = Setup::new(MemoryStore::new());
            for (time, step) in steps.into_iter().enumerate() {
                // A second between steps; passes see what is younger than 5 s as moving.
                let now = NOW + time as i64 * 1000;
                setup.now.store(now, Ordering::SeqCst);
                let path = |dir: usize, n: u16| format!("{}/{n}.sqlite", DIRS[dir]);
                match step {
                    Step::Write { dir, n, len } => setup.store.replace(&path(dir, n), len, now),
                    Step::Delete { dir, n } => setup.store.delete(&path(dir, n), now),
                    Step::DeleteDir { dir } => setup.store.delete_dir(DIRS[dir], now),
                    Step::Fail { dir, failing } => setup.store.fail(DIRS[dir], failing),
                    Step::Pass { full } => {
                        let report = setup.discovery.run(full).await;
                        if report.errors == 0 {
                            prop_assert_eq!(setup.catalog(), setup.store.segments());
                        }
                    }
                }
            }
            for dir in DIRS { setup.store.fail(dir, false); }
            let report = setup.discovery.run(false).await;
            prop_assert_eq!(report.errors, 0);
            prop_assert_eq!(setup.catalog(), setup.store.segments());
            Ok(())
        })?;
    }
}
