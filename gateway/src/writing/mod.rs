//! Segments that are written: who may, forwarding what is written, promotion, release, deletion, schemas.
//!
//! What is decided goes through the ledger, which makes it durable first; the worker is asked afterwards.
//! So after a crash the ledger knows at least as much as any worker, and whatever was begun is ended or
//! undone by [`Writing::settle`]. Changes of one segment take turns; different segments do not wait for
//! each other. Each runs as a task of its own, so that a client that goes away leaves nothing half done.

mod choose;
mod copies;
mod delete;
pub(crate) mod execute;
mod hot;
mod optimize;
mod promote;
mod provision;
mod release;
pub(crate) mod schemas;
mod settle;
mod shipped;
mod supersede;
#[cfg(test)]
mod tests;
pub(crate) mod tiers;
mod turns;
mod uploads;
mod verify;
mod work;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

pub use self::schemas::SchemaCheck;
use self::{turns::Turns, uploads::Uploads};
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        hot::{LockInfo, LockState, Token},
    },
    discovery::Clock,
    heat::HeatSettings,
    registry::{
        catalog::Lookup,
        ledger::{Ledger, Lock},
        state::{Amendment, State},
    },
    routing::{Routing, workers::Worker},
    rules::{Rules as SegmentRules, Terms, TierRule},
    segment::SegmentId,
    settings::ForeignGeneration,
    store::{SegmentStore, StoreEntry, StoreFailure},
};

/// What writing can be told.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// Longest time of one call of a hot worker that copies a segment.
    pub(crate) copy_max: Duration,
    /// Who gives way if somebody else puts a generation of a locked segment into the store.
    pub(crate) foreign: ForeignGeneration,
    /// Which segments may be raised and written.
    pub(crate) segments: Arc<SegmentRules>,
    /// When demand raises and lowers.
    pub(crate) heat: HeatSettings,
}

/// Everything that changes segments.
pub(crate) struct Writing {
    state: Arc<State>,
    store: Arc<dyn SegmentStore>,
    routing: Arc<Routing>,
    clock: Clock,
    rules: Rules,
    turns: Turns,
    /// Promotions that this process is carrying out, by segment.
    promoting: Mutex<HashMap<SegmentId, Token>>,
    /// Uploads in the store that perhaps nobody waits for.
    uploads: Mutex<Uploads>,
    verifying: verify::Verifying,
    schema_check: OnceLock<Arc<dyn SchemaCheck>>,
}

/// Where a segment lies, or would.
struct Place {
    directory: String,
    /// What is there; `None`: surely nothing.
    entry: Option<StoreEntry>,
}

impl Writing {
    pub(crate) fn new(
        state: Arc<State>,
        store: Arc<dyn SegmentStore>,
        routing: Arc<Routing>,
        clock: Clock,
        rules: Rules,
    ) -> Self {
        Self {
            state,
            store,
            routing,
            clock,
            rules,
            turns: Turns::default(),
            promoting: Mutex::default(),
            uploads: Mutex::default(),
            verifying: verify::Verifying::default(),
            schema_check: OnceLock::new(),
        }
    }

    /// Wall clock, ms since 1970.
    pub(crate) fn now_ms(&self) -> i64 {
        (self.clock)()
    }

    /// Refused as long as a worker may have a lock of `id` that the registry does not know yet.
    fn all_locks_known(&self, id: &SegmentId) -> Result<(), ApiError> {
        if !self.state.is_adopting() || self.state.ledger().lock(id).is_some() {
            return Ok(());
        }
        Err(ApiError::new(
            ErrorCode::Warming,
            format!(
                "the registry was made again a moment ago: whether a worker may write segment {id} is known \
                 once all have reported"
            ),
        )
        .retry_after_s(5))
    }

    /// All write locks, or the one of `only`.
    pub(crate) fn locks(&self, only: Option<&SegmentId>) -> Vec<LockInfo> {
        let now = Instant::now().into_std();
        let locks: Vec<(SegmentId, Lock)> = {
            let ledger = self.state.ledger();
            match only {
                Some(id) => ledger.lock(id).map(|lock| (id.clone(), lock.clone())).into_iter().collect(),
                None => ledger.locks().map(|(id, lock)| (id.clone(), lock.clone())).collect(),
            }
        };
        let promoting = self.promoting.lock();
        let info = |id: &SegmentId, lock: &Lock| {
            let lives = self.routing.workers.live(&lock.worker, now).is_some_and(|w| w.hot.is_some());
            let written = self.routing.copies.written(&lock.worker, id, lock.token);
            // A promotion is known here before the holder tells of it.
            let safe = written.map(|written| written.safe.max(lock.base_change));
            LockInfo {
                segment: id.to_string(),
                worker: lock.worker.clone(),
                token: lock.token,
                state: if lives { LockState::Held } else { LockState::Suspended },
                since_ms: lock.since_ms,
                schema: lock.schema.clone(),
                promoting: promoting.contains_key(id),
                change: written.map(|written| written.change).max(safe),
                safe_change: safe,
                ship: lock.ship,
            }
        };
        locks.iter().map(|(id, lock)| info(id, lock)).collect()
    }

    /// Runs `work` to its end, also if whoever asked for it goes away.
    async fn detached<T: Send + 'static>(
        work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        match tokio::spawn(work).await {
            Ok(result) => result,
            Err(error) => {
                Err(ApiError::new(ErrorCode::Internal, format!("the request ended early: {error}")))
            }
        }
    }

    /// See [`State::amend`].
    async fn amend<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&Ledger, Option<Token>) -> Result<Amendment<T>, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let state = self.state.clone();
        match crate::blocking::run(move || state.amend(decide)).await {
            Ok(result) => result,
            Err(error) => Err(ApiError::new(ErrorCode::Internal, format!("registry: {error}"))),
        }
    }

    /// What is in the store at `path`; `None`: surely nothing.
    async fn look(&self, path: &str) -> Result<Option<StoreEntry>, ApiError> {
        match self.store.stat(path).await {
            Ok(entry) => Ok(Some(entry)),
            Err(StoreFailure::NotFound(_)) => Ok(None),
            Err(failure) => Err(store_error(path, &failure)),
        }
    }

    /// Removes a file that may not be there.
    async fn clear(&self, path: &str) -> Result<(), ApiError> {
        match self.store.remove(path).await {
            Ok(()) | Err(StoreFailure::NotFound(_)) => Ok(()),
            Err(failure) => Err(store_error(path, &failure)),
        }
    }

    /// Asks the store where a segment lies. Only what is certain: where nobody knows the whole store yet,
    /// or it does not answer, nothing is said to be absent.
    async fn place(&self, id: &SegmentId) -> Result<Place, ApiError> {
        let lookup = self.state.catalog().lookup(id);
        let canonical = id.canonical_dir();
        let known = match lookup {
            Lookup::Found(located) => located.directory.to_string(),
            Lookup::Absent => canonical.clone(),
            Lookup::Ambiguous(paths) => {
                return Err(ApiError::new(
                    ErrorCode::SegmentAmbiguous,
                    format!("segment {id} lies in more than one directory: {}", paths.join(", ")),
                ));
            }
        };
        for directory in [&known, &canonical] {
            if let Some(entry) = self.look(&id.path_in(directory)).await? {
                if entry.is_dir {
                    return Err(ApiError::new(
                        ErrorCode::Conflict,
                        format!("{} is a directory, not a segment", id.path_in(directory)),
                    ));
                }
                return Ok(Place { directory: directory.clone(), entry: Some(entry) });
            }
        }
        if !self.state.discovered() {
            return Err(ApiError::new(
                ErrorCode::Warming,
                format!("segment {id} is not known yet: the first discovery of the store is still running"),
            )
            .retry_after_s(2));
        }
        Ok(Place { directory: canonical, entry: None })
    }

    /// The worker, if it lives and holds copies. An error as long as nobody can know.
    fn live(&self, name: &str) -> Result<Option<Arc<Worker>>, ApiError> {
        let now = Instant::now().into_std();
        match self.routing.workers.live(name, now).filter(|worker| worker.hot.is_some()) {
            Some(worker) => Ok(Some(worker)),
            None => match self.routing.workers.warming(now) {
                Some(left) => Err(ApiError::new(
                    ErrorCode::Warming,
                    format!("the gateway started a moment ago and waits for worker {name} to report"),
                )
                .retry_after_s(u32::try_from(left.as_secs() + 1).unwrap_or(u32::MAX))),
                None => Ok(None),
            },
        }
    }

    /// The write lock of `id` and its live holder. `sent`: the token that came with the request, if any.
    fn held(&self, id: &SegmentId, sent: Option<Token>) -> Result<(Lock, Arc<Worker>), ApiError> {
        let lock = {
            let ledger = self.state.ledger();
            if let Some(damage) = ledger.damage(id) {
                return Err(in_doubt(id, damage));
            }
            ledger.lock(id).cloned()
        };
        let Some(lock) = lock else { return Err(self.no_lock(id)) };
        check_token(id, lock.token, sent)?;
        if !lock.ready {
            return Err(ApiError::new(
                ErrorCode::NotProvisioned,
                format!("segment {id} is being provisioned on {}: repeat the provision", lock.worker),
            ));
        }
        match self.live(&lock.worker)? {
            Some(worker) => Ok((lock, worker)),
            None => Err(suspended(id, &lock)),
        }
    }
}

fn check_token(id: &SegmentId, held: Token, sent: Option<Token>) -> Result<(), ApiError> {
    match sent {
        Some(sent) if sent < held => Err(ApiError::new(
            ErrorCode::Fenced,
            format!(
                "segment {id} has a write lock with the newer token {held}; {sent} can change nothing any more"
            ),
        )),
        Some(sent) if sent > held => Err(ApiError::new(
            ErrorCode::Conflict,
            format!("segment {id} is locked with token {held}; token {sent} was never given for it"),
        )),
        _ => Ok(()),
    }
}

fn not_provisioned(id: &SegmentId) -> ApiError {
    ApiError::new(
        ErrorCode::NotProvisioned,
        format!("segment {id} is not provisioned for writing: POST /v1/segments/{id}/provision first"),
    )
}

fn suspended(id: &SegmentId, lock: &Lock) -> ApiError {
    ApiError::new(
        ErrorCode::LockSuspended,
        format!(
            "worker {}, which has the write lock of segment {id}, is not alive: wait for it, or provision with \
             {{\"takeover\": true}}, which leaves what it had not promoted behind",
            lock.worker
        ),
    )
    .retry_after_s(5)
}

/// What is in the cold range has no copies.
fn cold_range(id: &SegmentId, terms: &Terms, what: &str) -> Result<(), ApiError> {
    if terms.tier != TierRule::Cold {
        return Ok(());
    }
    let rule = terms.source();
    Err(ApiError::new(
        ErrorCode::ColdRange,
        format!(
            "segment {id} is in the cold range ({rule} says tier = \"cold\"): it cannot be {what}; ask \
             `springhouse tiers explain {id}`, or change the rule"
        ),
    ))
}

fn in_doubt(id: &SegmentId, damage: &str) -> ApiError {
    ApiError::new(
        ErrorCode::Conflict,
        format!(
            "segment {id} cannot be written: {damage}; if no worker has writes of it that matter, provision it \
             with {{\"takeover\": true}}"
        ),
    )
}

fn store_error(path: &str, failure: &StoreFailure) -> ApiError {
    tracing::warn!(path, %failure, "the store failed a call");
    ApiError::new(
        ErrorCode::StoreUnavailable,
        format!("the store did not tell about {path}, or refused: {failure}"),
    )
    .retry_after_s(2)
}
