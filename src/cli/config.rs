//! `springhouse config check | show | from-trough`.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};

use super::{from_trough, print, problem};
use crate::{
    config::{Flags, Problem, Role, render, resolve, roles},
    error::{Exit, Failure},
};

/// `springhouse config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Say what is wrong with a configuration file, and where
    #[command(after_help = "Example:\n  springhouse config check --role serve /etc/springhouse/serve.toml")]
    Check {
        /// Whose configuration it is; not needed for files called mount.toml, worker.toml, gateway.toml
        /// or serve.toml
        #[arg(long, value_enum)]
        role: Option<RoleName>,
        /// The file
        file: PathBuf,
    },
    /// Print the configuration in force as TOML, with the source of each value
    ///
    /// Takes the same flags, environment variables and file as the role itself, and starts nothing.
    #[command(after_help = "Example:\n  springhouse config show serve --config serve.toml --memory 1GiB")]
    Show {
        #[command(subcommand)]
        role: Show,
    },
    /// Turn Trough's settings into a configuration
    ///
    /// What has no counterpart becomes a comment. Nothing in the file is evaluated: Python lambdas of the usual
    /// shape become rules to look at.
    #[command(after_help = "Examples:\n  \
        springhouse config from-trough /etc/trough/settings.yml > serve.toml\n  \
        springhouse config from-trough /etc/trough/settings.yml --dir /etc/springhouse")]
    FromTrough(from_trough::Args),
    /// Print the tables of keys in docs/CONFIGURATION.md
    #[command(hide = true)]
    Docs,
    /// Print the annotated sample of a role
    #[command(hide = true)]
    Sample {
        #[arg(value_enum)]
        role: RoleName,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    Mount,
    Worker,
    Gateway,
    Serve,
}

#[derive(Debug, Subcommand)]
enum Show {
    /// Of `springhouse mount`
    Mount(Flags<roles::Mount>),
    /// Of `springhouse worker`
    Worker(Flags<roles::Worker>),
    /// Of `springhouse gateway`
    Gateway(Flags<roles::Gateway>),
    /// Of `springhouse serve`
    Serve(Flags<roles::Serve>),
}

/// Runs it.
pub fn run(args: Args) -> Result<(), Failure> {
    match args.what {
        What::Check { role, file } => check(role, &file),
        What::Show { role } => match role {
            Show::Mount(flags) => show(flags),
            Show::Worker(flags) => show(flags),
            Show::Gateway(flags) => show(flags),
            Show::Serve(flags) => show(flags),
        },
        What::FromTrough(args) => from_trough::run(&args),
        What::Docs => print(&render::all_tables()),
        What::Sample { role } => print(&match role {
            RoleName::Mount => render::sample::<roles::Mount>(),
            RoleName::Worker => render::sample::<roles::Worker>(),
            RoleName::Gateway => render::sample::<roles::Gateway>(),
            RoleName::Serve => render::sample::<roles::Serve>(),
        }),
    }
}

fn check(role: Option<RoleName>, file: &Path) -> Result<(), Failure> {
    let by_name = || file.file_stem()?.to_str().and_then(|stem| RoleName::from_str(stem, true).ok());
    let role = role.or_else(by_name).ok_or_else(|| {
        problem(format!(
            "{}: whose configuration this is does not show in its name; give --role mount, worker, gateway \
             or serve",
            file.display()
        ))
    })?;
    let problems = match role {
        RoleName::Mount => resolve::check_file::<roles::Mount>(file),
        RoleName::Worker => resolve::check_file::<roles::Worker>(file),
        RoleName::Gateway => resolve::check_file::<roles::Gateway>(file),
        RoleName::Serve => resolve::check_file::<roles::Serve>(file),
    };
    report(&problems)?;
    print(&format!("{}: good\n", file.display()))
}

fn show<R: Role>(flags: Flags<R>) -> Result<(), Failure> {
    match flags.resolve() {
        Ok((_, resolved)) => print(&render::show::<R>(&resolved)),
        Err(problems) => report(&problems),
    }
}

/// All problems, a line each: the last one as the command's own failure.
fn report(problems: &[Problem]) -> Result<(), Failure> {
    let Some((last, others)) = problems.split_last() else { return Ok(()) };
    for problem in others {
        eprintln!("springhouse config: {problem}");
    }
    Err(Failure::new(Exit::Usage, last))
}
