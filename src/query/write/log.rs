//! The log of a written database (`-wal`), read for safety: which pages a commit changed, and what the
//! pages were at one transaction.
//!
//! Frames are looked at right after each commit, on the thread that commits: the log is begun anew only by a
//! later transaction, so nothing that was committed can be missed, whenever the log is copied into the
//! database. What the pages hold is read under a read transaction, which keeps both the log and the database
//! as they are. <https://sqlite.org/fileformat2.html#the_write_ahead_log>

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use super::{
    super::{
        QuerySettings,
        control::Control,
        errors::SqliteError,
        live::LogState,
        sandbox::{Purpose, Sandbox},
    },
    pages::Unshipped,
};

const LOG_HEADER_BYTES: u64 = 32;
const FRAME_HEADER_BYTES: u64 = 24;

fn log_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn of_sqlite(error: SqliteError) -> io::Error {
    io::Error::other(format!("the database: {error}"))
}

/// Page of frame `frame`, from 1.
fn page_of_frame(log: &File, state: &LogState, frame: u32) -> io::Result<u32> {
    let mut header = [0; 16];
    log.read_exact_at(&mut header, offset_of(state, frame))?;
    let page = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
    if header[8..] != state.salts || page == 0 {
        return Err(io::Error::other(format!("frame {frame} is not of this log")));
    }
    Ok(page)
}

fn offset_of(state: &LogState, frame: u32) -> u64 {
    LOG_HEADER_BYTES + (u64::from(frame) - 1) * (FRAME_HEADER_BYTES + u64::from(state.page_bytes))
}

/// Tells [`Unshipped`] what each commit changed. On the writer's thread.
pub(super) struct Capture {
    unshipped: Arc<Unshipped>,
    path: PathBuf,
    log: Option<File>,
    last: Option<LogState>,
    pages: Vec<u32>,
}

impl Capture {
    /// Of the database that `sandbox` has opened and that is at `change`.
    pub(super) fn new(unshipped: Arc<Unshipped>, database: &Path, sandbox: &Sandbox, change: u64) -> Self {
        unshipped.opened(change);
        let last = sandbox.handle().log_state().ok();
        Self { unshipped, path: log_of(database), log: None, last, pages: Vec::new() }
    }

    /// After each commit, before it is acknowledged.
    pub(super) fn committed(&mut self, sandbox: &Sandbox, change: u64) {
        self.pages.clear();
        let looked = self.look(sandbox);
        if let Err(error) = &looked {
            tracing::warn!(%error, "which pages a commit changed cannot be seen: all are shipped anew");
            (self.log, self.last) = (None, sandbox.handle().log_state().ok());
        }
        self.unshipped.committed(change, looked.is_ok().then_some(self.pages.as_slice()));
    }

    fn look(&mut self, sandbox: &Sandbox) -> io::Result<()> {
        let Some(last) = self.last.take() else {
            return Err(io::Error::other("the log was not seen before"));
        };
        let now = sandbox.handle().log_state().map_err(of_sqlite)?;
        // It is begun anew at the start of a transaction; then all of it is this one's.
        let before = if now.salts == last.salts { last.frames } else { 0 };
        let log = match self.log.take() {
            Some(log) => log,
            None => File::open(&self.path)?,
        };
        for frame in before + 1..=now.frames {
            self.pages.push(page_of_frame(&log, &now, frame)?);
        }
        (self.log, self.last) = (Some(log), Some(now));
        Ok(())
    }
}

/// A read transaction that sees the database as of one commit, and reads its pages as they are in the file.
#[derive(Debug)]
pub struct Pinned {
    sandbox: Sandbox,
    log: Option<File>,
    /// Newest frame of each page that is in the log.
    frames: Option<HashMap<u32, u32>>,
    state: LogState,
    page_bytes: u32,
    pages: u32,
    /// The last transaction that it sees.
    pub change: u64,
    /// Idempotency keys of the transactions that were asked for, as the file of keys has them.
    pub keys: Vec<u8>,
    path: PathBuf,
}

/// A connection that can become a [`Pinned`].
#[derive(Debug)]
pub(super) struct Pin {
    sandbox: Sandbox,
    path: PathBuf,
}

impl Pin {
    /// Opens the database. Blocks.
    pub(super) fn open(database: &Path, settings: &QuerySettings) -> Result<Self, SqliteError> {
        let far = Instant::now() + Duration::from_secs(7 * 86_400);
        let control = Arc::new(Control::new(far, Arc::new(AtomicBool::new(false))));
        let sandbox = Sandbox::open(database, Purpose::Copy, settings, &control)?;
        sandbox.rest();
        Ok(Self { sandbox, path: log_of(database) })
    }

    /// Begins the transaction: on the writer's thread, between two commits, where the log stands still.
    pub(super) fn begin(self, change: u64, keys: Vec<u8>) -> Result<Pinned, SqliteError> {
        let Self { sandbox, path } = self;
        sandbox.run_own(c"BEGIN")?;
        let pages = sandbox.run_own(c"PRAGMA page_count")?;
        let page_bytes = sandbox.run_own(c"PRAGMA page_size")?;
        let state = sandbox.handle().log_state()?;
        let number = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
        let (Some(pages), Some(page_bytes)) = (number(pages), number(page_bytes)) else {
            return Err(SqliteError::new(rusqlite::ffi::SQLITE_CORRUPT, "the database has no pages"));
        };
        Ok(Pinned { sandbox, log: None, frames: None, state, page_bytes, pages, change, keys, path })
    }
}

impl Pinned {
    /// Pages of the database.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> u32 {
        self.page_bytes
    }

    /// Reads page `page`, 1 to [`Pinned::pages`], whole. Blocks.
    pub fn read(&mut self, page: u32, buffer: &mut [u8]) -> io::Result<()> {
        if self.frames.is_none() {
            self.frames = Some(self.index()?);
        }
        let frame = self.frames.as_ref().and_then(|frames| frames.get(&page));
        if let (Some(frame), Some(log)) = (frame, &self.log) {
            let header = page_of_frame(log, &self.state, *frame)?;
            if header != page {
                return Err(io::Error::other(format!("frame {frame} holds page {header}, not {page}")));
            }
            return log.read_exact_at(buffer, offset_of(&self.state, *frame) + FRAME_HEADER_BYTES);
        }
        let offset = u64::from(page - 1) * u64::from(self.page_bytes);
        self.sandbox.handle().read_database(offset, buffer).map_err(of_sqlite)
    }

    fn index(&mut self) -> io::Result<HashMap<u32, u32>> {
        // A reader that begins when all of the log is copied reads the database alone, and nobody may copy
        // anything into that meanwhile. Otherwise the log cannot be begun anew, and what is copied meanwhile
        // are pages that are read from the log here.
        if self.state.frames == self.state.copied {
            return Ok(HashMap::new());
        }
        let log = File::open(&self.path)?;
        let frames = (1..=self.state.frames)
            .map(|frame| page_of_frame(&log, &self.state, frame).map(|page| (page, frame)))
            .collect::<io::Result<_>>()?;
        self.log = Some(log);
        Ok(frames)
    }
}
