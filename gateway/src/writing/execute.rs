//! Writes on their way to the holder of the write lock.

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, Method, Response, StatusCode, header},
};
use tokio::time::Instant;

use super::Writing;
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        hot::{CHANGE_HEADER, IDEMPOTENCY_HEADER, Token},
    },
    failpoint,
    routing::{Attempt, Call, target_headers},
    segment::SegmentId,
};

/// A write as it came in.
pub(crate) struct Write {
    /// What is written.
    pub(crate) segment: SegmentId,
    /// Its body, which only the worker reads.
    pub(crate) body: Bytes,
    /// Under which it is applied once only.
    pub(crate) idempotency: Option<HeaderValue>,
    /// Token that the client sent.
    pub(crate) token: Option<Token>,
    /// Of a client of Trough: its rows' content type.
    pub(crate) accept: Option<HeaderValue>,
    /// When it has to be over.
    pub(crate) deadline: Instant,
}

impl Writing {
    /// Has a write applied by the holder.
    pub(crate) async fn execute(&self, write: Write) -> Result<Response<Body>, ApiError> {
        let id = &write.segment;
        let (lock, worker) = self.held(id, write.token)?;
        let mut headers = target_headers(id, &lock.directory, None, Some(lock.token))?;
        let repeatable = write.idempotency.is_some();
        if let Some(key) = write.idempotency {
            headers.insert(IDEMPOTENCY_HEADER, key);
        }
        if let Some(accept) = write.accept {
            headers.insert(header::ACCEPT, accept);
        }
        let path = format!("/v1/hot/{id}/execute");
        let call = Call { method: Method::POST, path, headers, body: write.body, deadline: write.deadline };
        // With a key it is applied once however often it is sent; without one it is sent once.
        let mut tries = if repeatable { 2 } else { 1 };
        loop {
            tries -= 1;
            match self.routing.call(&worker, call.clone()).await {
                Attempt::Answer(parts, body, in_flight) => {
                    self.routing.outcome("answered");
                    failpoint::pass("gateway.write.answered").await;
                    // The lock was taken while the write was on its way: the old holder may not know yet.
                    // What it did stays aside there, so it must not be said to be done.
                    let held = self.state.ledger().lock(id).map(|lock| lock.token);
                    let over = held.is_none() && self.is_superseded(id, lock.token);
                    if over && (parts.status.is_success() || parts.status == StatusCode::CONFLICT) {
                        return Err(self.no_lock(id));
                    }
                    if parts.status.is_success() && held != Some(lock.token) {
                        return Err(ApiError::new(
                            ErrorCode::Fenced,
                            format!(
                                "the write lock of segment {id} changed while it was written: nothing of it counts"
                            ),
                        ));
                    }
                    if parts.status.is_success() {
                        self.make_sure(id, repeatable).await?;
                    }
                    if parts.status.is_success()
                        && let Some(change) = number(parts.headers.get(CHANGE_HEADER))
                    {
                        self.routing.copies.acknowledged(id, lock.token, change);
                    }
                    return Ok(self.routing.relay(&worker, write.deadline, parts, body, in_flight));
                }
                Attempt::Unreachable(reason) => {
                    let reason = self.routing.unreachable(&worker, &reason);
                    return Err(ApiError::new(
                        ErrorCode::WorkerLost,
                        format!("segment {id} was not written: {reason}"),
                    ));
                }
                Attempt::Lost(reason) => {
                    let reason = self.routing.lost(&worker, &reason);
                    if tries == 0 {
                        return Err(unknown(id, &reason, repeatable));
                    }
                }
                Attempt::TimedOut => {
                    self.routing.outcome("timed_out");
                    return Err(unknown(id, "the deadline passed before its answer", repeatable));
                }
            }
        }
    }

    /// What was written under a lock must not be said to be done while the registry's disk may know another one.
    async fn make_sure(&self, id: &SegmentId, repeatable: bool) -> Result<(), ApiError> {
        if !self.state.is_unsure() {
            return Ok(());
        }
        let state = self.state.clone();
        match crate::blocking::run(move || state.make_sure()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                Err(unknown(id, &format!("the registry cannot be written ({error})"), repeatable))
            }
            Err(error) => Err(unknown(id, &error.to_string(), repeatable)),
        }
    }
}

fn number(header: Option<&HeaderValue>) -> Option<u64> {
    header?.to_str().ok()?.parse().ok()
}

/// Nobody knows whether it was applied.
fn unknown(id: &SegmentId, reason: &str, repeatable: bool) -> ApiError {
    let advice = if repeatable {
        "send it again with the same idempotency key"
    } else {
        "look before sending it again; with an idempotency key that would be safe"
    };
    let message = format!("segment {id}: {reason}; whether it was written is not known: {advice}");
    let error = ApiError::new(ErrorCode::WorkerLost, message);
    ApiError { retry: repeatable, retry_after_s: repeatable.then_some(1), ..error }
}
