//! A database that is to be written: new, or made ready.

use std::{
    fs::{self, File},
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use springhouse_gateway::api::{
    error::{ApiError, ErrorCode},
    hot::{ExecuteRequest, Script},
};

use super::{
    super::{
        QuerySettings,
        control::Control,
        errors,
        sandbox::{Purpose, Sandbox},
    },
    marker::Marker,
    run::{Refusal, Run},
};

fn failed(path: &Path, error: &std::io::Error) -> ApiError {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => ApiError::new(ErrorCode::NoRoom, "the worker's disk is full"),
        _ => ApiError::new(ErrorCode::Internal, format!("{name} on the worker's disk: {error}")),
    }
}

/// Makes a database with `schema` at `path`, where nothing is, durably: whole, or none that counts. Blocks.
///
/// # Errors
/// `SqlError`, `SqlForbidden` or a limit: the schema. `NoRoom`: the disk.
pub fn create(path: &Path, schema: &str, settings: &QuerySettings) -> Result<(), ApiError> {
    let _ = fs::remove_file(path); // what an earlier attempt left
    File::create_new(path).map_err(|e| failed(path, &e))?;
    let control =
        Arc::new(Control::new(crate::clock::now() + settings.timeout_max, Arc::new(AtomicBool::new(false))));
    let of_sqlite = |error| errors::from_sqlite(&error, errors::Context::default());
    let sandbox = Sandbox::open(path, Purpose::Write, settings, &control).map_err(of_sqlite)?;
    sandbox.rest();
    // Deferred: the size of a page can be chosen until the first write.
    sandbox.run_own(c"BEGIN").map_err(of_sqlite)?;
    if !schema.trim().is_empty() {
        // Schemas of Trough's clients have texts in these quotes, too.
        sandbox.quote_texts_like_names(true).map_err(of_sqlite)?;
        let run = Run { sandbox: &sandbox, settings, control: &control };
        let request = ExecuteRequest::Script(Script { sql: schema.to_owned(), timeout_ms: None });
        match run.apply(&request) {
            Ok(_) => {}
            // A schema of comments alone is an empty one.
            Err(Refusal::Alone(error)) if error.message == "there is no statement" => {}
            Err(Refusal::Alone(error) | Refusal::All(error)) => return Err(error),
        }
    }
    // Also makes page 1 of a database without tables: an empty file is no database for those who look.
    sandbox.run_own(c"PRAGMA default_cache_size = 0").map_err(of_sqlite)?;
    sandbox.run_own(c"COMMIT").map_err(of_sqlite)?;
    drop(sandbox);
    File::open(path).and_then(|file| file.sync_all()).map_err(|e| failed(path, &e))
}

/// Makes the database at `path` ready for a [`super::Writer`]: WAL mode, and its last transaction is
/// `change`. Waits a few seconds for those who read it. May be repeated. Blocks.
pub fn prepare(path: &Path, change: u64, settings: &QuerySettings) -> Result<(), ApiError> {
    let control =
        Arc::new(Control::new(crate::clock::now() + settings.timeout_max, Arc::new(AtomicBool::new(false))));
    let of_sqlite = |error| errors::from_sqlite(&error, errors::Context::default());
    let sandbox = Sandbox::open(path, Purpose::Write, settings, &control).map_err(of_sqlite)?;
    sandbox.rest();
    sandbox.run_own(c"PRAGMA journal_mode = WAL").map_err(of_sqlite)?;
    let marker = format!("PRAGMA default_cache_size = {}", Marker::of(change).0);
    let marker = std::ffi::CString::new(marker).expect("no NUL in a number");
    sandbox.run_own(&marker).map(drop).map_err(of_sqlite)
}
