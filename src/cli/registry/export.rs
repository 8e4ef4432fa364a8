//! `springhouse registry export`.

use std::{
    fs::{self, File},
    io::{self, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
};

use springhouse_gateway::registry::export::{ExportError, stopped};

use super::{Source, block_on, failed, open, problem};
use crate::error::{Exit, Failure};

/// `springhouse registry export`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File to write; standard output unless given
    file: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let Some(file) = args.file.filter(|file| file.as_os_str() != "-") else {
        if io::stdout().is_terminal() {
            return Err(problem("this is a file for programs: name one, or send it on with | or >"));
        }
        let mut out = BufWriter::new(io::stdout().lock());
        return write(&args.source, &mut out).map(drop);
    };
    // Under another name until it is whole.
    let part = part_of(&file);
    let written = (|| {
        let mut out = BufWriter::new(File::create(&part).map_err(|e| cannot(&part, &e))?);
        let lines = write(&args.source, &mut out)?;
        let finished = out.into_inner().map_err(io::IntoInnerError::into_error);
        finished.and_then(|file| file.sync_all()).map_err(|e| cannot(&part, &e))?;
        fs::rename(&part, &file).map_err(|e| cannot(&file, &e))?;
        Ok(lines)
    })();
    match written {
        Ok(lines) => super::print(&format!("{lines} lines to {}\n", file.display())),
        Err(failure) => {
            let _ = fs::remove_file(&part); // worth nothing
            Err(failure)
        }
    }
}

/// How many lines there were.
fn write(source: &Source, out: &mut dyn Write) -> Result<u64, Failure> {
    let Some(data) = &source.data else {
        let client = source.client()?;
        return block_on(async { copy(client.registry_export().await?, out).await });
    };
    let (_taken, registry) = open(data)?;
    match stopped(&registry, out) {
        Ok(exported) if exported.damaged > 0 => {
            let _ = writeln!(
                io::stderr(),
                "{} rows of the catalog are damaged: after an import their directories are listed again",
                exported.damaged
            );
            Ok(exported.lines)
        }
        Ok(exported) => Ok(exported.lines),
        Err(ExportError::Registry(error)) => Err(failed(error)),
        Err(error) => Err(Failure::new(Exit::Failed, error)),
    }
}

/// Takes a running gateway's lines, and sees to it that they are all there.
async fn copy(mut answer: reqwest::Response, out: &mut dyn Write) -> Result<u64, Failure> {
    let (mut lines, mut last) = (0, Vec::new());
    let gone = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Unreachable, format!("the gateway broke the export off: {error}; try again"))
    };
    while let Some(chunk) = answer.chunk().await.map_err(|error| gone(&error))? {
        out.write_all(&chunk).map_err(|e| Failure::new(Exit::Failed, format!("the export: {e}")))?;
        for byte in chunk.split_inclusive(|byte| *byte == b'\n') {
            if last.last() == Some(&b'\n') {
                last.clear();
            }
            last.extend_from_slice(byte);
            lines += u64::from(last.last() == Some(&b'\n'));
        }
    }
    out.flush().map_err(|e| Failure::new(Exit::Failed, format!("the export: {e}")))?;
    if last.starts_with(b"{\"end\"") && last.ends_with(b"\n") {
        Ok(lines)
    } else {
        Err(gone(&"its last line is missing"))
    }
}

fn part_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

fn cannot(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{}: {error}", path.display()))
}
