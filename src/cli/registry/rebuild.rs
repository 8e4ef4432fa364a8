//! `springhouse registry rebuild`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use springhouse_fuse::store::open as open_store;
use springhouse_gateway::{
    discovery::owner::{Claim, claim},
    rebuild::{RebuildError, RebuildOptions, rebuild},
    registry::places::Making,
};

use super::{
    CACHE_BYTES, block_on, failed, gateway_keys,
    import::{former, reader},
    print, print_json, take,
};
use crate::{
    error::{Exit, Failure},
    failpoint,
    gateway_store::GatewayStore,
};

/// `springhouse registry rebuild`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// URL of the store that holds the segments
    #[arg(long, value_name = "URL")]
    store: String,
    /// Data directory of the gateway, which has to be stopped
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The gateway's configuration file, for what else it says of the store
    #[arg(long, value_name = "FILE", env = "SPRINGHOUSE_CONFIG")]
    config: Option<PathBuf>,
    /// An older export: schemas, raised and pinned segments, drained workers are taken from it
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Replace a registry that is not empty; it is kept beside, as registry.replaced-N
    #[arg(long)]
    replace: bool,
    /// For so long after its start the gateway takes up the write locks that workers have
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let keys = gateway_keys(&args.store, args.config)?;
    let export = args.from.as_deref().map(reader).transpose()?;
    let _taken = take(&args.data)?;
    let former = former(&args.data, args.replace)?;
    let options = RebuildOptions {
        former,
        wait: args.wait,
        parallelism: keys.gateway.discovery_parallelism.as_usize(),
    };
    let has_export = export.is_some();
    let (rebuilt, kept, owned) = block_on(async move {
        let opened = open_store(&keys.store.store, &keys.store.options())?;
        opened.check_root().await?;
        let store = Arc::new(GatewayStore::new(Arc::clone(&opened.store)));
        let making = Making::begin(&args.data, CACHE_BYTES).map_err(failed)?;
        let rebuilt = rebuild(store.clone(), Arc::clone(making.registry()), export, options).await;
        let rebuilt = rebuilt.map_err(|error| match error {
            RebuildError::Registry(error) => failed(error),
            RebuildError::Store(_) => Failure::new(Exit::Unreachable, error),
            RebuildError::Export(_) => Failure::new(Exit::Usage, error),
            RebuildError::Internal(_) => Failure::new(Exit::Internal, error),
        })?;
        failpoint::hit("rebuild.before_swap");
        let kept = making.finish().map_err(failed)?;
        failpoint::hit("rebuild.after_swap");
        let owned = claim(&*store, &rebuilt.registry_id, true).await;
        Ok((rebuilt, kept, owned))
    })?;
    if args.json {
        print_json(&rebuilt)?;
    } else {
        print(&format!(
            "rebuilt: {} segments in {} directories; {} uploads of promotions, last token seen {}\n",
            rebuilt.segments, rebuilt.directories, rebuilt.uploads, rebuilt.token_seen
        ))?;
        let wishes = match has_export {
            true => format!("from the export: {} schemas and wishes\n", rebuilt.wishes),
            false => {
                "schemas, raised and pinned segments and drained workers are not in the store: register them \
                      again, or rebuild with --from EXPORT\n"
                    .to_owned()
            }
        };
        print(&wishes)?;
        print(&format!(
            "start the gateway: for {} it takes up the write locks that its workers report, and grants no others\n",
            humantime::format_duration(args.wait)
        ))?;
        if let Some(kept) = kept {
            print(&format!("what was there is kept as {}\n", kept.display()))?;
        }
    }
    match owned {
        Ok(Claim::Ours | Claim::Taken) => Ok(()),
        Ok(Claim::ReadOnly(reason)) => print(&format!("the store takes no mark of its owner: {reason}\n")),
        Ok(Claim::Foreign { marker, owner }) => Err(Failure::new(
            Exit::InUse,
            format!(
                "{marker} names {owner}: somebody else took the store meanwhile; see to it that only one does"
            ),
        )),
        Err(failure) => Err(Failure::new(
            Exit::Unreachable,
            format!("{failure}; the registry is made, start its gateway with take_over_store = true"),
        )),
    }
}
