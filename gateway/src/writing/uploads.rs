//! Uploads that nobody waits for any more: of a holder that lost its lock, or of an attempt that was given up,
//! and that came into the store after they had been cleared away.
//!
//! The intent names the upload that is wanted, it is written down before anything is uploaded, and no attempt's
//! name is used again: so what no intent names is never wanted later. It may still be written, by a worker that
//! nobody reaches. That it is not is taken from its standing still for [`Writing::upload_age`], as this gateway
//! sees it: whatever the clocks of stores and workers say. (Should a store show nothing of a file for so long
//! while it is written, its writer finds it gone, and fails; nobody would have taken what it uploads.)

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::Writing;
use crate::{api::error::ApiError, registry::packed::Facts, upload::UploadName};

/// Uploads watched; a later pass of discovery finds the others.
const WATCHED_MAX: usize = 10_000;

/// An upload, by its directory.
type Place = (Arc<str>, UploadName);

/// What is watched.
pub(super) type Uploads = BTreeMap<Place, Watched>;

/// An upload that discovery saw.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Watched {
    facts: Facts,
    /// Since when it has stood still, as far as anybody looked.
    since: Instant,
}

impl Writing {
    /// For so long an upload stands still before it is removed: twice as long as a worker may take for one. A
    /// gateway waits that long for its worker; one that goes on without a gateway has as long again.
    fn upload_age(&self) -> Duration {
        self.rules.copy_max.saturating_mul(2)
    }

    /// Watches what discovery `found`, and removes what stood still for so long that nobody can be writing it,
    /// and that nobody waits for. What is not an attempt of this registry is left alone.
    pub(crate) async fn collect_uploads(&self, found: BTreeMap<Place, Facts>) {
        let (now, age) = (Instant::now(), self.upload_age());
        let due: Vec<(Place, Watched)> = {
            let mut watched = self.uploads.lock();
            for (place, facts) in found {
                let full = watched.len() >= WATCHED_MAX;
                match watched.entry(place) {
                    btree_map::Entry::Occupied(mut known) if known.get().facts != facts => {
                        known.insert(Watched { facts, since: now });
                    }
                    btree_map::Entry::Vacant(new) if !full => {
                        new.insert(Watched { facts, since: now });
                    }
                    _ => {}
                }
            }
            let due = watched.iter().filter(|(_, upload)| now.duration_since(upload.since) >= age);
            due.map(|(place, upload)| (place.clone(), upload.clone())).collect()
        };
        for (place, upload) in due {
            let next = match self.collect_upload(&place, upload.facts).await {
                Ok(next) => next,
                Err(error) => {
                    tracing::debug!(upload = place.1.file_name(), %error, "it is looked at again later");
                    Some(upload.facts)
                }
            };
            let mut watched = self.uploads.lock();
            match next {
                Some(facts) => drop(watched.insert(place, Watched { facts, since: Instant::now() })),
                None => drop(watched.remove(&place)),
            }
        }
    }

    /// Removes an upload that still is what it `was`, unless somebody may want it; `None`: there is nothing to
    /// watch any more.
    async fn collect_upload(&self, place: &Place, was: Facts) -> Result<Option<Facts>, ApiError> {
        let (directory, name) = place;
        // Without a number of its own it may be somebody else's, who names his files in the same way.
        if name.attempt.is_none() {
            return Ok(None);
        }
        let path = name.beside(&name.id.path_in(directory));
        // Whoever has the turn may be about to want one.
        let Some(_turn) = self.turns.try_take(&name.id) else { return Ok(Some(was)) };
        {
            let ledger = self.state.ledger();
            // Numbers that were never given here: another registry's.
            if name.highest() > ledger.token() {
                return Ok(None);
            }
            let is_wanted = ledger.intent(&name.id).is_some_and(|intent| intent.temporary == path);
            if is_wanted || ledger.damage(&name.id).is_some() {
                return Ok(Some(was));
            }
        }
        // A promotion that the registry does not know of yet: its lock's holder has not reported.
        if self.state.is_adopting() {
            return Ok(Some(was));
        }
        let Some(entry) = self.look(&path).await? else { return Ok(None) };
        let now = Facts { generation: entry.generation, size: entry.len, mtime_ms: entry.mtime_ms };
        if now != was {
            return Ok(Some(now));
        }
        if entry.is_dir {
            return Ok(None);
        }
        self.clear(&path).await?;
        tracing::info!(path, "an upload that no promotion waited for was removed");
        Ok(None)
    }
}
