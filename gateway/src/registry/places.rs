//! Where a registry lies in a data directory, and how a new one takes the place of another.
//!
//! `registry` is the one that is used. A new one is made in `registry.new`, with a marker in it as long as
//! it is not whole, and exchanged for the other in one step of the file system. What was replaced is kept
//! as `registry.replaced-N`, and never removed by us.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{Registry, RegistryError, import::Former, sled::SledRegistry};

/// Marks a registry that is not whole.
const MARKER: &str = "being-made";

/// Directory of the registry in `data_dir`.
pub fn current(data_dir: &Path) -> PathBuf {
    data_dir.join("registry")
}

/// What lies in a data directory before something takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Present {
    /// No registry, or one without anything in it.
    Nothing(Former),
    /// One with something in it.
    Something(Former),
}

/// Looks into the registry of `data_dir`, which no gateway may have open.
pub fn present(data_dir: &Path, cache_bytes: u64) -> Result<Present, RegistryError> {
    let directory = current(data_dir);
    if !exists(&directory)? {
        return Ok(Present::Nothing(Former::default()));
    }
    let registry = SledRegistry::open(&directory, cache_bytes)?;
    let former = Former::of(&registry)?;
    let mut any = false;
    registry.scan(b"", None, &mut |_, _| {
        any = true;
        std::ops::ControlFlow::Break(())
    })?;
    Ok(if any { Present::Something(former) } else { Present::Nothing(former) })
}

/// Opens the registry of `data_dir` for reading; an error if there is none.
pub fn open(data_dir: &Path, cache_bytes: u64) -> Result<SledRegistry, RegistryError> {
    let directory = current(data_dir);
    if !exists(&directory)? {
        return Err(RegistryError::Failed(format!(
            "{} has no registry: name the data directory of a gateway, or a running one",
            data_dir.display()
        )));
    }
    SledRegistry::open(&directory, cache_bytes)
}

/// A registry that is being made beside the one that is used.
pub struct Making {
    data_dir: PathBuf,
    registry: Arc<dyn Registry>,
}

impl Making {
    /// Begins. What a crash left of an earlier try is removed.
    pub fn begin(data_dir: &Path, cache_bytes: u64) -> Result<Self, RegistryError> {
        let new = data_dir.join("registry.new");
        let begin = || -> io::Result<()> {
            if new.try_exists()? {
                if new.join(MARKER).try_exists()? {
                    fs::remove_dir_all(&new)?;
                } else {
                    // It was exchanged already: this is the one that was replaced.
                    keep(data_dir, &new)?;
                }
            }
            fs::create_dir_all(&new)?;
            File::create(new.join(MARKER))?.sync_all()?;
            sync(&new)?;
            sync(data_dir)
        };
        begin().map_err(|e| failed(&new, &e))?;
        let registry = Arc::new(SledRegistry::open(&new, cache_bytes)?);
        Ok(Self { data_dir: data_dir.to_owned(), registry })
    }

    /// Where to write.
    pub fn registry(&self) -> &Arc<dyn Registry> {
        &self.registry
    }

    /// Puts it in its place, in one step; where the one that was there is kept, if there was one. Before
    /// that nothing has changed. Nobody else may have the registry any more.
    pub fn finish(self) -> Result<Option<PathBuf>, RegistryError> {
        let (current, new) = (current(&self.data_dir), self.data_dir.join("registry.new"));
        // Closes the files.
        if Arc::strong_count(&self.registry) > 1 {
            return Err(RegistryError::Failed("the new registry is still in use".to_owned()));
        }
        drop(self.registry);
        let swap = || -> io::Result<Option<PathBuf>> {
            fs::remove_file(new.join(MARKER))?;
            sync(&new)?;
            if !current.try_exists()? {
                fs::rename(&new, &current)?;
                sync(&self.data_dir)?;
                return Ok(None);
            }
            renameat_with(CWD, &new, CWD, &current, RenameFlags::EXCHANGE)?;
            sync(&self.data_dir)?;
            keep(&self.data_dir, &new).map(Some)
        };
        swap().map_err(|e| failed(&current, &e))
    }
}

/// Gives the registry at `path` a name under which nobody touches it.
fn keep(data_dir: &Path, path: &Path) -> io::Result<PathBuf> {
    for n in 1_u32.. {
        let kept = data_dir.join(format!("registry.replaced-{n}"));
        if !kept.try_exists()? {
            fs::rename(path, &kept)?;
            sync(data_dir)?;
            return Ok(kept);
        }
    }
    Err(io::Error::other("there are too many replaced registries"))
}

fn exists(path: &Path) -> Result<bool, RegistryError> {
    path.try_exists().map_err(|e| failed(path, &e))
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn failed(path: &Path, error: &io::Error) -> RegistryError {
    RegistryError::Failed(format!("registry {}: {error}", path.display()))
}
