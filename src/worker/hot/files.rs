//! What the query engine reads: copies here, and for the rest what a cold worker reads.

use std::sync::Arc;

use springhouse_fuse::store::Generation;
use springhouse_gateway::api::error::{ApiError, ErrorCode};

use super::{
    Hot,
    segment::{PREFIX, Segment},
};
use crate::query::{Content, OpenFile, Seen, SegmentFiles};

/// Copies at paths `hot:ID`; the others go to `cold`.
#[derive(Debug)]
pub(in crate::worker) struct Files {
    pub(in crate::worker) hot: Arc<Hot>,
    pub(in crate::worker) cold: Option<Arc<dyn SegmentFiles>>,
}

impl Files {
    fn segment(&self, path: &str) -> Option<Result<Arc<Segment>, ApiError>> {
        let id = path.strip_prefix(PREFIX)?;
        Some(self.hot.find(id).ok_or_else(|| not_here("nothing is known of it here")))
    }

    fn cold(&self) -> Result<&dyn SegmentFiles, ApiError> {
        self.cold.as_deref().ok_or_else(|| not_here("this worker answers from copies only"))
    }
}

/// A copy that cannot be read: another worker may have one.
pub(super) fn not_here(why: &str) -> ApiError {
    ApiError::new(ErrorCode::NoWorker, format!("this worker has no copy to answer from: {why}"))
}

impl SegmentFiles for Files {
    fn epoch(&self) -> Result<u64, ApiError> {
        self.cold.as_ref().map_or(Ok(0), |cold| cold.epoch())
    }

    /// A mount that is down is nothing to a copy.
    fn epoch_of(&self, path: &str) -> Result<u64, ApiError> {
        if path.starts_with(PREFIX) { Ok(0) } else { self.cold()?.epoch() }
    }

    fn open(&self, path: &str) -> Result<OpenFile, ApiError> {
        let Some(segment) = self.segment(path) else { return self.cold()?.open(path) };
        let segment = segment?;
        let state = segment.state.lock();
        let generation = state.readable()?.key;
        Ok(OpenFile { path: self.hot.data.segment(&segment.id), generation, content: Content::Live })
    }

    fn generation(&self, path: &str) -> Result<Generation, ApiError> {
        match self.segment(path) {
            Some(segment) => segment?.state.lock().readable().map(|open| open.key),
            None => self.cold()?.generation(path),
        }
    }

    fn verify(&self, path: &str, generation: Generation) -> Result<(), ApiError> {
        // A copy that is replaced is another file: whoever has the old one open goes on reading that.
        if path.starts_with(PREFIX) { Ok(()) } else { self.cold()?.verify(path, generation) }
    }

    fn exists(&self, path: &str) -> Result<bool, ApiError> {
        if path.starts_with(PREFIX) { Ok(false) } else { self.cold()?.exists(path) }
    }

    fn seen(&self, path: &str) -> Option<Seen> {
        let segment = self.segment(path)?.ok()?;
        let state = segment.state.lock();
        // A copy that is gone meanwhile: the name is then one that nothing else has.
        Some(state.open.as_ref().map_or(Seen { done: 0, begun: u64::MAX }, |open| open.changes.seen()))
    }

    fn name(&self, path: &str, opened: Generation, before: Seen, after: Seen) -> Generation {
        match self.segment(path) {
            Some(Ok(segment)) => segment.state.lock().name(opened, before, after),
            _ => opened,
        }
    }

    fn takes_hints(&self) -> bool {
        self.cold.as_ref().is_some_and(|cold| cold.takes_hints())
    }

    fn hint(&self, path: &str, generation: Generation, roots: &[u32]) {
        if let Some(cold) = &self.cold
            && !path.starts_with(PREFIX)
        {
            cold.hint(path, generation, roots);
        }
    }
}
