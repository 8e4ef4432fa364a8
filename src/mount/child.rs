//! The parent's side of a mount daemon: starts it, watches it, restarts it, stops it.

use std::{
    env,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use parking_lot::Mutex;
use springhouse_fuse::{
    error::{Error, ErrorKind, Result},
    mount::{MountEntry, abort, detach, locate, mounted_at},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::{oneshot, watch},
    time::{sleep, timeout},
};

use super::{
    ControlClient, MountSettings,
    background::{PARENT, Said},
};
use crate::error::{Exit, Failure};

/// Beyond the store's deadline, how long a daemon may take until its mount answers.
const START_MAX: Duration = Duration::from_secs(20);

/// How long a daemon may take to stop before it is killed; longer than it waits for open files.
const STOP_MAX: Duration = Duration::from_secs(8);

/// Pauses between restarts: doubled from the first to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// How often a daemon is asked whether it lives, and how long it may take to say so.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// A daemon that answers nothing for this long, or for the store's deadline if that is longer, hangs.
const SILENCE_MIN: Duration = Duration::from_secs(5);

/// A mount that was up for this long is restarted at once when it dies.
const STEADY: Duration = Duration::from_secs(60);

/// What is known of the mount that a [`MountChild`] keeps up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountState {
    /// A daemon has been started and does not answer yet.
    Starting,
    /// The mount answers.
    Ready {
        /// The mount point.
        dir: PathBuf,
        /// Which daemon it is: counts up with each start. Files opened under another epoch are dead
        /// (`ENOTCONN`) and have to be opened again.
        epoch: u64,
    },
    /// There is no mount now; a new start follows after a pause, except after [`MountChild::stop`].
    Down {
        /// One line.
        reason: String,
    },
}

/// A mount daemon as a child process, kept running until [`MountChild::stop`].
///
/// The child gets SIGTERM when this process dies, so no mount is left behind. Nothing here touches the
/// mount, so nothing here can hang on it.
#[derive(Debug)]
pub struct MountChild {
    dir: PathBuf,
    socket: Option<PathBuf>,
    state: watch::Receiver<MountState>,
    failure: Arc<Mutex<Option<Failure>>>,
    /// Dropped to ask for the end.
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl MountChild {
    /// Starts the daemon with this process' own program; returns at once. See [`MountChild::ready`].
    pub fn start(settings: MountSettings) -> Result<Self> {
        let program = env::current_exe().map_err(|error| Error::from_io(&error, "own program"))?;
        Self::start_program(program, settings)
    }

    /// The same with another `springhouse` program.
    pub fn start_program(program: PathBuf, settings: MountSettings) -> Result<Self> {
        let (tell, state) = watch::channel(MountState::Starting);
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let failure = Arc::new(Mutex::new(None));
        let (dir, socket) = (settings.dir.clone(), settings.control_socket.clone());
        let mut supervisor =
            Supervisor { program, settings, tell, failure: failure.clone(), epoch: 0, stopped };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::from_io(&error, "threads"))?;
        // A thread of its own: the kernel's "parent died" means the thread that started the child, and
        // those of a pool come and go.
        thread::Builder::new()
            .name("mount-supervisor".into())
            .spawn(move || {
                runtime.block_on(supervisor.run());
                runtime.shutdown_background();
                let _ = end.send(());
            })
            .map_err(|error| Error::from_io(&error, "threads"))?;
        Ok(Self { dir, socket, state, failure, stop, ended })
    }

    /// The state and its changes.
    pub fn state(&self) -> watch::Receiver<MountState> {
        self.state.clone()
    }

    /// The mount point.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Speaks to the daemon's control socket.
    pub fn control(&self) -> Result<ControlClient> {
        control(self.socket.as_deref(), &self.dir)
    }

    /// Waits until the mount answers and gives its epoch; the daemon's own error line if it cannot.
    pub async fn ready(&self, within: Duration) -> Result<u64> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, MountState::Starting));
        match timeout(within, settled).await {
            Ok(Ok(state)) => match &*state {
                MountState::Ready { epoch, .. } => Ok(*epoch),
                MountState::Starting => Err(Error::new(ErrorKind::Unavailable, "the mount starts")),
                MountState::Down { reason } => {
                    let exit = self.failure.lock().as_ref().map(Failure::exit);
                    Err(Error::new(kind_of(exit), reason))
                }
            },
            Ok(Err(_)) => Err(Error::new(ErrorKind::Other, "the mount's supervisor ended")),
            Err(_) => Err(Error::new(
                ErrorKind::TimedOut,
                format!("mount point {}: no mount within {within:?}", self.dir.display()),
            )),
        }
    }

    /// Unmounts and ends the daemon; by force if it does not end in time.
    pub async fn stop(self) -> Result<()> {
        drop(self.stop);
        // The supervisor ends by itself in a bounded time; an error is its end as well.
        let _ = self.ended.await;
        Ok(())
    }
}

fn control(socket: Option<&Path>, dir: &Path) -> Result<ControlClient> {
    match socket {
        Some(socket) => ControlClient::new(socket),
        None => ControlClient::for_dir(dir),
    }
}

/// The kind that [`Failure::mount`] makes the same exit of again.
fn kind_of(exit: Option<Exit>) -> ErrorKind {
    match exit {
        Some(Exit::Unreachable) => ErrorKind::Unavailable,
        Some(Exit::Denied) => ErrorKind::PermissionDenied,
        Some(Exit::Usage) => ErrorKind::InvalidArgument,
        _ => ErrorKind::Other,
    }
}

struct Supervisor {
    program: PathBuf,
    settings: MountSettings,
    tell: watch::Sender<MountState>,
    failure: Arc<Mutex<Option<Failure>>>,
    epoch: u64,
    stopped: oneshot::Receiver<()>,
}

impl Supervisor {
    async fn run(&mut self) {
        let mut pause = PAUSE.0;
        loop {
            self.tell.send_replace(MountState::Starting);
            let started = Instant::now();
            let failure = match self.spawn() {
                Ok(child) => match self.keep(child).await {
                    Some(failure) => failure,
                    None => {
                        self.tell.send_replace(MountState::Down { reason: "stopped".into() });
                        return;
                    }
                },
                Err(error) => Failure::new(Exit::Failed, format!("cannot start the mount daemon: {error}")),
            };
            tracing::warn!(dir = %self.settings.dir.display(), "no mount: {failure}; starting again in {pause:?}");
            let reason = failure.message().to_owned();
            *self.failure.lock() = Some(failure);
            self.tell.send_replace(MountState::Down { reason });
            if started.elapsed() >= STEADY {
                pause = PAUSE.0;
            }
            tokio::select! {
                () = sleep(pause) => {}
                _ = &mut self.stopped => return,
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let mut command = Command::new(&self.program);
        // The settings are complete: the parent's own configuration must not add to them.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("SPRINGHOUSE_") {
                command.env_remove(&name);
            }
        }
        command
            .args(self.settings.arguments())
            .arg(PARENT)
            .arg(std::process::id().to_string())
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .envs(crate::logging::environment())
            .stdout(Stdio::piped())
            // Its log is ours: the same format on the same standard error.
            .stderr(Stdio::inherit())
            // A Ctrl-C at the terminal is for the parent, which ends the mount when nobody reads from it
            // any more.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }

    /// Sees a daemon through its life; `None` if it was ended because we were told to stop.
    async fn keep(&mut self, mut child: Child) -> Option<Failure> {
        let mut line = String::new();
        let mut out = child.stdout.take().map(BufReader::new);
        let said = async {
            if let Some(out) = &mut out {
                let _ = out.read_line(&mut line).await;
            }
            Said::parse(&line)
        };
        let said = tokio::select! {
            said = timeout(self.settings.fs.deadline + START_MAX, said) => said,
            _ = &mut self.stopped => {
                end(&mut child, None).await;
                self.clear(None).await;
                return None;
            }
        };
        match said {
            Ok(Said::Ready(_)) => {}
            Ok(Said::Failed(failure)) => {
                let _ = timeout(STOP_MAX, child.wait()).await;
                return Some(failure);
            }
            Ok(Said::Nothing) => {
                let how = how_it_ended(child.wait().await);
                return Some(Failure::new(Exit::Failed, format!("the mount daemon {how} at its start")));
            }
            Err(_) => {
                end(&mut child, None).await;
                self.clear(None).await;
                return Some(Failure::new(Exit::Unreachable, "the mount daemon did not get ready"));
            }
        }
        let entry = self.entry();
        self.epoch += 1;
        let dir = self.settings.dir.clone();
        self.tell.send_replace(MountState::Ready { dir, epoch: self.epoch });
        let daemon = control(self.settings.control_socket.as_deref(), &self.settings.dir);
        let silence = silence(daemon, self.settings.fs.deadline.max(SILENCE_MIN));
        tokio::select! {
            ended = child.wait() => {
                let how = how_it_ended(ended);
                self.clear(entry).await;
                Some(Failure::new(Exit::Failed, format!("the mount daemon {how}")))
            }
            silence = silence => {
                kill_now(&mut child, entry.as_ref()).await;
                self.clear(entry).await;
                let message = format!("the mount daemon answered nothing for {} s: killed", silence.as_secs());
                Some(Failure::new(Exit::Failed, message))
            }
            _ = &mut self.stopped => {
                end(&mut child, entry.as_ref()).await;
                self.clear(entry).await;
                None
            }
        }
    }

    /// Our mount in the table; never looks at the mount itself.
    fn entry(&self) -> Option<MountEntry> {
        let dir = locate(&self.settings.dir).ok()?;
        mounted_at(&dir).ok().flatten().filter(MountEntry::is_ours)
    }

    /// Takes away the mount that a dead daemon left: `was`, or whatever of ours is there.
    async fn clear(&self, was: Option<MountEntry>) {
        let Some(left) = self.entry() else { return };
        if was.is_some_and(|was| was.id != left.id) {
            return;
        }
        let cleared = tokio::task::spawn_blocking(move || detach(&left.dir)).await;
        if let Ok(Err(error)) = cleared {
            tracing::warn!(%error, "the mount of a dead daemon stays");
        }
    }
}

/// Asks a daemon to end, then makes it.
async fn end(child: &mut Child, entry: Option<&MountEntry>) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill(pid, Signal::SIGTERM);
    }
    if timeout(STOP_MAX, child.wait()).await.is_ok() {
        return;
    }
    tracing::warn!("the mount daemon does not end: killed");
    kill_now(child, entry).await;
}

async fn kill_now(child: &mut Child, entry: Option<&MountEntry>) {
    if let Some(entry) = entry {
        // Frees whoever waits for it; only root may, and killing it does nearly the same.
        let _ = abort(entry);
    }
    let _ = child.start_kill();
    let _ = timeout(STOP_MAX, child.wait()).await;
}

/// Returns, with how long it lasted, when the daemon has been silent for `max`: it is stopped, or a
/// thread of it is stuck. Who waits for its mount would wait for ever.
async fn silence(daemon: Result<ControlClient>, max: Duration) -> Duration {
    let daemon = match daemon {
        Ok(daemon) => daemon,
        Err(error) => {
            tracing::warn!(%error, "the mount daemon is not watched for silence");
            return std::future::pending().await;
        }
    };
    let mut answered = Instant::now();
    // Two in a row: if it was us who slept, the first one tells nothing.
    let mut unanswered = 0;
    loop {
        sleep(ASK_EVERY).await;
        match timeout(ASK_EVERY, daemon.livez()).await {
            Ok(Ok(())) => (answered, unanswered) = (Instant::now(), 0),
            Ok(Err(_)) | Err(_) => {
                unanswered += 1;
                tracing::debug!(unanswered, "the mount daemon does not say that it lives");
                if unanswered >= 2 && answered.elapsed() >= max {
                    return answered.elapsed();
                }
            }
        }
    }
}

fn how_it_ended(status: std::io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(0), _) => "ended: somebody unmounted it".into(),
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "ended".into(),
        },
        Err(error) => format!("cannot be watched ({error})"),
    }
}
