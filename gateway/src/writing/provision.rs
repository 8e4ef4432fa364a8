//! Giving one worker the right to write a segment.
//!
//! The lock is durable before the worker is asked, and `ready` once the worker has said that it can: only
//! then does the gateway forward anything under it. So a crash in between leaves a lock under which
//! nothing was acknowledged, and the next request grants a new one.

use std::sync::Arc;

use axum::http::Method;
use tokio::time::Instant;

use super::{
    Place, Writing,
    choose::{Candidate, order},
    cold_range,
    hot::Failure,
    in_doubt,
    shipped::Taken,
    suspended,
};
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        hot::{CopyState, HotProvision, ProvisionAnswer, ProvisionRequest, Token},
        ship::{HotProvisioned, Ship},
    },
    failpoint,
    registry::{
        ledger::{DEFAULT_SCHEMA, Entry, Ledger, Lock, Superseded},
        state::Amendment,
    },
    routing::workers::Worker,
    segment::SegmentId,
};

/// What the request and the lock before it say.
struct Wish {
    schema: String,
    schema_sql: String,
    ship: Option<Ship>,
    taken: Option<Taken>,
}

impl Writing {
    /// Makes `id` writable on one worker. Idempotent.
    pub(crate) async fn provision(
        self: &Arc<Self>,
        id: SegmentId,
        request: ProvisionRequest,
    ) -> Result<ProvisionAnswer, ApiError> {
        let this = self.clone();
        Self::detached(async move { this.provision_now(&id, request).await }).await
    }

    async fn provision_now(
        &self,
        id: &SegmentId,
        request: ProvisionRequest,
    ) -> Result<ProvisionAnswer, ApiError> {
        let _turn = self.turns.take(id).await;
        let schema = request.schema.unwrap_or_else(|| DEFAULT_SCHEMA.to_owned());
        let schema_sql = self.schema_sql(&schema)?;
        self.settle(id).await?;
        let old = {
            let ledger = self.state.ledger();
            match ledger.damage(id) {
                // Taking over is the way out of a damaged row.
                Some(damage) if !request.takeover => return Err(in_doubt(id, damage)),
                _ => {}
            }
            ledger.lock(id).cloned()
        };
        if !request.takeover {
            self.all_locks_known(id)?;
        }
        let mut former = None;
        if let Some(lock) = &old {
            let holder = self.live(&lock.worker)?;
            match holder {
                Some(worker) if lock.ready && !request.takeover => {
                    return self.again(id, lock, &worker, schema, schema_sql).await;
                }
                None if lock.ready && !request.takeover => return Err(suspended(id, lock)),
                _ => {}
            }
            if lock.ready {
                former = Some(lock.worker.clone());
                // What it need not keep aside: a promotion that it has not heard of.
                if let Some(worker) = self.live(&lock.worker)? {
                    self.tell_promoted(id, &worker).await;
                }
            }
            self.clear_upload(id).await?;
        }
        let place = self.place(id).await?;
        // Under a lock it may be aged by now, and still has to be written to its end.
        if old.as_ref().is_none_or(|lock| !lock.ready) {
            let mtime_ms = place.entry.as_ref().map(|entry| entry.mtime_ms);
            let terms = self.rules.segments.terms(id.as_str(), mtime_ms, (self.clock)());
            cold_range(id, terms, "provisioned for writing")?;
        }
        let workers = self.writers(id, &place, former.as_deref())?;
        let there = place.entry.as_ref().map(|entry| entry.generation);
        let taken = old.as_ref().map(|lock| Taken::new(self, id, lock, there));
        let wish = Wish { schema, schema_sql, ship: self.ship_rule(id), taken };
        self.grant_one_of(id, old, place, &workers, wish).await
    }

    /// The lock is held and its holder lives: it is asked again, because it may have been restarted.
    async fn again(
        &self,
        id: &SegmentId,
        lock: &Lock,
        worker: &Worker,
        schema: String,
        schema_sql: String,
    ) -> Result<ProvisionAnswer, ApiError> {
        self.tell_promoted(id, worker).await;
        let lock = Lock { ship: self.ship_rule(id), ..lock.clone() };
        let made = self.prepare(id, &lock, worker, schema_sql, None).await;
        let made = made.map_err(|failure| match failure {
            Failure::Refused(error) if error.code == ErrorCode::SegmentNotFound => {
                lost_data(id, lock.worker.as_str())
            }
            failure => failure.error(id, &worker.name),
        })?;
        self.note_shipping(id, &lock, made.segment.promoted_change).await?;
        Ok(answer(id, &lock, worker, false, false, schema, made.segment.size))
    }

    /// The holder ships as `lock` says from now on, and has told how far the store is.
    async fn note_shipping(&self, id: &SegmentId, lock: &Lock, promoted: u64) -> Result<(), ApiError> {
        let (id, token, ship) = (id.clone(), lock.token, lock.ship);
        self.amend(move |ledger, _| {
            Ok(match ledger.lock(&id) {
                // A promotion that it was not told of yet is known here better.
                Some(held) if held.token == token => {
                    let base_change = held.base_change.max(promoted);
                    let now = Lock { ship, base_change, ..held.clone() };
                    if now == *held {
                        Amendment::none(())
                    } else {
                        Amendment::ledger(vec![Entry::Lock(id, Some(now))], ())
                    }
                }
                _ => Amendment::none(()),
            })
        })
        .await
    }

    /// Asks one worker after the other until one takes the segment.
    async fn grant_one_of(
        &self,
        id: &SegmentId,
        old: Option<Lock>,
        place: Place,
        workers: &[Arc<Worker>],
        wish: Wish,
    ) -> Result<ProvisionAnswer, ApiError> {
        let Wish { schema, schema_sql, ship, taken } = wish;
        let base = place.entry.as_ref().map(|entry| entry.generation);
        let mut before = old.map(|lock| lock.token);
        let mut last = None;
        for worker in workers {
            let lock = Lock {
                worker: worker.name.to_string(),
                token: 0,
                since_ms: (self.clock)(),
                schema: schema.clone(),
                directory: place.directory.clone(),
                base,
                ready: false,
                untold: None,
                base_change: taken.as_ref().map_or(0, |taken| taken.base_change(base)),
                ship,
                ship_from: taken.as_ref().map_or(0, Taken::ship_from),
            };
            let lock = self.grant(id, before, lock).await?;
            failpoint::pass("gateway.provision.granted").await;
            before = Some(lock.token);
            match self.prepare(id, &lock, worker, schema_sql.clone(), taken.as_ref()).await {
                Ok(made) => {
                    failpoint::pass("gateway.provision.prepared").await;
                    self.set_ready(id, lock.token, &made).await?;
                    failpoint::pass("gateway.provision.ready").await;
                    tracing::info!(segment = %id, worker = &*worker.name, token = lock.token, "write lock granted");
                    self.routing.copies.acknowledged(id, lock.token, made.segment.change);
                    self.routing.copies.reconsider(id);
                    let answer = answer(id, &lock, worker, true, base.is_none(), schema, made.segment.size);
                    let recovered = taken
                        .filter(Taken::is_told)
                        .map(|taken| taken.told(&worker.name, made.segment.change, made.recovered));
                    return Ok(ProvisionAnswer { recovered, ..answer });
                }
                Err(Failure::Refused(error)) if error.code != ErrorCode::NoRoom => {
                    self.take_back_unless(taken.as_ref(), id, lock.token).await?;
                    return Err(error);
                }
                // Perhaps it has made the segment: the next request finds this lock, and grants another.
                Err(Failure::Unknown(reason)) => {
                    return Err(Failure::Unknown(reason).error(id, &worker.name));
                }
                Err(failure) => last = Some(failure.error(id, &worker.name)),
            }
        }
        if let Some(token) = before {
            self.take_back_unless(taken.as_ref(), id, token).await?;
        }
        Err(last.unwrap_or_else(|| no_room(id)))
    }

    /// Writes a new lock down, with the next token, in place of the one with token `before`.
    pub(super) async fn grant(
        &self,
        segment: &SegmentId,
        before: Option<Token>,
        mut lock: Lock,
    ) -> Result<Lock, ApiError> {
        let id = segment.clone();
        let granted = self
            .amend(move |ledger, next| {
                let token = fresh(ledger, next)?;
                if ledger.lock(&id).map(|lock| lock.token) != before {
                    return Err(ApiError::new(
                        ErrorCode::Conflict,
                        format!("the write lock of segment {id} changed meanwhile: try again"),
                    ));
                }
                lock.token = token;
                let mut entries = vec![
                    Entry::Token(lock.token),
                    Entry::Lock(id.clone(), Some(lock.clone())),
                    Entry::Intent(id.clone(), None),
                ];
                if ledger.damage(&id).is_some() {
                    entries.push(Entry::Tombstone(id.clone(), None));
                    entries.push(Entry::Dispute(id.clone(), None));
                }
                Ok(Amendment::ledger(entries, lock))
            })
            .await;
        self.routing.copies.reconsider(segment);
        granted
    }

    async fn set_ready(&self, id: &SegmentId, token: Token, made: &HotProvisioned) -> Result<(), ApiError> {
        // Discovery may have seen another generation since the store was asked.
        self.state.put_off(id.clone());
        let id = id.clone();
        // A holder that did not take up what was shipped counts anew, and nothing before is its own.
        let goes_on = made.recovered.as_ref().is_some_and(|found| found.files > 0 || found.unused.is_none());
        let base_change = made.segment.promoted_change;
        self.amend(move |ledger, _| match ledger.lock(&id) {
            Some(lock) if lock.token == token => {
                let ship_from = if goes_on { lock.ship_from } else { 0 };
                let lock = Lock { ready: true, base_change, ship_from, ..lock.clone() };
                let mut entries = vec![Entry::Lock(id.clone(), Some(lock))];
                // Whoever wanted to write on has what he wanted. Not before: until then, and under a lock that
                // only lays the segment out anew, people are told what was kept aside.
                if let Some(record) = ledger.superseded(&id).filter(|record| !record.over) {
                    let record = Superseded { over: true, ..record.clone() };
                    entries.push(Entry::Superseded(id, Some(record)));
                }
                Ok(Amendment::ledger(entries, ()))
            }
            _ => Err(ApiError::new(
                ErrorCode::Fenced,
                format!("the write lock of segment {id} was taken by another request"),
            )),
        })
        .await
    }

    /// As [`Self::take_back`]; but where former holders have shipped writes that this lock was to take up, it
    /// stays, not ready: it is all that keeps those from being collected, and the next provision takes them up.
    async fn take_back_unless(
        &self,
        taken: Option<&Taken>,
        segment: &SegmentId,
        token: Token,
    ) -> Result<(), ApiError> {
        if taken.is_some_and(Taken::may_be_shipped) {
            return Ok(());
        }
        self.take_back(segment, token).await
    }

    /// Removes a lock that was never ready, if it is still that one.
    pub(super) async fn take_back(&self, segment: &SegmentId, token: Token) -> Result<(), ApiError> {
        let id = segment.clone();
        let taken = self
            .amend(move |ledger, _| {
                Ok(match ledger.lock(&id) {
                    Some(lock) if lock.token == token && !lock.ready => {
                        Amendment::ledger(vec![Entry::Lock(id, None)], ())
                    }
                    _ => Amendment::none(()),
                })
            })
            .await;
        self.routing.copies.reconsider(segment);
        taken
    }

    /// Asks a worker to make the segment writable under `lock`.
    async fn prepare(
        &self,
        id: &SegmentId,
        lock: &Lock,
        worker: &Worker,
        schema_sql: String,
        taken: Option<&Taken>,
    ) -> Result<HotProvisioned, Failure> {
        let body = HotProvision {
            path: id.path_in(&lock.directory),
            generation: lock.base.map(|generation| generation.to_string()),
            schema_sql,
            ship: lock.ship,
            recover: taken.and_then(Taken::recover),
            again: lock.ready,
        };
        let path = (Method::POST, format!("/v1/hot/{id}/provision"));
        self.ask(worker, path, lock.token, &body, self.rules.copy_max).await
    }

    /// Workers that may take the segment, best first. `former`: whom it is taken from.
    pub(super) fn writers(
        &self,
        id: &SegmentId,
        place: &Place,
        former: Option<&str>,
    ) -> Result<Vec<Arc<Worker>>, ApiError> {
        let now = Instant::now().into_std();
        let holders = self.routing.copies.holders(id);
        let size = place.entry.as_ref().map_or(0, |entry| entry.len);
        let generation = place.entry.as_ref().map(|entry| entry.generation);
        let ledger = self.state.ledger();
        let (mut workers, mut candidates) = (Vec::new(), Vec::new());
        for worker in self.routing.workers.hot(now) {
            if ledger.is_draining(&worker.name) {
                continue;
            }
            let Some(report) = &worker.hot else { continue };
            let holder = holders.iter().find(|h| h.worker == worker.name && h.epoch == worker.epoch);
            candidates.push(Candidate {
                current: holder
                    .is_some_and(|h| h.state == CopyState::Available && h.generation == generation),
                holds: holder.is_some(),
                closed: report.full,
                free: report.quota_bytes.saturating_sub(report.stored_bytes),
                load: u64::from(worker.load()) + ledger.lock_count(&worker.name),
                former: former == Some(&*worker.name),
            });
            workers.push(worker);
        }
        if workers.is_empty() {
            return Err(match self.routing.workers.warming(now) {
                Some(left) => ApiError::new(
                    ErrorCode::Warming,
                    "the gateway started a moment ago and waits for its hot workers to report",
                )
                .retry_after_s(u32::try_from(left.as_secs() + 1).unwrap_or(u32::MAX)),
                None => ApiError::new(
                    ErrorCode::NoWorker,
                    "no hot worker is alive that takes segments: start one with `springhouse worker --tier hot`",
                )
                .retry_after_s(5),
            });
        }
        let order = order(&candidates, size);
        if order.is_empty() {
            return Err(no_room(id));
        }
        Ok(order.into_iter().map(|index| workers[index].clone()).collect())
    }
}

/// The `next` number of the sequence of tokens. None is given as long as it is not sure which were given.
pub(super) fn fresh(ledger: &Ledger, next: Option<Token>) -> Result<Token, ApiError> {
    if let Some(damage) = ledger.damage_of_all() {
        return Err(ApiError::new(
            ErrorCode::Internal,
            format!(
                "no fencing token can be given: {damage}; mend the registry (export, look, import) first"
            ),
        ));
    }
    next.ok_or_else(|| ApiError::new(ErrorCode::Internal, "there are no more tokens"))
}

/// The holder of a lock does not know its token.
pub(super) fn lost_data(id: &SegmentId, worker: &str) -> ApiError {
    ApiError::new(
        ErrorCode::Conflict,
        format!(
            "worker {worker}, which has the write lock of segment {id}, came back without its data: provision with \
             {{\"takeover\": true}}, which goes on from what was promoted or shipped, or release it with force"
        ),
    )
}

fn no_room(id: &SegmentId) -> ApiError {
    ApiError::new(
        ErrorCode::NoRoom,
        format!("no hot worker has room for segment {id}: add one, or raise the quota of those there are"),
    )
    .retry_after_s(30)
}

fn answer(
    id: &SegmentId,
    lock: &Lock,
    worker: &Worker,
    granted: bool,
    created: bool,
    schema: String,
    size: u64,
) -> ProvisionAnswer {
    ProvisionAnswer {
        segment: id.to_string(),
        worker: lock.worker.clone(),
        worker_url: worker.url.to_string(),
        token: lock.token,
        granted,
        created,
        schema,
        size,
        recovered: None,
    }
}
