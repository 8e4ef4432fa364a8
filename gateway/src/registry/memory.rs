//! A back end in memory for tests, with failures on demand.

use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use super::{Meta, Registry, RegistryError, RowChange};
use crate::crash::Crash;

/// Rows in memory. Clones share them, and so what one process flushed the next one finds.
#[derive(Clone, Default)]
pub struct MemoryRegistry {
    pub(crate) rows: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
    pub(crate) meta: Arc<Mutex<Option<Meta>>>,
    pub(crate) commits: Arc<Mutex<Vec<Vec<RowChange>>>>,
    pub(crate) full: Arc<AtomicBool>,
    pub(crate) crash: Arc<Crash>,
}

impl MemoryRegistry {
    /// The same rows for another process, which does not die where this one does.
    #[must_use]
    pub fn reopened(&self) -> Self {
        Self { crash: Arc::default(), ..self.clone() }
    }

    /// Where the process that has it open dies.
    pub fn crash(&self) -> &Crash {
        &self.crash
    }
}

impl Registry for MemoryRegistry {
    fn meta(&self) -> Result<Option<Meta>, RegistryError> {
        Ok(self.meta.lock().clone())
    }

    fn set_meta(&self, meta: &Meta) -> Result<(), RegistryError> {
        *self.meta.lock() = Some(meta.clone());
        Ok(())
    }

    fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        each: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), RegistryError> {
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.rows.lock().clone();
        for (key, value) in rows.range::<[u8], _>((Bound::Included(start), end)) {
            if each(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RegistryError> {
        Ok(self.rows.lock().get(key).cloned())
    }

    fn commit(&self, changes: Vec<RowChange>) -> Result<(), RegistryError> {
        if self.full.load(Ordering::SeqCst) {
            return Err(RegistryError::Failed("no space left on device".into()));
        }
        let step = self.crash.step();
        if step.is_before() {
            return Err(RegistryError::Failed("killed".into()));
        }
        let mut rows = self.rows.lock();
        for change in changes.clone() {
            match change {
                RowChange::Put(key, value) => drop(rows.insert(key, value)),
                RowChange::Delete(key) => drop(rows.remove(&key)),
            }
        }
        self.commits.lock().push(changes);
        if step.is_after() {
            return Err(RegistryError::Failed("killed".into()));
        }
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}
