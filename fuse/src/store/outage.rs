//! Tells the log when a store stops answering, and when it answers again.
//!
//! Each failed call is worth a line for a debugger only: an outage fails thousands. Names and data have
//! a spell each, because in HDFS different machines answer for them.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use parking_lot::Mutex;

use super::{
    AttributeChanges, CreateOptions, Entry, Generation, Metadata, Reader, Store, StorePath, StoreUrl, Usage,
    Writer,
    deadline::{is_silence, now},
};
use crate::error::{Error, Result};

/// No second outage is told within this time of the first: one bad file among good ones looks like many
/// short outages.
const QUIET: Duration = Duration::from_secs(60);

/// Silence without an answer in between. Pure: the clock is an argument.
#[derive(Debug, Default)]
struct Spell {
    /// Since when, and how many calls have failed.
    silent: Option<(Instant, u64)>,
    /// Whether this one was told.
    told: bool,
    last_told: Option<Instant>,
}

/// What is worth a line.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Silent,
    Back { after: Duration, failed: u64 },
}

impl Spell {
    fn failed(&mut self, now: Instant) -> Option<News> {
        if let Some((_, failed)) = &mut self.silent {
            *failed += 1;
            return None;
        }
        self.silent = Some((now, 1));
        self.told = self.last_told.is_none_or(|last| now.duration_since(last) >= QUIET);
        self.told.then(|| {
            self.last_told = Some(now);
            News::Silent
        })
    }

    fn answered(&mut self, now: Instant) -> Option<News> {
        let (since, failed) = self.silent.take()?;
        self.told.then(|| News::Back { after: now.duration_since(since), failed })
    }
}

/// One spell and its name in the log.
struct Watch {
    url: String,
    /// `names` or `data`.
    of: &'static str,
    spell: Mutex<Spell>,
}

impl Watch {
    fn new(url: &StoreUrl, of: &'static str) -> Self {
        Self { url: url.to_string(), of, spell: Mutex::default() }
    }

    fn note<T>(&self, outcome: Result<T>) -> Result<T> {
        self.look(outcome.as_ref().err());
        outcome
    }

    fn look(&self, error: Option<&Error>) {
        let (store, of) = (&self.url, self.of);
        match error.filter(|error| is_silence(error)) {
            Some(error) => {
                let news = self.spell.lock().failed(now());
                if news.is_some() {
                    tracing::warn!(%store, of, %error, "the store does not answer");
                }
            }
            None => {
                let news = self.spell.lock().answered(now());
                if let Some(News::Back { after, failed }) = news {
                    tracing::info!(%store, of, seconds = after.as_secs(), failed, "the store answers again");
                }
            }
        }
    }
}

/// See the module.
pub(super) struct Outage {
    inner: Arc<dyn Store>,
    watches: Arc<Watches>,
}

/// The spells of one store, whoever asks it.
pub(super) struct Watches {
    names: Watch,
    data: Watch,
}

impl Watches {
    pub(super) fn new(url: &StoreUrl) -> Self {
        Self { names: Watch::new(url, "names"), data: Watch::new(url, "data") }
    }
}

impl Outage {
    pub(super) fn new(inner: Arc<dyn Store>, watches: Arc<Watches>) -> Self {
        Self { inner, watches }
    }
}

#[async_trait]
impl Store for Outage {
    fn url(&self) -> &StoreUrl {
        self.inner.url()
    }

    async fn stat(&self, path: &StorePath) -> Result<Metadata> {
        self.watches.names.note(self.inner.stat(path).await)
    }

    fn list<'a>(&'a self, dir: &'a StorePath) -> BoxStream<'a, Result<Entry>> {
        self.inner.list(dir).inspect(|entry| self.watches.names.look(entry.as_ref().err())).boxed()
    }

    async fn open(&self, path: &StorePath, expected: Option<Generation>) -> Result<Arc<dyn Reader>> {
        let inner = self.watches.names.note(self.inner.open(path, expected).await)?;
        Ok(Arc::new(WatchedReader { inner, watches: Arc::clone(&self.watches) }))
    }

    async fn open_ahead(&self, path: &StorePath, known: Option<&Metadata>) -> Result<Arc<dyn Reader>> {
        let inner = self.watches.names.note(self.inner.open_ahead(path, known).await)?;
        Ok(Arc::new(WatchedReader { inner, watches: Arc::clone(&self.watches) }))
    }

    async fn create(&self, path: &StorePath, options: CreateOptions) -> Result<Box<dyn Writer>> {
        self.watches.names.note(self.inner.create(path, options).await)
    }

    async fn rename(&self, from: &StorePath, to: &StorePath, overwrite: bool) -> Result<()> {
        self.watches.names.note(self.inner.rename(from, to, overwrite).await)
    }

    async fn delete(&self, path: &StorePath, recursive: bool) -> Result<()> {
        self.watches.names.note(self.inner.delete(path, recursive).await)
    }

    async fn create_dir(&self, path: &StorePath) -> Result<()> {
        self.watches.names.note(self.inner.create_dir(path).await)
    }

    async fn append(&self, path: &StorePath) -> Result<(Box<dyn Writer>, u64)> {
        self.watches.names.note(self.inner.append(path).await)
    }

    async fn truncate(&self, path: &StorePath, len: u64) -> Result<()> {
        self.watches.names.note(self.inner.truncate(path, len).await)
    }

    async fn check_writable(&self, path: &StorePath) -> Result<()> {
        self.watches.names.note(self.inner.check_writable(path).await)
    }

    async fn set_attributes(&self, path: &StorePath, changes: &AttributeChanges) -> Result<()> {
        self.watches.names.note(self.inner.set_attributes(path, changes).await)
    }

    async fn make_dir(&self, path: &StorePath, mode: Option<u32>) -> Result<()> {
        self.watches.names.note(self.inner.make_dir(path, mode).await)
    }

    async fn usage(&self) -> Result<Usage> {
        // Slow by its nature: says nothing about the store.
        self.inner.usage().await
    }
}

struct WatchedReader {
    inner: Arc<dyn Reader>,
    watches: Arc<Watches>,
}

impl fmt::Debug for WatchedReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Reader for WatchedReader {
    fn metadata(&self) -> &Metadata {
        self.inner.metadata()
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.watches.data.note(self.inner.read_at(offset, len).await)
    }

    async fn confirm(&self) -> Result<()> {
        self.watches.names.note(self.inner.confirm().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_two_lines_however_many_calls_fail() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut spell = Spell::default();
        assert_eq!(spell.answered(start), None);
        assert_eq!(spell.failed(start), Some(News::Silent));
        for n in 1..1000 {
            assert_eq!(spell.failed(at(n)), None);
        }
        let back = News::Back { after: Duration::from_secs(1000), failed: 1000 };
        assert_eq!(spell.answered(at(1000)), Some(back));
        assert_eq!(spell.answered(at(1001)), None);
        assert_eq!(spell.failed(at(2000)), Some(News::Silent), "the next outage");
    }

    #[test]
    fn failures_among_answers_are_not_told_each() {
        let start = Instant::now();
        let mut spell = Spell::default();
        let mut lines = 0;
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            lines += spell.failed(now).iter().count() + spell.answered(now).iter().count();
        }
        assert_eq!(lines, 2 * 10, "a pair in each minute");
    }
}
