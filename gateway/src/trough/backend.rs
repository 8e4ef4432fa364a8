//! What Trough's ports need of the gateway.

use async_trait::async_trait;
use axum::body::Body;

use crate::{
    api::error::{ApiError, ErrorCode},
    segment::SegmentId,
};

/// A segment that may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provisioned {
    /// Bytes of the worker's copy. Trough says 0 of a new one with the default schema.
    pub size: u64,
}

/// What storing a schema did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaPut {
    /// There was none of that id.
    Created,
    /// There was one.
    Replaced,
}

/// Why a schema was not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaError {
    /// SQLite's words about its SQL.
    Invalid(String),
    /// Anything else.
    Failed(ApiError),
}

impl From<ApiError> for SchemaError {
    /// What SQLite does not accept is invalid.
    fn from(error: ApiError) -> Self {
        match error.code {
            ErrorCode::SqlError | ErrorCode::SqlForbidden => Self::Invalid(error.message),
            _ => Self::Failed(error),
        }
    }
}

/// The gateway, as Trough's ports see it. The message of an error reaches the client as it is.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Runs one SELECT. The body is rows as [`super::ROWS_CONTENT_TYPE`] has them: the answer of a worker
    /// that was asked for that format, passed on as it comes.
    async fn read(&self, segment: SegmentId, sql: String) -> Result<Body, ApiError>;

    /// Runs a script, one or more statements, all or nothing, on the holder of the segment's write lock.
    async fn write(&self, segment: SegmentId, sql: String) -> Result<(), ApiError>;

    /// Makes a segment writable; a new one gets the schema. Idempotent. `ColdRange`: it is never written.
    async fn provision(&self, segment: SegmentId, schema: &str) -> Result<Provisioned, ApiError>;

    /// Copies a segment that is written to the store; where it lies there.
    async fn promote(&self, segment: SegmentId) -> Result<String, ApiError>;

    /// Deletes a segment everywhere.
    async fn delete(&self, segment: SegmentId) -> Result<(), ApiError>;

    /// Ids of all schemas; `default` is one of them.
    async fn schemas(&self) -> Result<Vec<String>, ApiError>;

    /// The SQL of a schema; `None`: there is none of that id.
    async fn schema(&self, id: &str) -> Result<Option<String>, ApiError>;

    /// Stores a schema, if SQLite can run it.
    async fn put_schema(&self, id: &str, sql: &str) -> Result<SchemaPut, SchemaError>;
}
