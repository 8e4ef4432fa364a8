//! What hot workers say they have.

use std::{collections::HashMap, sync::Arc};

use crate::{
    api::{
        hot::{CopyState, Manifest, Token},
        types::CopyInfo,
    },
    segment::SegmentId,
    store::Generation,
};

/// Longest reason kept of a copy, in bytes.
const REASON_BYTES_MAX: usize = 500;

/// One copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) state: CopyState,
    pub(super) generation: Option<Generation>,
    pub(super) token: Option<Token>,
    pub(super) unpromoted: bool,
    reason: Option<Box<str>>,
    size: u64,
    fetched: u64,
    digest: u64,
}

impl Copy {
    pub(super) fn info(&self, worker: &str, live: bool) -> CopyInfo {
        CopyInfo {
            worker: worker.to_owned(),
            live,
            state: self.state,
            reason: self.reason.as_deref().map(str::to_owned),
            generation: self.generation.map(|generation| generation.to_string()),
            size: self.size,
            fetched: self.fetched,
            token: self.token,
            unpromoted: self.unpromoted,
        }
    }

    /// Bytes that it takes of its worker's quota.
    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

/// Manifest of one worker.
#[derive(Debug, Default)]
struct Holding {
    epoch: u64,
    version: u64,
    /// It is to be told anew, though nothing may have changed there.
    doubted: bool,
    digest: u64,
    copies: HashMap<SegmentId, Copy>,
    /// Those with a token: few among many.
    writable: HashMap<SegmentId, Token>,
}

/// All manifests, and which workers have a segment.
#[derive(Debug, Default)]
pub(super) struct Manifests {
    holdings: HashMap<Arc<str>, Holding>,
    index: HashMap<SegmentId, Vec<Arc<str>>>,
}

/// The entries of a manifest; `None` as a copy: gone.
pub(super) fn parse(manifest: &Manifest) -> Result<Vec<(SegmentId, Option<Copy>)>, String> {
    let parsed = manifest.segments.iter().map(|segment| {
        let id = SegmentId::parse(&segment.id).map_err(|e| format!("manifest: {e}"))?;
        if segment.state == CopyState::Gone {
            return Ok((id, None));
        }
        let generation = match &segment.generation {
            Some(text) => Some(Generation::parse(text).ok_or_else(|| {
                format!("manifest: {id} has generation {text:?}: expected 32 lower-case hexadecimal digits")
            })?),
            None => None,
        };
        let copy = Copy {
            state: segment.state,
            generation,
            token: segment.token,
            unpromoted: segment.change > segment.promoted_change,
            reason: segment.reason.as_deref().map(shortened),
            size: segment.size,
            fetched: segment.fetched,
            digest: segment.digest(),
        };
        Ok((id, Some(copy)))
    });
    parsed.collect()
}

fn shortened(text: &str) -> Box<str> {
    let mut end = text.len().min(REASON_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

impl Manifests {
    /// Version that is known of `name` in `epoch`; `None`: it has to send all.
    pub(super) fn version(&self, name: &str, epoch: u64) -> Option<u64> {
        let known = |holding: &&Holding| holding.epoch == epoch && !holding.doubted;
        self.holdings.get(name).filter(known).map(|holding| holding.version)
    }

    /// Has `name` say all anew with its next heartbeat, because it is to hear the answer.
    pub(super) fn doubt(&mut self, name: &str) {
        if let Some(holding) = self.holdings.get_mut(name) {
            holding.doubted = true;
        }
    }

    /// Epoch of the manifest of `name`.
    pub(super) fn epoch(&self, name: &str) -> Option<u64> {
        self.holdings.get(name).map(|holding| holding.epoch)
    }

    /// Takes up a manifest and says which segments it changed; `None`: it does not fit what is known, or
    /// the digests differ, and all has to be sent.
    pub(super) fn apply(
        &mut self,
        name: &str,
        manifest: &Manifest,
        segments: Vec<(SegmentId, Option<Copy>)>,
    ) -> Option<Vec<SegmentId>> {
        let whole = manifest.base.is_none();
        if !whole && self.version(name, manifest.epoch) != manifest.base {
            // A change that came twice is no reason to send all.
            return (self.version(name, manifest.epoch) == Some(manifest.version)).then(Vec::new);
        }
        let mut changed = if whole { self.clear(name) } else { Vec::new() };
        let worker: Arc<str> = match self.holdings.get_key_value(name) {
            Some((worker, _)) => worker.clone(),
            None => name.into(),
        };
        let holding = self.holdings.entry(worker.clone()).or_default();
        holding.epoch = manifest.epoch;
        for (id, copy) in segments {
            let before = match copy {
                Some(copy) => {
                    holding.digest = holding.digest.wrapping_add(copy.digest);
                    match copy.token {
                        Some(token) => drop(holding.writable.insert(id.clone(), token)),
                        None => drop(holding.writable.remove(&id)),
                    }
                    holding.copies.insert(id.clone(), copy)
                }
                None => {
                    holding.writable.remove(&id);
                    holding.copies.remove(&id)
                }
            };
            let is_there = holding.copies.contains_key(&id);
            if let Some(before) = &before {
                holding.digest = holding.digest.wrapping_sub(before.digest);
            }
            match (before.is_some(), is_there) {
                (false, true) => self.index.entry(id.clone()).or_default().push(worker.clone()),
                (true, false) => unlist(&mut self.index, &id, &worker),
                _ => {}
            }
            changed.push(id);
        }
        holding.version = manifest.version;
        if holding.digest != manifest.digest {
            tracing::warn!(worker = name, "the digest of a manifest does not match; it is asked for anew");
            self.clear(name);
            self.holdings.remove(name);
            return None;
        }
        changed.sort_unstable();
        changed.dedup();
        Some(changed)
    }

    /// Empties the manifest of `name`; what was in it.
    fn clear(&mut self, name: &str) -> Vec<SegmentId> {
        let Some((worker, holding)) = self.holdings.remove_entry(name) else { return Vec::new() };
        let ids: Vec<SegmentId> = holding.copies.into_keys().collect();
        for id in &ids {
            unlist(&mut self.index, id, &worker);
        }
        ids
    }

    /// Copies of one segment, by worker.
    pub(super) fn copies<'a>(&'a self, id: &SegmentId) -> impl Iterator<Item = (&'a Arc<str>, &'a Copy)> {
        let id = id.clone();
        let workers = self.index.get(&id).map(Vec::as_slice).unwrap_or_default();
        workers.iter().filter_map(move |worker| {
            self.holdings.get(worker).and_then(|holding| holding.copies.get(&id)).map(|copy| (worker, copy))
        })
    }

    /// The copy of one segment on one worker.
    pub(super) fn copy(&self, worker: &str, id: &SegmentId) -> Option<&Copy> {
        self.holdings.get(worker).and_then(|holding| holding.copies.get(id))
    }

    /// Segments that `worker` says it may write, with their tokens.
    pub(super) fn writable(&self, worker: &str) -> impl Iterator<Item = (&SegmentId, Token)> {
        let holding = self.holdings.get(worker);
        holding.into_iter().flat_map(|holding| holding.writable.iter().map(|(id, token)| (id, *token)))
    }

    /// Drops the manifests of workers that nobody remembers.
    pub(super) fn forget(&mut self, is_known: impl Fn(&str) -> bool) {
        let gone: Vec<Arc<str>> = self.holdings.keys().filter(|name| !is_known(name)).cloned().collect();
        for name in gone {
            self.clear(&name);
        }
    }
}

fn unlist(index: &mut HashMap<SegmentId, Vec<Arc<str>>>, id: &SegmentId, worker: &Arc<str>) {
    if let Some(workers) = index.get_mut(id) {
        workers.retain(|other| other != worker);
        if workers.is_empty() {
            index.remove(id);
        }
    }
}
