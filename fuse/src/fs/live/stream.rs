//! Sequential writes that go straight to the store.
//!
//! Writes are gathered into chunks and queued; one task for each file hands them to the store. A write is
//! acknowledged when it is queued, a failure is told at the next write, fsync or close. The queue of a
//! file is bounded by its length, those of all files together by a budget: who writes faster than the
//! store waits.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex as SyncMutex;
use tokio::{
    runtime::Handle,
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::{timeout, timeout_at},
};

use super::{At, Shared, Sink};
use crate::{
    error::{Error, ErrorKind, Result},
    store::{CreateOptions, Metadata, Writer},
};

/// Small writes are gathered up to this many bytes; one this large goes as it is, without being copied.
/// HDFS packets are 64 KiB: calls this large cost the same per byte as larger ones.
const CHUNK_BYTES: usize = 1 << 20;

/// A write of this size is not worth copying to gather it.
const LARGE_BYTES: usize = 256 << 10;

/// Chunks on their way for one file.
const QUEUE_MAX: usize = 8;

/// How long a direct write waits for the part before it.
const PART_WAIT: Duration = Duration::from_secs(2);

/// Bytes that all files together may have on their way, in permits of 1 KiB.
#[derive(Debug, Clone)]
pub(in crate::fs) struct Budget(Arc<Semaphore>, u32);

impl Budget {
    pub(in crate::fs) fn new(bytes: u64) -> Self {
        let permits = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).max((CHUNK_BYTES >> 10) as u32);
        Self(Arc::new(Semaphore::new(permits as usize)), permits)
    }

    pub(in crate::fs) async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(self.1);
        let taken = self.0.clone().acquire_many_owned(permits).await;
        taken.map_err(|_| Error::new(ErrorKind::Other, "the budget of writes is closed"))
    }

    /// Bytes that may be on their way, and that are.
    pub(in crate::fs) fn figures(&self) -> (u64, u64) {
        let max = u64::from(self.1) << 10;
        (max, max.saturating_sub((self.0.available_permits() as u64) << 10))
    }
}

enum Message {
    Data(Bytes, OwnedSemaphorePermit),
    Sync(oneshot::Sender<Result<()>>),
    Close(oneshot::Sender<Result<()>>),
}

/// A writer of the store at work.
#[derive(Debug)]
struct Pipe {
    send: mpsc::Sender<Message>,
    /// How it ended.
    ended: Arc<OnceLock<Result<()>>>,
}

impl Pipe {
    fn start(mut writer: Box<dyn Writer>, step: Duration, runtime: &Handle) -> Self {
        let (send, mut receive) = mpsc::channel(QUEUE_MAX);
        let ended: Arc<OnceLock<Result<()>>> = Arc::default();
        let outcome = ended.clone();
        runtime.spawn(async move {
            while let Some(message) = receive.recv().await {
                let failed = match message {
                    Message::Data(data, budget) => {
                        let written = within(step, writer.write(data)).await;
                        drop(budget);
                        written.err()
                    }
                    Message::Sync(reply) => {
                        let synced = within(step, writer.sync()).await;
                        // What cannot be synchronised in this store can still be written.
                        let failed = synced.as_ref().err().filter(|e| e.kind() != ErrorKind::Unsupported);
                        let failed = failed.cloned();
                        let _ = reply.send(synced);
                        failed
                    }
                    Message::Close(reply) => {
                        let closed = within(step, writer.close()).await;
                        let _ = outcome.set(closed.clone());
                        let _ = reply.send(closed);
                        return;
                    }
                };
                if let Some(error) = failed {
                    // Nobody knows where the file ends now. Who sends meets a closed queue.
                    let _ = outcome.set(Err(error));
                    return;
                }
            }
        });
        Self { send, ended }
    }

    fn failed(&self) -> Option<&Error> {
        self.ended.get()?.as_ref().err()
    }

    fn failure(&self) -> Error {
        let gave_up = || Error::new(ErrorKind::Other, "the writer ended early");
        self.failed().cloned().unwrap_or_else(gave_up)
    }

    /// Finishes the file; also if who asked for it before did not stay for the answer.
    async fn close(&self) -> Result<()> {
        let closed = self.ask(Message::Close).await;
        self.ended.get().cloned().unwrap_or(closed)
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

async fn within<T>(step: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(Error::new(ErrorKind::TimedOut, format!("a write was not done within {step:?}")));
    timeout(step, work).await.unwrap_or_else(late)
}

/// What is gathered and not queued yet.
#[derive(Debug, Default)]
struct Gathered {
    bytes: BytesMut,
    budget: Option<OwnedSemaphorePermit>,
}

impl Gathered {
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

#[derive(Debug)]
struct Core {
    pipe: Option<Pipe>,
    failed: Option<Error>,
    /// Whether the store has what was written, and its metadata is known.
    clean: bool,
    /// Whether it was to be cut to nothing, and had nothing: so nothing of it is to be kept.
    empty: bool,
}

/// See the module.
#[derive(Debug)]
pub(in crate::fs) struct Stream {
    runtime: Handle,
    step: Duration,
    budget: Budget,
    /// How the file is made anew.
    options: CreateOptions,
    /// Whoever holds it is the one who changes something.
    core: Mutex<Core>,
    gathered: Arc<SyncMutex<Gathered>>,
    clean: AtomicBool,
    /// Where the next byte goes.
    end: watch::Sender<u64>,
    warned: AtomicBool,
}

impl Stream {
    /// Of a file with `len` bytes that nobody writes yet, or, with `writer`, of a new one. `step` is the
    /// longest time that one call of the store may take.
    pub(in crate::fs) fn new(
        writer: Option<Box<dyn Writer>>,
        len: u64,
        options: CreateOptions,
        budget: Budget,
        step: Duration,
        runtime: Handle,
    ) -> Self {
        let pipe = writer.map(|writer| Pipe::start(writer, step, &runtime));
        let clean = pipe.is_none();
        Self {
            runtime,
            step,
            budget,
            options,
            core: Mutex::new(Core { pipe, failed: None, clean, empty: false }),
            gathered: Arc::default(),
            clean: AtomicBool::new(clean),
            end: watch::Sender::new(len),
            warned: AtomicBool::new(false),
        }
    }

    fn end(&self) -> u64 {
        *self.end.borrow()
    }

    fn not_sequential(&self, file: &Shared, offset: u64) -> Error {
        let path = file.path();
        if !self.warned.swap(true, SeqCst) {
            tracing::warn!(
                %path, offset, end = self.end(),
                "refused: a write that does not follow the one before; mount with --write-mode staged for programs that write so"
            );
        }
        let message = format!("{path}: a write at {offset}, but the file ends at {}", self.end());
        Error::new(ErrorKind::Unsupported, message)
    }

    /// Waits until the file ends at `offset`, if it may.
    async fn arrive(&self, file: &Shared, at: At) -> Result<tokio::sync::MutexGuard<'_, Core>> {
        let mut ends = self.end.subscribe();
        let until = tokio::time::Instant::now() + PART_WAIT;
        loop {
            let core = self.core.lock().await;
            let offset = match at {
                At::End => return Ok(core),
                At::Offset(offset) | At::Soon(offset) => offset,
            };
            let end = *ends.borrow_and_update();
            if end == offset {
                return Ok(core);
            }
            drop(core);
            let later = matches!(at, At::Soon(_)) && offset > end;
            if !later || timeout_at(until, ends.changed()).await.is_err() {
                return Err(self.not_sequential(file, offset));
            }
        }
    }

    /// The pipe; begun at the end of the file if there is none.
    async fn pipe<'a>(&self, file: &Shared, core: &'a mut Core) -> Result<&'a Pipe> {
        if core.pipe.as_ref().is_some_and(|pipe| matches!(pipe.ended.get(), Some(Ok(())))) {
            self.finish_now(file, core).await?;
        }
        if core.pipe.is_none() {
            let (path, known) = (file.path(), file.metadata());
            let now = file.store.0.stat(&path).await?;
            if now.generation != known.generation {
                return Err(changed(&path));
            }
            let writer = match file.store.0.append(&path).await {
                Ok((writer, end)) if end == self.end() => writer,
                Ok(_) => return Err(changed(&path)),
                // HDFS shows a length of 0 also where a writer that died left less than an HDFS block:
                // to make the file anew takes it over.
                Err(error) if error.kind() == ErrorKind::Busy && core.empty => self.anew(file).await?,
                Err(error) => return Err(error),
            };
            core.empty = false;
            core.pipe = Some(Pipe::start(writer, self.step, &self.runtime));
        }
        core.clean = false;
        self.clean.store(false, SeqCst);
        core.pipe.as_ref().ok_or_else(|| Error::new(ErrorKind::Other, "no writer"))
    }

    /// Queues what was gathered.
    async fn hand_on(&self, pipe: &Pipe) -> Result<()> {
        if self.gathered.lock().budget.is_none() {
            return Ok(());
        }
        let slot = pipe.slot().await?;
        if let Some(message) = self.gathered.lock().take() {
            slot.send(message);
        }
        Ok(())
    }

    async fn write_to(&self, file: &Shared, core: &mut Core, data: Bytes) -> Result<()> {
        let pipe = self.pipe(file, core).await?;
        // Told now rather than when the queue is full.
        if let Some(error) = pipe.failed() {
            return Err(error.clone());
        }
        let budget = self.budget.take(data.len()).await?;
        let end = self.end() + data.len() as u64;
        let waiting = self.gathered.lock().bytes.len();
        if data.len() >= LARGE_BYTES || waiting + data.len() > CHUNK_BYTES {
            self.hand_on(pipe).await?;
        }
        if data.len() >= LARGE_BYTES {
            pipe.slot().await?.send(Message::Data(data, budget));
        } else {
            self.gathered.lock().add(&data, budget);
        }
        file.written(end);
        self.end.send_replace(end);
        Ok(())
    }

    async fn finish_now(&self, file: &Shared, core: &mut Core) -> Result<Arc<Metadata>> {
        if let Some(pipe) = &core.pipe {
            self.hand_on(pipe).await?;
            pipe.close().await?;
            core.pipe = None;
        }
        if !core.clean {
            let metadata = Arc::new(file.store.0.stat(&file.path()).await?);
            if metadata.len != self.end() {
                return Err(changed(&file.path()));
            }
            file.show(metadata);
            core.clean = true;
            self.clean.store(true, SeqCst);
        }
        Ok(file.metadata())
    }

    /// Replaces the file by an empty one.
    async fn anew(&self, file: &Shared) -> Result<Box<dyn Writer>> {
        let options = CreateOptions { overwrite: true, mode: Some(file.metadata().mode), ..self.options };
        file.store.0.create(&file.path(), options).await
    }

    async fn truncate_now(&self, file: &Shared, core: &mut Core, len: u64) -> Result<()> {
        if len == self.end() {
            core.empty = len == 0 && core.pipe.is_none();
            return Ok(());
        }
        let path = file.path();
        self.finish_now(file, core).await?;
        match file.store.0.truncate(&path, len).await {
            Err(error) if error.kind() == ErrorKind::Unsupported && len == 0 => {
                core.pipe = Some(Pipe::start(self.anew(file).await?, self.step, &self.runtime));
            }
            outcome => outcome?,
        }
        core.clean = false;
        self.clean.store(false, SeqCst);
        file.written(len);
        self.end.send_replace(len);
        if core.pipe.is_none() {
            // The cut made a generation, from which the next write goes on.
            self.finish_now(file, core).await?;
        }
        Ok(())
    }

    /// The failure of a writer is the end of the file: nobody knows what of it the store has. A write that
    /// did not get as far as the writer may be tried again.
    fn keep<T>(core: &mut Core, outcome: Result<T>) -> Result<T> {
        if let Some(error) = core.pipe.as_ref().and_then(Pipe::failed) {
            core.failed = Some(error.clone());
        }
        outcome
    }
}

fn changed(path: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Stale, format!("{path} was changed by somebody else while it was written"))
}

fn check(file: &Shared, core: &Core) -> Result<()> {
    file.check()?;
    core.failed.clone().map_or(Ok(()), Err)
}

#[async_trait]
impl Sink for Stream {
    async fn write(&self, file: &Shared, at: At, data: Bytes) -> Result<()> {
        let mut core = self.arrive(file, at).await?;
        check(file, &core)?;
        if data.is_empty() {
            return Ok(());
        }
        let outcome = self.write_to(file, &mut core, data).await;
        Self::keep(&mut core, outcome)
    }

    async fn sync(&self, file: &Shared) -> Result<()> {
        let mut core = self.core.lock().await;
        check(file, &core)?;
        let synced = match &core.pipe {
            None => Ok(()),
            Some(pipe) => match self.hand_on(pipe).await {
                Ok(()) => pipe.ask(Message::Sync).await,
                Err(error) => Err(error),
            },
        };
        let outcome = match synced {
            // Erasure coded files, for instance: closing them makes them durable as well.
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                self.finish_now(file, &mut core).await.map(drop)
            }
            synced => synced,
        };
        Self::keep(&mut core, outcome)
    }

    async fn finish(&self, file: &Shared) -> Result<Arc<Metadata>> {
        let mut core = self.core.lock().await;
        check(file, &core)?;
        let outcome = self.finish_now(file, &mut core).await;
        Self::keep(&mut core, outcome)
    }

    async fn truncate(&self, file: &Shared, len: u64) -> Result<()> {
        let mut core = self.core.lock().await;
        check(file, &core)?;
        let outcome = self.truncate_now(file, &mut core, len).await;
        Self::keep(&mut core, outcome)
    }

    async fn read(&self, _: &Shared, _: u64, _: usize) -> Result<Option<Bytes>> {
        Ok(None)
    }

    fn nudge(&self) {
        // A writer at work does it himself.
        let Ok(core) = self.core.try_lock() else { return };
        if let Some(pipe) = &core.pipe
            && let Ok(slot) = pipe.send.try_reserve()
            && let Some(message) = self.gathered.lock().take()
        {
            slot.send(message);
        }
    }

    fn is_clean(&self) -> bool {
        self.clean.load(SeqCst)
    }
}
