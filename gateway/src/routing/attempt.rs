//! Asking one worker, over HTTP or in this process.

use std::{pin::pin, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Method, Request, Uri, header, response::Parts},
};
use tokio::time::{Instant, timeout_at};
use tower::ServiceExt;

use super::{
    Routing,
    workers::{Endpoint, InFlight, Worker},
};
use crate::api::{client::reason_of, types::DEADLINE_HEADER};

/// The worker ends a request at its deadline and says why; only if it does not, the gateway cuts in.
pub(super) const DEADLINE_GRACE: Duration = Duration::from_secs(1);

/// One request to a worker.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Its method.
    pub(crate) method: Method,
    /// Path on the worker.
    pub(crate) path: String,
    /// Headers; deadline and cluster secret are added.
    pub(crate) headers: HeaderMap,
    /// Body.
    pub(crate) body: Bytes,
    /// When it has to be over.
    pub(crate) deadline: Instant,
}

/// What came of asking one worker.
pub(crate) enum Attempt {
    /// The head of an answer, and its body.
    Answer(Parts, Body, InFlight),
    /// No connection: nothing was sent.
    Unreachable(String),
    /// Connection or lease lost before the head of an answer: nobody knows what was done.
    Lost(String),
    /// The deadline passed before.
    TimedOut,
}

impl Routing {
    /// Sends `call` to `worker` and waits for the head of its answer as long as the worker lives.
    pub(crate) async fn call(&self, worker: &Worker, mut call: Call) -> Attempt {
        let in_flight = worker.begin();
        let left = call.deadline.saturating_duration_since(Instant::now());
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        call.headers.insert(DEADLINE_HEADER, HeaderValue::from(left_ms));
        if let Some(authorization) = &self.authorization {
            call.headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        let over = call.deadline + DEADLINE_GRACE;
        let mut sent = pin!(self.send(&worker.endpoint, call));
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

    async fn send(&self, endpoint: &Endpoint, call: Call) -> Result<(Parts, Body), Attempt> {
        let Call { method, path, headers, body, .. } = call;
        match endpoint {
            Endpoint::Http(base) => {
                let url = format!("{base}{path}");
                let request = self.http.request(method, url).headers(headers).body(body);
                let response = request.send().await.map_err(|error| {
                    let reason = reason_of(&error);
                    if error.is_connect() { Attempt::Unreachable(reason) } else { Attempt::Lost(reason) }
                })?;
                let (parts, body) = axum::http::Response::from(response).into_parts();
                Ok((parts, Body::new(body)))
            }
            Endpoint::InProcess(router) => {
                let mut request = Request::new(Body::from(body));
                *request.method_mut() = method;
                *request.uri_mut() =
                    Uri::try_from(path).map_err(|error| Attempt::Unreachable(error.to_string()))?;
                *request.headers_mut() = headers;
                let Ok(response) = router.clone().oneshot(request).await;
                #[cfg(any(test, feature = "testing"))]
                match response.extensions().get::<crate::testing::Lost>() {
                    None => {}
                    Some(crate::testing::Lost::Unreachable(reason)) => {
                        return Err(Attempt::Unreachable(reason.clone()));
                    }
                    Some(crate::testing::Lost::Broken(reason)) => return Err(Attempt::Lost(reason.clone())),
                }
                Ok(response.into_parts())
            }
        }
    }
}
