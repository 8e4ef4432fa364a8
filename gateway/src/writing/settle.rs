//! Ending or undoing what a crash, or an answer that never came, has left open.

use futures::StreamExt;

use super::{Writing, in_doubt, supersede::AT_ONCE};
use crate::{
    api::error::ApiError,
    failpoint,
    registry::{
        ledger::{Checksum, Entry, Intent, Lock, Uploaded},
        packed::Facts,
        state::{Amendment, Change},
    },
    segment::SegmentId,
    store::StoreEntry,
};

impl Writing {
    /// Settles a promotion or deletion of `id` that is open and that nobody carries out. Under the
    /// segment's turn, before anything else is done to it.
    pub(super) async fn settle(&self, id: &SegmentId) -> Result<(), ApiError> {
        if self.state.ledger().is_deleting(id) {
            self.delete_rest(id).await?;
        }
        if self.promoting.lock().contains_key(id) {
            return Ok(());
        }
        let Some(intent) = self.state.ledger().intent(id).cloned() else { return Ok(()) };
        match &intent.uploaded {
            // Nothing was replaced yet. What is there may be cut short, or still growing.
            None => self.give_up(id, &intent).await?,
            Some(uploaded) => drop(self.settle_uploaded(id, &intent, uploaded).await?),
        }
        // The lock of a new layout, which is never ready, ends with it.
        self.take_back(id, intent.token).await
    }

    /// Settles a promotion whose upload was verified: the rename is made, was made, or must not be made.
    /// The new generation, if it is there.
    pub(super) async fn settle_uploaded(
        &self,
        id: &SegmentId,
        intent: &Intent,
        uploaded: &Uploaded,
    ) -> Result<Option<StoreEntry>, ApiError> {
        let is_ours = |entry: &StoreEntry| entry.len == uploaded.size && entry.mtime_ms == uploaded.mtime_ms;
        let mut temporary = self.look(&intent.temporary).await?;
        if temporary.as_ref().is_some_and(is_ours) {
            let there = self.look(&intent.path).await?.map(|entry| entry.generation);
            let may = {
                let ledger = self.state.ledger();
                ledger.lock(id).is_some_and(|lock| lock.token == intent.token) && ledger.damage(id).is_none()
            };
            if may && there == intent.expected {
                if let Err(failure) = self.store.rename_over(&intent.temporary, &intent.path).await {
                    // Whatever it says: the store knows.
                    tracing::warn!(segment = %id, %failure, "the rename of a promotion failed, or was not answered");
                }
                temporary = self.look(&intent.temporary).await?;
                if temporary.is_some() {
                    return Err(super::store_error(
                        &intent.path,
                        &crate::store::StoreFailure::Unavailable("the rename did not happen".into()),
                    ));
                }
            }
        }
        if temporary.is_some() {
            tracing::warn!(segment = %id, "a promotion is given up: the store or the lock changed meanwhile");
            self.state.put_off(id.clone());
            self.give_up(id, intent).await?;
            return Ok(None);
        }
        match self.look(&intent.path).await? {
            Some(entry) if is_ours(&entry) => {
                failpoint::pass("gateway.commit.renamed").await;
                self.commit(id, intent, uploaded, &entry).await?;
                Ok(Some(entry))
            }
            _ => {
                tracing::warn!(segment = %id, "a promotion is given up: its upload is gone");
                self.state.put_off(id.clone());
                self.give_up(id, intent).await?;
                Ok(None)
            }
        }
    }

    /// Generation, checksum, catalog and lock, at once.
    async fn commit(
        &self,
        id: &SegmentId,
        intent: &Intent,
        uploaded: &Uploaded,
        entry: &StoreEntry,
    ) -> Result<(), ApiError> {
        let directory = match intent.path.rsplit_once('/') {
            Some(("", _)) | None => "/",
            Some((directory, _)) => directory,
        };
        let facts = Facts { generation: entry.generation, size: entry.len, mtime_ms: entry.mtime_ms };
        let change = Change::Segment { directory: directory.into(), id: id.clone(), facts: Some(facts) };
        let checksum = Checksum { generation: entry.generation, checksum: uploaded.checksum.clone() };
        let (segment, token, number) = (id.clone(), intent.token, uploaded.change);
        self.amend(move |ledger, _| {
            let mut entries =
                vec![Entry::Intent(segment.clone(), None), Entry::Checksum(segment.clone(), Some(checksum))];
            if let Some(lock) = ledger.lock(&segment).filter(|lock| lock.token == token) {
                let lock = Lock {
                    base: Some(facts.generation),
                    untold: Some((facts.generation, number)),
                    base_change: number,
                    ..lock.clone()
                };
                entries.push(Entry::Lock(segment, Some(lock)));
            }
            Ok(Amendment { entries, changes: vec![change], answer: () })
        })
        .await?;
        tracing::info!(segment = %id, generation = %facts.generation, size = facts.size, "promoted");
        Ok(())
    }

    /// Settles everything that is open, as far as the store and the workers let it. At the start, and now
    /// and then.
    pub(crate) async fn settle_all(&self) {
        let open: Vec<SegmentId> = {
            let ledger = self.state.ledger();
            let deleting = ledger.tombstones().filter(|(_, t)| t.done_ms.is_none()).map(|(id, _)| id);
            ledger.intents().map(|(id, _)| id).chain(deleting).cloned().collect()
        };
        // A worker that says nothing, or a store, holds each up until a deadline.
        futures::stream::iter(&open).for_each_concurrent(AT_ONCE, |id| self.settle_open(id)).await;
    }

    async fn settle_open(&self, id: &SegmentId) {
        // Whoever has the turn settles it, or is carrying it out.
        let Some(_turn) = self.turns.try_take(id) else { return };
        let damage = self.state.ledger().damage(id).map(str::to_owned);
        let settled = match damage {
            Some(damage) => Err(in_doubt(id, &damage)),
            None => self.settle(id).await,
        };
        if let Err(error) = settled {
            tracing::warn!(segment = %id, %error, "what is open stays open for now");
        }
    }
}
