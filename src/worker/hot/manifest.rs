//! What the gateway is told of the copies here: all of it once, then what changed. Pure.

use std::collections::{BTreeMap, HashMap};

use springhouse_gateway::api::hot::{CopyState, HotSegment, Manifest};
use xxhash_rust::xxh3::xxh3_64;

/// How many departures are remembered for deltas; beyond, all is sent.
const GONE_MAX: usize = 10_000;

/// The entries, each with the version in which it changed last.
#[derive(Debug, Default)]
pub(super) struct Entries {
    version: u64,
    entries: HashMap<String, (u64, HotSegment)>,
    /// By version.
    changed: BTreeMap<u64, String>,
    gone: BTreeMap<u64, String>,
    /// Deltas from before this version are not known any more.
    forgotten: u64,
    digest: u64,
}

impl Entries {
    /// The version after the last change.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Puts an entry in; one in state `Gone` is taken out. Whether that changed anything.
    pub(super) fn put(&mut self, entry: HotSegment) -> bool {
        let gone = entry.state == CopyState::Gone;
        match self.entries.get(&entry.id) {
            Some((_, old)) if *old == entry => return false,
            None if gone => return false,
            _ => {}
        }
        self.version += 1;
        if let Some((version, old)) = self.entries.remove(&entry.id) {
            self.changed.remove(&version);
            self.digest = self.digest.wrapping_sub(hash(&old));
        }
        if gone {
            self.gone.insert(self.version, entry.id);
            if self.gone.len() > GONE_MAX
                && let Some((version, _)) = self.gone.pop_first()
            {
                self.forgotten = version;
            }
        } else {
            self.digest = self.digest.wrapping_add(hash(&entry));
            self.changed.insert(self.version, entry.id.clone());
            self.entries.insert(entry.id.clone(), (self.version, entry));
        }
        true
    }

    /// What a gateway that has version `base` is to be told; all of it if it has none, or one that deltas
    /// do not reach back to.
    pub(super) fn manifest(&self, epoch: u64, base: Option<u64>) -> Manifest {
        let base = base.filter(|base| (self.forgotten..=self.version).contains(base));
        let from = base.map_or(0, |base| base + 1);
        let mut segments: Vec<HotSegment> = Vec::new();
        if base.is_some() {
            let departed = self.gone.range(from..).filter(|(_, id)| !self.entries.contains_key(*id));
            segments.extend(departed.map(|(_, id)| gone(id)));
        }
        let changed = self.changed.range(from..).filter_map(|(_, id)| self.entries.get(id));
        segments.extend(changed.map(|(_, entry)| entry.clone()));
        Manifest { epoch, version: self.version, base, segments, digest: self.digest }
    }
}

/// What is said of a segment that is not here.
pub(super) fn gone(id: &str) -> HotSegment {
    HotSegment {
        id: id.to_owned(),
        state: CopyState::Gone,
        reason: None,
        generation: None,
        size: 0,
        fetched: 0,
        checksum: None,
        token: None,
        change: 0,
        promoted_change: 0,
        shipped_change: None,
    }
}

fn hash(entry: &HotSegment) -> u64 {
    let state = match entry.state {
        CopyState::Assigned => "assigned",
        CopyState::Fetching => "fetching",
        CopyState::Available => "available",
        CopyState::Stale => "stale",
        CopyState::Refused => "refused",
        CopyState::Gone => "gone",
    };
    let generation = entry.generation.as_deref().unwrap_or_default();
    xxh3_64(format!("{}\0{generation}\0{state}", entry.id).as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(id: u8, generation: u8, state: CopyState) -> HotSegment {
        HotSegment { generation: Some(format!("{generation:032x}")), state, ..gone(&format!("s{id}")) }
    }

    /// A gateway: applies what it is sent.
    #[derive(Debug, Default)]
    struct Gateway {
        version: Option<u64>,
        entries: BTreeMap<String, HotSegment>,
    }

    impl Gateway {
        fn take(&mut self, manifest: Manifest) {
            assert!(manifest.base.is_none() || manifest.base == self.version);
            if manifest.base.is_none() {
                self.entries.clear();
            }
            for entry in manifest.segments {
                if entry.state == CopyState::Gone {
                    self.entries.remove(&entry.id);
                } else {
                    self.entries.insert(entry.id.clone(), entry);
                }
            }
            let digest = self.entries.values().fold(0_u64, |sum, entry| sum.wrapping_add(hash(entry)));
            assert_eq!(digest, manifest.digest);
            self.version = Some(manifest.version);
        }
    }

    fn states() -> impl Strategy<Value = CopyState> {
        prop::sample::select(vec![
            CopyState::Fetching,
            CopyState::Available,
            CopyState::Stale,
            CopyState::Gone,
        ])
    }

    proptest! {
        #[test]
        fn deltas_lead_to_the_whole(
            steps in prop::collection::vec((0_u8..6, 0_u8..3, states(), any::<bool>(), any::<bool>()), 1..60),
        ) {
            let (mut worker, mut gateway) = (Entries::default(), Gateway::default());
            let mut model = BTreeMap::new();
            for (id, generation, state, tell, restart) in steps {
                let entry = entry(id, generation, state);
                worker.put(entry.clone());
                if state == CopyState::Gone { model.remove(&entry.id); } else { model.insert(entry.id.clone(), entry); }
                if restart { gateway = Gateway::default(); }
                if tell {
                    gateway.take(worker.manifest(1, gateway.version));
                    prop_assert_eq!(&gateway.entries, &model);
                }
            }
        }
    }

    #[test]
    fn a_gateway_too_far_behind_gets_all() {
        let mut worker = Entries::default();
        worker.put(entry(200, 1, CopyState::Available));
        let base = worker.version();
        for n in 0..=GONE_MAX {
            worker.put(entry(1, (n % 250) as u8, CopyState::Available));
            worker.put(entry(1, 0, CopyState::Gone));
        }
        assert_eq!(worker.manifest(1, Some(base)).base, None);
        assert_eq!(worker.manifest(1, Some(worker.version())).segments, []);
        assert!(!worker.put(entry(200, 1, CopyState::Available)), "nothing new");
    }
}
