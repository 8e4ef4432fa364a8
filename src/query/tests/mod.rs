//! Tests of the engine as a whole: a directory of databases, an engine over it, answers as JSON.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::StreamExt;
use parking_lot::{Condvar, Mutex};
use prometheus::Registry;
use serde_json::Value as Json;
use springhouse_fuse::store::{Generation, generation_of};
use springhouse_gateway::api::{
    error::{ApiError, ErrorCode},
    types::Params,
};
use tempfile::TempDir;

use super::{Content, Engine, Format, OpenFile, Query, QuerySettings, SegmentFiles, from_io, init};

mod damage;
mod encoding;
mod hints;
mod limits;
mod pool;
mod sandbox;
mod trough;

/// A directory as a store; counts what is asked of it.
#[derive(Debug)]
pub(super) struct Dir {
    root: PathBuf,
    calls: AtomicU64,
    epoch: AtomicU64,
    /// So many more generations asked for are not those of the file that was opened.
    stale: AtomicU64,
    /// Not 0: files may be written in place, so that they are looked at after reading.
    verifies: AtomicU64,
    /// Hints as they came; `None`: none are taken.
    hints: Mutex<Option<Vec<Vec<u32>>>>,
    /// Opening the file of this path is not answered.
    mute: Mutex<Option<&'static str>>,
    speaks: Condvar,
    /// Threads to which that happens.
    waiting: AtomicU64,
}

impl Dir {
    fn set_mute(&self, path: Option<&'static str>) {
        *self.mute.lock() = path;
        self.speaks.notify_all();
    }

    /// Whether somebody waits for the file that is not answered.
    fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

impl SegmentFiles for Dir {
    fn epoch(&self) -> Result<u64, ApiError> {
        Ok(self.epoch.load(Ordering::Relaxed))
    }

    fn open(&self, path: &str) -> Result<OpenFile, ApiError> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.speaks.wait_while(&mut self.mute.lock(), |mute| *mute == Some(path));
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join(&path[1..]);
        let file = File::open(&path).map_err(|e| from_io(&e))?;
        let metadata = file.metadata().map_err(|e| from_io(&e))?;
        let (generation, len) = (generation_of(&metadata), metadata.len());
        Ok(OpenFile { path, generation, content: Content::Fixed { len, file } })
    }

    fn generation(&self, path: &str) -> Result<Generation, ApiError> {
        let metadata = self.root.join(&path[1..]).metadata().map_err(|e| from_io(&e))?;
        let lie = |left: u64| left.checked_sub(1);
        if self.stale.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lie).is_ok() {
            return Ok(Generation([0xee; 16]));
        }
        Ok(generation_of(&metadata))
    }

    fn verify(&self, path: &str, generation: Generation) -> Result<(), ApiError> {
        if self.verifies.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let metadata = self.root.join(&path[1..]).metadata().map_err(|e| from_io(&e))?;
        if generation_of(&metadata) == generation { Ok(()) } else { Err(super::replaced()) }
    }

    fn exists(&self, path: &str) -> Result<bool, ApiError> {
        Ok(self.root.join(&path[1..]).exists())
    }

    fn takes_hints(&self) -> bool {
        self.hints.lock().is_some()
    }

    fn hint(&self, path: &str, generation: Generation, roots: &[u32]) {
        assert_eq!(self.generation(path), Ok(generation));
        if let Some(hints) = &mut *self.hints.lock() {
            hints.push(roots.to_vec());
        }
    }
}

pub(super) struct Bench {
    pub(super) engine: Engine,
    pub(super) files: Arc<Dir>,
    pub(super) registry: Registry,
    dir: TempDir,
}

/// For queries that end by something else: longer than a busy machine takes.
pub(super) const LONG: Duration = Duration::from_secs(300);

pub(super) fn settings() -> QuerySettings {
    QuerySettings { threads: 2, timeout_max: LONG, ..QuerySettings::default() }
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(settings())
    }

    pub(super) fn with(settings: QuerySettings) -> Self {
        init().expect("SQLite fits");
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().canonicalize().expect("a path");
        let files = Arc::new(Dir {
            root,
            calls: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            verifies: AtomicU64::new(0),
            hints: Mutex::default(),
            mute: Mutex::default(),
            speaks: Condvar::new(),
            waiting: AtomicU64::new(0),
        });
        let registry = Registry::new();
        let engine = Engine::start(settings, files.clone(), &registry).expect("an engine");
        Self { engine, files, registry, dir }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A database `name` made by `sql`.
    pub(super) fn database(&self, name: &str, sql: &str) {
        make_database(&self.path(name), sql);
    }

    pub(super) async fn raw(&self, query: Query) -> Result<(Generation, String), ApiError> {
        let answer = self.engine.query(query).await?;
        let generation = answer.generation;
        let mut body = Vec::new();
        let mut stream = std::pin::pin!(answer.into_stream());
        while let Some(Ok(chunk)) = stream.next().await {
            body.extend_from_slice(&chunk);
        }
        Ok((generation, String::from_utf8(body).expect("UTF-8")))
    }

    pub(super) async fn json(&self, query: Query) -> Result<Json, ApiError> {
        let (_, body) = self.raw(query).await?;
        Ok(serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {body}")))
    }

    /// The answer to `sql` on `/a.sqlite`.
    pub(super) async fn ask(&self, sql: &str) -> Result<Json, ApiError> {
        self.json(query("/a.sqlite", sql)).await
    }

    /// The rows; a failure in the stream is a failure.
    pub(super) async fn rows(&self, sql: &str) -> Result<Json, ApiError> {
        let mut answer = self.ask(sql).await?;
        match answer.get("error") {
            Some(error) => Err(serde_json::from_value(error.clone()).expect("an error")),
            None => Ok(answer["rows"].take()),
        }
    }

    pub(super) fn counter(&self, name: &str) -> f64 {
        self.registry
            .gather()
            .iter()
            .filter(|family| family.name() == name)
            .flat_map(|family| family.get_metric())
            .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
            .sum()
    }
}

pub(crate) fn make_database(path: &Path, sql: &str) {
    init().expect("SQLite fits");
    let connection = rusqlite::Connection::open(path).expect("a database");
    connection.execute_batch(sql).expect(sql);
}

/// The first column of what `sql` gives on the database at `path`.
pub(crate) fn test_numbers(path: &Path, sql: &str) -> Vec<i64> {
    init().expect("SQLite fits");
    let connection = rusqlite::Connection::open(path).expect("a database");
    let mut statement = connection.prepare(sql).expect(sql);
    let rows = statement.query_map([], |row| row.get(0)).expect(sql);
    rows.map(|row| row.expect("a number")).collect()
}

/// The same if the database is whole; `None`: it is not.
pub(crate) fn test_rows(path: &Path, sql: &str) -> Option<Vec<i64>> {
    init().expect("SQLite fits");
    let connection = rusqlite::Connection::open(path).ok()?;
    let good: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).ok()?;
    if good != "ok" {
        return None;
    }
    let mut statement = connection.prepare(sql).ok()?;
    let rows = statement.query_map([], |row| row.get(0)).ok()?;
    rows.collect::<Result<_, _>>().ok()
}

pub(super) fn query(path: &str, sql: &str) -> Query {
    Query {
        path: path.into(),
        expected: None,
        sql: sql.into(),
        params: Params::default(),
        rows_max: None,
        format: Format::Json,
        deadline: Instant::now() + LONG,
    }
}
