//! An answer on its way from a SQLite thread to the client.
//!
//! The SQLite thread sends chunks of whole rows through a short queue: a slow client holds it up, but
//! not beyond the query's deadline. A small answer needs no queue; it arrives whole.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::Stream;
use springhouse_fuse::store::Generation;
use springhouse_gateway::api::error::{ApiError, ErrorCode};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use super::{
    control::{CancelOnDrop, Control, Stop},
    encode::{Format, failure_tail},
    errors,
};

/// Chunks between the SQLite thread and the client; a big one fills the queue alone.
const CHUNKS_MAX: usize = 4;
/// A chunk of more bytes is big: a row of great values. They would not all have room in memory.
const BIG_BYTES: usize = 1 << 20;
/// How long after the deadline the SQLite thread's own words are waited for; it may be stuck in a read.
pub(super) const GRACE: Duration = Duration::from_millis(500);

/// The beginning of an answer and the way to its rest. Dropping it cancels the query.
#[derive(Debug)]
pub struct Answer {
    /// What every row comes from.
    pub generation: Generation,
    first: Bytes,
    rest: Option<Rest>,
}

#[derive(Debug)]
struct Rest {
    chunks: mpsc::Receiver<Chunk>,
    format: Format,
    cancel: CancelOnDrop,
}

#[derive(Debug)]
enum Chunk {
    More(Bytes),
    Last(Bytes),
}

/// What the SQLite thread sends first.
#[derive(Debug)]
pub(super) struct Head {
    generation: Generation,
    first: Bytes,
    rest: Option<mpsc::Receiver<Chunk>>,
}

impl Answer {
    pub(super) fn new(head: Head, format: Format, cancel: CancelOnDrop) -> Self {
        let rest = head.rest.map(|chunks| Rest { chunks, format, cancel });
        Self { generation: head.generation, first: head.first, rest }
    }

    /// The whole answer, if it is here already.
    pub fn whole(&self) -> Option<Bytes> {
        self.rest.is_none().then(|| self.first.clone())
    }

    /// All chunks in order. It always ends with an end mark or an error in its place.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
        futures::stream::unfold((Some(self.first), self.rest), |(first, rest)| async {
            if let Some(first) = first {
                return Some((Ok(first), (None, rest)));
            }
            let mut rest = rest?;
            match rest.next().await {
                Chunk::More(bytes) => Some((Ok(bytes), (None, Some(rest)))),
                Chunk::Last(bytes) => Some((Ok(bytes), (None, None))),
            }
        })
    }
}

impl Rest {
    async fn next(&mut self) -> Chunk {
        let deadline = self.cancel.0.deadline();
        let error = match tokio::time::timeout_at((deadline + GRACE).into(), self.chunks.recv()).await {
            Ok(Some(chunk)) => return chunk,
            Ok(None) if crate::clock::now() < deadline => {
                ApiError::new(ErrorCode::Internal, "the query ended without an end")
            }
            Ok(None) | Err(_) => errors::stopped(Stop::Deadline),
        };
        // Chunks hold whole rows, so the answer can be closed after any of them.
        Chunk::Last(failure_tail(self.format, &error).into())
    }
}

/// The SQLite thread's end.
#[derive(Debug)]
pub(super) struct Sender {
    state: State,
    /// What every row comes from.
    generation: Generation,
    control: Arc<Control>,
    runtime: Handle,
}

#[derive(Debug)]
enum State {
    Waiting(oneshot::Sender<Result<Head, ApiError>>),
    Streaming(mpsc::Sender<Chunk>),
    Done,
}

impl Sender {
    pub(super) fn new(
        reply: oneshot::Sender<Result<Head, ApiError>>,
        control: Arc<Control>,
        runtime: Handle,
    ) -> Self {
        Self { state: State::Waiting(reply), generation: Generation([0; 16]), control, runtime }
    }

    /// Says what the rows come from; before the first of them.
    pub(super) fn name(&mut self, generation: Generation) {
        self.generation = generation;
    }

    /// Fails the query before its first row.
    pub(super) fn refuse(&mut self, error: ApiError) {
        if let State::Waiting(reply) = std::mem::replace(&mut self.state, State::Done) {
            let _ = reply.send(Err(error)); // nobody may be there any more
        }
    }

    /// Sends a chunk; more will follow. An error: nobody reads it, or not in time.
    pub(super) fn send(&mut self, bytes: Bytes) -> Result<(), ErrorCode> {
        let generation = self.generation;
        match std::mem::replace(&mut self.state, State::Done) {
            State::Waiting(reply) => {
                let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
                let head = Head { generation, first: bytes, rest: Some(receiver) };
                reply.send(Ok(head)).map_err(|_| ErrorCode::WorkerLost)?;
                self.state = State::Streaming(sender);
            }
            State::Streaming(sender) => {
                self.push(&sender, Chunk::More(bytes))?;
                self.state = State::Streaming(sender);
            }
            State::Done => return Err(ErrorCode::WorkerLost),
        }
        Ok(())
    }

    /// Sends the last chunk, if somebody still reads.
    pub(super) fn finish(&mut self, bytes: Bytes) {
        let generation = self.generation;
        match std::mem::replace(&mut self.state, State::Done) {
            State::Waiting(reply) => {
                let _ = reply.send(Ok(Head { generation, first: bytes, rest: None }));
            }
            State::Streaming(sender) => {
                // Not in time or nobody there: the reader's side closes the answer by itself.
                let _ = self.push(&sender, Chunk::Last(bytes));
            }
            State::Done => {}
        }
    }

    fn push(&self, sender: &mpsc::Sender<Chunk>, chunk: Chunk) -> Result<(), ErrorCode> {
        let (Chunk::More(bytes) | Chunk::Last(bytes)) = &chunk;
        let slots = if bytes.len() > BIG_BYTES { CHUNKS_MAX } else { 1 };
        let permit = match sender.try_reserve_many(slots) {
            Ok(mut permits) => permits.next(),
            Err(mpsc::error::TrySendError::Closed(())) => None,
            Err(mpsc::error::TrySendError::Full(())) => {
                // The client is slower than SQLite. Not on a runtime's thread: this is a SQLite thread.
                let room = self.runtime.block_on(async {
                    tokio::time::timeout_at(self.control.deadline().into(), sender.reserve_many(slots)).await
                });
                match room {
                    Ok(permits) => permits.ok().and_then(|mut permits| permits.next()),
                    Err(_) => return Err(ErrorCode::DeadlineExceeded),
                }
            }
        };
        permit.map(|permit| permit.send(chunk)).ok_or(ErrorCode::WorkerLost)
    }
}
