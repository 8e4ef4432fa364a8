//! Mounts a store that seems to be far away: for measuring what a cold query costs in round trips.
//!
//! `far_mount URL DIR LATENCY_MS [on|off [BLOCK_BYTES]] [--trace]` serves the directory until it is unmounted,
//! with so much added to every call to the store, and with (default) or without knowledge of SQLite; then it
//! prints what the store was asked, with `--trace` each single call.

// The figures are what this program is for.
#![allow(clippy::print_stdout)]

use std::{error::Error, process::ExitCode, sync::Arc, time::Duration};

use springhouse_fuse::{
    fs::{FileSystem, FsSettings},
    kernel::{MountOptions, mount},
    store::{Store, StoreOptions, StoreUrl, open, share_hdfs_runtime},
};
use tokio::{runtime::Handle, time::Instant};

use trace::{Calls, Traced};

mod trace;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("far_mount: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let trace = arguments.pop_if(|last| last == "--trace").is_some();
    let (url, dir, latency, rest) = match arguments.as_slice() {
        [url, dir, latency, rest @ ..] if rest.len() <= 2 => (url, dir, latency, rest),
        _ => return Err("usage: far_mount URL DIR LATENCY_MS [on|off [BLOCK_BYTES]] [--trace]".into()),
    };
    // As the mount does.
    if std::env::var_os("FAR_MOUNT_APART").is_none() {
        share_hdfs_runtime(&Handle::current());
    }
    let added_latency = Duration::from_micros((latency.parse::<f64>()? * 1000.0) as u64);
    let opened = open(&url.parse::<StoreUrl>()?, &StoreOptions { added_latency, ..StoreOptions::default() })?;
    // As the mount does, which also connects.
    let asked = Instant::now();
    let root = opened.check_root().await?;
    let mut settings =
        FsSettings { sqlite: rest.first().is_none_or(|on| on != "off"), ..FsSettings::default() };
    if let Some(bytes) = rest.get(1) {
        settings.block_bytes = bytes.parse()?;
    }
    let calls = Arc::new(Calls::default());
    let store: Arc<dyn Store> = if trace {
        Arc::new(Traced { inner: opened.store.clone(), calls: calls.clone() })
    } else {
        opened.store.clone()
    };
    let fs = Arc::new(FileSystem::new(store, settings, Handle::current())?.with_root(root, asked));
    let options =
        MountOptions { dir: dir.into(), source: url.clone(), allow_other: false, noexec: false, threads: 2 };
    let mut mounted = mount(fs.clone(), Handle::current(), &options)?;
    println!("mounted");
    mounted.ended().await;
    println!("{:?}", fs.snapshot().cache);
    for operation in opened.counters.snapshot().operations.iter().filter(|operation| operation.count > 0) {
        println!("{:?}: {} calls, {} bytes", operation.operation, operation.count, operation.bytes);
    }
    calls.lines().iter().for_each(|line| println!("{line}"));
    Ok(())
}
