//! Long work on hot workers: what is under way, and ending it.
//!
//! A promotion can be ended until its upload is verified: its temporary goes, the lock and the writes stay.
//! After that the gateway carries it to its end whatever anybody says.

use std::{sync::Arc, time::Duration};

use axum::http::Method;
use futures::future::join_all;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Writing, hot::Failure};
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        hot::CopyState,
        work::{CancelAnswer, Work, WorkList},
    },
    registry::{catalog::Lookup, ledger::Lock},
    routing::workers::Worker,
    segment::SegmentId,
};

/// Longest wait for a worker's list.
const LIST_MAX: Duration = Duration::from_secs(3);
/// Longest wait for a worker that is told to stop, and for a promotion to end: a call of the store that is
/// under way ends by its deadline.
const STOP_MAX: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Writing {
    /// What all live workers are doing.
    pub(crate) async fn work(&self) -> WorkList {
        self.work_of(self.routing.workers.all(Instant::now().into_std())).await
    }

    /// What is being done with `id`. Asks nobody if nothing is.
    pub(crate) async fn work_on(&self, id: &SegmentId) -> Vec<Work> {
        let now = Instant::now().into_std();
        let workers = if self.verifying.has(id) {
            self.routing.workers.all(now)
        } else {
            let copies = self.routing.copies.infos(id, |_| true);
            let fetching = copies.into_iter().filter(|copy| copy.state == CopyState::Fetching);
            let mut names: Vec<String> = fetching.map(|copy| copy.worker).collect();
            // Of a provision, a promotion, a new layout.
            let lock = self.state.ledger().lock(id).map(|lock| (lock.worker.clone(), lock.ready));
            if let Some((holder, ready)) = lock
                && (!ready || self.promoting.lock().contains_key(id))
                && !names.contains(&holder)
            {
                names.push(holder);
            }
            names.iter().filter_map(|name| self.routing.workers.live(name, now)).collect()
        };
        if workers.is_empty() {
            return Vec::new();
        }
        let mut work = self.work_of(workers).await.work;
        work.retain(|work| work.segment == id.as_str());
        work
    }

    async fn work_of(&self, workers: Vec<Arc<Worker>>) -> WorkList {
        let asked = workers.iter().map(|worker| async move {
            let path = (Method::GET, "/v1/work".to_owned());
            let told: Result<WorkList, _> = self.ask(worker, path, 0, &json!({}), LIST_MAX).await;
            (worker.name.to_string(), told)
        });
        let mut list = WorkList::default();
        for (name, told) in join_all(asked).await {
            match told {
                Ok(told) => {
                    list.work.extend(told.work.into_iter().map(|mut work| {
                        work.worker.clone_from(&name);
                        work
                    }));
                }
                // Of a version that does no such work.
                Err(Failure::Refused(error)) if error.code == ErrorCode::NotFound => {}
                Err(_) => list.silent.push(name),
            }
        }
        list.work.sort_by(|a, b| (&a.segment, &a.worker).cmp(&(&b.segment, &b.worker)));
        list.silent.sort();
        list
    }

    /// Ends a promotion of `id`, and copies of it that are under way.
    pub(crate) async fn cancel(self: &Arc<Self>, id: SegmentId) -> Result<CancelAnswer, ApiError> {
        let this = self.clone();
        Self::detached(async move { this.cancel_now(&id).await }).await
    }

    async fn cancel_now(&self, id: &SegmentId) -> Result<CancelAnswer, ApiError> {
        let verification = self.verifying.cancel(id);
        let token = self.promoting.lock().get(id).copied();
        let lock = self.state.ledger().lock(id).cloned();
        let lock = lock.filter(|lock| token == Some(lock.token));
        let now = Instant::now().into_std();
        let mut names: Vec<String> = self
            .routing
            .copies
            .infos(id, |name| self.routing.workers.live(name, now).is_some())
            .into_iter()
            .filter(|copy| copy.live && copy.state == CopyState::Fetching)
            .map(|copy| copy.worker)
            .collect();
        names.extend(lock.as_ref().map(|lock| lock.worker.clone()));
        names.sort();
        names.dedup();
        if names.is_empty() && !verification {
            return Err(ApiError::new(ErrorCode::Conflict, format!("nothing is under way for segment {id}")));
        }
        let mut told = Vec::new();
        let until = Instant::now() + STOP_MAX;
        let mut ended = false;
        loop {
            for name in &names {
                let Some(worker) = self.routing.workers.live(name, Instant::now().into_std()) else {
                    continue;
                };
                let path = (Method::DELETE, format!("/v1/hot/{id}/work"));
                let token = lock.as_ref().map_or(0, |lock| lock.token);
                if self.tell(&worker, path, token, &json!({}), STOP_MAX).await.is_ok() && !told.contains(name)
                {
                    told.push(name.clone());
                }
            }
            let Some(lock) = &lock else { break };
            // Told again until it is over: the worker may have been asked for its upload only now.
            if !self.promoting.lock().contains_key(id) {
                ended = self.is_as_before(id, lock);
                break;
            }
            if Instant::now() >= until {
                return Err(ApiError::new(
                    ErrorCode::WorkerLost,
                    format!("the promotion of segment {id} did not end within {STOP_MAX:?}: look again"),
                ));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(CancelAnswer { segment: id.to_string(), workers: told, promotion: ended, verification })
    }

    /// Whether what was under way under `lock` has changed nothing.
    fn is_as_before(&self, id: &SegmentId, lock: &Lock) -> bool {
        let after = self.state.ledger().lock(id).map(|after| (after.token, after.base));
        match after {
            Some(after) => after == (lock.token, lock.base),
            // That of a new layout ends with it.
            None if !lock.ready => match self.state.catalog().lookup(id) {
                Lookup::Found(located) => Some(located.facts.generation) == lock.base,
                _ => false,
            },
            None => false,
        }
    }
}
