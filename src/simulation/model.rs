//! What must be true: what clients were told, and what follows from that.
//!
//! A row is *acknowledged* when a client was told so. From then on every query must show it, and every
//! generation in the store that is promoted later must hold it, until somebody gives it up: a takeover, a
//! release by force, a deletion, or a foreign file in the store. Those may take what was not promoted when
//! they were asked for, and, as long as it is not known that they are over, what is acknowledged meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::tree::{By, Event, token_of};

pub(super) type Rows = BTreeSet<i64>;

/// A broken promise.
pub(super) type Verdict = Result<(), String>;

#[derive(Debug, Clone, Default)]
pub(super) struct Row {
    pub(super) acknowledged: bool,
    /// In a generation that was seen in the store.
    promoted: bool,
    /// Somebody gave it up: it may be gone.
    given_up: bool,
    /// By a lock that changed hands or was forced open: then it is kept aside.
    pub(super) set_aside: bool,
    /// Its segment was deleted afterwards.
    deleted: bool,
    /// Its worker said that it was shipped, before it lost its disk.
    safe: bool,
}

/// What takes rows away, while nobody knows whether it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taking {
    Takeover,
    Force,
    Deletion,
    /// A disk is gone, and what was on it alone.
    Loss,
}

/// Numbers of takings that nobody asked for.
const FOREIGN: u64 = u64::MAX;
const LOSS: u64 = u64::MAX - 1;

/// A taking that may not be over.
#[derive(Debug)]
struct Open {
    taking: Taking,
    /// Nobody carries it out any more, but a message of it may be on its way.
    orphan: bool,
}

#[derive(Debug, Default)]
pub(super) struct Segment {
    pub(super) id: String,
    pub(super) rows: BTreeMap<i64, Row>,
    /// Highest token that a client was told of.
    pub(super) token: u64,
    /// Which worker each token was given to, as far as anybody said.
    holders: BTreeMap<u64, String>,
    /// Rows by token and number of their transaction.
    changes: BTreeMap<(u64, u64), i64>,
    takings: BTreeMap<u64, Open>,
    /// Contents of every generation there was.
    pub(super) contents: BTreeMap<String, Arc<Rows>>,
    pub(super) canonical: Option<String>,
    /// The last file there was put by somebody else: the next promotion may replace it.
    foreign: bool,
    /// Somebody else or a deletion took promoted rows.
    pub(super) is_disturbed: bool,
    /// Somebody asked for its deletion.
    pub(super) was_deleted: bool,
    /// Rows by token and number of their transaction, as long as nothing has counted anew.
    numbers: BTreeMap<(u64, u64), i64>,
    /// A takeover was asked for, and it is not known whether it gave a token.
    doubt: bool,
}

impl Segment {
    pub(super) fn new(id: &str) -> Self {
        Self { id: id.into(), ..Self::default() }
    }

    /// What is in the store now was always there.
    pub(super) fn begins(&mut self) {
        (self.foreign, self.is_disturbed, self.was_deleted) = (false, false, false);
        self.takings.clear();
    }

    pub(super) fn sent(&mut self, row: i64) {
        self.rows.entry(row).or_default();
    }

    /// A client was told that `row` is written.
    pub(super) fn acknowledged(
        &mut self,
        row: i64,
        token: Option<u64>,
        newest_before: u64,
        change: Option<u64>,
    ) -> Verdict {
        let id = &self.id;
        if let Some(token) = token {
            if token < newest_before {
                return Err(format!(
                    "{id}: row {row} was acknowledged under token {token} after {newest_before} was granted"
                ));
            }
            if let Some(change) = change {
                self.numbers.insert((token, change), row);
            }
            // A copy that is kept aside and made anew under the same token counts anew.
            if let Some(change) = change.filter(|_| self.takings.is_empty())
                && let Some(other) = self.changes.insert((token, change), row)
                && other != row
            {
                return Err(format!(
                    "{id}: rows {other} and {row} are both transaction {change} under token {token}: two writers"
                ));
            }
        }
        let at_risk = !self.takings.is_empty();
        // What a worker had answered before it lost its disk may be heard of later.
        let aside = !self.is_being_deleted() && !self.takings.contains_key(&LOSS);
        let entry = self.rows.entry(row).or_default();
        entry.acknowledged = true;
        if at_risk && !entry.promoted {
            entry.given_up = true;
            entry.set_aside |= aside;
        }
        Ok(())
    }

    /// Something was asked for that takes rows away.
    pub(super) fn taking(&mut self, number: u64, taking: Taking) {
        self.takings.insert(number, Open { taking, orphan: false });
        for row in self.rows.values_mut() {
            match taking {
                Taking::Deletion => (row.given_up, row.safe) = (true, false),
                _ if row.promoted => {}
                // Who takes over takes up what was shipped.
                Taking::Takeover if row.safe => {}
                // What is gone already is kept nowhere.
                _ => {
                    row.set_aside |= !row.given_up;
                    (row.given_up, row.safe) = (true, false);
                }
            }
        }
        self.is_disturbed |= taking == Taking::Deletion;
        self.was_deleted |= taking == Taking::Deletion;
        self.changes.clear();
        if taking != Taking::Takeover {
            self.numbers.clear();
        }
    }

    /// It was answered: whatever it took, it takes no more. But a release by force that failed may have a
    /// message on its way.
    pub(super) fn taken(&mut self, number: u64, succeeded: bool) {
        if let Some(open) = self.takings.get_mut(&number) {
            open.orphan = true;
            self.doubt |= open.taking == Taking::Takeover && !succeeded;
            if succeeded || open.taking != Taking::Force {
                self.takings.remove(&number);
            }
        }
    }

    fn is_being_deleted(&self) -> bool {
        self.takings.values().any(|open| open.taking == Taking::Deletion)
    }

    /// The gateway died: a takeover or a deletion that it had begun is ended before anything else, a message
    /// that was to force a lock open may still be on its way.
    pub(super) fn gateway_died(&mut self) {
        self.doubt |= self.takings.values().any(|open| open.taking == Taking::Takeover);
        self.takings.retain(|_, open| matches!(open.taking, Taking::Force | Taking::Loss));
        self.takings.values_mut().for_each(|open| open.orphan = true);
    }

    /// `worker` is dead, and its disk is lost. It held a lock under `token`, if any, of which it had last said
    /// that everything up to transaction `shipped` is in the store.
    pub(super) fn disk_lost(&mut self, worker: &str, held: Option<(u64, u64)>) {
        let newest = self.holders.last_key_value();
        let holds = newest.is_none_or(|(_, last)| last == worker);
        if !holds && !self.holders.values().any(|holder| holder == worker) {
            return;
        }
        if let Some((token, shipped)) = held
            && newest.is_some_and(|(newest, _)| *newest == token)
            && self.takings.is_empty()
            && !self.doubt
        {
            // Counting goes on where the holder before was.
            for ((_, number), row) in &self.numbers {
                if let Some(row) = self.rows.get_mut(row).filter(|row| row.acknowledged && !row.given_up) {
                    row.safe |= *number <= shipped;
                }
            }
        }
        for row in self.rows.values_mut() {
            // What was kept aside may have been there.
            row.set_aside = false;
            row.given_up |= holds && !row.promoted && !row.safe;
        }
        if holds {
            self.takings.insert(LOSS, Open { taking: Taking::Loss, orphan: true });
            self.changes.clear();
        }
    }

    /// What is repeated under its idempotency key is refused because it is there: the key was forgotten. Where
    /// it was promoted meanwhile, a holder that came later knows no keys of before.
    pub(super) fn refused_as_there(&self, row: i64) -> Verdict {
        match self.rows.get(&row) {
            Some(known) if !known.promoted && !self.is_disturbed => {
                Err(format!("{}: row {row} is there, and its idempotency key is not known", self.id))
            }
            _ => Ok(()),
        }
    }

    /// It was deleted, said the answer to a request that was sent when only `before` were known.
    pub(super) fn deleted(&mut self, before: &Rows) {
        for row in before {
            if let Some(row) = self.rows.get_mut(row) {
                row.deleted = true;
            }
        }
    }

    /// A client was told, or a worker says, who has `token`.
    pub(super) fn holder(&mut self, token: u64, worker: &str) -> Verdict {
        match self.holders.insert(token, worker.to_owned()) {
            Some(other) if other != worker => {
                Err(format!("{}: token {token} was given to {other} and to {worker}: two writers", self.id))
            }
            _ => Ok(()),
        }
    }

    /// A client was granted the lock, or told of it. `new`: by this request.
    pub(super) fn granted(&mut self, token: u64, worker: &str, newest_before: u64, new: bool) -> Verdict {
        if token < newest_before {
            return Err(format!("{}: token {token} was granted after {newest_before}", self.id));
        }
        if new {
            // Whatever is on its way has a lower token.
            self.takings.retain(|_, open| !open.orphan);
        }
        self.doubt = false;
        self.token = self.token.max(token);
        self.holder(token, worker)
    }

    /// Rows that must be seen by whoever asks from now on.
    pub(super) fn required(&self) -> Rows {
        let required = self.rows.iter().filter(|(_, row)| row.acknowledged && !row.given_up);
        required.map(|(id, _)| *id).collect()
    }

    /// Rows that a client was told of and that nobody but a lock's change took.
    pub(super) fn to_be_found(&self) -> Rows {
        let found = self
            .rows
            .iter()
            .filter(|(_, row)| row.acknowledged && (row.set_aside || !row.given_up) && !row.deleted);
        found.map(|(id, _)| *id).collect()
    }

    /// The file in the store changed. `rows`: what is in it, whole.
    pub(super) fn stored(&mut self, event: &Event, rows: Option<Rows>) -> Verdict {
        let id = self.id.clone();
        let before = self.canonical.take().and_then(|generation| self.contents.get(&generation).cloned());
        let Some(file) = &event.now else {
            self.foreign = false;
            if !self.is_being_deleted() && !self.is_disturbed {
                return Err(format!(
                    "{id}: the file in the store was removed, and nobody had asked for that"
                ));
            }
            return Ok(());
        };
        let generation = file.generation.to_string();
        let rows = Arc::new(rows.ok_or_else(|| {
            format!("{id}: generation {generation} in the store is no whole database ({:?})", event.by)
        })?);
        match &event.by {
            By::Foreigner => {
                for row in self.rows.values_mut() {
                    // It ends the lock as soon as somebody sees it: what was not promoted is kept aside then,
                    // if it is on a disk.
                    row.set_aside |= !row.promoted && !row.given_up && !row.safe;
                    (row.given_up, row.promoted, row.safe) = (true, false, false);
                }
                (self.foreign, self.is_disturbed) = (true, true);
                self.numbers.clear();
                self.takings.insert(FOREIGN, Open { taking: Taking::Force, orphan: true });
            }
            By::Rename(from) => {
                let token = token_of(from).ok_or_else(|| format!("{id}: {from} was moved into its place"))?;
                if token < self.token {
                    return Err(format!(
                        "{id}: a promotion under token {token} replaced the file after {} was granted",
                        self.token
                    ));
                }
                let lost: Vec<i64> = match before.filter(|_| !self.foreign) {
                    Some(before) => before.difference(&rows).copied().collect(),
                    None => Vec::new(),
                };
                if !lost.is_empty() {
                    return Err(format!("{id}: generation {generation} has lost promoted rows {lost:?}"));
                }
                self.foreign = false;
                for row in rows.iter() {
                    let deleted = self.rows.get(row).is_some_and(|row| row.deleted);
                    if deleted {
                        return Err(format!(
                            "{id}: generation {generation} has row {row}, which was deleted"
                        ));
                    }
                    if let Some(row) = self.rows.get_mut(row) {
                        (row.promoted, row.given_up) = (true, row.given_up && !row.set_aside);
                    }
                }
            }
            By::Removal => {}
        }
        self.canonical = Some(generation.clone());
        self.contents.insert(generation, rows);
        Ok(())
    }

    /// A promotion was acknowledged. `before`: what had to be in it when it was asked for.
    pub(super) fn promoted(&self, generation: &str, before: &Rows) -> Verdict {
        let Some(rows) = self.contents.get(generation) else {
            return Err(format!("{}: promoted to generation {generation}, which never was there", self.id));
        };
        let required = self.required();
        let lost: Vec<&i64> = before.intersection(&required).filter(|row| !rows.contains(row)).collect();
        if lost.is_empty() {
            return Ok(());
        }
        Err(format!("{}: promoted generation {generation} lacks acknowledged rows {lost:?}", self.id))
    }

    /// A query was answered. `before`: what had to be seen when it was asked.
    pub(super) fn seen(&self, rows: &Rows, generation: &str, suspended: bool, before: &Rows) -> Verdict {
        let id = &self.id;
        if let Some(contents) = self.contents.get(generation)
            && **contents != *rows
        {
            return Err(format!(
                "{id}: an answer of generation {generation} has {} rows, the generation {}: {:?}",
                rows.len(),
                contents.len(),
                contents.symmetric_difference(rows).collect::<Vec<_>>()
            ));
        }
        let strange = rows.iter().find(|row| **row < super::FOREIGN_ROWS && !self.rows.contains_key(row));
        if let Some(row) = strange {
            return Err(format!("{id}: an answer has row {row}, which nobody wrote there"));
        }
        if let Some(row) = rows.iter().find(|row| self.rows.get(row).is_some_and(|row| row.deleted)) {
            return Err(format!("{id}: an answer has row {row}, which was deleted"));
        }
        if suspended {
            return Ok(());
        }
        self.not_seen(rows, before)
    }

    /// What had to be seen and was not.
    pub(super) fn not_seen(&self, rows: &Rows, before: &Rows) -> Verdict {
        let required = self.required();
        let lost: Vec<&i64> = before.intersection(&required).filter(|row| !rows.contains(row)).collect();
        if lost.is_empty() {
            return Ok(());
        }
        Err(format!("{}: an answer lacks acknowledged rows {lost:?}", self.id))
    }
}
