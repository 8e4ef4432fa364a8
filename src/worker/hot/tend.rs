//! What goes on by itself: copies that the assignment asks for, the manifest, and upkeep.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use springhouse_gateway::{
    api::{
        client::{ClientError, Registrar},
        error::ErrorCode,
        hot::{Assignment, Token},
        types::LeaseAnswer,
    },
    segment::SegmentId,
};
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep, sleep_until},
};

use super::{
    Hot,
    fences::{KEEP, LOOK_EVERY},
    fetch::{Failure, fetch},
};
/// How often written copies are looked at: their size, writers that nobody needs.
const UPKEEP_EVERY: Duration = Duration::from_secs(2);
/// A writer that nobody asked for so long is closed; the next write opens it again.
const WRITER_IDLE_MAX: Duration = Duration::from_secs(60);
/// Changes are collected for so long before the gateway is told of them.
const MANIFEST_DELAY: Duration = Duration::from_millis(100);
/// Pause after a call to the gateway that failed.
const RETRY: Duration = Duration::from_secs(1);
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
            Err(Failure::Stopped) => return,
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

    /// Takes an assignment in.
    pub(super) fn assign(self: &Arc<Self>, assignment: Assignment) {
        let mut held = HashSet::new();
        for wanted in assignment.hold {
            let Ok(id) = SegmentId::parse(&wanted.id) else {
                tracing::warn!(id = wanted.id, "the assignment holds what is no segment id");
                continue;
            };
            held.insert(wanted.id.clone());
            let segment = self.find_or_make(&id, &wanted.path);
            {
                let mut state = segment.state.lock();
                if state.wanted.as_ref().is_some_and(|before| before.generation != wanted.generation) {
                    // A copy of what is not wanted any more.
                    if state.fetching.is_some() {
                        state.stop_work();
                    }
                    state.refused = None;
                }
                state.wanted = Some(wanted);
                state.unwanted = false;
            }
            self.publish(&segment);
            self.queue.push(id.as_str());
        }
        if assignment.base.is_none() {
            // All of it: what is not named is not wanted, and stays until it may be removed.
            for (id, segment) in self.segments.read().iter().filter(|(id, _)| !held.contains(*id)) {
                segment.state.lock().wanted = None;
                self.queue.push(id);
            }
        }
        for id in assignment.drop {
            let Some(segment) = self.find(&id) else { continue };
            {
                let mut state = segment.state.lock();
                (state.wanted, state.unwanted, state.refused) = (None, true, None);
                if state.fetching.is_some() {
                    state.stop_work();
                }
            }
            self.publish(&segment);
            self.queue.push(&id);
        }
    }

    /// Asks for the assignment whenever a heartbeat says that there is another.
    async fn keep_assigned(
        self: &Arc<Self>,
        name: &str,
        epoch: u64,
        registrar: Arc<dyn Registrar>,
        mut lease: watch::Receiver<Option<LeaseAnswer>>,
    ) {
        let mut known: Option<(u64, u64)> = None; // of which gateway, which version
        loop {
            let said = lease.borrow_and_update().clone();
            let newer = said.and_then(|said| Some((said.gateway_epoch, said.assignment_version?)));
            let Some(newer) = newer.filter(|newer| known != Some(*newer)) else {
                if lease.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let since = known.filter(|known| known.0 == newer.0).map(|known| known.1);
            match registrar.assignment(name, epoch, since).await {
                Ok(assignment) => {
                    known = Some((newer.0, assignment.version));
                    self.assign(assignment);
                    // A version that was overtaken meanwhile shows in the next heartbeat.
                    if lease.changed().await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the assignment cannot be had; trying again");
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Tells the gateway what is here, whenever that changed or it knows another version.
    async fn keep_told(
        self: &Arc<Self>,
        name: &str,
        epoch: u64,
        registrar: Arc<dyn Registrar>,
        mut lease: watch::Receiver<Option<LeaseAnswer>>,
    ) {
        let mut told: Option<u64> = None;
        let mut of_gateway = None;
        loop {
            let said = lease.borrow_and_update().clone();
            let Some(said) = said else {
                if lease.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if of_gateway.replace(said.gateway_epoch) != Some(said.gateway_epoch)
                || said.manifest_version.is_none()
            {
                told = None; // it was started anew
            }
            let manifest = {
                let entries = self.entries.lock();
                (told != Some(entries.version())).then(|| entries.manifest(epoch, told))
            };
            let Some(manifest) = manifest else {
                tokio::select! {
                    biased;
                    () = self.changed.notified() => sleep(MANIFEST_DELAY).await,
                    changed = lease.changed() => if changed.is_err() { return },
                }
                continue;
            };
            let version = manifest.version;
            let tokens = self.tokens();
            match registrar.manifest(name, &manifest).await {
                Ok(answer) if answer.send_all && told.is_some() => told = None,
                Ok(answer) => {
                    told = Some(version);
                    for id in answer.fenced {
                        if let Some(token) = tokens.get(&id) {
                            self.lose_lock(&id, *token).await;
                        }
                    }
                }
                Err(ClientError::Refused(error)) if error.code == ErrorCode::NotFound => {
                    tracing::debug!(%error, "the gateway takes no manifest");
                    told = None;
                    sleep(RETRY).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "the gateway cannot be told what is here; trying again");
                    told = None;
                    sleep(RETRY).await;
                }
            }
            // Until the next heartbeat its word about what it knows is older than ours.
            if told.is_some() {
                self.wait_for_change(&mut lease, version).await;
            }
        }
    }

    /// What is writable here, and under which token.
    fn tokens(&self) -> HashMap<String, Token> {
        let written = self.written.lock().clone();
        let token = |id: &String| {
            let segment = self.find(id)?;
            let state = segment.state.lock();
            state.record.copy.as_ref().and_then(|copy| copy.token)
        };
        written.into_iter().filter_map(|id| token(&id).map(|token| (id, token))).collect()
    }

    /// The write lock under `token` is not this worker's any more.
    async fn lose_lock(self: &Arc<Self>, id: &str, token: Token) {
        let Ok(id) = SegmentId::parse(id) else { return };
        // A token that came meanwhile is not the one that was lost: then this is refused.
        match self.lose(&id, token).await {
            Ok(_) => tracing::warn!(segment = %id, token, "the write lock was lost to somebody else"),
            Err(error) if error.code == ErrorCode::NotProvisioned => {}
            Err(error) => {
                tracing::error!(segment = %id, %error, "a lost write lock cannot be given up; trying again");
                // Changes the manifest, so that the gateway says it again.
                if let Some(segment) = self.find(id.as_str()) {
                    segment.state.lock().refused = Some(error.message);
                    self.publish(&segment);
                }
            }
        }
    }

    async fn wait_for_change(&self, lease: &mut watch::Receiver<Option<LeaseAnswer>>, version: u64) {
        loop {
            if self.entries.lock().version() != version {
                return;
            }
            tokio::select! {
                biased;
                () = self.changed.notified() => sleep(MANIFEST_DELAY).await,
                changed = lease.changed() => if changed.is_err() || self.is_other(lease, version) { return },
            }
        }
    }

    /// Whether the gateway knows another version than the one it was told.
    fn is_other(&self, lease: &watch::Receiver<Option<LeaseAnswer>>, version: u64) -> bool {
        lease.borrow().as_ref().is_some_and(|said| said.manifest_version != Some(version))
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
                let outcome = spawn_blocking(move || hot.prune(KEEP)).await;
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
