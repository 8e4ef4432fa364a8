//! The one owner of catalog and registry: what readers see has been made durable before.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::{
    Meta, Registry, RegistryError, RowChange,
    catalog::{Catalog, Delta, Directory},
    packed::{Facts, Packed},
    rows::{DirState, Key, RowError, decode_segments, encode_segments, seal, unseal},
};
use crate::segment::SegmentId;

/// One change of the catalog.
#[derive(Debug, Clone)]
pub enum Change {
    /// What a listing of the directory showed.
    Listed {
        /// The directory.
        path: Arc<str>,
        /// Its new state.
        state: DirState,
        /// All its segments.
        segments: Packed,
    },
    /// The directory is to be listed at the next pass; its segments stay.
    Suspect(Arc<str>),
    /// The directory is gone.
    Removed(Arc<str>),
    /// One segment was looked at: its facts, or `None` if it is gone.
    Segment {
        /// Its directory.
        directory: Arc<str>,
        /// Its id.
        id: SegmentId,
        /// What the store says.
        facts: Option<Facts>,
    },
}

/// A directory before or after a change; `None`: not there.
type Version = Option<Arc<Directory>>;

impl Change {
    fn path(&self) -> &Arc<str> {
        match self {
            Self::Listed { path, .. } | Self::Suspect(path) | Self::Removed(path) => path,
            Self::Segment { directory, .. } => directory,
        }
    }
}

/// Catalog and registry, kept equal.
pub struct State {
    registry: Box<dyn Registry>,
    catalog: RwLock<Catalog>,
    meta: RwLock<Meta>,
    /// Held by whoever changes something, over the write to disk; readers never wait for that.
    writer: Mutex<()>,
}

impl State {
    /// Loads the catalog. Damaged rows are dropped, logged, and their directories listed again. Blocks.
    pub fn open(registry: Box<dyn Registry>, new_meta: impl FnOnce() -> Meta) -> Result<Self, RegistryError> {
        let mut meta = registry.meta()?.unwrap_or_else(new_meta);
        meta.epoch += 1;
        let (catalog, dropped) = load(&*registry)?;
        registry.commit(dropped)?;
        registry.set_meta(&meta)?;
        Ok(Self { registry, catalog: RwLock::new(catalog), meta: RwLock::new(meta), writer: Mutex::new(()) })
    }

    /// The catalog. Hold it for moments, never over an await.
    pub fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read()
    }

    /// Who this registry is.
    pub fn meta(&self) -> Meta {
        self.meta.read().clone()
    }

    /// Whether a discovery pass ever reached its end.
    pub fn discovered(&self) -> bool {
        self.meta.read().discovered
    }

    /// Changes the meta row. Blocks.
    pub fn update_meta(&self, update: impl FnOnce(&mut Meta)) -> Result<(), RegistryError> {
        let _writer = self.writer.lock();
        let mut meta = self.meta();
        update(&mut meta);
        if meta != *self.meta.read() {
            self.registry.set_meta(&meta)?;
            *self.meta.write() = meta;
        }
        Ok(())
    }

    /// Makes changes durable, then visible. If it fails nothing is changed. Blocks.
    pub fn commit(&self, changes: Vec<Change>) -> Result<Delta, RegistryError> {
        let _writer = self.writer.lock();
        // Several changes of one directory add up; nobody else can change it meanwhile.
        let mut next: BTreeMap<Arc<str>, (Version, Version)> = BTreeMap::new();
        for change in changes {
            let path = change.path().clone();
            let (_, new) = next.entry(path).or_insert_with_key(|path| {
                let old = self.catalog.read().directory(path).cloned();
                (old.clone(), old)
            });
            *new = apply(new.take(), change);
        }
        next.retain(|_, (old, new)| old != new);
        let rows =
            next.iter().flat_map(|(path, (old, new))| row_changes(path, old.as_deref(), new.as_deref()));
        self.registry.commit(rows.collect())?;
        let mut delta = Delta::default();
        for (path, (old, new)) in next {
            // One directory per lock: a batch of many must not hold up readers. The old version is
            // dropped outside.
            delta += self.catalog.write().replace(&path, new);
            drop(old);
        }
        Ok(delta)
    }

    /// Bytes of the registry on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.registry.disk_bytes()
    }
}

fn apply(old: Version, change: Change) -> Version {
    let old_bounds = |old: &Version| old.as_ref().map(|d| d.bounds.clone()).unwrap_or_default();
    match change {
        Change::Listed { state, mut segments, .. } => {
            segments.shrink();
            let bounds = Directory::bounds_for(&segments, &old_bounds(&old));
            Some(Arc::new(Directory { state, segments, bounds }))
        }
        Change::Removed(_) => None,
        Change::Suspect(_) => old.map(|mut directory| {
            Arc::make_mut(&mut directory).state.seen = None;
            directory
        }),
        Change::Segment { id, facts, .. } => {
            if old.is_none() && facts.is_none() {
                return None;
            }
            let bounds = old_bounds(&old);
            let mut directory = old.unwrap_or_default();
            let changed = Arc::make_mut(&mut directory);
            match facts {
                Some(facts) => changed.segments.put(id.as_str(), facts),
                None => changed.segments.remove(id.as_str()),
            }
            changed.bounds = Directory::bounds_for(&changed.segments, &bounds);
            Some(directory)
        }
    }
}

/// The rows that differ between two versions of a directory.
fn row_changes(path: &str, old: Option<&Directory>, new: Option<&Directory>) -> Vec<RowChange> {
    let mut changes = Vec::new();
    let put = |key: Key<'_>, payload: Vec<u8>| {
        let key = key.encode();
        let value = seal(&key, &payload);
        RowChange::Put(key, value)
    };
    match (old.map(|d| d.state), new.map(|d| d.state)) {
        (old, Some(state)) if old != Some(state) => changes.push(put(Key::Directory(path), state.encode())),
        (Some(_), None) => changes.push(RowChange::Delete(Key::Directory(path).encode())),
        _ => {}
    }
    let mut old_rows: BTreeMap<&str, _> = old.into_iter().flat_map(Directory::rows).collect();
    for (lower, range) in new.into_iter().flat_map(Directory::rows) {
        let (Some(new), old_range) = (new, old_rows.remove(lower)) else { continue };
        let same = match (old, old_range) {
            (Some(old), Some(old_range)) => new.segments.same(range.clone(), &old.segments, old_range),
            _ => false,
        };
        if !same {
            changes.push(put(Key::Segments(path, lower), encode_segments(&new.segments, range)));
        }
    }
    changes.extend(old_rows.into_keys().map(|lower| RowChange::Delete(Key::Segments(path, lower).encode())));
    changes
}

/// Reads all rows; also returns the deletions of those that are damaged.
fn load(registry: &dyn Registry) -> Result<(Catalog, Vec<RowChange>), RegistryError> {
    let mut catalog = Catalog::default();
    let mut dropped = Vec::new();
    let mut current: Option<(Arc<str>, Directory)> = None;
    registry.scan(&mut |key, value| {
        if let Err(reason) = load_row(&mut catalog, &mut current, key, value) {
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
    Ok((catalog, dropped))
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
