//! What workers say against ledger and catalog.

use std::{collections::HashSet, sync::Arc};

use tokio::time::Instant;

use super::{Copies, HotWorker};
use crate::{
    api::hot::CopyState,
    registry::{
        catalog::Lookup,
        verify::{Findings, Severity},
    },
    segment::SegmentId,
};

impl Copies {
    /// Adds what does not fit. One worker at a time: nobody waits for all of it.
    pub(crate) fn verify(&self, live: &[HotWorker], findings: &mut Findings) {
        let mut writable: HashSet<(SegmentId, Arc<str>)> = HashSet::new();
        let mut told: HashSet<Arc<str>> = HashSet::new();
        for worker in live {
            let copies = {
                let inner = self.inner.lock();
                if inner.manifests.epoch(&worker.name) != Some(worker.epoch) {
                    continue;
                }
                inner.manifests.of(&worker.name)
            };
            told.insert(worker.name.clone());
            for (id, copy) in copies {
                if let Some(token) = copy.token {
                    let lock = self.state.ledger().lock(&id).map(|lock| (lock.token, lock.worker.clone()));
                    if lock.as_ref().is_some_and(|(held, name)| *held == token && **name == *worker.name) {
                        writable.insert((id.clone(), worker.name.clone()));
                    } else {
                        let holder = lock.map_or("nobody has".to_owned(), |(held, name)| {
                            format!("{name} has, with {held}")
                        });
                        findings.add(
                            Severity::Warning,
                            "writer_without_lock",
                            id.as_str(),
                            format!("{} holds {id} for writing under token {token}; the lock {holder}", worker.name),
                            "nothing: its next report tells it so, and what it had not promoted is kept aside",
                        );
                    }
                }
                if copy.state == CopyState::Available && copy.token.is_none() && !self.is_news(&id) {
                    self.generation_fits(&id, worker, copy.generation, findings);
                }
            }
        }
        findings.workers = Some(told.len() as u64);
        let locks: Vec<(SegmentId, String)> = {
            let ledger = self.state.ledger();
            ledger
                .locks()
                .filter(|(_, lock)| lock.ready)
                .map(|(id, lock)| (id.clone(), lock.worker.clone()))
                .collect()
        };
        for (id, name) in locks {
            if !told.contains(&*name) {
                findings.add(
                    Severity::Warning,
                    "holder_silent",
                    id.as_str(),
                    format!(
                        "{name}, which has the write lock of {id}, has no lease or has not said what it holds"
                    ),
                    format!("start it, or `springhouse segment provision {id} --takeover`"),
                );
            } else if !writable.contains(&(id.clone(), name.as_str().into())) {
                findings.add(
                    Severity::Error,
                    "holder_without_copy",
                    id.as_str(),
                    format!("{name} has the write lock of {id}, and no writable copy of it"),
                    format!("`springhouse segment provision {id}`; if its disk was lost, with --takeover"),
                );
            }
        }
    }

    /// Whether the generation that the catalog names is younger than the grace that copies have, or nobody can
    /// know: a copy of the one before is only on its way out.
    pub(crate) fn is_news(&self, id: &SegmentId) -> bool {
        let grace = self.rules.grace;
        let is_recent = |at: &Instant| at.elapsed() < grace;
        let is_young = match self.state.catalog().lookup(id) {
            Lookup::Found(located) => {
                let age_ms = (self.rules.clock)().abs_diff(located.facts.mtime_ms);
                u128::from(age_ms) < grace.as_millis()
            }
            _ => false,
        };
        let heard = self.news.lock().get(id).copied().map(Instant::from_std);
        is_young
            || self.state.has_moved(id)
            || heard.as_ref().is_some_and(is_recent)
            || is_recent(&Instant::from_std(self.started))
    }

    fn generation_fits(
        &self,
        id: &SegmentId,
        worker: &HotWorker,
        generation: Option<crate::store::Generation>,
        findings: &mut Findings,
    ) {
        let text = match self.state.catalog().lookup(id) {
            Lookup::Found(found) if generation != Some(found.facts.generation) => {
                format!("{} offers another generation of {id} than the store has", worker.name)
            }
            Lookup::Absent => format!("{} offers {id}, which the store has not", worker.name),
            _ => return,
        };
        let remedy = "nothing: the worker replaces or drops it, and no query is answered from it meanwhile";
        findings.add(Severity::Warning, "copy_behind", id.as_str(), text, remedy);
    }
}
