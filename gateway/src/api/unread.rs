//! Requests whose body nobody read to its end.
//!
//! Such a connection cannot carry another request: hyper closes it after the answer, without having said
//! so, and a client that keeps connections would send its next request into the closing. So the answer
//! says `connection: close`.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::Response,
};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

/// A request's body, and whether it was read to its end.
#[derive(Debug)]
struct Watched {
    body: Incoming,
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
    (Body::new(Watched { body, read: Arc::clone(&read) }), Unread(Some(read)))
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
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.read.store(true, Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
