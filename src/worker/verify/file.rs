//! The bytes of one file on this host, or behind its mount: length, checksum, header, and SQLite's own check.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use springhouse_gateway::api::{
    error::{ApiError, ErrorCode},
    verify::{Check, Depth, Flaw},
};
use xxhash_rust::xxh3::Xxh3;

use super::Job;
use crate::{
    failpoint,
    query::{CopyError, find_damage, from_io},
    worker::hot::check_header,
};

/// Read at once.
const READ_BYTES: usize = 1 << 20;

/// What is looked at.
#[derive(Debug)]
pub(super) enum Target {
    /// A file whose bytes stay.
    Fixed { file: File, path: PathBuf, len: u64 },
    /// A database that this process may be writing. It is not opened as a file: closing one would drop the
    /// locks that SQLite holds on it.
    Live { path: PathBuf },
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Looked {
    pub(super) size: u64,
    pub(super) checksum: Option<String>,
    pub(super) checked: bool,
    pub(super) flaws: Vec<Flaw>,
}

/// Looks at `target`. Blocks.
///
/// # Errors
/// It could not be looked at, now: what is wrong with it is no error.
pub(super) fn look(target: Target, depth: Depth, job: &Job) -> Result<Looked, ApiError> {
    let (file, path, len) = match target {
        Target::Fixed { file, path, len } => (file, path, len),
        Target::Live { path } => {
            let size = path.metadata().map_err(|error| from_io(&error))?.len();
            let mut looked = Looked { size, checksum: None, checked: false, flaws: Vec::new() };
            if depth != Depth::Header {
                check(&path, depth, false, job, &mut looked)?;
            }
            return Ok(looked);
        }
    };
    let mut looked = Looked { size: len, checksum: None, checked: false, flaws: Vec::new() };
    let mut flaw = |check, text: String| looked.flaws.push(Flaw { check, text });
    if depth != Depth::Header {
        match read(&file, len, job)? {
            Ok(checksum) => looked.checksum = Some(checksum),
            Err(text) => flaw(Check::Read, text),
        }
    }
    match check_header(&file, len) {
        Ok(Ok(())) => {}
        Ok(Err(text)) => flaw(Check::Header, format!("cannot be used: {text}")),
        Err(error) if is_damage(&error) => flaw(Check::Read, unreadable(0, &error)),
        Err(error) => return Err(from_io(&error)),
    }
    if depth != Depth::Header && looked.flaws.is_empty() {
        drop(file);
        check(&path, depth, true, job, &mut looked)?;
    }
    Ok(looked)
}

/// xxh3-128 of the first `len` bytes; or what keeps them from being read, today and tomorrow.
fn read(file: &File, len: u64, job: &Job) -> Result<Result<String, String>, ApiError> {
    // So that it is the disk that is read, and not what memory has of it. Only advice.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    let (mut hash, mut buffer, mut at) = (Xxh3::new(), vec![0; READ_BYTES], 0);
    while at < len {
        job.go_on()?;
        job.at("reading", at, len);
        failpoint::hit("verify.read");
        let most = usize::try_from(len - at).unwrap_or(READ_BYTES).min(READ_BYTES);
        match file.read_at(&mut buffer[..most], at) {
            Ok(0) => return Ok(Err(format!("ends after {at} of {len} bytes"))),
            Ok(count) => {
                hash.update(&buffer[..count]);
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_damage(&error) => return Ok(Err(unreadable(at, &error))),
            Err(error) => return Err(from_io(&error)),
        }
    }
    job.at("reading", at, len);
    Ok(Ok(format!("{:032x}", hash.digest128())))
}

/// Whether the bytes are gone: not that somebody is slow, away, or has put another file there.
fn is_damage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof || from_io(error).code == ErrorCode::SegmentCorrupt
}

fn unreadable(at: u64, error: &io::Error) -> String {
    format!("cannot be read at byte {at}: {}", from_io(error).message)
}

/// SQLite's own check.
fn check(path: &Path, depth: Depth, is_fixed: bool, job: &Job, looked: &mut Looked) -> Result<(), ApiError> {
    job.at("checking", 0, 0);
    let (name, quick) = match depth {
        Depth::Quick => ("quick_check", true),
        _ => ("integrity_check", false),
    };
    match find_damage(path, quick, is_fixed, job.stop()) {
        Ok(found) => {
            looked.checked = true;
            if !found.is_empty() {
                let text = format!("is damaged: {name} finds {}", found.join("; "));
                looked.flaws.push(Flaw { check: Check::Integrity, text });
            }
            Ok(())
        }
        Err(error) if error.is_damage() => {
            let text = format!("is damaged: {name} ends with {error}");
            looked.flaws.push(Flaw { check: Check::Integrity, text });
            Ok(())
        }
        Err(CopyError::Stopped) => {
            job.go_on()?;
            Err(ApiError::new(ErrorCode::ShuttingDown, "the verification was stopped"))
        }
        Err(error) => Err(ApiError::new(
            ErrorCode::StoreUnavailable,
            format!("{name} did not come to its end: {error}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use springhouse_gateway::segment::SegmentId;

    use super::*;

    fn job() -> Job {
        Job::new(SegmentId::parse("a").expect("an id"))
    }

    /// A database of many pages, with an index.
    fn database(dir: &Path) -> PathBuf {
        let path = dir.join("a.sqlite");
        crate::query::make_test_database(
            &path,
            "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT);
             WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 3000)
                 INSERT INTO t SELECT n, 'name number ' || n FROM c;
             CREATE INDEX i ON t(name)",
        );
        path
    }

    fn of(path: &Path, depth: Depth) -> Looked {
        let file = File::open(path).expect("a file");
        let len = file.metadata().expect("a stat").len();
        look(Target::Fixed { file, path: path.into(), len }, depth, &job()).expect("looked at")
    }

    fn checks(looked: &Looked) -> Vec<Check> {
        looked.flaws.iter().map(|flaw| flaw.check).collect()
    }

    #[test]
    fn a_whole_one_is_whole_at_every_depth() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = database(dir.path());
        let full = of(&path, Depth::Full);
        assert_eq!((checks(&full), full.checked), (vec![], true));
        let bytes = fs::read(&path).expect("bytes");
        assert_eq!(full.checksum, Some(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&bytes))));
        assert_eq!(of(&path, Depth::Quick), full);
        assert_eq!(of(&path, Depth::Header), Looked { checksum: None, checked: false, ..full });
        let live = look(Target::Live { path }, Depth::Full, &job()).expect("looked at");
        assert_eq!((live.checked, live.checksum, live.flaws), (true, None, vec![]));
    }

    #[test]
    fn each_check_finds_what_it_is_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = database(dir.path());
        let good = fs::read(&path).expect("bytes");
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            fs::write(&path, bytes).expect("written");
        };
        with(&|bytes| bytes.truncate(good.len() - 4096));
        let cut = of(&path, Depth::Header);
        assert!(checks(&cut) == [Check::Header] && cut.flaws[0].text.contains("cut short"), "{cut:?}");
        with(&|bytes| bytes[3] = b'?');
        assert_eq!(checks(&of(&path, Depth::Full)), [Check::Header]);
        // The kind of a page in the middle.
        with(&|bytes| bytes[good.len() / 2 / 4096 * 4096] ^= 0xff);
        assert_eq!(checks(&of(&path, Depth::Header)), []);
        assert_eq!(checks(&of(&path, Depth::Quick)), [Check::Integrity]);
        // A key of the index: only the comparison with the table tells.
        with(&|bytes| {
            let at =
                bytes.windows(16).rposition(|window| window == b"name number 2999").expect("in the index");
            bytes[at] = b'N';
        });
        assert_eq!(checks(&of(&path, Depth::Quick)), []);
        let full = of(&path, Depth::Full);
        assert!(checks(&full) == [Check::Integrity] && full.flaws[0].text.contains("index i"), "{full:?}");
    }

    #[test]
    fn it_ends_when_nobody_wants_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = database(dir.path());
        let (job, file) = (job(), File::open(&path).expect("a file"));
        let len = file.metadata().expect("a stat").len();
        job.stop().store(true, std::sync::atomic::Ordering::Relaxed);
        let outcome = look(Target::Fixed { file, path, len }, Depth::Full, &job);
        assert_eq!(outcome.expect_err("stopped").code, ErrorCode::ShuttingDown);
    }
}
