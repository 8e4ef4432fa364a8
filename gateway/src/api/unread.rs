//! Requests whose body nobody read to its end.
//!
//! Such a connection cannot carry another request: hyper closes it after the answer, without having said
//! so, and a client that keeps connections would send its next request into the closing. So the answer
//! says `connection: close`. And what the client still sends is taken and thrown away for a while: closed
//! with bytes unread, the kernel resets the connection, and the client loses the answer with it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::Response,
};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{runtime::Handle, time::timeout};

/// Most bytes thrown away of one request. Whoever sends more may lose the answer.
const LINGER_BYTES_MAX: usize = 64 << 20;
/// Longest time for that; nginx waits as long for each piece (`lingering_timeout`).
const LINGER_MAX: Duration = Duration::from_secs(5);

/// A request's body, and whether it was read to its end.
#[derive(Debug)]
struct Watched {
    /// `None` once it is being thrown away.
    body: Option<Incoming>,
    read: Arc<AtomicBool>,
}

/// Tells later whether the body was read.
#[derive(Debug)]
pub(super) struct Unread(Option<Arc<AtomicBool>>);

/// `body` for the router, and what has to see the answer.
pub(super) fn watch(body: Incoming) -> (Body, Unread) {
    if body.is_end_stream() {
        return (Body::new(body), Unread(None));
    }
    let read = Arc::new(AtomicBool::new(false));
    (Body::new(Watched { body: Some(body), read: Arc::clone(&read) }), Unread(Some(read)))
}

impl Unread {
    /// Says `connection: close` on the answer to a request that was not read.
    pub(super) fn mark(&self, response: &mut Response) {
        if self.0.as_ref().is_some_and(|read| !read.load(Relaxed)) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None)) || body.is_end_stream() {
            self.read.store(true, Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(hyper::body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(hyper::body::Body::size_hint).unwrap_or_default()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|_| !self.read.load(Relaxed))
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(timeout(LINGER_MAX, throw_away(body)));
        }
    }
}

async fn throw_away(mut body: Incoming) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await
        && bytes < LINGER_BYTES_MAX
    {
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
}
