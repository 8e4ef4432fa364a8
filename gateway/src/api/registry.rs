//! The registry as a whole: exported, and looked at.

use std::{
    io::{self, Write},
    sync::{Arc, atomic::Ordering},
};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Query as UrlQuery, State, rejection::QueryRejection},
    http::{Request, header},
    response::{IntoResponse, Response},
};
use reqwest::Method;
use serde::Deserialize;
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, timeout},
};

use super::{
    auth,
    client::{ClientError, GatewayClient},
    error::{ApiError, ErrorCode},
    segments::bad_request,
};
use crate::{
    gateway::Core,
    registry::{
        catalog::Directory,
        export,
        state::State as RegistryState,
        verify::{Findings, store},
    },
    segment::SegmentId,
};

/// Bytes that are sent together.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks that wait for a slow reader.
const CHUNKS_MAX: usize = 4;
/// A reader that takes nothing for so long is given up.
const STALL_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// `GET /v1/registry/export`
pub(super) async fn export(
    State(core): State<Arc<Core>>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    auth::check(core.settings.secret.as_deref(), &request.into_parts().0)?;
    going_on(&core)?;
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let state = core.state.clone();
    let runtime = tokio::runtime::Handle::current();
    spawn_blocking(move || {
        let mut out = Chunks { sender, buffer: Vec::with_capacity(CHUNK_BYTES), runtime };
        match export::running(&state, &mut out) {
            Ok(exported) => tracing::info!(lines = exported.lines, "the registry was exported"),
            Err(error) => {
                tracing::warn!(%error, "an export of the registry ended early");
                // The reader sees that it is cut short: its last line is missing, and so is the last chunk.
                let error = io::Error::other(error.to_string());
                let _ = out.runtime.block_on(timeout(STALL_MAX, out.sender.send(Err(error))));
            }
        }
    });
    let chunks = futures::stream::unfold(receiver, |mut receiver| async move {
        let chunk: io::Result<Bytes> = receiver.recv().await?;
        Some((chunk, receiver))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(chunks)).into_response())
}

struct Chunks {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
    runtime: tokio::runtime::Handle,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES));
        let sent = self.runtime.block_on(timeout(STALL_MAX, self.sender.send(Ok(chunk.into()))));
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the reader went away")),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the reader takes nothing any more")),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VerifyParams {
    #[serde(default)]
    store: bool,
}

/// `GET /v1/registry/verify?store=`
pub(super) async fn verify(
    State(core): State<Arc<Core>>,
    params: Result<UrlQuery<VerifyParams>, QueryRejection>,
    request: Request<Body>,
) -> Result<Json<Findings>, ApiError> {
    auth::check(core.settings.secret.as_deref(), &request.into_parts().0)?;
    let UrlQuery(params) = params.map_err(|e| bad_request(e.body_text()))?;
    going_on(&core)?;
    let this = core.clone();
    let looked = crate::blocking::run(move || {
        let mut findings = this.state.verify()?;
        let live = this.routing.workers.hot_workers(Instant::now().into_std());
        this.routing.copies.verify(&live, &mut findings);
        Ok::<_, ApiError>(findings)
    });
    let mut findings = looked.await.map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))??;
    if params.store {
        let known = Running(core.state.clone());
        let parallelism = core.settings.list_parallelism;
        let compared = store::compare(core.discovery.store(), &known, parallelism, &mut findings).await;
        compared.map_err(|failure| {
            ApiError::new(ErrorCode::StoreUnavailable, format!("the store cannot be listed: {failure}"))
                .retry_after_s(5)
        })?;
    }
    Ok(Json(findings))
}

/// A registry that goes on meanwhile.
struct Running(Arc<RegistryState>);

impl store::Known for Running {
    fn directory(&self, path: &str) -> Option<Arc<Directory>> {
        self.0.catalog().directory(path).cloned()
    }

    fn is_uploading(&self, id: &SegmentId, path: &str) -> bool {
        self.0.ledger().intent(id).is_some_and(|intent| intent.temporary == path)
    }

    fn token(&self) -> super::hot::Token {
        self.0.ledger().token()
    }
}

fn going_on(core: &Core) -> Result<(), ApiError> {
    if core.stopping.load(Ordering::Relaxed) {
        return Err(ApiError::new(ErrorCode::ShuttingDown, "this gateway is shutting down"));
    }
    Ok(())
}

impl GatewayClient {
    /// The registry as lines of JSON, streamed. It is whole only if its last line begins with `{"end"`.
    pub async fn registry_export(&self) -> Result<reqwest::Response, ClientError> {
        self.send(self.without_limit(Method::GET, self.url(&["v1", "registry", "export"]))).await
    }

    /// Looks at the whole registry; `store`: compares it with the store as well, which lists all of it.
    pub async fn registry_verify(&self, store: bool) -> Result<Findings, ClientError> {
        let mut url = self.url(&["v1", "registry", "verify"]);
        url.set_query(store.then_some("store=true"));
        self.json(self.without_limit(Method::GET, url)).await
    }

    /// A request that may take as long as it does.
    fn without_limit(&self, method: Method, url: reqwest::Url) -> reqwest::RequestBuilder {
        let request = self.http.request(method, url);
        match &self.secret {
            Some(secret) => request.bearer_auth(secret),
            None => request,
        }
    }
}
