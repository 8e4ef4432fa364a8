//! Opening files before anybody asks: while a name is looked up, the file behind it may be opened.
//!
//! Over a network a lookup is one round trip and the open that mostly follows another; together they are
//! one. Whether opens do follow is learnt by credits: a guess that comes true earns one, one that does
//! not costs one, so `ls -l` and `find` cost a handful of useless opens and then none.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use tokio::{runtime::Handle, time::Instant};

use crate::{
    error::Result,
    store::{Generation, Reader, Store, StorePath},
};

/// Guesses that may go wrong before the next ones are not made.
const CREDITS_MAX: u32 = 8;

/// A guess that nobody came for within this time was wrong.
const USED_WITHIN: Duration = Duration::from_secs(1);

/// How long it takes until a credit comes back by itself.
const REGAIN: Duration = Duration::from_secs(1);

/// How long after a listing the names of a directory are not guessed: whoever lists then looks at all.
const LISTED: Duration = Duration::from_secs(2);

/// Listings remembered.
const LISTED_MAX: usize = 64;

type Open = Shared<BoxFuture<'static, Result<Arc<dyn Reader>>>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Speculation {
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    credits: u32,
    /// Since when the next credit is being regained.
    since: Instant,
    opens: HashMap<Arc<StorePath>, (Instant, Open)>,
    listed: Vec<(Arc<StorePath>, Instant)>,
}

impl Speculation {
    pub(super) fn new(runtime: Handle) -> Self {
        let (opens, listed) = (HashMap::new(), Vec::new());
        let state = State { credits: CREDITS_MAX, since: Instant::now(), opens, listed };
        Self { runtime, state: Mutex::new(state) }
    }

    /// The directory is being listed.
    pub(super) fn listed(&self, dir: &Arc<StorePath>) {
        let mut state = self.state.lock();
        state.listed.retain(|(known, at)| known != dir && at.elapsed() < LISTED);
        if state.listed.len() == LISTED_MAX {
            state.listed.remove(0);
        }
        state.listed.push((dir.clone(), Instant::now()));
    }

    /// `path` is about to be looked up in the store: opens it at the same time, if that may pay.
    pub(super) fn looked_up(&self, store: &Arc<dyn Store>, path: &Arc<StorePath>) {
        if !may_be_opened(path.name()) {
            return;
        }
        let mut state = self.state.lock();
        state.settle();
        if state.credits == 0 || state.opens.contains_key(path) || state.was_listed(path) {
            return;
        }
        // Taken now, given back when it is used: so no more are under way than may go wrong.
        state.credits -= 1;
        let (store, wanted) = (store.clone(), path.clone());
        let open = async move { store.open_ahead(&wanted, None).await }.boxed().shared();
        state.opens.insert(path.clone(), (Instant::now(), open.clone()));
        drop(state);
        self.runtime.spawn(open);
    }

    /// What `path` turned out to be: not a file, so it will not be opened.
    pub(super) fn is_no_file(&self, path: &Arc<StorePath>) {
        self.state.lock().opens.remove(path);
    }

    /// The reader that a guess opened, if it is of this generation, and since when that is known: less
    /// than `freshness` ago.
    pub(super) async fn take(
        &self,
        path: &Arc<StorePath>,
        wanted: Generation,
        freshness: Duration,
    ) -> Option<(Arc<dyn Reader>, Instant)> {
        let (started, open) = {
            let mut state = self.state.lock();
            let (started, open) = state.opens.remove(path)?;
            if started.elapsed() >= USED_WITHIN.min(freshness) {
                return None;
            }
            state.credits = (state.credits + 1).min(CREDITS_MAX);
            (started, open)
        };
        let reader = open.await.ok().filter(|reader| reader.metadata().generation == wanted)?;
        Some((reader, started))
    }

    /// Lets go of readers that nobody came for.
    pub(super) fn maintain(&self) {
        self.state.lock().settle();
    }
}

impl State {
    fn settle(&mut self) {
        self.opens.retain(|_, (started, _)| started.elapsed() < USED_WITHIN);
        while self.since.elapsed() >= REGAIN {
            self.since += REGAIN;
            if self.credits >= CREDITS_MAX {
                self.since = Instant::now();
                break;
            }
            self.credits += 1;
        }
    }

    fn was_listed(&self, path: &StorePath) -> bool {
        let Some(dir) = path.parent() else { return false };
        self.listed.iter().any(|(listed, at)| **listed == dir && at.elapsed() < LISTED)
    }
}

/// Directories mostly have no dot in their names; SQLite asks for the names of journals only to learn
/// that there are none; hidden files are asked for by shells and tools.
fn may_be_opened(name: &str) -> bool {
    let is_journal = ["-journal", "-wal", "-shm"].iter().any(|ending| name.ends_with(ending));
    name.rfind('.').is_some_and(|dot| dot > 0) && !name.starts_with('.') && !is_journal
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::store::{Operation, memory::MemoryStore};

    fn path(name: &str) -> Arc<StorePath> {
        Arc::new(StorePath::parse(name).expect("a valid path"))
    }

    async fn settled() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_used_guess_costs_nothing_and_an_unused_one_a_credit() {
        let memory = MemoryStore::new();
        let generation = memory.put(&path("/a.db"), Bytes::from_static(b"a")).expect("put");
        let store: Arc<dyn Store> = Arc::new(memory.clone());
        let guesses = Speculation::new(Handle::current());
        for _ in 0..20 {
            guesses.looked_up(&store, &path("/a.db"));
            assert!(guesses.take(&path("/a.db"), generation, USED_WITHIN).await.is_some());
        }
        assert_eq!(memory.calls(Operation::Open), 20);
        // Nobody opens these.
        for i in 0..20 {
            guesses.looked_up(&store, &path(&format!("/{i}.db")));
        }
        settled().await;
        assert_eq!(memory.calls(Operation::Open), 28);
        // Three seconds bring three credits.
        tokio::time::advance(Duration::from_secs(3)).await;
        for i in 20..40 {
            guesses.looked_up(&store, &path(&format!("/{i}.db")));
        }
        settled().await;
        assert_eq!(memory.calls(Operation::Open), 31);
    }

    #[tokio::test(start_paused = true)]
    async fn another_generation_a_listed_directory_and_a_journal_are_not_guessed() {
        let memory = MemoryStore::new();
        let old = memory.put(&path("/d/a.db"), Bytes::from_static(b"a")).expect("put");
        memory.put(&path("/d/a.db"), Bytes::from_static(b"bb")).expect("put");
        let store: Arc<dyn Store> = Arc::new(memory.clone());
        let guesses = Speculation::new(Handle::current());
        guesses.looked_up(&store, &path("/d/a.db"));
        assert!(guesses.take(&path("/d/a.db"), old, USED_WITHIN).await.is_none());
        guesses.looked_up(&store, &path("/d/a.db-journal"));
        guesses.looked_up(&store, &path("/d/directory"));
        guesses.looked_up(&store, &path("/d/.hidden.db"));
        guesses.listed(&path("/d"));
        guesses.looked_up(&store, &path("/d/a.db"));
        settled().await;
        assert_eq!(memory.calls(Operation::Open), 1);
        tokio::time::advance(LISTED).await;
        guesses.looked_up(&store, &path("/d/a.db"));
        settled().await;
        assert_eq!(memory.calls(Operation::Open), 2);
    }
}
