//! `springhouse registry verify`.

use std::sync::Arc;

use springhouse_fuse::store::open as open_store;
use springhouse_gateway::registry::verify::{Findings, Severity, stopped, store::compare};

use super::{Source, block_on, failed, gateway_keys, open, print, print_json, problem};
use crate::{
    error::{Exit, Failure},
    gateway_store::GatewayStore,
};

/// Directories listed at the same time.
const PARALLELISM: usize = 8;

/// `springhouse registry verify`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// Compare it with the store too, which lists all of it; with --data the URL has to be given
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "")]
    store: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let findings = match &args.source.data {
        Some(data) => of_stopped(data, args.store.as_deref())?,
        None => {
            let client = args.source.client()?;
            if args.store.as_deref().is_some_and(|url| !url.is_empty()) {
                return Err(problem("a running gateway has a store of its own: --store without a URL"));
            }
            block_on(async { Ok(client.registry_verify(args.store.is_some()).await?) })?
        }
    };
    if args.json {
        print_json(&findings)?
    } else {
        print(&text(&findings))?
    }
    match findings.total() {
        0 => Ok(()),
        n => Err(Failure::new(Exit::Findings, format!("{n} things do not fit"))),
    }
}

fn of_stopped(data: &std::path::Path, store: Option<&str>) -> Result<Findings, Failure> {
    let (_taken, registry) = open(data)?;
    let (mut findings, catalog, ledger) = stopped(&registry).map_err(failed)?;
    let Some(url) = store else { return Ok(findings) };
    if url.is_empty() {
        return Err(problem("the URL of the store is missing: --store URL"));
    }
    let keys = gateway_keys(url, None)?.store;
    block_on(async move {
        let opened = open_store(&keys.store, &keys.options())?;
        opened.check_root().await?;
        let view = GatewayStore::new(Arc::clone(&opened.store));
        let compared = compare(&view, &(catalog, ledger), PARALLELISM, &mut findings).await;
        compared.map_err(|failure| Failure::new(Exit::Unreachable, failure))?;
        Ok(findings)
    })
}

fn text(findings: &Findings) -> String {
    let mut text = String::new();
    for finding in &findings.findings {
        let how = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        text += &format!("{how} {} {}: {}\n", finding.kind, finding.subject, finding.text);
        text += &format!("    {}\n", finding.remedy);
    }
    let kept = findings.findings.len() as u64;
    if findings.total() > kept {
        text += &format!("{} more are only counted: --json has the counts\n", findings.total() - kept);
    }
    let listed = findings.listed.map(|n| format!(", {n} directories of the store")).unwrap_or_default();
    let workers = findings.workers.map(|n| format!(", {n} workers")).unwrap_or_default();
    text + &format!("read {} rows, {} segments{listed}{workers}\n", findings.rows, findings.segments)
}
