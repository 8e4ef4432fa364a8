//! Writes that their holders ship to the store: who takes them up, and when they go.
//!
//! The holder of a lock removes what it shipped itself when that was promoted, and what its predecessors
//! shipped when its own is whole. What is left after a release, or by a crash, is removed here.

use super::Writing;
use crate::{
    api::{
        error::ApiError,
        hot::Token,
        ship::{HotRecover, HotRecovered, Recovered, Ship},
    },
    registry::ledger::{Lock, Superseded},
    segment::SegmentId,
    shipped::ShippedName,
    store::{Generation, StoreFailure},
};

/// A lock that is taken over, and how far its holder was.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    lock: Lock,
    acknowledged: Option<u64>,
    /// What is in the store is what the lock built upon.
    same: bool,
}

impl Taken {
    pub(super) fn new(writing: &Writing, id: &SegmentId, lock: &Lock, there: Option<Generation>) -> Self {
        let written = writing.routing.copies.written(&lock.worker, id, lock.token);
        Self {
            lock: lock.clone(),
            acknowledged: written.map(|written| written.change),
            same: lock.base == there,
        }
    }

    /// Token from which on shipped files belong to the lock that comes after this one.
    pub(super) fn ship_from(&self) -> Token {
        if self.lock.ship_from == 0 { self.lock.token } else { self.lock.ship_from }
    }

    /// Last transaction of the lock that is in `base`.
    pub(super) fn base_change(&self, base: Option<Generation>) -> u64 {
        if self.lock.base == base { self.lock.base_change } else { 0 }
    }

    /// Whether there can have been writes.
    pub(super) fn is_told(&self) -> bool {
        self.lock.ready || self.lock.ship_from != 0
    }

    /// Whether anything may have been shipped that is of use.
    pub(super) fn may_be_shipped(&self) -> bool {
        self.same && (self.lock.ship.is_some() || self.lock.ship_from != 0)
    }

    /// What whoever has the segment now is to go on from. Also where nothing was shipped: its own writes are worth
    /// something only if they were made under this very lock, not under one before.
    pub(super) fn recover(&self) -> Option<HotRecover> {
        (self.may_be_shipped() || (self.same && self.lock.ready)).then(|| HotRecover {
            token: self.lock.token,
            from: self.ship_from(),
            promoted_change: self.lock.base_change,
        })
    }

    /// For the client: what became of the writes. `worker`: who has the segment now, and `change`: the last
    /// transaction of what it has.
    pub(super) fn told(&self, worker: &str, change: u64, found: Option<HotRecovered>) -> Recovered {
        let lock = &self.lock;
        // Nobody asked it, for nothing was shipped: it went on with its own.
        let went_on = worker == lock.worker
            && change > lock.base_change
            && self.acknowledged.is_none_or(|acknowledged| change >= acknowledged);
        let found = found.or_else(|| {
            went_on.then_some(HotRecovered { token: lock.token, change, files: 0, unused: None })
        });
        let change = match &found {
            Some(found) => found.change,
            None => lock.base_change,
        };
        let known = match self.acknowledged {
            Some(last) if last > change => {
                format!("it had acknowledged at least {last}: what is between is on its disk alone")
            }
            Some(last) => format!("it was not known to have acknowledged more than {last}"),
            None => "how many it had acknowledged is not known".into(),
        };
        let mut note = match &found {
            Some(found) if found.files > 0 => format!(
                "transactions up to {change} were shipped by the former holder, {}, and are here; {known}",
                lock.worker
            ),
            Some(found) if found.unused.is_none() => {
                format!("{} held the lock before: its transactions up to {change} are here", lock.worker)
            }
            _ if lock.ship.is_some() && !self.same => format!(
                "somebody else has changed the segment in the store: nothing that {} wrote or shipped is here; \
                 {known}",
                lock.worker
            ),
            _ => format!("transactions up to {change}, promoted by {}, are here; {known}", lock.worker),
        };
        if let Some(unused) = found.and_then(|found| found.unused) {
            note.push_str(&format!(". Not used: {unused}"));
        }
        Recovered {
            worker: lock.worker.clone(),
            token: lock.token,
            change,
            acknowledged: self.acknowledged,
            note,
        }
    }
}

impl Writing {
    /// How the rules want writes of `id` to be shipped.
    pub(super) fn ship_rule(&self, id: &SegmentId) -> Option<Ship> {
        let rule = self.routing.copies.terms(id).ship;
        rule.is_on().then(|| Ship {
            every_ms: rule
                .every
                .map_or(0, |every| u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(1)),
            pages: rule.pages.unwrap_or(0),
        })
    }

    /// Removes what was shipped of `id` under `lock` and those before it, which is over.
    pub(super) async fn collect_of(&self, id: &SegmentId, lock: &Lock) {
        if lock.ship.is_none() && lock.ship_from == 0 {
            return;
        }
        let token = lock.token;
        if let Err(error) = self.collect(id, &lock.directory, |name, _| name.token <= token).await {
            tracing::warn!(segment = %id, %error, "shipped files are left in the store for now");
        }
    }

    /// Removes what discovery found in `directory` of `id` and nobody needs.
    pub(crate) async fn collect_strays(&self, directory: &str, id: &SegmentId) {
        // Whoever has the turn changes who may ship.
        let Some(_turn) = self.turns.try_take(id) else { return };
        // A lock that is not known yet may need them.
        if self.state.is_adopting() {
            return;
        }
        let (lock, spared) = {
            let ledger = self.state.ledger();
            if ledger.damage(id).is_some() {
                return;
            }
            // A holder whose lock was ended by a newer generation keeps its writes aside. As long as it has not
            // said so, what it shipped may be all that there is of them.
            let waits = |over: &&Superseded| over.aside.as_ref().is_none_or(|aside| !aside.known);
            (ledger.lock(id).cloned(), ledger.superseded(id).filter(waits).map(|over| over.token))
        };
        let spared = |name: &ShippedName| Some(name.token) == spared;
        let collected = match lock {
            None => self.collect(id, directory, |name, _| !spared(name)).await,
            // A takeover may be reading them.
            Some(lock) if !lock.ready => return,
            Some(lock) => {
                let from = if lock.ship_from == 0 { lock.token } else { lock.ship_from };
                self.collect(id, directory, |name, all| {
                    let begun = || all.iter().any(|other| other.whole && other.token == lock.token);
                    let old = name.token < from || (name.token < lock.token && begun());
                    old && !spared(name)
                })
                .await
            }
        };
        if let Err(error) = collected {
            tracing::warn!(segment = %id, %error, "shipped files are left in the store for now");
        }
    }

    async fn collect(
        &self,
        id: &SegmentId,
        directory: &str,
        needless: impl Fn(&ShippedName, &[ShippedName]) -> bool,
    ) -> Result<(), ApiError> {
        let entries = match self.store.list(directory).await {
            Ok(entries) => entries,
            Err(StoreFailure::NotFound(_)) => return Ok(()),
            Err(failure) => return Err(super::store_error(directory, &failure)),
        };
        let files = entries.iter().filter(|entry| !entry.is_dir);
        let names: Vec<ShippedName> =
            files.filter_map(|entry| ShippedName::parse(&entry.name)).filter(|name| name.id == *id).collect();
        for name in names.iter().filter(|name| needless(name, &names)) {
            self.clear(&name.path_in(directory)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_that_takes_over_from_itself_has_what_it_wrote() {
        let lock = Lock {
            worker: "w".into(),
            token: 7,
            since_ms: 0,
            schema: "default".into(),
            directory: "/".into(),
            base: None,
            ready: true,
            untold: None,
            base_change: 2,
            ship: None,
            ship_from: 0,
        };
        let taken = Taken { lock, acknowledged: Some(23), same: true };
        let own = taken.told("w", 23, None);
        assert_eq!((own.change, own.acknowledged), (23, Some(23)));
        assert!(own.note.contains("its transactions up to 23 are here"), "{}", own.note);
        // It came back without its disk; it is another worker.
        for (worker, change) in [("w", 0), ("other", 23)] {
            let lost = taken.told(worker, change, None);
            assert_eq!(lost.change, 2, "{worker}");
            assert!(lost.note.contains("at least 23: what is between is on its disk alone"), "{}", lost.note);
        }
    }
}
