//! The workers as routing sees them: leases, endpoints, load.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, http::HeaderValue};
use parking_lot::{Mutex, RwLock};

use crate::{
    api::{
        hot::HotReport,
        types::{LeaseRequest, Tier, WorkerInfo},
    },
    copies::HotWorker,
    leases::{Leases, Refusal},
    placement::{WorkerSeed, load_bound, rank},
    segment::SegmentId,
};

/// How a worker is reached.
#[derive(Clone)]
pub enum Endpoint {
    /// Base URL without a slash at the end.
    Http(Arc<str>),
    /// In this process: no connection, no bytes copied.
    InProcess(Router),
}

/// A worker with a lease. Made anew by every heartbeat; only `load` lives on.
pub struct Worker {
    /// Its name.
    pub name: Arc<str>,
    /// Its name as a header.
    pub name_header: HeaderValue,
    /// How it is reached.
    pub endpoint: Endpoint,
    /// Epoch of its lease.
    pub epoch: u64,
    /// Its base URL as its lease has it.
    pub url: Arc<str>,
    /// Its last report, if it holds copies.
    pub hot: Option<HotReport>,
    seed: WorkerSeed,
    weight: u32,
    tier: Tier,
    /// When its lease ended, had it sent no further heartbeat; see [`Workers::lease_end`].
    pub live_until: Instant,
    load: Arc<AtomicU32>,
    /// Set when it could not be reached: asked last until its next heartbeat.
    suspected: AtomicBool,
}

impl Worker {
    /// It could not be reached.
    pub fn suspect(&self) {
        self.suspected.store(true, Ordering::Relaxed);
    }

    /// Requests that it is answering.
    pub fn load(&self) -> u32 {
        self.load.load(Ordering::Relaxed)
    }

    /// Counts a request until the guard is dropped.
    pub fn begin(&self) -> InFlight {
        self.load.fetch_add(1, Ordering::Relaxed);
        InFlight(self.load.clone())
    }
}

/// A request that a worker is answering.
pub struct InFlight(Arc<AtomicU32>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All workers. `leases` is the truth; `table` is what routing reads, replaced as a whole.
pub struct Workers {
    leases: Mutex<Leases>,
    table: RwLock<Arc<Vec<Arc<Worker>>>>,
    locals: Mutex<HashMap<String, Router>>,
}

/// Workers that may be asked for a segment, best first.
pub struct Candidates {
    /// In the order in which they are to be asked.
    pub workers: Vec<Arc<Worker>>,
    /// How many were put back because of their load.
    pub overloaded: u32,
}

impl Workers {
    /// None yet.
    pub fn new(lease_ttl: Duration, now: Instant) -> Self {
        Self {
            leases: Mutex::new(Leases::new(lease_ttl, now)),
            table: RwLock::new(Arc::new(Vec::new())),
            locals: Mutex::new(HashMap::new()),
        }
    }

    /// Requests for `name` go to `router` from now on.
    pub fn attach_local(&self, name: &str, router: Router, now: Instant) {
        self.locals.lock().insert(name.to_owned(), router);
        self.rebuild(&self.leases.lock(), name, now);
    }

    /// Whether `name` runs in this process.
    pub fn is_local(&self, name: &str) -> bool {
        self.locals.lock().contains_key(name)
    }

    /// A heartbeat; `true` if the lease was taken, not renewed.
    pub fn renew(&self, name: &str, request: LeaseRequest, now: Instant) -> Result<bool, Refusal> {
        let mut leases = self.leases.lock();
        let taken = leases.renew(name, request, now)?;
        self.rebuild(&leases, name, now);
        Ok(taken)
    }

    /// A worker goes.
    pub fn release(&self, name: &str, epoch: u64, now: Instant) -> Result<(), Refusal> {
        let mut leases = self.leases.lock();
        leases.release(name, epoch, now)?;
        self.rebuild(&leases, name, now);
        Ok(())
    }

    /// See [`Leases::ttl`].
    pub fn ttl(&self) -> Duration {
        self.leases.lock().ttl()
    }

    /// See [`Leases::warming`].
    pub fn warming(&self, now: Instant) -> Option<Duration> {
        self.leases.lock().warming(now)
    }

    /// When the lease of `name` ends, or ended. `None` if it is unknown or was given up: a worker that
    /// goes ends what it has begun.
    pub fn lease_end(&self, name: &str) -> Option<Instant> {
        self.leases.lock().end(name)
    }

    /// Live cold workers in the order in which they are to be asked for `segment`: by rank, but those
    /// over the load bound after those within it, and those that could not be reached last.
    pub fn candidates(&self, segment: &SegmentId, now: Instant) -> Candidates {
        let table = self.table.read().clone();
        in_order(segment, table.iter().filter(|worker| worker.tier == Tier::Cold && now < worker.live_until))
    }

    /// The live ones of `holders` (name, and epoch of the lease under which it has a copy), in the same
    /// order.
    pub fn holders(&self, segment: &SegmentId, holders: &[(Arc<str>, u64)], now: Instant) -> Candidates {
        let table = self.table.read().clone();
        let holds = |worker: &&Arc<Worker>| {
            now < worker.live_until
                && worker.hot.is_some()
                && holders.iter().any(|(name, epoch)| *name == worker.name && *epoch == worker.epoch)
        };
        in_order(segment, table.iter().filter(holds))
    }

    /// The worker `name`, if it lives.
    pub fn live(&self, name: &str, now: Instant) -> Option<Arc<Worker>> {
        self.table.read().iter().find(|worker| *worker.name == *name && now < worker.live_until).cloned()
    }

    /// Live workers.
    pub fn all(&self, now: Instant) -> Vec<Arc<Worker>> {
        self.table.read().iter().filter(|worker| now < worker.live_until).cloned().collect()
    }

    /// Live workers that hold copies.
    pub fn hot(&self, now: Instant) -> Vec<Arc<Worker>> {
        let table = self.table.read();
        table.iter().filter(|worker| worker.hot.is_some() && now < worker.live_until).cloned().collect()
    }

    /// The same as copies need them.
    pub fn hot_workers(&self, now: Instant) -> Vec<HotWorker> {
        let hot = self.hot(now);
        hot.iter()
            .filter_map(|worker| {
                let report = worker.hot.clone()?;
                Some(HotWorker { name: worker.name.clone(), epoch: worker.epoch, report })
            })
            .collect()
    }

    /// Number of live workers.
    pub fn live_count(&self, now: Instant) -> usize {
        self.table.read().iter().filter(|worker| now < worker.live_until).count()
    }

    /// Every remembered worker, by name.
    pub fn infos(&self, now: Instant) -> Vec<WorkerInfo> {
        let loads: HashMap<Arc<str>, u32> = self
            .table
            .read()
            .iter()
            .map(|worker| (worker.name.clone(), worker.load.load(Ordering::Relaxed)))
            .collect();
        let leases = self.leases.lock();
        leases
            .iter()
            .map(|(name, lease)| WorkerInfo {
                name: name.to_owned(),
                lease: lease.request.clone(),
                live: leases.holds(lease, now),
                lease_age_ms: u64::try_from(now.saturating_duration_since(lease.renewed).as_millis())
                    .unwrap_or(u64::MAX),
                in_flight: loads.get(name).copied().unwrap_or(0),
            })
            .collect()
    }

    /// Puts the worker `name` into the table as its lease says, and drops what has expired. Called under
    /// the lock of `leases`, so tables never overtake each other.
    fn rebuild(&self, leases: &Leases, name: &str, now: Instant) {
        let mut table = self.table.write();
        let load = table.iter().find(|w| *w.name == *name).map(|w| w.load.clone()).unwrap_or_default();
        let mut next: Vec<Arc<Worker>> =
            table.iter().filter(|w| *w.name != *name && now < w.live_until).cloned().collect();
        let lease = leases.iter().find(|(held, lease)| *held == name && leases.holds(lease, now));
        // A worker's name is checked to be a valid header before it gets a lease.
        if let Some((_, lease)) = lease
            && let Ok(name_header) = HeaderValue::from_str(name)
        {
            let endpoint = match self.locals.lock().get(name) {
                Some(router) => Endpoint::InProcess(router.clone()),
                None => Endpoint::Http(lease.request.url.trim_end_matches('/').into()),
            };
            next.push(Arc::new(Worker {
                name: name.into(),
                name_header,
                endpoint,
                epoch: lease.request.epoch,
                url: lease.request.url.trim_end_matches('/').into(),
                hot: lease.request.hot.clone(),
                seed: WorkerSeed::of(name),
                weight: lease.request.weight,
                tier: lease.request.tier,
                live_until: lease.renewed + leases.ttl(),
                load,
                suspected: AtomicBool::new(false),
            }));
        }
        *table = Arc::new(next);
    }
}

fn in_order<'a>(segment: &SegmentId, live: impl Iterator<Item = &'a Arc<Worker>>) -> Candidates {
    let live: Vec<&Arc<Worker>> = live.collect();
    let total: u32 = live.iter().map(|worker| worker.load()).sum();
    let weights: u64 = live.iter().map(|worker| u64::from(worker.weight)).sum();
    let (mut first, mut later, mut last) = (Vec::with_capacity(live.len()), Vec::new(), Vec::new());
    for index in rank(segment, live.iter().map(|worker| (worker.seed, worker.weight))) {
        let worker = live[index];
        if worker.suspected.load(Ordering::Relaxed) {
            last.push(worker.clone());
        } else if worker.load() >= load_bound(total, worker.weight, weights) {
            later.push(worker.clone());
        } else {
            first.push(worker.clone());
        }
    }
    let overloaded = u32::try_from(later.len()).unwrap_or(u32::MAX);
    first.append(&mut later);
    first.append(&mut last);
    Candidates { workers: first, overloaded }
}
