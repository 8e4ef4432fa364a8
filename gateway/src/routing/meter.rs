//! Counts an answer at its end: how hot its segment is, and how long the answer took.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use crate::{
    heat::{AnsweredFrom, Heat},
    segment::SegmentId,
};

/// What is being measured; counted when it is dropped, also if the client went away in the middle.
pub(super) struct Meter {
    heat: Arc<Heat>,
    segment: SegmentId,
    from: AnsweredFrom,
    /// Time that the worker took so far; not the client's, who may read slowly.
    took: Duration,
    waiting: Option<Instant>,
}

impl Meter {
    /// `head`: what the worker took to the head of its answer.
    pub(super) fn new(heat: Arc<Heat>, segment: SegmentId, from: AnsweredFrom, head: Duration) -> Self {
        Self { heat, segment, from, took: head, waiting: None }
    }

    fn waited(&mut self) {
        if let Some(since) = self.waiting.take() {
            self.took += since.elapsed();
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.waited();
        self.heat.answered(&self.segment, self.from, self.took.as_secs_f64(), Instant::now().into_std());
    }
}

/// The body of an answer with its meter.
pub(super) struct Metered {
    inner: Body,
    meter: Meter,
}

impl Metered {
    pub(super) fn new(inner: Body, meter: Meter) -> Self {
        Self { inner, meter }
    }
}

impl http_body::Body for Metered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        match &polled {
            Poll::Pending => {
                self.meter.waiting.get_or_insert_with(Instant::now);
            }
            Poll::Ready(_) => self.meter.waited(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
