//! From a database in use to a checked file that is laid out anew.

use std::{fs::File, io::Read, os::unix::fs::FileExt, path::Path, sync::Arc};

use tempfile::TempPath;
use xxhash_rust::xxh3::Xxh3;

use super::{Phase, RelayoutError, Report, Watch, relayout};
use crate::query::{self, Stop};

/// How the names of temporary files begin; what a killed process left may be removed by it.
pub const SCRATCH_PREFIX: &str = ".prepare-";

/// Read at once for the checksum.
const BUFFER_BYTES: usize = 1 << 20;

/// A file that is ready to be uploaded.
#[derive(Debug)]
pub struct Prepared {
    /// The file, on stable storage; removed when this is dropped. `TempPath::persist` keeps it.
    pub path: TempPath,
    /// What is known of it.
    pub file: Checked,
}

/// A file that was laid out and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Its length in bytes.
    pub size: u64,
    /// xxh3-128 of its bytes, 32 hexadecimal digits.
    pub checksum: String,
    /// What the relayout did.
    pub report: Report,
}

/// Copies the database `live`, which may be in use by other connections of this or another process, into
/// `scratch_dir` (absolute; room for two copies is needed for a while) and lays it out as
/// [`relayout_checked`] does.
///
/// Writers go on meanwhile if `live` is in WAL mode; else they wait for the copy. Blocks the thread: not
/// for one of an asynchronous runtime. [`query::init`] must have been called.
///
/// # Errors
/// Nothing is left in `scratch_dir`.
pub fn prepare(live: &Path, scratch_dir: &Path, watch: &Arc<Watch>) -> Result<Prepared, RelayoutError> {
    // SQLite wants to create its file itself, and the names of its journals beside it: a directory of their
    // own for all.
    let scratch = tempfile::Builder::new()
        .prefix(SCRATCH_PREFIX)
        .tempdir_in(scratch_dir)
        .map_err(RelayoutError::io("making a scratch directory"))?;
    let (copy, laid) = (scratch.path().join("copy"), scratch.path().join("laid"));
    copy_live(live, &copy, watch)?;
    let file = relayout_checked(&copy, &laid, watch)?;
    let path = tempfile::Builder::new()
        .prefix(SCRATCH_PREFIX)
        .tempfile_in(scratch_dir)
        .map_err(RelayoutError::io("making a scratch file"))?
        .into_temp_path();
    std::fs::rename(&laid, &path).map_err(RelayoutError::io("renaming the new file"))?;
    Ok(Prepared { path, file })
}

/// [`relayout`] of a copy that nobody writes, and everything that must be true of the result before
/// anybody else gets it: it is a whole database (`PRAGMA integrity_check`) that holds what `copy` holds
/// (see [`query::verify_copy`]), readable with `immutable=1`, and on stable storage. Both paths are
/// absolute. Blocks the thread.
///
/// # Errors
/// As for [`relayout`], and whatever was found; `to` does not exist then.
pub fn relayout_checked(copy: &Path, to: &Path, watch: &Arc<Watch>) -> Result<Checked, RelayoutError> {
    let report = relayout(copy, to, watch)?;
    let checked = check(copy, to, report, watch);
    if checked.is_err() {
        // The reason of the failure is what matters; a file that cannot be removed shows by itself.
        let _ = std::fs::remove_file(to);
    }
    checked
}

fn check(copy: &Path, to: &Path, report: Report, watch: &Arc<Watch>) -> Result<Checked, RelayoutError> {
    watch.begin(Phase::Check, 0);
    let stop: Stop = {
        let watch = Arc::clone(watch);
        Arc::new(move || watch.is_cancelled())
    };
    query::verify_copy(copy, to, &stop).map_err(of_copy)?;
    let file = File::open(to).map_err(RelayoutError::io("opening the new file"))?;
    check_head(&file, &report)?;
    let (size, checksum) = checksum(&file, watch)?;
    file.sync_all().map_err(RelayoutError::io("syncing the new file"))?;
    Ok(Checked { size, checksum, report })
}

fn copy_live(live: &Path, copy: &Path, watch: &Arc<Watch>) -> Result<(), RelayoutError> {
    // Its length only. The file itself must not be opened here: closing any descriptor of it would drop the
    // locks that SQLite's connections of this process hold.
    let bytes = std::fs::metadata(live).map_err(RelayoutError::io("looking at the database"))?.len();
    watch.begin(Phase::Copy, bytes);
    let stop: Stop = {
        let (watch, copy) = (Arc::clone(watch), copy.to_owned());
        Arc::new(move || {
            if let Ok(metadata) = std::fs::metadata(&copy) {
                watch.set_done(metadata.len());
            }
            watch.is_cancelled()
        })
    };
    query::vacuum_into(live, copy, &stop).map_err(of_copy)
}

fn of_copy(error: query::CopyError) -> RelayoutError {
    match error {
        query::CopyError::Stopped => RelayoutError::Cancelled,
        error => RelayoutError::Copy(error),
    }
}

/// What a reader with `immutable=1` relies on, from the file itself.
fn check_head(file: &File, report: &Report) -> Result<(), RelayoutError> {
    let mut head = [0; 32];
    file.read_exact_at(&mut head, 0).map_err(RelayoutError::io("reading the new file"))?;
    let len = file.metadata().map_err(RelayoutError::io("reading the new file"))?.len();
    let wrong = |what: &str| RelayoutError::Damaged(format!("the new file has another {what}"));
    if head[18..20] != [1, 1] {
        return Err(wrong("journal mode"));
    }
    if len != u64::from(report.pages_after) * u64::from(report.page_bytes)
        || head[28..32] != report.pages_after.to_be_bytes()
    {
        return Err(wrong("number of pages"));
    }
    Ok(())
}

fn checksum(mut file: &File, watch: &Watch) -> Result<(u64, String), RelayoutError> {
    let reading = RelayoutError::io("reading the new file");
    watch.begin(Phase::Checksum, file.metadata().map_err(&reading)?.len());
    let (mut hash, mut buffer, mut size) = (Xxh3::new(), vec![0; BUFFER_BYTES], 0);
    loop {
        let len = file.read(&mut buffer).map_err(&reading)?;
        if len == 0 {
            return Ok((size, format!("{:032x}", hash.digest128())));
        }
        hash.update(&buffer[..len]);
        size += len as u64;
        watch.step(len as u64)?;
    }
}
