//! Who is asked most, in bounded memory. Pure: time is passed in.
//!
//! Space-Saving (Metwally, Agrawal, El Abbadi: "Efficient computation of frequent and top-k elements in data
//! streams", ICDT 2005): a fixed number of counters; a key that has none takes the lowest one over and begins
//! with its count, which is remembered as the error. So a count is never too low, it is too high by its
//! error at most, and with `k` counters the error is at most the sum of all weights / `k`.
//!
//! Decay by the forward trick (Cormode, Shkapenyuk, Srivastava, Xu: "Forward decay", ICDE 2009): nothing
//! ages. A query at time t weighs 2^((t - landmark) / half-life), and a count is divided by the weight that a
//! query would have now when it is read. The order of counters does not depend on now, so a heap holds it.

use std::{collections::HashMap, sync::Arc};

/// Weights stay below 2^this; then the landmark moves. A double holds 2^1023, and sums of many such weights.
const EXPONENT_MAX: f64 = 256.0;

/// How much of what was known of a segment's answers a further one leaves.
const TIME_KEPT: f64 = 0.8;

/// From what a query was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnsweredFrom {
    /// From the store, in place.
    Store,
    /// From a copy.
    Copy,
}

/// How often a key is asked: queries, each counted as 2^(-age / half-life).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// At most so many.
    pub queries: f64,
    /// And so many fewer at most.
    pub error: f64,
    /// log2 of `queries` as they would be at time 0: the same at all times until it is asked again, so an
    /// order by it is one that time does not change. -∞: it was not asked.
    pub rank: f64,
    /// Mean time of the last cold answers in seconds; `None`: there was none.
    pub cold_s: Option<f64>,
    /// The same of answers from copies.
    pub hot_s: Option<f64>,
}

impl Default for Reading {
    fn default() -> Self {
        Self { queries: 0.0, error: 0.0, rank: f64::NEG_INFINITY, cold_s: None, hot_s: None }
    }
}

impl Reading {
    /// At least so many queries.
    pub fn least(&self) -> f64 {
        (self.queries - self.error).max(0.0)
    }
}

#[derive(Debug)]
struct Slot {
    key: Arc<str>,
    /// In weights of the landmark.
    count: f64,
    error: f64,
    /// Place in the heap.
    at: usize,
    cold_s: Option<f64>,
    hot_s: Option<f64>,
}

/// The counters.
#[derive(Debug)]
pub struct Tally {
    slots: Vec<Slot>,
    index: HashMap<Arc<str>, usize>,
    /// Slots as a binary heap, the lowest count first.
    heap: Vec<usize>,
    capacity: usize,
    half_life_s: f64,
    landmark_s: f64,
}

impl Tally {
    /// Of at most `capacity` keys. Both above 0.
    pub fn new(capacity: usize, half_life_s: f64) -> Self {
        Self {
            slots: Vec::new(),
            index: HashMap::new(),
            heap: Vec::new(),
            capacity: capacity.max(1),
            half_life_s: half_life_s.max(1e-3),
            landmark_s: 0.0,
        }
    }

    /// One query of `key`, answered at `now_s` in `took_s`.
    pub fn add(&mut self, key: &str, now_s: f64, from: AnsweredFrom, took_s: f64) {
        let weight = self.weight(now_s);
        let slot = match self.index.get(key) {
            Some(&slot) => slot,
            None if self.slots.len() < self.capacity => {
                let key: Arc<str> = key.into();
                let (slot, at) = (self.slots.len(), self.heap.len());
                self.slots.push(Slot {
                    key: key.clone(),
                    count: 0.0,
                    error: 0.0,
                    at,
                    cold_s: None,
                    hot_s: None,
                });
                self.index.insert(key, slot);
                self.heap.push(slot);
                self.rise(at);
                slot
            }
            None => {
                let slot = self.heap[0];
                let key: Arc<str> = key.into();
                let lowest = &mut self.slots[slot];
                let before = std::mem::replace(&mut lowest.key, key.clone());
                (lowest.error, lowest.cold_s, lowest.hot_s) = (lowest.count, None, None);
                self.index.remove(&before);
                self.index.insert(key, slot);
                slot
            }
        };
        let entry = &mut self.slots[slot];
        entry.count += weight;
        let mean = match from {
            AnsweredFrom::Store => &mut entry.cold_s,
            AnsweredFrom::Copy => &mut entry.hot_s,
        };
        *mean = Some(mean.map_or(took_s, |mean| mean * TIME_KEPT + took_s * (1.0 - TIME_KEPT)));
        let at = entry.at;
        self.sink(at);
    }

    /// How often `key` was asked, as of `now_s`; `None`: not among the most asked ones.
    pub fn get(&self, key: &str, now_s: f64) -> Option<Reading> {
        self.index.get(key).map(|slot| self.read(&self.slots[*slot], now_s))
    }

    /// Every key that has a counter.
    pub fn iter(&self, now_s: f64) -> impl Iterator<Item = (&Arc<str>, Reading)> {
        self.slots.iter().map(move |slot| (&slot.key, self.read(slot, now_s)))
    }

    /// Number of keys that have a counter.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn read(&self, slot: &Slot, now_s: f64) -> Reading {
        let now = 2f64.powf((self.landmark_s - now_s) / self.half_life_s);
        Reading {
            queries: slot.count * now,
            error: slot.error * now,
            rank: slot.count.log2() + self.landmark_s / self.half_life_s,
            cold_s: slot.cold_s,
            hot_s: slot.hot_s,
        }
    }

    /// Weight of a query at `now_s`. Moves the landmark before it gets too large.
    fn weight(&mut self, now_s: f64) -> f64 {
        let exponent = (now_s - self.landmark_s) / self.half_life_s;
        if exponent <= EXPONENT_MAX {
            return 2f64.powf(exponent);
        }
        let factor = 2f64.powf(-exponent);
        for slot in &mut self.slots {
            // Order is kept: what gets too small for a double becomes 0, and equal.
            slot.count *= factor;
            slot.error *= factor;
        }
        self.landmark_s = now_s;
        1.0
    }

    fn less(&self, a: usize, b: usize) -> bool {
        self.slots[self.heap[a]].count < self.slots[self.heap[b]].count
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.slots[self.heap[a]].at = a;
        self.slots[self.heap[b]].at = b;
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 && self.less(at, (at - 1) / 2) {
            self.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let children = [2 * at + 1, 2 * at + 2].into_iter().filter(|child| *child < self.heap.len());
            let Some(least) = children.reduce(|a, b| if self.less(b, a) { b } else { a }) else { return };
            if !self.less(least, at) {
                return;
            }
            self.swap(at, least);
            at = least;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HALF_LIFE_S: f64 = 60.0;

    proptest! {
        /// Against exact counts: never too low, too high by the told error at most, and that is at most the
        /// sum of all weights over the number of counters.
        #[test]
        fn errors_are_within_the_bounds(
            queries in prop::collection::vec((0u8..30, 0.0f64..90.0), 1..400),
            capacity in 1usize..40,
            long in prop::option::of(0usize..400),
        ) {
            let mut tally = Tally::new(capacity, HALF_LIFE_S);
            let mut exact: HashMap<String, f64> = HashMap::new();
            let (mut now, mut all) = (0.0f64, 0.0f64);
            for (n, (key, pause)) in queries.iter().enumerate() {
                // Once perhaps a pause that moves the landmark.
                let pause = if long == Some(n) { HALF_LIFE_S * 300.0 } else { *pause };
                let decay = 2f64.powf(-pause / HALF_LIFE_S);
                now += pause;
                all = all * decay + 1.0;
                exact.values_mut().for_each(|count| *count *= decay);
                *exact.entry(key.to_string()).or_default() += 1.0;
                tally.add(&key.to_string(), now, AnsweredFrom::Copy, 0.0);
            }
            prop_assert!(tally.len() <= capacity);
            let near = 1e-6 * all;
            let bound = all / capacity as f64;
            for (key, count) in &exact {
                match tally.get(key, now) {
                    Some(found) => {
                        prop_assert!(found.queries >= count - near, "{key}: {found:?} for {count}");
                        prop_assert!(found.least() <= count + near, "{key}: {found:?} for {count}");
                        prop_assert!(found.error <= bound + near, "{key}: {found:?}, bound {bound}");
                    }
                    // Who has no counter is asked no oftener than the bound.
                    None => prop_assert!(*count <= bound + near, "{key}: {count}, bound {bound}"),
                }
            }
            // The heap is one.
            for at in 1..tally.heap.len() {
                prop_assert!(!tally.less(at, (at - 1) / 2));
            }
            prop_assert!(tally.slots.iter().enumerate().all(|(n, slot)| tally.heap[slot.at] == n));
        }
    }

    #[test]
    fn half_is_left_after_a_half_life() {
        let mut tally = Tally::new(4, HALF_LIFE_S);
        for _ in 0..8 {
            tally.add("a", 100.0, AnsweredFrom::Store, 2.0);
        }
        let at = |now: f64| tally.get("a", now).expect("counted").queries;
        assert!((at(100.0) - 8.0).abs() < 1e-9 && (at(160.0) - 4.0).abs() < 1e-9);
        assert_eq!(tally.get("a", 100.0).and_then(|reading| reading.cold_s), Some(2.0));
        assert_eq!(tally.get("b", 100.0), None);
    }

    #[test]
    fn the_means_of_another_key_are_not_inherited() {
        let mut tally = Tally::new(1, HALF_LIFE_S);
        tally.add("a", 0.0, AnsweredFrom::Store, 9.0);
        tally.add("b", 0.0, AnsweredFrom::Copy, 3.0);
        let found = tally.get("b", 0.0).expect("it took the counter over");
        assert_eq!(found, Reading { queries: 2.0, error: 1.0, rank: 1.0, cold_s: None, hot_s: Some(3.0) });
        assert_eq!(found.least(), 1.0);
    }
}
