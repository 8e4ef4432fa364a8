//! A writer of the store at work: a queue, and one task that hands what comes in it to the store.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::timeout,
};

use super::budget::Budget;
use crate::{
    error::{Error, ErrorKind, Result},
    store::Writer,
};

/// Small writes are gathered up to this many bytes. HDFS packets are 64 KiB: calls this large cost the
/// same per byte as larger ones.
pub(super) const CHUNK_BYTES: usize = 1 << 20;

/// A write of this size goes as it is: not worth copying to gather it.
const LARGE_BYTES: usize = 256 << 10;

/// Chunks on their way for one file.
const QUEUE_MAX: usize = 8;

enum Message {
    Data(Bytes, OwnedSemaphorePermit),
    Sync(oneshot::Sender<Result<()>>),
    Close(oneshot::Sender<Result<()>>),
}

/// What is gathered and not queued yet. All that was written before is queued already: whoever adds or
/// queues holds the lock meanwhile.
#[derive(Debug, Default)]
struct Gathered {
    bytes: BytesMut,
    budget: Option<OwnedSemaphorePermit>,
}

impl Gathered {
    /// Permits that `len` more bytes need beside those that are held.
    fn missing(&self, len: usize, budget: &Budget) -> u32 {
        let held = self.budget.as_ref().map_or(0, |held| held.num_permits() as u32);
        budget.permits(self.bytes.len() + len).saturating_sub(held)
    }

    fn add(&mut self, data: &[u8], budget: OwnedSemaphorePermit) {
        self.bytes.extend_from_slice(data);
        match &mut self.budget {
            Some(held) => held.merge(budget),
            None => self.budget = Some(budget),
        }
    }

    fn take(&mut self) -> Option<Message> {
        let budget = self.budget.take()?;
        Some(Message::Data(std::mem::take(&mut self.bytes).freeze(), budget))
    }
}

/// See the module. Writes come from one at a time, who holds the file.
#[derive(Debug)]
pub(super) struct Pipe {
    send: mpsc::Sender<Message>,
    gathered: Arc<Mutex<Gathered>>,
    budget: Budget,
    /// How it ended.
    ended: Arc<OnceLock<Result<()>>>,
}

impl Pipe {
    /// `step`: the longest time that one call of the store may take.
    pub(super) fn start(writer: Box<dyn Writer>, budget: Budget, step: Duration, runtime: &Handle) -> Self {
        let (send, receive) = mpsc::channel(QUEUE_MAX);
        let pipe = Self { send, gathered: Arc::default(), budget, ended: Arc::default() };
        let task = Task {
            receive,
            gathered: pipe.gathered.clone(),
            budget: pipe.budget.clone(),
            ended: pipe.ended.clone(),
            step,
        };
        runtime.spawn(task.run(writer));
        pipe
    }

    /// Takes `data`, waiting for room if there is none.
    pub(super) async fn write(&self, data: Bytes) -> Result<()> {
        // Told now rather than when the queue is full.
        if let Some(error) = self.failed() {
            return Err(error.clone());
        }
        let large = data.len() >= LARGE_BYTES;
        if large || self.gathered.lock().bytes.len() + data.len() > CHUNK_BYTES {
            self.hand_on().await?;
        }
        // Taken together with what is gathered: a permit for each of many small writes would be all of
        // the budget for less than one chunk. The task takes what is gathered only when room is short;
        // then this is too little by the 1 KiB that was begun.
        let missing = self.gathered.lock().missing(data.len(), &self.budget);
        let budget = match self.budget.try_take(missing) {
            Some(budget) => budget,
            None => {
                // Whoever waits for room must not sit on some: it may be all there is.
                self.hand_on().await?;
                self.budget.take(self.budget.permits(data.len())).await?
            }
        };
        if large {
            self.slot().await?.send(Message::Data(data, budget));
        } else {
            self.gathered.lock().add(&data, budget);
        }
        Ok(())
    }

    /// Makes what was written durable.
    pub(super) async fn sync(&self) -> Result<()> {
        self.hand_on().await?;
        self.ask(Message::Sync).await
    }

    /// Finishes the file; also if who asked for it before did not stay for the answer.
    pub(super) async fn close(&self) -> Result<()> {
        let closed = match self.hand_on().await {
            Ok(()) => self.ask(Message::Close).await,
            Err(error) => Err(error),
        };
        self.ended.get().cloned().unwrap_or(closed)
    }

    /// Hands on what is gathered, without waiting.
    pub(super) fn nudge(&self) {
        if self.failed().is_some() {
            self.gathered.lock().take();
        } else if let Ok(slot) = self.send.try_reserve() {
            let mut gathered = self.gathered.lock();
            if let Some(message) = gathered.take() {
                slot.send(message);
            }
        }
    }

    /// Why it ended, if it did before it was closed.
    pub(super) fn failed(&self) -> Option<&Error> {
        self.ended.get()?.as_ref().err()
    }

    /// Whether the file is finished.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.ended.get(), Some(Ok(())))
    }

    async fn hand_on(&self) -> Result<()> {
        if self.gathered.lock().budget.is_none() {
            return Ok(());
        }
        let slot = self.slot().await?;
        let mut gathered = self.gathered.lock();
        if let Some(message) = gathered.take() {
            slot.send(message);
        }
        Ok(())
    }

    fn failure(&self) -> Error {
        let gave_up = || Error::new(ErrorKind::Other, "the writer ended early");
        self.failed().cloned().unwrap_or_else(gave_up)
    }

    async fn slot(&self) -> Result<mpsc::Permit<'_, Message>> {
        self.send.reserve().await.map_err(|_| self.failure())
    }

    async fn ask(&self, message: impl FnOnce(oneshot::Sender<Result<()>>) -> Message) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.slot().await?.send(message(reply));
        answer.await.map_err(|_| self.failure())?
    }
}

struct Task {
    receive: mpsc::Receiver<Message>,
    gathered: Arc<Mutex<Gathered>>,
    budget: Budget,
    ended: Arc<OnceLock<Result<()>>>,
    step: Duration,
}

impl Task {
    async fn run(mut self, mut writer: Box<dyn Writer>) {
        while let Some(message) = self.next().await {
            let failed = match message {
                Message::Data(data, budget) => {
                    let written = within(self.step, writer.write(data)).await;
                    drop(budget);
                    written.err()
                }
                Message::Sync(reply) => {
                    let synced = within(self.step, writer.sync()).await;
                    // What cannot be synchronised in this store can still be written.
                    let failed = synced.as_ref().err().filter(|e| e.kind() != ErrorKind::Unsupported);
                    let failed = failed.cloned();
                    let _ = reply.send(synced);
                    failed
                }
                Message::Close(reply) => {
                    let closed = within(self.step, writer.close()).await;
                    let _ = self.ended.set(closed.clone());
                    let _ = reply.send(closed);
                    return;
                }
            };
            if let Some(error) = failed {
                // Nobody knows where the file ends now. Who sends meets a closed queue.
                let _ = self.ended.set(Err(error));
                // Others need the room.
                self.gathered.lock().take();
                return;
            }
        }
    }

    /// What comes next; where room is short, what is gathered, although more might come to it.
    async fn next(&mut self) -> Option<Message> {
        loop {
            let shortage = self.budget.shortage();
            tokio::pin!(shortage);
            shortage.as_mut().enable();
            if self.budget.is_short() {
                let mut gathered = self.gathered.lock();
                if self.receive.is_empty()
                    && let Some(message) = gathered.take()
                {
                    return Some(message);
                }
            }
            tokio::select! {
                message = self.receive.recv() => return message,
                () = shortage => {}
            }
        }
    }
}

async fn within<T>(step: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(Error::new(ErrorKind::TimedOut, format!("a write was not done within {step:?}")));
    timeout(step, work).await.unwrap_or_else(late)
}
