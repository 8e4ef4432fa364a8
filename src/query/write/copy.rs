//! A consistent copy of a database that is being written, for the store.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use springhouse_gateway::api::error::{ApiError, ErrorCode};

use super::{
    super::{
        QuerySettings,
        control::{Control, Stop},
        errors,
        sandbox::{Purpose, Sandbox},
    },
    marker::Marker,
};

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// The last transaction that is in the copy.
    pub change: u64,
    /// Its length in bytes.
    pub size: u64,
}

/// Copies the live database at `database` to `target`, where nothing is, as of one transaction, while
/// writes go on. Neither checked nor durable: who lays it out anew does both, once. It is in the ordinary
/// mode and has `field`, what the suggested cache size was before we counted in it. `base`: as for
/// [`super::Writer::open`]. `stop` ends it. Blocks, for about as long as reading and writing the file takes.
///
/// # Errors
/// SQLite's; no room; stopped.
pub fn copy(
    database: &Path,
    target: &Path,
    base: u64,
    field: Marker,
    stop: &Arc<AtomicBool>,
    settings: &QuerySettings,
) -> Result<Copied, ApiError> {
    let far = crate::clock::now() + std::time::Duration::from_secs(7 * 86_400);
    let control = Arc::new(Control::new(far, Arc::clone(stop)));
    let of_sqlite = |error| {
        if stop.load(Ordering::Relaxed) {
            return errors::stopped(Stop::ShuttingDown);
        }
        errors::from_sqlite(&error, errors::Context { stop: control.stop(), ..errors::Context::default() })
    };
    if stop.load(Ordering::Relaxed) {
        return Err(errors::stopped(Stop::ShuttingDown));
    }
    let _ = std::fs::remove_file(target);
    {
        let source = Sandbox::open(database, Purpose::Copy, settings, &control).map_err(of_sqlite)?;
        source.vacuum_into(target).map_err(of_sqlite)?;
    }
    let disk = |error: std::io::Error| match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => {
            ApiError::new(ErrorCode::NoRoom, "the worker's disk has no room for the copy")
        }
        _ => ApiError::new(ErrorCode::Internal, format!("the copy on the worker's disk: {error}")),
    };
    let change = Marker::read(target).map_err(disk)?.change(base);
    field.write(target).map_err(disk)?;
    let size = target.metadata().map_err(disk)?.len();
    Ok(Copied { change, size })
}

/// The last transaction of the written database at `path`, recovering what a crash left of its log;
/// `base` as for [`super::Writer::open`]. Blocks.
///
/// # Errors
/// It cannot be opened, or is damaged.
pub fn last_change(path: &Path, base: u64, settings: &QuerySettings) -> Result<u64, ApiError> {
    let ending = Arc::new(AtomicBool::new(false));
    let control = Arc::new(Control::new(crate::clock::now() + settings.timeout_max, ending));
    let of_sqlite = |error| errors::from_sqlite(&error, errors::Context::default());
    let sandbox = Sandbox::open(path, Purpose::Write, settings, &control).map_err(of_sqlite)?;
    sandbox.rest();
    let marker = sandbox.run_own(c"PRAGMA default_cache_size").map_err(of_sqlite)?;
    // For 0 SQLite tells its own default, which is negative.
    Ok(Marker(marker.and_then(|n| u32::try_from(n).ok()).unwrap_or(0)).change(base))
}

/// Whether SQLite finds the closed database at `path` sound at a quick look (`quick_check`). Blocks, for about
/// as long as reading it takes.
///
/// # Errors
/// `SegmentCorrupt`: it is not.
pub fn quick_check(path: &Path, settings: &QuerySettings) -> Result<(), ApiError> {
    let far = crate::clock::now() + std::time::Duration::from_secs(7 * 86_400);
    let control = Arc::new(Control::new(far, Arc::new(AtomicBool::new(false))));
    let of_sqlite = |error| errors::from_sqlite(&error, errors::Context::default());
    let sandbox = Sandbox::open(path, Purpose::Fixed, settings, &control).map_err(of_sqlite)?;
    let bad = sandbox.run_own(c"SELECT count(*) FROM pragma_quick_check WHERE quick_check <> 'ok'");
    sandbox.rest();
    match bad.map_err(of_sqlite)? {
        Some(0) => Ok(()),
        _ => Err(ApiError::new(ErrorCode::SegmentCorrupt, "SQLite's quick_check finds the database damaged")),
    }
}
