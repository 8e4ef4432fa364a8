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

/// How far a copy that is written is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Last transaction that it had acknowledged when it was heard of last.
    pub change: u64,
    /// Last one that was in the store then: promoted or shipped.
    pub safe: u64,
}

/// One copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) state: CopyState,
    pub(super) generation: Option<Generation>,
    pub(super) token: Option<Token>,
    pub(super) unpromoted: bool,
    pub(super) written: Written,
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
pub(super) struct Holding {
    epoch: u64,
    version: u64,
    /// It is to be told anew, though nothing may have changed there.
    doubted: bool,
    digest: u64,
    copies: HashMap<SegmentId, Copy>,
    /// Those with a token: few among many.
    writable: HashMap<SegmentId, Token>,
}

impl Holding {
    /// Of a whole manifest; `None`: its digest does not match.
    pub(super) fn whole(manifest: &Manifest, segments: Vec<(SegmentId, Option<Copy>)>) -> Option<Self> {
        let mut holding = Self { epoch: manifest.epoch, version: manifest.version, ..Self::default() };
        holding.copies.reserve(segments.len());
        holding.take(segments);
        (holding.digest == manifest.digest).then_some(holding)
    }

    /// Its segments.
    pub(super) fn ids(&self) -> impl Iterator<Item = &SegmentId> {
        self.copies.keys()
    }

    fn take(&mut self, segments: Vec<(SegmentId, Option<Copy>)>) {
        for (id, copy) in segments {
            match copy.as_ref().and_then(|copy| copy.token) {
                Some(token) => drop(self.writable.insert(id.clone(), token)),
                None => drop(self.writable.remove(&id)),
            }
            let before = match copy {
                Some(copy) => {
                    self.digest = self.digest.wrapping_add(copy.digest);
                    self.copies.insert(id, copy)
                }
                None => self.copies.remove(&id),
            };
            if let Some(before) = before {
                self.digest = self.digest.wrapping_sub(before.digest);
            }
        }
    }
}

/// All manifests, and which workers have a segment. The index may be behind the manifests for a moment:
/// what it has too much is passed over, what it lacks was told a moment ago.
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
            written: Written {
                change: segment.change,
                safe: segment.promoted_change.max(segment.shipped_change.unwrap_or(0)),
            },
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

    /// Takes up a change of a manifest and says which segments it is about, once each; `None`: it does not
    /// fit what is known, or the digests differ, and all has to be sent. They have to be indexed then.
    pub(super) fn apply(
        &mut self,
        name: &str,
        manifest: &Manifest,
        segments: Vec<(SegmentId, Option<Copy>)>,
    ) -> Option<Vec<SegmentId>> {
        if self.version(name, manifest.epoch) != manifest.base {
            // A change that came twice is no reason to send all.
            return (self.version(name, manifest.epoch) == Some(manifest.version)).then(Vec::new);
        }
        let holding = self.holdings.get_mut(name)?;
        let mut changed: Vec<SegmentId> = segments.iter().map(|(id, _)| id.clone()).collect();
        holding.take(segments);
        holding.version = manifest.version;
        if holding.digest != manifest.digest {
            tracing::warn!(worker = name, "the digest of a manifest does not match; it is asked for anew");
            self.clear(name);
            return None;
        }
        changed.sort_unstable();
        changed.dedup();
        Some(changed)
    }

    /// Puts a whole manifest in the place of what was known of `name`, which it gives back: both are large,
    /// and are looked through, and freed, by whoever does not hold the lock. They have to be indexed then.
    pub(super) fn replace(&mut self, name: &str, holding: Holding) -> Option<Holding> {
        match self.holdings.get_mut(name) {
            Some(old) => Some(std::mem::replace(old, holding)),
            None => self.holdings.insert(name.into(), holding),
        }
    }

    /// Makes the index right about `id` on `name`, whatever it was and however often it is asked for.
    pub(super) fn index(&mut self, name: &str, id: &SegmentId) {
        let listed = self.index.get(id).is_some_and(|workers| workers.iter().any(|worker| **worker == *name));
        let holding = self.holdings.get_key_value(name);
        match holding.filter(|(_, holding)| holding.copies.contains_key(id)) {
            Some((worker, _)) if !listed => {
                self.index.entry(id.clone()).or_default().push(worker.clone());
            }
            None if listed => unlist(&mut self.index, id, name),
            _ => {}
        }
    }

    /// Forgets the manifest of `name`.
    pub(super) fn clear(&mut self, name: &str) {
        let Some(holding) = self.holdings.remove(name) else { return };
        for id in holding.copies.keys() {
            unlist(&mut self.index, id, name);
        }
    }

    /// Copies of one segment, by worker.
    pub(super) fn copies<'a>(&'a self, id: &SegmentId) -> impl Iterator<Item = (&'a Arc<str>, &'a Copy)> {
        let id = id.clone();
        let workers = self.index.get(&id).map(Vec::as_slice).unwrap_or_default();
        workers.iter().filter_map(move |worker| {
            self.holdings.get(worker).and_then(|holding| holding.copies.get(&id)).map(|copy| (worker, copy))
        })
    }

    /// Everything that `worker` has.
    pub(super) fn of(&self, worker: &str) -> Vec<(SegmentId, Copy)> {
        let holding = self.holdings.get(worker);
        let copies = holding.into_iter().flat_map(|holding| &holding.copies);
        copies.map(|(id, copy)| (id.clone(), copy.clone())).collect()
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

fn unlist(index: &mut HashMap<SegmentId, Vec<Arc<str>>>, id: &SegmentId, worker: &str) {
    if let Some(workers) = index.get_mut(id) {
        workers.retain(|other| **other != *worker);
        if workers.is_empty() {
            index.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::api::hot::HotSegment;

    fn entry(id: u8, generation: u8, gone: bool) -> HotSegment {
        HotSegment {
            id: format!("s{id}"),
            state: if gone { CopyState::Gone } else { CopyState::Available },
            reason: None,
            generation: Some(format!("{generation:032x}")),
            size: 1,
            fetched: 1,
            checksum: None,
            token: generation.is_multiple_of(2).then_some(7),
            change: 0,
            promoted_change: 0,
            shipped_change: None,
        }
    }

    type Said = BTreeMap<String, HotSegment>;

    fn manifest(whole: bool, version: u64, entries: Vec<HotSegment>, said: &Said) -> Manifest {
        let digest = said.values().fold(0u64, |sum, entry| sum.wrapping_add(entry.digest()));
        Manifest { epoch: 1, version, base: (!whole).then_some(version - 1), segments: entries, digest }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Indexed at once or later and in any order, the index ends right.
        #[test]
        fn the_index_is_what_workers_said(
            steps in prop::collection::vec(
                (0usize..3, any::<bool>(), any::<bool>(), prop::collection::vec((0u8..8, 0u8..4, any::<bool>()), 0..6)),
                1..20,
            ),
        ) {
            let mut manifests = Manifests::default();
            let mut said: Vec<Said> = vec![Said::new(); 3];
            let mut versions = [0u64; 3];
            let mut waiting: Vec<(usize, SegmentId)> = Vec::new();
            for (worker, whole, later, entries) in steps {
                let name = format!("w{worker}");
                let whole = whole || versions[worker] == 0;
                let mut entries: Vec<_> = entries.into_iter().map(|(id, g, gone)| entry(id, g, gone && !whole)).collect();
                entries.sort_by(|a, b| a.id.cmp(&b.id));
                entries.dedup_by(|a, b| a.id == b.id);
                if whole {
                    said[worker].clear();
                }
                for entry in &entries {
                    if entry.state == CopyState::Gone { said[worker].remove(&entry.id); }
                    else { said[worker].insert(entry.id.clone(), entry.clone()); }
                }
                versions[worker] += 1;
                let manifest = manifest(whole, versions[worker], entries, &said[worker]);
                let parsed = parse(&manifest).expect("good");
                let changed: Vec<SegmentId> = if whole {
                    let holding = Holding::whole(&manifest, parsed).expect("the digest is right");
                    let ids: Vec<_> = holding.ids().cloned().collect();
                    let old = manifests.replace(&name, holding).unwrap_or_default();
                    ids.into_iter().chain(old.copies.into_keys()).collect()
                } else {
                    manifests.apply(&name, &manifest, parsed).expect("it fits")
                };
                waiting.extend(changed.into_iter().map(|id| (worker, id)));
                if !later {
                    for (worker, id) in waiting.drain(..).rev() {
                        manifests.index(&format!("w{worker}"), &id);
                    }
                }
            }
            for (worker, id) in waiting {
                manifests.index(&format!("w{worker}"), &id);
            }
            let mut expected: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for (worker, said) in said.iter().enumerate() {
                for id in said.keys() {
                    expected.entry(id.clone()).or_default().insert(format!("w{worker}"));
                }
            }
            let index: BTreeMap<String, BTreeSet<String>> = manifests.index.iter()
                .map(|(id, workers)| (id.to_string(), workers.iter().map(ToString::to_string).collect()))
                .collect();
            prop_assert_eq!(index, expected);
            prop_assert!(manifests.index.values().all(|workers| workers.iter().collect::<BTreeSet<_>>().len() == workers.len()));
        }
    }

    #[test]
    fn a_wrong_digest_is_not_taken() {
        let said: Said = [("s1".to_owned(), entry(1, 1, false))].into();
        let wrong = Manifest { digest: 5, ..manifest(true, 1, said.values().cloned().collect(), &said) };
        assert!(Holding::whole(&wrong, parse(&wrong).expect("good")).is_none());
    }
}
