//! Names of local owners and groups, remembered.

use std::{collections::HashMap, sync::Arc};

use nix::unistd::{Gid, Group, Uid, User};
use parking_lot::Mutex;

/// Most names remembered of each kind; a host with more owners than this only asks more often.
const NAMES_MAX: usize = 4096;

/// Number to name. The name service may ask a directory server, so each number is asked for once, and
/// only on blocking threads. A number without a name is its own name, as `ls` shows it.
#[derive(Debug, Default)]
pub(super) struct Names {
    users: Mutex<HashMap<u32, Arc<str>>>,
    groups: Mutex<HashMap<u32, Arc<str>>>,
}

impl Names {
    pub(super) fn user(&self, uid: u32) -> String {
        lookup(&self.users, uid, || User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name))
    }

    pub(super) fn group(&self, gid: u32) -> String {
        lookup(&self.groups, gid, || {
            Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name)
        })
    }
}

fn lookup(names: &Mutex<HashMap<u32, Arc<str>>>, id: u32, ask: impl FnOnce() -> Option<String>) -> String {
    if let Some(name) = names.lock().get(&id) {
        return name.to_string();
    }
    // Asked without the lock: the name service may be slow.
    let name = ask().unwrap_or_else(|| id.to_string());
    let mut names = names.lock();
    if names.len() >= NAMES_MAX {
        names.clear();
    }
    names.insert(id, name.as_str().into());
    name
}
