//! `springhouse gateway`.

use crate::{
    config::{Flags, roles},
    error::Failure,
    serve,
};

/// `springhouse gateway`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example, with a worker on the same host:\n  \
    springhouse gateway --store hdfs://namenode:9000/segments\n  \
    springhouse worker --store hdfs://namenode:9000/segments")]
pub struct Args {
    #[command(flatten)]
    flags: Flags<roles::Gateway>,
}

/// Runs until SIGTERM, SIGINT or SIGHUP.
pub fn run(args: Args) -> Result<(), Failure> {
    let config = super::configure(args.flags, |config| &config.log)?;
    super::block_on(serve::gateway(config))
}
