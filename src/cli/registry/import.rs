//! `springhouse registry import`.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use springhouse_gateway::registry::{
    import::{Former, ImportError, ImportOptions, import},
    places::{Making, Present, present},
};

use super::{CACHE_BYTES, failed, print, problem, take};
use crate::{
    error::{Exit, Failure},
    failpoint,
};

/// `springhouse registry import`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File that `export` wrote; `-`: standard input
    file: PathBuf,
    /// Data directory of the gateway, which has to be stopped
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Replace a registry that is not empty; it is kept beside, as registry.replaced-N
    #[arg(long)]
    replace: bool,
    /// The file was changed on purpose since it was exported
    #[arg(long)]
    edited: bool,
    /// For so long after its start the gateway takes up write locks that workers have and the file has not
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// Nothing was granted after the export: take up no locks
    #[arg(long, conflicts_with = "wait")]
    complete: bool,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let mut input = reader(&args.file)?;
    let _taken = take(&args.data)?;
    let former = former(&args.data, args.replace)?;
    let making = Making::begin(&args.data, CACHE_BYTES).map_err(failed)?;
    let wait_ms = u64::try_from(args.wait.as_millis()).unwrap_or(u64::MAX);
    let options =
        ImportOptions { edited: args.edited, former, adopt_ms: (!args.complete).then_some(wait_ms) };
    let imported = import(&mut *input, &**making.registry(), &options, &mut |lines| {
        failpoint::hit("import.batch");
        progress(lines);
    });
    let done = imported.map_err(|error| match error {
        ImportError::Registry(error) => failed(error),
        ImportError::Changed(_) | ImportError::CutShort(_) | ImportError::Line { .. } => {
            Failure::new(Exit::Usage, format!("{}: {error}", args.file.display()))
        }
        error => Failure::new(Exit::Failed, format!("{}: {error}", args.file.display())),
    })?;
    failpoint::hit("import.before_swap");
    let kept = making.finish().map_err(failed)?;
    failpoint::hit("import.after_swap");
    print(&format!(
        "imported registry {}: {} segments in {} directories, {} rows of the ledger{}; the last token is {}\n",
        done.registry_id,
        done.segments,
        done.directories,
        done.entries,
        if done.damaged > 0 { format!(", {} of them damaged", done.damaged) } else { String::new() },
        done.token,
    ))?;
    match kept {
        Some(kept) => print(&format!("what was there is kept as {}\n", kept.display())),
        None => Ok(()),
    }
}

/// What the registry that is there has given; an error if it may not be replaced.
pub(super) fn former(data: &Path, replace: bool) -> Result<Former, Failure> {
    match present(data, CACHE_BYTES) {
        Ok(Present::Nothing(former)) => Ok(former),
        Ok(Present::Something(former)) if replace => Ok(former),
        Ok(Present::Something(_)) => Err(problem(format!(
            "{} has a registry with something in it; --replace puts the new one in its place, and keeps the old \
             one beside",
            data.display()
        ))),
        Err(error) if replace => {
            let _ = writeln!(io::stderr(), "{error}; it is replaced without having been read");
            Ok(Former::default())
        }
        Err(error) => Err(failed(error)),
    }
}

/// The lines of an export.
pub(super) fn reader(file: &Path) -> Result<Box<dyn BufRead + Send>, Failure> {
    if file.as_os_str() == "-" {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let file = File::open(file).map_err(|error| problem(format!("{}: {error}", file.display())))?;
    Ok(Box::new(BufReader::with_capacity(1 << 20, file)))
}

fn progress(lines: u64) {
    let mut err = io::stderr();
    if err.is_terminal() {
        let _ = write!(err, "\r\x1b[K{lines} lines\r");
        let _ = err.flush();
    }
}
