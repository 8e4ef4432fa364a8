//! A store as several users see it.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use super::Store;
use crate::error::{Error, ErrorKind, Result};

/// Users whose stores are kept. Each may hold a connection to the NameNode; who is forgotten costs a new
/// one when he comes back.
const USERS_MAX: usize = 64;

type Make = dyn Fn(&str) -> Result<Arc<dyn Store>> + Send + Sync;

/// The stores of the users who asked last.
pub(super) struct Users {
    make: Box<Make>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// With the time of the last use, in uses.
    stores: HashMap<String, (Arc<dyn Store>, u64)>,
    uses: u64,
}

impl Known {
    fn get(&mut self, user: &str) -> Option<Arc<dyn Store>> {
        self.uses += 1;
        let (store, used) = self.stores.get_mut(user)?;
        *used = self.uses;
        Some(Arc::clone(store))
    }

    /// Takes `store` in; gives the one that has to go for it.
    fn insert(&mut self, user: &str, store: Arc<dyn Store>) -> Option<Arc<dyn Store>> {
        let full = self.stores.len() >= USERS_MAX;
        let oldest = self.stores.iter().min_by_key(|(_, (_, used))| *used).map(|(user, _)| user.clone());
        let gone = oldest.filter(|_| full).and_then(|oldest| self.stores.remove(&oldest));
        self.stores.insert(user.to_owned(), (store, self.uses));
        gone.map(|(store, _)| store)
    }
}

impl Users {
    /// `make` gives the store of a user.
    pub(super) fn new(make: impl Fn(&str) -> Result<Arc<dyn Store>> + Send + Sync + 'static) -> Self {
        Self { make: Box::new(make), known: Mutex::default() }
    }

    /// The store of `user`.
    pub(super) fn get(&self, user: &str) -> Result<Arc<dyn Store>> {
        if user.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "a store's user must have a name"));
        }
        if let Some(store) = self.known.lock().get(user) {
            return Ok(store);
        }
        // Not under the lock: it reads configuration files.
        let made = (self.make)(user)?;
        let mut known = self.known.lock();
        if let Some(store) = known.get(user) {
            // Somebody was faster: all shall share one, and its answers.
            return Ok(store);
        }
        let gone = known.insert(user, Arc::clone(&made));
        drop(known);
        // A client that goes may close connections.
        drop(gone);
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;
    use crate::store::memory::MemoryStore;

    #[test]
    fn the_last_users_are_kept_and_who_is_held_stays() {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let users = Users::new(|_| {
            MADE.fetch_add(1, SeqCst);
            Ok(Arc::new(MemoryStore::new()))
        });
        let alice = users.get("alice").expect("a store");
        for number in 0..USERS_MAX - 1 {
            users.get(&format!("user{number}")).expect("a store");
        }
        assert!(Arc::ptr_eq(&alice, &users.get("alice").expect("a store")), "kept");
        assert_eq!(MADE.load(SeqCst), USERS_MAX);
        users.get("one more").expect("a store");
        assert!(Arc::ptr_eq(&alice, &users.get("alice").expect("a store")), "used since user0 was");
        users.get("user0").expect("a store");
        assert_eq!(MADE.load(SeqCst), USERS_MAX + 2, "user0 had gone");
        assert_eq!(users.known.lock().stores.len(), USERS_MAX);
        assert_eq!(users.get("").err().map(|e| e.kind()), Some(ErrorKind::InvalidArgument));
    }
}
