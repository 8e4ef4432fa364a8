//! `springhouse segment …`: the life of segments, by hand.

use clap::Subcommand;
use springhouse_gateway::{
    api::{
        client::GatewayClient,
        hot::{PromoteRequest, ProvisionRequest, ReleaseRequest},
        optimize::OptimizeAnswer,
        types::RaiseRequest,
        work::CancelAnswer,
    },
    segment::SegmentId,
};

use super::{block_on, print, print_json, problem};
use crate::error::{Exit, Failure};

mod execute;
mod list;
mod many;
mod verify;

/// `springhouse segment`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    springhouse segment provision 1234567 --schema pages\n  \
    springhouse segment execute 1234567 \"INSERT INTO page VALUES (?, ?)\" --param 1 --param http://example.org/\n  \
    springhouse segment promote 1234567 --release\n  \
    springhouse segment list --prefix 12345")]
pub struct Args {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    common: Common,
}

/// What all of them take.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Common {
    /// URL of the gateway
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "SPRINGHOUSE_GATEWAY",
        default_value = "http://127.0.0.1:6110"
    )]
    gateway: String,
    /// Print JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
}

impl Common {
    pub(super) fn client(&self) -> Result<GatewayClient, Failure> {
        Ok(GatewayClient::new(&self.gateway, None)?)
    }
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the catalog
    List(list::Args),
    /// Show one segment: where it lies, who has copies, who may write
    Show(One),
    /// Ask a segment, as `springhouse query`
    Query(super::query::Args),
    /// Take the write lock for a hot worker; makes a new segment if the store has none
    Provision(Provision),
    /// Write to a segment that is provisioned: one transaction, all or nothing
    Execute(execute::Args),
    /// Make what was written the next generation in the store; goes on if this is interrupted (see `cancel`)
    Promote(Promote),
    /// Lay segments in the store out for reading from far away, as promotion does; changes nothing where that
    /// gains nothing
    Optimize(Many),
    /// Compare segments where their bytes are: registry, store, hot copies
    Verify(verify::Args),
    /// Give the write lock up
    Release(Release),
    /// List the write locks
    Locks,
    /// List what workers are doing: copies, uploads, verifications
    Work,
    /// End promotions, copies, new layouts and verifications that are under way; locks and writes stay
    Cancel(Many),
    /// Keep copies on hot workers
    Raise(Raise),
    /// Keep no copies on hot workers any more
    Lower(Many),
    /// Keep a copy on one worker, whatever placement says
    Pin(Pin),
    /// Take `pin` back
    Unpin(Pin),
    /// Delete segments: their copies and their files in the store
    Delete(Delete),
}

/// One segment.
#[derive(Debug, clap::Args)]
struct One {
    /// Id of the segment
    segment: String,
}

/// Some segments.
#[derive(Debug, clap::Args)]
struct Many {
    /// Ids of the segments; `-` takes them from standard input, a line each
    #[arg(required = true, value_name = "SEGMENT")]
    segments: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct Provision {
    #[command(flatten)]
    many: Many,
    /// Registered schema of a new segment
    #[arg(long, value_name = "NAME")]
    schema: Option<String>,
    /// Take the lock from its holder: what that had not promoted is kept aside there
    #[arg(long)]
    takeover: bool,
}

#[derive(Debug, clap::Args)]
struct Promote {
    #[command(flatten)]
    many: Many,
    /// Give the write lock up afterwards
    #[arg(long)]
    release: bool,
}

#[derive(Debug, clap::Args)]
struct Release {
    #[command(flatten)]
    many: Many,
    /// Although there are writes that were not promoted: they are kept aside on the worker
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct Raise {
    #[command(flatten)]
    many: Many,
    /// How many copies; the gateway's rule unless given
    #[arg(long, value_name = "N")]
    copies: Option<u32>,
}

#[derive(Debug, clap::Args)]
struct Pin {
    #[command(flatten)]
    one: One,
    /// Name of the worker
    worker: String,
}

#[derive(Debug, clap::Args)]
struct Delete {
    #[command(flatten)]
    many: Many,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Runs it.
pub fn run(args: Args) -> Result<(), Failure> {
    let Args { what, common } = args;
    if let What::Query(args) = what {
        return super::query::run(args);
    }
    block_on(async move {
        let client = common.client()?;
        match what {
            What::List(args) => list::run(&client, args, common.json).await,
            What::Show(One { segment }) => show(&client, &id(&segment)?, common.json).await,
            What::Query(_) => Ok(()),
            What::Provision(args) => {
                let request = ProvisionRequest { schema: args.schema, takeover: args.takeover };
                many::each(&args.many.segments, common.json, async |id| {
                    let answer = client.provision(id, &request).await?;
                    let how = match (answer.granted, answer.created) {
                        (true, true) => "new segment, writable on",
                        (true, false) => "writable on",
                        (false, _) => "already writable on",
                    };
                    let mut line = format!("{how} {} under token {}", answer.worker, answer.token);
                    if let Some(recovered) = &answer.recovered {
                        line = format!("{line}; {}", recovered.note);
                    }
                    Ok((line, answer))
                })
                .await
            }
            What::Execute(args) => execute::run(&client, args, common.json).await,
            What::Promote(args) => {
                let request = PromoteRequest { release: args.release };
                many::watched(&client, &args.many.segments, common.json, async |id| {
                    let answer = client.promote(id, &request).await?;
                    let lock = if answer.released { ", lock released" } else { "" };
                    let size = super::mounts::size(answer.size);
                    Ok((format!("promoted: {size} at {}{lock}", answer.url), answer))
                })
                .await
            }
            What::Optimize(args) => {
                many::watched(&client, &args.segments, common.json, async |id| {
                    let answer = client.optimize(id).await?;
                    Ok((optimized(&answer), answer))
                })
                .await
            }
            What::Verify(args) => verify::run(&client, args, common.json).await,
            What::Release(args) => {
                let request = ReleaseRequest { force: args.force };
                many::each(&args.many.segments, common.json, async |id| {
                    client.release_lock(id, &request).await.map(|()| ("released".to_owned(), ()))
                })
                .await
            }
            What::Locks => list::locks(&client, common.json).await,
            What::Work => list::work(&client, common.json).await,
            What::Cancel(args) => {
                many::each(&args.segments, common.json, async |id| {
                    let answer = client.cancel(id).await?;
                    Ok((cancelled(&answer), answer))
                })
                .await
            }
            What::Raise(args) => {
                let request = RaiseRequest { copies: args.copies };
                many::each(&args.many.segments, common.json, async |id| {
                    client.raise(id, &request).await.map(|answer| ("raised".to_owned(), answer))
                })
                .await
            }
            What::Lower(args) => {
                many::each(&args.segments, common.json, async |id| {
                    client.lower(id).await.map(|answer| ("lowered".to_owned(), answer))
                })
                .await
            }
            What::Pin(args) => pin(&client, &args, true).await,
            What::Unpin(args) => pin(&client, &args, false).await,
            What::Delete(args) => {
                if !args.yes {
                    many::confirm(&args.many.segments)?;
                }
                many::each(&args.many.segments, common.json, async |id| {
                    client.delete(id).await.map(|()| ("deleted".to_owned(), ()))
                })
                .await
            }
        }
    })
}

/// What was ended, in a line.
fn cancelled(answer: &CancelAnswer) -> String {
    let mut what = Vec::new();
    if answer.promotion {
        what.push("promotion ended".to_owned());
    } else if !answer.workers.is_empty() || !answer.verification {
        what.push("no promotion to end".to_owned());
    }
    if answer.verification {
        what.push("verification ended".to_owned());
    }
    if !answer.workers.is_empty() {
        what.push(format!("stopped on {}", answer.workers.join(", ")));
    }
    what.join("; ")
}

/// What was gained, in a line.
fn optimized(answer: &OptimizeAnswer) -> String {
    let layout = &answer.layout;
    let what = "all interior pages and a leaf of a cold file in";
    if !answer.changed {
        return format!(
            "laid out well already: {what} {} reads; nothing was changed",
            layout.cold_reads_before
        );
    }
    let saved = match layout.pages_before.saturating_sub(layout.pages_after) {
        0 => String::new(),
        pages => format!(", {pages} pages fewer"),
    };
    format!(
        "laid out anew: {what} {} reads instead of {}{saved}",
        layout.cold_reads_after, layout.cold_reads_before
    )
}

async fn pin(client: &GatewayClient, args: &Pin, on: bool) -> Result<(), Failure> {
    client.pin(&id(&args.one.segment)?, &args.worker, on).await?;
    let how = if on { "pinned to" } else { "not pinned any more to" };
    print(&format!("{}: {how} {}\n", args.one.segment, args.worker))
}

async fn show(client: &GatewayClient, id: &SegmentId, json: bool) -> Result<(), Failure> {
    let info = client.segment(id).await?;
    if json {
        return print_json(&info);
    }
    let mut value = serde_json::to_value(&info).map_err(|error| Failure::new(Exit::Internal, error))?;
    if !info.work.is_empty() {
        value["work"] = list::doing(&info.work).into();
    }
    print(&list::facts(&value))
}

fn id(text: &str) -> Result<SegmentId, Failure> {
    SegmentId::parse(text).map_err(|error| problem(error.to_string()))
}
