//! Processes: a gateway and some workers on one store, their lives and deaths.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, UNIX_EPOCH},
};

use axum::Router;
use parking_lot::Mutex;
use springhouse_fuse::store::StoreUrl;
use springhouse_gateway::{
    Gateway, SchemaCheck, Settings,
    api::client::Registrar,
    rules::{Rule, Ship},
    testing::MemoryRegistry,
};
use tokio::time::{Instant, sleep};

use super::{
    files::Mounted,
    net::{Net, Place, Process},
    store::{Now, Remote},
    tree::Tree,
    wire::{Slot, WayToGateway, way_to_worker},
};
use crate::{
    gateway_store::GatewayStore,
    worker::{HotSettings, WallClock, Worker, WorkerSettings},
};

/// Midnight of 2026-01-01, ms since 1970: where every simulation begins.
const BEGIN_MS: i64 = 1_767_225_600_000;
/// A worker's disk.
const QUOTA_BYTES: u64 = 64 << 20;

/// Takes every schema.
struct AnySchema;

#[async_trait::async_trait]
impl SchemaCheck for AnySchema {
    async fn check(&self, _: &str) -> Result<(), String> {
        Ok(())
    }
}

/// One worker's host.
struct Host {
    slot: Arc<Slot<Router>>,
    running: Mutex<Option<(Worker, Arc<Process>)>>,
    /// What the disk holds, as of its last process.
    disk: Mutex<PathBuf>,
    /// How wrong its clock is, in ms.
    skew_ms: Arc<AtomicI64>,
    /// Where it dies: after so many named points.
    points: AtomicU64,
}

pub(super) struct Cluster {
    pub(super) net: Arc<Net>,
    pub(super) tree: Arc<Mutex<Tree>>,
    dir: PathBuf,
    disks: AtomicU64,
    registry: Mutex<MemoryRegistry>,
    gateway: Mutex<Option<(Gateway, Arc<Process>)>>,
    to_gateway: Arc<Slot<Arc<dyn Registrar>>>,
    pub(super) clients: Slot<Router>,
    hosts: Vec<Host>,
    pub(super) now_ms: Now,
    /// How writes are shipped.
    ship: Ship,
}

pub(super) fn worker_name(n: usize) -> String {
    format!("w{n}")
}

fn url() -> StoreUrl {
    StoreUrl::File { path: PathBuf::from("/simulated") }
}

impl Cluster {
    pub(super) fn new(
        net: Arc<Net>,
        workers: usize,
        renames_anew: bool,
        ship: Ship,
        dir: &Path,
    ) -> Arc<Self> {
        let begun = Instant::now();
        let now_ms: Now = Arc::new(move || {
            // SQLite's threads ask as well.
            let now = crate::clock::now().saturating_duration_since(begun.into_std());
            BEGIN_MS + i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
        });
        let cluster = Self {
            net,
            tree: Arc::new(Mutex::new(Tree::new(renames_anew))),
            dir: dir.to_owned(),
            disks: AtomicU64::new(0),
            registry: Mutex::default(),
            gateway: Mutex::new(None),
            to_gateway: Arc::default(),
            clients: Slot::default(),
            hosts: (0..workers)
                .map(|n| Host {
                    slot: Arc::default(),
                    running: Mutex::new(None),
                    disk: Mutex::new(dir.join(format!("disk-{n}"))),
                    skew_ms: Arc::default(),
                    points: AtomicU64::new(u64::MAX),
                })
                .collect(),
            now_ms,
            ship,
        };
        Arc::new(cluster)
    }

    pub(super) fn workers(&self) -> usize {
        self.hosts.len()
    }

    fn remote(&self, process: &Arc<Process>) -> Remote {
        Remote {
            net: Arc::clone(&self.net),
            tree: Arc::clone(&self.tree),
            process: Arc::clone(process),
            now_ms: Arc::clone(&self.now_ms),
            url: url(),
        }
    }

    /// Starts a gateway on what the last one flushed; tries until it starts.
    pub(super) async fn start_gateway(self: &Arc<Self>) {
        if self.gateway.lock().is_some() {
            return;
        }
        let process = Process::new(Place::Gateway);
        let mut settings = Settings::new("/nowhere");
        settings.copy_max = Duration::from_secs(120);
        settings.copies_grace = Duration::from_secs(30);
        if self.ship.is_on() {
            settings.rules = vec![Rule { name: "all".into(), ship: self.ship, ..Rule::default() }];
        }
        let registry = self.registry.lock().reopened();
        *self.registry.lock() = registry.clone();
        let gateway = loop {
            let store = Arc::new(GatewayStore::new(Arc::new(self.remote(&process))));
            let now_ms = Arc::clone(&self.now_ms);
            match Gateway::start_in_memory(settings.clone(), store, registry.clone(), now_ms).await {
                Ok(gateway) => break gateway,
                Err(error) => {
                    self.net.trace.note(format!("gateway does not start: {error}"));
                    sleep(Duration::from_secs(2)).await;
                }
            }
        };
        gateway.check_schemas_with(Arc::new(AnySchema));
        for (n, host) in self.hosts.iter().enumerate() {
            let way = way_to_worker(Arc::clone(&self.net), Arc::clone(&process), n, Arc::clone(&host.slot));
            gateway.attach_local(&worker_name(n), way);
        }
        self.to_gateway.set(Some((gateway.registrar(), Arc::clone(&process))));
        self.clients.set(Some((gateway.router(), Arc::clone(&process))));
        *self.gateway.lock() = Some((gateway, process));
        self.net.trace.note("gateway is up");
    }

    /// Its process dies at its n-th call of registry (`n` even) or its n-th message (odd).
    pub(super) fn gateway_dies_in(&self, n: u64, after: bool) {
        if let Some((_, process)) = &*self.gateway.lock() {
            if n.is_multiple_of(2) {
                let calls = u32::try_from(n / 2).unwrap_or(u32::MAX);
                self.registry.lock().crash().arm(calls, after, false);
            } else {
                process.dies_in(n / 2);
            }
        }
    }

    /// Whether it was to die, and did.
    pub(super) fn gateway_is_dead(&self) -> bool {
        let crashed = self.registry.lock().crash().happened();
        self.gateway.lock().as_ref().is_none_or(|(_, process)| process.is_dead() || crashed)
    }

    /// kill -9.
    pub(super) fn kill_gateway(&self) {
        let Some((gateway, process)) = self.gateway.lock().take() else { return };
        process.die();
        // What still runs of it writes nothing any more.
        self.registry.lock().crash().arm(0, false, false);
        tokio::spawn(async move { gateway.shutdown().await });
    }

    pub(super) fn is_up(&self, n: usize) -> bool {
        self.hosts[n].running.lock().is_some()
    }

    pub(super) fn worker_is_dead(&self, n: usize) -> bool {
        self.hosts[n].running.lock().as_ref().is_some_and(|(_, process)| process.is_dead())
    }

    pub(super) fn set_skew(&self, n: usize, ms: i64) {
        self.hosts[n].skew_ms.store(ms, SeqCst);
    }

    /// Its router, past the network.
    pub(super) fn worker_router(&self, n: usize) -> Option<Router> {
        self.hosts[n].slot.get().map(|(router, _)| router)
    }

    pub(super) async fn start_worker(&self, n: usize) {
        if self.is_up(n) {
            return;
        }
        let (host, process) = (&self.hosts[n], Process::new(Place::Worker(n)));
        let (now_ms, skew_ms) = (Arc::clone(&self.now_ms), Arc::clone(&host.skew_ms));
        let mut settings = WorkerSettings::new(worker_name(n), url(), "http://127.0.0.1:1", "/nowhere");
        settings.query.threads = 1;
        settings.clock = WallClock::new(move || {
            let ms = now_ms() + skew_ms.load(SeqCst);
            UNIX_EPOCH + Duration::from_millis(ms.unsigned_abs())
        });
        let files = Mounted {
            net: Arc::clone(&self.net),
            tree: Arc::clone(&self.tree),
            place: process.place,
            dir: self.dir.clone(),
        };
        settings.files = Some(Arc::new(files));
        let mut hot = HotSettings::new(host.disk.lock().clone(), Arc::new(self.remote(&process)));
        hot.quota_bytes = Some(QUOTA_BYTES);
        settings.hot = Some(hot);
        let way = WayToGateway {
            net: Arc::clone(&self.net),
            process: Arc::clone(&process),
            slot: Arc::clone(&self.to_gateway),
        };
        let worker = Worker::start(settings, Arc::new(way)).await.expect("a worker starts");
        host.slot.set(Some((worker.router(), Arc::clone(&process))));
        host.points.store(u64::MAX, SeqCst);
        *host.running.lock() = Some((worker, process));
        self.net.trace.note(format!("w{n} is up"));
    }

    /// Its process dies at its n-th named point (even) or its n-th message (odd).
    pub(super) fn worker_dies_in(&self, n: usize, count: u64) {
        if let Some((_, process)) = &*self.hosts[n].running.lock() {
            if count.is_multiple_of(2) {
                self.hosts[n].points.store(count / 2, SeqCst);
            } else {
                process.dies_in(count / 2);
            }
        }
    }

    /// A thread of one of them passes a named point: whoever was to die there does, with the disk as it is.
    pub(super) fn passes(&self) {
        for (n, host) in self.hosts.iter().enumerate() {
            if host.points.load(SeqCst) == u64::MAX || host.points.fetch_sub(1, SeqCst) != 0 {
                continue;
            }
            host.points.store(u64::MAX, SeqCst);
            let running = host.running.lock();
            if let Some((_, process)) = running.as_ref().filter(|(_, process)| !process.is_dead()) {
                self.keep_disk(n);
                self.net.trace.note(format!("w{n} dies at a point"));
                process.die();
            }
        }
    }

    /// From now on its processes see the disk as it is now, whatever the old one still does.
    fn keep_disk(&self, n: usize) {
        let to = self.dir.join(format!("disk-{n}-{}", self.disks.fetch_add(1, SeqCst)));
        let mut disk = self.hosts[n].disk.lock();
        copy_tree(&disk, &to).expect("a copy of a worker's disk");
        *disk = to;
    }

    /// kill -9.
    pub(super) async fn kill_worker(&self, n: usize) {
        let Some((worker, process)) = self.hosts[n].running.lock().take() else { return };
        self.hosts[n].slot.set(None);
        process.die();
        // A thread of its own may be in the middle of a write.
        crate::clock::simulated::settle().await;
        self.keep_disk(n);
        // Only now: what is dropped tidies up.
        worker.kill();
    }

    /// Whoever starts there next finds nothing.
    pub(super) fn lose_disk(&self, n: usize) {
        let empty = self.dir.join(format!("disk-{n}-{}", self.disks.fetch_add(1, SeqCst)));
        *self.hosts[n].disk.lock() = empty;
    }

    /// SIGTERM.
    pub(super) async fn stop_worker(&self, n: usize) {
        let Some((worker, process)) = self.hosts[n].running.lock().take() else { return };
        worker.shutdown().await;
        self.hosts[n].slot.set(None);
        process.die();
    }

    /// No death is arranged any more.
    pub(super) fn nobody_dies(&self) {
        self.registry.lock().crash().disarm();
        if let Some((_, process)) = &*self.gateway.lock() {
            process.dies_in(u64::MAX);
        }
        for host in &self.hosts {
            host.points.store(u64::MAX, SeqCst);
            if let Some((_, process)) = &*host.running.lock() {
                process.dies_in(u64::MAX);
            }
        }
    }

    pub(super) fn scratch(&self) -> &Path {
        &self.dir
    }

    /// Where its files are.
    pub(super) fn disk(&self, n: usize) -> PathBuf {
        self.hosts[n].disk.lock().clone()
    }
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
