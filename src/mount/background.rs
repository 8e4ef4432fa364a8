//! A mount daemon behind the scenes: how it is started, and how it says that it is ready or has failed.
//!
//! The daemon's standard output is the line to its parent: `ready …`, or `failed CODE …` and then its
//! end. No descriptor is handed down and nothing is run between fork and exec.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    os::{
        fd::AsFd,
        unix::{fs::FileTypeExt, process::CommandExt},
    },
    process::{Child, Command, Stdio},
};

use nix::{
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, raise},
    },
    unistd::{Pid, getppid, setsid},
};

use super::MountSettings;
use crate::error::{Exit, Failure};

/// Flag of a daemon that reports to its parent and leaves its session.
pub(super) const BACKGROUND: &str = "--background";

/// Flag of a daemon that reports to its parent and dies with it.
pub(super) const PARENT: &str = "--parent";

/// To whom the daemon says how it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// A person: one line on standard output.
    Person,
    /// A parent process: a line of the protocol on standard output.
    Parent,
}

impl Report {
    pub(super) fn ready(self, line: &str) {
        say(match self {
            Self::Person => format!("{line}\n"),
            Self::Parent => format!("ready {line}\n"),
        });
    }

    /// Tells a parent of a failure; the exit code is all that is left to give.
    pub fn failed(self, failure: &Failure) {
        if self == Self::Parent {
            say(format!("failed {} {}\n", failure.exit().code(), failure.message()));
        }
    }
}

fn say(line: String) {
    let mut out = io::stdout().lock();
    // A parent that is gone needs no answer.
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

/// What a daemon said first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Ready(String),
    Failed(Failure),
    /// It ended, or something else ran in its place.
    Nothing,
}

impl Said {
    pub(super) fn parse(line: &str) -> Self {
        let line = line.trim_end();
        if let Some(ready) = line.strip_prefix("ready ") {
            return Self::Ready(ready.into());
        }
        let failed = line.strip_prefix("failed ").and_then(|rest| rest.split_once(' '));
        match failed {
            Some((code, message)) => {
                let exit = Exit::ALL.into_iter().find(|exit| exit.code().to_string() == code);
                Self::Failed(Failure::new(exit.unwrap_or(Exit::Failed), message))
            }
            None => Self::Nothing,
        }
    }
}

/// For a daemon in the background: leaves the terminal's session, so that closing it ends nothing.
pub fn detach_from_terminal() -> Result<(), Failure> {
    setsid()
        .map(drop)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot leave the session: {error}")))
}

/// For a daemon that a supervisor keeps: SIGTERM when the thread that started it ends.
pub fn die_with(parent: i32) -> Result<(), Failure> {
    let failed = |error| Failure::new(Exit::Failed, format!("cannot be tied to the parent: {error}"));
    set_pdeathsig(Signal::SIGTERM).map_err(failed)?;
    // It may have died before we asked to be told.
    if getppid() != Pid::from_raw(parent) {
        raise(Signal::SIGTERM).map_err(failed)?;
    }
    Ok(())
}

/// Starts the daemon of `settings` in the background and returns when its mount answers, with the line
/// to print; or the daemon's own failure.
pub fn start_in_background(settings: &MountSettings) -> Result<String, Failure> {
    let failed = |what: &str, error: io::Error| Failure::new(Exit::Failed, format!("{what}: {error}"));
    let program = std::env::current_exe().map_err(|error| failed("own program", error))?;
    let log = match &settings.log_file {
        Some(path) => Stdio::from(
            fs::File::options()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|error| failed(&format!("log file {}", path.display()), error))?,
        ),
        // Whoever reads a pipe waits until its last writer is gone: `mount --daemon 2>&1 | tail` would wait
        // for the unmount.
        None if is_pipe(io::stderr()) => Stdio::null(),
        None => Stdio::inherit(),
    };
    let mut child = Command::new(program)
        // A copy of the program in /sbin would take itself for the helper of mount(8) again.
        .arg0("springhouse")
        .args(settings.arguments())
        .arg(BACKGROUND)
        .envs(crate::logging::environment())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| failed("cannot start the daemon", error))?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        // A read that fails is a daemon that said nothing.
        let _ = BufReader::new(out).read_line(&mut line);
    }
    match Said::parse(&line) {
        Said::Ready(line) => Ok(line),
        Said::Failed(failure) => Err(failure),
        Said::Nothing => Err(died(&mut child)),
    }
}

fn is_pipe(file: impl AsFd) -> bool {
    let copy = file.as_fd().try_clone_to_owned().map(fs::File::from);
    copy.and_then(|file| file.metadata()).is_ok_and(|it| it.file_type().is_fifo())
}

fn died(child: &mut Child) -> Failure {
    let how = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
    Failure::new(Exit::Failed, format!("the mount daemon ended without a word ({how}); see its log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_its_exit_code() {
        let failure = Failure::new(Exit::MountPoint, "mount point /x is not empty; choose another");
        let line = format!("failed {} {}\n", failure.exit().code(), failure.message());
        assert_eq!(Said::parse(&line), Said::Failed(failure));
        assert_eq!(Said::parse("ready mounted a at b\n"), Said::Ready("mounted a at b".into()));
        assert_eq!(Said::parse(""), Said::Nothing);
        assert_eq!(Said::parse("usage: something else"), Said::Nothing);
    }
}
