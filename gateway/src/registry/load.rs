//! Reading everything at the start.

use std::sync::Arc;

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
    let mut current: Option<(Arc<str>, Directory)> = None;
    registry.scan(LOADED_END, &mut |key, value| {
        if key.first() == Some(&LEDGER) {
            ledger.load(key, value);
        } else if let Err(reason) = load_row(&mut catalog, &mut current, key, value) {
            tracing::error!(
                row = %String::from_utf8_lossy(key).escape_debug(), %reason,
                "damaged registry row dropped; its directory will be listed again"
            );
            dropped.push(RowChange::Delete(key.to_vec()));
            // The directory lacks something now, whatever its own row says.
            if let (Ok(key), Some((path, directory))) = (Key::decode(key), &mut current)
                && **path == *key.directory()
            {
                directory.state.seen = None;
            }
        }
    })?;
    finish(&mut catalog, current);
    Ok(Loaded { catalog, ledger, dropped })
}

fn load_row(
    catalog: &mut Catalog,
    current: &mut Option<(Arc<str>, Directory)>,
    key: &[u8],
    value: &[u8],
) -> Result<(), RowError> {
    let decoded = Key::decode(key)?;
    if current.as_ref().is_none_or(|(path, _)| **path != *decoded.directory()) {
        finish(catalog, current.take());
    }
    let (_, directory) = current.get_or_insert_with(|| (decoded.directory().into(), Directory::default()));
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

fn finish(catalog: &mut Catalog, directory: Option<(Arc<str>, Directory)>) {
    if let Some((path, mut directory)) = directory {
        directory.segments.shrink();
        catalog.replace(&path, Some(Arc::new(directory)));
    }
}
