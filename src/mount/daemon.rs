//! `springhouse mount` in the foreground: from settings to a mount that answers, and back.

use std::{
    env, fs,
    io::Write,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use prometheus::Registry;
use springhouse_fuse::{
    error::{Error, ErrorKind},
    fs::FileSystem,
    kernel::{self, MountOptions, Mounted},
    mount::{check_apart, check_device, detach, is_root, mounted_at, prepare, unmount},
    store::{self, StoreUrl},
};
use tokio::runtime::{Builder, Runtime};

use super::{
    MountSettings, Report,
    control::control_socket_path,
    server::{self, ControlSocket, Gauges, OwnersOnly, Status, Tuner, listen},
};
use crate::{
    error::{Exit, Failure},
    shutdown::Shutdown,
};

/// How long open files of a busy mount may keep the daemon after it was told to stop.
const BUSY_GRACE: Duration = Duration::from_secs(5);

/// How long what is being written may take to be finished in the store, before the mount goes and after.
const FINISH_MAX: Duration = Duration::from_secs(10);

/// A stop that takes longer is forced. Longer than its parts together.
const STOP_MAX: Duration = Duration::from_secs(30);

/// Mounts, tells `report` that the mount answers, and serves it until it is unmounted or the process is
/// told to stop by SIGTERM or SIGINT. A busy mount is then detached, so none is left behind.
///
/// Nothing is mounted unless the store answers and all sockets are bound.
pub fn run(settings: &MountSettings, report: Report) -> Result<(), Failure> {
    let threads = |error: std::io::Error| Failure::new(Exit::Failed, format!("threads: {error}"));
    // Panics of the store's client are caught in threads of this name (see `panics`).
    let io = Builder::new_multi_thread().thread_name("hdfs-io").enable_all().build().map_err(threads)?;
    store::share_hdfs_runtime(io.handle());
    let outcome = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(threads)?
        .block_on(serve(settings, report, &io));
    io.shutdown_background();
    outcome
}

async fn serve(settings: &MountSettings, report: Report, io: &Runtime) -> Result<(), Failure> {
    let point: Arc<OnceLock<(PathBuf, u64)>> = Arc::default();
    let left = Arc::clone(&point);
    // A daemon that ends without unmounting leaves a mount that only an error answers.
    let stop = Shutdown::listen_with(STOP_MAX, move || {
        if let Some((dir, mount_id)) = left.get()
            && mounted_at(dir).is_ok_and(|there| there.is_some_and(|entry| entry.id == *mount_id))
        {
            let _ = detach(dir);
        }
    })?;
    let allow_other = settings.allow_other.unwrap_or_else(is_root);
    check_device(allow_other).map_err(|error| Failure::mount(&error))?;
    let store = {
        let _inside = io.enter();
        store::open(&settings.store, &settings.store_options())?
    };
    let check = store.clone();
    let asked = tokio::time::Instant::now();
    let root = tokio::select! {
        root = io.spawn(async move { check.check_root().await }) => root,
        () = stop.clone().requested() => return Ok(()),
    };
    let root = root.map_err(|error| Failure::new(Exit::Internal, error))??;
    let dir = prepare(&settings.dir, settings.allow_nonempty).map_err(|error| Failure::mount(&error))?;
    for (what, path) in works_in(settings) {
        check_apart(&dir, what, path).map_err(|error| Failure::mount(&error))?;
    }
    let socket = match &settings.control_socket {
        Some(path) => path.clone(),
        None => control_socket_path(&dir).map_err(|error| Failure::mount(&error))?,
    };
    let bound = tokio::select! {
        bound = ControlSocket::bind_in_turn(&socket, &dir) => bound,
        () = stop.clone().requested() => return Ok(()),
    };
    let mut control = bound.map_err(|error| Failure::mount(&error))?;
    let scrapers = match settings.metrics_listen {
        Some(address) => Some(
            listen(address).await.map_err(|error| Failure::listen(address, "--metrics-listen", &error))?,
        ),
        None => None,
    };

    let fs = FileSystem::new(store.store.clone(), settings.fs.clone(), io.handle().clone())?;
    let fs = Arc::new(fs.with_users(Arc::new(store.clone())).with_root(root, asked));
    recover(&fs, io, settings.fs.deadline).await;
    let options = MountOptions {
        dir: dir.clone(),
        source: settings.store.to_string(),
        allow_other,
        noexec: settings.noexec,
        threads: settings.threads,
    };
    let (registry, gauges) =
        metrics(&fs, &store).map_err(|error| Failure::new(Exit::Internal, format!("metrics: {error}")))?;
    let mut mounted =
        kernel::mount(fs.clone(), io.handle().clone(), &options).map_err(|error| Failure::mount(&error))?;
    let mount_id = match mounted_at(&dir) {
        Ok(Some(entry)) if entry.is_ours() => entry.id,
        _ => {
            // Nobody could find it to unmount it later.
            let _ = detach(&dir);
            return Err(vanished(&dir));
        }
    };
    let _ = point.set((dir.clone(), mount_id));
    let since = Instant::now();
    let status = Status {
        tuner: Tuner::new(&fs),
        fs: fs.clone(),
        store,
        dir: dir.clone(),
        mount_id,
        since,
        registry,
        gauges,
        io: io.handle().clone(),
    };
    let status = Arc::new(status);
    if let Some(listener) = control.listener.take() {
        let router = server::control(status.clone());
        tokio::spawn(async move { axum::serve(OwnersOnly(listener), router).await });
    }
    if let Some(listener) = scrapers {
        tokio::spawn(async move { axum::serve(listener, server::public(status)).await });
    }
    tracing::info!(store = %settings.store, dir = %dir.display(), control = %socket.display(), "mounted");
    report.ready(&format!("mounted {} at {}", settings.store, dir.display()));
    tell_fd(settings.ready_fd);
    notify("READY=1");

    tokio::select! {
        () = mounted.ended() => {
            // The kernel does not wait for what closed files leave to be done.
            finish_writes(&fs, io).await;
            if is_there(&dir, mount_id)? {
                take_down(&dir, mount_id, &mut mounted).await?;
                let why = format!("the mount at {} broke: the kernel's requests could not be read", dir.display());
                return Err(Failure::new(Exit::Internal, why));
            }
            tracing::info!(dir = %dir.display(), "unmounted");
            return Ok(());
        }
        () = stop.requested() => {}
    }
    notify("STOPPING=1");
    // First, because what comes after may be forced; and again for what was written meanwhile.
    finish_writes(&fs, io).await;
    let outcome = take_down(&dir, mount_id, &mut mounted).await;
    finish_writes(&fs, io).await;
    outcome
}

/// Directories of this host that the daemon works in, by what they are.
fn works_in(settings: &MountSettings) -> impl Iterator<Item = (&'static str, &Path)> {
    let store = match &settings.store {
        StoreUrl::File { path } => Some(("store", path.as_path())),
        StoreUrl::Hdfs { .. } => None,
    };
    let cache = settings.fs.disk.as_ref().map(|disk| ("cache directory", disk.dir.as_path()));
    let staging = settings.fs.writes.staging_dir.as_deref().map(|dir| ("staging directory", dir));
    [store, cache, staging].into_iter().flatten()
}

/// What an earlier daemon left staged is sent, before anybody can look at it; what takes longer is sent
/// while the mount serves.
async fn recover(fs: &Arc<FileSystem>, io: &Runtime, limit: Duration) {
    let fs = fs.clone();
    let recovery = io.spawn(async move {
        match fs.recover().await {
            Ok(done) if done.sent + done.waiting > 0 => {
                tracing::info!(
                    sent = done.sent,
                    waiting = done.waiting,
                    "left-overs of the staging directory"
                );
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "the staging directory cannot be read; nothing in it was touched")
            }
        }
    });
    let _ = tokio::time::timeout(limit, recovery).await;
}

/// Files that are open for writing get to the store as far as they were written.
async fn finish_writes(fs: &Arc<FileSystem>, io: &Runtime) {
    let fs = fs.clone();
    let finish = io.spawn(async move { fs.finish_writes().await });
    match tokio::time::timeout(FINISH_MAX, finish).await {
        Ok(Ok(errors)) => errors.iter().for_each(|error| tracing::warn!(%error, "not written to its end")),
        Ok(Err(error)) => tracing::error!(%error, "files being written were not finished"),
        Err(_) => tracing::warn!("files being written were not finished within {FINISH_MAX:?}"),
    }
}

async fn take_down(dir: &Path, mount_id: u64, mounted: &mut Mounted) -> Result<(), Failure> {
    if !is_there(dir, mount_id)? {
        return Ok(());
    }
    let point = dir.to_owned();
    // The thread for blocking calls is not one that serves the mount.
    let unmounted = tokio::task::spawn_blocking(move || unmount(&point)).await;
    let unmounted = unmounted.map_err(|error| Failure::new(Exit::Internal, error))?;
    match unmounted {
        Ok(outcome) if outcome.lazy => {
            tracing::warn!(dir = %dir.display(), "busy: detached; its open files end in {BUSY_GRACE:?}");
        }
        Ok(_) => {}
        // Somebody else unmounted it at the same moment.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::mount(&error)),
    }
    let _ = tokio::time::timeout(BUSY_GRACE, mounted.ended()).await; // files may be open still
    Ok(())
}

/// Whether what is mounted there is ours, and not what somebody mounted in its place.
fn is_there(dir: &Path, mount_id: u64) -> Result<bool, Failure> {
    let there = mounted_at(dir).map_err(|error| Failure::mount(&error))?;
    Ok(there.is_some_and(|entry| entry.id == mount_id))
}

fn metrics(fs: &FileSystem, store: &store::OpenedStore) -> prometheus::Result<(Registry, Gauges)> {
    let registry = Registry::new();
    fs.register(&registry)?;
    store.counters.register(&registry)?;
    let gauges = Gauges::new(&registry, fs.settings().disk.is_some())?;
    Ok((registry, gauges))
}

fn vanished(dir: &Path) -> Failure {
    let message = format!("mount point {}: the mount did not appear in the mount table", dir.display());
    Failure::mount(&Error::new(ErrorKind::Other, message))
}

/// Writes a line to the descriptor that whoever started us waits for, and closes it.
fn tell_fd(fd: Option<i32>) {
    let Some(fd) = fd else { return };
    let told = fs::File::options()
        .write(true)
        .open(format!("/proc/self/fd/{fd}"))
        .and_then(|mut file| file.write_all(b"ready\n"));
    if let Err(error) = told {
        tracing::warn!(fd, %error, "nobody to tell that the mount answers");
    }
    let _ = nix::unistd::close(fd);
}

/// Tells the service manager, if there is one that wants to know.
fn notify(state: &str) {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return };
    let told = UnixDatagram::unbound().and_then(|socket| {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::{ffi::OsStrExt, net::SocketAddr};
        let address = match path.as_bytes().split_first() {
            Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&path)?,
        };
        socket.send_to_addr(state.as_bytes(), &address)
    });
    if let Err(error) = told {
        tracing::warn!(%error, "the service manager could not be told: {state}");
    }
}
