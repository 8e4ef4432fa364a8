//! Reading everything at the start.

use std::{ops::ControlFlow, sync::Arc};

use super::{
    Registry, RegistryError, RowChange,
    catalog::{Catalog, Directory},
    ledger::{
        Ledger,
        rows::{LEDGER, LOADED_END},
    },
    rows::{DirState, Key, RowError, decode_segments, unseal},
};

/// What the registry held, and the deletions of catalog rows that are damaged.
pub(super) struct Loaded {
    pub(super) catalog: Catalog,
    pub(super) ledger: Ledger,
    pub(super) dropped: Vec<RowChange>,
}

/// Reads all rows.
pub(super) fn load(registry: &dyn Registry) -> Result<Loaded, RegistryError> {
    let mut catalog = Catalog::default();
    let mut ledger = Ledger::default();
    let mut dropped = Vec::new();
    let mut reader = DirectoryReader::default();
    let mut take = |directory: Option<Read>| {
        if let Some((path, directory)) = directory {
            catalog.replace(&path, Some(Arc::new(directory)));
        }
    };
    registry.scan(b"", Some(LOADED_END), &mut |key, value| {
        if key.first() == Some(&LEDGER) {
            ledger.load(key, value);
            return ControlFlow::Continue(());
        }
        let (finished, result) = reader.row(key, value);
        take(finished);
        if let Err(reason) = result {
            tracing::error!(
                row = %String::from_utf8_lossy(key).escape_debug(), %reason,
                "damaged registry row dropped; its directory will be listed again"
            );
            dropped.push(RowChange::Delete(key.to_vec()));
        }
        ControlFlow::Continue(())
    })?;
    take(reader.finish());
    Ok(Loaded { catalog, ledger, dropped })
}

/// A directory as its rows have it.
pub(super) type Read = (Arc<str>, Directory);

/// Makes directories of rows that come in order of their keys. Holds one at a time.
#[derive(Debug, Default)]
pub(super) struct DirectoryReader {
    current: Option<Read>,
}

impl DirectoryReader {
    /// Takes one row up: the directory before, if that is whole now, and what is wrong with the row.
    pub(super) fn row(&mut self, key: &[u8], value: &[u8]) -> (Option<Read>, Result<(), RowError>) {
        let decoded = match Key::decode(key) {
            Ok(decoded) => decoded,
            Err(error) => return (None, Err(error)),
        };
        let same = self.current.as_ref().is_some_and(|(path, _)| **path == *decoded.directory());
        let finished = if same { None } else { self.finish() };
        let (_, directory) =
            self.current.get_or_insert_with(|| (decoded.directory().into(), Directory::default()));
        let result = read_row(directory, decoded, key, value);
        if result.is_err() {
            // The directory lacks something now, whatever its own row says.
            directory.state.seen = None;
        }
        (finished, result)
    }

    /// The last one.
    pub(super) fn finish(&mut self) -> Option<Read> {
        let (path, mut directory) = self.current.take()?;
        directory.segments.shrink();
        Some((path, directory))
    }
}

fn read_row(directory: &mut Directory, decoded: Key<'_>, key: &[u8], value: &[u8]) -> Result<(), RowError> {
    let payload = unseal(key, value)?;
    match decoded {
        Key::Directory(_) => directory.state = DirState::decode(payload)?,
        Key::Segments(_, lower) => {
            decode_segments(payload, lower, &mut directory.segments)?;
            if !lower.is_empty() {
                directory.bounds.push(lower.into());
            }
        }
    }
    Ok(())
}
