//! `springhouse worker`.

use clap::Subcommand;
use springhouse_gateway::api::types::{Tier, WorkerInfo};

use super::{columns::Columns, mounts::size, print, print_json, segment::Common};
use crate::{
    config::{Flags, roles},
    error::Failure,
    serve,
};

/// `springhouse worker`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  \
    springhouse worker --store hdfs://namenode:9000/segments\n  \
    springhouse worker --store hdfs://namenode:9000/segments --tier hot --data /srv/springhouse\n  \
    springhouse worker --store hdfs://ns1/segments --gateway http://gw:6110 --listen 0.0.0.0:6120 \\\n    \
    --advertise http://$(hostname):6120 --cluster-secret-file /etc/springhouse/secret"
)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    flags: Flags<roles::Worker>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the workers that the gateway knows
    List(Common),
    /// Give a worker nothing new, and have what it holds copied elsewhere
    Drain {
        /// Its name
        worker: String,
        /// Take it back
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        common: Common,
    },
}

/// Runs until SIGTERM, SIGINT or SIGHUP.
pub fn run(args: Args) -> Result<(), Failure> {
    if let Some(what) = args.what {
        return super::block_on(ask(what));
    }
    let config = super::configure(args.flags, |config| &config.log)?;
    super::block_on(serve::worker(config))
}

async fn ask(what: What) -> Result<(), Failure> {
    match what {
        What::List(common) => {
            let all = common.client()?.workers().await?.workers;
            if common.json {
                return print_json(&all);
            }
            if all.is_empty() {
                return print("no workers; start one with: springhouse worker --gateway URL --store URL\n");
            }
            let mut table =
                Columns::new(["WORKER", "TIER", "LIVE", "#LEASE AGE", "#RUNNING", "#STORED", "URL"]);
            for worker in all {
                table.row(row(worker));
            }
            print(&table.text())
        }
        What::Drain { worker, undo, common } => {
            common.client()?.drain(&worker, !undo).await?;
            let how = if undo { "takes segments again" } else { "is drained: it is given nothing new" };
            print(&format!("{worker} {how}\n"))
        }
    }
}

fn row(WorkerInfo { name, lease, live, lease_age_ms, .. }: WorkerInfo) -> [String; 7] {
    let tier = match (lease.tier, &lease.hot) {
        (Tier::Cold, None) => "cold",
        (Tier::Cold, Some(_)) => "hot,cold",
        (Tier::Hot, _) => "hot",
    };
    let stored = match &lease.hot {
        None => "-".to_owned(),
        Some(hot) => {
            let full = if hot.full { ", full" } else { "" };
            format!("{} of {}{full}", size(hot.stored_bytes), size(hot.quota_bytes))
        }
    };
    let age = format!("{:.1}s", lease_age_ms as f64 / 1000.0);
    let live = if live { "yes" } else { "no" };
    [name, tier.into(), live.into(), age, lease.queries_running.to_string(), stored, lease.url]
}
