//! A running gateway: starts the parts, holds them together, stops them.

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::Instant};

use crate::{
    api::{client::Registrar, router, server, workers::LocalRegistrar},
    copies::{Copies, CopyRules},
    discovery::{
        Clock, Discovery,
        look::Looker,
        owner::{Claim, claim},
        system_clock,
    },
    heat::Heat,
    metrics::Metrics,
    rebuild::epoch_after_loss,
    registry::{
        Adopting, Meta, Registry, RegistryError, places,
        sled::SledRegistry,
        state::{Change, State},
    },
    routing::{Routing, workers::Workers},
    rules::Rules as SegmentRules,
    settings::Settings,
    store::{SegmentStore, StoreFailure},
    trough,
    writing::{Rules, SchemaCheck, Writing},
};

/// Why a gateway did not start: one line with the thing, the reason and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The registry cannot be opened or read.
    #[error("{0}")]
    Registry(String),
    /// Another process has the registry open.
    #[error("{0}")]
    RegistryInUse(String),
    /// The store belongs to another registry, or the registry to another store.
    #[error("{0}")]
    StoreOwned(String),
    /// The store cannot be reached, or does not let us.
    #[error("{0}")]
    Store(StoreFailure),
    /// A setting makes no sense.
    #[error("{0}")]
    Setting(String),
}

impl From<RegistryError> for StartError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::InUse(text) => Self::RegistryInUse(text),
            RegistryError::Failed(text) => Self::Registry(text),
        }
    }
}

/// What handlers see.
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) store_url: String,
    pub(crate) epoch: u64,
    pub(crate) state: Arc<State>,
    pub(crate) discovery: Arc<Discovery>,
    pub(crate) routing: Arc<Routing>,
    pub(crate) writing: Arc<Writing>,
    pub(crate) rules: Arc<SegmentRules>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stopping: AtomicBool,
}

/// A running gateway. Cheap to clone: all clones are the same gateway. Call [`Gateway::shutdown`] at the
/// end; what was acknowledged is safe without it too.
#[derive(Clone)]
pub struct Gateway {
    core: Arc<Core>,
    passes: Arc<Passes>,
}

/// The background tasks: discovery, and upkeep of what is written and copied.
struct Passes {
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Gateway {
    /// Opens the registry, checks the store's owner marker, starts discovery. Answers as soon as the
    /// catalog of the last run is loaded: the first discovery pass goes on in the background.
    pub async fn start(settings: Settings, store: Arc<dyn SegmentStore>) -> Result<Self, StartError> {
        let (directory, cache) = (places::current(&settings.data_dir), settings.registry_cache_bytes);
        let open = move || -> Result<Box<dyn Registry>, RegistryError> {
            Ok(Box::new(SledRegistry::open(&directory, cache)?))
        };
        Self::start_with(settings, store, open, system_clock()).await
    }

    /// With another registry and clock.
    pub(crate) async fn start_with(
        settings: Settings,
        store: Arc<dyn SegmentStore>,
        registry: impl FnOnce() -> Result<Box<dyn Registry>, RegistryError> + Send + 'static,
        clock: Clock,
    ) -> Result<Self, StartError> {
        check(&settings)?;
        let state = blocking(move || State::open(registry()?, new_meta)).await?;
        let state = Arc::new(state);
        own(&settings, &*store, &state, clock()).await?;
        let metrics = Arc::new(Metrics::new().map_err(|e| StartError::Setting(format!("metrics: {e}")))?);
        let looker = Arc::new(Looker::new(store.clone(), state.clone(), metrics.clone()));
        let segment_rules = Arc::new(segment_rules(&settings)?);
        let rules =
            CopyRules { rules: segment_rules.clone(), grace: settings.copies_grace, clock: clock.clone() };
        let routing = Routing::new(
            Workers::new(settings.lease_ttl, Instant::now().into_std()),
            Arc::new(Copies::new(state.clone(), rules)),
            state.clone(),
            looker,
            metrics.clone(),
            settings.connect_timeout,
            settings.secret.as_deref(),
        )
        .map_err(StartError::Setting)?;
        let (known, half_life) = (settings.heat.segments_max, settings.heat.half_life);
        let heat = Heat::new(known, half_life, Instant::now().into_std());
        let routing = Arc::new(routing.measure_with(heat));
        let store_url = store.url();
        let rules = Rules {
            copy_max: settings.copy_max,
            foreign: settings.foreign_generation,
            segments: segment_rules.clone(),
            heat: settings.heat.clone(),
        };
        let writing =
            Arc::new(Writing::new(state.clone(), store.clone(), routing.clone(), clock.clone(), rules));
        let discovery =
            Arc::new(Discovery::new(store, state.clone(), metrics.clone(), clock, settings.list_parallelism));
        let (stop, stopped) = watch::channel(false);
        let passes = discovery.clone().run_for_ever(
            settings.discovery_interval,
            settings.full_pass_interval,
            stopped.clone(),
        );
        let upkeep = upkeep(
            state.clone(),
            writing.clone(),
            discovery.clone(),
            settings.lease_ttl / 3,
            stopped.clone(),
        );
        let tiers = tiers(writing.clone(), segment_rules.clone(), settings.heat.interval, stopped);
        let tasks = vec![tokio::spawn(passes), tokio::spawn(upkeep), tokio::spawn(tiers)];
        let meta = state.meta();
        tracing::info!(
            store = store_url,
            registry = %settings.data_dir.display(),
            epoch = meta.epoch,
            segments = state.catalog().segment_count(),
            "gateway started"
        );
        let core = Core {
            settings,
            store_url,
            epoch: meta.epoch,
            state,
            discovery,
            routing,
            writing,
            rules: segment_rules,
            metrics,
            stopping: AtomicBool::new(false),
        };
        Ok(Self { core: Arc::new(core), passes: Arc::new(Passes { stop, tasks: Mutex::new(tasks) }) })
    }

    /// The whole HTTP API as a router. Serve it with connect info (or [`Gateway::serve`]): without a
    /// cluster secret only loopback peers may register workers.
    pub fn router(&self) -> axum::Router {
        router::router(self.core.clone())
    }

    /// Trough's ports, a router each. Serve them as [`Gateway::router`]; after [`Gateway::shutdown`] they
    /// answer that it is over.
    pub fn trough(&self, settings: trough::PortSettings) -> trough::PortRouters {
        trough::PortRouters::new(self.core.clone(), settings)
    }

    /// Makes requests for worker `name` go to `router` in this process instead of the URL in its lease.
    /// The worker still has to take a lease through [`Gateway::registrar`].
    pub fn attach_local(&self, name: &str, router: axum::Router) {
        self.core.routing.workers.attach_local(name, router, Instant::now().into_std());
    }

    /// Catalog and ledger, for whoever wants to look without HTTP.
    pub fn state(&self) -> Arc<State> {
        self.core.state.clone()
    }

    /// Its insides, for tests.
    #[cfg(test)]
    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// Where workers in this process take and renew their leases: no secret, no HTTP.
    pub fn registrar(&self) -> Arc<dyn Registrar> {
        Arc::new(LocalRegistrar(self.core.clone()))
    }

    /// Who says whether the statements of a schema are good; without anybody none can be registered. Call it
    /// once, at the start.
    pub fn check_schemas_with(&self, check: Arc<dyn SchemaCheck>) {
        self.core.writing.set_schema_check(check);
    }

    /// Serves the API on `listener` until `shutdown` resolves, then lets running answers end for at most
    /// `drain_max`.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let core = self.core.clone();
        let stopping = async move {
            shutdown.await;
            core.stopping.store(true, Ordering::SeqCst);
        };
        server::serve(listener, self.router(), stopping, self.core.settings.drain_max).await
    }

    /// Refuses new queries, ends discovery at its next directory. The registry closes when the last clone
    /// and router are gone.
    pub async fn shutdown(&self) {
        self.core.stopping.store(true, Ordering::SeqCst);
        self.passes.stop.send_replace(true);
        self.core.discovery.stop().await;
        let tasks = std::mem::take(&mut *self.passes.tasks.lock());
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a background task ended badly");
            }
        }
    }
}

/// Settles what was left open, follows the workers with the assignments, forgets finished deletions.
async fn upkeep(
    state: Arc<State>,
    writing: Arc<Writing>,
    discovery: Arc<Discovery>,
    interval: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let started = Instant::now();
    while !*stop.borrow_and_update() {
        end_adoption(&state, started).await;
        writing.settle_all().await;
        writing.supersede_all().await;
        writing.place_copies().await;
        for (directory, id) in discovery.take_strays() {
            writing.collect_strays(&directory, &id).await;
        }
        writing.collect_uploads(discovery.take_uploads()).await;
        if let Some(pass) = discovery.status().last.filter(|pass| pass.complete) {
            writing.forget_deleted(pass.started_ms).await;
        }
        writing.forget_superseded().await;
        tokio::select! {
            biased;
            () = state.moved() => {}
            () = tokio::time::sleep(interval) => {}
            changed = stop.changed() => if changed.is_err() { break },
        }
    }
}

/// Every so often all segments are looked at for rules about age; otherwise only what changed.
const AGES_EVERY: Duration = Duration::from_secs(60);

/// Looks at rules and heat, again and again.
async fn tiers(
    writing: Arc<Writing>,
    rules: Arc<SegmentRules>,
    interval: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let mut all_looked_at = Instant::now();
    while !*stop.borrow_and_update() {
        let all = rules.depend_on_age() && all_looked_at.elapsed() >= AGES_EVERY;
        if all {
            all_looked_at = Instant::now();
        }
        writing.follow_tiers(all).await;
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            changed = stop.changed() => if changed.is_err() { break },
        }
    }
}

/// A registry that was made again knows all locks that there are, once workers had the time to report.
async fn end_adoption(state: &Arc<State>, started: Instant) {
    let Some(adopting) = state.meta().adopting else { return };
    if started.elapsed() < Duration::from_millis(adopting.wait_ms) {
        return;
    }
    let ended = {
        let state = state.clone();
        blocking(move || state.update_meta(|meta| meta.adopting = None)).await
    };
    match ended {
        Ok(()) => tracing::info!("the locks that workers reported are all there are"),
        Err(error) => tracing::warn!(%error, "the registry cannot note that all workers have reported"),
    }
}

fn check(settings: &Settings) -> Result<(), StartError> {
    let wrong = |text: &str| Err(StartError::Setting(text.to_owned()));
    if settings.lease_ttl.as_secs() < 1 {
        return wrong("the lease TTL must be at least 1 s");
    }
    if settings.discovery_interval.is_zero() {
        return wrong("the discovery interval must be more than 0");
    }
    if settings.copies_minimum == 0 || settings.copies_maximum < settings.copies_minimum {
        return wrong("copies_minimum must be at least 1, and copies_maximum not below it");
    }
    let heat = &settings.heat;
    if heat.half_life.is_zero()
        || heat.interval.is_zero()
        || heat.segments_max == 0
        || heat.rate_per_copy == 0
    {
        return wrong(
            "heat's half-life, interval, number of segments and rate for each copy must be more than 0",
        );
    }
    if heat.lower_percent >= 100 {
        return wrong("heat_lower_percent must be less than 100, or segments go up and down");
    }
    if settings.copy_max.is_zero() || settings.write_bytes_max == 0 {
        return wrong("limits of 0 let nothing be written");
    }
    if settings.body_bytes_max == 0 || settings.deadline_max.is_zero() || settings.deadline_default.is_zero()
    {
        return wrong("limits of 0 let no query pass");
    }
    if settings.secret.as_deref().is_some_and(str::is_empty) {
        return wrong("the cluster secret is empty: leave it out, or set one");
    }
    Ok(())
}

/// The rules, checked: the configuration has done so before, but a gateway may be started by other code.
fn segment_rules(settings: &Settings) -> Result<SegmentRules, StartError> {
    SegmentRules::new(settings.rules.clone(), settings.copies_minimum, settings.copies_maximum).map_err(
        |mistakes| {
            let told: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
            StartError::Setting(told.join("; "))
        },
    )
}

fn new_meta() -> Meta {
    let id: u128 = rand::random();
    Meta::new(format!("{id:032x}"))
}

/// Makes sure that this registry and the store belong together.
async fn own(
    settings: &Settings,
    store: &dyn SegmentStore,
    state: &Arc<State>,
    now_ms: i64,
) -> Result<(), StartError> {
    let (url, meta) = (store.url(), state.meta());
    let known = meta.store_url.as_deref() == Some(url.as_str());
    if let Some(other) = meta.store_url.as_deref().filter(|_| !known && !settings.take_over_store) {
        return Err(StartError::StoreOwned(format!(
            "the registry in {} describes the store {other}, not {url}: give this gateway another data \
             directory, or set take_over_store = true to describe {url} from now on",
            settings.data_dir.display()
        )));
    }
    let mut take_up_locks = false;
    match claim(store, &meta.registry_id, settings.take_over_store).await {
        Ok(Claim::Ours) => {}
        Ok(Claim::Taken) => {
            tracing::info!(store = url, "the store is marked as this registry's");
            // Perhaps another one had it, and its workers have locks.
            take_up_locks = meta.store_url.is_none() && settings.take_over_store;
        }
        Ok(Claim::ReadOnly(reason)) => tracing::warn!(
            store = url,
            reason,
            "no owner marker: the store takes no writes from this gateway, so nothing stops a second one"
        ),
        Ok(Claim::Foreign { marker, owner }) => {
            return Err(StartError::StoreOwned(format!(
                "the store {url} belongs to another registry ({marker} names {owner}, this one in {} is {}): \
                 use that gateway's data directory, or set take_over_store = true if it is gone for good",
                settings.data_dir.display(),
                meta.registry_id
            )));
        }
        // It was ours at the last start: come up and find out later, rather than be down as well.
        Err(StoreFailure::Unavailable(reason)) if known => {
            tracing::warn!(
                store = url,
                reason,
                "the store cannot be reached; the catalog is the last known one"
            );
        }
        Err(failure) => return Err(StartError::Store(failure.about(&format!("store {url}")))),
    }
    if !known {
        let state = state.clone();
        let wait_ms = u64::try_from(settings.lease_ttl.as_millis()).unwrap_or(u64::MAX).saturating_mul(4);
        blocking(move || {
            // Of another store nothing holds.
            let gone = state.catalog().directories().map(|(path, _)| Change::Removed(path.clone())).collect();
            state.commit(gone)?;
            state.update_meta(|meta| {
                meta.store_url = Some(url);
                meta.discovered = false;
                if take_up_locks {
                    meta.epoch = meta.epoch.max(epoch_after_loss(now_ms));
                    meta.adopting = Some(Adopting { known: 0, wait_ms });
                }
            })
        })
        .await?;
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, StartError> {
    match crate::blocking::run(work).await {
        Ok(result) => Ok(result?),
        Err(panicked) => Err(StartError::Registry(format!("registry: {panicked}"))),
    }
}
