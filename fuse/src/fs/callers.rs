//! Who asks, and the store as he sees it.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use nix::unistd::{Uid, User};
use parking_lot::Mutex;
use tokio::{task::spawn_blocking, time::Instant};

use super::{FileSystem, Identity};
use crate::{
    error::{Error, ErrorKind, Result},
    store::{OpenedStore, Store, StoreUrl},
};

/// How long a user's name and store are kept.
const FRESH: Duration = Duration::from_secs(300);

/// Most users whose names are remembered. Each keeps his store, and with it a connection, alive.
const USERS_MAX: usize = 64;

/// The process that asks for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Its user on this host.
    pub uid: u32,
    /// Its group on this host.
    pub gid: u32,
}

impl Caller {
    /// This process itself.
    pub fn own() -> Self {
        Self { uid: Uid::effective().as_raw(), gid: nix::unistd::Gid::effective().as_raw() }
    }
}

/// Makes the store as another user sees it.
pub trait UserStores: Send + Sync + 'static {
    /// The same store, asked as the user `name`.
    fn as_user(&self, name: &str) -> Result<Arc<dyn Store>>;
}

impl UserStores for OpenedStore {
    fn as_user(&self, name: &str) -> Result<Arc<dyn Store>> {
        OpenedStore::as_user(self, name)
    }
}

type Known = HashMap<u32, (Arc<dyn Store>, Instant)>;

/// The stores of the users who asked lately.
#[derive(Default)]
pub(super) struct Callers {
    stores: Option<Arc<dyn UserStores>>,
    known: Mutex<Known>,
}

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callers").field("known", &self.known.lock().len()).finish_non_exhaustive()
    }
}

impl FileSystem {
    /// Where the stores of callers come from; needed for [`Identity::Caller`].
    #[must_use]
    pub fn with_users(mut self, users: Arc<dyn UserStores>) -> Self {
        self.callers = Callers { stores: Some(users), known: Mutex::default() };
        self
    }

    /// Whether each caller is asked for by his own name.
    pub(super) fn by_caller(&self) -> bool {
        self.settings.identity == Identity::Caller
    }

    /// Whether the store leaves it to this host's kernel who may do what, and to us whom files belong to.
    pub(super) fn owns_for_callers(&self) -> bool {
        self.by_caller() && matches!(self.store.0.url(), StoreUrl::File { .. })
    }

    /// Whether the kernel has to check permissions by mode and owner: of a local directory that is asked
    /// for callers, because the daemon itself may do everything there.
    pub fn kernel_decides(&self) -> bool {
        self.owns_for_callers()
    }

    /// Under whose name answers about paths are remembered.
    pub(super) fn viewer(&self, caller: Caller) -> u32 {
        if self.by_caller() { caller.uid } else { 0 }
    }

    /// The store as `caller` sees it. A user whom this host has no name for is refused: the store knows
    /// users by name.
    pub(super) async fn store_of(&self, caller: Caller) -> Result<Arc<dyn Store>> {
        if !self.by_caller() || self.owns_for_callers() || caller.uid == Uid::effective().as_raw() {
            return Ok(self.store.0.clone());
        }
        let Some(stores) = &self.callers.stores else {
            return Err(denied("the store cannot be asked as another user"));
        };
        if let Some((store, since)) = self.callers.known.lock().get(&caller.uid)
            && since.elapsed() < FRESH
        {
            return Ok(store.clone());
        }
        let uid = Uid::from_raw(caller.uid);
        let asked = spawn_blocking(move || User::from_uid(uid)).await;
        let name = match asked {
            Ok(Ok(Some(user))) => user.name,
            Ok(Ok(None)) => {
                tracing::warn!(uid = caller.uid, "refused: this host has no name for the user");
                return Err(denied(&format!("uid {} has no name on this host", caller.uid)));
            }
            Ok(Err(error)) => {
                tracing::warn!(uid = caller.uid, %error, "refused: the user's name could not be found");
                return Err(denied(&format!("the name of uid {}: {error}", caller.uid)));
            }
            Err(error) => return Err(Error::new(ErrorKind::Other, format!("name service: {error}"))),
        };
        let store = stores.as_user(&name)?;
        let mut known = self.callers.known.lock();
        if known.len() >= USERS_MAX
            && let Some(oldest) = known.iter().min_by_key(|(_, (_, since))| *since).map(|(uid, _)| *uid)
        {
            known.remove(&oldest);
        }
        known.insert(caller.uid, (store.clone(), Instant::now()));
        Ok(store)
    }
}

fn denied(why: &str) -> Error {
    Error::new(ErrorKind::PermissionDenied, format!("identity of the caller: {why}"))
}
