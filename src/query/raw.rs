//! SQLite statements that are safe on hostile input.
//!
//! `rusqlite`'s own statements panic on column names that are not UTF-8 and on text that SQLite has no
//! memory to convert; a hostile segment or a memory limit brings about both. Hence this thin layer.

#![allow(unsafe_code)] // The C interface of statements; every block says why it is sound.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    marker::PhantomData,
    ptr::{self, NonNull},
};

use rusqlite::ffi;
use springhouse_gateway::api::types::Column;

use super::errors::SqliteError;

/// Instructions of a program that are looked at for the trees it opens: about half a microsecond each.
const EXPLAINED_MAX: usize = 400;

/// A value to bind.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Integer(i64),
    Real(f64),
    /// Usually UTF-8; a client may send other bytes on purpose.
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

/// A value of the current row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum ValueRef<'a> {
    Null,
    Integer(i64),
    Real(f64),
    /// Not checked to be UTF-8.
    Text(&'a [u8]),
    Blob(&'a [u8]),
}

/// The database handle; borrowed from the connection that owns it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handle<'c> {
    db: *mut ffi::sqlite3,
    owner: PhantomData<&'c rusqlite::Connection>,
}

impl<'c> Handle<'c> {
    pub(super) fn of(connection: &'c rusqlite::Connection) -> Self {
        // SAFETY: the lifetime ties the handle to the open connection; nothing here closes it.
        Self { db: unsafe { connection.handle() }, owner: PhantomData }
    }

    /// For callbacks and configuration that `rusqlite` has no call for.
    pub(super) fn as_ptr(self) -> *mut ffi::sqlite3 {
        self.db
    }

    /// What SQLite says of the failure `code` that it just returned.
    pub(super) fn error(self, code: c_int, base: usize) -> SqliteError {
        // SAFETY: the handle is open; the message is copied before the next call can change it.
        unsafe {
            let extended = match ffi::sqlite3_extended_errcode(self.db) {
                extended if extended & 0xff == code & 0xff => extended,
                _ => code,
            };
            let message = CStr::from_ptr(ffi::sqlite3_errmsg(self.db)).to_string_lossy().into_owned();
            let errno = match code & 0xff {
                ffi::SQLITE_IOERR | ffi::SQLITE_CANTOPEN => ffi::sqlite3_system_errno(self.db),
                _ => 0,
            };
            let offset = usize::try_from(ffi::sqlite3_error_offset(self.db)).ok().map(|at| base + at);
            SqliteError { code: extended, message, offset, errno }
        }
    }

    /// A counter of this connection, set back to zero.
    pub(super) fn take_status(self, which: c_int) -> u64 {
        let (mut current, mut highest) = (0, 0);
        // SAFETY: the handle is open, both results are ours.
        unsafe { ffi::sqlite3_db_status(self.db, which, &raw mut current, &raw mut highest, 1) };
        u64::try_from(current).unwrap_or(0)
    }

    /// Whether no transaction is open: after some failures SQLite has rolled back all of it.
    pub(super) fn is_autocommit(self) -> bool {
        // SAFETY: the handle is open.
        unsafe { ffi::sqlite3_get_autocommit(self.db) != 0 }
    }

    /// Rows that the last INSERT, UPDATE or DELETE changed itself.
    pub(super) fn changes(self) -> u64 {
        // SAFETY: the handle is open.
        u64::try_from(unsafe { ffi::sqlite3_changes64(self.db) }).unwrap_or(0)
    }

    /// Rows that all of them changed since the connection was opened, triggers included.
    pub(super) fn total_changes(self) -> i64 {
        // SAFETY: the handle is open.
        unsafe { ffi::sqlite3_total_changes64(self.db) }
    }

    pub(super) fn last_insert_rowid(self) -> i64 {
        // SAFETY: the handle is open.
        unsafe { ffi::sqlite3_last_insert_rowid(self.db) }
    }

    /// What `last_insert_rowid()` gives until the next INSERT.
    pub(super) fn set_last_insert_rowid(self, rowid: i64) {
        // SAFETY: the handle is open.
        unsafe { ffi::sqlite3_set_last_insert_rowid(self.db, rowid) };
    }

    /// Compiles the statement that starts at byte `base` of `sql`: `None` if there are only blanks and
    /// comments; and where it ends.
    pub(super) fn compile(
        self,
        sql: &CStr,
        base: usize,
    ) -> Result<(Option<Statement<'c>>, usize), SqliteError> {
        let start = &sql.to_bytes_with_nul()[base..];
        let (mut raw, mut tail): (*mut ffi::sqlite3_stmt, *const c_char) = (ptr::null_mut(), ptr::null());
        // SAFETY: `start` ends in NUL (it is the end of a CStr); the results are ours.
        let code = unsafe {
            ffi::sqlite3_prepare_v3(
                self.db,
                start.as_ptr().cast(),
                -1,
                ffi::SQLITE_PREPARE_PERSISTENT,
                &raw mut raw,
                &raw mut tail,
            )
        };
        if code != ffi::SQLITE_OK {
            return Err(self.error(code, base));
        }
        let end = if tail.is_null() {
            sql.count_bytes()
        } else {
            base + (tail as usize).saturating_sub(start.as_ptr() as usize)
        };
        let statement = NonNull::new(raw)
            .map(|raw| Statement { raw: RawStatement { statement: raw, inserts: false }, handle: self });
        Ok((statement, end))
    }
}

/// A compiled statement without the borrow of its connection, for keeping beside it.
#[derive(Debug)]
pub(super) struct RawStatement {
    statement: NonNull<ffi::sqlite3_stmt>,
    inserts: bool,
}

// SAFETY: a statement may move between threads with its connection as long as one thread at a time uses
// the two; SQLite is built thread-safe and the owner is not `Sync`.
unsafe impl Send for RawStatement {}

impl RawStatement {
    /// Joins it with its connection again.
    ///
    /// # Safety
    /// `handle` must be of the connection that compiled it.
    pub(super) unsafe fn attach(self, handle: Handle<'_>) -> Statement<'_> {
        Statement { raw: self, handle }
    }
}

impl Drop for RawStatement {
    fn drop(&mut self) {
        // SAFETY: the only owner; its connection is still open (owners drop statements first).
        unsafe { ffi::sqlite3_finalize(self.statement.as_ptr()) };
    }
}

/// A compiled statement of an open connection.
#[derive(Debug)]
pub(super) struct Statement<'c> {
    raw: RawStatement,
    handle: Handle<'c>,
}

impl Statement<'_> {
    fn ptr(&self) -> *mut ffi::sqlite3_stmt {
        self.raw.statement.as_ptr()
    }

    /// Takes it from its connection's borrow, ready for another run.
    pub(super) fn detach(self) -> RawStatement {
        // SAFETY: a live statement. The result of reset repeats the last step's error.
        unsafe {
            ffi::sqlite3_reset(self.ptr());
            ffi::sqlite3_clear_bindings(self.ptr());
        }
        self.raw
    }

    /// Whether it may insert rows; only what [`Statement::set_inserts`] said of it.
    pub(super) fn inserts(&self) -> bool {
        self.raw.inserts
    }

    /// Remembers what the authorizer saw while it was compiled.
    pub(super) fn set_inserts(&mut self, inserts: bool) {
        self.raw.inserts = inserts;
    }

    /// Makes it ready for another run; parameters stay bound.
    pub(super) fn reset(&mut self) {
        // SAFETY: a live statement. The result repeats the last step's error, which was told already.
        unsafe { ffi::sqlite3_reset(self.ptr()) };
    }

    pub(super) fn is_readonly(&self) -> bool {
        // SAFETY: a live statement.
        unsafe { ffi::sqlite3_stmt_readonly(self.ptr()) != 0 }
    }

    pub(super) fn column_count(&self) -> usize {
        // SAFETY: a live statement.
        usize::try_from(unsafe { ffi::sqlite3_column_count(self.ptr()) }).unwrap_or(0)
    }

    /// Names and declared types; bytes that are not UTF-8 show as U+FFFD.
    pub(super) fn columns(&self) -> Result<Vec<Column>, SqliteError> {
        (0..self.column_count())
            .map(|column| {
                // SAFETY: a live statement, a column that it has; both texts are copied at once.
                unsafe {
                    let name = ffi::sqlite3_column_name(self.ptr(), column as c_int);
                    if name.is_null() {
                        return Err(no_memory());
                    }
                    let declared = ffi::sqlite3_column_decltype(self.ptr(), column as c_int);
                    Ok(Column {
                        name: CStr::from_ptr(name).to_string_lossy().into_owned(),
                        decl_type: (!declared.is_null())
                            .then(|| CStr::from_ptr(declared).to_string_lossy().into_owned()),
                    })
                }
            })
            .collect()
    }

    pub(super) fn parameter_count(&self) -> usize {
        // SAFETY: a live statement.
        usize::try_from(unsafe { ffi::sqlite3_bind_parameter_count(self.ptr()) }).unwrap_or(0)
    }

    /// Name with its sigil of parameter `index` (from 1); `None` for `?` and for numbers left out.
    pub(super) fn parameter_name(&self, index: usize) -> Option<String> {
        // SAFETY: a live statement; the text is copied at once.
        unsafe {
            let name = ffi::sqlite3_bind_parameter_name(self.ptr(), c_int::try_from(index).ok()?);
            (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
        }
    }

    /// Binds parameter `index` (from 1).
    pub(super) fn bind(&self, index: usize, value: &Value) -> Result<(), SqliteError> {
        let at = c_int::try_from(index).unwrap_or(c_int::MAX);
        // SAFETY: a live statement; SQLITE_TRANSIENT makes SQLite copy texts and blobs at once.
        let code = unsafe {
            match value {
                Value::Null => ffi::sqlite3_bind_null(self.ptr(), at),
                Value::Integer(integer) => ffi::sqlite3_bind_int64(self.ptr(), at, *integer),
                Value::Real(real) => ffi::sqlite3_bind_double(self.ptr(), at, *real),
                Value::Text(text) => ffi::sqlite3_bind_text64(
                    self.ptr(),
                    at,
                    text.as_ptr().cast(),
                    text.len() as u64,
                    ffi::SQLITE_TRANSIENT(),
                    ffi::SQLITE_UTF8 as _,
                ),
                // A NULL pointer would bind NULL: an empty slice's pointer is not NULL in Rust.
                Value::Blob(blob) => ffi::sqlite3_bind_blob64(
                    self.ptr(),
                    at,
                    blob.as_ptr().cast::<c_void>(),
                    blob.len() as u64,
                    ffi::SQLITE_TRANSIENT(),
                ),
            }
        };
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(self.handle.error(code, 0)) }
    }

    /// Runs to the next row; `false` at the end.
    pub(super) fn step(&mut self) -> Result<bool, SqliteError> {
        // SAFETY: a live statement; `&mut` keeps values of the row before from being used after.
        match unsafe { ffi::sqlite3_step(self.ptr()) } {
            ffi::SQLITE_ROW => Ok(true),
            ffi::SQLITE_DONE => Ok(false),
            code => Err(self.handle.error(code, 0)),
        }
    }

    /// Root pages of the tables and indexes of the main database that the compiled program opens for
    /// reading, as EXPLAIN shows them: from the program's start on, where SQLite puts them, so a look at a
    /// long one stays cheap. To be called before the first step.
    ///
    /// # Errors
    /// No memory; the statement must then not be run.
    pub(super) fn trees(&mut self) -> Result<Vec<u32>, SqliteError> {
        // SAFETY: a live statement that is not running.
        if unsafe { ffi::sqlite3_stmt_isexplain(self.ptr()) } != 0 {
            return Ok(Vec::new());
        }
        self.explain(1)?;
        let mut roots = Vec::new();
        for _ in 0..EXPLAINED_MAX {
            // It does not run the program, so nothing of the file is read; a failure shows again there.
            if !matches!(self.step(), Ok(true)) {
                break;
            }
            let (Ok(ValueRef::Text(opcode)), Ok(ValueRef::Integer(page)), Ok(ValueRef::Integer(database))) =
                (self.value(1), self.value(3), self.value(4))
            else {
                continue;
            };
            if matches!(opcode, b"OpenRead" | b"ReopenIdx")
                && database == 0
                && let Ok(root) = u32::try_from(page)
                && root > 0
                && !roots.contains(&root)
            {
                roots.push(root);
            }
        }
        self.explain(0)?;
        Ok(roots)
    }

    /// 1: a run gives the program, 0: a run runs it.
    fn explain(&mut self, mode: c_int) -> Result<(), SqliteError> {
        // SAFETY: a live statement, reset before, as the call asks; reset repeats the last step's error.
        let code = unsafe {
            ffi::sqlite3_reset(self.ptr());
            ffi::sqlite3_stmt_explain(self.ptr(), mode)
        };
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(self.handle.error(code, 0)) }
    }

    /// A value of the current row; valid until the next step.
    pub(super) fn value(&self, column: usize) -> Result<ValueRef<'_>, SqliteError> {
        let at = c_int::try_from(column).unwrap_or(c_int::MAX);
        // SAFETY: a live statement; SQLite answers NULL for columns that it has not. The bytes stay
        // until the next step, reset or conversion, all of which need `&mut` or end the borrow; each
        // column is converted once, to the type that it has.
        unsafe {
            Ok(match ffi::sqlite3_column_type(self.ptr(), at) {
                ffi::SQLITE_INTEGER => ValueRef::Integer(ffi::sqlite3_column_int64(self.ptr(), at)),
                ffi::SQLITE_FLOAT => ValueRef::Real(ffi::sqlite3_column_double(self.ptr(), at)),
                ffi::SQLITE_TEXT => {
                    let text = ffi::sqlite3_column_text(self.ptr(), at);
                    ValueRef::Text(self.bytes(text, at)?)
                }
                ffi::SQLITE_BLOB => {
                    let blob = ffi::sqlite3_column_blob(self.ptr(), at);
                    if blob.is_null() && ffi::sqlite3_errcode(self.handle.db) != ffi::SQLITE_NOMEM {
                        return Ok(ValueRef::Blob(&[])); // an empty blob has no address
                    }
                    ValueRef::Blob(self.bytes(blob.cast(), at)?)
                }
                _ => ValueRef::Null,
            })
        }
    }

    /// # Safety
    /// `data` must be what SQLite just gave for column `at`.
    unsafe fn bytes(&self, data: *const u8, at: c_int) -> Result<&[u8], SqliteError> {
        if data.is_null() {
            return Err(no_memory());
        }
        // SAFETY: SQLite gives the length of what it just gave the address of.
        unsafe {
            let len = usize::try_from(ffi::sqlite3_column_bytes(self.ptr(), at)).unwrap_or(0);
            Ok(std::slice::from_raw_parts(data, len))
        }
    }
}

fn no_memory() -> SqliteError {
    SqliteError::new(ffi::SQLITE_NOMEM, "out of memory")
}

/// The text of a statement for SQLite; `None` if it holds a NUL, where SQLite would stop reading.
pub(super) fn c_string(sql: &str) -> Option<CString> {
    CString::new(sql).ok()
}
