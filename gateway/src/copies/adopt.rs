//! Write locks that a lost registry granted, in what workers say.

use crate::{
    api::hot::{HotSegment, Manifest, TOKEN_COUNTER_BITS, Token},
    registry::{
        RegistryError,
        catalog::Lookup,
        ledger::{
            Entry,
            adopt::{Claim, Strange, adopt},
        },
        state::{Amendment, State},
    },
    segment::SegmentId,
    store::Generation,
};

/// Takes up what `worker` may write by a lock that this registry does not know, as long as it may lack
/// some. How many locks that changed. Blocks.
pub(crate) fn take_up(
    state: &State,
    worker: &str,
    manifest: &Manifest,
    now_ms: i64,
) -> Result<usize, RegistryError> {
    let Some(adopting) = state.meta().adopting else { return Ok(0) };
    let claims: Vec<Claim> = {
        let catalog = state.catalog();
        let claim = |(id, token, segment): (SegmentId, Token, &HotSegment)| {
            let directory = match catalog.lookup(&id) {
                Lookup::Found(found) => found.directory.to_string(),
                _ => id.canonical_dir(),
            };
            let base = segment.generation.as_deref().and_then(Generation::parse);
            Claim { id, token, base, base_change: segment.promoted_change, directory }
        };
        let written = manifest
            .segments
            .iter()
            .filter_map(|segment| Some((SegmentId::parse(&segment.id).ok()?, segment.token?, segment)));
        written.map(claim).collect()
    };
    if claims.is_empty() {
        return Ok(0);
    }
    // The lost registry was started oftener than anybody thought: ours are above all of its tokens.
    let highest = claims.iter().map(|claim| claim.token).max().unwrap_or(0);
    if highest > state.ledger().token() {
        state.update_meta(|meta| meta.epoch = meta.epoch.max((highest >> TOKEN_COUNTER_BITS) + 1))?;
    }
    let strange = Strange { known: adopting.known, own: state.meta().epoch << TOKEN_COUNTER_BITS };
    let worker = worker.to_owned();
    state.amend(move |ledger, _| {
        let mut entries = adopt(ledger, &worker, claims, strange, now_ms);
        let mut highest = 0;
        for entry in &entries {
            match entry {
                Entry::Lock(id, Some(lock)) => {
                    tracing::warn!(
                        segment = %id, worker = lock.worker, token = lock.token,
                        "a write lock of the lost registry is taken up"
                    );
                    highest = highest.max(lock.token);
                }
                Entry::Dispute(id, Some(dispute)) => tracing::error!(
                    segment = %id, workers = ?dispute.workers, token = dispute.token,
                    "several workers claim a write lock of the lost registry: nobody may write until one \
                     takes over"
                ),
                _ => {}
            }
        }
        if highest > ledger.token() {
            entries.push(Entry::Token(highest));
        }
        let changed = entries.iter().filter(|entry| !matches!(entry, Entry::Token(_))).count();
        Ok(Amendment::ledger(entries, changed))
    })
}
