//! A directory that one process has for itself.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use crate::error::{Exit, Failure};

/// A data directory with its lock held. The kernel lets the lock go with the process, however it ends.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is missing and takes it.
    pub(crate) fn take(path: PathBuf) -> Result<Self, Failure> {
        make(&path)?;
        let failure = |error: &io::Error| cannot(&path, error);
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
            .map_err(|error| failure(&error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only for the message; the lock's content is not needed.
                let _ = lock.read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "another process".to_owned(),
                    pid => format!("process {pid}"),
                };
                return Err(Failure::new(
                    Exit::InUse,
                    format!(
                        "{}: in use by {holder}; stop that one, or choose another directory with --data",
                        path.display()
                    ),
                ));
            }
            Err(TryLockError::Error(error)) => return Err(failure(&error)),
        }
        let write = || {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())
        };
        let mut write = write;
        write().map_err(|error| failure(&error))?;
        Ok(Self { path, _lock: lock })
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes a directory and its parents; one that is there already is no failure, nor looked at.
pub(crate) fn make(path: &Path) -> Result<(), Failure> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| cannot(path, &error))?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(cannot(path, &error)),
        _ => Ok(()),
    }
}

fn cannot(path: &Path, error: &io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Exit::Denied,
        io::ErrorKind::NotADirectory => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure::new(exit, format!("{}: {error}; choose another directory with --data", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_again_after_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a/b");
        let first = DataDir::take(path.clone()).expect("free");
        let failure = DataDir::take(path.clone()).expect_err("taken");
        assert_eq!(failure.exit(), Exit::InUse);
        assert!(
            failure.message().contains(&format!("in use by process {}", std::process::id())),
            "{failure}"
        );
        drop(first);
        DataDir::take(path).expect("free again");
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let failure = DataDir::take(file.path().to_owned()).expect_err("a file");
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.message().starts_with(&file.path().display().to_string()), "{failure}");
    }
}
