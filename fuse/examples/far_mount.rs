//! Mounts a store that seems to be far away: for measuring what a cold query costs in round trips.
//!
//! `far_mount URL DIR LATENCY_MS [on|off]` serves the directory until it is unmounted, with so much added
//! to every call to the store, and with (default) or without knowledge of SQLite; then it prints what the
//! store was asked.

// The figures are what this program is for.
#![allow(clippy::print_stdout)]

use std::{error::Error, process::ExitCode, sync::Arc, time::Duration};

use springhouse_fuse::{
    fs::{FileSystem, FsSettings},
    kernel::{MountOptions, mount},
    store::{StoreOptions, StoreUrl, open},
};
use tokio::runtime::Handle;

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
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (url, dir, latency, sqlite) = match arguments.as_slice() {
        [url, dir, latency] => (url, dir, latency, true),
        [url, dir, latency, sqlite] => (url, dir, latency, sqlite != "off"),
        _ => return Err("usage: far_mount URL DIR LATENCY_MS [on|off]".into()),
    };
    let added_latency = Duration::from_micros((latency.parse::<f64>()? * 1000.0) as u64);
    let opened = open(&url.parse::<StoreUrl>()?, &StoreOptions { added_latency, ..StoreOptions::default() })?;
    let settings = FsSettings { sqlite, ..FsSettings::default() };
    let fs = Arc::new(FileSystem::new(opened.store.clone(), settings, Handle::current())?);
    let options =
        MountOptions { dir: dir.into(), source: url.clone(), allow_other: false, noexec: false, threads: 2 };
    let mut mounted = mount(fs.clone(), Handle::current(), &options)?;
    println!("mounted");
    mounted.ended().await?;
    println!("{:?}", fs.snapshot().cache);
    for operation in opened.counters.snapshot().operations.iter().filter(|operation| operation.count > 0) {
        println!("{:?}: {} calls, {} bytes", operation.operation, operation.count, operation.bytes);
    }
    Ok(())
}
