//! Sequential writes that go straight to the store.
//!
//! Writes are gathered into chunks and queued; one task for each file hands them to the store. A write is
//! acknowledged when it is queued, a failure is told at the next write, fsync or close. The queue of a
//! file is bounded by its length, those of all files together by a budget: who writes faster than the
//! store waits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    runtime::Handle,
    sync::{Mutex, watch},
    time::timeout_at,
};

use super::{At, Shared, Sink, budget::Budget, pipe::Pipe};
use crate::{
    error::{Error, ErrorKind, Result},
    store::{CreateOptions, Metadata, Writer},
};

/// How long a direct write waits for the part before it.
const PART_WAIT: Duration = Duration::from_secs(2);

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
        let pipe = writer.map(|writer| Pipe::start(writer, budget.clone(), step, &runtime));
        let clean = pipe.is_none();
        Self {
            runtime,
            step,
            budget,
            options,
            core: Mutex::new(Core { pipe, failed: None, clean, empty: false }),
            clean: AtomicBool::new(clean),
            end: watch::Sender::new(len),
            warned: AtomicBool::new(false),
        }
    }

    fn start(&self, writer: Box<dyn Writer>) -> Pipe {
        Pipe::start(writer, self.budget.clone(), self.step, &self.runtime)
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
        if core.pipe.as_ref().is_some_and(Pipe::is_closed) {
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
            core.pipe = Some(self.start(writer));
        }
        core.clean = false;
        self.clean.store(false, SeqCst);
        core.pipe.as_ref().ok_or_else(|| Error::new(ErrorKind::Other, "no writer"))
    }

    async fn write_to(&self, file: &Shared, core: &mut Core, data: Bytes) -> Result<()> {
        let end = self.end() + data.len() as u64;
        self.pipe(file, core).await?.write(data).await?;
        file.written(end);
        self.end.send_replace(end);
        Ok(())
    }

    async fn finish_now(&self, file: &Shared, core: &mut Core) -> Result<Arc<Metadata>> {
        if let Some(pipe) = &core.pipe {
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
                core.pipe = Some(self.start(self.anew(file).await?));
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
            // Finished already, for one who did not stay to hear it.
            Some(pipe) if pipe.is_closed() => Ok(()),
            Some(pipe) => pipe.sync().await,
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
        if let Some(pipe) = &core.pipe {
            pipe.nudge();
        }
    }

    fn is_clean(&self) -> bool {
        self.clean.load(SeqCst)
    }
}
