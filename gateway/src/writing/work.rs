//! Long work on hot workers: what is under way, and ending it.
//!
//! A promotion can be ended until its upload is verified: its temporary goes, the lock and the writes stay.
//! After that the gateway carries it to its end whatever anybody says.

use std::{sync::Arc, time::Duration};

use axum::http::Method;
use futures::future::join_all;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Writing;
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        hot::CopyState,
        work::{CancelAnswer, WorkList},
    },
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
    /// What all live hot workers are doing.
    pub(crate) async fn work(&self) -> WorkList {
        let workers = self.routing.workers.hot(Instant::now().into_std());
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
        if names.is_empty() {
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
                if self.tell(&worker, path, token, &json!({}), LIST_MAX).await.is_ok() && !told.contains(name)
                {
                    told.push(name.clone());
                }
            }
            let Some(lock) = &lock else { break };
            // Told again until it is over: the worker may have been asked for its upload only now.
            if !self.promoting.lock().contains_key(id) {
                let after = self.state.ledger().lock(id).cloned();
                ended = after.is_some_and(|after| (after.token, after.base) == (lock.token, lock.base));
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
        Ok(CancelAnswer { segment: id.to_string(), workers: told, promotion: ended })
    }
}
