//! What cannot be read off the store: who may write a segment, which promotions and deletions are under
//! way, schemas, and the exceptions from computed placement. Only exceptions have an entry.
//!
//! The ledger in memory; `state.rs` owns the one instance, and makes each change durable before anybody
//! can see it. Unlike the catalog it cannot be made again from the store: a damaged row is kept, named in
//! the log, and the segment it is about cannot be written until somebody decides.

pub mod adopt;
mod entries;
pub mod rows;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
};

pub use self::entries::{
    Aside, Checksum, DEFAULT_SCHEMA, Dispute, Entry, Intent, Lock, Raise, Superseded, Tombstone, Uploaded,
};
use self::rows::{LedgerKey, name_of, read};
use super::RowChange;
pub use crate::api::tier_types::RaisedBy;
use crate::{
    api::hot::{SchemaInfo, TOKEN_COUNTER_BITS, Token},
    segment::SegmentId,
    store::Generation,
};

/// A row that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The row and what is wrong with it, for people.
    pub text: String,
    key: Vec<u8>,
}

/// Everything but the checksums, in memory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    locks: BTreeMap<SegmentId, Lock>,
    /// Locks of each worker, counted.
    lock_counts: HashMap<String, u64>,
    disputes: BTreeMap<SegmentId, Dispute>,
    superseded: BTreeMap<SegmentId, Superseded>,
    intents: BTreeMap<SegmentId, Intent>,
    tombstones: HashMap<SegmentId, Tombstone>,
    raised: BTreeMap<SegmentId, Raise>,
    pins: BTreeMap<SegmentId, BTreeSet<String>>,
    schemas: BTreeMap<SegmentId, Vec<SchemaInfo>>,
    draining: BTreeSet<String>,
    token: Token,
    damaged: HashMap<SegmentId, Vec<Damage>>,
    /// Damage that leaves every segment in doubt.
    damaged_all: Vec<Damage>,
}

impl Ledger {
    /// Takes up one row. A row that cannot be read is remembered as damage, logged, and left where it is.
    pub fn load(&mut self, key: &[u8], value: &[u8]) {
        let decoded = LedgerKey::decode(key);
        let result = match &decoded {
            Some(known) => self.load_known(known, key, value),
            None => Err("unknown key".to_owned()),
        };
        let Err(reason) = result else { return };
        let text = format!("registry row {:?}: {reason}", name_of(key));
        tracing::error!(
            row = name_of(key),
            reason,
            "damaged row of the ledger: kept, and what it is about refused"
        );
        let damage = Damage { text, key: key.to_vec() };
        match &decoded {
            // Without the row nobody knows what the worker has to be spared: nothing new goes there.
            Some(LedgerKey::Drain(worker)) => drop(self.draining.insert(worker.clone())),
            // Wishes, schemas, news: what they asked for or told is not; nothing can be lost by that.
            Some(
                LedgerKey::Raise(_) | LedgerKey::Pins(_) | LedgerKey::Schema(..) | LedgerKey::Superseded(_),
            ) => {}
            Some(known) => match known.segment() {
                Some(id) => self.damaged.entry(id.clone()).or_default().push(damage),
                None => self.damaged_all.push(damage),
            },
            None => self.damaged_all.push(damage),
        }
    }

    pub(super) fn load_known(&mut self, known: &LedgerKey, key: &[u8], value: &[u8]) -> Result<(), String> {
        match known {
            LedgerKey::Lock(id) => self.put_lock(id.clone(), Some(read(key, value)?)),
            LedgerKey::Dispute(id) => self.put_dispute(id.clone(), Some(read(key, value)?)),
            LedgerKey::Superseded(id) => drop(self.superseded.insert(id.clone(), read(key, value)?)),
            LedgerKey::Intent(id) => drop(self.intents.insert(id.clone(), read(key, value)?)),
            LedgerKey::Tombstone(id) => drop(self.tombstones.insert(id.clone(), read(key, value)?)),
            LedgerKey::Raise(id) => drop(self.raised.insert(id.clone(), read(key, value)?)),
            LedgerKey::Pins(id) => drop(self.pins.insert(id.clone(), read(key, value)?)),
            LedgerKey::Schema(name, _) => {
                let schema = read(key, value)?;
                self.schemas.entry(name.clone()).or_default().push(schema);
            }
            LedgerKey::Drain(worker) => {
                if read::<bool>(key, value)? {
                    self.draining.insert(worker.clone());
                }
            }
            LedgerKey::Token => self.token = self.token.max(read(key, value)?),
            LedgerKey::Checksum(_) => {}
        }
        Ok(())
    }

    /// The rows that make `entry` durable. Whatever is said anew about a segment also takes the damaged
    /// rows of the same key away: they have its key.
    pub(super) fn row(entry: &Entry) -> Result<RowChange, serde_json::Error> {
        match entry {
            Entry::Lock(id, value) => LedgerKey::Lock(id.clone()).row(value.as_ref()),
            Entry::Dispute(id, value) => LedgerKey::Dispute(id.clone()).row(value.as_ref()),
            Entry::Superseded(id, value) => LedgerKey::Superseded(id.clone()).row(value.as_ref()),
            Entry::Intent(id, value) => LedgerKey::Intent(id.clone()).row(value.as_ref()),
            Entry::Tombstone(id, value) => LedgerKey::Tombstone(id.clone()).row(value.as_ref()),
            Entry::Raise(id, value) => LedgerKey::Raise(id.clone()).row(value.as_ref()),
            Entry::Pins(id, workers) => {
                LedgerKey::Pins(id.clone()).row(Some(workers).filter(|workers| !workers.is_empty()))
            }
            Entry::Schema(schema) => {
                // The name was checked to be like a segment id when it was registered.
                let name = SegmentId::parse(&schema.name)
                    .map_err(<serde_json::Error as serde::ser::Error>::custom)?;
                LedgerKey::Schema(name, schema.version).row(Some(schema))
            }
            Entry::Drain(worker, draining) => {
                LedgerKey::Drain(worker.clone()).row(Some(draining).filter(|draining| **draining))
            }
            Entry::Checksum(id, value) => LedgerKey::Checksum(id.clone()).row(value.as_ref()),
            Entry::Token(token) => LedgerKey::Token.row(Some(token)),
        }
    }

    /// The row that `entry` is about, as it is without it. `None`: it may stay as `entry` has it, or only the
    /// disk knows: it is damaged, and is never dropped without a word.
    pub(super) fn row_of_the_same(&self, entry: &Entry) -> Option<RowChange> {
        let is_damaged = |id: &SegmentId| {
            let damages = self.damaged.get(id).map(Vec::as_slice).unwrap_or_default();
            // A dispute is no damage to any row.
            damages.iter().any(|damage| damage.key != LedgerKey::Dispute(id.clone()).encode())
        };
        if let Entry::Lock(id, _) | Entry::Intent(id, _) | Entry::Tombstone(id, _) = entry
            && is_damaged(id)
        {
            return None;
        }
        let now = match entry {
            Entry::Lock(id, _) => Entry::Lock(id.clone(), self.locks.get(id).cloned()),
            Entry::Dispute(id, _) => Entry::Dispute(id.clone(), self.disputes.get(id).cloned()),
            Entry::Superseded(id, _) => Entry::Superseded(id.clone(), self.superseded.get(id).cloned()),
            Entry::Intent(id, _) => Entry::Intent(id.clone(), self.intents.get(id).cloned()),
            Entry::Tombstone(id, _) => Entry::Tombstone(id.clone(), self.tombstones.get(id).cloned()),
            Entry::Raise(id, _) => Entry::Raise(id.clone(), self.raised.get(id).copied()),
            Entry::Pins(id, _) => Entry::Pins(id.clone(), self.pins.get(id).cloned().unwrap_or_default()),
            Entry::Drain(worker, _) => Entry::Drain(worker.clone(), self.draining.contains(worker)),
            Entry::Schema(schema) => {
                let name = SegmentId::parse(&schema.name).ok()?;
                let versions = self.schemas.get(&name).map(Vec::as_slice).unwrap_or_default();
                let known = versions.iter().any(|known| known.version == schema.version);
                return (!known).then(|| RowChange::Delete(LedgerKey::Schema(name, schema.version).encode()));
            }
            // A checksum names its generation, and a higher token only skips some.
            Entry::Checksum(..) | Entry::Token(_) => return None,
        };
        Self::row(&now).ok()
    }

    /// Makes `entry` visible; it is durable already.
    pub(super) fn apply(&mut self, entry: Entry) {
        if let Some(key) = match &entry {
            Entry::Lock(id, _) => Some(LedgerKey::Lock(id.clone())),
            Entry::Dispute(id, _) => Some(LedgerKey::Dispute(id.clone())),
            Entry::Intent(id, _) => Some(LedgerKey::Intent(id.clone())),
            Entry::Tombstone(id, _) => Some(LedgerKey::Tombstone(id.clone())),
            _ => None,
        } {
            self.mended(&key);
        }
        match entry {
            Entry::Lock(id, value) => self.put_lock(id, value),
            Entry::Dispute(id, value) => self.put_dispute(id, value),
            Entry::Superseded(id, value) => put_ordered(&mut self.superseded, id, value),
            Entry::Intent(id, value) => put_ordered(&mut self.intents, id, value),
            Entry::Tombstone(id, Some(value)) => drop(self.tombstones.insert(id, value)),
            Entry::Tombstone(id, None) => drop(self.tombstones.remove(&id)),
            Entry::Raise(id, value) => put_ordered(&mut self.raised, id, value),
            Entry::Pins(id, workers) => {
                put_ordered(&mut self.pins, id, Some(workers).filter(|workers| !workers.is_empty()));
            }
            Entry::Schema(schema) => {
                if let Ok(name) = SegmentId::parse(&schema.name) {
                    self.schemas.entry(name).or_default().push(schema);
                }
            }
            Entry::Drain(worker, true) => drop(self.draining.insert(worker)),
            Entry::Drain(worker, false) => drop(self.draining.remove(&worker)),
            Entry::Checksum(..) => {}
            Entry::Token(token) => self.token = self.token.max(token),
        }
    }

    fn put_lock(&mut self, id: SegmentId, value: Option<Lock>) {
        if let Some(lock) = &value {
            *self.lock_counts.entry(lock.worker.clone()).or_default() += 1;
        }
        let before = match value {
            Some(lock) => self.locks.insert(id, lock),
            None => self.locks.remove(&id),
        };
        if let Some(lock) = before
            && let Some(count) = self.lock_counts.get_mut(&lock.worker)
        {
            *count -= 1;
            if *count == 0 {
                self.lock_counts.remove(&lock.worker);
            }
        }
    }

    /// A dispute refuses what a damaged row does.
    fn put_dispute(&mut self, id: SegmentId, value: Option<Dispute>) {
        let key = LedgerKey::Dispute(id.clone());
        self.mended(&key);
        if let Some(dispute) = &value {
            let workers = dispute.workers.iter().map(String::as_str).collect::<Vec<_>>().join(" and ");
            let text = format!("{workers} both have its token {}", dispute.token);
            self.damaged.entry(id.clone()).or_default().push(Damage { text, key: key.encode() });
        }
        put_ordered(&mut self.disputes, id, value);
    }

    fn mended(&mut self, key: &LedgerKey) {
        let Some(id) = key.segment() else { return };
        if let Some(damages) = self.damaged.get_mut(id) {
            let bytes = key.encode();
            damages.retain(|damage| damage.key != bytes);
            if damages.is_empty() {
                self.damaged.remove(id);
            }
        }
    }

    /// Why nothing may be written to `id`: the damaged row that is about it.
    pub fn damage(&self, id: &SegmentId) -> Option<&str> {
        let own = self.damaged.get(id).and_then(|damages| damages.first());
        own.map(|damage| damage.text.as_str())
    }

    /// Why no token may be given for any segment: the count of tokens, or a row that nobody understands.
    pub fn damage_of_all(&self) -> Option<&str> {
        self.damaged_all.first().map(|damage| damage.text.as_str())
    }

    /// Number of rows that could not be read.
    pub fn damage_count(&self) -> usize {
        self.damaged_all.len() + self.damaged.values().map(Vec::len).sum::<usize>()
    }

    /// The token to give next: above `floor`, above every one given, and of `epoch` at least. `None`: there
    /// is no higher number.
    pub fn next_token(&self, epoch: u64, floor: Token) -> Option<Token> {
        let of_epoch = epoch.checked_shl(TOKEN_COUNTER_BITS).filter(|t| t >> TOKEN_COUNTER_BITS == epoch)?;
        self.token.max(floor).max(of_epoch).checked_add(1)
    }

    /// The highest token given.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Write lock of a segment.
    pub fn lock(&self, id: &SegmentId) -> Option<&Lock> {
        self.locks.get(id)
    }

    /// Whether `id` has a write lock.
    pub fn is_locked(&self, id: &str) -> bool {
        self.locks.contains_key(id)
    }

    /// All write locks by segment.
    pub fn locks(&self) -> impl Iterator<Item = (&SegmentId, &Lock)> {
        self.locks.iter()
    }

    /// Number of segments that `worker` may write.
    pub fn lock_count(&self, worker: &str) -> u64 {
        self.lock_counts.get(worker).copied().unwrap_or(0)
    }

    /// Claims that nobody has decided between.
    pub fn disputes(&self) -> impl Iterator<Item = (&SegmentId, &Dispute)> {
        self.disputes.iter()
    }

    /// Claims to one segment.
    pub fn dispute(&self, id: &SegmentId) -> Option<&Dispute> {
        self.disputes.get(id)
    }

    /// The last write lock of a segment that a newer generation ended.
    pub fn superseded(&self, id: &SegmentId) -> Option<&Superseded> {
        self.superseded.get(id)
    }

    /// All of them, by segment.
    pub fn all_superseded(&self) -> impl Iterator<Item = (&SegmentId, &Superseded)> {
        self.superseded.iter()
    }

    /// Promotion under way.
    pub fn intent(&self, id: &SegmentId) -> Option<&Intent> {
        self.intents.get(id)
    }

    /// All promotions under way.
    pub fn intents(&self) -> impl Iterator<Item = (&SegmentId, &Intent)> {
        self.intents.iter()
    }

    /// Deletion of a segment, also one that is over.
    pub fn tombstone(&self, id: &SegmentId) -> Option<&Tombstone> {
        self.tombstones.get(id)
    }

    /// All of them.
    pub fn tombstones(&self) -> impl Iterator<Item = (&SegmentId, &Tombstone)> {
        self.tombstones.iter()
    }

    /// Whether the segment is being deleted.
    pub fn is_deleting(&self, id: &SegmentId) -> bool {
        self.tombstones.get(id).is_some_and(|tombstone| tombstone.done_ms.is_none())
    }

    /// Whether a sight of `id` in `generation` must not bring it back.
    pub fn buries(&self, id: &str, generation: Generation) -> bool {
        self.tombstones
            .get(id)
            .is_some_and(|tombstone| tombstone.done_ms.is_none() || tombstone.generation == Some(generation))
    }

    /// Whether anything is buried at all.
    pub fn has_tombstones(&self) -> bool {
        !self.tombstones.is_empty()
    }

    /// Wish for copies of a segment: at least one.
    pub fn raise(&self, id: &SegmentId) -> Option<Raise> {
        self.wish(id).filter(|raise| raise.copies > 0)
    }

    /// Wish for copies of a segment, or for none.
    pub fn wish(&self, id: &SegmentId) -> Option<Raise> {
        self.raised.get(id).copied()
    }

    /// All of these wishes by segment.
    pub fn wishes(&self) -> impl Iterator<Item = (&SegmentId, Raise)> {
        self.raised.iter().map(|(id, raise)| (id, *raise))
    }

    /// Workers that shall have a segment.
    pub fn pins(&self, id: &SegmentId) -> Option<&BTreeSet<String>> {
        self.pins.get(id)
    }

    /// Whether placement has to think of `id` at all.
    pub fn is_wished(&self, id: &str) -> bool {
        self.raised.contains_key(id) || self.pins.contains_key(id)
    }

    /// Every segment that is raised or pinned, once.
    pub fn wished(&self) -> impl Iterator<Item = &SegmentId> {
        self.raised.keys().chain(self.pins.keys().filter(|id| !self.raised.contains_key(*id)))
    }

    /// The same by id, those after `after`.
    pub fn wished_after(&self, after: Option<&SegmentId>) -> impl Iterator<Item = &SegmentId> {
        let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let raised = self.raised.range::<SegmentId, _>(from).map(|(id, _)| id);
        let pinned = self.pins.range::<SegmentId, _>(from).map(|(id, _)| id);
        in_order(raised, pinned)
    }

    /// How many they are.
    pub fn wished_count(&self) -> u64 {
        let pinned_only = self.pins.keys().filter(|id| !self.raised.contains_key(*id)).count();
        (self.raised.len() + pinned_only) as u64
    }

    /// Whether a worker shall become empty.
    pub fn is_draining(&self, worker: &str) -> bool {
        self.draining.contains(worker)
    }

    /// Versions of a schema, oldest first; not of the built-in one.
    pub fn schema(&self, name: &SegmentId) -> Option<&[SchemaInfo]> {
        self.schemas.get(name).map(Vec::as_slice)
    }

    /// Newest version of each registered schema.
    pub fn schemas(&self) -> impl Iterator<Item = &SchemaInfo> {
        self.schemas.values().filter_map(|versions| versions.last())
    }
}

fn put_ordered<T>(map: &mut BTreeMap<SegmentId, T>, id: SegmentId, value: Option<T>) {
    match value {
        Some(value) => drop(map.insert(id, value)),
        None => drop(map.remove(&id)),
    }
}

/// Two ascending sequences as one, without doubles.
pub(crate) fn in_order<'a>(
    a: impl Iterator<Item = &'a SegmentId>,
    b: impl Iterator<Item = &'a SegmentId>,
) -> impl Iterator<Item = &'a SegmentId> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    std::iter::from_fn(move || match (a.peek(), b.peek()) {
        (Some(x), Some(y)) if x == y => {
            b.next();
            a.next()
        }
        (Some(x), Some(y)) if x > y => b.next(),
        (Some(_), _) => a.next(),
        (None, _) => b.next(),
    })
}
