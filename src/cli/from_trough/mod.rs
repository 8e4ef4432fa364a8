//! `springhouse config from-trough`: Trough's settings as a configuration of ours.
//!
//! `settings` (YAML in) → `convert` (which of our keys each becomes, and what has none) → `write` (TOML out);
//! `lambda` reads those that are Python. Nothing is evaluated.

mod convert;
mod lambda;
mod settings;
#[cfg(test)]
mod tests;
mod write;

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::ValueEnum;

use self::settings::Settings;
use super::{print, problem};
use crate::{
    config::{file, roles},
    error::{Exit, Failure},
};

/// `springhouse config from-trough`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print the configuration of this role
    #[arg(long, value_enum, default_value = "serve", conflicts_with = "dir")]
    role: For,
    /// Write gateway.toml, worker.toml and serve.toml into this directory instead; none may be there
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Trough's settings.yml
    file: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum For {
    Gateway,
    Worker,
    Serve,
}

impl For {
    const ALL: [Self; 3] = [Self::Gateway, Self::Worker, Self::Serve];

    fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Worker => "worker",
            Self::Serve => "serve",
        }
    }
}

/// Runs it.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let text = file::read(&args.file)?;
    let place = args.file.display();
    let settings = Settings::parse(&text).map_err(|why| problem(format!("{place}: {why}")))?;
    for (line, name) in convert::unknown(&settings) {
        eprintln!(
            "springhouse config from-trough: {place}:{line}: Trough has no setting {name}; it is left out"
        );
    }
    match &args.dir {
        None => print(&toml(&settings, args.role)),
        Some(dir) => {
            for role in For::ALL {
                let path = dir.join(format!("{}.toml", role.name()));
                create(&path, &toml(&settings, role))?;
                print(&format!("{}\n", path.display()))?;
            }
            Ok(())
        }
    }
}

fn toml(settings: &Settings, role: For) -> String {
    match role {
        For::Gateway => write::toml::<roles::Gateway>(settings),
        For::Worker => write::toml::<roles::Worker>(settings),
        For::Serve => write::toml::<roles::Serve>(settings),
    }
}

fn create(path: &Path, text: &str) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AlreadyExists => "; move it away, or name another directory",
            io::ErrorKind::NotFound => "; make the directory first",
            _ => "",
        };
        Failure::new(Exit::Failed, format!("{}: {error}{remedy}", path.display()))
    })
}
