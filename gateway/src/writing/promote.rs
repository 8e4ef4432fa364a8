//! Promotion: what the holder of a write lock has becomes the segment's generation in the store.
//!
//! ```text
//! intent → worker uploads to NAME.sqlite._COPYING_.TOKEN.ATTEMPT → upload verified, intent says so
//!        → rename over → generation, checksum and catalog committed, intent gone → worker told → release
//! ```
//! The intent names the attempt, so that whoever settles it after a crash knows which file is meant. What a
//! store makes late of an attempt that was given up has a name of its own, and is collected (`uploads.rs`).
//! The upload takes as long as it takes, so it does not hold the segment's turn: a takeover may come in
//! between, and the rest then finds another token. HDFS's rename has no precondition: between the look at
//! the target and the rename a foreign writer's file can be replaced.

use std::sync::Arc;

use axum::http::Method;

use super::{Writing, provision::fresh};
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        hot::{HotUpload, HotUploaded, PromoteAnswer, PromoteRequest, Token},
    },
    failpoint,
    registry::{
        ledger::{Entry, Intent, Lock, Uploaded},
        state::Amendment,
    },
    routing::workers::Worker,
    segment::SegmentId,
    store::{Generation, StoreEntry},
    upload::UploadName,
};

/// A promotion that this process carries out, until dropped.
pub(super) struct Promoting<'a>(pub(super) &'a Writing, pub(super) SegmentId);

impl Drop for Promoting<'_> {
    fn drop(&mut self) {
        self.0.promoting.lock().remove(&self.1);
    }
}

impl Writing {
    /// Promotes `id`, one promotion of it at a time. A repetition is safe.
    pub(crate) async fn promote(
        self: &Arc<Self>,
        id: SegmentId,
        request: PromoteRequest,
        sent: Option<Token>,
    ) -> Result<PromoteAnswer, ApiError> {
        let this = self.clone();
        Self::detached(async move { this.promote_now(&id, request, sent).await }).await
    }

    async fn promote_now(
        &self,
        id: &SegmentId,
        request: PromoteRequest,
        sent: Option<Token>,
    ) -> Result<PromoteAnswer, ApiError> {
        let (promoting, intent, worker) = self.begin(id, sent).await?;
        let upload = HotUpload { temporary: intent.temporary.clone() };
        let path = (Method::POST, format!("/v1/hot/{id}/upload"));
        let uploaded: Result<HotUploaded, _> =
            self.ask(&worker, path, intent.token, &upload, self.rules.copy_max).await;
        let _turn = self.turns.take(id).await;
        let uploaded = match uploaded {
            Ok(uploaded) => uploaded,
            Err(failure) => {
                let error = failure.error(id, &worker.name);
                self.give_up(id, &intent).await?;
                return Err(error);
            }
        };
        let (generation, entry) = self.finish(id, &intent, &uploaded).await?;
        failpoint::pass("gateway.commit.done").await;
        drop(promoting);
        self.tell_promoted(id, &worker).await;
        let released = request.release && self.release_promoted(id, &intent, &worker).await;
        Ok(PromoteAnswer {
            segment: id.to_string(),
            url: format!("{}{}", self.store.url().trim_end_matches('/'), intent.path),
            path: intent.path,
            generation: generation.to_string(),
            size: entry.len,
            checksum: uploaded.checksum,
            change: uploaded.change,
            released,
        })
    }

    /// Checks that `id` can be promoted, and writes the intent down.
    async fn begin(
        &self,
        id: &SegmentId,
        sent: Option<Token>,
    ) -> Result<(Promoting<'_>, Intent, Arc<Worker>), ApiError> {
        let _turn = self.turns.take(id).await;
        self.settle(id).await?;
        let (lock, worker) = self.held(id, sent)?;
        let expected = self.target(id, &lock).await?;
        // From here on the others see it; the guard also ends it.
        let promoting = self.promoting_now(id, lock.token)?;
        self.tell_promoted(id, &worker).await;
        let intent = self.intend(id, &lock, expected).await?;
        failpoint::pass("gateway.commit.intent").await;
        Ok((promoting, intent, worker))
    }

    /// Writes down that something is uploaded under `lock`, with a name that no other attempt has or had.
    pub(super) async fn intend(
        &self,
        id: &SegmentId,
        lock: &Lock,
        expected: Option<Generation>,
    ) -> Result<Intent, ApiError> {
        let (segment, token, path) = (id.clone(), lock.token, id.path_in(&lock.directory));
        self.amend(move |ledger, next| {
            check_lock(ledger.lock(&segment), &segment, token)?;
            let attempt = fresh(ledger, next)?;
            let name = UploadName { id: segment.clone(), token, attempt: Some(attempt) };
            let intent = Intent { token, temporary: name.beside(&path), path, expected, uploaded: None };
            let entries = vec![Entry::Token(attempt), Entry::Intent(segment, Some(intent.clone()))];
            Ok(Amendment::ledger(entries, intent))
        })
        .await
    }

    /// Removes what a promotion that is under way has uploaded: whoever ends its lock wants its rename to find
    /// nothing.
    pub(super) async fn clear_upload(&self, id: &SegmentId) -> Result<(), ApiError> {
        let intent = self.state.ledger().intent(id).cloned();
        match intent {
            Some(intent) => self.clear(&intent.temporary).await,
            None => Ok(()),
        }
    }

    /// Puts a verified upload in its place. Under the segment's turn.
    pub(super) async fn finish(
        &self,
        id: &SegmentId,
        intent: &Intent,
        uploaded: &HotUploaded,
    ) -> Result<(Generation, StoreEntry), ApiError> {
        let lock = self.state.ledger().lock(id).cloned();
        let lock = match lock {
            Some(lock) if lock.token == intent.token => lock,
            other => {
                self.clear(&intent.temporary).await?;
                return Err(other.map_or_else(|| self.no_lock(id), |lock| taken(Some(&lock), id)));
            }
        };
        let Some(temporary) = self.look(&intent.temporary).await? else {
            self.give_up(id, intent).await?;
            return Err(lost_upload(id, "is not in the store"));
        };
        if temporary.len != uploaded.size {
            self.give_up(id, intent).await?;
            return Err(lost_upload(
                id,
                &format!("has {} bytes in the store, not {}", temporary.len, uploaded.size),
            ));
        }
        let there = self.look(&intent.path).await?.map(|entry| entry.generation);
        if there != intent.expected {
            self.give_up(id, intent).await?;
            self.target(id, &lock).await?;
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!("segment {id} was changed in the store while it was uploaded: promote it again"),
            ));
        }
        let sure = Uploaded {
            size: uploaded.size,
            mtime_ms: temporary.mtime_ms,
            checksum: uploaded.checksum.clone(),
            change: uploaded.change,
        };
        let intent = Intent { uploaded: Some(sure.clone()), ..intent.clone() };
        let (segment, written) = (id.clone(), intent.clone());
        self.amend(move |ledger, _| {
            check_lock(ledger.lock(&segment), &segment, written.token)?;
            Ok(Amendment::ledger(vec![Entry::Intent(segment, Some(written))], ()))
        })
        .await?;
        failpoint::pass("gateway.commit.uploaded").await;
        // From here on only `settle_uploaded` decides: it knows every state that a crash, or an answer that
        // did not come, can leave.
        match self.settle_uploaded(id, &intent, &sure).await? {
            Some(entry) => Ok((entry.generation, entry)),
            None => {
                self.target(id, &lock).await?;
                Err(ApiError::new(
                    ErrorCode::Conflict,
                    format!(
                        "the promotion of segment {id} came to nothing: somebody else changed the store; try again"
                    ),
                ))
            }
        }
    }

    /// Ends a promotion that will not be.
    pub(super) async fn give_up(&self, id: &SegmentId, intent: &Intent) -> Result<(), ApiError> {
        self.clear(&intent.temporary).await?;
        let (segment, temporary) = (id.clone(), intent.temporary.clone());
        self.amend(move |ledger, _| {
            Ok(match ledger.intent(&segment) {
                Some(open) if open.temporary == temporary => {
                    Amendment::ledger(vec![Entry::Intent(segment, None)], ())
                }
                _ => Amendment::none(()),
            })
        })
        .await
    }

    /// Releases after a promotion, if nothing was written meanwhile.
    async fn release_promoted(&self, id: &SegmentId, intent: &Intent, worker: &Worker) -> bool {
        let Some(lock) = self.state.ledger().lock(id).cloned() else { return false };
        if lock.token != intent.token {
            return false;
        }
        let released = async {
            self.close(id, &lock, worker, false).await?;
            self.unlock(id, &lock).await
        };
        match released.await {
            Ok(()) => true,
            Err(error) => {
                tracing::info!(segment = %id, %error, "promoted, not released");
                false
            }
        }
    }
}

/// Only the holder's own token writes intents. The turn is held, so this is the last line of defence.
fn check_lock(lock: Option<&Lock>, id: &SegmentId, token: Token) -> Result<(), ApiError> {
    match lock {
        Some(lock) if lock.token == token => Ok(()),
        other => Err(taken(other, id)),
    }
}

fn taken(by: Option<&Lock>, id: &SegmentId) -> ApiError {
    let whose = by.map_or("is over".into(), |lock| format!("went to {}", lock.worker));
    ApiError::new(ErrorCode::Fenced, format!("the write lock of segment {id} {whose}; nothing was promoted"))
}

fn lost_upload(id: &SegmentId, what: &str) -> ApiError {
    ApiError::new(
        ErrorCode::StoreUnavailable,
        format!("the upload of segment {id} {what}; nothing was replaced, promote it again"),
    )
}
