//! The store's contract, held by a real HDFS.

use springhouse_fuse::store::{Store, StoreOptions, StorePath, contract, open};

use crate::{
    harness::{block_on, hdfs::Hdfs, segments::mix},
    registry::tests,
};

tests! {
    [Hdfs] hdfs_keeps_the_contract, hdfs_does_what_the_model_does;
}

/// Each operation is several calls to the NameNode.
const OPERATIONS: u64 = 150;

fn hdfs_keeps_the_contract() {
    on_hdfs("contract", async |store| contract::check_store(store, &path()).await);
}

fn hdfs_does_what_the_model_does() {
    let operations: Vec<_> = (0..OPERATIONS).map(|i| contract::Operation::from_bits(mix(8, i))).collect();
    on_hdfs("model", async |store| contract::check_operations(store, &path(), &operations).await);
}

fn on_hdfs(name: &str, check: impl AsyncFnOnce(&dyn Store)) {
    let dir = Hdfs::shared().dir(name);
    let url = dir.url().parse().expect("a store URL");
    block_on(async {
        let opened = open(&url, &StoreOptions::default()).expect("the store opens");
        check(&*opened.store).await;
        assert_eq!(opened.counters.running(), 0, "every call that started has ended");
    });
}

fn path() -> StorePath {
    StorePath::parse("/t").expect("a valid path")
}
