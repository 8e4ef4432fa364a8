//! One segment looked at where its bytes are: registry and store here, the bytes by workers.
//!
//! Nothing is locked meanwhile. What changes in the middle is noticed at the end, and looked at again. It
//! changes nothing that anybody wants, so it ends with the client that asked for it.

mod judge;

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::http::Method;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use self::judge::{Outcome, Seen, SeenCopy, judge};
use super::{Writing, hot::Failure};
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        hot::CopyState,
        types::CopyInfo,
        verify::{Depth, FileVerified, FileVerify, VerifyAnswer},
    },
    registry::{catalog::Located, packed::Facts},
    routing::workers::Worker,
    segment::SegmentId,
    store::{Generation, StoreEntry},
};

/// Looks at a segment that is replaced all the time.
const LOOKS_MAX: u32 = 5;
/// Before the next one: a mount may show the old generation for a second.
const LOOK_AGAIN: Duration = Duration::from_millis(1_200);
/// Longest time that a manifest takes to say what its worker has: it is sent 100 ms after a change, and again
/// with the next heartbeat.
const MANIFEST_MAX: Duration = Duration::from_secs(5);
const MANIFEST_LOOK: Duration = Duration::from_millis(100);
/// Workers that are asked to read the store's file: whatever keeps three from it keeps all.
const READERS_MAX: usize = 3;

/// Verifications that this process carries out.
#[derive(Debug, Default)]
pub(super) struct Verifying(Mutex<HashMap<SegmentId, (usize, Arc<Notify>)>>);

/// One of them, until dropped.
struct Running<'a>(&'a Verifying, SegmentId);

impl Verifying {
    fn begin(&self, id: &SegmentId) -> (Running<'_>, Arc<Notify>) {
        let mut running = self.0.lock();
        let (count, cancelled) = running.entry(id.clone()).or_default();
        *count += 1;
        (Running(self, id.clone()), Arc::clone(cancelled))
    }

    /// Whether `id` is being verified.
    pub(super) fn has(&self, id: &SegmentId) -> bool {
        self.0.lock().contains_key(id)
    }

    /// Ends those of `id`; whether there were any.
    pub(super) fn cancel(&self, id: &SegmentId) -> bool {
        match self.0.lock().get(id) {
            Some((_, cancelled)) => {
                cancelled.notify_waiters();
                true
            }
            None => false,
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut running = self.0.0.lock();
        if let Some((count, _)) = running.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.1);
            }
        }
    }
}

impl Writing {
    /// Compares what registry, store and hot workers have of `id`, and has workers read it.
    ///
    /// # Errors
    /// There is no such segment, the store or all workers that could read it are away, or it was cancelled.
    /// What does not fit is no error: the answer names it.
    pub(crate) async fn verify(&self, id: &SegmentId, depth: Depth) -> Result<VerifyAnswer, ApiError> {
        let (_running, cancelled) = self.verifying.begin(id);
        let cancelled = cancelled.notified();
        tokio::pin!(cancelled);
        cancelled.as_mut().enable();
        tokio::select! {
            answer = self.verify_until_still(id, depth) => answer,
            () = cancelled => {
                Err(ApiError::new(ErrorCode::Conflict, format!("the verification of segment {id} was cancelled")))
            }
        }
    }

    async fn verify_until_still(&self, id: &SegmentId, depth: Depth) -> Result<VerifyAnswer, ApiError> {
        let mut looks = 1;
        loop {
            match self.verify_once(id, depth).await {
                Err(error) if error.code == ErrorCode::SegmentReplaced && looks < LOOKS_MAX => {
                    looks += 1;
                    sleep(LOOK_AGAIN).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn verify_once(&self, id: &SegmentId, depth: Depth) -> Result<VerifyAnswer, ApiError> {
        let named = self.named(id).await?;
        let path = match &named {
            Some(located) => id.path_in(&located.directory),
            None => id.path_in(&id.canonical_dir()),
        };
        let entry = self.look(&path).await?;
        if entry.as_ref().is_some_and(|entry| entry.is_dir) {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!("{path} is a directory, not a segment: move it away"),
            ));
        }
        let asked = FileVerify { path: path.clone(), depth };
        let read = async {
            match (&named, &entry) {
                (Some(_), Some(entry)) => self.read_in_store(id, &asked, entry).await.map(Some),
                _ => Ok(None),
            }
        };
        let (read, copies, kept) =
            tokio::try_join!(read, self.look_at_copies(id, &asked), self.kept(id, named.as_ref()))?;
        let after = self.named(id).await?;
        let facts =
            |located: &Option<Located>| -> Option<Facts> { located.as_ref().map(|located| located.facts) };
        let named = facts(&named);
        if facts(&after) != named {
            return Err(replaced(id));
        }
        let news = self.routing.copies.is_news(id);
        Ok(judge(Seen { segment: id.clone(), path, depth, named, news, kept, entry, read, copies }))
    }

    /// What the registry names; `None`: it was provisioned, and never promoted.
    async fn named(&self, id: &SegmentId) -> Result<Option<Located>, ApiError> {
        match self.routing.resolve(id).await {
            Ok(located) => Ok(Some(located)),
            Err(error)
                if error.code == ErrorCode::SegmentNotFound && self.state.ledger().lock(id).is_some() =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The checksum that the registry keeps of the generation that it names.
    async fn kept(&self, id: &SegmentId, named: Option<&Located>) -> Result<Option<String>, ApiError> {
        let Some(generation) = named.map(|located| located.facts.generation) else { return Ok(None) };
        let (state, id) = (self.state.clone(), id.clone());
        let kept = crate::blocking::run(move || state.checksum(&id)).await;
        let kept = kept.map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))??;
        Ok(kept.filter(|kept| kept.generation == generation).map(|kept| kept.checksum))
    }

    /// Has a worker read the file that the store says is there.
    async fn read_in_store(
        &self,
        id: &SegmentId,
        asked: &FileVerify,
        entry: &StoreEntry,
    ) -> Result<(String, FileVerified), ApiError> {
        let now = Instant::now().into_std();
        let mut readers: Vec<Arc<Worker>> = self.routing.workers.candidates(id, now).workers;
        for hot in self.routing.workers.hot(now) {
            if readers.iter().all(|reader| reader.name != hot.name) {
                readers.push(hot);
            }
        }
        let mut last = match self.routing.workers.warming(now) {
            Some(left) => {
                ApiError::new(ErrorCode::Warming, "the gateway started a moment ago and waits for workers")
                    .retry_after_s(u32::try_from(left.as_secs() + 1).unwrap_or(u32::MAX))
            }
            None => ApiError::new(
                ErrorCode::NoWorker,
                "no worker is alive that could read the segment: start one with `springhouse worker`",
            ),
        };
        for worker in readers.into_iter().take(READERS_MAX) {
            let path = (Method::POST, format!("/v1/segments/{id}/verify"));
            let found: Result<FileVerified, _> = self.ask(&worker, path, 0, asked, self.rules.copy_max).await;
            match found {
                Ok(found) if is(&found, entry.generation) => return Ok((worker.name.to_string(), found)),
                // What the worker has open, or does not see yet, is another one than the store told us of.
                Ok(_) => return Err(replaced(id)),
                Err(Failure::Refused(error))
                    if matches!(error.code, ErrorCode::SegmentReplaced | ErrorCode::SegmentNotFound) =>
                {
                    return Err(replaced(id));
                }
                Err(failure) => last = failure.error(id, &worker.name),
            }
        }
        Err(last)
    }

    /// Has every worker that says so look at its copy.
    async fn look_at_copies(&self, id: &SegmentId, asked: &FileVerify) -> Result<Vec<SeenCopy>, ApiError> {
        let mut infos = self.copy_infos(id);
        let lock = self.state.ledger().lock(id).filter(|lock| lock.ready).cloned();
        // The holder may not have told yet what it has; its copy may be all that there is of the segment.
        if let Some(lock) = lock
            && infos.iter().all(|info| info.worker != lock.worker)
        {
            infos.push(CopyInfo {
                live: self.routing.workers.live(&lock.worker, Instant::now().into_std()).is_some(),
                worker: lock.worker,
                state: CopyState::Available,
                reason: None,
                generation: lock.base.map(|base| base.to_string()),
                size: 0,
                fetched: 0,
                token: Some(lock.token),
                unpromoted: false,
            });
        }
        let looked = infos.into_iter().map(|info| self.look_at_copy(id, asked, info));
        let mut copies = Vec::new();
        for copy in join_all(looked).await {
            copies.extend(copy?);
        }
        Ok(copies)
    }

    fn copy_infos(&self, id: &SegmentId) -> Vec<CopyInfo> {
        let now = Instant::now().into_std();
        self.routing.copies.infos(id, |name| self.routing.workers.live(name, now).is_some())
    }

    async fn look_at_copy(
        &self,
        id: &SegmentId,
        asked: &FileVerify,
        info: CopyInfo,
    ) -> Result<Option<SeenCopy>, ApiError> {
        let outcome = match info.state {
            CopyState::Assigned | CopyState::Fetching | CopyState::Gone => return Ok(None),
            CopyState::Refused => {
                Outcome::Refused(info.reason.clone().unwrap_or_else(|| "it does not say why".to_owned()))
            }
            CopyState::Available | CopyState::Stale => {
                let now = Instant::now().into_std();
                match self.routing.workers.live(&info.worker, now) {
                    None => Outcome::Silent("the worker is not alive".to_owned()),
                    Some(worker) => match self.ask_for_copy(id, asked, &worker).await? {
                        // Given up meanwhile, as it should be.
                        Outcome::Missing if !self.says_it_has(id, &info.worker) => return Ok(None),
                        // Its manifest may be a moment behind it.
                        Outcome::Looked(found) => {
                            let info = self.caught_up(id, info, &found).await;
                            return Ok(Some(SeenCopy { info, outcome: Outcome::Looked(found) }));
                        }
                        outcome => outcome,
                    },
                }
            }
        };
        Ok(Some(SeenCopy { info, outcome }))
    }

    async fn ask_for_copy(
        &self,
        id: &SegmentId,
        asked: &FileVerify,
        worker: &Worker,
    ) -> Result<Outcome, ApiError> {
        let path = (Method::POST, format!("/v1/hot/{id}/verify"));
        let found: Result<FileVerified, _> = self.ask(worker, path, 0, asked, self.rules.copy_max).await;
        Ok(match found {
            Ok(found) => Outcome::Looked(found),
            Err(Failure::Refused(error)) if error.code == ErrorCode::SegmentReplaced => return Err(error),
            Err(Failure::Refused(error)) if error.code == ErrorCode::SegmentNotFound => Outcome::Missing,
            Err(failure) => Outcome::Silent(failure.error(id, &worker.name).message),
        })
    }

    /// What the worker says of its copy, once that is of the generation that was found; what it said last, if
    /// it does not come to say so.
    async fn caught_up(&self, id: &SegmentId, mut info: CopyInfo, found: &FileVerified) -> CopyInfo {
        let until = Instant::now() + MANIFEST_MAX;
        while info.generation != found.generation && Instant::now() < until {
            sleep(MANIFEST_LOOK).await;
            let now = self.copy_infos(id).into_iter().find(|now| now.worker == info.worker);
            info = now.unwrap_or(info);
        }
        info
    }

    fn says_it_has(&self, id: &SegmentId, worker: &str) -> bool {
        let answers = |copy: &CopyInfo| matches!(copy.state, CopyState::Available | CopyState::Stale);
        self.copy_infos(id).iter().any(|copy| copy.worker == worker && answers(copy))
    }
}

fn is(found: &FileVerified, generation: Generation) -> bool {
    found.generation.as_deref() == Some(generation.to_string().as_str())
}

fn replaced(id: &SegmentId) -> ApiError {
    ApiError::new(
        ErrorCode::SegmentReplaced,
        format!(
            "segment {id} was replaced again and again while it was verified: verify it again when it is still"
        ),
    )
}
