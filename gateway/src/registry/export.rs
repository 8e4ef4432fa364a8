//! Writing a registry as lines: one that nobody has open, or a gateway's while it runs.

use std::{
    io::{self, Write},
    ops::ControlFlow,
    sync::Arc,
};

use super::{
    Meta, Registry, RegistryError,
    catalog::Directory,
    ledger::rows::{LEDGER, LOADED_END, check, kind_and_subject, name_of},
    lines::{EntryLine, Header, Lines},
    load::{DirectoryReader, Read},
    rows::unseal,
    state::State,
};

/// Why there is no whole export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no registry in that directory.
    #[error("there is nothing to export: the registry is empty")]
    Empty,
    /// The registry cannot be read.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Whoever gets the lines takes no more.
    #[error("the export cannot be written: {0}")]
    Write(#[from] io::Error),
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// Lines.
    pub lines: u64,
    /// Rows of the catalog that were damaged: their directories are listed again after an import.
    pub damaged: u64,
}

/// A running gateway's registry at one moment, but for the checksums, each of which names its generation.
pub(super) struct Snapshot {
    pub(super) meta: Meta,
    /// Rows of the ledger.
    pub(super) ledger: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) directories: Vec<Shared>,
}

/// A directory, shared with the catalog.
pub(super) type Shared = (Arc<str>, Arc<Directory>);

/// Exports a registry that no gateway has open. Holds one directory at a time in memory. Blocks.
pub fn stopped(registry: &dyn Registry, out: &mut dyn Write) -> Result<Exported, ExportError> {
    let meta = registry.meta()?.ok_or(ExportError::Empty)?;
    let mut lines = Lines::new(out);
    lines.put(&Header::of(&meta))?;
    let (mut reader, mut damaged, mut outcome) = (DirectoryReader::default(), 0, Ok(()));
    let put = |directory: Option<Read>, lines: &mut Lines<'_>| match directory {
        Some((path, directory)) => lines.directory(&path, &directory),
        None => Ok(()),
    };
    registry.scan(b"", Some(LOADED_END), &mut |key, value| {
        outcome = if key.first() == Some(&LEDGER) {
            entry(&mut lines, key, value)
        } else {
            let (finished, result) = reader.row(key, value);
            damaged += u64::from(result.is_err());
            put(finished, &mut lines)
        };
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    outcome?;
    put(reader.finish(), &mut lines)?;
    rest(registry, &mut lines)?;
    Ok(Exported { lines: lines.end()?, damaged })
}

/// Exports what a gateway works with, as it is at one moment, while it goes on. The catalog's directories
/// are shared with the gateway, of the ledger the rows are copied. Blocks.
pub fn running(state: &State, out: &mut dyn Write) -> Result<Exported, ExportError> {
    let Snapshot { meta, ledger, directories } = state.snapshot()?;
    let mut lines = Lines::new(out);
    lines.put(&Header::of(&meta))?;
    for (key, value) in ledger {
        entry(&mut lines, &key, &value)?;
    }
    for (path, directory) in directories {
        lines.directory(&path, &directory)?;
    }
    rest(state.registry(), &mut lines)?;
    Ok(Exported { lines: lines.end()?, damaged: 0 })
}

/// Rows that are not loaded at a start.
fn rest(registry: &dyn Registry, lines: &mut Lines<'_>) -> Result<(), ExportError> {
    let mut outcome = Ok(());
    registry.scan(LOADED_END, None, &mut |key, value| {
        outcome = entry(lines, key, value);
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(outcome?)
}

/// One row of the ledger. What cannot be read goes as it is: it may be all that is left of something.
fn entry(lines: &mut Lines<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    if let Err(reason) = check(key, value) {
        return lines.damaged(format!("{}: {reason}", name_of(key)), key, value);
    }
    let read = || {
        let (entry, of) = kind_and_subject(key)?;
        let text = String::from_utf8(unseal(key, value).ok()?.to_vec()).ok()?;
        Some(EntryLine { entry, of, value: serde_json::value::RawValue::from_string(text).ok()? })
    };
    match read() {
        Some(line) => lines.put(&line),
        None => lines.damaged(format!("{}: not JSON", name_of(key)), key, value),
    }
}
