//! Leases of workers.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Json,
    body::Body,
    extract::{
        Path, Query as UrlQuery, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{Request, StatusCode},
};
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use super::{
    auth,
    client::{ClientError, Registrar},
    error::{ApiError, ErrorCode},
    hot::{Assignment, Manifest, ManifestAnswer},
    segments::{bad_request, read_body},
    types::{LeaseAnswer, LeaseRequest, WorkerList},
};
use crate::gateway::Core;

const BODY_BYTES_MAX: usize = 64 << 10;
const BODY_TIME_MAX: Duration = Duration::from_secs(10);
const NAME_BYTES_MAX: usize = 100;
const TEXT_BYTES_MAX: usize = 64;
const WEIGHT_MAX: u32 = 1_000;

/// `GET /v1/workers`
pub(super) async fn list(State(core): State<Arc<Core>>) -> Json<WorkerList> {
    Json(WorkerList { workers: core.routing.workers.infos(Instant::now().into_std()) })
}

/// `PUT /v1/workers/{name}`
pub(super) async fn renew(
    State(core): State<Arc<Core>>,
    name: Result<Path<String>, PathRejection>,
    request: Request<Body>,
) -> Result<Json<LeaseAnswer>, ApiError> {
    let (parts, body) = request.into_parts();
    auth::check(core.settings.secret.as_deref(), &parts)?;
    let Path(name) = name.map_err(|e| bad_request(e.body_text()))?;
    let body = read_body(body, BODY_BYTES_MAX, Instant::now() + BODY_TIME_MAX).await?;
    let request = serde_json::from_slice(&body).map_err(|e| bad_request(format!("lease request: {e}")))?;
    core.renew(&name, request).map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReleaseParams {
    epoch: u64,
}

/// `DELETE /v1/workers/{name}?epoch=`
pub(super) async fn release(
    State(core): State<Arc<Core>>,
    name: Result<Path<String>, PathRejection>,
    params: Result<UrlQuery<ReleaseParams>, QueryRejection>,
    request: Request<Body>,
) -> Result<StatusCode, ApiError> {
    auth::check(core.settings.secret.as_deref(), &request.into_parts().0)?;
    let Path(name) = name.map_err(|e| bad_request(e.body_text()))?;
    let UrlQuery(params) = params.map_err(|e| bad_request(e.body_text()))?;
    core.release(&name, params.epoch)?;
    Ok(StatusCode::NO_CONTENT)
}

impl Core {
    pub(crate) fn renew(&self, name: &str, request: LeaseRequest) -> Result<LeaseAnswer, ApiError> {
        self.check_lease(name, &request)?;
        let workers = &self.routing.workers;
        let (url, epoch, is_hot) = (request.url.clone(), request.epoch, request.hot.is_some());
        match workers.renew(name, request, Instant::now().into_std()) {
            Ok(taken) => {
                let (assignment_version, manifest_version) = if is_hot {
                    let (assignment, manifest) = self.routing.copies.beat(name, epoch);
                    (Some(assignment), manifest)
                } else {
                    (None, None)
                };
                self.metrics.leases.with_label_values(&[if taken { "taken" } else { "renewed" }]).inc();
                if taken {
                    tracing::info!(worker = name, epoch, url, "worker has a lease");
                }
                let ttl_ms = u64::try_from(workers.ttl().as_millis()).unwrap_or(u64::MAX);
                Ok(LeaseAnswer { ttl_ms, gateway_epoch: self.epoch, assignment_version, manifest_version })
            }
            Err(refusal) => Err(self.refuse(&refusal)),
        }
    }

    pub(crate) fn release(&self, name: &str, epoch: u64) -> Result<(), ApiError> {
        self.routing
            .workers
            .release(name, epoch, Instant::now().into_std())
            .map_err(|refusal| self.refuse(&refusal))?;
        self.metrics.leases.with_label_values(&["released"]).inc();
        tracing::info!(worker = name, epoch, "worker gave its lease up");
        Ok(())
    }

    fn refuse(&self, reason: &dyn std::fmt::Display) -> ApiError {
        self.metrics.leases.with_label_values(&["refused"]).inc();
        ApiError::new(ErrorCode::Conflict, reason.to_string())
    }

    fn check_lease(&self, name: &str, request: &LeaseRequest) -> Result<(), ApiError> {
        check_name(name)?;
        if !(1..=WEIGHT_MAX).contains(&request.weight) {
            return Err(bad_request(format!("weight must be 1 to {WEIGHT_MAX}")));
        }
        if request.access.len() > TEXT_BYTES_MAX || request.version.len() > TEXT_BYTES_MAX {
            return Err(bad_request(format!("access and version have at most {TEXT_BYTES_MAX} bytes")));
        }
        if request.store != self.store_url {
            return Err(self.refuse(&format!(
                "worker {name} reads the store {}, this gateway serves {}: configure the same URL",
                request.store, self.store_url
            )));
        }
        // A worker in this process is not reached by URL.
        let good_url = self.routing.workers.is_local(name)
            || Url::parse(&request.url).is_ok_and(|url| {
                url.scheme() == "http" && url.host().is_some() && url.query().is_none() && url.path() == "/"
            });
        if !good_url {
            return Err(bad_request(format!("worker URL {:?}: expected http://host:port", request.url)));
        }
        Ok(())
    }
}

pub(super) fn check_name(name: &str) -> Result<(), ApiError> {
    let good = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if good {
        Ok(())
    } else {
        Err(bad_request(format!(
            "worker name {name:?}: 1 to {NAME_BYTES_MAX} characters of A-Z a-z 0-9 . _ -"
        )))
    }
}

/// Leases of workers in this process: no secret, no HTTP.
pub(crate) struct LocalRegistrar(pub(crate) Arc<Core>);

#[async_trait]
impl Registrar for LocalRegistrar {
    async fn renew(&self, name: &str, request: &LeaseRequest) -> Result<LeaseAnswer, ClientError> {
        self.0.renew(name, request.clone()).map_err(ClientError::Refused)
    }

    async fn release(&self, name: &str, epoch: u64) -> Result<(), ClientError> {
        self.0.release(name, epoch).map_err(ClientError::Refused)
    }

    async fn manifest(&self, name: &str, manifest: &Manifest) -> Result<ManifestAnswer, ClientError> {
        self.0.publish(name, manifest).await.map_err(ClientError::Refused)
    }

    async fn assignment(
        &self,
        name: &str,
        epoch: u64,
        since: Option<u64>,
    ) -> Result<Assignment, ClientError> {
        self.0.assignment(name, epoch, since).map_err(ClientError::Refused)
    }
}
