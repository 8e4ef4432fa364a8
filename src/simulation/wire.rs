//! Messages between gateway and workers.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::Request,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::Response,
};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use springhouse_gateway::{
    api::{
        client::{ClientError, Registrar},
        hot::{Assignment, Manifest, ManifestAnswer},
        types::{LeaseAnswer, LeaseRequest},
    },
    testing::Lost,
};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use tower::ServiceExt;
use xxhash_rust::xxh3::xxh3_64;

use super::net::{Fate, Leg, Net, Place, Process};

/// How long a worker waits for the gateway.
const CALL_MAX: Duration = Duration::from_secs(10);

/// Who answers at a place now, if anybody does.
pub(super) struct Slot<T>(Mutex<Option<(T, Arc<Process>)>>);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> Slot<T> {
    pub(super) fn set(&self, now: Option<(T, Arc<Process>)>) {
        *self.0.lock() = now;
    }

    /// The one that lives.
    pub(super) fn get(&self) -> Option<(T, Arc<Process>)> {
        self.0.lock().clone().filter(|(_, process)| !process.is_dead())
    }
}

#[derive(Clone)]
struct Message {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Message {
    fn text(&self) -> String {
        // Which of several at once it is; manifests and the like are not told apart.
        format!("{} {} {:08x}", self.method, self.uri, xxh3_64(&self.body) as u32)
    }

    fn request(self) -> Request {
        let mut request = Request::new(Body::from(self.body));
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) =
            (self.method, self.uri, self.headers);
        request
    }
}

/// The way from one gateway to a worker, as a service in the gateway's process.
pub(super) fn way_to_worker(
    net: Arc<Net>,
    gateway: Arc<Process>,
    worker: usize,
    slot: Arc<Slot<Router>>,
) -> Router {
    Router::new().fallback(move |request: Request| {
        let (net, gateway, slot) = (Arc::clone(&net), Arc::clone(&gateway), Arc::clone(&slot));
        async move {
            gateway.speaks().await;
            let (parts, body) = request.into_parts();
            let Ok(body) = to_bytes(body, usize::MAX).await else {
                return lost(Lost::Broken("its body".into()));
            };
            let message = Message { method: parts.method, uri: parts.uri, headers: parts.headers, body };
            let (send, answer) = oneshot::channel();
            tokio::spawn(carry(net, worker, slot, message, send));
            let answer = answer.await;
            gateway.lives().await;
            match answer {
                Ok(response) => response,
                Err(_) => std::future::pending().await, // lost: only a deadline ends it
            }
        }
    })
}

fn lost(how: Lost) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response.extensions_mut().insert(how);
    response
}

async fn carry(
    net: Arc<Net>,
    worker: usize,
    slot: Arc<Slot<Router>>,
    message: Message,
    send: oneshot::Sender<Response>,
) {
    let (text, place) = (message.text(), Place::Worker(worker));
    match net.pass(Place::Gateway, place, Leg::Request, &text).await {
        Fate::Break => {
            let _ = send.send(lost(Lost::Unreachable("connection refused".into())));
            return;
        }
        Fate::Lose | Fate::After => return keep(send).await,
        Fate::Late(ms) => sleep(Duration::from_millis(ms)).await,
        Fate::Twice(ms) => {
            let (slot, message, net, text) =
                (Arc::clone(&slot), message.clone(), Arc::clone(&net), text.clone());
            tokio::spawn(async move {
                sleep(Duration::from_millis(ms)).await;
                net.trace.note(format!("again: {place} {text}"));
                deliver(&slot, message).await;
            });
        }
        Fate::Pass => {}
    }
    let answer = match deliver(&slot, message).await {
        Some(answer) => answer,
        None => lost(Lost::Unreachable("connection refused".into())),
    };
    if answer.extensions().get::<Lost>().is_some() {
        let _ = send.send(answer);
        return;
    }
    match net.pass(place, Place::Gateway, Leg::Answer, &format!("{} to {text}", answer.status())).await {
        Fate::Break => {
            let _ = send.send(lost(Lost::Broken("connection reset".into())));
        }
        Fate::Pass => {
            let _ = send.send(answer); // it may have given up
        }
        _ => keep(send).await,
    }
}

/// Nothing is heard for longer than anybody waits.
async fn keep<T>(send: oneshot::Sender<T>) {
    sleep(Duration::from_secs(4 * 3600)).await;
    drop(send);
}

/// The whole answer; `None`: nobody is there.
async fn deliver(slot: &Slot<Router>, message: Message) -> Option<Response> {
    let (router, process) = slot.get()?;
    let answered = async {
        let Ok(response) = router.oneshot(message.request()).await;
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.ok()?;
        Some(Response::from_parts(parts, Body::from(bytes)))
    };
    let answer = tokio::select! {
        biased;
        () = process.death() => None,
        answer = answered => answer,
    };
    Some(answer.unwrap_or_else(|| lost(Lost::Broken("connection reset".into()))))
}

/// The way from one worker to the gateway.
pub(super) struct WayToGateway {
    pub(super) net: Arc<Net>,
    pub(super) process: Arc<Process>,
    pub(super) slot: Arc<Slot<Arc<dyn Registrar>>>,
}

type Asked<T> = Arc<dyn Fn(Arc<dyn Registrar>) -> BoxFuture<'static, Result<T, ClientError>> + Send + Sync>;

fn unreachable(reason: &str) -> ClientError {
    ClientError::Unreachable { url: "http://gateway".into(), reason: reason.into() }
}

impl WayToGateway {
    async fn ask<T: Send + 'static>(&self, text: String, asked: Asked<T>) -> Result<T, ClientError> {
        self.process.speaks().await;
        let (send, answer) = oneshot::channel();
        let (net, place, slot) = (Arc::clone(&self.net), self.process.place, Arc::clone(&self.slot));
        tokio::spawn(async move {
            match net.pass(place, Place::Gateway, Leg::Request, &text).await {
                Fate::Break => {
                    let _ = send.send(Err(unreachable("connection refused")));
                    return;
                }
                Fate::Lose | Fate::After => return keep(send).await,
                Fate::Late(ms) => sleep(Duration::from_millis(ms)).await,
                Fate::Twice(ms) => {
                    let (slot, asked) = (Arc::clone(&slot), Arc::clone(&asked));
                    tokio::spawn(async move {
                        sleep(Duration::from_millis(ms)).await;
                        if let Some((gateway, _)) = slot.get() {
                            let _ = asked(gateway).await; // its answer was given before
                        }
                    });
                }
                Fate::Pass => {}
            }
            let Some((gateway, process)) = slot.get() else {
                let _ = send.send(Err(unreachable("connection refused")));
                return;
            };
            let answer = tokio::select! {
                biased;
                () = process.death() => Err(unreachable("connection reset")),
                answer = asked(gateway) => answer,
            };
            match net.pass(Place::Gateway, place, Leg::Answer, &format!("{} {text}", answer.is_ok())).await {
                Fate::Pass => {
                    let _ = send.send(answer);
                }
                Fate::Break => {
                    let _ = send.send(Err(unreachable("connection reset")));
                }
                _ => keep(send).await,
            }
        });
        let answer = timeout(CALL_MAX, answer).await;
        self.process.lives().await;
        match answer {
            Ok(Ok(answer)) => answer,
            _ => Err(unreachable("no answer in time")),
        }
    }
}

#[async_trait]
impl Registrar for WayToGateway {
    async fn renew(&self, name: &str, request: &LeaseRequest) -> Result<LeaseAnswer, ClientError> {
        let (name, request) = (name.to_owned(), request.clone());
        self.ask(
            "beat".into(),
            Arc::new(move |gateway| {
                let (name, request) = (name.clone(), request.clone());
                Box::pin(async move { gateway.renew(&name, &request).await })
            }),
        )
        .await
    }

    async fn release(&self, name: &str, epoch: u64) -> Result<(), ClientError> {
        let name = name.to_owned();
        self.ask(
            "goodbye".into(),
            Arc::new(move |gateway| {
                let name = name.clone();
                Box::pin(async move { gateway.release(&name, epoch).await })
            }),
        )
        .await
    }

    async fn manifest(&self, name: &str, manifest: &Manifest) -> Result<ManifestAnswer, ClientError> {
        let (name, manifest) = (name.to_owned(), manifest.clone());
        self.ask(
            format!("manifest {}", manifest.version),
            Arc::new(move |gateway| {
                let (name, manifest) = (name.clone(), manifest.clone());
                Box::pin(async move { gateway.manifest(&name, &manifest).await })
            }),
        )
        .await
    }

    async fn assignment(
        &self,
        name: &str,
        epoch: u64,
        since: Option<u64>,
    ) -> Result<Assignment, ClientError> {
        let name = name.to_owned();
        self.ask(
            "assignment".into(),
            Arc::new(move |gateway| {
                let name = name.clone();
                Box::pin(async move { gateway.assignment(&name, epoch, since).await })
            }),
        )
        .await
    }
}
