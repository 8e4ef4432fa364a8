//! `springhouse registry …`: the registry as a whole; docs/REGISTRY.md.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use springhouse_gateway::{
    api::client::GatewayClient,
    registry::{RegistryError, places, sled::SledRegistry},
};

use super::{block_on, print, print_json, problem};
use crate::{
    config::{Flags, groups::SecretKeys, roles},
    error::{Exit, Failure},
    serve::data_dir::DataDir,
};

mod export;
mod import;
mod rebuild;
mod verify;

/// Memory for the pages of a registry that is read or made once.
const CACHE_BYTES: u64 = 64 << 20;

/// `springhouse registry`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    springhouse registry export backup.jsonl\n  \
    springhouse registry verify --store\n  \
    springhouse registry import --data /var/lib/springhouse backup.jsonl\n  \
    springhouse registry rebuild --data /var/lib/springhouse --store hdfs://namenode:9000/segments")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Write everything in it as lines of JSON
    Export(export::Args),
    /// Make a stopped gateway's registry from such lines; all of it or nothing
    Import(import::Args),
    /// Name everything in it that does not fit, and what to do
    Verify(verify::Args),
    /// Make a stopped gateway's registry anew, from the store and from what workers say
    Rebuild(rebuild::Args),
}

/// A gateway that runs, or the data directory of one that does not.
#[derive(Debug, Clone, clap::Args)]
struct Source {
    /// Data directory of a gateway that is stopped; without it a running one is asked
    #[arg(long, value_name = "DIR", conflicts_with = "gateway")]
    data: Option<PathBuf>,
    /// URL of a gateway that runs
    #[arg(long, value_name = "URL", env = "SPRINGHOUSE_GATEWAY", default_value = "http://127.0.0.1:6110")]
    gateway: String,
    /// File that holds the cluster secret, if the gateway has one
    #[arg(long, value_name = "FILE", env = "SPRINGHOUSE_CLUSTER_SECRET_FILE")]
    cluster_secret_file: Option<PathBuf>,
}

impl Source {
    fn client(&self) -> Result<GatewayClient, Failure> {
        let keys = SecretKeys { cluster_secret: None, cluster_secret_file: self.cluster_secret_file.clone() };
        let secret = keys.secret()?.map(|secret| secret.reveal().to_owned());
        Ok(GatewayClient::new(&self.gateway, secret)?)
    }
}

/// Runs it.
pub fn run(args: Args) -> Result<(), Failure> {
    match args.what {
        What::Export(args) => export::run(args),
        What::Import(args) => import::run(args),
        What::Verify(args) => verify::run(args),
        What::Rebuild(args) => rebuild::run(args),
    }
}

/// The registry of a stopped gateway, and the lock that keeps the gateway from starting meanwhile.
fn open(data: &Path) -> Result<(DataDir, SledRegistry), Failure> {
    // Taking a directory would make it.
    if !places::current(data).is_dir() {
        let what = format!(
            "{} has no registry: name the data directory of a gateway, or a running gateway with --gateway",
            data.display()
        );
        return Err(problem(what));
    }
    let taken = take(data)?;
    let registry = places::open(data, CACHE_BYTES).map_err(failed)?;
    Ok((taken, registry))
}

fn take(data: &Path) -> Result<DataDir, Failure> {
    DataDir::take(data.to_owned()).map_err(|failure| match failure.exit() {
        Exit::InUse => Failure::new(
            Exit::InUse,
            format!(
                "{failure}: a gateway has its registry for itself (export and verify ask a running one without \
                 --data)"
            ),
        ),
        _ => failure,
    })
}

fn failed(error: RegistryError) -> Failure {
    let exit = match &error {
        RegistryError::InUse(_) => Exit::InUse,
        RegistryError::Failed(_) => Exit::Failed,
    };
    Failure::new(exit, error)
}

/// Settings of the gateway of `store`, from file and environment.
fn gateway_keys(store: &str, config: Option<PathBuf>) -> Result<roles::Gateway, Failure> {
    let mut flags = Flags::<roles::Gateway>::none(config);
    flags.give("store", Some(store.to_owned()), "--store");
    let (keys, _) = flags.resolve().map_err(|problems| Failure::configuration(&problems, "gateway"))?;
    Ok(keys)
}
