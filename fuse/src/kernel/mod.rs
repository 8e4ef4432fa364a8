//! The adapter to the kernel: everything that knows `fuser`.
//!
//! `callbacks` translates requests, this file mounts. Three kinds of threads, never mixed: the session
//! threads read requests and answer those that need nothing but memory; everything else is a task of the
//! runtime given to [`mount`]; one upkeep thread talks to the kernel unasked (a notification may wait for
//! a process that waits for us, so it must hold no lock and no session thread).
//!
//! Never touch the mount from this process: a thread that waits for itself cannot even be killed.

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use fuser::{Config, INodeNo, MountOption, Notifier, Session, SessionACL};
use tokio::{runtime::Handle, sync::watch};

use self::callbacks::Callbacks;
use crate::{
    error::{Error, Result},
    fs::{FileSystem, Recalled},
    mount::{SUBTYPE, escape_option, is_root},
};

mod callbacks;
mod translate;

/// How often idle readers and surplus inodes are looked for.
const UPKEEP: Duration = Duration::from_secs(2);

/// How to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// The mount point, checked by [`crate::mount::prepare`].
    pub dir: PathBuf,
    /// Shown as the mount's source: the store's URL.
    pub source: String,
    /// Whether users other than the one who mounts may use it.
    pub allow_other: bool,
    /// Whether programs in it cannot be run.
    pub noexec: bool,
    /// Session threads, 1 to 16.
    pub threads: usize,
}

/// A mount that is being served. It goes on when this is dropped; end it with [`crate::mount::unmount`].
#[derive(Debug)]
pub struct Mounted {
    /// Its sender lives as long as the session.
    ended: watch::Receiver<()>,
}

impl Mounted {
    /// Waits until the mount is gone, by whomever it was unmounted, and all its files are closed. If it is there
    /// still, the session broke, and nobody answers any more.
    pub async fn ended(&mut self) {
        while self.ended.changed().await.is_ok() {}
    }
}

/// Mounts `fs` and serves it on threads of its own; blocks until the kernel has shaken hands.
pub fn mount(fs: Arc<FileSystem>, runtime: Handle, options: &MountOptions) -> Result<Mounted> {
    let mut config = Config::default();
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads.clamp(1, 16));
    // A queue for each thread would have to open /dev/fuse again, which an ordinary user need not be
    // allowed to do after the helper has mounted.
    config.clone_fd = false;
    // The helper for ordinary users splits its options at commas.
    let source = if is_root() { options.source.clone() } else { escape_option(&options.source) };
    // `fuser` gives its own `Subtype` to the helper only; the kernel takes it as well.
    let subtype = MountOption::CUSTOM(format!("subtype={SUBTYPE}"));
    let settings = fs.settings();
    let access = if settings.writes.read_only { MountOption::RO } else { MountOption::RW };
    config.mount_options = vec![MountOption::FSName(source), subtype, access];
    if fs.kernel_decides() {
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    if options.noexec {
        config.mount_options.push(MountOption::NoExec);
    }
    let (tell, ended) = watch::channel(());
    let (stop_upkeep, stopped) = mpsc::channel::<()>();
    let callbacks = Callbacks::new(fs.clone(), runtime.clone(), (tell, stop_upkeep));
    let session = Session::new(callbacks, &options.dir, &config).map_err(|error| {
        let reason = error.to_string();
        let kind = Error::from_io(&error, "").kind();
        Error::new(kind, format!("cannot mount at {}: {}", options.dir.display(), reason.trim()))
    })?;
    let notifier = session.notifier();
    spawn("fuse-upkeep", move || upkeep(&fs, &runtime, &notifier, &stopped))?;
    let session = session.spawn().map_err(|error| Error::from_io(&error, "cannot start a thread"))?;
    // At its end `fuser` unmounts whatever is mounted there by then, of whomever: it cannot tell a mount that
    // was detached from one that is there. Whoever called this can, by the mount's number.
    std::mem::forget(session);
    Ok(Mounted { ended })
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map(drop)
        .map_err(|error| Error::from_io(&error, "cannot start a thread"))
}

fn upkeep(fs: &FileSystem, runtime: &Handle, notifier: &Notifier, stopped: &mpsc::Receiver<()>) {
    while stopped.recv_timeout(UPKEEP) == Err(mpsc::RecvTimeoutError::Timeout) {
        let _inside = runtime.enter();
        fs.maintain();
        for (parent, path) in fs.surplus() {
            // An entry that is in use or gone already: not worth a word.
            let _ = notifier.inval_entry(INodeNo(parent), path.name().as_ref());
        }
        recall(fs, notifier);
    }
}

/// The kernel asks anew for what it would keep too long, once lifetimes became shorter.
fn recall(fs: &FileSystem, notifier: &Notifier) {
    for Recalled { ino, entry } in fs.recalled() {
        if let Some(ino) = ino {
            // Below 0: the attributes, and no pages.
            let _ = notifier.inval_inode(INodeNo(ino), -1, 0);
        }
        if let Some((parent, path)) = entry {
            let _ = notifier.inval_entry(INodeNo(parent), path.name().as_ref());
        }
    }
}
