//! What tests, demo and benchmarks start and look at: real HDFS daemons, the `springhouse` binary in
//! its roles, HTTP, segments to ask.
//!
//! Everything started here has an owner whose `Drop` stops it, and a parent-death signal for the day
//! when the owner has no time to: panic, `exit`, SIGINT and SIGKILL of the test binary all clean up.

#![allow(unreachable_pub, reason = "a module of several binaries, each of which is its own public")]
#![allow(missing_docs, reason = "the names say it; what they do not say has a comment")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

pub mod cluster;
pub mod ha;
pub mod hadoop;
pub mod hdfs;
pub mod http;
pub mod kerberos;
pub mod kms;
pub mod mount;
pub mod need;
pub mod ports;
pub mod process;
pub mod segments;
pub mod trough;
pub mod webhdfs;
pub mod without_fuse;

/// Tests are plain blocking functions; what is async inside the harness runs here.
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a tokio runtime for the harness")
});

/// Runs a future of the harness to its end.
pub fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// Asks again until there is an answer; panics with `what` when there is none in `limit`. Only for
/// what cannot be awaited: counters and states of other processes.
pub fn eventually<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    match within(limit, &mut ask) {
        Some(answer) => answer,
        None => panic!("{what}: not within {limit:?}"),
    }
}

/// [`eventually`] without the panic.
pub fn within<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// A directory of the test's own, readable by other users, gone when dropped.
pub fn scratch() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::Builder::new().prefix("springhouse-").tempdir().expect("a directory in the temp dir");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))
        .expect("chmod of an own directory");
    dir
}

/// How long a mount daemon may take to see that its worker is gone, and to unmount.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(30);

static STATE: Mutex<Option<tempfile::TempDir>> = Mutex::new(None);

/// Where processes started here keep what they would keep in their user's home.
pub fn state_home() -> PathBuf {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    state.get_or_insert_with(scratch).path().to_owned()
}

/// Removes [`state_home`]; for the end of `main`. The mounts that somebody left in it.
pub fn remove_state_home() -> Vec<PathBuf> {
    let Some(state) = STATE.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Vec::new() };
    let left = || -> Vec<PathBuf> {
        mount::mounts().into_iter().filter(|point| point.starts_with(state.path())).collect()
    };
    // A daemon whose worker was killed unmounts by itself, after it.
    within(UNMOUNT_LIMIT, || left().is_empty().then_some(()));
    let left = left();
    left.iter().for_each(|point| mount::unmount_lazily(point));
    left
}

/// The `springhouse` binary, without settings from this process's environment or its user's home.
pub fn springhouse() -> Command {
    springhouse_at(&springhouse_binary())
}

/// [`springhouse`] of another copy of the binary.
pub fn springhouse_at(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SPRINGHOUSE_") {
            command.env_remove(name);
        }
    }
    command.env("HOME", state_home()).env_remove("XDG_STATE_HOME").env_remove("XDG_RUNTIME_DIR");
    command
}

/// `command` with the environment that `other` was given.
pub fn with_environment_of(other: &Command, mut command: Command) -> Command {
    for (name, value) in other.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// The store URL of a local directory.
pub fn file_url(dir: &Path) -> String {
    format!("file://{}", dir.display())
}

/// The `springhouse` binary built together with this one.
pub fn springhouse_binary() -> PathBuf {
    if let Some(path) = option_env!("CARGO_BIN_EXE_springhouse") {
        return path.into();
    }
    // Examples are not told: the binary lies one directory above theirs.
    let own = std::env::current_exe().expect("the path of this program");
    let binary = own.parent().and_then(Path::parent).map(|dir| dir.join("springhouse")).unwrap_or_default();
    assert!(binary.is_file(), "{} is not built: cargo build --bins, with the same profile", binary.display());
    binary
}

/// The demo, if it was built together with this program.
pub fn demo_binary() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let demo = own.parent()?.parent()?.join("examples/demo");
    demo.is_file().then_some(demo)
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
