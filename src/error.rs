//! How a command ends: the one table of exit codes, and the one line that says why.
//!
//! Errno is chosen in `springhouse_fuse::error`, HTTP statuses in `springhouse_gateway::api::error`; here
//! their kinds become exit codes, by exhaustive matches.

use std::{fmt, io, net::SocketAddr};

use springhouse_fuse::error::{Error as StoreError, ErrorKind};
use springhouse_gateway::{
    StartError,
    api::{
        client::ClientError,
        error::{ApiError, ErrorCode},
    },
    store::StoreFailure,
};

use crate::config::Problem;

/// Why a command ended, for scripts and supervisors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// It did what was asked, or stopped when told to.
    Done,
    /// What was asked failed: a query, for instance.
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    /// Store or gateway cannot be reached, or does not answer in time.
    Unreachable,
    /// The mount point or FUSE itself.
    MountPoint,
    /// Somebody else has the port, the data directory or the store.
    InUse,
    /// The user may not.
    Denied,
    /// What was checked is not in order.
    Findings,
    /// A defect of Springhouse.
    Internal,
}

impl Exit {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 9] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Unreachable,
        Self::MountPoint,
        Self::InUse,
        Self::Denied,
        Self::Findings,
        Self::Internal,
    ];

    /// The number and what it means, as `docs/CONFIGURATION.md` has it. Part of the interface: never
    /// changed, only added to. 64 to 78 are those of sysexits, above 128 those of signals.
    pub fn code_and_meaning(self) -> (u8, &'static str) {
        match self {
            Self::Done => (0, "Did what was asked, or stopped when told to."),
            Self::Failed => (1, "What was asked failed, and would fail again."),
            Self::Usage => (2, "Command line or configuration is wrong: correct it."),
            Self::Unreachable => (3, "Store or gateway cannot be reached or is too slow: try again later."),
            Self::MountPoint => (4, "Mount point missing, not empty or in use, or no FUSE on this host."),
            Self::InUse => (5, "Port, data directory or store belongs to another process."),
            Self::Denied => (6, "No permission."),
            Self::Findings => (7, "A check found what does not fit, and said it."),
            Self::Internal => (70, "A defect of Springhouse: please report the line."),
        }
    }

    /// The number.
    pub fn code(self) -> u8 {
        self.code_and_meaning().0
    }
}

/// A command that did not do what was asked: the exit code, and one line `thing: reason; remedy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    /// With `message` on one line, whatever it held.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        let text = message.to_string();
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        Self { exit, message: lines.join(", ") }
    }

    /// Of the mount or its mount point, where the same kinds mean something else than in the store.
    pub fn mount(error: &StoreError) -> Self {
        let exit = match error.kind() {
            ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::NotEmpty
            | ErrorKind::Unsupported
            | ErrorKind::Stale
            | ErrorKind::Other => Exit::MountPoint,
            kind => of_kind(kind),
        };
        Self::new(exit, with_remedy(error))
    }

    /// A port that cannot be listened on. `flag` chooses another.
    pub fn listen(address: SocketAddr, flag: &str, error: &io::Error) -> Self {
        let port = address.port();
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::new(
                Exit::InUse,
                format!(
                    "{address}: port {port} is in use; stop what uses it, or choose another with \
                     {flag} {}:PORT (0 takes a free one)",
                    address.ip()
                ),
            ),
            io::ErrorKind::PermissionDenied => Self::new(
                Exit::Denied,
                format!("{address}: no permission for port {port}; choose one above 1023 with {flag}"),
            ),
            io::ErrorKind::AddrNotAvailable => Self::new(
                Exit::Usage,
                format!("{address}: this host has no such address; choose one of its own with {flag}"),
            ),
            _ => Self::new(Exit::Failed, format!("{address}: {error}; choose another address with {flag}")),
        }
    }

    /// Several problems of a configuration: the first, and where to see the others.
    pub fn configuration(problems: &[Problem], role: &str) -> Self {
        let first = problems.first().map_or_else(String::new, ToString::to_string);
        let more = match problems.len() {
            0 | 1 => String::new(),
            n => format!(
                " (and {} more: `springhouse config show {role}` with the same flags lists all)",
                n - 1
            ),
        };
        Self::new(Exit::Usage, format!("{first}{more}"))
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// The line.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

fn of_kind(kind: ErrorKind) -> Exit {
    match kind {
        // A URL that names nothing, or a file, is a wrong URL.
        ErrorKind::NotFound
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::NameTooLong
        | ErrorKind::InvalidArgument
        | ErrorKind::Unsupported => Exit::Usage,
        ErrorKind::TimedOut | ErrorKind::Unavailable => Exit::Unreachable,
        ErrorKind::PermissionDenied | ErrorKind::ReadOnly => Exit::Denied,
        ErrorKind::AlreadyExists
        | ErrorKind::NotEmpty
        | ErrorKind::Busy
        | ErrorKind::CrossDevice
        | ErrorKind::NoSpace
        | ErrorKind::Stale
        | ErrorKind::Corrupt
        | ErrorKind::Other => Exit::Failed,
    }
}

/// The message with what to do about it, where its author did not say: a semicolon parts the two.
fn with_remedy(error: &StoreError) -> String {
    let message = error.message().trim_end();
    let remedy = match error.kind() {
        _ if message.contains("; ") => return message.to_owned(),
        ErrorKind::NotFound => "create it, or correct the URL or path",
        ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::InvalidArgument => {
            "correct the URL or path"
        }
        ErrorKind::TimedOut | ErrorKind::Unavailable => {
            "check that the store runs and that this host reaches it, then try again"
        }
        ErrorKind::PermissionDenied => "run as a user who may, or change the permissions",
        ErrorKind::ReadOnly => "make it writable",
        ErrorKind::AlreadyExists | ErrorKind::NotEmpty => "choose another directory",
        ErrorKind::Busy => "wait until it is closed",
        ErrorKind::NoSpace => "make room",
        ErrorKind::NameTooLong => "use a shorter name",
        ErrorKind::Unsupported => "see docs/CONFIGURATION.md for what is supported",
        ErrorKind::CrossDevice | ErrorKind::Stale | ErrorKind::Corrupt | ErrorKind::Other => {
            return message.to_owned();
        }
    };
    format!("{message}; {remedy}")
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(of_kind(error.kind()), with_remedy(&error))
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::new(Exit::Usage, problem)
    }
}

/// The kind that `gateway_store` made this failure of.
fn kind_of(failure: &StoreFailure) -> ErrorKind {
    match failure {
        StoreFailure::NotFound(_) => ErrorKind::NotFound,
        StoreFailure::AlreadyExists(_) => ErrorKind::AlreadyExists,
        StoreFailure::Denied(_) => ErrorKind::PermissionDenied,
        StoreFailure::Unavailable(_) => ErrorKind::Unavailable,
        StoreFailure::Other(_) => ErrorKind::Other,
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Registry(text) => Self::new(Exit::Failed, text),
            StartError::RegistryInUse(text) | StartError::StoreOwned(text) => Self::new(Exit::InUse, text),
            StartError::Store(failure) => Self::from(StoreError::new(kind_of(&failure), failure.to_string())),
            StartError::Setting(text) => Self::new(Exit::Usage, text),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::Refused(refusal) => Self::from(refusal),
            ClientError::Unreachable { .. } => Self::new(
                Exit::Unreachable,
                format!("{error}; start it with `springhouse serve`, or name another with --gateway"),
            ),
            ClientError::NotAGateway { .. } => {
                Self::new(Exit::Usage, format!("{error}; name the gateway with --gateway"))
            }
            ClientError::BadUrl(_) => Self::new(Exit::Usage, error),
        }
    }
}

impl From<&ApiError> for Failure {
    fn from(error: &ApiError) -> Self {
        let exit = match error.code {
            ErrorCode::Unauthorized => Exit::Denied,
            ErrorCode::Warming
            | ErrorCode::NoWorker
            | ErrorCode::WorkerLost
            | ErrorCode::StoreUnavailable
            | ErrorCode::ShuttingDown
            | ErrorCode::Overloaded => Exit::Unreachable,
            _ => Exit::Failed,
        };
        let again = if error.retry { " (try again)" } else { "" };
        Self::new(exit, format!("{}{again}", error.message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_ascend() {
        let codes: Vec<_> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:?}");
    }

    #[test]
    fn one_line_with_a_remedy() {
        let error = StoreError::new(ErrorKind::Unavailable, "hdfs://nn:1/:\n connection refused\n");
        let failure = Failure::from(error);
        assert_eq!(failure.exit(), Exit::Unreachable);
        assert_eq!(
            failure.message(),
            "hdfs://nn:1/:, connection refused; check that the store runs and that this host reaches it, \
             then try again"
        );
    }

    #[test]
    fn a_remedy_is_not_said_twice() {
        let error = StoreError::new(ErrorKind::NotFound, "store file:///x: no such directory; create it");
        assert_eq!(Failure::from(error.clone()).message(), error.message());
        assert_eq!(Failure::from(error.clone()).exit(), Exit::Usage);
        assert_eq!(Failure::mount(&error).exit(), Exit::MountPoint);
    }

    #[test]
    fn a_store_that_does_not_let_the_gateway_start_says_what_to_do() {
        let failure = |failure: StoreFailure| Failure::from(StartError::Store(failure.about("store x")));
        let denied = failure(StoreFailure::Denied("/.marker: Permission denied".into()));
        assert_eq!(denied.exit(), Exit::Denied);
        assert!(denied.message().starts_with("store x: /.marker: Permission denied; "), "{denied}");
        let down = failure(StoreFailure::Unavailable("no answer".into()));
        assert_eq!(down.exit(), Exit::Unreachable);
        assert!(down.message().contains("; "), "{down}");
        assert_eq!(failure(StoreFailure::Other("odd".into())).exit(), Exit::Failed);
    }

    #[test]
    fn a_port_in_use_is_named_with_the_way_out() {
        let address = "127.0.0.1:6110".parse().expect("an address");
        let failure = Failure::listen(address, "--listen", &io::ErrorKind::AddrInUse.into());
        assert_eq!(failure.exit(), Exit::InUse);
        assert!(failure.message().contains("port 6110 is in use"), "{failure}");
        assert!(failure.message().contains("--listen 127.0.0.1:PORT"), "{failure}");
    }
}
