//! Asking one worker, over HTTP or in this process.

use std::pin::pin;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, Request, Uri, header, response::Parts},
};
use tokio::time::{Instant, timeout_at};
use tower::ServiceExt;

use super::{
    DEADLINE_GRACE, Query, Routing,
    workers::{Endpoint, InFlight, Worker},
};
use crate::{
    api::{
        client::reason_of,
        types::{DEADLINE_HEADER, EXPECTED_GENERATION_HEADER, PATH_HEADER},
    },
    registry::catalog::Located,
};

/// What came of asking one worker.
pub(super) enum Attempt {
    Answer(Parts, Body, InFlight),
    /// No connection.
    Unreachable(String),
    /// Connection or lease lost before the head of an answer.
    Lost(String),
    TimedOut,
}

impl Routing {
    /// Sends the query to `worker`; `path` is the segment's.
    pub(super) async fn attempt(
        &self,
        worker: &Worker,
        query: &Query,
        located: &Located,
        path: &HeaderValue,
    ) -> Attempt {
        let in_flight = worker.begin();
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for accept in &query.accept {
            headers.append(header::ACCEPT, accept.clone());
        }
        headers.insert(PATH_HEADER, path.clone());
        if let Ok(generation) = HeaderValue::try_from(located.facts.generation.to_string()) {
            headers.insert(EXPECTED_GENERATION_HEADER, generation);
        }
        let left = query.deadline.saturating_duration_since(Instant::now());
        headers
            .insert(DEADLINE_HEADER, HeaderValue::from(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)));
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        let mut sent = pin!(self.send(&worker.endpoint, query, headers));
        let over = query.deadline + DEADLINE_GRACE;
        let mut lease_end = Some(worker.live_until);
        loop {
            let until = lease_end.map_or(over, |end| over.min(Instant::from_std(end)));
            match timeout_at(until, &mut sent).await {
                Ok(Ok((parts, body))) => return Attempt::Answer(parts, body, in_flight),
                Ok(Err(failed)) => return failed,
                Err(_) if until == over => return Attempt::TimedOut,
                // A worker that was stopped takes connections, and says nothing: dead as soon as its
                // lease is, though the deadline may be far away.
                Err(_) => {
                    lease_end = self.workers.lease_end(&worker.name);
                    if lease_end.is_some_and(|end| end <= Instant::now().into_std()) {
                        return Attempt::Lost("its lease ran out before its answer".into());
                    }
                }
            }
        }
    }

    async fn send(
        &self,
        endpoint: &Endpoint,
        query: &Query,
        headers: HeaderMap,
    ) -> Result<(Parts, Body), Attempt> {
        let path = format!("/v1/segments/{}/query", query.segment);
        match endpoint {
            Endpoint::Http(base) => {
                let request =
                    self.http.post(format!("{base}{path}")).headers(headers).body(query.body.clone());
                let response = request.send().await.map_err(|error| {
                    let reason = reason_of(&error);
                    if error.is_connect() { Attempt::Unreachable(reason) } else { Attempt::Lost(reason) }
                })?;
                let (parts, body) = axum::http::Response::from(response).into_parts();
                Ok((parts, Body::new(body)))
            }
            Endpoint::InProcess(router) => {
                let mut request = Request::new(Body::from(query.body.clone()));
                *request.method_mut() = Method::POST;
                *request.uri_mut() =
                    Uri::try_from(path).map_err(|error| Attempt::Unreachable(error.to_string()))?;
                *request.headers_mut() = headers;
                let Ok(response) = router.clone().oneshot(request).await;
                Ok(response.into_parts())
            }
        }
    }
}
