//! `springhouse serve`: gateway and worker in one process.

use crate::{
    config::{Flags, roles},
    error::Failure,
    serve,
};

/// `springhouse serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    springhouse serve --store file:///srv/segments\n  \
    springhouse serve --store hdfs://namenode:9000/segments --memory 2GiB\n  \
    springhouse serve --config serve.toml\n\n\
    Then ask: springhouse query SEGMENT 'SELECT …', or POST /v1/segments/SEGMENT/query (docs/HTTP.md).")]
pub struct Args {
    #[command(flatten)]
    flags: Flags<roles::Serve>,
}

/// Runs until SIGTERM, SIGINT or SIGHUP.
pub fn run(args: Args) -> Result<(), Failure> {
    let config = super::configure(args.flags, |config| &config.log)?;
    super::block_on(serve::serve(config))
}
