//! This gateway behind Trough's ports: what its own API does, in Trough's terms.

use std::sync::{Arc, atomic::Ordering};

use async_trait::async_trait;
use axum::{
    body::Body,
    http::{HeaderValue, Response},
};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::{Backend, Provisioned, ROWS_CONTENT_TYPE, SchemaError, SchemaPut, read::rows_of};
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        hot::{PromoteRequest, ProvisionRequest},
    },
    gateway::Core,
    routing::Query,
    segment::SegmentId,
    writing::{execute::Write, schemas::Put},
};

/// Length of a database as SQLite sees it: what Trough, which writes without a log, has as length of a file.
const SIZE_SQL: &str = "select page_count as pages, page_count * page_size as bytes from pragma_page_count, \
                        pragma_page_size";
/// Longest answer to it.
const SIZE_BYTES_MAX: usize = 1 << 10;

/// See the module.
pub(crate) struct Own(pub(crate) Arc<Core>);

impl Own {
    /// Errors out once the gateway is stopping.
    fn core(&self) -> Result<&Core, ApiError> {
        if self.0.stopping.load(Ordering::Relaxed) {
            return Err(ApiError::new(ErrorCode::ShuttingDown, "this gateway is shutting down"));
        }
        Ok(&self.0)
    }

    async fn query(&self, segment: SegmentId, sql: &str) -> Result<Response<Body>, ApiError> {
        let core = self.core()?;
        core.routing
            .query(Query {
                segment,
                body: json!({ "sql": sql }).to_string().into(),
                accept: vec![HeaderValue::from_static(ROWS_CONTENT_TYPE)],
                deadline: deadline(core),
            })
            .await
    }

    /// Whether anybody has it: the store, or whoever may write it.
    async fn exists(&self, segment: &SegmentId) -> Result<bool, ApiError> {
        if !self.0.writing.locks(Some(segment)).is_empty() {
            return Ok(true);
        }
        match self.0.routing.resolve(segment).await {
            Ok(_) => Ok(true),
            Err(error) if error.code == ErrorCode::SegmentNotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Bytes of a database that can be written; `None` if it does not tell.
    async fn size(&self, segment: SegmentId) -> Option<u64> {
        #[derive(Deserialize)]
        struct Size {
            pages: u64,
            bytes: u64,
        }
        let rows = rows_of(self.query(segment, SIZE_SQL).await.ok()?).await.ok()?;
        let rows = Limited::new(rows, SIZE_BYTES_MAX).collect().await.ok()?.to_bytes();
        let [Size { pages, bytes }] = serde_json::from_slice(&rows).ok()?;
        // Of a database without tables SQLite makes no page, and so no file of any length. Ours has one.
        Some(if pages > 1 { bytes } else { 0 })
    }
}

/// Trough has none: the longest there is.
fn deadline(core: &Core) -> Instant {
    Instant::now() + core.settings.deadline_max
}

#[async_trait]
impl Backend for Own {
    async fn read(&self, segment: SegmentId, sql: String) -> Result<Body, ApiError> {
        rows_of(self.query(segment, &sql).await?).await
    }

    async fn write(&self, segment: SegmentId, sql: String) -> Result<(), ApiError> {
        let core = self.core()?;
        let body = json!({ "sql": sql }).to_string().into();
        let accept = Some(HeaderValue::from_static(ROWS_CONTENT_TYPE));
        let write = Write { segment, body, idempotency: None, token: None, accept, deadline: deadline(core) };
        rows_of(core.writing.execute(write).await?).await.map(drop)
    }

    async fn provision(&self, segment: SegmentId, schema: &str) -> Result<Provisioned, ApiError> {
        let core = self.core()?;
        // Of a segment that exists Trough does not ask what its schema would be.
        let known = match core.writing.schema(schema) {
            Err(error) if error.code == ErrorCode::SchemaNotFound => !self.exists(&segment).await?,
            _ => true,
        };
        let request = ProvisionRequest { schema: known.then(|| schema.to_owned()), takeover: false };
        let answer = core.writing.provision(segment.clone(), request).await?;
        Ok(Provisioned { size: self.size(segment).await.unwrap_or(answer.size) })
    }

    async fn promote(&self, segment: SegmentId) -> Result<String, ApiError> {
        let answer = self.core()?.writing.promote(segment, PromoteRequest::default(), None).await?;
        // Trough names a path in the file system, root and all.
        let path = answer.url.split_once("://").and_then(|(_, rest)| Some(&rest[rest.find('/')?..]));
        Ok(path.map_or(answer.path, str::to_owned))
    }

    async fn delete(&self, segment: SegmentId) -> Result<(), ApiError> {
        let core = self.core()?;
        // Ours may be repeated; Trough's second one finds nothing. One that was begun goes on.
        let (begun, over) = {
            let ledger = core.state.ledger();
            (ledger.is_deleting(&segment), ledger.tombstone(&segment).is_some())
        };
        let anywhere = begun || (!over && !core.routing.copies.anywhere(&segment).is_empty());
        if !anywhere && !self.exists(&segment).await? {
            let why = format!("there is no segment {segment}");
            return Err(ApiError::new(ErrorCode::SegmentNotFound, why));
        }
        core.writing.delete(segment).await
    }

    async fn schemas(&self) -> Result<Vec<String>, ApiError> {
        Ok(self.core()?.writing.schemas().schemas.into_iter().map(|schema| schema.name).collect())
    }

    async fn schema(&self, id: &str) -> Result<Option<String>, ApiError> {
        match self.core()?.writing.schema(id) {
            Ok(schema) => Ok(Some(schema.sql)),
            Err(error) if error.code == ErrorCode::SchemaNotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn put_schema(&self, id: &str, sql: &str) -> Result<SchemaPut, SchemaError> {
        match self.core()?.writing.put_schema(id, sql.to_owned()).await {
            Ok(Put::Created(_)) => Ok(SchemaPut::Created),
            Ok(Put::Replaced(_) | Put::Same(_)) => Ok(SchemaPut::Replaced),
            Err(error) => Err(match SchemaError::from(error) {
                SchemaError::Invalid(why) => SchemaError::Invalid(sqlites_words(id, &why).to_owned()),
                failed => failed,
            }),
        }
    }
}

/// What SQLite said about a schema, without the name and the place that we add.
fn sqlites_words<'w>(id: &str, why: &'w str) -> &'w str {
    let why = why
        .strip_prefix("schema ")
        .and_then(|rest| rest.strip_prefix(id))
        .map_or(why, |rest| rest.strip_prefix(": ").unwrap_or(why));
    match why.rsplit_once(", at character ") {
        Some((words, place)) if place.ends_with(" of the statement") => words,
        _ => why,
    }
}

#[cfg(test)]
mod tests {
    use super::sqlites_words;

    #[test]
    fn what_sqlite_said() {
        for (why, words) in [
            (
                "schema s: near \"x\": syntax error, at character 8 of the statement",
                "near \"x\": syntax error",
            ),
            ("schema s: no such table: t", "no such table: t"),
            ("schema t: other", "schema t: other"),
            ("a, at character 3", "a, at character 3"),
        ] {
            assert_eq!(sqlites_words("s", why), words);
        }
    }
}
