//! A back end in memory for tests, with failures on demand.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use super::{Meta, Registry, RegistryError, RowChange};

#[derive(Clone, Default)]
pub(crate) struct MemoryRegistry {
    pub(crate) rows: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
    pub(crate) meta: Arc<Mutex<Option<Meta>>>,
    pub(crate) commits: Arc<Mutex<Vec<Vec<RowChange>>>>,
    pub(crate) full: Arc<AtomicBool>,
}

impl Registry for MemoryRegistry {
    fn meta(&self) -> Result<Option<Meta>, RegistryError> {
        Ok(self.meta.lock().clone())
    }

    fn set_meta(&self, meta: &Meta) -> Result<(), RegistryError> {
        *self.meta.lock() = Some(meta.clone());
        Ok(())
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), RegistryError> {
        for (key, value) in self.rows.lock().iter() {
            each(key, value);
        }
        Ok(())
    }

    fn commit(&self, changes: Vec<RowChange>) -> Result<(), RegistryError> {
        if self.full.load(Ordering::SeqCst) {
            return Err(RegistryError::Failed("no space left on device".into()));
        }
        let mut rows = self.rows.lock();
        for change in changes.clone() {
            match change {
                RowChange::Put(key, value) => drop(rows.insert(key, value)),
                RowChange::Delete(key) => drop(rows.remove(&key)),
            }
        }
        self.commits.lock().push(changes);
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}
