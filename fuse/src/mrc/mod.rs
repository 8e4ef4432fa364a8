//! Miss-ratio curve of a cache, online and in bounded memory: SHARDS-adj.
//!
//! After Waldspurger, Park, Garthwaite, Ahmad, "Efficient MRC Construction with SHARDS" (FAST'15): only
//! references to keys whose hash falls under a threshold are looked at, their reuse distances are scaled
//! by the inverse of that rate, and the number of references that the sampled keys happened to get more
//! or less than expected is put right in the first bucket ("adj"). When more keys are sampled than there
//! is room for, the threshold falls and the keys above it are forgotten, so memory is bounded whatever
//! the number of keys.
//!
//! Distances are of an LRU cache; the RAM tier keeps frequent blocks rather than recent ones and so is
//! a little better than its curve.

use std::collections::{BTreeSet, HashMap};

use self::distance::Recency;

mod distance;
#[cfg(test)]
mod tests;

/// Hashes are compared in this many steps: a sampling rate is a threshold over it.
const MODULUS: u64 = 1 << 24;

/// Buckets of the histogram for each doubling of the distance.
const BUCKETS_PER_DOUBLING: usize = 16;

/// Distances to 2^40 units: 64 PiB of 64 KiB blocks.
const BUCKETS: usize = 40 * BUCKETS_PER_DOUBLING;

/// See the module. Units are cached units: blocks.
#[derive(Debug)]
pub struct Curve {
    threshold: u64,
    keys_max: usize,
    recency: Recency,
    /// Time of the last reference of each sampled key, with its hash's step.
    last: HashMap<u64, (u64, u64)>,
    /// Sampled keys by step: the highest go first when the threshold falls.
    by_step: BTreeSet<(u64, u64)>,
    clock: u64,
    /// References by scaled reuse distance.
    histogram: Vec<f64>,
    /// Scaled references to keys never seen before.
    cold: f64,
    /// All references, sampled or not.
    references: u64,
    /// References whose key was sampled, scaled.
    sampled: f64,
}

impl Curve {
    /// A curve that begins with `rate` (0 to 1) of the keys and never keeps more than `keys_max`, about
    /// 150 bytes each.
    pub fn new(rate: f64, keys_max: usize) -> Self {
        Self {
            threshold: ((rate * MODULUS as f64) as u64).clamp(1, MODULUS),
            keys_max: keys_max.max(1),
            recency: Recency::default(),
            last: HashMap::new(),
            by_step: BTreeSet::new(),
            clock: 0,
            histogram: vec![0.0; BUCKETS],
            cold: 0.0,
            references: 0,
            sampled: 0.0,
        }
    }

    /// Which of the steps of a threshold a key of this hash falls in.
    pub fn step(hash: u64) -> u64 {
        hash % MODULUS
    }

    /// Keys are sampled whose [`Self::step`] is below this.
    pub fn threshold(&self) -> u64 {
        self.threshold
    }

    /// Counts `references` to keys that are not sampled, and so need not be named.
    pub fn count(&mut self, references: u64) {
        self.references += references;
    }

    /// Takes note of one reference to the key of this well-mixed 64-bit hash.
    pub fn refer(&mut self, hash: u64) {
        self.references += 1;
        let step = Self::step(hash);
        if step >= self.threshold {
            return;
        }
        let weight = MODULUS as f64 / self.threshold as f64;
        self.sampled += weight;
        self.clock += 1;
        match self.last.insert(hash, (self.clock, step)) {
            Some((before, _)) => {
                let distance = self.recency.since(before);
                self.recency.remove(before);
                self.histogram[bucket((distance as f64 * weight) as u64)] += weight;
            }
            None => {
                self.cold += weight;
                self.by_step.insert((step, hash));
            }
        }
        self.recency.insert(self.clock);
        if self.last.len() > self.keys_max {
            self.lower_threshold();
        }
        if self.recency.is_worn(self.last.len()) {
            self.renumber();
        }
    }

    /// References since the start.
    pub fn references(&self) -> u64 {
        self.references
    }

    /// The part of all references that a cache of `units` would answer; 0 before the first.
    pub fn hit_ratio(&self, units: u64) -> f64 {
        if self.references == 0 || units == 0 {
            return 0.0;
        }
        // What the sample got too little or too much belongs to keys so hot that one more or less of
        // them in the sample makes the difference: to the shortest distances.
        let adjust = self.references as f64 - self.sampled;
        let mut hits = adjust;
        for (index, weight) in self.histogram.iter().enumerate() {
            let (from, to) = (lower_edge(index), lower_edge(index + 1));
            // A reference at distance d (others in between) hits if d < units.
            if to <= units as f64 {
                hits += weight;
            } else {
                hits += weight * ((units as f64 - from) / (to - from)).clamp(0.0, 1.0);
                break;
            }
        }
        (hits / self.references as f64).clamp(0.0, 1.0)
    }

    fn lower_threshold(&mut self) {
        let Some(&(highest, _)) = self.by_step.last() else { return };
        self.threshold = highest.max(1);
        while let Some(&(step, hash)) = self.by_step.last()
            && step >= self.threshold
        {
            self.by_step.pop_last();
            if let Some((time, _)) = self.last.remove(&hash) {
                self.recency.remove(time);
            }
        }
    }

    /// Gives the keys new times, in the same order, so that the tree holds few empty places.
    fn renumber(&mut self) {
        let mut order: Vec<_> = self.last.iter().map(|(&hash, &(time, step))| (time, hash, step)).collect();
        order.sort_unstable();
        self.recency = Recency::default();
        self.clock = 0;
        for (_, hash, step) in order {
            self.clock += 1;
            self.recency.insert(self.clock);
            self.last.insert(hash, (self.clock, step));
        }
    }
}

/// Buckets are linear up to [`BUCKETS_PER_DOUBLING`], then a doubling is cut into as many.
fn bucket(distance: u64) -> usize {
    let per = BUCKETS_PER_DOUBLING as u64;
    if distance < per {
        return distance as usize;
    }
    let doubling = u64::from(distance.ilog2() - per.ilog2());
    let within = (distance >> doubling) - per;
    (((doubling + 1) * per + within) as usize).min(BUCKETS - 1)
}

fn lower_edge(bucket: usize) -> f64 {
    let per = BUCKETS_PER_DOUBLING;
    if bucket < per {
        return bucket as f64;
    }
    let (doubling, within) = (bucket / per - 1, bucket % per);
    (per + within) as f64 * 2_f64.powi(i32::try_from(doubling).unwrap_or(i32::MAX))
}
