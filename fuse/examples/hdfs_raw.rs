//! Reads or writes one file with `hdfs-native` alone: the baseline that the mount is measured against.
//!
//! `hdfs_raw --write FILE hdfs://HOST:PORT/path` writes a local file, in pieces of 4 MiB; the time is
//! that of create, writes and close.
//!
//! `hdfs_raw hdfs://HOST:PORT/path [UNIT]` reads the file from start to end by one `read_range` of UNIT
//! bytes (default 4 MiB) after the other, and prints one line of JSON. The time is that of open and
//! reads; the hash is taken of each unit while its time is not counted.

// The line of JSON is what this program is for.
#![allow(clippy::print_stdout)]

use std::{error::Error, process::ExitCode, time::Duration};

use hdfs_native::{Client, ClientBuilder, WriteOptions};
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hdfs_raw: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).peekable();
    let usage = "usage: hdfs_raw [--write FILE] hdfs://HOST:PORT/path [UNIT_BYTES]";
    let source = arguments.next_if(|word| word == "--write").and_then(|_| arguments.next());
    let url = arguments.next().ok_or(usage)?;
    let unit: usize = arguments.next().map_or(Ok(4 << 20), |text| text.parse())?;
    if unit == 0 {
        return Err(usage.into());
    }
    // The path is taken as it is, as everywhere in Springhouse: no percent codes.
    let path_at = url.strip_prefix("hdfs://").and_then(|rest| rest.find('/')).ok_or(usage)?;
    let (authority, path) = url.split_at("hdfs://".len() + path_at);
    let client = ClientBuilder::new().with_url(authority).build()?;
    if let Some(source) = source {
        return write(&client, &source, path, unit).await;
    }
    let mut counted = Duration::ZERO;
    let mut hash = Xxh3::new();

    let start = Instant::now();
    let reader = client.read(path).await?;
    counted += start.elapsed();

    let (mut at, end) = (0, reader.file_length());
    while at < end {
        let start = Instant::now();
        let bytes = reader.read_range(at, unit.min(end - at)).await?;
        counted += start.elapsed();
        hash.update(&bytes);
        at += bytes.len();
    }
    let seconds = counted.as_secs_f64();
    println!(r#"{{"seconds": {seconds:.6}, "bytes": {at}, "xxh3": "{:032x}"}}"#, hash.digest128());
    Ok(())
}

async fn write(client: &Client, source: &str, path: &str, unit: usize) -> Result<(), Box<dyn Error>> {
    let bytes = bytes::Bytes::from(std::fs::read(source)?);
    let start = Instant::now();
    let mut writer = client.create(path, WriteOptions::default().overwrite(true)).await?;
    for at in (0..bytes.len()).step_by(unit) {
        writer.write_bytes(bytes.slice(at..bytes.len().min(at + unit))).await?;
    }
    writer.close().await?;
    let seconds = start.elapsed().as_secs_f64();
    println!(r#"{{"seconds": {seconds:.6}, "bytes": {}}}"#, bytes.len());
    Ok(())
}
