//! `springhouse completions`: what makes a shell complete our commands and flags.

use clap_complete::Shell;

use super::print;
use crate::error::{Exit, Failure};

/// `springhouse completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    source <(springhouse completions bash)                 # this shell only\n  \
    springhouse completions bash > ~/.local/share/bash-completion/completions/springhouse\n  \
    springhouse completions zsh > ~/.zfunc/_springhouse    # a directory of $fpath\n  \
    springhouse completions fish > ~/.config/fish/completions/springhouse.fish\n\n\
    `make install` puts bash's, zsh's and fish's where they are found.")]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs it.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "springhouse", &mut script);
    let script = String::from_utf8(script).map_err(|error| Failure::new(Exit::Internal, error))?;
    print(&script)
}
