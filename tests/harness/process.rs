//! Child processes: started so that none survives us, watched by line, stopped by id.

#![allow(unsafe_code, reason = "kill(2), and prctl(2) between fork and exec")]

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

/// How long a process may take to go after SIGKILL.
const GO_LIMIT: Duration = Duration::from_secs(60);
/// How long one that is not needed any more has to go by itself.
const TERM_LIMIT: Duration = Duration::from_secs(10);
/// Lines of output shown when a test fails.
const SHOWN_LINES: usize = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Term,
    Hangup,
    Kill,
    Stop,
    Cont,
}

impl Signal {
    fn number(self) -> i32 {
        match self {
            Self::Term => libc::SIGTERM,
            Self::Hangup => libc::SIGHUP,
            Self::Kill => libc::SIGKILL,
            Self::Stop => libc::SIGSTOP,
            Self::Cont => libc::SIGCONT,
        }
    }
}

/// A running child. Dropped: SIGTERM, then SIGKILL; and its last lines are shown if the test fails.
pub struct Process {
    name: String,
    child: Child,
    stdout: Arc<Lines>,
    stderr: Arc<Lines>,
    status: Option<ExitStatus>,
}

/// What a finished command said.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }
}

impl Process {
    /// Starts `command`, its output captured. It gets SIGTERM when this process dies, so that it can
    /// unmount.
    pub fn start(name: &str, command: Command) -> Self {
        Self::start_with(name, command, Signal::Term)
    }

    /// [`Process::start`], with the signal that it gets when this process dies. A process that tests
    /// stop needs SIGKILL: no other signal reaches it then.
    pub fn start_with(name: &str, mut command: Command, at_our_death: Signal) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(command, at_our_death).unwrap_or_else(|e| panic!("{name} does not start: {e}"));
        let stdout = Lines::follow(child.stdout.take().expect("stdout is piped"));
        let stderr = Lines::follow(child.stderr.take().expect("stderr is piped"));
        Self { name: name.into(), child, stdout, stderr, status: None }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, unless the process has been waited for (its id may be another's by now).
    pub fn signal(&mut self, signal: Signal) {
        if self.exited().is_none() {
            // SAFETY: kill(2) has no memory effects; the id is our child's, not yet reaped.
            unsafe { libc::kill(self.child.id() as i32, signal.number()) };
        }
    }

    /// Sends SIGINT to it and to all that it started, as a terminal does at Ctrl-C.
    pub fn interrupt_group(&mut self) {
        if self.exited().is_none() {
            // SAFETY: kill(2) has no memory effects; each of our children leads a group of its own.
            unsafe { libc::kill(-(self.child.id() as i32), libc::SIGINT) };
        }
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("waitpid of an own child");
        }
        self.status
    }

    /// Waits for its end. `None` when it is still there after `limit`: never hangs, even if the child
    /// is in uninterruptible sleep.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        super::within(limit, || self.exited())
    }

    /// SIGKILL, and wait until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::Kill);
        assert!(self.wait(GO_LIMIT).is_some(), "{} survives SIGKILL for {GO_LIMIT:?}", self.name);
    }

    /// The first value that `pick` finds in a line of standard error, from the start on.
    pub fn stderr_line<T>(&mut self, what: &str, limit: Duration, pick: impl FnMut(&str) -> Option<T>) -> T {
        let found = self.stderr.find(limit, pick);
        self.expect_line(what, limit, found)
    }

    /// The same of standard output.
    pub fn stdout_line<T>(&mut self, what: &str, limit: Duration, pick: impl FnMut(&str) -> Option<T>) -> T {
        let found = self.stdout.find(limit, pick);
        self.expect_line(what, limit, found)
    }

    fn expect_line<T>(&mut self, what: &str, limit: Duration, found: Option<T>) -> T {
        if let Some(found) = found {
            return found;
        }
        let state = match self.exited() {
            Some(status) => format!("it ended: {status}"),
            None => format!("not within {limit:?}"),
        };
        panic!("{} does not say {what}: {state}\n{}", self.name, self.transcript());
    }

    /// What it has written to standard error: all of it, once it was seen to have ended.
    pub fn stderr(&self) -> String {
        self.text_of(&self.stderr)
    }

    /// The same of standard output.
    pub fn stdout(&self) -> String {
        self.text_of(&self.stdout)
    }

    fn text_of(&self, stream: &Lines) -> String {
        // Its last lines may be on their way still.
        if self.status.is_some() {
            stream.wait_end(GO_LIMIT);
        }
        stream.text()
    }

    /// The last lines it wrote, for messages.
    pub fn transcript(&self) -> String {
        format!(
            "--- stdout of {0} ---\n{1}--- stderr of {0} ---\n{2}",
            self.name,
            self.stdout.tail(),
            self.stderr.tail()
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::Cont);
        self.signal(Signal::Term);
        if self.wait(TERM_LIMIT).is_none() {
            self.signal(Signal::Kill);
            self.wait(GO_LIMIT);
        }
        if thread::panicking() && in_a_test() {
            eprintln!("{}", self.transcript());
        }
    }
}

/// Tests run on threads named `file::name`; whoever runs a demo is served better by one line.
fn in_a_test() -> bool {
    thread::current().name().is_some_and(|name| name.contains("::"))
}

/// Runs a command to its end; kills it and panics when that takes longer than `limit`.
pub fn run(command: Command, limit: Duration) -> Output {
    let text = format!("{command:?}");
    match try_run(command, limit) {
        Ok(output) => output,
        Err(state) => panic!("{text}: no end after {limit:?} (state {state})"),
    }
}

/// [`run`]; a command that does not end is the error, with its state in `/proc` (`D`: unkillable).
pub fn try_run(command: Command, limit: Duration) -> Result<Output, char> {
    let mut process = Process::start("command", command);
    let Some(status) = process.wait(limit) else {
        let state = state_of(process.id());
        process.signal(Signal::Kill);
        return Err(state);
    };
    Ok(Output { code: status.code(), stdout: process.stdout(), stderr: process.stderr() })
}

/// Letter of the process state in `/proc`: R, S, D, T, Z …; `-` when there is no such process.
pub fn state_of(id: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('-')
}

/// Resident memory of a process in bytes; 0 when it is gone.
pub fn resident_bytes(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Children of a process, by id.
pub fn children_of(id: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// Starts a child from a thread that lives as long as this process.
///
/// Linux ties the parent-death signal to the parent *thread*: a daemon started from a test's thread
/// would die with that test.
fn spawn(mut command: Command, at_our_death: Signal) -> std::io::Result<Child> {
    type Job = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let parent = std::process::id();
    // A Ctrl-C at the terminal is for us: we end what we started, in order.
    command.process_group(0);
    // SAFETY: between fork and exec only prctl, getppid and _exit run: all async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, at_our_death.number()) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            if libc::getppid() as u32 != parent {
                libc::_exit(1);
            }
            Ok(())
        })
    };
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        let body = move || {
            for (mut command, answer) in jobs {
                // A test that has given up meanwhile drops the receiver; its child goes with the answer.
                if let Err(mpsc::SendError(Ok(mut child))) = answer.send(command.spawn()) {
                    let _ = child.kill();
                }
            }
        };
        thread::Builder::new().name("spawner".into()).spawn(body).expect("a thread");
        Mutex::new(sender)
    });
    let (answer, result) = mpsc::channel();
    let sent = spawner.lock().expect("nothing panics with this lock").send((command, answer));
    sent.expect("the spawner lives as long as the process");
    result.recv().expect("the spawner answers every job")
}

/// Lines of one stream, as they come.
struct Lines {
    state: Mutex<LinesState>,
    changed: Condvar,
}

#[derive(Default)]
struct LinesState {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    fn follow(stream: impl Read + Send + 'static) -> Arc<Self> {
        let lines = Arc::new(Self { state: Mutex::default(), changed: Condvar::new() });
        let sink = Arc::clone(&lines);
        let body = move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                line.clear();
                sink.lock().lines.push(text);
                sink.changed.notify_all();
            }
            sink.lock().ended = true;
            sink.changed.notify_all();
        };
        thread::Builder::new().name("output".into()).spawn(body).expect("a thread");
        lines
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LinesState> {
        self.state.lock().expect("nothing panics with this lock")
    }

    fn find<T>(&self, limit: Duration, mut pick: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let end = Instant::now() + limit;
        let mut seen = 0;
        let mut state = self.lock();
        loop {
            while let Some(line) = state.lines.get(seen) {
                seen += 1;
                if let Some(found) = pick(line) {
                    return Some(found);
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left).expect("nothing panics with this lock").0;
        }
    }

    fn wait_end(&self, limit: Duration) {
        self.find(limit, |_| None::<()>);
    }

    fn text(&self) -> String {
        self.lock().lines.iter().fold(String::new(), |text, line| text + line + "\n")
    }

    fn tail(&self) -> String {
        let state = self.lock();
        let skipped = state.lines.len().saturating_sub(SHOWN_LINES);
        state.lines[skipped..].iter().fold(String::new(), |text, line| text + line + "\n")
    }
}
