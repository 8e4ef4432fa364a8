//! `springhouse manual`: manual pages, made from what `--help` says.

use std::path::PathBuf;

use super::print;
use crate::error::{Exit, Failure};

/// `springhouse manual`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    springhouse manual segment promote | man -l -\n  \
    springhouse manual --dir /usr/local/share/man/man1\n\n\
    `make install` puts all pages where man(1) finds them: `man springhouse-segment-promote`.")]
pub struct Args {
    /// Write the pages of all commands there, as man(1) names them; made if it is missing
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "command")]
    dir: Option<PathBuf>,
    /// The command whose page is printed, such as `segment promote`; none: springhouse itself
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs it.
pub fn run(args: Args) -> Result<(), Failure> {
    // Built: only then do subcommands know their whole names and inherited flags.
    let mut program = super::command();
    program.build();
    if let Some(dir) = args.dir {
        return std::fs::create_dir_all(&dir)
            .and_then(|()| clap_mangen::generate_to(super::command(), &dir))
            .map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", dir.display())));
    }
    let mut command = &program;
    for name in &args.command {
        command = command.find_subcommand(name).ok_or_else(|| {
            let known: Vec<_> = command.get_subcommands().filter(|c| !c.is_hide_set()).collect();
            let known: Vec<_> = known.iter().map(|command| command.get_name()).collect();
            let of = command.get_display_name().unwrap_or("springhouse").replace('-', " ");
            let known = match known.as_slice() {
                [] => format!("`{of}` has no commands"),
                known => format!("`{of}` has {}", known.join(", ")),
            };
            Failure::new(Exit::Usage, format!("there is no command {name:?}: {known}"))
        })?;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut page)
        .map_err(|error| Failure::new(Exit::Internal, error))?;
    let page = String::from_utf8(page).map_err(|error| Failure::new(Exit::Internal, error))?;
    print(&page)
}
