//! The benchmark of large catalogs in small, as a test: what is counted must not depend on what is not
//! touched. Times are the benchmark's (`examples/scale`), which has the same store.

#[path = "../examples/scale/world.rs"]
#[allow(dead_code, reason = "the benchmark needs more of it")]
#[allow(unreachable_pub, reason = "it is a module of a program, too")]
mod world;

use std::sync::Arc;

use self::world::{PER_DIRECTORY, World};
use crate::{
    discovery::{Discovery, system_clock},
    metrics::Metrics,
    registry::{Meta, RowChange, catalog::Lookup, memory::MemoryRegistry, state::State},
    segment::SegmentId,
};

const SEGMENTS: u64 = 100_000;
const CHANGED_DIRECTORIES: u64 = 30;
const CHANGED_EACH: u64 = 33;

struct Bench {
    world: Arc<World>,
    registry: MemoryRegistry,
    state: Arc<State>,
    discovery: Arc<Discovery>,
}

impl Bench {
    fn new() -> Self {
        let (world, registry) = (Arc::new(World::new(SEGMENTS)), MemoryRegistry::default());
        let state = State::open(Box::new(registry.clone()), || Meta::new("0")).expect("memory opens");
        let (state, metrics) = (Arc::new(state), Arc::new(Metrics::new().expect("metrics")));
        let discovery = Discovery::new(world.clone(), state.clone(), metrics, system_clock(), 8);
        Self { world, registry, state, discovery: Arc::new(discovery) }
    }

    /// Listings, rows written and segments changed by a pass.
    async fn pass(&self, full: bool) -> (u64, usize, u64) {
        self.world.take_listings();
        self.registry.commits.lock().clear();
        let report = self.discovery.run(full).await;
        assert!(report.complete && report.errors == 0, "{report:?}");
        let commits = self.registry.commits.lock();
        let rows = commits.iter().flatten().filter(|row| matches!(row, RowChange::Put(..))).count();
        (self.world.take_listings(), rows, report.segments_changed)
    }
}

#[tokio::test]
async fn what_did_not_change_is_not_touched() {
    let bench = Bench::new();
    let directories = bench.world.directories();
    let (listings, rows, _) = bench.pass(false).await;
    assert_eq!(listings, directories + 1, "each directory once, and the root");
    // The state of each directory, and a row of its segments; the root has none.
    assert_eq!(rows as u64, 2 * directories + 1);
    {
        let catalog = bench.state.catalog();
        assert_eq!((catalog.segment_count(), catalog.misplaced_count()), (SEGMENTS, 0));
        let bytes = catalog.heap_bytes() as u64 / SEGMENTS;
        assert!(bytes <= 60, "{bytes} bytes of memory a segment");
    }
    let on_disk: usize = bench.registry.rows.lock().iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!(on_disk as u64 / SEGMENTS <= 40, "{} bytes of rows a segment", on_disk as u64 / SEGMENTS);

    assert_eq!(bench.pass(false).await, (1, 0, 0), "nothing changed");
    for n in 0..CHANGED_DIRECTORIES {
        bench.world.replace(n * 3, CHANGED_EACH);
    }
    let touched = CHANGED_DIRECTORIES as usize;
    let changed = CHANGED_DIRECTORIES * CHANGED_EACH;
    assert_eq!(bench.pass(false).await, (1 + CHANGED_DIRECTORIES, 2 * touched, changed));
    // What moved is looked at once more, and is quiet then.
    assert_eq!(bench.pass(false).await, (1 + CHANGED_DIRECTORIES, touched, 0));
    assert_eq!(bench.pass(false).await, (1, 0, 0));
    assert_eq!(bench.pass(true).await, (1 + directories, 0, 0), "a full pass writes nothing");
}

#[tokio::test]
async fn every_segment_is_found_after_a_start() {
    let bench = Bench::new();
    bench.pass(false).await;
    let again = State::open(Box::new(bench.registry.clone()), || Meta::new("0")).expect("memory opens");
    let catalog = again.catalog();
    for n in (0..SEGMENTS).step_by(7) {
        let id = SegmentId::parse(&bench.world.id(n)).expect("an id");
        assert!(matches!(catalog.lookup(&id), Lookup::Found(_)), "{id}");
    }
    assert_eq!(catalog.directory("/000001").map(|d| d.segments.len() as u64), Some(PER_DIRECTORY));
    assert_eq!(bench.registry.commits.lock().last().map(Vec::len), Some(0), "a start writes no rows");
}
