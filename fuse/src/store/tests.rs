//! Each decorator by itself, and all together, keep the contract of the store below them.

use std::{sync::Arc, time::Duration};

use super::{
    Counters, Operation, RetryPolicy, Store, StoreOptions, StorePath, contract::check_store, count::Count,
    deadline::Deadline, decorate, latency::Latency, memory::MemoryStore, outage::Outage,
    single_flight::SingleFlight,
};

/// The contract calls every method of [`Store`], so one that a decorator does not hand on breaks it. The
/// trait has no default methods for the same reason.
#[tokio::test(start_paused = true)]
async fn every_decorator_hands_every_call_on() {
    let counters = || Arc::new(Counters::new().expect("counters"));
    type Wrap = Box<dyn Fn(Arc<dyn Store>) -> Arc<dyn Store>>;
    let decorators: [(&str, Wrap); 6] = [
        ("latency", Box::new(|inner| Arc::new(Latency::new(inner, Duration::from_millis(1))))),
        ("count", Box::new(move |inner| Arc::new(Count::new(inner, counters())))),
        (
            "deadline",
            Box::new(move |inner| {
                Arc::new(Deadline::new(inner, Duration::from_secs(10), RetryPolicy::default(), counters()))
            }),
        ),
        ("outage", Box::new(|inner| Arc::new(Outage::new(inner)))),
        ("single flight", Box::new(move |inner| Arc::new(SingleFlight::new(inner, counters())))),
        ("all", Box::new(|inner| decorate(inner, &StoreOptions::default()).expect("decorate").store)),
    ];
    for (name, wrap) in decorators {
        let memory = MemoryStore::new();
        check_store(&*wrap(Arc::new(memory.clone())), &StorePath::parse("/t").expect("a valid path")).await;
        for operation in Operation::ALL {
            assert!(memory.calls(operation) > 0, "{name}: {} does not arrive", operation.name());
        }
    }
}
