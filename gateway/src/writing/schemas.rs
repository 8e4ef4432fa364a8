//! Schemas that new segments get.

use std::sync::Arc;

use async_trait::async_trait;

use super::Writing;
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        hot::{SchemaInfo, SchemaList},
    },
    registry::{
        ledger::{DEFAULT_SCHEMA, Entry},
        state::Amendment,
    },
    segment::SegmentId,
};

/// Longest text of a schema in bytes.
pub(crate) const SCHEMA_BYTES_MAX: usize = 1 << 20;
/// Versions of one schema.
const VERSIONS_MAX: u32 = 10_000;

/// Says whether statements make a database. The root package implements it with SQLite.
#[async_trait]
pub trait SchemaCheck: Send + Sync + 'static {
    /// Runs `sql` against an empty database that is thrown away. An error: SQLite's message.
    async fn check(&self, sql: &str) -> Result<(), String>;
}

/// What became of a schema that was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Put {
    /// The name is new.
    Created(SchemaInfo),
    /// It has a new version.
    Replaced(SchemaInfo),
    /// It said that already.
    Same(SchemaInfo),
}

impl Writing {
    /// Who checks schemas from now on; the first one stays.
    pub(crate) fn set_schema_check(&self, check: Arc<dyn SchemaCheck>) {
        if self.schema_check.set(check).is_err() {
            tracing::warn!("schemas are checked by two; the first one goes on");
        }
    }

    /// Statements of the newest version of `name`.
    pub(super) fn schema_sql(&self, name: &str) -> Result<String, ApiError> {
        self.schema(name).map(|schema| schema.sql)
    }

    /// Newest version of `name`.
    pub(crate) fn schema(&self, name: &str) -> Result<SchemaInfo, ApiError> {
        self.schema_versions(name)?.schemas.pop().ok_or_else(|| no_schema(name))
    }

    /// All versions of `name`, oldest first.
    pub(crate) fn schema_versions(&self, name: &str) -> Result<SchemaList, ApiError> {
        let id = SegmentId::parse(name).map_err(|_| no_schema(name))?;
        let schemas = all_versions(&id, self.state.ledger().schema(&id));
        if schemas.is_empty() { Err(no_schema(name)) } else { Ok(SchemaList { schemas }) }
    }

    /// Newest version of each, by name.
    pub(crate) fn schemas(&self) -> SchemaList {
        let mut schemas: Vec<SchemaInfo> = self.state.ledger().schemas().cloned().collect();
        if schemas.iter().all(|schema| schema.name != DEFAULT_SCHEMA) {
            schemas.push(built_in());
        }
        schemas.sort_by(|a, b| a.name.cmp(&b.name));
        SchemaList { schemas }
    }

    /// Registers `sql` as the newest version of `name`, if it is not that already.
    pub(crate) async fn put_schema(&self, name: &str, sql: String) -> Result<Put, ApiError> {
        let id = SegmentId::parse(name)
            .map_err(|e| ApiError::new(ErrorCode::BadRequest, format!("name of a schema: {e}")))?;
        if sql.len() > SCHEMA_BYTES_MAX {
            return Err(ApiError::new(
                ErrorCode::RequestTooLarge,
                format!("a schema has at most {SCHEMA_BYTES_MAX} bytes"),
            ));
        }
        let Some(check) = self.schema_check.get() else {
            return Err(ApiError::new(ErrorCode::Internal, "this gateway has nothing to check schemas with"));
        };
        check
            .check(&sql)
            .await
            .map_err(|reason| ApiError::new(ErrorCode::SqlError, format!("schema {name}: {reason}")))?;
        let created_ms = (self.clock)();
        self.amend(move |ledger, _| {
            let versions = all_versions(&id, ledger.schema(&id));
            if let Some(newest) = versions.last().filter(|newest| newest.sql == sql) {
                return Ok(Amendment::none(Put::Same(newest.clone())));
            }
            // Not the number of versions: one may have been lost to a damaged row.
            let version = versions.iter().map(|schema| schema.version).max().unwrap_or(0) + 1;
            if version > VERSIONS_MAX {
                return Err(ApiError::new(
                    ErrorCode::Conflict,
                    format!("schema {id} has {VERSIONS_MAX} versions: register it under another name"),
                ));
            }
            let schema = SchemaInfo { name: id.to_string(), version, created_ms, sql };
            let put = if version == 1 { Put::Created(schema.clone()) } else { Put::Replaced(schema.clone()) };
            Ok(Amendment::ledger(vec![Entry::Schema(schema)], put))
        })
        .await
    }
}

/// What is stored of `id`, after what is built in.
fn all_versions(id: &SegmentId, stored: Option<&[SchemaInfo]>) -> Vec<SchemaInfo> {
    let built_in = (id.as_str() == DEFAULT_SCHEMA).then(built_in);
    built_in.into_iter().chain(stored.unwrap_or_default().iter().cloned()).collect()
}

/// What new segments get where nobody said anything else.
fn built_in() -> SchemaInfo {
    SchemaInfo { name: DEFAULT_SCHEMA.to_owned(), version: 1, created_ms: 0, sql: String::new() }
}

fn no_schema(name: &str) -> ApiError {
    ApiError::new(
        ErrorCode::SchemaNotFound,
        format!("there is no schema {name:?}: register it with PUT /v1/schemas/NAME"),
    )
}
