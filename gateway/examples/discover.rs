//! Measures discovery: makes N segments (default 100,000) in a local directory and prints the first pass,
//! the second one, and one after 10 segments have changed.
//!
//! `cargo run --release -p springhouse-gateway --example discover [N]`
#![allow(clippy::print_stdout)]

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use springhouse_gateway::{
    Gateway, Settings,
    api::client::GatewayClient,
    store::{Generation, SegmentStore, StoreEntry, StoreFailure},
};
use tokio::{net::TcpListener, sync::oneshot, task::spawn_blocking};

/// Just enough of a store on the local disk.
struct LocalStore(PathBuf);

impl LocalStore {
    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }
}

fn failure(error: &io::Error) -> StoreFailure {
    match error.kind() {
        io::ErrorKind::NotFound => StoreFailure::NotFound(error.to_string()),
        io::ErrorKind::AlreadyExists => StoreFailure::AlreadyExists(error.to_string()),
        io::ErrorKind::PermissionDenied => StoreFailure::Denied(error.to_string()),
        _ => StoreFailure::Other(error.to_string()),
    }
}

fn entry(name: String, meta: &fs::Metadata) -> StoreEntry {
    let mut generation = [0; 16];
    generation[..8].copy_from_slice(&meta.ino().to_be_bytes());
    generation[8..].copy_from_slice(&(meta.ctime() * 1_000_000_000 + meta.ctime_nsec()).to_be_bytes());
    StoreEntry {
        name,
        is_dir: meta.is_dir(),
        len: if meta.is_dir() { 0 } else { meta.len() },
        mtime_ms: meta.mtime() * 1000 + meta.mtime_nsec() / 1_000_000,
        generation: Generation(generation),
    }
}

#[async_trait]
impl SegmentStore for LocalStore {
    fn url(&self) -> String {
        format!("file://{}", self.0.display())
    }

    async fn list(&self, dir: &str) -> Result<Vec<StoreEntry>, StoreFailure> {
        let path = self.path(dir);
        let list = move || -> io::Result<Vec<StoreEntry>> {
            fs::read_dir(path)?
                .map(|found| {
                    let found = found?;
                    Ok(entry(found.file_name().to_string_lossy().into_owned(), &found.metadata()?))
                })
                .collect()
        };
        let listed = spawn_blocking(list).await.map_err(|e| StoreFailure::Other(e.to_string()))?;
        listed.map_err(|e| failure(&e))
    }

    async fn stat(&self, path: &str) -> Result<StoreEntry, StoreFailure> {
        let meta = fs::metadata(self.path(path)).map_err(|e| failure(&e))?;
        Ok(entry(path.rsplit('/').next().unwrap_or("").to_owned(), &meta))
    }

    async fn read_small(&self, path: &str) -> Result<Vec<u8>, StoreFailure> {
        fs::read(self.path(path)).map_err(|e| failure(&e))
    }

    async fn create_exclusive(&self, path: &str, data: &[u8]) -> Result<(), StoreFailure> {
        use std::io::Write;
        let mut file = fs::File::create_new(self.path(path)).map_err(|e| failure(&e))?;
        file.write_all(data).map_err(|e| failure(&e))
    }

    async fn rename_over(&self, from: &str, to: &str) -> Result<(), StoreFailure> {
        fs::rename(self.path(from), self.path(to)).map_err(|e| failure(&e))
    }

    async fn remove(&self, path: &str) -> Result<(), StoreFailure> {
        fs::remove_file(self.path(path)).map_err(|e| failure(&e))
    }
}

fn write_segment(root: &Path, n: usize, data: &[u8]) -> io::Result<()> {
    let id = format!("{n:09}");
    let dir = root.join(&id[..6]);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(format!("{id}.sqlite")), data)
}

fn resident_mib() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or("VmRSS: ?");
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or(0)
        .div_ceil(1024)
        .to_string()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = std::env::args().nth(1).map_or(Ok(100_000), |n| n.parse())?;
    let home = tempfile::tempdir()?;
    let root = home.path().join("store");
    fs::create_dir_all(&root)?;
    let started = Instant::now();
    for n in 0..count {
        write_segment(&root, n, b"x")?;
    }
    // Old enough to be quiet, as a store's files are.
    let old = SystemTime::now() - Duration::from_secs(86_400);
    for dir in fs::read_dir(&root)? {
        let dir = dir?.path();
        for file in fs::read_dir(&dir)? {
            fs::File::options().write(true).open(file?.path())?.set_modified(old)?;
        }
        fs::File::open(&dir)?.set_modified(old)?;
    }
    println!(
        "made {count} segments in {:.1} s, {} MiB resident",
        started.elapsed().as_secs_f64(),
        resident_mib()
    );

    let mut settings = Settings::new(home.path().join("registry"));
    settings.discovery_interval = Duration::from_secs(3600);
    let started = Instant::now();
    let gateway = Gateway::start(settings.clone(), Arc::new(LocalStore(root.clone()))).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let client = GatewayClient::new(&format!("http://{}", listener.local_addr()?), None)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let server = {
        let gateway = gateway.clone();
        tokio::spawn(async move { gateway.serve(listener, async move { drop(stopped.await) }).await })
    };
    while client.discovery().await?.last.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("start to end of the first pass: {:.2} s", started.elapsed().as_secs_f64());
    println!("first  {:?}", client.discovery().await?.last);
    println!("second {:?}", client.discover(false).await?);
    for n in (0..count).step_by(count.div_ceil(10)) {
        write_segment(&root, n, b"longer")?;
        // The segment was written in place; only a new name moves the directory's time.
        fs::write(root.join(&format!("{n:09}")[..6]).join("new"), b"")?;
    }
    println!("after 10 changes {:?}", client.discover(false).await?);
    println!("{} MiB resident", resident_mib());
    let _ = stop.send(());
    server.await??;
    gateway.shutdown().await;
    drop((gateway, client));

    let started = Instant::now();
    let gateway = Gateway::start(settings, Arc::new(LocalStore(root))).await?;
    println!("opened again in {:.2} s", started.elapsed().as_secs_f64());
    gateway.shutdown().await;
    Ok(())
}
