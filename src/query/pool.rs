//! Open connections, kept by generation.
//!
//! A connection in the pool is surely of the generation it is kept under: see [`Pool::open`]. So a query
//! that expects that generation takes it without asking the file system anything. The whole is bounded
//! in connections (open files) and in the memory that idle ones hold; the least recently used go first.

use std::{
    collections::HashMap,
    fs::File,
    os::unix::fs::FileExt,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use springhouse_fuse::store::Generation;
use springhouse_gateway::api::error::{ApiError, ErrorCode};

use super::{
    QuerySettings,
    control::Control,
    errors::{self, SqliteError},
    files::{Content, OpenFile, Seen, SegmentFiles},
    memory,
    metrics::Metrics,
    raw::Statement,
    sandbox::{Purpose, Sandbox},
};

/// Length of a database's header.
const HEADER_BYTES: usize = 100;
/// How every SQLite file starts.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// A connection at work; give it back or drop it (then it is closed).
#[derive(Debug)]
pub(super) struct Pooled {
    key: Key,
    sandbox: Sandbox,
    /// What it holds of SQLite's memory, as of the last time it was given back.
    held: i64,
    /// One of the `connections_max`; freed with it.
    _slot: Slot,
}

impl Pooled {
    pub(super) fn generation(&self) -> Generation {
        self.key.generation
    }

    pub(super) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    path: Arc<str>,
    generation: Generation,
    epoch: u64,
}

#[derive(Debug)]
struct Idle {
    pooled: Pooled,
    since: Instant,
}

#[derive(Debug, Default)]
struct State {
    idle: HashMap<Key, Vec<Idle>>,
    idle_count: usize,
    idle_bytes: i64,
}

impl State {
    /// The most recently used one of `key`: its page cache is the warmest.
    fn take(&mut self, key: &Key) -> Option<Pooled> {
        let list = self.idle.get_mut(key)?;
        let idle = list.pop();
        if list.is_empty() {
            self.idle.remove(key);
        }
        let pooled = idle?.pooled;
        self.idle_count -= 1;
        self.idle_bytes -= pooled.held;
        Some(pooled)
    }

    fn take_oldest(&mut self) -> Option<Pooled> {
        // Linear in the number of files with idle connections, a few hundred; only where one is opened
        // or memory is short, both far dearer.
        let key = self
            .idle
            .iter()
            .filter_map(|(key, list)| list.first().map(|idle| (idle.since, key)))
            .min_by_key(|(since, _)| *since)
            .map(|(_, key)| key.clone())?;
        let list = self.idle.get_mut(&key)?;
        let pooled = list.remove(0).pooled;
        if list.is_empty() {
            self.idle.remove(&key);
        }
        self.idle_count -= 1;
        self.idle_bytes -= pooled.held;
        Some(pooled)
    }
}

/// Counts one connection for as long as it lives.
#[derive(Debug)]
struct Slot(prometheus::IntGauge);

impl Slot {
    fn new(gauge: &prometheus::IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pool {
    settings: QuerySettings,
    files: Arc<dyn SegmentFiles>,
    metrics: Metrics,
    state: Mutex<State>,
}

impl Pool {
    pub(super) fn new(settings: QuerySettings, files: Arc<dyn SegmentFiles>, metrics: Metrics) -> Self {
        Self { settings, files, metrics, state: Mutex::default() }
    }

    /// A connection to the segment at `path`: of generation `expected` if one is idle, else of the one
    /// that the store has now.
    pub(super) fn check_out(
        &self,
        path: &str,
        expected: Option<Generation>,
        control: &Arc<Control>,
    ) -> Result<Pooled, ApiError> {
        let epoch = self.files.epoch_of(path)?;
        let path: Arc<str> = path.into();
        if let Some(generation) = expected
            && let Some(pooled) = self.idle(&Key { path: Arc::clone(&path), generation, epoch })
        {
            match self.verify(&pooled) {
                Ok(()) => return Ok(pooled),
                Err(_) => {
                    memory::uncounted(|| drop(pooled));
                    self.forget(&path, generation);
                }
            }
        }
        // A name may lead to a generation that is gone for a moment; the second look finds the new one.
        match self.check_out_current(&path, epoch, control) {
            Err(error) if error.code == ErrorCode::SegmentReplaced => {
                self.check_out_current(&path, epoch, control)
            }
            result => result,
        }
    }

    fn check_out_current(
        &self,
        path: &Arc<str>,
        epoch: u64,
        control: &Arc<Control>,
    ) -> Result<Pooled, ApiError> {
        let opened = self.files.open(path)?;
        let key = Key { path: Arc::clone(path), generation: opened.generation, epoch };
        match self.idle(&key) {
            Some(pooled) => Ok(pooled),
            None => self.open(key, opened, control),
        }
    }

    fn idle(&self, key: &Key) -> Option<Pooled> {
        let pooled = self.state.lock().take(key)?;
        self.metrics.pool_hits.inc();
        Some(pooled)
    }

    /// Opens a database.
    ///
    /// SQLite opens by path and tells nothing about the file it got. So the path's generation is asked
    /// before and after: if both are the same, SQLite's file is of that generation too.
    fn open(&self, key: Key, opened: OpenFile, control: &Arc<Control>) -> Result<Pooled, ApiError> {
        let purpose = match &opened.content {
            Content::Fixed { len, file } => {
                self.check_fixed(&key.path, *len, file)?;
                Purpose::Fixed
            }
            Content::Live => Purpose::Live,
        };
        let slot = self.take_slot();
        let sandbox = Sandbox::open(&opened.path, purpose, &self.settings, control)
            .map_err(|error| self.api_error(&error, None, "", control))?;
        if self.files.generation(&key.path)? != key.generation {
            return Err(errors::replaced());
        }
        self.metrics.pool_opens.inc();
        // The store has this one now: the files of others are kept open, on the disk too, for nobody.
        self.close_where(|other, _| other.path == key.path && other.generation != key.generation);
        Ok(Pooled { key, sandbox, held: 0, _slot: slot })
    }

    /// Whether a file that never changes is a whole database by itself.
    fn check_fixed(&self, path: &str, len: u64, file: &File) -> Result<(), ApiError> {
        let mut header = [0; HEADER_BYTES];
        if len == 0 {
            return Err(errors::corrupt("it is empty (0 bytes)"));
        }
        if len < HEADER_BYTES as u64 {
            return Err(errors::corrupt("it is not an SQLite database"));
        }
        file.read_exact_at(&mut header, 0).map_err(|e| errors::from_io(&e))?;
        if &header[..MAGIC.len()] != MAGIC {
            return Err(errors::corrupt("it is not an SQLite database"));
        }
        // Opened as immutable, rows that are still in a log or a journal would silently be missing.
        if header[18] == 2 || header[19] == 2 {
            return Err(needs_checkpoint("it is in WAL mode"));
        }
        for ending in ["-wal", "-journal"] {
            if self.files.exists(&format!("{path}{ending}"))? {
                return Err(needs_checkpoint(&format!("there is a {ending} file beside it")));
            }
        }
        Ok(())
    }

    /// What a live database shows now; `None`: the file is fixed.
    pub(super) fn seen(&self, pooled: &Pooled) -> Option<Seen> {
        self.files.seen(&pooled.key.path)
    }

    /// What an answer from `pooled` is called that began between `before` and now.
    pub(super) fn name(&self, pooled: &Pooled, before: Option<Seen>) -> Generation {
        match (before, self.seen(pooled)) {
            (Some(before), Some(after)) => {
                self.files.name(&pooled.key.path, pooled.generation(), before, after)
            }
            _ => pooled.generation(),
        }
    }

    /// Takes a connection back; `held` is what it gained in SQLite's memory since it was checked out.
    pub(super) fn give_back(&self, mut pooled: Pooled, held: i64) {
        pooled.held += held;
        let mut closing = Vec::new();
        {
            let mut state = self.state.lock();
            if self.files.epoch_of(&pooled.key.path) != Ok(pooled.key.epoch) {
                closing.push(pooled);
            } else {
                state.idle_count += 1;
                state.idle_bytes += pooled.held;
                let key = pooled.key.clone();
                state.idle.entry(key.clone()).or_default().push(Idle { pooled, since: Instant::now() });
                if state
                    .idle
                    .get(&key)
                    .is_some_and(|list| list.len() > self.settings.connections_per_file_max)
                {
                    closing.extend(state.take(&key));
                }
                let bytes_max = i64::try_from(self.settings.idle_memory_bytes).unwrap_or(i64::MAX);
                while state.idle_bytes > bytes_max {
                    closing.extend(state.take_oldest());
                }
            }
            self.metrics.idle_memory.set(state.idle_bytes);
        }
        self.close(closing);
    }

    /// Makes sure that what was read on a connection, and is still in its page cache, is of its
    /// generation alone.
    pub(super) fn verify(&self, pooled: &Pooled) -> Result<(), ApiError> {
        self.files.verify(&pooled.key.path, pooled.key.generation)
    }

    /// Tells the files which trees `statement` is about to read, if anybody wants to know.
    pub(super) fn hint(&self, pooled: &Pooled, statement: &mut Statement<'_>) -> Result<(), SqliteError> {
        if self.files.takes_hints() {
            let roots = statement.trees()?;
            self.files.hint(&pooled.key.path, pooled.key.generation, &roots);
        }
        Ok(())
    }

    /// Closes the idle connections of one generation.
    pub(super) fn forget(&self, path: &str, generation: Generation) {
        self.close_where(|key, _| &*key.path == path && key.generation == generation);
    }

    /// Closes the idle connections to the file at `path`.
    pub(super) fn forget_path(&self, path: &str) {
        self.close_where(|key, _| &*key.path == path);
    }

    /// Closes connections that nobody wanted for `idle_max`: each keeps a file open that may be deleted.
    pub(super) fn close_unused(&self, idle_max: Duration) {
        self.close_where(|_, since| since.elapsed() > idle_max);
    }

    fn close_where(&self, unwanted: impl Fn(&Key, Instant) -> bool) {
        let mut closing = Vec::new();
        {
            let mut state = self.state.lock();
            let State { idle, idle_count, idle_bytes } = &mut *state;
            idle.retain(|key, list| {
                let gone = list.extract_if(.., |idle| unwanted(key, idle.since));
                closing.extend(gone.map(|idle| idle.pooled));
                !list.is_empty()
            });
            *idle_count -= closing.len();
            *idle_bytes -= closing.iter().map(|pooled| pooled.held).sum::<i64>();
            self.metrics.idle_memory.set(*idle_bytes);
        }
        self.close(closing);
    }

    /// Closes every idle connection.
    pub(super) fn clear(&self) {
        let idle = {
            let mut state = self.state.lock();
            state.idle_count = 0;
            state.idle_bytes = 0;
            self.metrics.idle_memory.set(0);
            std::mem::take(&mut state.idle)
        };
        self.close(idle.into_values().flatten().map(|idle| idle.pooled).collect());
    }

    /// Closes idle connections until one more may be opened. Each running query has one, and there are
    /// at least as many slots as threads.
    fn take_slot(&self) -> Slot {
        let slots = i64::try_from(self.settings.connections_max).unwrap_or(i64::MAX);
        let mut closing = Vec::new();
        let slot = {
            let mut state = self.state.lock();
            while self.metrics.connections.get() - closing.len() as i64 >= slots
                && let Some(pooled) = state.take_oldest()
            {
                closing.push(pooled);
            }
            self.metrics.idle_memory.set(state.idle_bytes);
            Slot::new(&self.metrics.connections)
        };
        self.close(closing);
        slot
    }

    /// Outside the lock (closing is a system call), and not to the credit of the running query.
    fn close(&self, closing: Vec<Pooled>) {
        if !closing.is_empty() {
            self.metrics.pool_evictions.inc_by(closing.len() as u64);
            memory::uncounted(|| drop(closing));
        }
    }

    /// The API's error for what SQLite said on a connection.
    pub(super) fn api_error(
        &self,
        error: &SqliteError,
        sandbox: Option<&Sandbox>,
        sql: &str,
        control: &Control,
    ) -> ApiError {
        errors::from_sqlite(
            error,
            errors::Context {
                sql,
                denial: sandbox.and_then(Sandbox::take_denial),
                stop: control.stop(),
                value_bytes: self.settings.sql.value_bytes,
                memory_bytes: self.settings.query_memory_bytes,
            },
        )
    }
}

fn needs_checkpoint(why: &str) -> ApiError {
    ApiError::new(
        ErrorCode::SegmentCorrupt,
        format!(
            "the segment is not finished: {why}; checkpoint it and set journal_mode=DELETE (VACUUM INTO does both)"
        ),
    )
}
