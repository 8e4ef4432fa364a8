//! A newer generation in the store ends the write lock of its segment.
//!
//! Whoever puts a file in the place of a locked segment, and is not us, has made a generation that the writes
//! under the lock do not build upon. Who gives way is a rule ([`ForeignGeneration`]); usually the lock:
//! ```text
//! lock out of the ledger, the fact that it ended into it, generation into the catalog → log
//!        → holder told: it closes, keeps aside what was not promoted, and says under which name → noted
//! ```
//! It is found by discovery (any change of a locked segment in the catalog is looked at) and by a promotion
//! (its last look before the rename). What a promotion of ours left open is settled first, so that its own
//! generation is never taken for somebody else's.

use axum::http::Method;
use futures::StreamExt;
use serde_json::json;
use tokio::time::Instant;

use super::{Writing, not_provisioned, release::SHORT_CALL_MAX};
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        hot::{HotAside, SupersededInfo, Token},
    },
    failpoint,
    registry::{
        catalog::Lookup,
        ledger::{Aside, Entry, Lock, Superseded},
        packed::Facts,
        state::{Amendment, Change},
    },
    segment::SegmentId,
    settings::ForeignGeneration,
    store::{Generation, StoreEntry},
};

/// Segments decided about, settled, and holders told, at the same time.
pub(super) const AT_ONCE: usize = 16;
/// For so long people are told of a lock that ended.
const REMEMBERED_MS: i64 = 7 * 24 * 3600 * 1000;

/// What the store has of a locked segment.
#[derive(Debug)]
enum Sight {
    /// What its writes build upon, be it nothing.
    Own(Option<StoreEntry>),
    /// Nothing any more.
    Gone,
    /// Something that somebody else put into this directory.
    Foreign(String, StoreEntry),
}

impl Writing {
    /// Looks what the store has of `id`.
    async fn sight(&self, id: &SegmentId, lock: &Lock) -> Result<Sight, ApiError> {
        let path = id.path_in(&lock.directory);
        if let Some(entry) = self.look(&path).await? {
            return if entry.is_dir {
                Err(ApiError::new(ErrorCode::Conflict, format!("{path} is a directory, not a segment")))
            } else if Some(entry.generation) == lock.base {
                Ok(Sight::Own(Some(entry)))
            } else {
                Ok(Sight::Foreign(lock.directory.clone(), entry))
            };
        }
        // It may have been put, or moved, into another directory.
        let elsewhere = match self.state.catalog().lookup(id) {
            Lookup::Found(located) if *located.directory != *lock.directory => {
                Some(located.directory.to_string())
            }
            _ => None,
        };
        if let Some(directory) = elsewhere
            && let Some(entry) = self.look(&id.path_in(&directory)).await?
            && !entry.is_dir
        {
            return Ok(Sight::Foreign(directory, entry));
        }
        Ok(if lock.base.is_none() { Sight::Own(None) } else { Sight::Gone })
    }

    /// Generation that a promotion under `lock` may replace; `None`: nothing may be there. The rule decides
    /// about what somebody else has put there, and may end the lock: that is an error too. Under the
    /// segment's turn.
    pub(super) async fn target(&self, id: &SegmentId, lock: &Lock) -> Result<Option<Generation>, ApiError> {
        let base = lock.base.map_or("none".into(), |base| base.to_string());
        match (self.sight(id, lock).await?, self.rules.foreign) {
            (Sight::Own(_), _) => Ok(lock.base),
            (Sight::Gone, ForeignGeneration::Refuse) => Err(conflict(id, lock, None)),
            (Sight::Gone, _) => {
                tracing::warn!(segment = %id, base, "somebody removed the segment from the store; it is put there again");
                Ok(None)
            }
            (Sight::Foreign(directory, entry), ForeignGeneration::Supersede) => {
                Err(self.supersede(id, lock, directory, &entry).await?)
            }
            (Sight::Foreign(directory, entry), ForeignGeneration::Overwrite)
                if directory == lock.directory =>
            {
                let there = entry.generation;
                tracing::warn!(segment = %id, base, %there, "a generation that somebody else put there is replaced");
                Ok(Some(there))
            }
            (Sight::Foreign(_, entry), _) => Err(conflict(id, lock, Some(entry.generation))),
        }
    }

    /// Ends the write lock: `entry` in `directory` is newer than what its writes build upon. What the client
    /// is told. Under the segment's turn.
    async fn supersede(
        &self,
        id: &SegmentId,
        lock: &Lock,
        directory: String,
        entry: &StoreEntry,
    ) -> Result<ApiError, ApiError> {
        self.clear_upload(id).await?;
        let record = Superseded {
            worker: lock.worker.clone(),
            token: lock.token,
            at_ms: (self.clock)(),
            base: lock.base,
            generation: entry.generation,
            aside: None,
            over: false,
        };
        let facts = Facts { generation: entry.generation, size: entry.len, mtime_ms: entry.mtime_ms };
        let change = Change::Segment { directory: directory.into(), id: id.clone(), facts: Some(facts) };
        let (segment, written) = (id.clone(), record.clone());
        let ended = self.amend(move |ledger, _| {
            Ok(match ledger.lock(&segment) {
                Some(held) if held.token == written.token => Amendment {
                    entries: vec![
                        Entry::Superseded(segment.clone(), Some(written)),
                        Entry::Intent(segment.clone(), None),
                        Entry::Lock(segment, None),
                    ],
                    changes: vec![change],
                    answer: true,
                },
                _ => Amendment::none(false),
            })
        });
        if !ended.await? {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!("the write lock of segment {id} changed meanwhile: try again"),
            ));
        }
        tracing::warn!(
            segment = %id, worker = record.worker, token = record.token, generation = %record.generation,
            base = record.base.map(tracing::field::display),
            "write lock ended: somebody else put a newer generation into the store (foreign_generation = supersede)"
        );
        failpoint::pass("gateway.supersede.ended").await;
        self.routing.copies.reconsider(id);
        self.tell_superseded(id).await;
        Ok(self.no_lock(id))
    }

    /// Tells the former holder that its lock is over, and notes what it kept aside. Later again if it cannot
    /// be reached: it also learns of it by its next manifest.
    async fn tell_superseded(&self, id: &SegmentId) {
        let Some(record) = self.state.ledger().superseded(id).cloned() else { return };
        if record.aside.is_some() {
            return;
        }
        let Some(worker) = self.routing.workers.live(&record.worker, Instant::now().into_std()) else {
            return;
        };
        let call = (Method::POST, format!("/v1/hot/{id}/superseded"));
        let heard: HotAside = match self.ask(&worker, call, record.token, &json!({}), SHORT_CALL_MAX).await {
            Ok(heard) => heard,
            Err(failure) => {
                tracing::warn!(segment = %id, worker = record.worker, ?failure, "it could not be told that its write lock is over; later");
                return;
            }
        };
        failpoint::pass("gateway.supersede.told").await;
        let aside = Aside { known: heard.known, file: heard.kept, transactions: heard.transactions };
        match &aside.file {
            _ if !aside.known => tracing::error!(
                segment = %id, worker = record.worker, token = record.token,
                "the former holder knows nothing of its write lock: what was not promoted is gone with its disk"
            ),
            Some(file) => {
                tracing::warn!(
                    segment = %id, worker = record.worker, token = record.token, file,
                    transactions = aside.transactions, "what was not promoted is kept aside"
                );
            }
            None => {
                tracing::info!(segment = %id, worker = record.worker, "everything written had been promoted")
            }
        }
        let segment = id.clone();
        let noted = self.amend(move |ledger, _| {
            Ok(match ledger.superseded(&segment) {
                Some(known) if known.token == record.token => {
                    let known = Superseded { aside: Some(aside), ..known.clone() };
                    Amendment::ledger(vec![Entry::Superseded(segment, Some(known))], ())
                }
                _ => Amendment::none(()),
            })
        });
        if let Err(error) = noted.await {
            tracing::warn!(segment = %id, %error, "the former holder is asked once more");
        }
    }

    /// Decides about locked segments of which discovery saw something else than their writes build upon, and
    /// tells holders that were not reached. Now and then, and whenever there is something new.
    pub(crate) async fn supersede_all(&self) {
        let overtaken = self.state.take_overtaken();
        futures::stream::iter(&overtaken).for_each_concurrent(AT_ONCE, |id| self.judge(id)).await;
        let untold: Vec<SegmentId> = {
            let ledger = self.state.ledger();
            let untold = ledger.all_superseded().filter(|(_, record)| record.aside.is_none());
            untold.map(|(id, _)| id.clone()).collect()
        };
        futures::stream::iter(&untold).for_each_concurrent(AT_ONCE, |id| self.tell_superseded(id)).await;
    }

    async fn judge(&self, id: &SegmentId) {
        let differs = {
            let ledger = self.state.ledger();
            // Under one that is not ready nothing was acknowledged: the next request grants another.
            let Some(lock) = ledger.lock(id).filter(|lock| lock.ready && ledger.damage(id).is_none()) else {
                return;
            };
            match self.state.catalog().lookup(id) {
                Lookup::Found(located) => {
                    Some(located.facts.generation) != lock.base || *located.directory != *lock.directory
                }
                Lookup::Absent => lock.base.is_some(),
                Lookup::Ambiguous(_) => true,
            }
        };
        if !differs {
            return;
        }
        let judged = match self.turns.try_take(id) {
            // A promotion that is under way looks for itself, and may be what was seen.
            Some(_turn) if !self.promoting.lock().contains_key(id) => self.judge_now(id).await,
            _ => return self.state.put_off(id.clone()),
        };
        if let Err(error) = judged {
            tracing::warn!(segment = %id, %error, "it is not sure yet whose generation is in the store");
            self.state.put_off(id.clone());
        }
    }

    async fn judge_now(&self, id: &SegmentId) -> Result<(), ApiError> {
        self.settle(id).await?;
        let Some(lock) = self.state.ledger().lock(id).cloned() else { return Ok(()) };
        let base = lock.base.map_or("none".into(), |base| base.to_string());
        match (self.sight(id, &lock).await?, self.rules.foreign) {
            // The listing was older than our own promotion.
            (Sight::Own(entry), _) => {
                let facts = entry.map(|entry| Facts {
                    generation: entry.generation,
                    size: entry.len,
                    mtime_ms: entry.mtime_ms,
                });
                let change = Change::Segment { directory: lock.directory.into(), id: id.clone(), facts };
                // Under the lock of all changes: the next promotion may be committed meanwhile.
                let (segment, token) = (id.clone(), lock.token);
                self.amend(move |ledger, _| {
                    let same = ledger
                        .lock(&segment)
                        .is_some_and(|held| held.token == token && held.base == lock.base);
                    let changes = if same { vec![change] } else { Vec::new() };
                    Ok(Amendment { entries: Vec::new(), changes, answer: () })
                })
                .await?;
            }
            (Sight::Gone, _) => tracing::warn!(
                segment = %id, worker = lock.worker, base,
                "somebody removed a segment from the store that is locked for writing; the lock stays"
            ),
            (Sight::Foreign(directory, entry), ForeignGeneration::Supersede) => {
                self.supersede(id, &lock, directory, &entry).await?;
            }
            (Sight::Foreign(_, entry), rule) => tracing::warn!(
                segment = %id, worker = lock.worker, base, there = %entry.generation, ?rule,
                "somebody else put a generation of a segment into the store that is locked for writing"
            ),
        }
        Ok(())
    }

    /// Whether the write lock of `id` under `token` was ended by a newer generation.
    pub(super) fn is_superseded(&self, id: &SegmentId, token: Token) -> bool {
        self.state.ledger().superseded(id).is_some_and(|record| record.token == token)
    }

    /// Why nothing can be written to a segment without a write lock.
    pub(super) fn no_lock(&self, id: &SegmentId) -> ApiError {
        let ledger = self.state.ledger();
        let Some(record) = ledger.superseded(id).filter(|record| !record.over) else {
            return not_provisioned(id);
        };
        let Superseded { worker, token, generation, .. } = record;
        let aside = match &record.aside {
            Some(Aside { file: Some(file), transactions, .. }) => format!(
                "{transactions} transactions that were not promoted are kept aside on worker {worker} as \
                 hot/kept/{file} in its data directory"
            ),
            Some(Aside { known: true, .. }) => "Everything written under it had been promoted".into(),
            Some(_) => {
                format!("Worker {worker} came back without its data, and without what was not promoted")
            }
            None => format!(
                "What was not promoted is kept aside on worker {worker} as hot/kept/{id}.{token}.*.sqlite in its \
                 data directory once it is reached"
            ),
        };
        ApiError::new(
            ErrorCode::Superseded,
            format!(
                "the write lock of segment {id} (worker {worker}, token {token}) is over: somebody else put the \
                 newer generation {generation} into the store. {aside}. To write upon the newer one, provision \
                 the segment again"
            ),
        )
    }

    /// Locks that a newer generation ended: the last one of `only`, or all that nobody followed.
    pub(crate) fn superseded(&self, only: Option<&SegmentId>) -> Vec<SupersededInfo> {
        let ledger = self.state.ledger();
        let info = |id: &SegmentId, record: &Superseded| SupersededInfo {
            segment: id.to_string(),
            worker: record.worker.clone(),
            token: record.token,
            at_ms: record.at_ms,
            base: record.base.map(|base| base.to_string()),
            generation: record.generation.to_string(),
            heard: record.aside.is_some(),
            kept: record.aside.as_ref().and_then(|aside| aside.file.clone()),
            transactions: record.aside.as_ref().map_or(0, |aside| aside.transactions),
            lost: record.aside.as_ref().is_some_and(|aside| !aside.known),
        };
        match only {
            Some(id) => ledger.superseded(id).map(|record| info(id, record)).into_iter().collect(),
            None => {
                let open = ledger.all_superseded().filter(|(_, record)| !record.over);
                open.map(|(id, record)| info(id, record)).collect()
            }
        }
    }

    /// Forgets what nobody has to be told any more.
    pub(crate) async fn forget_superseded(&self) {
        let now = (self.clock)();
        let is_old = move |record: &Superseded| record.at_ms.saturating_add(REMEMBERED_MS) < now;
        if !self.state.ledger().all_superseded().any(|(_, record)| is_old(record)) {
            return;
        }
        let forgotten = self.amend(move |ledger, _| {
            let old = ledger.all_superseded().filter(|(_, record)| is_old(record));
            Ok(Amendment::ledger(old.map(|(id, _)| Entry::Superseded(id.clone(), None)).collect(), ()))
        });
        if let Err(error) = forgotten.await {
            tracing::warn!(%error, "locks that ended long ago could not be forgotten");
        }
    }
}

fn conflict(id: &SegmentId, lock: &Lock, there: Option<Generation>) -> ApiError {
    let text = |generation: Option<Generation>| generation.map_or("none".into(), |g| g.to_string());
    ApiError::new(
        ErrorCode::Conflict,
        format!(
            "segment {id} was changed in the store by somebody else: generation {} is there, the writes build upon \
             {}. Nothing was replaced. To drop the writes here, release with {{\"force\": true}}; they are kept \
             aside on worker {}",
            text(there),
            text(lock.base),
            lock.worker
        ),
    )
}
