//! The two conversations with the gateway: what shall be here (the assignment), and what is (the manifest).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
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
use tokio::{sync::watch, time::sleep};

use super::Hot;

/// Changes are collected for so long before the gateway is told of them.
const MANIFEST_DELAY: Duration = Duration::from_millis(100);
/// Pause after a call to the gateway that failed, or a write lock that could not be given up.
const RETRY: Duration = Duration::from_secs(1);

impl Hot {
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
    pub(super) async fn keep_assigned(
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
    pub(super) async fn keep_told(
        self: &Arc<Self>,
        name: &str,
        epoch: u64,
        registrar: Arc<dyn Registrar>,
        mut lease: watch::Receiver<Option<LeaseAnswer>>,
    ) {
        let mut told: Option<u64> = None;
        let mut of_gateway = None;
        let mut has_lost = false; // and what of that could not be given up
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
                (has_lost || told != Some(entries.version())).then(|| entries.manifest(epoch, told))
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
                    has_lost = false;
                    for id in answer.fenced {
                        if let Some(token) = tokens.get(&id) {
                            has_lost |= !self.lose_lock(&id, *token).await;
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
                tokio::select! {
                    () = self.wait_for_change(&mut lease, version) => {}
                    () = sleep(RETRY), if has_lost => {}
                }
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

    /// The write lock under `token` is not this worker's any more. `false`: it could not be given up.
    async fn lose_lock(self: &Arc<Self>, id: &str, token: Token) -> bool {
        let Ok(id) = SegmentId::parse(id) else { return true };
        // A token that came meanwhile is not the one that was lost: then this is refused.
        match self.lose(&id, token).await {
            Ok(_) => {
                tracing::warn!(segment = %id, token, "the write lock was lost to somebody else");
                // What kept it from being given up before.
                if let Some(segment) = self.find(id.as_str())
                    && segment.state.lock().refused.take().is_some()
                {
                    self.publish(&segment);
                }
            }
            Err(error) if error.code == ErrorCode::NotProvisioned => {}
            Err(error) => {
                // The gateway is asked once more: it alone knows whether it is still lost.
                if let Some(segment) = self.find(id.as_str()) {
                    let before = segment.state.lock().refused.replace(error.message.clone());
                    if before.as_ref() != Some(&error.message) {
                        tracing::error!(segment = %id, %error, "a lost write lock cannot be given up; trying again");
                    }
                    self.publish(&segment);
                }
                return false;
            }
        }
        true
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
}
