//! Errors as clients see them, and the only table of HTTP statuses.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

/// What went wrong, for programs. The names are part of the API: never renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// The request cannot be understood: JSON, a parameter, a segment id.
    BadRequest,
    /// SQLite does not accept the statement: syntax, unknown table, wrong number of parameters.
    SqlError,
    /// The sandbox refuses what the statement wants to do.
    SqlForbidden,
    /// No or a wrong cluster secret.
    Unauthorized,
    /// No such path of the API.
    NotFound,
    /// No such segment.
    SegmentNotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// None of the formats in `Accept` exists.
    NotAcceptable,
    /// Not JSON.
    UnsupportedMediaType,
    /// The same segment id lies in more than one directory; the message lists them.
    SegmentAmbiguous,
    /// Something with that name is there already, or belongs to someone else.
    Conflict,
    /// A newer write lock exists: this token can change nothing any more.
    Fenced,
    /// The segment is not provisioned for writing.
    NotProvisioned,
    /// The segment's write lock ended: somebody else put a newer generation into the store.
    Superseded,
    /// The holder of the segment's write lock is not alive.
    LockSuspended,
    /// The segment's write lock forbids it: release or promote first.
    Locked,
    /// There are writes that were not promoted.
    Unpromoted,
    /// A rule says that the segment never has hot copies, so it cannot be written or raised.
    ColdRange,
    /// No hot worker has room for it.
    NoRoom,
    /// No such schema.
    SchemaNotFound,
    /// The request body is over the limit.
    RequestTooLarge,
    /// The answer has more rows than the limit; rows before the limit were sent.
    RowLimit,
    /// The answer has more bytes than the limit; rows before the limit were sent.
    ByteLimit,
    /// The statement needs more memory than a query may have.
    MemoryLimit,
    /// The deadline passed: in the queue, in SQLite or in a read.
    DeadlineExceeded,
    /// The segment's file is no SQLite database or a damaged one.
    SegmentCorrupt,
    /// The segment was replaced while it was read; ask again for the new one.
    SegmentReplaced,
    /// Too many requests wait already.
    Overloaded,
    /// The gateway started a moment ago and does not know its workers yet.
    Warming,
    /// No live worker can answer for this segment.
    NoWorker,
    /// The worker that had the request went away before the first row.
    WorkerLost,
    /// The store did not answer in time, or cannot be reached.
    StoreUnavailable,
    /// Shutting down.
    ShuttingDown,
    /// A defect of ours; the log has more.
    Internal,
}

impl ErrorCode {
    /// HTTP status, and whether the same request may succeed later without being changed.
    pub fn status_and_retry(self) -> (StatusCode, bool) {
        use StatusCode as S;
        match self {
            Self::BadRequest | Self::SqlError => (S::BAD_REQUEST, false),
            Self::Unauthorized => (S::UNAUTHORIZED, false),
            Self::SqlForbidden => (S::FORBIDDEN, false),
            Self::NotFound | Self::SegmentNotFound | Self::SchemaNotFound => (S::NOT_FOUND, false),
            Self::MethodNotAllowed => (S::METHOD_NOT_ALLOWED, false),
            Self::NotAcceptable => (S::NOT_ACCEPTABLE, false),
            Self::UnsupportedMediaType => (S::UNSUPPORTED_MEDIA_TYPE, false),
            Self::SegmentAmbiguous
            | Self::Conflict
            | Self::Fenced
            | Self::NotProvisioned
            | Self::Superseded
            | Self::Locked
            | Self::ColdRange
            | Self::Unpromoted => (S::CONFLICT, false),
            Self::RequestTooLarge => (S::PAYLOAD_TOO_LARGE, false),
            Self::RowLimit | Self::ByteLimit | Self::MemoryLimit | Self::SegmentCorrupt => {
                (S::UNPROCESSABLE_ENTITY, false)
            }
            Self::SegmentReplaced => (S::CONFLICT, true),
            Self::DeadlineExceeded => (S::GATEWAY_TIMEOUT, false),
            Self::Overloaded => (S::TOO_MANY_REQUESTS, true),
            Self::Warming
            | Self::NoWorker
            | Self::LockSuspended
            | Self::NoRoom
            | Self::WorkerLost
            | Self::StoreUnavailable
            | Self::ShuttingDown => (S::SERVICE_UNAVAILABLE, true),
            Self::Internal => (S::INTERNAL_SERVER_ERROR, false),
        }
    }
}

/// An error as it stands in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// For programs.
    pub code: ErrorCode,
    /// For people: the thing, the reason, the remedy. No paths of the host, no source locations.
    pub message: String,
    /// Whether the same request may succeed later.
    pub retry: bool,
    /// Seconds for `Retry-After`; only in the header.
    #[serde(skip)]
    pub retry_after_s: Option<u32>,
}

/// The body of every answer that is an error: `{"error": {…}}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
}

impl ApiError {
    /// An error of `code` with its usual retry advice.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let retry = code.status_and_retry().1;
        Self { code, message: message.into(), retry, retry_after_s: retry.then_some(1) }
    }

    /// With another `Retry-After`.
    #[must_use]
    pub fn retry_after_s(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.code.status_and_retry().0;
        let retry_after = self.retry_after_s;
        let mut response = (status, Json(ErrorBody { error: self })).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
