//! `springhouse cache set`.

use std::path::PathBuf;

use super::{
    super::{columns::Columns, print},
    daemon_of,
};
use crate::{
    config::Problem,
    error::{Exit, Failure},
    mount::api::Settings,
};

/// `springhouse cache set`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    springhouse cache set /mnt/segments memory_blocks=1GiB freshness=5s\n  \
    springhouse cache set /mnt/segments          # what can be set, and how it is now\n\n\
    A setting holds until the daemon ends: put it into the configuration as well.")]
pub(super) struct Args {
    /// The mount point, or a path in it
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Keys as in a configuration file, with their new values
    #[arg(value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let mut wanted = Settings::new();
    for setting in &args.settings {
        let (key, value) = setting.split_once('=').ok_or_else(|| {
            Failure::from(Problem(format!("{setting}: is no setting; give KEY=VALUE, such as freshness=5s")))
        })?;
        wanted.insert(key.replace('-', "_"), value.to_owned());
    }
    let (_, client, _) = daemon_of(&args.path).await?;
    if wanted.is_empty() {
        let settings = client.settings().await?;
        if args.json {
            return json(&settings);
        }
        let mut table = Columns::new(["SETTING", "NOW"]);
        for (key, value) in settings {
            let value = match value.as_str() {
                "" if key == "cache_size" => "no cache_dir".into(),
                "" => "as freshness".into(),
                _ => value,
            };
            table.row([key, value]);
        }
        return print(&table.text());
    }
    let changed = client.set(&wanted).await?;
    if args.json {
        return json(&changed);
    }
    let mut table = Columns::new(["SETTING", "BEFORE", "NOW"]);
    for (key, change) in changed {
        table.row([key, change.old, change.new]);
    }
    print(&table.text())
}

fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::new(Exit::Internal, error))?;
    print(&format!("{text}\n"))
}
