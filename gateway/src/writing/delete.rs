//! Deletion: tombstone, workers' copies, store, catalog, in this order.
//!
//! From the tombstone on nobody can query or provision the segment, and no listing or look brings it
//! back. What is begun goes on after a crash. A finished tombstone stays until every listing that might
//! have seen the file is over.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Writing, in_doubt, provision::fresh};
use crate::{
    api::error::{ApiError, ErrorCode},
    failpoint,
    registry::{
        ledger::{Entry, Tombstone},
        state::{Amendment, Change},
    },
    segment::SegmentId,
};

/// A finished tombstone is kept for so long at least: looks at single segments end within this.
const BURIED_MS: i64 = 60_000;

impl Writing {
    /// Deletes `id` everywhere. Repeating it is harmless. Refused under a write lock.
    pub(crate) async fn delete(self: &Arc<Self>, id: SegmentId) -> Result<(), ApiError> {
        let this = self.clone();
        Self::detached(async move {
            let _turn = this.turns.take(&id).await;
            this.settle(&id).await?;
            this.all_locks_known(&id)?;
            let place = this.place(&id).await?;
            let copies = this.routing.copies.anywhere(&id);
            let begun = this.bury(&id, place.directory, place.entry.is_some() || !copies.is_empty()).await?;
            if begun { this.delete_rest(&id).await } else { Ok(()) }
        })
        .await
    }

    /// Writes the tombstone; `false`: the segment was deleted a moment ago, and is not there.
    async fn bury(&self, id: &SegmentId, directory: String, is_there: bool) -> Result<bool, ApiError> {
        let (id, since_ms) = (id.clone(), (self.clock)());
        self.amend(move |ledger, next| {
            if let Some(damage) = ledger.damage(&id) {
                return Err(in_doubt(&id, damage));
            }
            if let Some(lock) = ledger.lock(&id) {
                return Err(ApiError::new(
                    ErrorCode::Locked,
                    format!("segment {id} is locked for writing by {}: release it first", lock.worker),
                ));
            }
            if !is_there {
                return if ledger.tombstone(&id).is_some() {
                    Ok(Amendment::none(false))
                } else {
                    Err(ApiError::new(ErrorCode::SegmentNotFound, format!("there is no segment {id}")))
                };
            }
            let token = fresh(ledger, next)?;
            let tombstone = Tombstone { token, directory, since_ms, done_ms: None, generation: None };
            let entries = vec![
                Entry::Token(token),
                Entry::Tombstone(id.clone(), Some(tombstone)),
                Entry::Raise(id.clone(), None),
                Entry::Pins(id, Default::default()),
            ];
            Ok(Amendment::ledger(entries, true))
        })
        .await
    }

    /// Everything after the tombstone. Under the segment's turn.
    pub(super) async fn delete_rest(&self, id: &SegmentId) -> Result<(), ApiError> {
        let Some(tombstone) = self.state.ledger().tombstone(id).cloned() else { return Ok(()) };
        failpoint::pass("gateway.delete.buried").await;
        for name in self.routing.copies.anywhere(id) {
            // One that is not alive cannot answer, and is told to drop it when it comes back.
            if let Some(worker) = self.routing.workers.live(&name, Instant::now().into_std()) {
                self.drop_copy(id, tombstone.token, &worker).await?;
            }
        }
        failpoint::pass("gateway.delete.dropped").await;
        let path = id.path_in(&tombstone.directory);
        let generation = self.look(&path).await?.map(|entry| entry.generation).or(tombstone.generation);
        if generation != tombstone.generation {
            // Known before it is removed: afterwards nobody could tell which one a late listing saw.
            let (segment, noted) = (id.clone(), Tombstone { generation, ..tombstone.clone() });
            self.amend(move |_, _| Ok(Amendment::ledger(vec![Entry::Tombstone(segment, Some(noted))], ())))
                .await?;
        }
        failpoint::pass("gateway.delete.noted").await;
        self.clear(&path).await?;
        failpoint::pass("gateway.delete.removed").await;
        let (segment, directory) = (id.clone(), tombstone.directory.clone());
        let done = Tombstone { done_ms: Some((self.clock)()), generation, ..tombstone };
        self.amend(move |_, _| {
            let change = Change::Segment { directory: directory.into(), id: segment.clone(), facts: None };
            let entries = vec![
                Entry::Tombstone(segment.clone(), Some(done)),
                Entry::Superseded(segment.clone(), None),
                Entry::Checksum(segment, None),
            ];
            Ok(Amendment { entries, changes: vec![change], answer: () })
        })
        .await?;
        tracing::info!(segment = %id, "deleted");
        Ok(())
    }

    /// Forgets deletions that nothing can undo any more: those that ended before the last whole pass of
    /// discovery began.
    pub(crate) async fn forget_deleted(&self, pass_started_ms: i64) {
        let now = (self.clock)();
        let is_over = move |tombstone: &Tombstone| {
            tombstone
                .done_ms
                .is_some_and(|done| done < pass_started_ms && done.saturating_add(BURIED_MS) < now)
        };
        let any = self.state.ledger().tombstones().any(|(_, tombstone)| is_over(tombstone));
        if !any {
            return;
        }
        let forgotten = self.amend(move |ledger, _| {
            let over = ledger.tombstones().filter(|(_, tombstone)| is_over(tombstone));
            let entries = over.map(|(id, _)| Entry::Tombstone(id.clone(), None)).collect();
            Ok(Amendment::ledger(entries, ()))
        });
        if let Err(error) = forgotten.await {
            tracing::warn!(%error, "finished deletions could not be forgotten");
        }
    }
}
