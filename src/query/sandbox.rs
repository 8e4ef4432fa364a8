//! One connection to one segment, on which SQL from outside may run.
//!
//! For queries three walls stand behind each other: the file is opened read-only; the authorizer lets
//! only reading through, by name; and a statement must be read-only and give columns before it is run.
//! A generation never changes, so it is opened `immutable`: SQLite takes no lock, looks for no journal
//! and sees no change. That would be wrong for a file with a WAL (see `pool`).
//!
//! A writer's connection (`write`) has the same limits, and an authorizer that lets the segment's own
//! rows and schema be changed and nothing else.

use std::{
    cell::RefCell,
    ffi::{CStr, CString, c_char, c_int, c_void},
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, config::DbConfig, ffi, limits::Limit};

use super::{
    QuerySettings, SqlLimits, archive_it, authorize,
    control::Control,
    errors::SqliteError,
    functions,
    raw::{Handle, RawStatement, Statement, ValueRef},
    regexp,
};

/// Virtual tables that may be used. Not among them: `dbstat`, which reads every page of the file.
/// (`pragma_…` tables come into being when they are named; the authorizer decides about them.)
const MODULES: [&CStr; 10] = [
    c"fts3",
    c"fts4",
    c"fts4aux",
    c"fts5",
    c"fts5vocab",
    c"json_each",
    c"json_tree",
    c"rtree",
    c"rtree_i32",
    c"fts3tokenize",
];

/// Instructions between two looks at the deadline: some microseconds of plain instructions, under 2 % of
/// their time. More would let a deadline wait for that many expensive ones (a function over 32 MiB).
const INSTRUCTIONS_PER_CHECK: c_int = 200;

/// How many pages a writer's log may have before they are copied into the database: at 4 KiB 16 MiB, so
/// that a load of small transactions is not held up by that too often.
const LOG_PAGES: u32 = 4096;

/// A log that a long reader let grow is cut back to so much.
const LOG_BYTES: u64 = 64 << 20;

/// How deep triggers may call each other.
const TRIGGER_DEPTH: i32 = 100;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Reading a file that never changes.
    Fixed,
    /// Reading a database that may be written meanwhile.
    Live,
    /// Writing.
    Write,
    /// Reading all of it to write a copy: only statements of ours run on it, without the limits of a
    /// client's.
    Copy,
}

/// What the callbacks of a connection share with it.
#[derive(Debug)]
struct Shared {
    purpose: Purpose,
    /// The statement is ours, not a client's.
    own: AtomicBool,
    /// The statement that is compiled inserts rows.
    inserts: AtomicBool,
    /// The running query's.
    control: Mutex<Option<Arc<Control>>>,
    /// The last thing that the authorizer refused.
    denial: Mutex<Option<String>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Sandbox {
    // Order matters: statements are finalised before their connection closes, and the connection
    // before what its callbacks point to.
    statements: RefCell<Vec<(CString, RawStatement)>>,
    statements_max: usize,
    connection: Connection,
    shared: Arc<Shared>,
}

impl Sandbox {
    /// Opens the file and reads its schema.
    pub(super) fn open(
        file: &Path,
        purpose: Purpose,
        settings: &QuerySettings,
        control: &Arc<Control>,
    ) -> Result<Self, SqliteError> {
        let flags = OpenFlags::SQLITE_OPEN_URI
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW
            | match purpose {
                Purpose::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
                Purpose::Fixed | Purpose::Live | Purpose::Copy => OpenFlags::SQLITE_OPEN_READ_ONLY,
            };
        let mut connection =
            Connection::open_with_flags(uri_of(file, purpose), flags).map_err(|e| of_rusqlite(&e))?;
        let shared = Arc::new(Shared {
            purpose,
            own: AtomicBool::new(false),
            inserts: AtomicBool::new(false),
            control: Mutex::default(),
            denial: Mutex::default(),
        });
        let asked = Arc::clone(&shared);
        connection
            .progress_handler(
                INSTRUCTIONS_PER_CHECK,
                Some(move || asked.control.lock().as_ref().is_some_and(|control| control.stop().is_some())),
            )
            .map_err(|e| of_rusqlite(&e))?;
        *shared.control.lock() = Some(Arc::clone(control));
        harden(&connection, purpose, settings).map_err(|e| of_rusqlite(&e))?;
        functions::install(Handle::of(&connection))?;
        regexp::install(&connection).map_err(|e| of_rusqlite(&e))?;
        archive_it::install(&connection).map_err(|e| of_rusqlite(&e))?;
        set_authorizer(&connection, &shared)?;
        let sandbox = Self {
            statements: RefCell::new(Vec::new()),
            statements_max: settings.statements_per_connection_max,
            connection,
            shared,
        };
        // A file that is no database shows now, not in somebody's statement.
        let mut first = sandbox.compile(c"SELECT 1 FROM sqlite_schema LIMIT 1", 0)?.0;
        if let Some(statement) = &mut first {
            statement.step()?;
        }
        drop(first);
        Ok(sandbox)
    }

    /// Which query the connection works for from now on.
    pub(super) fn work_for(&self, control: &Arc<Control>) {
        *self.shared.denial.lock() = None;
        *self.shared.control.lock() = Some(Arc::clone(control));
        control.set_connection(Some(self.connection.get_interrupt_handle()));
    }

    /// From now on it works for nobody, and nobody can interrupt it.
    pub(super) fn rest(&self) {
        if let Some(control) = self.shared.control.lock().take() {
            control.set_connection(None);
        }
        *self.shared.denial.lock() = None;
    }

    /// Whether `"x"` in statements that are compiled from now on is a text where it is no name.
    pub(super) fn quote_texts_like_names(&self, on: bool) -> Result<(), SqliteError> {
        let set = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, on);
        set.map(drop).map_err(|e| of_rusqlite(&e))
    }

    /// Whether statements that are compiled from now on may hold rows by the thousand: then the limits of
    /// their text and program are SQLite's own. Memory and time stay what they are.
    pub(super) fn hold_rows(&self, on: bool, usual: &SqlLimits) -> Result<(), SqliteError> {
        for (limit, usual) in [
            (Limit::SQLITE_LIMIT_SQL_LENGTH, usual.statement_bytes),
            (Limit::SQLITE_LIMIT_COMPOUND_SELECT, usual.compound_selects),
            (Limit::SQLITE_LIMIT_VDBE_OP, usual.instructions),
        ] {
            // What is too great SQLite makes its greatest.
            let value = if on { i32::MAX } else { i32::try_from(usual).unwrap_or(i32::MAX) };
            self.connection.set_limit(limit, value).map_err(|e| of_rusqlite(&e))?;
        }
        Ok(())
    }

    /// What the authorizer refused since [`Sandbox::work_for`].
    pub(super) fn take_denial(&self) -> Option<String> {
        self.shared.denial.lock().take()
    }

    /// A kept statement of exactly this text, or a new one: see [`Handle::compile`].
    pub(super) fn compile<'c>(
        &'c self,
        sql: &CStr,
        base: usize,
    ) -> Result<(Option<Statement<'c>>, usize), SqliteError> {
        self.shared.inserts.store(false, Relaxed);
        let (mut statement, end) = self.handle().compile(sql, base)?;
        if let Some(statement) = &mut statement {
            statement.set_inserts(self.shared.inserts.load(Relaxed));
        }
        Ok((statement, end))
    }

    /// The connection's handle.
    pub(super) fn handle(&self) -> Handle<'_> {
        Handle::of(&self.connection)
    }

    /// Runs a statement of ours, past the authorizer, to its end; gives the first value of its first row
    /// if that is a number.
    pub(super) fn run_own(&self, sql: &CStr) -> Result<Option<i64>, SqliteError> {
        self.shared.own.store(true, Relaxed);
        let outcome = self.run_to_end(sql);
        self.shared.own.store(false, Relaxed);
        outcome
    }

    /// Writes what one transaction of the database sees to a new file.
    pub(super) fn vacuum_into(&self, target: &Path) -> Result<(), SqliteError> {
        let mut sql = b"VACUUM INTO '".to_vec();
        for &byte in target.as_os_str().as_bytes() {
            sql.push(byte);
            if byte == b'\'' {
                sql.push(byte);
            }
        }
        sql.push(b'\'');
        let sql = CString::new(sql).map_err(|_| SqliteError::new(ffi::SQLITE_CANTOPEN, "NUL in a path"))?;
        self.run_own(&sql).map(drop)
    }

    fn run_to_end(&self, sql: &CStr) -> Result<Option<i64>, SqliteError> {
        let Some(mut statement) = self.handle().compile(sql, 0)?.0 else { return Ok(None) };
        let mut first = None;
        while statement.step()? {
            if first.is_none()
                && statement.column_count() > 0
                && let ValueRef::Integer(number) = statement.value(0)?
            {
                first = Some(number);
            }
        }
        Ok(first)
    }

    /// The statement of this text that was kept, if there is one. It was found good when it was compiled.
    #[allow(unsafe_code)] // joins a statement with the connection that it is kept beside
    pub(super) fn kept<'c>(&'c self, sql: &CStr) -> Option<Statement<'c>> {
        let mut statements = self.statements.borrow_mut();
        let at = statements.iter().position(|(text, _)| text.as_c_str() == sql)?;
        let (_, statement) = statements.remove(at);
        // SAFETY: only statements of this connection are kept here.
        Some(unsafe { statement.attach(Handle::of(&self.connection)) })
    }

    /// Keeps a statement for the next query of the same text.
    pub(super) fn keep(&self, sql: CString, statement: Statement<'_>) {
        if self.statements_max == 0 {
            return;
        }
        let mut statements = self.statements.borrow_mut();
        if statements.len() >= self.statements_max {
            statements.remove(0);
        }
        statements.push((sql, statement.detach()));
    }

    /// Pages that SQLite found in its cache and pages that it had to read, since the last call.
    pub(super) fn take_page_counts(&self) -> (u64, u64) {
        let handle = Handle::of(&self.connection);
        (
            handle.take_status(ffi::SQLITE_DBSTATUS_CACHE_HIT),
            handle.take_status(ffi::SQLITE_DBSTATUS_CACHE_MISS),
        )
    }
}

/// `file:///path?mode=ro&immutable=1`, with everything escaped that a URI could read otherwise.
fn uri_of(file: &Path, purpose: Purpose) -> String {
    let mut uri = String::from("file://");
    for &byte in file.as_os_str().as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                uri.push(byte as char);
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri.push_str(match purpose {
        Purpose::Fixed => "?mode=ro&immutable=1",
        Purpose::Live | Purpose::Copy => "?mode=ro",
        Purpose::Write => "?mode=rw",
    });
    uri
}

fn of_rusqlite(error: &rusqlite::Error) -> SqliteError {
    let code = error.sqlite_extended_error_code().unwrap_or(ffi::SQLITE_ERROR);
    // While opening, the call that failed is the last one of this thread.
    let errno = match code & 0xff {
        ffi::SQLITE_CANTOPEN | ffi::SQLITE_IOERR => {
            std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
        }
        _ => 0,
    };
    // Not `rusqlite`'s words: they name the file.
    SqliteError { errno, ..SqliteError::new(code, ffi::code_to_str(code)) }
}

fn harden(connection: &Connection, purpose: Purpose, settings: &QuerySettings) -> rusqlite::Result<()> {
    use DbConfig as D;
    let writes = purpose == Purpose::Write;
    for (option, on) in [
        (D::SQLITE_DBCONFIG_DEFENSIVE, true),
        (D::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (D::SQLITE_DBCONFIG_ENABLE_TRIGGER, writes),
        // As SQLite has it unless it is told otherwise, and so the programs that made the segments.
        (D::SQLITE_DBCONFIG_ENABLE_FKEY, false),
        (D::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false),
        (D::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
        // VACUUM INTO attaches what it writes.
        (D::SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, purpose == Purpose::Copy),
        (D::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE, purpose == Purpose::Copy),
        // "x" is a name and never quietly a text. In the schema of an old file it may still be one.
        (D::SQLITE_DBCONFIG_DQS_DML, false),
        (D::SQLITE_DBCONFIG_ENABLE_VIEW, true),
    ] {
        connection.set_db_config(option, on)?;
    }
    if purpose == Purpose::Copy {
        return connection.execute_batch("PRAGMA temp_store = MEMORY; PRAGMA cell_size_check = ON");
    }
    let sql = &settings.sql;
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_LENGTH, sql.value_bytes),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, sql.statement_bytes),
        (Limit::SQLITE_LIMIT_COLUMN, sql.columns),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, sql.expression_depth),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, sql.compound_selects),
        (Limit::SQLITE_LIMIT_VDBE_OP, sql.instructions),
        (Limit::SQLITE_LIMIT_FUNCTION_ARG, sql.function_arguments),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, sql.like_pattern_bytes),
        (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, sql.parameters),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
        (Limit::SQLITE_LIMIT_SCHEMA, sql.schema_objects),
    ] {
        connection.set_limit(limit, i32::try_from(value).unwrap_or(i32::MAX))?;
    }
    connection.set_limit(Limit::SQLITE_LIMIT_TRIGGER_DEPTH, if writes { TRIGGER_DEPTH } else { 1 })?;
    drop_modules(connection)?;
    connection.execute_batch(&format!(
        "PRAGMA temp_store = MEMORY; PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0;
         PRAGMA cache_size = -{}; {}",
        settings.page_cache_bytes / 1024,
        // FULL: the log is synchronised at each commit, so that an answer is a promise.
        if writes {
            format!(
                "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = {LOG_PAGES}; \
                 PRAGMA journal_size_limit = {LOG_BYTES}"
            )
        } else {
            "PRAGMA query_only = ON".into()
        }
    ))
}

#[allow(unsafe_code)] // `rusqlite` has no call for it
fn drop_modules(connection: &Connection) -> rusqlite::Result<()> {
    let mut keep: Vec<*const c_char> = MODULES.iter().map(|name| name.as_ptr()).collect();
    keep.push(std::ptr::null());
    // SAFETY: the handle is open; `keep` is an array of C strings that ends in NULL, read only now.
    let code = unsafe { ffi::sqlite3_drop_modules(connection.handle(), keep.as_mut_ptr()) };
    if code == ffi::SQLITE_OK {
        Ok(())
    } else {
        Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))
    }
}

/// `rusqlite`'s authorizer panics (and prints it) on a table name that is not UTF-8: a hostile segment
/// could fill the log. So this one is set directly.
#[allow(unsafe_code)]
fn set_authorizer(connection: &Connection, shared: &Arc<Shared>) -> Result<(), SqliteError> {
    let handle = Handle::of(connection);
    // SAFETY: `shared` is on the heap and lives until after the connection is closed (field order of
    // `Sandbox`).
    let code = unsafe {
        ffi::sqlite3_set_authorizer(
            handle.as_ptr(),
            Some(authorizer),
            Arc::as_ptr(shared).cast_mut().cast::<c_void>(),
        )
    };
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(handle.error(code, 0)) }
}

#[allow(unsafe_code)]
unsafe extern "C" fn authorizer(
    shared: *mut c_void,
    action: c_int,
    first: *const c_char,
    second: *const c_char,
    _database: *const c_char,
    accessor: *const c_char,
) -> c_int {
    // SAFETY: SQLite gives back the pointer of `set_authorizer`, and C strings or NULL.
    let (shared, first, second) = unsafe {
        let text = |at: *const c_char| {
            if at.is_null() { Default::default() } else { CStr::from_ptr(at).to_string_lossy() }
        };
        (&*shared.cast::<Shared>().cast_const(), text(first), text(second))
    };
    if shared.own.load(Relaxed) {
        return ffi::SQLITE_OK;
    }
    // `accessor` names the trigger or view on whose behalf it is.
    if action == ffi::SQLITE_INSERT && accessor.is_null() {
        shared.inserts.store(true, Relaxed);
    }
    let decision = match shared.purpose {
        Purpose::Fixed | Purpose::Live | Purpose::Copy => authorize::decide(action, &first, &second),
        Purpose::Write => authorize::decide_write(action, &first, &second),
    };
    match decision {
        Ok(()) => ffi::SQLITE_OK,
        Err(denial) => {
            *shared.denial.lock() = Some(denial);
            ffi::SQLITE_DENY
        }
    }
}

/// Version of the SQLite in this binary.
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

/// How the SQLite in this binary was built.
#[allow(unsafe_code)] // `rusqlite` has no call for compile options
pub fn sqlite_compile_options() -> Vec<String> {
    (0..)
        .map_while(|number| {
            // SAFETY: any number may be asked for; the answer is NULL or a static text.
            unsafe {
                let option = ffi::sqlite3_compileoption_get(number);
                (!option.is_null()).then(|| CStr::from_ptr(option).to_string_lossy().into_owned())
            }
        })
        .collect()
}

/// Checks that SQLite was built as the sandbox needs it.
///
/// # Errors
/// One line with what is missing and how to build it.
#[allow(unsafe_code)] // `rusqlite` has no call for compile options
pub(super) fn check_build() -> Result<(), String> {
    for option in [c"MAX_MMAP_SIZE=0", c"ENABLE_FTS5", c"THREADSAFE=1"] {
        // SAFETY: a C string that SQLite only reads.
        if unsafe { ffi::sqlite3_compileoption_used(option.as_ptr()) } == 0 {
            return Err(format!(
                "SQLite was built without SQLITE_{}: build in the repository, where .cargo/config.toml sets LIBSQLITE3_FLAGS, and do not set that variable otherwise",
                option.to_string_lossy()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_escapes_what_a_uri_would_read() {
        assert_eq!(
            uri_of(Path::new("/a b/ü?x#y%z&=.sqlite"), Purpose::Fixed),
            "file:///a%20b/%C3%BC%3Fx%23y%25z%26%3D.sqlite?mode=ro&immutable=1"
        );
    }

    #[test]
    fn the_build_is_right() {
        assert_eq!(check_build(), Ok(()));
    }
}
