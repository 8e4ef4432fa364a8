//! The roles that stay up: gateway, worker, and both in one process.
//!
//! Each starts in the order in which failures are cheapest: configuration, port, data directory, store,
//! then the parts. Whatever fails ends the process with one line before anybody was told that it is up.

use std::{env, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use springhouse_fuse::store::{OpenedStore, open};
use springhouse_gateway::{
    Gateway,
    api::client::{GatewayClient, Registrar},
};

use self::{data_dir::DataDir, schemas::Schemas};
use crate::{
    config::{
        Problem,
        groups::StoreKeys,
        roles,
        settings::{Place, state_dir},
        value::HttpUrl,
    },
    error::{Exit, Failure},
    gateway_store::GatewayStore,
    query::QuerySettings,
    shutdown::Shutdown,
    worker::{Worker, WorkerSettings},
};

mod banner;
pub(crate) mod data_dir;
mod http;
mod schemas;
mod trough;

/// What a stop may take beyond the time that running answers have: leases, registry, mount.
const STOP_MAX: Duration = Duration::from_secs(15);

/// `springhouse serve`, until it is told to stop.
pub async fn serve(config: roles::Serve) -> Result<(), Failure> {
    let drain_max = config.gateway.drain_max.duration();
    let shutdown = Shutdown::listen(drain_max + STOP_MAX)?;
    let secret = config.secret.secret()?;
    let store_url = &config.store.store;
    let data_path = config.gateway.data_dir(store_url, environment_path)?;
    let gateway_settings = config.gateway.settings(&data_path, secret.as_ref())?;
    let gateway_settings = config.tiers.complete(&config.rules, gateway_settings);
    let listener = http::bind(config.gateway.listen, "--listen").await?;
    let address = http::local_address(&listener)?;
    let trough = trough::Ports::bind(&config.trough).await?;
    let data = DataDir::take(data_path)?;
    let mut worker_settings = config.worker.settings(
        &config.store,
        &config.cache,
        &config.engine,
        secret.as_ref(),
        Place { url: http::url(address), mount_point: data.path().join("mount"), drain_max },
    )?;
    prepare_mount_point(&worker_settings)?;

    let start = async {
        let store = open_store(&config.store).await?;
        if config.worker.is_hot() {
            let copies = data.path().join("hot");
            worker_settings.hot = Some(config.hot.settings(copies, Arc::clone(&store.store)));
        }
        let gateway =
            Gateway::start(gateway_settings, Arc::new(GatewayStore::new(Arc::clone(&store.store)))).await?;
        let schemas = Schemas::new(worker_settings.query.clone(), data.path().to_owned());
        gateway.check_schemas_with(Arc::new(schemas));
        let name = worker_settings.name.clone();
        match Worker::start(worker_settings, gateway.registrar()).await {
            Ok(worker) => {
                gateway.attach_local(&name, worker.router());
                Ok((gateway, worker, store))
            }
            Err(error) => {
                gateway.shutdown().await;
                Err(Failure::mount(&error))
            }
        }
    };
    let Some((gateway, worker, store)) = unless_stopped(start, &shutdown).await? else { return Ok(()) };

    let router = http::both(gateway.router(), worker.router(), http::store_metrics(&store));
    banner::serve(address, trough.shown(), store_url, &worker, data.path(), &router).await;
    let stop = async {
        shutdown.clone().requested().await;
        // The lease goes first: it is given up through the gateway.
        worker.shutdown().await;
        gateway.shutdown().await;
    };
    let served = http::serve(listener, router, &shutdown, drain_max);
    let (served, trough, ()) = tokio::join!(served, trough.serve(&gateway, &shutdown, drain_max), stop);
    served.and(trough)
}

/// `springhouse gateway`, until it is told to stop.
pub async fn gateway(config: roles::Gateway) -> Result<(), Failure> {
    let drain_max = config.gateway.drain_max.duration();
    let shutdown = Shutdown::listen(drain_max + STOP_MAX)?;
    let secret = config.secret.secret()?;
    let store_url = &config.store.store;
    let data_path = config.gateway.data_dir(store_url, environment_path)?;
    let settings = config.gateway.settings(&data_path, secret.as_ref())?;
    let settings = config.tiers.complete(&config.rules, settings);
    let listener = http::bind(config.gateway.listen, "--listen").await?;
    let address = http::local_address(&listener)?;
    let trough = trough::Ports::bind(&config.trough).await?;
    let data = DataDir::take(data_path)?;

    let start = async {
        let store = open_store(&config.store).await?;
        let view = Arc::new(GatewayStore::new(Arc::clone(&store.store)));
        let gateway = Gateway::start(settings, view).await?;
        let schemas = Schemas::new(QuerySettings::default(), data.path().to_owned());
        gateway.check_schemas_with(Arc::new(schemas));
        Ok((gateway, store))
    };
    let Some((gateway, store)) = unless_stopped(start, &shutdown).await? else { return Ok(()) };

    let router = http::with_store_metrics(gateway.router(), http::store_metrics(&store));
    banner::gateway(address, trough.shown(), store_url, data.path());
    let stop = async {
        shutdown.clone().requested().await;
        gateway.shutdown().await;
    };
    let served = http::serve(listener, router, &shutdown, drain_max);
    let (served, trough, ()) = tokio::join!(served, trough.serve(&gateway, &shutdown, drain_max), stop);
    served.and(trough)
}

/// `springhouse worker`, until it is told to stop.
pub async fn worker(config: roles::Worker) -> Result<(), Failure> {
    let drain_max = config.net.drain_max.duration();
    let shutdown = Shutdown::listen(drain_max + STOP_MAX)?;
    let secret = config.secret.secret()?;
    let store_url = &config.store.store;
    if secret.is_none() && !config.net.listen.ip().is_loopback() {
        return Err(Failure::from(Problem(format!(
            "listen {} is reached from other hosts and there is no cluster secret; set cluster_secret_file, \
             or listen on 127.0.0.1:0",
            config.net.listen
        ))));
    }
    let listener = http::bind(config.net.listen, "--listen").await?;
    let address = http::local_address(&listener)?;
    let name = config.worker.name();
    let given = config.net.data.clone();
    let own = || Some(state_dir(store_url, environment_path)?.join(format!("worker-{}", name.as_str())));
    let data = match given.or_else(own) {
        Some(data) => Some(DataDir::take(data)?),
        None if config.worker.is_hot() => {
            return Err(Failure::from(Problem(
                "no place for local copies: neither HOME nor XDG_STATE_HOME is set; give --data DIR".into(),
            )));
        }
        None if config.worker.needs_mount_point() => {
            return Err(Failure::from(Problem(
                "no place for the mount: neither HOME nor XDG_STATE_HOME is set; give --mount-point DIR"
                    .into(),
            )));
        }
        None => None,
    };
    let url = advertised(config.net.advertise.as_ref(), address)?;
    let mut settings = config.worker.settings(
        &config.store,
        &config.cache,
        &config.engine,
        secret.as_ref(),
        Place {
            url: url.clone(),
            mount_point: data.as_ref().map_or_else(PathBuf::new, |data| data.path().join("mount")),
            drain_max,
        },
    )?;
    prepare_mount_point(&settings)?;
    let secret = secret.map(|secret| secret.reveal().to_owned());
    let registrar: Arc<dyn Registrar> = Arc::new(GatewayClient::new(config.net.gateway.as_str(), secret)?);

    let start = async {
        let store = open_store(&config.store).await;
        if let (true, Some(data)) = (config.worker.is_hot(), &data) {
            // Copies that are here are served also while the store is down.
            let store = match store {
                Err(failure) if failure.exit() == Exit::Unreachable => {
                    tracing::warn!("{failure}; what is here is served meanwhile");
                    open(&config.store.store, &config.store.options())?
                }
                store => store?,
            };
            settings.hot = Some(config.hot.settings(data.path().join("hot"), store.store));
        } else {
            store?;
        }
        Worker::start(settings, registrar).await.map_err(|error| Failure::mount(&error))
    };
    let Some(worker) = unless_stopped(start, &shutdown).await? else { return Ok(()) };

    banner::worker(name.as_str(), &url, store_url, &worker, config.net.gateway.as_str());
    let router = worker.router();
    let stop = async {
        shutdown.clone().requested().await;
        // While answers still go out: the lease is given up at once, so that no more queries come.
        worker.shutdown().await;
    };
    tokio::join!(http::serve(listener, router, &shutdown, drain_max), stop).0
}

/// Opens the store and asks for its root, so that a wrong URL is told now.
async fn open_store(keys: &StoreKeys) -> Result<OpenedStore, Failure> {
    let opened = open(&keys.store, &keys.options())?;
    opened.check_root().await?;
    Ok(opened)
}

/// What `start` gives, or `None` if the process is told to stop before.
async fn unless_stopped<T>(
    start: impl Future<Output = Result<T, Failure>>,
    shutdown: &Shutdown,
) -> Result<Option<T>, Failure> {
    tokio::select! {
        started = start => started.map(Some),
        () = shutdown.clone().requested() => Ok(None),
    }
}

/// Makes the directory of the own mount. It may be there, and even be the dead mount of a process that
/// was killed, so it is not looked at: the mount daemon knows what to do with it.
fn prepare_mount_point(settings: &WorkerSettings) -> Result<(), Failure> {
    let dir = &settings.mount.dir;
    if !settings.cold || settings.mount_dir.is_some() || dir.as_os_str().is_empty() {
        return Ok(());
    }
    data_dir::make(dir)
}

/// Where the gateway reaches a worker that listens on `address`.
fn advertised(given: Option<&HttpUrl>, address: SocketAddr) -> Result<String, Failure> {
    match given {
        Some(url) => Ok(url.as_str().to_owned()),
        None if address.ip().is_unspecified() => Err(Failure::from(Problem(format!(
            "listen {address} is no address that a gateway can reach; name one with --advertise \
             http://HOST:{}",
            address.port()
        )))),
        None => Ok(http::url(address)),
    }
}

fn environment_path(name: &str) -> Option<PathBuf> {
    env::var_os(name).map(PathBuf::from)
}
