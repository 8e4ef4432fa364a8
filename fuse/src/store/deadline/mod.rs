//! Every call ends by its deadline; reads are tried again inside it; a store that does not answer is
//! left alone for a while.
//!
//! - Only reads (stat, list before its first entry, open, read) are tried again. A change whose
//!   answer is missing may have happened: its caller asks by `stat`.
//! - A read that failed reopens its file first, because the HDFS client remembers a DataNode that failed
//!   once as dead for as long as the file is open. Reopening asks for the same generation: a file that
//!   was replaced meanwhile is `Stale`, never mixed.
//! - Two kinds of breaker: one for the NameNode's calls, and for reads one per file and one per store.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use futures::{StreamExt, stream, stream::BoxStream};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use self::{reader::SteadyReader, writer::SteadyWriter};
use super::{
    AttributeChanges, Counters, CreateOptions, Entry, Generation, Metadata, Reader, RetryPolicy, Store,
    StorePath, StoreUrl, Usage, Writer,
    breaker::{Breaker, Pass, ReadsBreaker},
};
use crate::error::{Error, ErrorKind, Result};

mod reader;
#[cfg(test)]
mod tests;
mod writer;

/// Tries of a read that fails with something else than silence: the store's client may know no better
/// name for what passes by, but must not turn each lasting failure into a full deadline.
const ODD_TRIES_MAX: u32 = 3;

/// See the module.
pub(super) struct Deadline {
    shared: Arc<Shared>,
}

/// What the store and its open files share.
struct Shared {
    inner: Arc<dyn Store>,
    deadline: Duration,
    retry: RetryPolicy,
    counters: Arc<Counters>,
    breakers: Arc<Breakers>,
}

/// The breakers of one HDFS, whoever asks it.
#[derive(Default)]
pub(super) struct Breakers {
    metadata: Mutex<Breaker>,
    reads: Mutex<ReadsBreaker>,
}

impl Deadline {
    pub(super) fn new(
        inner: Arc<dyn Store>,
        deadline: Duration,
        retry: RetryPolicy,
        counters: Arc<Counters>,
        breakers: Arc<Breakers>,
    ) -> Self {
        Self { shared: Arc::new(Shared { inner, deadline, retry, counters, breakers }) }
    }
}

/// The clock of the breakers. Tokio's, which tests can stop.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Whether a file or name is out of reach: asking again may help.
fn is_out_of_reach(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Unavailable)
}

/// Whether a failure means that the store did not answer.
pub(super) fn is_silence(error: &Error) -> bool {
    is_out_of_reach(error) && !error.is_of_one_file()
}

impl Shared {
    /// Tries until an answer, a lasting failure, or the deadline.
    async fn persist<T, F>(&self, what: &str, path: &StorePath, mut attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut last = None;
        let trying = async {
            let mut delays = ExponentialBuilder::new()
                .with_min_delay(self.retry.delay_min)
                .with_max_delay(self.retry.delay_max)
                .without_max_times()
                .with_jitter()
                .build();
            let mut tries = 0;
            loop {
                let error = match attempt().await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                };
                tries += 1;
                let odd = matches!(error.kind(), ErrorKind::Other | ErrorKind::Corrupt);
                if !(is_out_of_reach(&error) || odd && tries < ODD_TRIES_MAX) {
                    return Err(error);
                }
                tracing::debug!(%path, what, tries, %error, "trying again");
                last = Some(error);
                self.counters.retries.inc();
                sleep(delays.next().unwrap_or(self.retry.delay_max)).await;
            }
        };
        let outcome = timeout(self.deadline, trying).await;
        outcome.unwrap_or_else(|_| Err(self.too_late(what, path, last)))
    }

    /// One try. The outcome of a change that gets no answer is unknown, so there is no second.
    async fn once<T>(
        &self,
        what: &str,
        path: &StorePath,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        timeout(self.deadline, call).await.unwrap_or_else(|_| Err(self.too_late(what, path, None)))
    }

    fn too_late(&self, what: &str, path: &StorePath, last: Option<Error>) -> Error {
        let because = last.as_ref().map(|error| format!("; last: {error}")).unwrap_or_default();
        let late = Error::new(
            ErrorKind::TimedOut,
            format!("{path}: {what} got no answer within {} ms{because}", self.deadline.as_millis()),
        );
        if last.is_some_and(|error| error.is_of_one_file()) { late.of_one_file() } else { late }
    }

    fn refused(&self, what: &str, path: &StorePath, wait: Duration) -> Error {
        self.counters.refused.inc();
        let next = if wait.is_zero() {
            "the store is being tried".to_owned()
        } else {
            format!("the store is tried again in {} ms", wait.as_millis())
        };
        Error::new(
            ErrorKind::Unavailable,
            format!("{path}: {what} refused: the store gave no answer just now; {next}"),
        )
    }

    fn admit(&self, what: &str, path: &StorePath) -> Result<MetadataPass<'_>> {
        match self.breakers.metadata.lock().admit(now()) {
            Ok(pass) => Ok(MetadataPass { shared: self, pass: Some(pass) }),
            Err(wait) => Err(self.refused(what, path, wait)),
        }
    }

    /// A call to the NameNode that changes nothing.
    async fn ask<T, F>(&self, what: &str, path: &StorePath, attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let pass = self.admit(what, path)?;
        let outcome = self.persist(what, path, attempt).await;
        pass.settle(outcome.as_ref().err().is_some_and(is_silence));
        outcome
    }

    /// A call to the NameNode that changes something.
    async fn change<T>(
        &self,
        what: &str,
        path: &StorePath,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let pass = self.admit(what, path)?;
        let outcome = self.once(what, path, call).await;
        match outcome.as_ref().err().map(Error::kind) {
            Some(ErrorKind::TimedOut) => pass.settle(true),
            // Safe mode refuses changes, and answers questions: no reason to refuse those.
            Some(ErrorKind::Unavailable) => drop(pass),
            _ => pass.settle(false),
        }
        outcome
    }
}

/// Leave for a call to the NameNode; given back when dropped.
struct MetadataPass<'a> {
    shared: &'a Shared,
    pass: Option<Pass>,
}

impl MetadataPass<'_> {
    fn settle(mut self, silent: bool) {
        let mut breaker = self.shared.breakers.metadata.lock();
        match self.pass.take() {
            Some(pass) if silent => breaker.failed(pass, now()),
            _ => breaker.answered(),
        }
    }
}

impl Drop for MetadataPass<'_> {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.shared.breakers.metadata.lock().abandoned(pass, now());
        }
    }
}

enum Listing<'a> {
    Start,
    Running(BoxStream<'a, Result<Entry>>),
}

#[async_trait]
impl Store for Deadline {
    fn url(&self) -> &StoreUrl {
        self.shared.inner.url()
    }

    async fn stat(&self, path: &StorePath) -> Result<Metadata> {
        self.shared.ask("stat", path, || self.shared.inner.stat(path)).await
    }

    fn list<'a>(&'a self, dir: &'a StorePath) -> BoxStream<'a, Result<Entry>> {
        // The deadline is for each answer: a directory of a million entries takes many.
        stream::try_unfold(Listing::Start, move |listing| async move {
            let mut entries = match listing {
                Listing::Start => {
                    let (first, rest) = self
                        .shared
                        .ask("list", dir, || async {
                            let mut entries = self.shared.inner.list(dir);
                            Ok((entries.next().await.transpose()?, entries))
                        })
                        .await?;
                    return Ok(first.map(|entry| (entry, Listing::Running(rest))));
                }
                Listing::Running(entries) => entries,
            };
            let next = async { entries.next().await.transpose() };
            let next = self.shared.once("list", dir, next).await?;
            Ok(next.map(|entry| (entry, Listing::Running(entries))))
        })
        .boxed()
    }

    async fn open(&self, path: &StorePath, expected: Option<Generation>) -> Result<Arc<dyn Reader>> {
        let reader = self.shared.ask("open", path, || self.shared.inner.open(path, expected)).await?;
        Ok(Arc::new(SteadyReader::new(Arc::clone(&self.shared), path.clone(), reader)))
    }

    async fn open_ahead(&self, path: &StorePath, known: Option<&Metadata>) -> Result<Arc<dyn Reader>> {
        let reader = self.shared.ask("open", path, || self.shared.inner.open_ahead(path, known)).await?;
        Ok(Arc::new(SteadyReader::new(Arc::clone(&self.shared), path.clone(), reader)))
    }

    async fn create(&self, path: &StorePath, options: CreateOptions) -> Result<Box<dyn Writer>> {
        let inner = self.shared.change("create", path, self.shared.inner.create(path, options)).await?;
        Ok(Box::new(SteadyWriter::new(Arc::clone(&self.shared), path.clone(), inner)))
    }

    async fn rename(&self, from: &StorePath, to: &StorePath, overwrite: bool) -> Result<()> {
        self.shared.change("rename", from, self.shared.inner.rename(from, to, overwrite)).await
    }

    async fn delete(&self, path: &StorePath, recursive: bool) -> Result<()> {
        let delete = self.shared.inner.delete(path, recursive);
        if !recursive {
            return self.shared.change("delete", path, delete).await;
        }
        // A large tree takes longer than the deadline on a healthy NameNode: that it did not end in time
        // is no reason to refuse everything else.
        let pass = self.shared.admit("delete", path)?;
        let outcome = self.shared.once("delete", path, delete).await;
        if !outcome.as_ref().is_err_and(is_silence) {
            pass.settle(false);
        }
        outcome
    }

    async fn create_dir(&self, path: &StorePath) -> Result<()> {
        self.shared.change("mkdir", path, self.shared.inner.create_dir(path)).await
    }

    async fn append(&self, path: &StorePath) -> Result<(Box<dyn Writer>, u64)> {
        let (inner, end) = self.shared.change("append", path, self.shared.inner.append(path)).await?;
        Ok((Box::new(SteadyWriter::new(Arc::clone(&self.shared), path.clone(), inner)), end))
    }

    async fn truncate(&self, path: &StorePath, len: u64) -> Result<()> {
        self.shared.change("truncate", path, self.shared.inner.truncate(path, len)).await
    }

    async fn check_writable(&self, path: &StorePath) -> Result<()> {
        // Safe mode refuses it as it refuses a change.
        self.shared.change("check", path, self.shared.inner.check_writable(path)).await
    }

    async fn set_attributes(&self, path: &StorePath, changes: &AttributeChanges) -> Result<()> {
        let call = self.shared.inner.set_attributes(path, changes);
        self.shared.change("set attributes", path, call).await
    }

    async fn make_dir(&self, path: &StorePath, mode: Option<u32>) -> Result<()> {
        self.shared.change("mkdir", path, self.shared.inner.make_dir(path, mode)).await
    }

    async fn usage(&self) -> Result<Usage> {
        // Past the breaker: a tree too large to be summed up in time says nothing about the NameNode.
        self.shared.once("usage", &StorePath::root(), self.shared.inner.usage()).await
    }
}
