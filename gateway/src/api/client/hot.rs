//! Calls that change segments.

use reqwest::{Method, Response};
use serde::Serialize;
use serde_json::json;

use super::{ClientError, GatewayClient};
use crate::{
    api::hot::{
        ExecuteAnswer, ExecuteRequest, IDEMPOTENCY_HEADER, LockList, PromoteAnswer, PromoteRequest,
        ProvisionAnswer, ProvisionRequest, ReleaseRequest, SchemaInfo, SchemaList, SchemaRequest,
    },
    segment::SegmentId,
};

/// None of these has an overall timeout: a copy of several GB may be part of it, and the gateway has
/// deadlines of its own.
impl GatewayClient {
    /// Takes the write lock of a segment for a hot worker.
    pub async fn provision(
        &self,
        id: &SegmentId,
        request: &ProvisionRequest,
    ) -> Result<ProvisionAnswer, ClientError> {
        let answer = self.change(Method::POST, &["v1", "segments", id.as_str(), "provision"], request);
        self.decode(answer.await?).await
    }

    /// Writes in one transaction. With `key` a request that is sent again is applied once.
    pub async fn execute(
        &self,
        id: &SegmentId,
        request: &ExecuteRequest,
        key: Option<&str>,
    ) -> Result<ExecuteAnswer, ClientError> {
        let url = self.url(&["v1", "segments", id.as_str(), "execute"]);
        let mut call = self.http.post(url).json(request);
        if let Some(key) = key {
            call = call.header(IDEMPOTENCY_HEADER, key);
        }
        self.decode(self.send(self.authorized(call)).await?).await
    }

    /// Makes what was written the segment's next generation in the store.
    pub async fn promote(
        &self,
        id: &SegmentId,
        request: &PromoteRequest,
    ) -> Result<PromoteAnswer, ClientError> {
        let answer = self.change(Method::POST, &["v1", "segments", id.as_str(), "promote"], request);
        self.decode(answer.await?).await
    }

    /// Gives the write lock up.
    pub async fn release_lock(&self, id: &SegmentId, request: &ReleaseRequest) -> Result<(), ClientError> {
        self.change(Method::POST, &["v1", "segments", id.as_str(), "release"], request).await.map(drop)
    }

    /// Deletes a segment: its copies, its file in the store, its row.
    pub async fn delete_segment(&self, id: &SegmentId) -> Result<(), ClientError> {
        self.bare(Method::DELETE, &["v1", "segments", id.as_str()]).await.map(drop)
    }

    /// All write locks.
    pub async fn locks(&self) -> Result<LockList, ClientError> {
        self.json(self.request(Method::GET, self.url(&["v1", "locks"]))).await
    }

    /// Wants copies on hot workers: so many, or as many as the gateway's rule says.
    pub async fn raise(&self, id: &SegmentId, copies: Option<u32>) -> Result<(), ClientError> {
        let request = copies.map_or_else(|| json!({}), |copies| json!({ "copies": copies }));
        self.change(Method::POST, &["v1", "segments", id.as_str(), "raise"], &request).await.map(drop)
    }

    /// Wants none any more.
    pub async fn lower(&self, id: &SegmentId) -> Result<(), ClientError> {
        self.bare(Method::POST, &["v1", "segments", id.as_str(), "lower"]).await.map(drop)
    }

    /// Wants a copy on this worker whatever placement says, or not any more.
    pub async fn pin(&self, id: &SegmentId, worker: &str, on: bool) -> Result<(), ClientError> {
        let method = if on { Method::PUT } else { Method::DELETE };
        self.bare(method, &["v1", "segments", id.as_str(), "pin", worker]).await.map(drop)
    }

    /// Gives a worker nothing new and moves what it holds elsewhere, or takes that back.
    pub async fn drain(&self, worker: &str, on: bool) -> Result<(), ClientError> {
        let method = if on { Method::POST } else { Method::DELETE };
        self.bare(method, &["v1", "workers", worker, "drain"]).await.map(drop)
    }

    /// The newest version of each schema.
    pub async fn schemas(&self) -> Result<SchemaList, ClientError> {
        self.json(self.request(Method::GET, self.url(&["v1", "schemas"]))).await
    }

    /// The newest version of one.
    pub async fn schema(&self, name: &str) -> Result<SchemaInfo, ClientError> {
        self.json(self.request(Method::GET, self.url(&["v1", "schemas", name]))).await
    }

    /// All versions of one.
    pub async fn schema_versions(&self, name: &str) -> Result<SchemaList, ClientError> {
        self.json(self.request(Method::GET, self.url(&["v1", "schemas", name, "versions"]))).await
    }

    /// Registers a schema, or its next version.
    pub async fn put_schema(&self, name: &str, sql: &str) -> Result<SchemaInfo, ClientError> {
        let request = SchemaRequest { sql: sql.to_owned() };
        let answer = self.change(Method::PUT, &["v1", "schemas", name], &request);
        self.decode(answer.await?).await
    }

    async fn change(
        &self,
        method: Method,
        path: &[&str],
        request: &impl Serialize,
    ) -> Result<Response, ClientError> {
        let call = self.http.request(method, self.url(path)).json(request);
        self.send(self.authorized(call)).await
    }

    async fn bare(&self, method: Method, path: &[&str]) -> Result<Response, ClientError> {
        let call = self.http.request(method, self.url(path));
        self.send(self.authorized(call)).await
    }
}
