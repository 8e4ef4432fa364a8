//! Does a mount answer? Asked by a process of its own, because the question may never return.

use std::{
    ffi::CString,
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, fork},
};

/// What a mount did when it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Answered, if only with an error of the store.
    Alive,
    /// Its daemon is gone: "transport endpoint is not connected".
    Dead,
    /// No answer in time: its daemon is stopped or stuck.
    Hung,
}

/// How often the child is looked at.
const POLL: Duration = Duration::from_millis(5);

/// Asks the mount at `dir` for `statfs`, which the kernel never answers from memory, for at most
/// `timeout`. Blocks the thread meanwhile.
pub fn probe(dir: &Path, timeout: Duration) -> io::Result<Health> {
    let path = CString::new(dir.as_os_str().as_bytes())?;
    // SAFETY: between fork and _exit the child calls only statfs(2) and _exit(2), both of which may be
    // called in the child of a process with threads, and touches no memory but its own stack and `path`.
    #[allow(unsafe_code)]
    let child = match unsafe { fork() }? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => unsafe {
            let mut space = std::mem::zeroed::<libc::statfs>();
            let failed = libc::statfs(path.as_ptr(), &mut space) != 0;
            libc::_exit(if failed { *libc::__errno_location() & 0xff } else { 0 });
        },
    };
    let end = Instant::now() + timeout;
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::Exited(_, code) => {
                return Ok(match code {
                    libc::ENOTCONN | libc::ECONNABORTED => Health::Dead,
                    _ => Health::Alive,
                });
            }
            WaitStatus::StillAlive if Instant::now() < end => thread::sleep(POLL),
            WaitStatus::StillAlive => {
                // It dies when the kernel lets it; a thread collects it, and nobody waits for that.
                kill(child, Signal::SIGKILL)?;
                thread::spawn(move || waitpid(child, None));
                return Ok(Health::Hung);
            }
            _ => return Ok(Health::Hung),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_directory_is_alive() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(probe(dir.path(), Duration::from_secs(60)).expect("asked"), Health::Alive);
    }
}
