//! A segment in the store laid out anew, by a hot worker: a promotion of what is there already.
//!
//! It takes a write lock that is never ready, so nobody can write under it, a `provision` that comes meanwhile
//! goes before it, and a crash leaves what a crash in a provision leaves. From the intent on it goes the way of
//! a promotion.

use std::sync::Arc;

use axum::http::Method;

use super::{Writing, in_doubt, promote::Promoting};
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        hot::Token,
        optimize::{HotOptimize, HotOptimized, OptimizeAnswer},
    },
    registry::ledger::{DEFAULT_SCHEMA, Intent, Lock},
    routing::workers::Worker,
    segment::SegmentId,
    store::Generation,
};

impl Writing {
    /// Lays `id` out anew in the store, if that makes it better. Refused under a write lock.
    pub(crate) async fn optimize(self: &Arc<Self>, id: SegmentId) -> Result<OptimizeAnswer, ApiError> {
        let this = self.clone();
        Self::detached(async move { this.optimize_now(&id).await }).await
    }

    async fn optimize_now(&self, id: &SegmentId) -> Result<OptimizeAnswer, ApiError> {
        let (_promoting, intent, worker) = self.begin_optimize(id).await?;
        let outcome = self.lay_out(id, &intent, &worker).await;
        // Also where it failed: nobody else ends this lock.
        let taken_back = self.take_back(id, intent.token).await;
        self.routing.copies.reconsider(id);
        let answer = outcome?;
        taken_back?;
        Ok(answer)
    }

    async fn begin_optimize(&self, id: &SegmentId) -> Result<(Promoting<'_>, Intent, Arc<Worker>), ApiError> {
        let _turn = self.turns.take(id).await;
        self.settle(id).await?;
        let refuse = |lock: &Lock| {
            ApiError::new(
                ErrorCode::Locked,
                format!("segment {id} is locked for writing by {}: its promotion lays it out", lock.worker),
            )
        };
        // Of a lock that nobody knows of, or nobody can read, there may be writes somewhere.
        self.all_locks_known(id)?;
        let old = {
            let ledger = self.state.ledger();
            if let Some(damage) = ledger.damage(id) {
                return Err(in_doubt(id, damage));
            }
            ledger.lock(id).cloned()
        };
        let place = self.place(id).await?;
        let Some(entry) = place.entry.clone() else {
            if let Some(lock) = old.filter(|lock| lock.ready) {
                return Err(refuse(&lock)); // never promoted
            }
            return Err(ApiError::new(ErrorCode::SegmentNotFound, format!("there is no segment {id}")));
        };
        if let Some(old) = &old {
            if !is_left_over(old, entry.generation) || self.promoting.lock().contains_key(id) {
                return Err(refuse(old));
            }
            // A rename of what was uploaded under it that is still on its way must find nothing.
            self.clear_upload(id).await?;
        }
        let workers = self.writers(id, &place, None)?;
        let Some(worker) = workers.into_iter().next() else {
            return Err(ApiError::new(ErrorCode::NoWorker, "no hot worker is alive that could do it"));
        };
        let lock = Lock {
            worker: worker.name.to_string(),
            token: 0,
            since_ms: (self.clock)(),
            schema: DEFAULT_SCHEMA.to_owned(),
            directory: place.directory.clone(),
            base: Some(entry.generation),
            ready: false,
            untold: None,
            base_change: 0,
            ship: None,
            ship_from: 0,
        };
        let lock = self.grant(id, old.map(|old| old.token), lock).await?;
        let promoting = self.promoting_now(id, lock.token)?;
        let intent = self.intend(id, &lock, lock.base).await?;
        Ok((promoting, intent, worker))
    }

    async fn lay_out(
        &self,
        id: &SegmentId,
        intent: &Intent,
        worker: &Worker,
    ) -> Result<OptimizeAnswer, ApiError> {
        let Some(base) = intent.expected else {
            return Err(ApiError::new(ErrorCode::Internal, "there is no generation to lay out anew"));
        };
        let asked = HotOptimize {
            path: intent.path.clone(),
            generation: base.to_string(),
            temporary: intent.temporary.clone(),
        };
        let path = (Method::POST, format!("/v1/hot/{id}/optimize"));
        let done: Result<HotOptimized, _> =
            self.ask(worker, path, intent.token, &asked, self.rules.copy_max).await;
        let _turn = self.turns.take(id).await;
        let done = match done {
            Ok(done) => done,
            Err(failure) => {
                self.give_up(id, intent).await?;
                return Err(failure.error(id, &worker.name));
            }
        };
        let (changed, generation) = match &done.uploaded {
            Some(uploaded) => (true, self.finish(id, intent, uploaded).await?.0),
            None => {
                self.give_up(id, intent).await?;
                (false, base)
            }
        };
        tracing::info!(segment = %id, changed, %generation, layout = ?done.layout, "laid out");
        Ok(OptimizeAnswer {
            segment: id.to_string(),
            changed,
            generation: generation.to_string(),
            layout: done.layout,
        })
    }

    /// From here on the others see that `id` is being promoted; the guard also ends it.
    pub(super) fn promoting_now(&self, id: &SegmentId, token: Token) -> Result<Promoting<'_>, ApiError> {
        if self.promoting.lock().insert(id.clone(), token).is_some() {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!("segment {id} is under promotion already"),
            ));
        }
        Ok(Promoting(self, id.clone()))
    }
}

/// Whether a lock is what a crash in here left: nobody could write under it, and nothing of a former holder
/// hangs on it. Who asks has the segment's turn, so nobody is making it ready.
fn is_left_over(lock: &Lock, generation: Generation) -> bool {
    !lock.ready
        && lock.base == Some(generation)
        && (lock.ship, lock.ship_from, lock.base_change) == (None, 0, 0)
}
