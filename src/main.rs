//! The `springhouse` command.

use std::process::ExitCode;

use springhouse::{
    cli::{self, Command},
    panics,
};

fn main() -> ExitCode {
    panics::install();
    // Before there are threads: each would get a heap of its own that keeps its peak.
    springhouse_fuse::memory::tame_allocator();
    if cli::mount_helper::is_asked() {
        return cli::mount_helper::run(std::env::args_os().skip(1));
    }
    let command = cli::parse();
    let name = command.name();
    let outcome = match command {
        Command::Serve(args) => cli::serve::run(args),
        Command::Query(args) => cli::query::run(args),
        Command::Segment(args) => cli::segment::run(args),
        Command::Schema(args) => cli::schema::run(args),
        Command::Tiers(args) => cli::tiers::run(args),
        Command::Registry(args) => cli::registry::run(args),
        Command::Mount(args) => cli::mount::run(args),
        Command::MountHelper { arguments } => return cli::mount_helper::run(arguments.into_iter()),
        Command::Unmount(args) => cli::unmount::run(args),
        Command::Mounts(args) => cli::mounts::run(args),
        Command::Cache(args) => cli::cache::run(args),
        Command::Worker(args) => cli::worker::run(args),
        Command::Gateway(args) => cli::gateway::run(args),
        Command::Config(args) => cli::config::run(args),
        Command::Completions(args) => cli::completions::run(&args),
        Command::Manual(args) => cli::manual::run(args),
        Command::Version => cli::version::run(),
    };
    cli::finish(name, outcome)
}
