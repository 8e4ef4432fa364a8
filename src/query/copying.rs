//! A copy of a database in use, and whether two databases hold the same. Our own SQL only; the file is one
//! that a worker writes, whose schema is not trusted.

use std::{
    ffi::CString,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig, ffi};

use super::{
    errors::SqliteError,
    functions,
    raw::{Handle, Statement, Value, ValueRef},
    regexp,
};

/// Instructions between two looks at whether to stop: under a millisecond, unless one of them reads.
const INSTRUCTIONS_PER_LOOK: i32 = 2000;
/// How long a writer that holds the database exclusively (no WAL) is waited for.
const BUSY: Duration = Duration::from_secs(30);
/// SQLite's page cache: a copy goes through the file once, a check of indexes jumps about in it.
const CACHE_KIB: u32 = 16 << 10;

/// Told now and then how it goes; `true` stops the work.
pub type Stop = Arc<dyn Fn() -> bool + Send + Sync>;

/// Why a copy was not made, or is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// SQLite's code and words.
    #[error("{doing}: {message}")]
    Sqlite {
        /// What was being done.
        doing: &'static str,
        /// Extended result code.
        code: i32,
        /// SQLite's words.
        message: String,
    },
    /// What `PRAGMA integrity_check` found first.
    #[error("the integrity check found: {0}")]
    Damaged(String),
    /// The two databases differ.
    #[error("the copy differs: {0}")]
    Differs(String),
    /// [`Stop`] said so.
    #[error("cancelled")]
    Stopped,
}

impl CopyError {
    /// Whether a disk was full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Sqlite { code, .. } if code & 0xff == ffi::SQLITE_FULL)
    }

    /// Whether the database is to blame, and not who reads it.
    pub fn is_damage(&self) -> bool {
        let of_file = |code: &i32| matches!(code & 0xff, ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB);
        match self {
            Self::Sqlite { code, .. } => of_file(code) || *code == ffi::SQLITE_IOERR_SHORT_READ,
            Self::Damaged(_) | Self::Differs(_) => true,
            Self::Stopped => false,
        }
    }
}

/// Copies what is committed in the database `from`, which others may be writing, to `to`, which must not
/// exist, with SQLite's `VACUUM INTO`: one moment, no free pages, trees filled and in order.
///
/// Rowids stay, also of tables without an INTEGER PRIMARY KEY. SQLite's manual reserves the right for
/// VACUUM to change those, and its plain VACUUM does where such a table has no index; `VACUUM INTO` copies
/// whole cells with their rowids (`sqlite3XferOptimization` under `DBFLAG_VacuumInto`, SQLite 3.54; the
/// transfer applies to every table because source and target have the same CREATE statement). The bundled
/// SQLite is pinned, and `relayout`'s tests compare rowids with gaps. The backup interface would keep them,
/// too, but also free pages and half-empty leaves, which is what makes scans of unvacuumed files slow.
///
/// A connection of its own, read-only: nobody's locks, settings or authorizer are touched.
///
/// # Errors
/// SQLite's, or stopped. `to` may then exist in part.
pub fn vacuum_into(from: &Path, to: &Path, stop: &Stop) -> Result<(), CopyError> {
    let source = Reader::open(&plain_name(from)?, OpenFlags::SQLITE_OPEN_READ_ONLY, stop)?;
    // Thrown away if the machine stops; whoever keeps the result syncs it. And closing the last connection
    // would write the WAL back: with this setting that must not be ours.
    source.run("configuring", c"PRAGMA synchronous = OFF")?;
    let failed = |e: &SqliteError| source.error("copying the database", e);
    let mut statement = source.compile(c"VACUUM INTO ?1").map_err(|e| failed(&e))?;
    let target = plain_name(to)?.into_bytes();
    statement.bind(1, &Value::Text(target)).map_err(|e| failed(&e))?;
    while statement.step().map_err(|e| failed(&e))? {}
    Ok(())
}

/// Makes sure that `new` is a whole database with the contents of `old`; neither may be changing.
/// `PRAGMA integrity_check` of `new`; settings in the header, the schema row by row, and the number of rows
/// of every table of both.
///
/// # Errors
/// What is wrong or different, SQLite's, or stopped.
pub fn verify_copy(old: &Path, new: &Path, stop: &Stop) -> Result<(), CopyError> {
    let immutable = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let old = Reader::open(&immutable_uri(old)?, immutable, stop)?;
    let new = Reader::open(&immutable_uri(new)?, immutable, stop)?;
    let checked = new.values("checking the copy", c"PRAGMA integrity_check(1)")?;
    match checked.first() {
        Some(Value::Text(text)) if text == b"ok" => {}
        Some(Value::Text(text)) => {
            return Err(CopyError::Damaged(String::from_utf8_lossy(text).into_owned()));
        }
        _ => return Err(CopyError::Damaged("nothing, which is no answer".into())),
    }
    for (name, pragma) in [
        ("user_version", c"PRAGMA user_version"),
        ("application_id", c"PRAGMA application_id"),
        ("page_size", c"PRAGMA page_size"),
        ("encoding", c"PRAGMA encoding"),
        ("auto_vacuum", c"PRAGMA auto_vacuum"),
        ("schema", c"SELECT type, name, tbl_name, sql, rowid FROM sqlite_schema ORDER BY rowid"),
    ] {
        let doing = "comparing the copy";
        if old.values(doing, pragma)? != new.values(doing, pragma)? {
            return Err(CopyError::Differs(format!("its {name} is another")));
        }
    }
    // By name: what has no root has no rows of its own.
    let names = old.values(
        "listing the tables",
        c"SELECT replace(name, '\"', '\"\"') FROM sqlite_schema WHERE type = 'table' AND rootpage > 0",
    )?;
    for name in names {
        let Value::Text(name) = name else { continue };
        let mut sql = b"SELECT count(*) FROM \"".to_vec();
        sql.extend_from_slice(&name);
        sql.push(b'"');
        let name = String::from_utf8_lossy(&name).into_owned();
        let sql = CString::new(sql)
            .map_err(|_| CopyError::Differs(format!("table {name} has a name that is none")))?;
        let (before, after) = (old.values("counting rows", &sql)?, new.values("counting rows", &sql)?);
        if before != after {
            return Err(CopyError::Differs(format!("table {name} has {after:?} rows instead of {before:?}")));
        }
    }
    Ok(())
}

/// What `PRAGMA integrity_check` finds in the database at `path`, or `quick_check` if `quick`: nothing, or the
/// first ten things. `is_fixed`: nobody writes it, so no locks are taken and no log is looked for; otherwise
/// it may be written meanwhile, and is looked at as of one moment.
///
/// # Errors
/// SQLite's, also where a read failed in the middle; or `stop` was set.
pub fn find_damage(
    path: &Path,
    quick: bool,
    is_fixed: bool,
    stop: &Arc<AtomicBool>,
) -> Result<Vec<String>, CopyError> {
    let asked = Arc::clone(stop);
    let stop: Stop = Arc::new(move || asked.load(Relaxed));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = match is_fixed {
        true => Reader::open(&immutable_uri(path)?, flags | OpenFlags::SQLITE_OPEN_URI, &stop)?,
        false => Reader::open(&plain_name(path)?, flags, &stop)?,
    };
    let sql = if quick { c"PRAGMA quick_check(10)" } else { c"PRAGMA integrity_check(10)" };
    let doing = "checking the database";
    let mut found = Vec::new();
    for value in database.values(doing, sql)? {
        let Value::Text(text) = value else { continue };
        let text = String::from_utf8_lossy(&text).into_owned();
        // A read that fails is a line like any other to it.
        let code = text.rsplit_once("error code=").and_then(|(_, code)| code.trim().parse::<i32>().ok());
        if let Some(code) = code.filter(|code| code & 0xff == ffi::SQLITE_IOERR) {
            return Err(CopyError::Sqlite { doing, code, message: "a page could not be read".into() });
        }
        if text != "ok" {
            found.push(text);
        }
    }
    Ok(found)
}

/// A connection for our own statements.
struct Reader {
    connection: Connection,
    stopped: Arc<AtomicBool>,
}

impl Reader {
    fn open(name: &str, flags: OpenFlags, stop: &Stop) -> Result<Self, CopyError> {
        let opening = |e: rusqlite::Error| {
            let code = e.sqlite_extended_error_code().unwrap_or(ffi::SQLITE_ERROR);
            CopyError::Sqlite { doing: "opening the database", code, message: e.to_string() }
        };
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(name, flags).map_err(opening)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let (asked, stop) = (Arc::clone(&stopped), Arc::clone(stop));
        let look = move || {
            let now = stop();
            asked.fetch_or(now, Relaxed);
            now
        };
        connection.progress_handler(INSTRUCTIONS_PER_LOOK, Some(look)).map_err(opening)?;
        connection.busy_timeout(BUSY).map_err(opening)?;
        for (option, on) in [
            (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
            (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false),
            (DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true),
        ] {
            connection.set_db_config(option, on).map_err(opening)?;
        }
        // The schema may use these functions.
        regexp::install(&connection).map_err(opening)?;
        functions::install(Handle::of(&connection)).map_err(|e| CopyError::Sqlite {
            doing: "opening the database",
            code: e.code,
            message: e.message,
        })?;
        let new = Self { connection, stopped };
        let cache = CString::new(format!("PRAGMA cache_size = -{CACHE_KIB}")).unwrap_or_default();
        new.run("configuring", &cache)?;
        Ok(new)
    }

    fn compile(&self, sql: &std::ffi::CStr) -> Result<Statement<'_>, SqliteError> {
        let (statement, _) = Handle::of(&self.connection).compile(sql, 0)?;
        statement.ok_or_else(|| SqliteError::new(ffi::SQLITE_MISUSE, "no statement"))
    }

    fn run(&self, doing: &'static str, sql: &std::ffi::CStr) -> Result<(), CopyError> {
        self.values(doing, sql).map(|_| ())
    }

    /// All values of all rows, one after the other: for few.
    fn values(&self, doing: &'static str, sql: &std::ffi::CStr) -> Result<Vec<Value>, CopyError> {
        let failed = |e: SqliteError| self.error(doing, &e);
        let mut statement = self.compile(sql).map_err(failed)?;
        let mut values = Vec::new();
        while statement.step().map_err(failed)? {
            for column in 0..statement.column_count() {
                values.push(match statement.value(column).map_err(failed)? {
                    ValueRef::Null => Value::Null,
                    ValueRef::Integer(integer) => Value::Integer(integer),
                    ValueRef::Real(real) => Value::Real(real),
                    ValueRef::Text(text) => Value::Text(text.to_vec()),
                    ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
                });
            }
        }
        Ok(values)
    }

    fn error(&self, doing: &'static str, error: &SqliteError) -> CopyError {
        if self.stopped.load(Relaxed) {
            return CopyError::Stopped;
        }
        CopyError::Sqlite { doing, code: error.code, message: error.message.clone() }
    }
}

/// A URI of a file that does not change: no locks, no look for journals.
fn immutable_uri(path: &Path) -> Result<String, CopyError> {
    let mut uri = url::Url::from_file_path(path).map_err(|()| bad_path())?;
    uri.set_query(Some("mode=ro&immutable=1"));
    Ok(uri.into())
}

/// A path as SQLite takes it when it does not read URIs.
fn plain_name(path: &Path) -> Result<String, CopyError> {
    let bytes = path.as_os_str().as_bytes();
    // Relative ones could begin with what SQLite gives a meaning: `:memory:`, `file:`.
    match std::str::from_utf8(bytes) {
        Ok(text) if text.starts_with('/') && !bytes.contains(&0) => Ok(text.to_owned()),
        _ => Err(bad_path()),
    }
}

fn bad_path() -> CopyError {
    CopyError::Sqlite {
        doing: "opening the database",
        code: ffi::SQLITE_CANTOPEN,
        message: "its path must be absolute and UTF-8".into(),
    }
}
