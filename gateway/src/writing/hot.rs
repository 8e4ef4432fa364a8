//! Calls of hot workers.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
};
use http_body_util::{BodyExt, Limited};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout_at};

use super::Writing;
use crate::{
    api::{
        error::{ApiError, ErrorBody, ErrorCode},
        hot::{TOKEN_HEADER, Token},
    },
    routing::{Attempt, Call, workers::Worker},
    segment::SegmentId,
};

/// Most bytes read of an answer: one segment, or an error.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Why a worker did not do what it was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// It said why. Nothing was changed.
    Refused(ApiError),
    /// It was not reached. Nothing was changed.
    Unreached(String),
    /// Nobody knows whether it did it.
    Unknown(String),
}

impl Failure {
    /// For the client.
    pub(super) fn error(self, id: &SegmentId, worker: &str) -> ApiError {
        match self {
            Self::Refused(error) => error,
            Self::Unreached(reason) | Self::Unknown(reason) => {
                ApiError::new(ErrorCode::WorkerLost, format!("segment {id} on worker {worker}: {reason}"))
            }
        }
    }
}

impl Writing {
    /// Asks `worker` and reads its answer.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        worker: &Worker,
        (method, path): (Method, String),
        token: Token,
        body: &impl Serialize,
        max: Duration,
    ) -> Result<T, Failure> {
        let bytes = self.send(worker, (method, path), token, body, max).await?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Failure::Unknown(format!("its answer is not understood: {e}")))
    }

    /// The same where only success counts.
    pub(super) async fn tell(
        &self,
        worker: &Worker,
        (method, path): (Method, String),
        token: Token,
        body: &impl Serialize,
        max: Duration,
    ) -> Result<(), Failure> {
        self.send(worker, (method, path), token, body, max).await.map(drop)
    }

    async fn send(
        &self,
        worker: &Worker,
        (method, path): (Method, String),
        token: Token,
        body: &impl Serialize,
        max: Duration,
    ) -> Result<Bytes, Failure> {
        let body = serde_json::to_vec(body).map_err(|e| Failure::Unreached(e.to_string()))?;
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(TOKEN_HEADER, HeaderValue::from(token));
        let deadline = Instant::now() + max;
        let call = Call { method, path, headers, body: body.into(), deadline };
        let (parts, body, _in_flight) = match self.routing.call(worker, call).await {
            Attempt::Answer(parts, body, in_flight) => (parts, body, in_flight),
            Attempt::Unreachable(reason) => {
                return Err(Failure::Unreached(self.routing.unreachable(worker, &reason)));
            }
            Attempt::Lost(reason) => return Err(Failure::Unknown(self.routing.lost(worker, &reason))),
            Attempt::TimedOut => {
                self.routing.outcome("timed_out");
                return Err(Failure::Unknown(format!("no answer within {max:?}")));
            }
        };
        if parts.status == StatusCode::UNAUTHORIZED {
            return Err(Failure::Unreached(self.routing.refused(worker)));
        }
        self.routing.outcome("answered");
        let bytes = read(body, deadline).await.map_err(Failure::Unknown)?;
        if parts.status.is_success() {
            return Ok(bytes);
        }
        Err(match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => Failure::Refused(body.error),
            Err(_) => Failure::Unknown(format!("it answered with status {} and no reason", parts.status)),
        })
    }
}

async fn read(body: Body, deadline: Instant) -> Result<Bytes, String> {
    match timeout_at(deadline, Limited::new(body, ANSWER_BYTES_MAX).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) => Err(format!("its answer broke off: {error}")),
        Err(_) => Err("its answer did not end in time".to_owned()),
    }
}
