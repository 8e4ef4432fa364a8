//! Workers: lease, HTTP, and the files they answer from.
//!
//! `http` (requests) → `query::Engine` → `files` (the segments in place) and `hot` (local copies, which can
//! be written). `access` decides once at start which files those in place are: behind a mount of the store
//! that is a process of its own, or a local store's own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use axum::{Router, http::HeaderValue};
use prometheus::Registry;
use springhouse_fuse::error::{Error, ErrorKind};
use springhouse_gateway::{
    api::{
        client::Registrar,
        types::{LeaseRequest, Tier},
    },
    blocking,
};
use tokio::{sync::watch, task::JoinHandle};

use self::{
    hot::{Hot, Loops},
    http::Service,
    lease::LeaseState,
    verify::Verifier,
};
use crate::{
    mount::{ControlClient, MountChild, MountState},
    query::{self, Engine, QuerySettings, SegmentFiles},
};

mod accept;
mod access;
mod files;
mod hints;
mod hot;
mod http;
mod lease;
mod settings;
#[cfg(test)]
mod tests;
mod verify;

pub use self::{
    hot::HotSettings,
    settings::{Access, WallClock, WorkerSettings},
};

/// How long giving up the lease may take at a stop.
const RELEASE_MAX: Duration = Duration::from_secs(2);

/// A running worker. It serves [`Worker::router`] wherever the caller listens.
#[derive(Debug)]
pub struct Worker {
    service: Arc<Service>,
    access: &'static str,
    child: Option<MountChild>,
    grace: Duration,
    stop: watch::Sender<bool>,
    lease: JoinHandle<()>,
    watcher: Option<JoinHandle<()>>,
    hot: Option<Arc<Hot>>,
    loops: Option<Loops>,
}

impl Worker {
    /// Starts it: opens the way to the segments, starts the engine, takes the lease. Returns when
    /// segments can be read. The caller should listen already: the gateway sends queries from then on.
    ///
    /// # Errors
    /// One line with the reason and the remedy; nothing is left running.
    pub async fn start(settings: WorkerSettings, registrar: Arc<dyn Registrar>) -> Result<Self, Error> {
        let bad = |why: String| Error::new(ErrorKind::InvalidArgument, why);
        settings.query.check().map_err(bad)?;
        let name = HeaderValue::try_from(&settings.name)
            .map_err(|_| bad(format!("{:?} cannot be a worker's name", settings.name)))?;
        let registry = Registry::new();
        let hot = match settings.hot.clone() {
            Some(hot) => Some(open_hot(hot, settings.query.clone(), registry.clone()).await?),
            None => None,
        };
        let since = settings.clock.now().duration_since(SystemTime::UNIX_EPOCH);
        let clock = since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let epoch = match &hot {
            // The gateway refuses an older one for good, and clocks are set back.
            Some(hot) => hot.next_epoch(clock).await?,
            None => clock,
        };
        if hot.is_none() && !settings.cold {
            return Err(bad("a worker without a tier: cold, hot or both".into()));
        }
        let opened = if settings.cold { Some(access::open(&settings).await?) } else { None };
        let (cold, child, access) = match opened {
            Some(opened) => (Some(opened.files), opened.child, opened.name),
            None => (None, None, "copy"),
        };
        let files: Arc<dyn SegmentFiles> = match (&hot, cold) {
            (Some(hot), cold) => Arc::new(hot::Files { hot: Arc::clone(hot), cold }),
            (None, Some(cold)) => cold,
            (None, None) => return Err(bad("a worker without a tier: cold, hot or both".into())),
        };
        let engine = match Engine::start(settings.query.clone(), Arc::clone(&files), &registry) {
            Ok(engine) => Arc::new(engine),
            Err(why) => {
                stop_mount(child).await;
                return Err(Error::new(ErrorKind::Other, why));
            }
        };

        let request = LeaseRequest {
            epoch,
            url: settings.url,
            tier: if settings.cold { Tier::Cold } else { Tier::Hot },
            store: settings.store.to_string(),
            weight: settings.weight,
            access: access.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            queries_running: 0,
            hot: None,
        };
        let (state, lease_state) = watch::channel(LeaseState::Asking);
        let (stop, stopped) = watch::channel(false);
        let counted = Arc::clone(&engine);
        let worker_name = settings.name;
        let (answers, answered) = watch::channel(None);
        let loops = hot.as_ref().map(|hot| {
            hot.set_engine(&engine);
            Loops::start(hot, worker_name.clone(), epoch, Arc::clone(&registrar), answered)
        });
        let reporting = hot.clone();
        let lease = tokio::spawn(async move {
            let request = || LeaseRequest {
                queries_running: u32::try_from(counted.running()).unwrap_or(u32::MAX),
                hot: reporting.as_ref().map(|hot| hot.report()),
                ..request.clone()
            };
            lease::keep(&worker_name, registrar, request, state, answers, stopped).await;
        });
        let watcher =
            child.as_ref().map(|child| tokio::spawn(close_with_mount(child.state(), Arc::clone(&engine))));
        let service = Arc::new(Service {
            name,
            engine,
            verifier: Verifier::new(
                Arc::clone(&files),
                settings.cold,
                hot.clone(),
                child.as_ref().and_then(|child| child.control().ok()),
            ),
            files,
            registry,
            secret: settings.cluster_secret,
            timeout_max: settings.query.timeout_max,
            lease: lease_state,
            stopping: AtomicBool::new(false),
            mount: child.as_ref().and_then(|child| child.control().ok()),
            hot: hot.clone(),
            cold: settings.cold,
        });
        Ok(Self { service, access, child, grace: settings.shutdown_grace, stop, lease, watcher, hot, loops })
    }

    /// The HTTP service of the worker.
    pub fn router(&self) -> Router {
        http::router(Arc::clone(&self.service))
    }

    /// How it reads segments: `fuse`, `direct`, or from a `copy` only.
    pub fn access(&self) -> &'static str {
        self.access
    }

    /// The engine, for calls in this process (benchmarks, schema checks).
    pub fn engine(&self) -> &Engine {
        &self.service.engine
    }

    /// Gives the lease up, so that no new queries come, lets running ones end (up to the grace), and
    /// stops the mount.
    pub async fn shutdown(self) {
        self.service.stopping.store(true, Ordering::Relaxed);
        self.service.verifier.shutdown();
        self.stop.send_replace(true);
        let abort = self.lease.abort_handle();
        if tokio::time::timeout(RELEASE_MAX, self.lease).await.is_err() {
            abort.abort();
        }
        if let Some(hot) = &self.hot {
            hot.shutdown(self.loops).await;
        }
        self.service.engine.shutdown(self.grace).await;
        if let Some(watcher) = self.watcher {
            watcher.abort();
        }
        stop_mount(self.child).await;
    }
}

#[cfg(test)]
impl Worker {
    /// Ends everything that goes on by itself, with nothing finished: all that can be done of kill -9 to a part
    /// of a process. What runs on threads ends by itself.
    pub(crate) fn kill(mut self) {
        self.lease.abort();
        drop(self.loops.take());
        if let Some(hot) = &self.hot {
            hot.die();
        }
    }
}

/// Reading records and recovering logs waits for a disk.
async fn open_hot(
    settings: HotSettings,
    limits: QuerySettings,
    registry: Registry,
) -> Result<Arc<Hot>, Error> {
    blocking::run(move || {
        query::init().map_err(|why| Error::new(ErrorKind::Other, why))?;
        Hot::open(settings, limits, &registry)
    })
    .await
    .unwrap_or_else(|_| Err(Error::new(ErrorKind::Other, "opening the data directory failed by a defect")))
}

async fn stop_mount(child: Option<MountChild>) {
    if let Some(child) = child
        && let Err(error) = child.stop().await
    {
        tracing::warn!(%error, "the mount could not be stopped cleanly");
    }
}

/// Connections into a mount that died hold it busy: closes them at each change of its state. (The state
/// between two that are ready may never be seen.)
async fn close_with_mount(mut state: watch::Receiver<MountState>, engine: Arc<Engine>) {
    while state.changed().await.is_ok() {
        let engine = Arc::clone(&engine);
        // Closing files is a system call on a dying mount: not on the runtime's threads.
        let _ = blocking::run(move || engine.close_idle()).await;
    }
}

/// The mount's figures; nothing, with a line in the log, while it cannot tell them.
async fn mount_metrics(mount: &ControlClient) -> String {
    match mount.metrics().await {
        Ok(text) => text,
        Err(error) => {
            tracing::debug!(%error, "the mount gives no figures");
            String::new()
        }
    }
}
