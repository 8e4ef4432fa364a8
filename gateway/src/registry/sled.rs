//! The embedded back end: sled, and the only file that knows it.

use std::{
    ops::{Bound, ControlFlow},
    path::Path,
    thread::sleep,
    time::Duration,
};

use super::{
    Meta, Registry, RegistryError, RowChange,
    rows::{seal, unseal},
};

const META_KEY: &[u8] = b"meta";
/// The kernel gives a dead process's lock back a moment late; a live one keeps it longer than this.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// A registry in a directory of the local disk.
pub struct SledRegistry {
    db: sled::Db,
    /// Catalog and ledger in one tree: a batch is atomic within one tree only.
    catalog: sled::Tree,
    meta: sled::Tree,
}

impl SledRegistry {
    /// Opens or creates it in `directory`. `cache_bytes`: see `Settings::registry_cache_bytes`.
    pub fn open(directory: &Path, cache_bytes: u64) -> Result<Self, RegistryError> {
        std::fs::create_dir_all(directory)
            .map_err(|e| RegistryError::Failed(format!("registry directory {}: {e}", directory.display())))?;
        let config = sled::Config::new().path(directory).cache_capacity(cache_bytes).flush_every_ms(None);
        let mut tries = 0;
        let db = loop {
            match config.open() {
                Ok(db) => break db,
                Err(error) if is_lock(&error) && tries < LOCK_TRIES => {
                    tries += 1;
                    sleep(LOCK_PAUSE);
                }
                Err(error) if is_lock(&error) => {
                    return Err(RegistryError::InUse(format!(
                        "registry {} is open in another process: stop the other gateway, or give this one \
                         a data directory of its own",
                        directory.display()
                    )));
                }
                Err(error) => {
                    return Err(RegistryError::Failed(format!(
                        "registry {} cannot be opened: {error}; if it is damaged, move the directory away: \
                         the catalog is made again from the store",
                        directory.display()
                    )));
                }
            }
        };
        let catalog = db.open_tree("catalog").map_err(failed)?;
        let meta = db.open_tree("meta").map_err(failed)?;
        Ok(Self { db, catalog, meta })
    }
}

impl Registry for SledRegistry {
    fn meta(&self) -> Result<Option<Meta>, RegistryError> {
        let Some(value) = self.meta.get(META_KEY).map_err(failed)? else { return Ok(None) };
        let meta = unseal(META_KEY, &value)
            .map_err(|e| e.to_string())
            .and_then(|payload| serde_json::from_slice(payload).map_err(|e| e.to_string()));
        match meta {
            Ok(meta) => Ok(Some(meta)),
            Err(reason) => {
                tracing::error!(reason, "the registry's own row is damaged: it gets a new identity");
                Ok(None)
            }
        }
    }

    fn set_meta(&self, meta: &Meta) -> Result<(), RegistryError> {
        let payload = serde_json::to_vec(meta).map_err(|e| RegistryError::Failed(e.to_string()))?;
        self.meta.insert(META_KEY, seal(META_KEY, &payload)).map_err(failed)?;
        self.db.flush().map_err(failed).map(drop)
    }

    fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        each: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), RegistryError> {
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        for row in self.catalog.range::<&[u8], _>((Bound::Included(start), end)) {
            let (key, value) = row.map_err(failed)?;
            if each(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RegistryError> {
        Ok(self.catalog.get(key).map_err(failed)?.map(|value| value.to_vec()))
    }

    fn commit(&self, changes: Vec<RowChange>) -> Result<(), RegistryError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut batch = sled::Batch::default();
        for change in changes {
            match change {
                RowChange::Put(key, value) => batch.insert(key, value),
                RowChange::Delete(key) => batch.remove(key),
            }
        }
        self.catalog.apply_batch(batch).map_err(failed)?;
        self.db.flush().map_err(failed).map(drop)
    }

    fn disk_bytes(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }
}

fn failed(error: sled::Error) -> RegistryError {
    RegistryError::Failed(format!("registry: {error}"))
}

/// sled reports a lock held by another process as an I/O error with this text.
fn is_lock(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(e) if e.to_string().contains("could not acquire lock"))
}
