//! What every store must do, as tests that run against any of them.
//!
//! The unit tests run them on the stores that need nothing, the end-to-end tests on real HDFS. Each
//! function works inside a directory of its own and panics with the promise that was broken.

// A broken promise is a failed test, whoever calls.
#![allow(clippy::missing_panics_doc)]

use bytes::Bytes;
use futures::TryStreamExt;

pub use self::model::{Operation, check_operations};
use super::{CreateOptions, Entry, Metadata, Store, StorePath};
use crate::error::{ErrorKind, Result};

mod changes;
mod model;
mod promises;

/// Checks every promise of [`Store`] one by one, below `dir`, which must not exist.
pub async fn check_store(store: &dyn Store, dir: &StorePath) {
    store.create_dir(dir).await.expect("make the test's directory");
    let at = |name: &str| sub(dir, name);
    promises::directories(store, &at("directories")).await;
    promises::names(store, &at("names")).await;
    promises::reads(store, &at("reads")).await;
    promises::creation(store, &at("creation")).await;
    promises::renames(store, &at("renames")).await;
    changes::appending(store, &at("appending")).await;
    changes::truncation(store, &at("truncation")).await;
    changes::attributes(store, &at("attributes")).await;
    changes::one_directory(store, &at("one directory")).await;
    promises::deletion(store, &at("deletion")).await;
    promises::generations(store, &at("generations")).await;
    promises::replacement(store, &at("replacement")).await;
    promises::opened_ahead(store, &at("opened ahead")).await;
    store.delete(dir, true).await.expect("remove the test's directory");
}

/// The path `name` below `dir`.
fn sub(dir: &StorePath, name: &str) -> StorePath {
    name.split('/').fold(dir.clone(), |path, name| path.join(name).expect("a valid name"))
}

/// `len` bytes that tell from which file and which offset they are.
pub fn content(seed: u64, len: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(len + 8);
    let mut word = 0u64;
    while bytes.len() < len {
        bytes.extend(xxhash_rust::xxh3::xxh3_64_with_seed(&word.to_le_bytes(), seed).to_le_bytes());
        word += 1;
    }
    bytes.truncate(len);
    bytes.into()
}

/// Writes a whole file, in a few pieces.
async fn put(store: &dyn Store, path: &StorePath, data: Bytes, options: CreateOptions) -> Result<()> {
    let mut writer = store.create(path, options).await?;
    let piece = (data.len() / 3).max(1);
    let mut rest = data;
    while !rest.is_empty() {
        let next = rest.split_to(piece.min(rest.len()));
        writer.write(next).await?;
    }
    writer.close().await
}

/// Reads a whole file by one read.
async fn get(store: &dyn Store, path: &StorePath) -> Result<Bytes> {
    let reader = store.open(path, None).await?;
    let len = usize::try_from(reader.metadata().len).expect("a test's file fits in memory");
    reader.read_at(0, len).await
}

/// A directory's entries by name.
async fn entries(store: &dyn Store, dir: &StorePath) -> Result<Vec<Entry>> {
    let mut all: Vec<Entry> = store.list(dir).try_collect().await?;
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

async fn names(store: &dyn Store, dir: &StorePath) -> Result<Vec<String>> {
    Ok(entries(store, dir).await?.into_iter().map(|entry| entry.name).collect())
}

#[track_caller]
fn fails<T>(outcome: Result<T>, kinds: &[ErrorKind], promise: &str) {
    match outcome {
        Ok(_) => panic!("{promise}: it went well"),
        Err(error) => assert!(kinds.contains(&error.kind()), "{promise}: {:?}: {error}", error.kind()),
    }
}

async fn stat(store: &dyn Store, path: &StorePath) -> Metadata {
    store.stat(path).await.expect("stat of what was just made")
}
