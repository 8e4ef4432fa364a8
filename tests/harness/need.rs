//! What a test needs of the host beyond Rust. Missing: the test is skipped with the reason; with
//! `CI=true` it fails instead, because nobody reads the skips of a machine.

use std::{
    env,
    ffi::CString,
    fmt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use super::hadoop;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Need {
    /// FUSE mounts: `/dev/fuse`, and for ordinary users fusermount3.
    Fuse,
    /// HDFS daemons: Java, and Maven for the first download of their jars.
    Hdfs,
    /// To run the product as somebody else: root.
    SecondUser,
    /// A mount by an ordinary user: root to become one, and fusermount3.
    UserMounts,
    /// The command line tool of SQLite.
    Sqlite3,
    /// A process with a `/dev` of its own: root, and unshare.
    Namespaces,
    /// A file system of the test's own in memory: root who may mount.
    Tmpfs,
    /// A terminal for a command: the tool `script`.
    Terminal,
    /// The demo, which `make` builds together with this.
    Demo,
    /// The POSIX conformance suite.
    Pjdfstest,
    /// The file system exerciser.
    Fsx,
    /// The tool `rsync`.
    Rsync,
    /// Python with DuckDB, which reads and writes Parquet.
    DuckDb,
    /// A Kerberos server of the test's own: MIT's `krb5kdc` and `kadmin.local`.
    Kerberos,
}

/// Something is missing: what, and how to get it.
#[derive(Debug, Clone)]
pub struct Missing {
    pub what: String,
    pub remedy: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

impl Need {
    /// `Err` says what is missing. Looked up once.
    pub fn check(self) -> Result<(), Missing> {
        static ANSWERS: OnceLock<std::sync::Mutex<std::collections::HashMap<Need, Option<Missing>>>> =
            OnceLock::new();
        let answers = ANSWERS.get_or_init(Default::default);
        let mut answers = answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        answers.entry(self).or_insert_with(|| self.look()).clone().map_or(Ok(()), Err)
    }

    fn look(self) -> Option<Missing> {
        match self {
            Self::Fuse => fuse(),
            Self::Hdfs => hdfs(),
            Self::SecondUser => second_user(),
            Self::UserMounts => {
                second_user().or_else(|| program("fusermount3", "fuse3")).or_else(fuse_for_all)
            }
            Self::Sqlite3 => program("sqlite3", "sqlite3"),
            Self::Namespaces => second_user().or_else(no_mounts).or_else(|| program("unshare", "util-linux")),
            Self::Tmpfs => second_user().or_else(no_mounts),
            Self::Terminal => program("script", "bsdutils"),
            Self::Demo => demo(),
            Self::Pjdfstest => cached_tool("pjdfstest"),
            Self::Fsx => cached_tool("fsx"),
            Self::Rsync => program("rsync", "rsync"),
            Self::DuckDb => cached_tool("duckdb/bin/python"),
            Self::Kerberos => krb5(),
        }
    }
}

/// Whether skips are failures.
pub fn is_ci() -> bool {
    env::var("CI").is_ok_and(|v| v == "true" || v == "1")
}

/// Whether this process is root.
pub fn is_root() -> bool {
    // SAFETY: geteuid(2) cannot fail and touches no memory.
    #[allow(unsafe_code)]
    let id = unsafe { libc::geteuid() };
    id == 0
}

fn fuse() -> Option<Missing> {
    if !Path::new("/dev/fuse").exists() {
        let remedy = "load the kernel module with `modprobe fuse`, or start the container with `--device /dev/fuse --cap-add SYS_ADMIN`";
        return missing("no /dev/fuse", remedy);
    }
    if let Err(e) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        let remedy = "chmod 666 /dev/fuse, or give the container `--device /dev/fuse --cap-add SYS_ADMIN`";
        return missing(&format!("/dev/fuse cannot be opened ({e})"), remedy);
    }
    if !is_root() {
        return program("fusermount3", "fuse3");
    }
    no_mounts()
}

fn no_mounts() -> Option<Missing> {
    (!may_mount()).then(|| Missing {
        what: "root may not mount here".into(),
        remedy: "start the container with `--cap-add SYS_ADMIN`".into(),
    })
}

/// Where `tests/prepare` puts what no package holds.
pub fn tool(name: &str) -> PathBuf {
    hadoop::cache().map(|cache| cache.join("tools").join(name)).unwrap_or_default()
}

fn cached_tool(name: &str) -> Option<Missing> {
    let short = name.split('/').next().unwrap_or(name);
    if is_executable(&tool(name)) {
        return None;
    }
    missing(&format!("{short} is not installed"), &format!("`tests/prepare {short}` (it needs the network)"))
}

fn krb5() -> Option<Missing> {
    second_user()
        .or_else(|| sbin_program("krb5kdc", "krb5-kdc"))
        .or_else(|| sbin_program("kadmin.local", "krb5-admin-server"))
        .or_else(|| program("kinit", "krb5-user"))
}

fn sbin_program(name: &str, package: &str) -> Option<Missing> {
    if is_executable(&Path::new("/usr/sbin").join(name)) { None } else { program(name, package) }
}

fn demo() -> Option<Missing> {
    if super::demo_binary().is_some() {
        return None;
    }
    missing("the demo is not built", "`cargo build --example demo`, with the same profile")
}

fn fuse_for_all() -> Option<Missing> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata("/dev/fuse").map_or(0, |m| m.permissions().mode());
    if mode & 0o006 == 0o006 {
        None
    } else {
        missing("/dev/fuse is closed to ordinary users", "chmod 666 /dev/fuse")
    }
}

/// Whether the kernel lets this process mount: CAP_SYS_ADMIN is bit 21 of the effective set.
fn may_mount() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    effective.is_none_or(|set| set & (1 << 21) != 0)
}

fn hdfs() -> Option<Missing> {
    program("java", "default-jre-headless").or_else(|| {
        if hadoop::jars_are_cached() {
            return None;
        }
        program("mvn", "maven").or_else(|| {
            let failed = hadoop::jars().err()?;
            missing(&failed, "Maven needs the network once; the jars are kept in ~/.cache/springhouse")
        })
    })
}

fn second_user() -> Option<Missing> {
    if is_root() { None } else { missing("not root, so no second user", "run the tests as root") }
}

fn program(name: &str, package: &str) -> Option<Missing> {
    let found = env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|dir| is_executable(&dir.join(name))));
    if found {
        None
    } else {
        missing(&format!("{name} is not installed"), &format!("`apt-get install {package}`"))
    }
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: access(2) reads a NUL-terminated string that lives through the call.
    #[allow(unsafe_code)]
    let answer = unsafe { libc::access(path.as_ptr(), libc::X_OK) };
    answer == 0
}

fn missing(what: &str, remedy: &str) -> Option<Missing> {
    Some(Missing { what: what.into(), remedy: remedy.into() })
}

/// `nobody`: an ordinary user on every Linux.
pub const NOBODY: u32 = 65_534;

/// Makes `command` run as an ordinary user. Needs [`Need::SecondUser`].
pub fn as_nobody(mut command: Command) -> Command {
    use std::os::unix::process::CommandExt;
    command.uid(NOBODY).gid(NOBODY);
    command
}
