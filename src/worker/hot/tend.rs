//! What goes on by itself: copies that the assignment asks for, and upkeep. (What the gateway is told and
//! asked: `told.rs`.)

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use springhouse_gateway::api::{client::Registrar, hot::AssignedSegment, types::LeaseAnswer};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Hot,
    fences::{KEEP, LOOK_EVERY},
    fetch::{Failure, fetch},
    segment::Segment,
};

/// How often written copies are looked at: their size, writers that nobody needs.
const UPKEEP_EVERY: Duration = Duration::from_secs(2);
/// A writer that nobody asked for so long is closed; the next write opens it again.
const WRITER_IDLE_MAX: Duration = Duration::from_secs(60);
/// Pause before a copy is tried again that there was no room for, that is in use, that failed.
const RETRY_COPY: Duration = Duration::from_secs(10);
const RETRY_IN_USE: Duration = Duration::from_secs(1);
/// Parts that no assignment asked for are removed after so long.
const LEFTOVERS_AFTER: Duration = Duration::from_secs(600);
/// The record learns of transactions when there are so many more: it needs to know them to within 2^31.
const RECORD_EVERY: u64 = 1 << 24;

/// How long a copy may take to stop: a read of the store ends by the store's deadline.
const END_MAX: Duration = Duration::from_secs(5);

/// Ms since 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The loops of a worker's hot tier; dropping it ends them.
pub(in crate::worker) struct Loops {
    /// They change files.
    copies: JoinSet<()>,
    others: JoinSet<()>,
}

impl std::fmt::Debug for Loops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Loops")
    }
}

impl Loops {
    /// Starts them. `lease`: what the gateway last said to the heartbeat of `epoch`.
    pub(in crate::worker) fn start(
        hot: &Arc<Hot>,
        name: String,
        epoch: u64,
        registrar: Arc<dyn Registrar>,
        lease: watch::Receiver<Option<LeaseAnswer>>,
    ) -> Self {
        let (mut copies, mut tasks) = (JoinSet::new(), JoinSet::new());
        for _ in 0..hot.settings.copy_parallelism.max(1) {
            let hot = Arc::clone(hot);
            copies.spawn(async move {
                while let Some(id) = hot.queue.next().await {
                    hot.tend(&id).await;
                }
            });
        }
        for segment in hot.segments.read().values() {
            let shipping = segment.state.lock().shipping.clone();
            if let Some(shipping) = shipping {
                hot.keep_shipping(segment, shipping);
            }
        }
        let (own, caller, asked) = (Arc::clone(hot), name.clone(), Arc::clone(&registrar));
        let seen = lease.clone();
        tasks.spawn(async move { own.keep_told(&caller, epoch, asked, seen).await });
        let own = Arc::clone(hot);
        tasks.spawn(async move { own.keep_assigned(&name, epoch, registrar, lease).await });
        let own = Arc::clone(hot);
        tasks.spawn(async move { own.keep_up().await });
        let own = Arc::clone(hot);
        tasks.spawn(async move { own.verify_all().await });
        Self { copies, others: tasks }
    }

    /// Ends them: what is in the middle of a change of files ends that, within reason. The queue is
    /// closed already.
    pub(in crate::worker) async fn end(mut self) {
        self.others.shutdown().await;
        let ended = async { while self.copies.join_next().await.is_some() {} };
        if tokio::time::timeout(END_MAX, ended).await.is_err() {
            tracing::warn!("a copy from the store does not end; it is left to be resumed");
        }
    }
}

impl Hot {
    fn push_later(self: &Arc<Self>, id: &str, after: Duration) {
        let due = Instant::now() + after;
        if !self.queue.is_earliest(id, due) {
            return;
        }
        let (hot, id) = (Arc::clone(self), id.to_owned());
        tokio::spawn(async move {
            sleep_until(due).await;
            hot.queue.push_due(&id, due);
        });
    }

    /// Makes of one segment what the assignment asks for.
    pub(super) async fn tend(self: &Arc<Self>, id: &str) {
        let Some(segment) = self.find(id) else { return };
        let Ok(_turn) = segment.turn.try_lock() else {
            self.push_later(id, RETRY_IN_USE);
            return;
        };
        let (wanted, drop_it, stop) = {
            let state = segment.state.lock();
            let copy = state.record.copy.as_ref();
            let locked = copy.is_some_and(|copy| copy.token.is_some());
            let missing = copy.and_then(|copy| copy.generation.as_deref());
            let wanted =
                state.wanted.clone().filter(|wanted| !locked && missing != Some(wanted.generation.as_str()));
            let drop_it = state.unwanted && !locked && !state.is_unpromoted() && copy.is_some();
            (wanted, drop_it, Arc::clone(&state.stop))
        };
        if drop_it {
            if segment.is_in_use() {
                self.push_later(id, RETRY_IN_USE);
            } else if let Err(error) = self.drop_copy(&segment).await {
                tracing::warn!(segment = id, %error, "a copy cannot be removed");
                self.push_later(id, RETRY_COPY);
            }
            return;
        }
        let Some(wanted) = wanted else { return };
        // Writes that nobody promoted are there only if the lock was given up by force or ended with a
        // newer generation: either way they are kept.
        let fetched = fetch(self, &segment, &wanted.path, &wanted.generation, false, &stop).await;
        self.count_fetch(&fetched);
        let outcome = match fetched {
            Ok((copy, room)) => {
                let unpromoted = segment.state.lock().is_unpromoted();
                let kept = if unpromoted { self.keep_aside(&segment).await } else { Ok(()) };
                let path = wanted.path.clone();
                let outcome = match kept {
                    Ok(()) => self.install(&segment, copy).await,
                    kept => kept,
                };
                drop(room);
                match outcome {
                    Ok(()) => self.record(&segment, move |record| record.path = path).await,
                    outcome => outcome,
                }
                .map_err(|error| (error.message, RETRY_COPY))
            }
            Err(Failure::Stopped) => return self.fetch_stopped(&segment, &wanted),
            Err(failure) => Err((failure.reason(), RETRY_COPY)),
        };
        match outcome {
            Ok(()) => tracing::info!(segment = id, generation = wanted.generation, "copied"),
            Err((why, again)) => {
                tracing::warn!(segment = id, why, "cannot be copied now");
                segment.state.lock().refused = Some(why);
                self.publish(&segment);
                self.push_later(id, again);
            }
        }
    }

    /// A copy was stopped: the worker stops, it is not wanted any more, or somebody cancelled it. The caller has
    /// the segment's turn.
    fn fetch_stopped(&self, segment: &Segment, fetched: &AssignedSegment) {
        if self.stopping.load(Relaxed) {
            return; // the next start goes on with it
        }
        if let Err(error) = self.data.remove_part(&segment.id) {
            tracing::warn!(segment = %segment.id, %error, "what was copied of it stays on the disk");
        }
        {
            let mut state = segment.state.lock();
            if state.unwanted || state.wanted.as_ref() != Some(fetched) {
                return;
            }
            state.refused =
                Some("the copy was cancelled: `segment lower`, then `segment raise` begins it anew".into());
        }
        self.publish(segment);
    }

    /// Counts a copy by how it ended.
    pub(super) fn count_fetch<T>(&self, outcome: &Result<T, Failure>) {
        let label = match outcome {
            Ok(_) => "done",
            Err(Failure::Full(_)) => "no_room",
            Err(Failure::Stopped) => "stopped",
            Err(Failure::Failed(_)) => "failed",
        };
        self.metrics.fetches.with_label_values(&[label]).inc();
    }

    async fn keep_up(self: &Arc<Self>) {
        let begun = Instant::now();
        let mut pruned = begun;
        loop {
            sleep(UPKEEP_EVERY).await;
            self.upkeep().await;
            if pruned.elapsed() > LOOK_EVERY {
                pruned = Instant::now();
                let hot = Arc::clone(self);
                let outcome = springhouse_gateway::blocking::run(move || hot.prune(KEEP)).await;
                if let Ok(Err(error)) = outcome {
                    tracing::warn!(%error, "records of segments that are gone cannot be removed");
                }
            }
            if begun.elapsed() > LEFTOVERS_AFTER {
                self.remove_leftovers();
            }
        }
    }

    /// Looks at copies that are written, and at the disk.
    pub(super) async fn upkeep(self: &Arc<Self>) {
        self.room.look(&self.data);
        let ids: Vec<String> = self.written.lock().iter().cloned().collect();
        for segment in ids.iter().filter_map(|id| self.find(id)) {
            self.measure(&segment);
            let (idle, behind) = {
                let mut state = segment.state.lock();
                if state.is_unpromoted() {
                    state.unpromoted_since_ms.get_or_insert_with(now_ms);
                } else {
                    state.unpromoted_since_ms = None;
                }
                let idle = state.writer.as_ref().is_some_and(|writer| writer.idle() > WRITER_IDLE_MAX);
                let known = state.record.copy.as_ref().map_or(0, |copy| copy.change);
                (idle, state.change() > known + RECORD_EVERY)
            };
            self.publish(&segment);
            if idle {
                self.close_writer(&segment).await;
            }
            if behind && let Ok(_turn) = segment.turn.try_lock() {
                let change = segment.state.lock().change();
                let noted = self
                    .record(&segment, move |record| {
                        if let Some(copy) = &mut record.copy {
                            copy.change = copy.change.max(change);
                        }
                    })
                    .await;
                if let Err(error) = noted {
                    tracing::warn!(segment = %segment.id, %error, "the record of a copy cannot be written");
                }
            }
        }
    }

    fn remove_leftovers(&self) {
        for id in self.queue.take_leftovers() {
            let wanted = self.find(id.as_str()).is_some_and(|segment| {
                let state = segment.state.lock();
                state.wanted.is_some() || state.fetching.is_some() || state.record.incoming.is_some()
            });
            if !wanted && let Err(error) = self.data.remove_part(&id) {
                tracing::warn!(segment = %id, %error, "a left-over part cannot be removed");
            }
        }
    }
}
