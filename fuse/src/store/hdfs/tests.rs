//! On a real HDFS, whose superuser is the user of this process. The end-to-end tests start one; these
//! are for trying things while writing this folder:
//!
//! `SPRINGHOUSE_TEST_HDFS=hdfs://HOST:PORT cargo test -p springhouse-fuse hdfs::tests -- --ignored`

use crate::store::{
    OpenedStore, StoreOptions, StorePath, StoreUrl,
    contract::{Operation, check_operations, check_store},
    open,
};

fn url(dir: &str) -> StoreUrl {
    let base = std::env::var("SPRINGHOUSE_TEST_HDFS").expect("SPRINGHOUSE_TEST_HDFS names an HDFS");
    format!("{base}/store-tests/{dir}-{}", std::process::id()).parse().expect("a store URL")
}

async fn fresh(dir: &str) -> OpenedStore {
    let url = url(dir);
    let StoreUrl::Hdfs { authority, path } = &url else { panic!("an HDFS URL") };
    let top = format!("hdfs://{authority}/").parse().expect("a URL");
    open(&top, &StoreOptions::default()).expect("opens").store.create_dir(path).await.expect("mkdirs");
    open(&url, &StoreOptions::default()).expect("the store opens")
}

fn path(text: &str) -> StorePath {
    StorePath::parse(text).expect("a valid path")
}

#[tokio::test]
#[ignore = "needs a real HDFS"]
async fn keeps_the_contract() {
    check_store(&*fresh("contract").await.store, &path("/t")).await;
}

#[tokio::test]
#[ignore = "needs a real HDFS"]
async fn does_what_the_model_does() {
    let store = fresh("model").await.store;
    for seed in 0..3u64 {
        let bits = |i: u64| xxhash_rust::xxh3::xxh3_64_with_seed(&i.to_le_bytes(), seed);
        let operations: Vec<_> = (0..150).map(|i| Operation::from_bits(bits(i))).collect();
        check_operations(&*store, &path(&format!("/t{seed}")), &operations).await;
    }
}
