//! An open file that survives its reader.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Shared, is_out_of_reach, is_silence, now};
use crate::{
    error::{Error, ErrorKind, Result},
    store::{
        Metadata, Reader, StorePath,
        breaker::{Breaker, Pass},
    },
};

/// A read given up after this long leaves its reader in doubt; one given up sooner was not wanted.
const DOUBT_AFTER: Duration = Duration::from_secs(1);

/// One generation of a file, through as many readers of the store below as it takes.
pub(super) struct SteadyReader {
    shared: Arc<Shared>,
    path: StorePath,
    metadata: Metadata,
    current: Mutex<Current>,
    /// Held while the file is reopened, so that many failed reads reopen it once.
    reopening: tokio::sync::Mutex<()>,
    breaker: Mutex<Breaker>,
}

struct Current {
    reader: Arc<dyn Reader>,
    /// A read through it failed or hung: reopen before the next.
    in_doubt: bool,
}

impl fmt::Debug for SteadyReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SteadyReader").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SteadyReader {
    pub(super) fn new(shared: Arc<Shared>, path: StorePath, reader: Arc<dyn Reader>) -> Self {
        let metadata = reader.metadata().clone();
        let current = Mutex::new(Current { reader, in_doubt: false });
        let (reopening, breaker) = (tokio::sync::Mutex::new(()), Mutex::default());
        Self { shared, path, metadata, current, reopening, breaker }
    }

    fn sound(&self) -> Option<Arc<dyn Reader>> {
        let current = self.current.lock();
        (!current.in_doubt).then(|| Arc::clone(&current.reader))
    }

    /// The reader, reopened if it is in doubt.
    async fn reader(&self) -> Result<Arc<dyn Reader>> {
        if let Some(reader) = self.sound() {
            return Ok(reader);
        }
        let _turn = self.reopening.lock().await;
        if let Some(reader) = self.sound() {
            return Ok(reader);
        }
        let expected = Some(self.metadata.generation);
        let reader = self.shared.inner.open(&self.path, expected).await.map_err(|e| match e.kind() {
            ErrorKind::NotFound | ErrorKind::IsADirectory | ErrorKind::NotADirectory => {
                Error::new(ErrorKind::Stale, format!("{}: was deleted while it was open", self.path))
            }
            _ => e,
        })?;
        if reader.metadata().len < self.metadata.len {
            // Still being written, and less of it can be read now: its last DataNodes are gone.
            let message = format!("{}: its end cannot be read now", self.path);
            return Err(Error::new(ErrorKind::Unavailable, message).of_one_file());
        }
        *self.current.lock() = Current { reader: Arc::clone(&reader), in_doubt: false };
        Ok(reader)
    }

    async fn attempt(&self, offset: u64, len: usize) -> Result<Bytes> {
        let reader = self.reader().await?;
        let mut doubt = Doubt { of: self, reader: &reader, since: Instant::now(), decided: false };
        let outcome = reader.read_at(offset, len).await;
        match &outcome {
            Err(error) if error.kind() != ErrorKind::Stale => doubt.confirm(),
            _ => doubt.decided = true,
        }
        outcome
    }

    fn admit(&self) -> Result<ReadPass<'_>> {
        let refused = |wait| self.shared.refused("read", &self.path, wait);
        let file = self.breaker.lock().admit(now()).map_err(refused)?;
        let mut pass = ReadPass { of: self, file: Some(file), store: None };
        // Should this one refuse, the drop of `pass` gives the other's leave back.
        pass.store = Some(self.shared.breakers.reads.lock().admit(now()).map_err(refused)?);
        Ok(pass)
    }
}

#[async_trait]
impl Reader for SteadyReader {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        if len == 0 || offset >= self.metadata.len {
            return Ok(Bytes::new());
        }
        let pass = self.admit()?;
        let outcome = self.shared.persist("read", &self.path, || self.attempt(offset, len)).await;
        pass.settle(outcome.as_ref().err());
        outcome
    }

    async fn confirm(&self) -> Result<()> {
        // A question to the NameNode, also where a reader that failed meanwhile is opened again.
        self.shared.ask("open", &self.path, || async { self.reader().await?.confirm().await }).await
    }
}

/// Puts a reader in doubt when the read through it ends badly, or is dropped after a long time.
struct Doubt<'a> {
    of: &'a SteadyReader,
    reader: &'a Arc<dyn Reader>,
    since: Instant,
    decided: bool,
}

impl Doubt<'_> {
    fn confirm(&mut self) {
        self.decided = true;
        let mut current = self.of.current.lock();
        if Arc::ptr_eq(&current.reader, self.reader) {
            current.in_doubt = true;
        }
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if !self.decided && self.since.elapsed() >= DOUBT_AFTER.min(self.of.shared.deadline / 2) {
            self.confirm();
        }
    }
}

/// Leave from the file's breaker and the store's; given back when dropped.
struct ReadPass<'a> {
    of: &'a SteadyReader,
    file: Option<Pass>,
    store: Option<Pass>,
}

impl ReadPass<'_> {
    fn settle(mut self, error: Option<&Error>) {
        let (file, store) = (self.file.take(), self.store.take());
        if let Some(pass) = file {
            let mut breaker = self.of.breaker.lock();
            if error.is_some_and(is_out_of_reach) { breaker.failed(pass, now()) } else { breaker.answered() }
        }
        if let Some(pass) = store {
            let mut breaker = self.of.shared.breakers.reads.lock();
            if error.is_some_and(is_silence) {
                breaker.failed(&self.of.path, pass, now());
            } else {
                breaker.answered();
            }
        }
    }
}

impl Drop for ReadPass<'_> {
    fn drop(&mut self) {
        if let Some(pass) = self.file.take() {
            self.of.breaker.lock().abandoned(pass, now());
        }
        if let Some(pass) = self.store.take() {
            self.of.shared.breakers.reads.lock().abandoned(pass, now());
        }
    }
}
