//! Giving the right to write back.

use std::{sync::Arc, time::Duration};

use axum::http::Method;
use serde_json::json;

use super::{Writing, check_token, in_doubt, provision::lost_data, suspended};
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        hot::{HotPromoted, ReleaseRequest, Token},
    },
    failpoint,
    registry::{
        ledger::{Entry, Lock},
        state::Amendment,
    },
    routing::workers::Worker,
    segment::SegmentId,
};

/// Longest wait for a worker that has to close a file.
pub(super) const SHORT_CALL_MAX: Duration = Duration::from_secs(30);

impl Writing {
    /// Ends the write lock of `id`. Refused while there are writes that were not promoted, unless forced.
    pub(crate) async fn release(
        self: &Arc<Self>,
        id: SegmentId,
        request: ReleaseRequest,
        sent: Option<Token>,
    ) -> Result<(), ApiError> {
        let this = self.clone();
        Self::detached(async move {
            let _turn = this.turns.take(&id).await;
            this.settle(&id).await?;
            if this.promoting.lock().contains_key(&id) {
                return Err(ApiError::new(
                    ErrorCode::Locked,
                    format!("segment {id} is being promoted: release it afterwards"),
                ));
            }
            let lock = {
                let ledger = this.state.ledger();
                match (ledger.lock(&id), ledger.damage(&id)) {
                    (Some(lock), _) => Some(lock.clone()),
                    (None, Some(damage)) => return Err(in_doubt(&id, damage)),
                    (None, None) => None,
                }
            };
            let lock = lock.ok_or_else(|| this.no_lock(&id))?;
            check_token(&id, lock.token, sent)?;
            match this.live(&lock.worker)? {
                Some(worker) => {
                    this.tell_promoted(&id, &worker).await;
                    this.close(&id, &lock, &worker, request.force).await?;
                }
                // What it may have is kept aside when it comes back: its token is not the lock's then.
                None if request.force || !lock.ready => {}
                None => return Err(suspended(&id, &lock)),
            }
            failpoint::pass("gateway.release.closed").await;
            this.unlock(&id, &lock).await
        })
        .await
    }

    /// Asks the holder to close the segment for writing.
    pub(super) async fn close(
        &self,
        id: &SegmentId,
        lock: &Lock,
        worker: &Worker,
        force: bool,
    ) -> Result<(), ApiError> {
        let path = (Method::POST, format!("/v1/hot/{id}/release"));
        let told = self.tell(worker, path, lock.token, &ReleaseRequest { force }, SHORT_CALL_MAX).await;
        match told.map_err(|failure| failure.error(id, &worker.name)) {
            // It is closed there already: this comes for the second time.
            Err(error) if error.code == ErrorCode::NotProvisioned => Ok(()),
            // What it had written may have been shipped, and goes with the lock: not without a word.
            Err(error) if error.code == ErrorCode::SegmentNotFound => {
                if force || !lock.ready {
                    Ok(())
                } else {
                    Err(lost_data(id, &worker.name))
                }
            }
            other => other,
        }
    }

    /// Takes the lock out of the ledger; the holder has closed the segment, or is fenced from now on.
    pub(super) async fn unlock(&self, id: &SegmentId, lock: &Lock) -> Result<(), ApiError> {
        let (segment, token) = (id.clone(), lock.token);
        self.amend(move |ledger, _| {
            Ok(match ledger.lock(&segment) {
                Some(held) if held.token == token => Amendment::ledger(vec![Entry::Lock(segment, None)], ()),
                _ => Amendment::none(()),
            })
        })
        .await?;
        tracing::info!(segment = %id, worker = lock.worker, token, "write lock released");
        self.routing.copies.reconsider(id);
        self.collect_of(id, lock).await;
        Ok(())
    }

    /// Tells the holder of a promotion that it may not have heard of. It is told again next time if that
    /// fails.
    pub(super) async fn tell_promoted(&self, id: &SegmentId, worker: &Worker) {
        let Some(lock) = self.state.ledger().lock(id).cloned() else { return };
        let Some((generation, change)) = lock.untold else { return };
        let body = HotPromoted { generation: generation.to_string(), change };
        let path = (Method::POST, format!("/v1/hot/{id}/promoted"));
        if let Err(failure) = self.tell(worker, path, lock.token, &body, SHORT_CALL_MAX).await {
            tracing::warn!(segment = %id, ?failure, "the holder could not be told of its promotion; later");
            return;
        }
        let segment = id.clone();
        let heard = self.amend(move |ledger, _| {
            Ok(match ledger.lock(&segment) {
                Some(held) if held.token == lock.token && held.untold == lock.untold => {
                    let held = Lock { untold: None, ..held.clone() };
                    Amendment::ledger(vec![Entry::Lock(segment, Some(held))], ())
                }
                _ => Amendment::none(()),
            })
        });
        if let Err(error) = heard.await {
            tracing::warn!(segment = %id, %error, "the holder is told of its promotion once more");
        }
    }

    /// Asks one worker to remove whatever it has of `id`.
    pub(super) async fn drop_copy(
        &self,
        id: &SegmentId,
        token: Token,
        worker: &Worker,
    ) -> Result<(), ApiError> {
        let path = (Method::DELETE, format!("/v1/hot/{id}"));
        let told = self.tell(worker, path, token, &json!({}), SHORT_CALL_MAX).await;
        match told.map_err(|failure| failure.error(id, &worker.name)) {
            Err(error) if matches!(error.code, ErrorCode::SegmentNotFound | ErrorCode::NotFound) => Ok(()),
            other => other,
        }
    }
}
