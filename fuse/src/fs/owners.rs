//! Owners and groups: the store's names as this host's numbers.

use std::{collections::HashMap, time::Duration};

use nix::unistd::{Group, User};
use parking_lot::Mutex;
use tokio::{task::spawn_blocking, time::Instant};

/// Names that this host does not know belong to nobody.
pub const NOBODY: u32 = 65534;

/// How long an answer of the host's name service is good.
const FRESH: Duration = Duration::from_secs(300);

/// Most names remembered of each kind.
const NAMES_MAX: usize = 10_000;

type Known = Mutex<HashMap<String, (u32, Instant)>>;

/// The numbers of owners and groups, remembered: the name service may ask a directory server.
#[derive(Debug, Default)]
pub(super) struct Owners {
    users: Known,
    groups: Known,
}

impl Owners {
    /// uid and gid of an owner and a group.
    pub(super) async fn ids(&self, owner: &str, group: &str) -> (u32, u32) {
        let user = |name: &str| User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
        let group_of = |name: &str| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
        (id(&self.users, owner, user).await, id(&self.groups, group, group_of).await)
    }
}

async fn id(known: &Known, name: &str, ask: impl FnOnce(&str) -> Option<u32> + Send + 'static) -> u32 {
    // A store says a number where it knows no name.
    if let Ok(number) = name.parse() {
        return number;
    }
    if let Some((id, asked)) = known.lock().get(name)
        && asked.elapsed() < FRESH
    {
        return *id;
    }
    let owned = name.to_owned();
    let id = spawn_blocking(move || ask(&owned)).await.ok().flatten().unwrap_or(NOBODY);
    let mut known = known.lock();
    if known.len() >= NAMES_MAX {
        known.clear();
    }
    known.insert(name.to_owned(), (id, Instant::now()));
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_become_numbers() {
        let owners = Owners::default();
        assert_eq!(owners.ids("root", "root").await, (0, 0));
        assert_eq!(owners.ids("no such user", "no such group").await, (NOBODY, NOBODY));
        assert_eq!(owners.ids("1234", "99").await, (1234, 99));
        assert_eq!(owners.users.lock().len(), 2, "numbers need not be remembered");
    }
}
