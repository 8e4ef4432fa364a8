//! One request of a group: its statements, in a savepoint of its own.

use std::{ffi::CString, sync::Arc};

use springhouse_gateway::api::{
    error::{ApiError, ErrorCode},
    hot::{ExecuteRequest, Statement as Asked, StatementResult},
    types::Params,
};

use super::super::{
    QuerySettings,
    control::Control,
    errors::{self, SqliteError},
    memory, params,
    raw::{self, Statement, Value},
    sandbox::Sandbox,
};

/// Why a request was not applied.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It alone: what came before it in the group stands.
    Alone(ApiError),
    /// SQLite rolled the whole transaction back: what came before it has to be run again.
    All(ApiError),
}

pub(super) struct Run<'a> {
    pub(super) sandbox: &'a Sandbox,
    pub(super) settings: &'a QuerySettings,
    pub(super) control: &'a Arc<Control>,
}

impl Run<'_> {
    /// Applies `request` as a whole or not at all.
    pub(super) fn apply(&self, request: &ExecuteRequest) -> Result<Vec<StatementResult>, Refusal> {
        self.own(c"SAVEPOINT request").map_err(Refusal::All)?;
        let outcome = self.bounded(request).and_then(|results| {
            self.own(c"RELEASE request")?;
            Ok(results)
        });
        outcome.map_err(|error| {
            if self.sandbox.handle().is_autocommit() {
                return Refusal::All(error);
            }
            match self.own(c"ROLLBACK TO request").and_then(|()| self.own(c"RELEASE request")) {
                Ok(()) => Refusal::Alone(error),
                Err(_) => Refusal::All(error),
            }
        })
    }

    /// Runs the statements within the limits of time and memory, which are the request's alone.
    fn bounded(&self, request: &ExecuteRequest) -> Result<Vec<StatementResult>, ApiError> {
        // Nobody sees what rows others have inserted.
        self.sandbox.handle().set_last_insert_rowid(0);
        let _memory = memory::Scope::enter(self.settings.query_memory_bytes, self.control);
        self.sandbox.work_for(self.control);
        let outcome = match request {
            ExecuteRequest::Script(script) => self.script(&script.sql, false),
            ExecuteRequest::Trough(sql) => self.of_trough(sql),
            ExecuteRequest::Statements(list) => {
                let numbered = list.statements.iter().enumerate();
                numbered.map(|(at, asked)| self.asked(asked).map_err(|e| about(at, e))).collect()
            }
        };
        self.sandbox.rest();
        outcome
    }

    fn own(&self, sql: &std::ffi::CStr) -> Result<(), ApiError> {
        self.sandbox.run_own(sql).map(drop).map_err(|error| self.failure(&error, ""))
    }

    /// A script of a client of Trough: `"x"` may be a text, statements may hold thousands of rows, and
    /// SQLite's words are left as they are.
    fn of_trough(&self, sql: &str) -> Result<Vec<StatementResult>, ApiError> {
        let understand = |on| {
            let set = self.sandbox.quote_texts_like_names(on);
            set.and_then(|()| self.sandbox.hold_rows(on, &self.settings.sql))
                .map_err(|error| self.failure(&error, ""))
        };
        let outcome = understand(true).and_then(|()| self.script(sql, true));
        understand(false)?;
        outcome
    }

    /// Statements with semicolons between them. A parameter is NULL.
    fn script(&self, sql: &str, is_trough: bool) -> Result<Vec<StatementResult>, ApiError> {
        let text = if is_trough { self.text(sql, usize::MAX) } else { self.limited(sql) }?;
        let failed = |error: SqliteError| {
            let offset = error.offset.filter(|_| !is_trough);
            self.failure(&SqliteError { offset, ..error }, sql)
        };
        let mut results = Vec::new();
        let mut at = 0;
        while at < sql.len() {
            self.check()?;
            let (statement, end) = self.sandbox.compile(&text, at).map_err(failed)?;
            if let Some(mut statement) = statement {
                let mut counted = Counted::new(self);
                counted.run(&mut statement, sql)?;
                results.push(counted.result(&statement));
            }
            at = end.max(at + 1);
        }
        if results.is_empty() {
            return Err(ApiError::new(ErrorCode::SqlError, "there is no statement"));
        }
        Ok(results)
    }

    /// One statement, once or for each row of parameters.
    fn asked(&self, asked: &Asked) -> Result<StatementResult, ApiError> {
        let sql = asked.sql.trim();
        let text = self.limited(sql)?;
        let mut statement = match self.sandbox.kept(&text) {
            Some(statement) => statement,
            None => self.only(&text, sql)?,
        };
        let mut counted = Counted::new(self);
        match (&asked.params, &asked.rows) {
            (Some(_), Some(_)) => {
                return Err(bad("a statement has either params or rows"));
            }
            (None, Some(rows)) => {
                let expected = statement.parameter_count();
                for (at, row) in rows.iter().enumerate() {
                    let in_row = |error: ApiError| ApiError {
                        message: format!("row {}: {}", at + 1, error.message),
                        ..error
                    };
                    self.check()?;
                    let values = params::row(row, expected).map_err(in_row)?;
                    self.bind(&statement, &values, sql).map_err(in_row)?;
                    counted.run(&mut statement, sql).map_err(in_row)?;
                    statement.reset();
                }
            }
            (params, None) => {
                let names: Vec<_> =
                    (1..=statement.parameter_count()).map(|at| statement.parameter_name(at)).collect();
                let none = Params::default();
                let values = params::resolve(params.as_ref().unwrap_or(&none), &names)?;
                self.bind(&statement, &values, sql)?;
                counted.run(&mut statement, sql)?;
            }
        }
        let result = counted.result(&statement);
        self.sandbox.keep(text, statement);
        Ok(result)
    }

    /// The one statement of `sql`.
    fn only(&self, text: &CString, sql: &str) -> Result<Statement<'_>, ApiError> {
        let mut only = None;
        let mut at = 0;
        while at < sql.len() {
            self.check()?;
            let (statement, end) =
                self.sandbox.compile(text, at).map_err(|error| self.failure(&error, sql))?;
            if statement.is_some() && only.is_some() {
                return Err(ApiError::new(
                    ErrorCode::SqlError,
                    "there is more than one statement; give each its own entry, or all as a script in `sql`",
                ));
            }
            only = only.or(statement);
            at = end.max(at + 1);
        }
        only.ok_or_else(|| ApiError::new(ErrorCode::SqlError, "there is no statement"))
    }

    fn limited(&self, sql: &str) -> Result<CString, ApiError> {
        self.text(sql, self.settings.sql.statement_bytes as usize)
    }

    fn text(&self, sql: &str, max: usize) -> Result<CString, ApiError> {
        if sql.len() > max {
            return Err(ApiError::new(
                ErrorCode::SqlError,
                format!("the statement is {} bytes long; at most {max} are allowed", sql.len()),
            ));
        }
        raw::c_string(sql)
            .ok_or_else(|| ApiError::new(ErrorCode::SqlError, "the statement holds a NUL character"))
    }

    fn bind(&self, statement: &Statement<'_>, values: &[Value], sql: &str) -> Result<(), ApiError> {
        for (at, value) in values.iter().enumerate() {
            statement.bind(at + 1, value).map_err(|error| self.failure(&error, sql))?;
        }
        Ok(())
    }

    /// The progress handler counts instructions of one step; many short steps never get that far.
    fn check(&self) -> Result<(), ApiError> {
        match self.control.stop() {
            Some(stop) => Err(errors::stopped(stop)),
            None => Ok(()),
        }
    }

    fn failure(&self, error: &SqliteError, sql: &str) -> ApiError {
        errors::from_sqlite(
            error,
            errors::Context {
                sql,
                denial: self.sandbox.take_denial(),
                stop: self.control.stop(),
                value_bytes: self.settings.sql.value_bytes,
                memory_bytes: self.settings.query_memory_bytes,
            },
        )
    }
}

/// What one statement changes, over all its runs.
struct Counted<'r, 'a> {
    run: &'r Run<'a>,
    rows_affected: u64,
}

impl<'r, 'a> Counted<'r, 'a> {
    fn new(run: &'r Run<'a>) -> Self {
        Self { run, rows_affected: 0 }
    }

    /// Runs it to its end; rows that it gives are nobody's.
    fn run(&mut self, statement: &mut Statement<'_>, sql: &str) -> Result<(), ApiError> {
        let handle = self.run.sandbox.handle();
        let before = handle.total_changes();
        while statement.step().map_err(|error| self.run.failure(&error, sql))? {}
        // The count of a statement that changes no rows by its nature is that of the one before it.
        if handle.total_changes() != before {
            self.rows_affected += handle.changes();
        }
        Ok(())
    }

    fn result(&self, statement: &Statement<'_>) -> StatementResult {
        let inserted = statement.inserts() && self.rows_affected > 0;
        StatementResult {
            rows_affected: self.rows_affected,
            last_insert_rowid: inserted.then(|| self.run.sandbox.handle().last_insert_rowid()),
        }
    }
}

fn bad(why: &str) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, why)
}

/// Which statement of several an error is about.
fn about(at: usize, error: ApiError) -> ApiError {
    ApiError { message: format!("statement {}: {}", at + 1, error.message), ..error }
}
