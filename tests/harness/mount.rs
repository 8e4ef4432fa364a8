//! `springhouse mount` as a process, on a directory of the test's own.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use super::{
    http, need,
    process::{self, Output, Process},
    springhouse_at, springhouse_binary, within,
};

const READY_LIMIT: Duration = Duration::from_secs(120);
/// For commands on a mount that is well.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// A mounted store. Dropped: unmounted, lazily if it must be, and never touched if it hangs.
pub struct Mount {
    process: Process,
    home: Option<tempfile::TempDir>,
    url: String,
}

impl Mount {
    /// Mounts `url`.
    pub fn of(url: &str) -> Self {
        Self::with(url, &[])
    }

    /// Mounts `url` with further arguments.
    pub fn with(url: &str, args: &[&str]) -> Self {
        let home = super::scratch();
        fs::create_dir(home.path().join("mnt")).expect("a mount point");
        let process = Process::start("mount", command(&springhouse_binary(), url, home.path(), args));
        Self::ready(process, home, url)
    }

    /// [`Mount::with`], the daemon with more in its environment.
    pub fn with_environment(url: &str, args: &[&str], environment: &[(&str, PathBuf)]) -> Self {
        let home = super::scratch();
        fs::create_dir(home.path().join("mnt")).expect("a mount point");
        let mut command = command(&springhouse_binary(), url, home.path(), args);
        command.envs(environment.iter().map(|(name, value)| (*name, value)));
        Self::ready(Process::start("mount", command), home, url)
    }

    /// Mounts `url` as an ordinary user, through fusermount3.
    pub fn as_nobody(url: &str) -> Self {
        let home = super::scratch();
        // Neither the build directory nor a home of root's is open to others.
        let binary = home.path().join("springhouse");
        fs::copy(springhouse_binary(), &binary).expect("a copy of the binary");
        let point = home.path().join("mnt");
        fs::create_dir(&point).expect("a mount point");
        for dir in [home.path(), &point] {
            std::os::unix::fs::chown(dir, Some(need::NOBODY), Some(need::NOBODY)).expect("chown by root");
        }
        Self::start_as_nobody(home, url)
    }

    fn start_as_nobody(home: tempfile::TempDir, url: &str) -> Self {
        let mut command = need::as_nobody(command(&home.path().join("springhouse"), url, home.path(), &[]));
        command.env("HOME", home.path()).env("XDG_RUNTIME_DIR", home.path());
        Self::ready(Process::start("mount as nobody", command), home, url)
    }

    /// After [`Mount::as_nobody`] has ended in whatever way: mounts on the same directory again.
    pub fn mount_again_as_nobody(mut self) -> Self {
        let home = self.home.take().expect("taken by drop only");
        let url = self.url.clone();
        self.process.wait(READY_LIMIT);
        Self::start_as_nobody(home, &url)
    }

    fn ready(process: Process, home: tempfile::TempDir, url: &str) -> Self {
        let mut mount = Self { process, home: Some(home), url: url.into() };
        let (point, socket) = (mount.path().to_owned(), mount.socket());
        let up = within(READY_LIMIT, || {
            if mount.process.exited().is_some() {
                return Some(false);
            }
            // The table says when it is mounted, the daemon when it answers; neither touches the mount.
            let answers = is_mounted(&point) && http::get_unix(&socket, "/stats").is_ok();
            answers.then_some(true)
        });
        assert_eq!(up, Some(true), "{url} is not mounted\n{}", mount.process.transcript());
        mount
    }

    /// The mount point.
    pub fn path(&self) -> PathBuf {
        self.home().join("mnt")
    }

    /// A file or directory in it.
    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    fn home(&self) -> &Path {
        self.home.as_ref().expect("taken by drop only").path()
    }

    fn socket(&self) -> PathBuf {
        self.home().join("control")
    }

    /// The daemon.
    pub fn daemon(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What the daemon says of itself.
    pub fn stats(&self) -> Value {
        let (status, body) = http::get_unix(&self.socket(), "/stats").expect("the control socket answers");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("statistics are JSON")
    }

    /// Runs a shell command in the mount's directory; its standard output. It must succeed.
    pub fn sh(&self, script: impl AsRef<OsStr>) -> String {
        let output = self.try_sh(script.as_ref(), COMMAND_LIMIT).expect("the command ends");
        assert!(output.success(), "{:?}: {output:?}", script.as_ref());
        output.stdout
    }

    /// Runs a shell command in the mount's directory; `Err` is the state of one that does not end.
    pub fn try_sh(&self, script: &OsStr, limit: Duration) -> Result<Output, char> {
        // The shell changes directory: a `chdir` of ours, between fork and exec, could hang for ever.
        let inner = [OsStr::new("cd \"$MOUNT\" && { "), script, OsStr::new("\n}")].join(OsStr::new(""));
        let mut command = Command::new("sh");
        command.arg("-c").arg(inner).env("LC_ALL", "C.UTF-8").env("MOUNT", self.path());
        process::try_run(command, limit)
    }

    /// Kills the daemon as a crash would and mounts again on the same directory.
    pub fn kill_and_mount_again(mut self) -> Self {
        self.process.kill();
        let home = self.home.take().expect("taken by drop only");
        let url = self.url.clone();
        let process = Process::start("mount, again", command(&springhouse_binary(), &url, home.path(), &[]));
        Self::ready(process, home, &url)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let Some(home) = self.home.take() else { return };
        let point = home.path().join("mnt");
        self.process.signal(process::Signal::Cont);
        self.process.signal(process::Signal::Term);
        self.process.wait(READY_LIMIT);
        if is_mounted(&point) {
            unmount_lazily(&point);
        }
        if is_mounted(&point) {
            // Removing the directory would walk into the mount.
            eprintln!("{} is still mounted and stays", point.display());
            let _ = home.keep();
        }
    }
}

fn command(binary: &Path, url: &str, home: &Path, args: &[&str]) -> Command {
    let mut command = springhouse_at(binary);
    command
        .args(["mount", url])
        .arg(home.join("mnt"))
        .arg("--control-socket")
        .arg(home.join("control"))
        .args(args);
    // A write whose pipeline is silent for half the deadline is lost: the default is too short for machines
    // that stand still now and then. Tests of faults say their own.
    if !url.starts_with("file:") && !args.iter().any(|arg| arg.starts_with("--store-deadline")) {
        command.arg("--store-deadline=60s");
    }
    command
}

/// Whether something is mounted there, by the kernel's table.
pub fn is_mounted(point: &Path) -> bool {
    mounts().iter().any(|mounted| mounted == point)
}

/// Every mount point of this host.
pub fn mounts() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(|field| unescape(field).into()).collect()
}

/// Takes a mount away from under whoever uses it.
pub fn unmount_lazily(point: &Path) {
    for (program, flags) in [("umount", &["-l"][..]), ("fusermount3", &["-u", "-z"][..])] {
        let mut command = Command::new(program);
        command.args(flags).arg(point);
        if process::try_run(command, READY_LIMIT).is_ok_and(|output| output.success()) {
            return;
        }
    }
}

/// The kernel writes blank, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    let mut text = field.to_owned();
    for (code, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(code, plain);
    }
    text
}
