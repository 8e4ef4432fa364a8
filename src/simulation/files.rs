//! The store's files as a cold worker's mount shows them: each generation a file of its own that never
//! changes.

use std::{fs::File, io, path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use springhouse_fuse::store::Generation;
use springhouse_gateway::api::error::{ApiError, ErrorCode};

use super::{
    net::{Net, Place},
    tree::Tree,
};
use crate::query::{Content, OpenFile, SegmentFiles, from_io};

pub(super) struct Mounted {
    pub(super) net: Arc<Net>,
    pub(super) tree: Arc<Mutex<Tree>>,
    pub(super) place: Place,
    /// Where the generations lie that somebody looked at.
    pub(super) dir: PathBuf,
}

impl std::fmt::Debug for Mounted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mounted({})", self.place)
    }
}

impl Mounted {
    fn reach(&self) -> Result<(), ApiError> {
        if self.net.is_cut(self.place, Place::Store) {
            return Err(ApiError::new(ErrorCode::StoreUnavailable, "the store cannot be reached"));
        }
        Ok(())
    }
}

fn not_there() -> ApiError {
    from_io(&io::ErrorKind::NotFound.into())
}

impl SegmentFiles for Mounted {
    fn epoch(&self) -> Result<u64, ApiError> {
        Ok(0)
    }

    fn open(&self, path: &str) -> Result<OpenFile, ApiError> {
        self.reach()?;
        let there = self.tree.lock().file(path).map_err(|_| not_there())?.clone();
        let path = self.dir.join(format!("{}-{}.sqlite", self.place, there.contents));
        if !path.exists() {
            std::fs::write(&path, &there.bytes).map_err(|e| from_io(&e))?;
        }
        let file = File::open(&path).map_err(|e| from_io(&e))?;
        let content = Content::Fixed { len: there.bytes.len() as u64, file };
        Ok(OpenFile { path, generation: there.generation, content })
    }

    fn generation(&self, path: &str) -> Result<Generation, ApiError> {
        self.reach()?;
        self.tree.lock().file(path).map(|file| file.generation).map_err(|_| not_there())
    }

    fn verify(&self, _: &str, _: Generation) -> Result<(), ApiError> {
        Ok(())
    }

    fn exists(&self, path: &str) -> Result<bool, ApiError> {
        self.reach()?;
        Ok(self.tree.lock().files.contains_key(path))
    }
}
