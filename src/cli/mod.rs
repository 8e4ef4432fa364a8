//! Subcommands: each turns its arguments into a resolved configuration once, and runs.

use std::{
    future::Future,
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand, error::ErrorKind};

use crate::{
    config::{Flags, Problem, Role},
    error::{Exit, Failure},
};

pub mod cache;
mod columns;
pub mod completions;
pub mod config;
mod from_trough;
pub mod gateway;
pub mod manual;
pub mod mount;
pub mod mount_helper;
pub mod mounts;
pub mod query;
pub mod registry;
pub mod schema;
pub mod segment;
pub mod serve;
mod table;
pub mod tiers;
pub mod unmount;
pub mod version;
pub mod worker;

/// SQL over millions of SQLite files that lie in HDFS or in a directory, each read in place.
#[derive(Debug, Parser)]
#[command(
    name = "springhouse",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "Start here:\n  \
        springhouse serve --store file:///srv/segments\n  \
        springhouse query 1234567 'SELECT count(*) FROM page'\n\n\
        `springhouse COMMAND -h` shows the usual flags of a command, `--help` all of them."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What `springhouse` can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run gateway and worker in one process: all that one host needs
    Serve(serve::Args),
    /// Ask a segment, and print the rows
    Query(query::Args),
    /// Write, promote, raise, list, delete segments
    Segment(segment::Args),
    /// Register what new segments look like
    Schema(schema::Args),
    /// See which segments are hot, by which rules, and why
    Tiers(tiers::Args),
    /// Back up, restore, check and rebuild what a gateway keeps
    Registry(registry::Args),
    /// Mount a store as a directory
    Mount(mount::Args),
    /// What /sbin/mount.springhouse is: mount for /etc/fstab
    #[command(hide = true, disable_help_flag = true)]
    MountHelper {
        /// As mount(8) gives them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
    /// Unmount what `springhouse mount` mounted
    Unmount(unmount::Args),
    /// List this host's mounts, and how they are
    Mounts(mounts::Args),
    /// See, tune, warm and empty the cache of a running mount
    Cache(cache::Args),
    /// Run a worker, which answers queries for a gateway
    Worker(worker::Args),
    /// Run the gateway, which knows segments and workers
    Gateway(gateway::Args),
    /// Check a configuration, or show the one in force
    Config(config::Args),
    /// Print a script that makes a shell complete commands and flags
    Completions(completions::Args),
    /// Print a manual page, or write all of them
    Manual(manual::Args),
    /// Print the version and how SQLite was built
    Version,
}

impl Command {
    /// As it is typed.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Serve(_) => "serve",
            Self::Query(_) => "query",
            Self::Segment(_) => "segment",
            Self::Schema(_) => "schema",
            Self::Tiers(_) => "tiers",
            Self::Registry(_) => "registry",
            Self::Mount(_) => "mount",
            Self::MountHelper { .. } => "mount-helper",
            Self::Unmount(_) => "unmount",
            Self::Mounts(_) => "mounts",
            Self::Cache(_) => "cache",
            Self::Worker(_) => "worker",
            Self::Gateway(_) => "gateway",
            Self::Config(_) => "config",
            Self::Completions(_) => "completions",
            Self::Manual(_) => "manual",
            Self::Version => "version",
        }
    }
}

/// The command line of this process. Ends the process where that asks for help or makes no sense.
pub fn parse() -> Command {
    let error = match Cli::try_parse() {
        Ok(cli) => return cli.command,
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => {
            let program = subcommands(std::env::args().skip(1)).join(" ");
            let reason = in_one_line(&error.render().to_string());
            let _ = writeln!(io::stderr(), "{program}: {reason}; see `{program} --help`");
            std::process::exit(Exit::Usage.code().into());
        }
    }
}

/// All commands and their flags.
fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// `springhouse`, and the subcommands that lead `arguments`: the nearest help is theirs.
fn subcommands(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut command = command();
    let mut names = vec!["springhouse".to_owned()];
    for argument in arguments {
        let Some(next) = command.find_subcommand(&argument).cloned() else { break };
        names.push(argument);
        command = next;
    }
    names
}

/// What is wrong and the tip, without the usage text.
fn in_one_line(rendered: &str) -> String {
    let lines = rendered.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let wanted = lines.filter(|line| !line.is_empty());
    let line = wanted.collect::<Vec<_>>().join(", ");
    line.trim_start_matches("error: ").replace(":, ", ": ").replace(", tip: ", "; ")
}

/// Says in one line why `command` failed, and gives the exit code.
pub fn finish(command: &str, outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Not `eprintln`: it panics when nobody reads standard error any more.
            let _ = writeln!(io::stderr(), "springhouse {command}: {failure}");
            failure.exit().code().into()
        }
    }
}

/// The configuration of a role from its flags, with logging started as it says.
fn configure<R: Role>(flags: Flags<R>, log: fn(&R) -> &crate::config::groups::LogKeys) -> Result<R, Failure> {
    let (role, _) = flags.resolve().map_err(|problems| Failure::configuration(&problems, R::NAME))?;
    crate::logging::init(log(&role))?;
    Ok(role)
}

/// Runs `future` on a runtime of its own, and ends the runtime with it: a thread that is blocked in a
/// dead mount must not hold the process.
fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("threads: {error}")))?;
    let outcome = runtime.block_on(future);
    runtime.shutdown_background();
    outcome
}

/// Prints `text` to standard output. A reader that has gone (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Failed, format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints it for programs.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::new(Exit::Internal, error))?;
    print(&format!("{text}\n"))
}

fn problem(text: impl Into<String>) -> Failure {
    Failure::from(Problem(text.into()))
}
