//! Asking the store before anybody asks us: while a name is looked up, the file behind it may be opened,
//! and while a database is opened, its journals may be looked for.
//!
//! Over a network a lookup is one round trip and the open that mostly follows another; together they are
//! one. Whether what was guessed does follow is learnt by credits: a guess that comes true earns one, one
//! that does not costs one, so `ls -l` and `find` cost a handful of useless opens and then none, and those
//! who open databases as immutable a handful of useless stats.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use tokio::{runtime::Handle, time::Instant};

use super::{
    NodeKey,
    databases::{Databases, Slot, looks_like_a_database},
};
use crate::{
    cache::Source,
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

/// SQLite asks for both, in this order, whenever it begins to read a database that may change.
const JOURNALS: [&str; 2] = ["-journal", "-wal"];

type Sure = Shared<BoxFuture<'static, Result<()>>>;
type Open = Shared<BoxFuture<'static, Result<Early>>>;

/// A file that was opened on suspicion.
#[derive(Debug, Clone)]
pub(super) struct Early {
    pub(super) key: NodeKey,
    pub(super) source: Source,
    pub(super) database: Arc<Slot>,
    /// Ends when it is certain which generation was opened.
    sure: Sure,
}

impl Early {
    /// What `reader` opened. The head of a database begins to be read now, and it begins to be asked which
    /// generation this is: both take a round trip, and by the time that the kernel comes they may be over.
    fn begin(databases: &Databases, runtime: &Handle, path: Arc<StorePath>, reader: Arc<dyn Reader>) -> Self {
        let confirming = reader.clone();
        let sure = async move { confirming.confirm().await }.boxed().shared();
        if looks_like_a_database(path.name()) {
            runtime.spawn(sure.clone());
        }
        let key = NodeKey { path, generation: Some(reader.metadata().generation) };
        let source = Source { file: key.digest(), reader: databases.timed(reader) };
        let database = databases.open(&source, key.path.name());
        Self { key, source, database, sure }
    }

    /// See [`Reader::confirm`].
    pub(super) async fn confirm(&self) -> Result<()> {
        self.sure.clone().await
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Speculation {
    runtime: Handle,
    databases: Databases,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    opening: Credits,
    /// By the user who looked the path up: nobody is given what another may open.
    opens: HashMap<(u32, Arc<StorePath>), (Instant, Open)>,
    listed: Vec<(Arc<StorePath>, Instant)>,
    journals: Credits,
    /// First journals that were asked for and that nobody looked up yet.
    expected: HashMap<Arc<StorePath>, Instant>,
}

impl Speculation {
    pub(super) fn new(databases: Databases, runtime: Handle) -> Self {
        let state = State {
            opening: Credits::new(),
            opens: HashMap::new(),
            listed: Vec::new(),
            journals: Credits::new(),
            expected: HashMap::new(),
        };
        Self { runtime, databases, state: Mutex::new(state) }
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
    pub(super) fn looked_up(&self, store: &Arc<dyn Store>, user: u32, path: &Arc<StorePath>) {
        if !may_be_opened(path.name()) {
            return;
        }
        let mut state = self.state.lock();
        state.settle();
        // Taken now, given back when it is used: so no more are under way than may go wrong.
        let key = (user, path.clone());
        if state.opens.contains_key(&key) || state.was_listed(path) || !state.opening.take() {
            return;
        }
        let (store, wanted) = (store.clone(), path.clone());
        let (databases, runtime) = (self.databases.clone(), self.runtime.clone());
        let open = async move {
            let reader = store.open_ahead(&wanted, None).await?;
            Ok(Early::begin(&databases, &runtime, wanted, reader))
        };
        let open = open.boxed().shared();
        state.opens.insert(key, (Instant::now(), open.clone()));
        drop(state);
        self.runtime.spawn(open);
    }

    /// What `path` turned out to be: not a file, so it will not be opened.
    pub(super) fn is_no_file(&self, user: u32, path: &Arc<StorePath>) {
        self.state.lock().opens.remove(&(user, path.clone()));
    }

    /// What a guess opened, if it is of this generation, and since when that is known: less than
    /// `freshness` ago.
    pub(super) async fn take(
        &self,
        user: u32,
        path: &Arc<StorePath>,
        wanted: Generation,
        freshness: Duration,
    ) -> Option<(Early, Instant)> {
        let (started, open) = {
            let mut state = self.state.lock();
            let (started, open) = state.opens.remove(&(user, path.clone()))?;
            if started.elapsed() >= USED_WITHIN.min(freshness) {
                return None;
            }
            state.opening.give_back();
            (started, open)
        };
        let early = open.await.ok().filter(|early| early.key.generation == Some(wanted))?;
        Some((early, started))
    }

    /// `path` is being opened for the first time: the names that SQLite will look up next.
    pub(super) fn journals_of(&self, path: &Arc<StorePath>) -> Vec<Arc<StorePath>> {
        if !looks_like_a_database(path.name()) {
            return Vec::new();
        }
        let names: Vec<_> = JOURNALS.iter().filter_map(|ending| beside(path, "", ending)).collect();
        let mut state = self.state.lock();
        state.settle();
        match names.first() {
            Some(first) if !state.expected.contains_key(first) && state.journals.take() => {
                state.expected.insert(first.clone(), Instant::now());
                names
            }
            _ => Vec::new(),
        }
    }

    /// `path` is being looked up: the name that SQLite will look up next.
    pub(super) fn journal_after(&self, path: &Arc<StorePath>) -> Option<Arc<StorePath>> {
        let [first, second] = JOURNALS;
        let next = beside(path, first, second)?;
        let mut state = self.state.lock();
        if state.expected.remove(path).is_some() {
            state.journals.give_back();
        }
        Some(next)
    }

    /// Lets go of what nobody came for.
    pub(super) fn maintain(&self) {
        self.state.lock().settle();
    }
}

impl State {
    fn settle(&mut self) {
        self.opens.retain(|_, (started, _)| started.elapsed() < USED_WITHIN);
        self.expected.retain(|_, asked| asked.elapsed() < USED_WITHIN);
        self.opening.regain();
        self.journals.regain();
    }

    fn was_listed(&self, path: &StorePath) -> bool {
        let Some(dir) = path.parent() else { return false };
        self.listed.iter().any(|(listed, at)| **listed == dir && at.elapsed() < LISTED)
    }
}

/// How many guesses may still go wrong.
#[derive(Debug)]
struct Credits {
    left: u32,
    /// Since when the next credit is being regained.
    since: Instant,
}

impl Credits {
    fn new() -> Self {
        Self { left: CREDITS_MAX, since: Instant::now() }
    }

    fn take(&mut self) -> bool {
        let any = self.left > 0;
        self.left = self.left.saturating_sub(1);
        any
    }

    fn give_back(&mut self) {
        self.left = (self.left + 1).min(CREDITS_MAX);
    }

    fn regain(&mut self) {
        while self.since.elapsed() >= REGAIN {
            self.since += REGAIN;
            if self.left >= CREDITS_MAX {
                self.since = Instant::now();
                break;
            }
            self.left += 1;
        }
    }
}

/// Directories mostly have no dot in their names; SQLite asks for the names of journals only to learn
/// that there are none; hidden files are asked for by shells and tools.
fn may_be_opened(name: &str) -> bool {
    let is_journal = ["-journal", "-wal", "-shm"].iter().any(|ending| name.ends_with(ending));
    name.rfind('.').is_some_and(|dot| dot > 0) && !name.starts_with('.') && !is_journal
}

/// The name of `path` with another ending, which must be `old`; `None` also where the store has no name of
/// that length.
fn beside(path: &StorePath, old: &str, new: &str) -> Option<Arc<StorePath>> {
    let stem = path.name().strip_suffix(old)?;
    path.parent()?.join(&format!("{stem}{new}")).ok().map(Arc::new)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        cache::{BlockCache, CacheSettings},
        store::{Operation, memory::MemoryStore},
    };

    fn path(name: &str) -> Arc<StorePath> {
        Arc::new(StorePath::parse(name).expect("a valid path"))
    }

    fn speculation() -> Speculation {
        let settings = CacheSettings {
            cache_bytes: 1 << 20,
            block_bytes: 16 << 10,
            pinned_bytes: 1 << 20,
            readahead_bytes: 1 << 20,
            extent_bytes: 1 << 20,
            deadline: Duration::from_secs(10),
        };
        let cache = BlockCache::new(settings, Handle::current()).expect("good settings");
        Speculation::new(Databases::new(Arc::new(cache), Handle::current(), 1 << 20), Handle::current())
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
        let guesses = speculation();
        for _ in 0..20 {
            guesses.looked_up(&store, 0, &path("/a.db"));
            assert!(guesses.take(0, &path("/a.db"), generation, USED_WITHIN).await.is_some());
        }
        assert_eq!(memory.calls(Operation::Open), 20);
        // What one has looked up is not opened for another.
        guesses.looked_up(&store, 1, &path("/a.db"));
        assert!(guesses.take(2, &path("/a.db"), generation, USED_WITHIN).await.is_none());
        assert!(guesses.take(1, &path("/a.db"), generation, USED_WITHIN).await.is_some());
        assert_eq!(memory.calls(Operation::Open), 21);
        // Nobody opens these.
        for i in 0..20 {
            guesses.looked_up(&store, 0, &path(&format!("/{i}.db")));
        }
        settled().await;
        assert_eq!(memory.calls(Operation::Open), 29);
        // Three seconds bring three credits.
        tokio::time::advance(Duration::from_secs(3)).await;
        for i in 20..40 {
            guesses.looked_up(&store, 0, &path(&format!("/{i}.db")));
        }
        settled().await;
        assert_eq!(memory.calls(Operation::Open), 32);
    }

    #[tokio::test(start_paused = true)]
    async fn another_generation_a_listed_directory_and_a_journal_are_not_guessed() {
        let memory = MemoryStore::new();
        let old = memory.put(&path("/d/a.db"), Bytes::from_static(b"a")).expect("put");
        memory.put(&path("/d/a.db"), Bytes::from_static(b"bb")).expect("put");
        let store: Arc<dyn Store> = Arc::new(memory.clone());
        let guesses = speculation();
        guesses.looked_up(&store, 0, &path("/d/a.db"));
        assert!(guesses.take(0, &path("/d/a.db"), old, USED_WITHIN).await.is_none());
        guesses.looked_up(&store, 0, &path("/d/a.db-journal"));
        guesses.looked_up(&store, 0, &path("/d/directory"));
        guesses.looked_up(&store, 0, &path("/d/.hidden.db"));
        guesses.listed(&path("/d"));
        guesses.looked_up(&store, 0, &path("/d/a.db"));
        settled().await;
        assert_eq!(memory.calls(Operation::Open), 1);
        tokio::time::advance(LISTED).await;
        guesses.looked_up(&store, 0, &path("/d/a.db"));
        settled().await;
        assert_eq!(memory.calls(Operation::Open), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn journals_are_asked_for_while_somebody_looks_them_up() {
        let guesses = speculation();
        let names = |path: &Arc<StorePath>| -> Vec<String> {
            guesses.journals_of(path).iter().map(|path| path.to_string()).collect()
        };
        for i in 0..20 {
            let database = path(&format!("/d/{i}.db"));
            assert_eq!(names(&database), [format!("{database}-journal"), format!("{database}-wal")]);
            assert_eq!(names(&database), [""; 0], "they are being asked for");
            let next = guesses.journal_after(&path(&format!("{database}-journal"))).expect("the other one");
            assert_eq!(next.to_string(), format!("{database}-wal"));
        }
        assert_eq!(guesses.journal_after(&path("/d/1.db-wal")), None);
        // Nobody looks at these: they are opened as immutable.
        let asked = (0..20).filter(|i| !names(&path(&format!("/{i}.db"))).is_empty()).count();
        assert_eq!(asked, CREDITS_MAX as usize);
        assert_eq!(names(&path("/plain.txt")), [""; 0]);
        tokio::time::advance(2 * REGAIN).await;
        assert_eq!(names(&path("/late.db")).len(), 2);
        let long = path(&format!("/{}.db", "x".repeat(250)));
        assert_eq!(names(&long), [""; 0], "no store has such names");
    }
}
