use prometheus::Registry;

use super::{counters::BUCKETS_S, *};
use crate::{
    error::ErrorKind,
    store::memory::{Fault, Injection, MemoryStore},
};

#[tokio::test]
async fn figures_are_those_of_the_calls() {
    let memory = MemoryStore::new();
    let f = StorePath::parse("/f").expect("a valid path");
    memory.put(&f, vec![7; 5_000]).expect("put");
    let counters = Arc::new(Counters::new().expect("counters"));
    let store = Count::new(Arc::new(memory.clone()), Arc::clone(&counters));
    let reader = store.open(&f, None).await.expect("open");
    for _ in 0..3 {
        reader.read_at(1_000, 2_000).await.expect("read");
    }
    memory.inject(Injection::new(Fault::Fail(ErrorKind::Unavailable)).on(Operation::Read).times(1));
    reader.read_at(0, 1).await.expect_err("struck");
    store.stat(&StorePath::parse("/none").expect("valid")).await.expect_err("there is none");
    assert_eq!(store.list(&StorePath::root()).count().await, 1);
    drop(store.list(&StorePath::root()));

    let snapshot = counters.snapshot();
    let figures = |operation| {
        let found = snapshot.of(operation).expect("each operation is there");
        (found.count, found.errors, found.bytes)
    };
    assert_eq!(figures(Operation::Read), (4, 1, 6_000));
    assert_eq!(figures(Operation::Open), (1, 0, 0));
    assert_eq!(figures(Operation::Stat), (1, 0, 0), "that there is nothing is an answer");
    assert_eq!(figures(Operation::List), (2, 1, 0), "one of them was given up");
    assert_eq!(snapshot.running, 0);
    let read = snapshot.of(Operation::Read).expect("there");
    assert_eq!(read.buckets.len(), BUCKETS_S.len());
    assert!(read.buckets.is_sorted_by_key(|bucket| bucket.1), "cumulative");

    let registry = Registry::new();
    counters.register(&registry).expect("register");
    let names: Vec<_> = registry.gather().iter().map(|family| family.name().to_owned()).collect();
    assert!(names.contains(&"springhouse_store_seconds".to_owned()), "{names:?}");
}

#[test]
fn each_operation_has_its_own_place() {
    for (place, operation) in Operation::ALL.into_iter().enumerate() {
        assert_eq!(operation as usize, place);
    }
}
