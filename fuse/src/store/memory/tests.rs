use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::store::contract::{Operation as Op, check_operations, check_store};

fn path(text: &str) -> StorePath {
    StorePath::parse(text).expect("a valid path")
}

#[tokio::test]
async fn keeps_the_contract() {
    check_store(&MemoryStore::new(), &path("/t")).await;
}

proptest! {
    #[test]
    fn does_what_the_model_does(bits in proptest::collection::vec(any::<u64>(), 1..100)) {
        let operations: Vec<_> = bits.into_iter().map(Op::from_bits).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(check_operations(&MemoryStore::new(), &path("/t"), &operations));
    }
}

#[tokio::test(start_paused = true)]
async fn faults_strike_as_they_are_scripted() {
    let store = MemoryStore::new();
    let f = path("/f");
    store.put(&f, "abc").expect("put");
    let twice =
        store.inject(Injection::new(Fault::Fail(ErrorKind::Unavailable)).on(Operation::Stat).times(2));
    for _ in 0..2 {
        assert_eq!(store.stat(&f).await.expect_err("struck").kind(), ErrorKind::Unavailable);
    }
    assert!(store.stat(&f).await.is_ok(), "twice and no more");
    assert_eq!(twice.hits(), 2);

    let reader = store.open(&f, None).await.expect("open");
    let hang = store.inject(Injection::new(Fault::Hang).on(Operation::Read).at(&f));
    let reading = tokio::spawn({
        let reader = Arc::clone(&reader);
        async move { reader.read_at(0, 3).await }
    });
    hang.reached(1).await;
    hang.release();
    assert_eq!(reading.await.expect("join").expect("read"), "abc");

    store.inject(Injection::new(Fault::Delay(Duration::from_secs(3))).on(Operation::Read).times(1));
    let before = tokio::time::Instant::now();
    assert_eq!(reader.read_at(0, 3).await.expect("read"), "abc");
    assert_eq!(before.elapsed(), Duration::from_secs(3));

    store.inject(Injection::new(Fault::Flip).on(Operation::Read).times(1));
    assert_ne!(reader.read_at(0, 3).await.expect("read"), "abc");

    store.inject(Injection::new(Fault::Replace(Bytes::from_static(b"xyz!"))).on(Operation::Read).times(1));
    assert_eq!(reader.read_at(0, 3).await.expect_err("replaced").kind(), ErrorKind::Stale);
    assert_eq!(store.stat(&f).await.expect("stat").len, 4);
}
