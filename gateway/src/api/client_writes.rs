//! The client's calls for segments that are written and raised.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};

use super::{
    client::{ClientError, GatewayClient},
    hot::{
        ExecuteAnswer, ExecuteRequest, IDEMPOTENCY_HEADER, LockList, PromoteAnswer, PromoteRequest,
        ProvisionAnswer, ProvisionRequest, ReleaseRequest, SchemaInfo, SchemaList, SchemaRequest,
    },
    optimize::OptimizeAnswer,
    tier_types::{RuleList, TierInfo, TierList},
    types::{DrainAnswer, RaiseAnswer, RaiseRequest},
    verify::{VerifyAnswer, VerifyRequest},
    work::{CancelAnswer, WorkList},
};
use crate::segment::SegmentId;

/// Longest time of a call that copies a segment; the gateway has limits of its own.
const COPY_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

impl GatewayClient {
    /// Makes a segment writable on one worker. Idempotent.
    pub async fn provision(
        &self,
        id: &SegmentId,
        request: &ProvisionRequest,
    ) -> Result<ProvisionAnswer, ClientError> {
        self.json(self.of(Method::POST, id, "provision").json(request).timeout(COPY_TIMEOUT)).await
    }

    /// Writes, in one transaction. With a key, a repetition is applied once.
    pub async fn execute(
        &self,
        id: &SegmentId,
        request: &ExecuteRequest,
        idempotency_key: Option<&str>,
    ) -> Result<ExecuteAnswer, ClientError> {
        let mut call = self.of(Method::POST, id, "execute").json(request).timeout(COPY_TIMEOUT);
        if let Some(key) = idempotency_key {
            call = call.header(IDEMPOTENCY_HEADER, key);
        }
        self.json(call).await
    }

    /// Makes what was written the segment's generation in the store.
    pub async fn promote(
        &self,
        id: &SegmentId,
        request: &PromoteRequest,
    ) -> Result<PromoteAnswer, ClientError> {
        self.json(self.of(Method::POST, id, "promote").json(request).timeout(COPY_TIMEOUT)).await
    }

    /// Ends the write lock.
    pub async fn release_lock(&self, id: &SegmentId, request: &ReleaseRequest) -> Result<(), ClientError> {
        self.send(self.of(Method::POST, id, "release").json(request)).await.map(drop)
    }

    /// Deletes a segment everywhere.
    pub async fn delete(&self, id: &SegmentId) -> Result<(), ClientError> {
        let url = self.url(&["v1", "segments", id.as_str()]);
        self.send(self.request(Method::DELETE, url).timeout(COPY_TIMEOUT)).await.map(drop)
    }

    /// What hot workers are doing.
    pub async fn work(&self) -> Result<WorkList, ClientError> {
        self.json(self.request(Method::GET, self.url(&["v1", "work"]))).await
    }

    /// Lays a segment in the store out anew.
    pub async fn optimize(&self, id: &SegmentId) -> Result<OptimizeAnswer, ClientError> {
        self.json(self.of(Method::POST, id, "optimize").timeout(COPY_TIMEOUT)).await
    }

    /// Looks at a segment where its bytes are.
    pub async fn verify(&self, id: &SegmentId, request: &VerifyRequest) -> Result<VerifyAnswer, ClientError> {
        self.json(self.of(Method::POST, id, "verify").json(request).timeout(COPY_TIMEOUT)).await
    }

    /// Ends what is under way for a segment.
    pub async fn cancel(&self, id: &SegmentId) -> Result<CancelAnswer, ClientError> {
        self.json(self.of(Method::POST, id, "cancel").timeout(COPY_TIMEOUT)).await
    }

    /// All write locks.
    pub async fn locks(&self) -> Result<LockList, ClientError> {
        self.json(self.request(Method::GET, self.url(&["v1", "locks"]))).await
    }

    /// Newest version of each schema.
    pub async fn schemas(&self) -> Result<SchemaList, ClientError> {
        self.json(self.request(Method::GET, self.url(&["v1", "schemas"]))).await
    }

    /// Newest version of one schema.
    pub async fn schema(&self, name: &str) -> Result<SchemaInfo, ClientError> {
        self.json(self.request(Method::GET, self.url(&["v1", "schemas", name]))).await
    }

    /// All versions of one schema, oldest first.
    pub async fn schema_versions(&self, name: &str) -> Result<SchemaList, ClientError> {
        self.json(self.request(Method::GET, self.url(&["v1", "schemas", name, "versions"]))).await
    }

    /// Registers a schema, or a new version of it.
    pub async fn put_schema(&self, name: &str, request: &SchemaRequest) -> Result<SchemaInfo, ClientError> {
        self.json(self.request(Method::PUT, self.url(&["v1", "schemas", name])).json(request)).await
    }

    /// Gives a segment hot copies.
    pub async fn raise(&self, id: &SegmentId, request: &RaiseRequest) -> Result<RaiseAnswer, ClientError> {
        self.json(self.of(Method::POST, id, "raise").json(request)).await
    }

    /// Takes the wish for hot copies back.
    pub async fn lower(&self, id: &SegmentId) -> Result<RaiseAnswer, ClientError> {
        self.json(self.of(Method::POST, id, "lower")).await
    }

    /// Whether `worker` shall always have a copy.
    pub async fn pin(&self, id: &SegmentId, worker: &str, pinned: bool) -> Result<RaiseAnswer, ClientError> {
        let url = self.url(&["v1", "segments", id.as_str(), "pin", worker]);
        self.json(self.request(if pinned { Method::PUT } else { Method::DELETE }, url)).await
    }

    /// Whether `worker` shall become empty.
    pub async fn drain(&self, worker: &str, draining: bool) -> Result<DrainAnswer, ClientError> {
        let url = self.url(&["v1", "workers", worker, "drain"]);
        self.json(self.request(if draining { Method::POST } else { Method::DELETE }, url)).await
    }

    /// The rules by which segments differ.
    pub async fn rules(&self) -> Result<RuleList, ClientError> {
        self.json(self.request(Method::GET, self.url(&["v1", "rules"]))).await
    }

    /// Segments that shall have hot copies, at most `limit`, the hottest first; `after`: `next` of the last page.
    pub async fn tiers(&self, limit: u32, after: Option<&str>) -> Result<TierList, ClientError> {
        let mut url = self.url(&["v1", "tiers"]);
        url.query_pairs_mut().append_pair("limit", &limit.to_string());
        if let Some(after) = after {
            url.query_pairs_mut().append_pair("after", after);
        }
        self.json(self.request(Method::GET, url)).await
    }

    /// What the gateway would do with the copies of a segment, and why.
    pub async fn tier(&self, id: &SegmentId) -> Result<TierInfo, ClientError> {
        self.json(self.of(Method::GET, id, "tier")).await
    }

    fn of(&self, method: Method, id: &SegmentId, what: &str) -> RequestBuilder {
        self.request(method, self.url(&["v1", "segments", id.as_str(), what]))
    }
}
