//! `springhouse worker`.

use crate::{
    config::{Flags, roles},
    error::Failure,
    serve,
};

/// `springhouse worker`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    springhouse worker --store hdfs://namenode:9000/segments\n  \
    springhouse worker --store hdfs://namenode:9000/segments --tier hot --data /srv/springhouse\n  \
    springhouse worker --store hdfs://ns1/segments --gateway http://gw:6110 --listen 0.0.0.0:6120 \\\n    \
    --advertise http://$(hostname):6120 --cluster-secret-file /etc/springhouse/secret")]
pub struct Args {
    #[command(flatten)]
    flags: Flags<roles::Worker>,
}

/// Runs until SIGTERM or SIGINT.
pub fn run(args: Args) -> Result<(), Failure> {
    let config = super::configure(args.flags, |config| &config.log)?;
    super::block_on(serve::worker(config))
}
