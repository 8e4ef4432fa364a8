//! A gateway, workers, clients and a store in one process, with virtual time and everything that goes wrong
//! decided by a seed. The same seed gives the same schedule, event for event.
//!
//! What runs is the program: the gateway with its registry in memory, and workers with SQLite on real
//! files. What is simulated lies between them, at the seams that the program has anyway: `wire` (messages
//! between gateway and workers), `store` and `tree` (the store), `files` (a cold worker's mount). `net` lets
//! one message or call go at a time, `cluster` starts and kills processes, `clients` ask, `model` knows what
//! must be true, `schedule` makes one schedule of a seed, and `ending` looks whether all is well afterwards.
//!
//! Threads are real, and do not decide anything: virtual time stands still while one works, and they take turns
//! with each other and with the runtime ([`crate::clock`]). Whoever asks for the time asks tokio or that module.

mod clients;
mod cluster;
mod dice;
mod ending;
mod files;
mod model;
mod net;
mod schedule;
mod store;
mod tests;
mod trace;
mod tree;
mod wire;

use std::sync::Arc;

use parking_lot::Mutex;

use self::cluster::Cluster;

/// Rows from here on are in files that somebody else put into the store.
const FOREIGN_ROWS: i64 = 1_000_000;

/// The one that runs in this process.
static CLUSTER: Mutex<Option<Arc<Cluster>>> = Mutex::new(None);
/// What no thread may do.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A thread passes a point at which a test may kill its process.
fn passes(name: &str) {
    // It lives in no process that is killed: its crashes are those of the registry.
    if name.starts_with("gateway.") {
        return;
    }
    let cluster = CLUSTER.lock().clone();
    if let Some(cluster) = cluster {
        cluster.net.trace.note(format!("point {name}"));
        cluster.passes();
    }
}
