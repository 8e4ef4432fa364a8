//! One query on one connection.

use std::{
    ffi::CString,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use springhouse_fuse::store::Generation;
use springhouse_gateway::api::{
    error::{ApiError, ErrorCode},
    types::Params,
};

use super::{
    QuerySettings,
    answer::Sender,
    control::Control,
    encode::{Encoder, Format, RowError},
    errors::{self, SqliteError},
    params,
    pool::{Pool, Pooled},
    raw::{self, Statement},
};
use crate::clock;

/// What is asked of the engine.
#[derive(Debug, Clone)]
pub struct Query {
    /// The segment's path below the store's root.
    pub path: String,
    /// The generation in the catalog; one that is found newer in the store is answered from.
    pub expected: Option<Generation>,
    /// One statement.
    pub sql: String,
    /// Its parameters.
    pub params: Params,
    /// Stop after so many rows and say that more would come.
    pub rows_max: Option<u64>,
    /// How the answer is written.
    pub format: Format,
    /// When it must be done, the time in the queue included.
    pub deadline: Instant,
}

/// The first chunk goes out after so many bytes or so long; small answers go out whole.
const FIRST_CHUNK_BYTES: usize = 16 << 10;
const CHUNK_BYTES: usize = 64 << 10;
const CHUNK_AGE: Duration = Duration::from_millis(20);

/// How a query that began to answer ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) error: Option<ErrorCode>,
    /// The connection must not be used again.
    pub(super) spoilt: bool,
    /// The end of the answer; not yet sent, so that the connection is back in the pool before the client
    /// can ask again. `None`: nobody reads it.
    pub(super) last: Option<Bytes>,
}

/// A query that failed before its first row.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: ApiError,
    pub(super) spoilt: bool,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self { error, spoilt: false }
    }
}

pub(super) struct Run<'a> {
    pub(super) settings: &'a QuerySettings,
    pub(super) pool: &'a Pool,
    pub(super) query: &'a Query,
    pub(super) control: &'a Arc<Control>,
    pub(super) pooled: &'a Pooled,
}

/// Why rows ended before their end.
enum Broken {
    /// The query failed.
    Failed(Failure),
    /// Nobody reads the answer, or not in time.
    Unread(ErrorCode),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Run<'_> {
    /// Runs it. As long as nothing was sent it can fail as a whole; then, the answer itself says so.
    pub(super) fn run(&self, sender: &mut Sender) -> Result<Outcome, Failure> {
        let (sql, mut statement) = self.prepare()?;
        self.bind(&statement)?;
        let row_bytes_max = u64::from(self.settings.sql.value_bytes).saturating_mul(2).max(1 << 20);
        let mut encoder = Encoder::new(self.query.format, self.settings.answer_bytes_max, row_bytes_max);
        let (mut error, mut spoilt) = (None, false);
        match self.rows(&mut statement, &mut encoder, sender) {
            Ok(truncated) => encoder.end(truncated),
            Err(Broken::Failed(failure)) => {
                // Trough's format has no place for an error: as long as nothing was sent, it is the answer.
                let is_answer = encoder.rows() == 0 || self.query.format == Format::Trough;
                if encoder.taken() == 0 && (is_answer || is_of_segment(failure.error.code)) {
                    return Err(failure);
                }
                encoder.fail(&failure.error);
                (error, spoilt) = (Some(failure.error.code), failure.spoilt);
            }
            Err(Broken::Unread(code)) => {
                let (rows, bytes) = (encoder.rows(), encoder.bytes());
                return Ok(Outcome { rows, bytes, error: Some(code), spoilt, last: None });
            }
        }
        if !spoilt {
            self.pooled.sandbox().keep(sql, statement);
        }
        let (rows, bytes) = (encoder.rows(), encoder.bytes());
        Ok(Outcome { rows, bytes, error, spoilt, last: Some(encoder.take()) })
    }

    /// Writes head and rows, and sends them but for the last; whether there would have been more.
    fn rows(
        &self,
        statement: &mut Statement<'_>,
        encoder: &mut Encoder,
        sender: &mut Sender,
    ) -> Result<bool, Broken> {
        let before = self.pool.seen(self.pooled);
        let columns = statement.columns().map_err(|e| self.failure(&e))?;
        let mut chunk_bytes = FIRST_CHUNK_BYTES;
        let mut chunk_start = clock::now();
        let mut more = statement.step().map_err(|e| self.failure(&e));
        // What the statement sees is fixed by its first step.
        let generation = self.pool.name(self.pooled, before);
        sender.name(generation);
        let columns = encoder.head(generation, &columns);
        loop {
            let truncated = match &more {
                Ok(true) if Some(encoder.rows()) != self.query.rows_max => None,
                Ok(more) => Some(*more),
                Err(_) => Some(false),
            };
            let full = encoder.ready() >= chunk_bytes
                || clock::now().saturating_duration_since(chunk_start) >= CHUNK_AGE;
            if truncated.is_some() || full {
                // Rows that are not sent yet may be of two generations.
                self.pool.verify(self.pooled).map_err(|error| {
                    encoder.discard();
                    Failure { error, spoilt: true }
                })?;
            }
            if let Some(truncated) = truncated {
                more?;
                return Ok(truncated);
            }
            if full && encoder.rows() > 0 {
                sender.send(encoder.take()).map_err(Broken::Unread)?;
                chunk_bytes = CHUNK_BYTES;
                chunk_start = clock::now();
            }
            more = self.row(encoder, statement, &columns);
        }
    }

    /// Writes the current row and steps to the next.
    fn row(
        &self,
        encoder: &mut Encoder,
        statement: &mut Statement<'_>,
        columns: &[usize],
    ) -> Result<bool, Failure> {
        if encoder.rows() >= self.settings.rows_max {
            return Err(Failure::from(ApiError::new(
                ErrorCode::RowLimit,
                format!("the answer has more than {} rows; the rows before are here", self.settings.rows_max),
            )));
        }
        // The progress handler counts instructions of one step; many short steps never get that far.
        if let Some(stop) = self.control.stop() {
            return Err(errors::stopped(stop).into());
        }
        let values = columns.iter().map(|&column| statement.value(column));
        encoder.row(values).map_err(|error| match error {
            RowError::Limit(error) => error.into(),
            RowError::Value(error) => self.failure(&error),
        })?;
        statement.step().map_err(|e| self.failure(&e))
    }

    /// The one statement, from the connection's kept ones or compiled.
    fn prepare(&self) -> Result<(CString, Statement<'_>), Failure> {
        let bad = |why: String| Failure::from(ApiError::new(ErrorCode::SqlError, why));
        let sql = self.query.sql.trim();
        if sql.len() > self.settings.sql.statement_bytes as usize {
            return Err(bad(format!(
                "the statement is {} bytes long; at most {} are allowed",
                sql.len(),
                self.settings.sql.statement_bytes
            )));
        }
        // Trough's SQLite takes "x" for a text where no column has that name. Such statements are kept
        // apart: no other ends in a blank.
        let is_trough = self.query.format == Format::Trough;
        self.pooled.sandbox().quote_texts_like_names(is_trough).map_err(|error| self.failure(&error))?;
        let Some(text) = raw::c_string(&format!("{sql}{}", if is_trough { " " } else { "" })) else {
            return Err(bad("the statement holds a NUL character".into()));
        };
        if let Some(statement) = self.pooled.sandbox().kept(&text) {
            return Ok((text, statement));
        }
        let mut only = None;
        let mut at = 0;
        while at < sql.len() {
            if let Some(stop) = self.control.stop() {
                return Err(errors::stopped(stop).into());
            }
            match self.pooled.sandbox().compile(&text, at) {
                Ok((Some(_), _)) if only.is_some() => {
                    return Err(bad("there is more than one statement".into()));
                }
                Ok((statement, end)) => {
                    only = only.or(statement);
                    at = end.max(at + 1);
                }
                Err(_) if only.is_some() => {
                    self.pooled.sandbox().take_denial();
                    return Err(bad("there is more than one statement".into()));
                }
                Err(error) => return Err(self.failure(&error)),
            }
        }
        let Some(mut statement) = only else { return Err(bad("there is no statement".into())) };
        if !statement.is_readonly() || statement.column_count() == 0 {
            return Err(ApiError::new(
                ErrorCode::SqlForbidden,
                "only statements that read and give rows are allowed: SELECT, VALUES, WITH, EXPLAIN and some PRAGMAs",
            )
            .into());
        }
        // Of a kept statement they were told when it was new.
        self.pool.hint(self.pooled, &mut statement).map_err(|error| self.failure(&error))?;
        Ok((text, statement))
    }

    fn bind(&self, statement: &Statement<'_>) -> Result<(), Failure> {
        let names: Vec<_> =
            (1..=statement.parameter_count()).map(|at| statement.parameter_name(at)).collect();
        for (at, value) in params::resolve(&self.query.params, &names)?.iter().enumerate() {
            statement.bind(at + 1, value).map_err(|e| self.failure(&e))?;
        }
        Ok(())
    }

    fn failure(&self, error: &SqliteError) -> Failure {
        let mut told = error.clone();
        if self.query.format == Format::Trough {
            told.offset = None; // in SQLite's words alone
        }
        Failure {
            error: self.pool.api_error(
                &told,
                Some(self.pooled.sandbox()),
                self.query.sql.trim(),
                self.control,
            ),
            spoilt: error.spoils_connection(),
        }
    }
}

/// Whether an error is the segment's, not the query's: another generation or worker may do better, as long
/// as nothing was sent.
fn is_of_segment(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::SegmentReplaced
            | ErrorCode::SegmentNotFound
            | ErrorCode::SegmentCorrupt
            | ErrorCode::StoreUnavailable
    )
}
