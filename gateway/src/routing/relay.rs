//! A worker's answer on its way to the client: frame by frame, nothing buffered, nothing parsed.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    BoxError,
    body::{Body, Bytes},
};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::workers::InFlight;
use crate::metrics::Metrics;

/// The body of an answer. If the worker dies or the deadline passes in the middle it ends with an error,
/// and the HTTP server cuts the connection: the client sees an answer without its end, never a short one
/// that looks whole. If the client goes away the body is dropped, and the worker's stream with it.
pub(super) struct Relay {
    inner: Body,
    cut: Pin<Box<Sleep>>,
    metrics: Arc<Metrics>,
    _in_flight: InFlight,
}

impl Relay {
    /// `cut_at`: when to give up on a worker that should have ended by itself.
    pub(super) fn new(inner: Body, cut_at: Instant, in_flight: InFlight, metrics: Arc<Metrics>) -> Self {
        Self { inner, cut: Box::pin(sleep_until(cut_at)), metrics, _in_flight: in_flight }
    }
}

impl http_body::Body for Relay {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Ready(Some(Err(error))) => {
                self.metrics.aborted.inc();
                tracing::warn!(%error, "a worker's answer broke off; the client's connection is cut");
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(other) => Poll::Ready(other.map(|frame| frame.map_err(Into::into))),
            Poll::Pending => {
                std::task::ready!(self.cut.as_mut().poll(context));
                self.metrics.aborted.inc();
                Poll::Ready(Some(Err("the query's deadline passed in the middle of its answer".into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
