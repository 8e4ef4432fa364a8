//! Readers that take equal steps: backwards, or every so many bytes forwards.

use std::ops::Range;

/// Equal steps after which the next ones are believed.
const STEPS_MIN: u32 = 3;

/// Most steps ahead.
const AHEAD_MAX: u64 = 32;

/// Longest step; further apart is not one reader's pattern.
const STEP_BYTES_MAX: u64 = 64 << 20;

/// What to do about one read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StrideAdvice {
    /// The reader left its pattern: what was fetched for it is of no use.
    pub broken: bool,
    /// Fetch these now, in this order.
    pub fetch: Vec<Range<u64>>,
}

/// The steps of one handle.
#[derive(Debug, Default)]
pub struct Strides {
    last: Option<Range<u64>>,
    step: i64,
    /// Equal steps so far.
    count: u32,
    /// Steps asked for beyond the last read.
    ahead: u64,
    /// How many to be ahead; doubles.
    depth: u64,
}

impl Strides {
    /// Takes note of a read of `wanted`, not empty, in a file of `file_len` bytes. At most `max` bytes
    /// are asked for ahead of the reader.
    pub fn observe(&mut self, wanted: Range<u64>, file_len: u64, max: u64) -> StrideAdvice {
        let Some(last) = self.last.replace(wanted.clone()) else { return StrideAdvice::default() };
        let step = wanted.start.wrapping_sub(last.start) as i64;
        let forwards = wanted.start == last.end;
        if step == 0 || forwards || step.unsigned_abs() > STEP_BYTES_MAX || step != self.step {
            let broken = self.ahead > 0;
            *self = Self { last: Some(wanted), step, ..Self::default() };
            // A forward run is the window's.
            self.count = u32::from(step != 0 && !forwards);
            return StrideAdvice { broken, fetch: Vec::new() };
        }
        self.count = self.count.saturating_add(1);
        self.ahead = self.ahead.saturating_sub(1);
        if self.count < STEPS_MIN || self.ahead > self.depth / 2 {
            return StrideAdvice::default();
        }
        let len = wanted.end - wanted.start;
        self.depth = (self.depth * 2).clamp(2, AHEAD_MAX).min(max / len);
        let mut fetch = Vec::new();
        while self.ahead < self.depth {
            let by = step.saturating_mul((self.ahead + 1) as i64);
            let Some(start) = wanted.start.checked_add_signed(by).filter(|&start| start < file_len) else {
                break;
            };
            fetch.push(start..start.saturating_add(len).min(file_len));
            self.ahead += 1;
        }
        StrideAdvice { broken: false, fetch }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn fetched(reads: impl IntoIterator<Item = Range<u64>>, file_len: u64) -> Vec<Range<u64>> {
        let mut strides = Strides::default();
        reads.into_iter().flat_map(|read| strides.observe(read, file_len, 8 * MIB).fetch).collect()
    }

    #[test]
    fn backwards_and_with_gaps() {
        let back: Vec<_> = (0..100).rev().map(|i| i * 4096..(i + 1) * 4096).collect();
        let got = fetched(back.iter().cloned(), MIB);
        assert_eq!(got, back[4..], "all but the first, once, in the reader's order");
        let every: Vec<_> = (0..100).map(|i| i * MIB..i * MIB + 4096).collect();
        let got = fetched(every.iter().cloned(), 100 * MIB);
        assert_eq!(got, every[4..]);
    }

    #[test]
    fn not_for_sequential_random_or_repeated_reads() {
        assert_eq!(fetched((0..100).map(|i| i * 4096..(i + 1) * 4096), MIB), []);
        assert_eq!(fetched((0..100).map(|_| 0..4096), MIB), []);
        let random = (0..1000_u64).map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % MIB);
        assert_eq!(fetched(random.map(|at| at..at + 10), MIB), []);
    }

    #[test]
    fn a_broken_pattern_is_said_once() {
        let mut strides = Strides::default();
        for i in 0..10 {
            strides.observe(i * MIB..i * MIB + 1, 100 * MIB, MIB);
        }
        assert!(strides.observe(3..4, 100 * MIB, MIB).broken);
        assert!(!strides.observe(900..904, 100 * MIB, MIB).broken);
    }

    proptest! {
        #[test]
        fn inside_the_file_and_the_bound(
            steps in prop::collection::vec((-9_i64..9, 1_usize..20), 1..20),
            max in 0_u64..3000,
        ) {
            let (mut strides, mut at, file_len) = (Strides::default(), 5000_i64, 10_000);
            for (step, times) in steps {
                for _ in 0..times {
                    at = (at + step * 50).clamp(0, 9900);
                    let advice = strides.observe(at as u64..at as u64 + 100, file_len, max);
                    prop_assert!(advice.fetch.len() as u64 * 100 <= max);
                    for range in advice.fetch {
                        prop_assert!(range.start < range.end && range.end <= file_len);
                    }
                }
            }
        }
    }
}
