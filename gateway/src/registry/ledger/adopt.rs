//! Taking up write locks that a lost registry granted, from what workers say they have. Pure.
//!
//! A registry that was made again, or is an old copy, does not know every token that was given. A worker
//! that has one above what is known, and below what this registry gives itself, has a lock of the lost
//! one: it is written down as it is. Of several claims to a segment the highest token wins, as it did
//! before; two with the same token are a dispute, which only a takeover ends.

use super::{DEFAULT_SCHEMA, Dispute, Entry, Ledger, Lock};
use crate::{api::hot::Token, segment::SegmentId, store::Generation};

/// What a worker says: it may write a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The segment.
    pub id: SegmentId,
    /// Under which token.
    pub token: Token,
    /// Generation in the store that its writes build upon.
    pub base: Option<Generation>,
    /// Last transaction that is in `base`.
    pub base_change: u64,
    /// Directory of the segment in the store.
    pub directory: String,
}

/// Tokens that may be adopted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strange {
    /// Up to this one the registry knows what became of them.
    pub known: Token,
    /// From this one on it has given them itself.
    pub own: Token,
}

/// The entries that take up what `worker` claims.
pub fn adopt(ledger: &Ledger, worker: &str, claims: Vec<Claim>, strange: Strange, now_ms: i64) -> Vec<Entry> {
    let mut entries = Vec::new();
    for Claim { id, token, base, base_change, directory } in claims {
        let is_strange = token > strange.known && token < strange.own;
        let dispute = ledger.dispute(&id);
        if !is_strange || ledger.is_deleting(&id) || (ledger.damage(&id).is_some() && dispute.is_none()) {
            continue;
        }
        let held = ledger.lock(&id).map(|lock| (lock.token, lock.worker.as_str()));
        let claimed = dispute.map(|dispute| dispute.token);
        let highest = held.map(|(token, _)| token).max(claimed);
        if highest > Some(token) || held == Some((token, worker)) {
            continue;
        }
        if highest == Some(token) {
            let mut workers = dispute.map(|dispute| dispute.workers.clone()).unwrap_or_default();
            workers.extend(held.map(|(_, holder)| holder.to_owned()));
            if workers.insert(worker.to_owned()) {
                entries.push(Entry::Lock(id.clone(), None));
                entries.push(Entry::Dispute(id, Some(Dispute { token, workers })));
            }
            continue;
        }
        if dispute.is_some() {
            entries.push(Entry::Dispute(id.clone(), None));
        }
        let lock = Lock {
            worker: worker.to_owned(),
            token,
            since_ms: now_ms,
            schema: DEFAULT_SCHEMA.to_owned(),
            directory,
            base,
            ready: true,
            untold: None,
            base_change,
            ship: None,
            // Nobody here knows whether it ships: a takeover has to look.
            ship_from: token,
        };
        entries.push(Entry::Lock(id, Some(lock)));
    }
    entries
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const STRANGE: Strange = Strange { known: 10, own: 100 };

    fn claim(token: Token) -> Claim {
        Claim { id: id(), token, base: None, base_change: 0, directory: "/".into() }
    }

    fn id() -> SegmentId {
        SegmentId::parse("a").expect("an id")
    }

    fn take(ledger: &mut Ledger, worker: &str, token: Token) {
        for entry in adopt(ledger, worker, vec![claim(token)], STRANGE, 0) {
            ledger.apply(entry);
        }
    }

    #[test]
    fn only_what_the_lost_registry_gave() {
        let mut ledger = Ledger::default();
        for token in [0, 9, 10, 100, 101] {
            take(&mut ledger, "w", token);
            assert!(ledger.lock(&id()).is_none(), "{token}");
        }
        take(&mut ledger, "w", 11);
        assert_eq!(ledger.lock(&id()).map(|lock| (lock.token, lock.ready)), Some((11, true)));
    }

    #[test]
    fn a_lock_that_this_registry_granted_stays() {
        let mut ledger = Ledger::default();
        let own = Lock { token: 100, ..lock() };
        ledger.apply(Entry::Lock(id(), Some(own.clone())));
        take(&mut ledger, "w", 99);
        assert_eq!(ledger.lock(&id()), Some(&own));
    }

    fn lock() -> Lock {
        Lock {
            worker: "other".into(),
            token: 0,
            since_ms: 0,
            schema: "default".into(),
            directory: "/".into(),
            base: None,
            ready: true,
            untold: None,
            base_change: 0,
            ship: None,
            ship_from: 0,
        }
    }

    proptest! {
        #[test]
        fn the_highest_token_wins_in_any_order(claims in prop::collection::vec((0u8..4, 8u64..16), 0..12)) {
            // A worker has one token at a time: the last that it said counts, and tokens only rise.
            let mut ledger = Ledger::default();
            let mut says: BTreeMap<u8, Token> = BTreeMap::new();
            for (worker, token) in claims {
                let token = *says.entry(worker).and_modify(|said| *said = token.max(*said)).or_insert(token);
                take(&mut ledger, &format!("w{worker}"), token);
            }
            let highest = says.values().copied().filter(|token| *token > STRANGE.known).max();
            let who: Vec<String> =
                says.iter().filter(|(_, token)| Some(**token) == highest).map(|(n, _)| format!("w{n}")).collect();
            match (highest, who.as_slice()) {
                (None, _) => prop_assert!(ledger.lock(&id()).is_none() && ledger.dispute(&id()).is_none()),
                (Some(token), [one]) => {
                    let lock = ledger.lock(&id()).map(|lock| (lock.token, lock.worker.clone()));
                    prop_assert_eq!(lock, Some((token, one.clone())));
                    prop_assert!(ledger.damage(&id()).is_none());
                }
                (Some(token), many) => {
                    let dispute = ledger.dispute(&id()).expect("a dispute");
                    prop_assert_eq!(dispute.token, token);
                    prop_assert!(dispute.workers.iter().eq(many.iter()));
                    prop_assert!(ledger.lock(&id()).is_none() && ledger.damage(&id()).is_some());
                }
            }
        }
    }
}
