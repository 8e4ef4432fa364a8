//! Numbers that a seed decides.

/// xorshift64*: the same numbers on every machine.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    /// `stream`: another sequence of the same seed.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        // splitmix64, so that neighbouring seeds have nothing in common.
        let mut z = seed.wrapping_mul(2).wrapping_add(stream).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self((z ^ (z >> 31)).max(1))
    }

    /// 0 to `below` - 1.
    pub(super) fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below.max(1)
    }

    /// Whether something of `per_mille` happens.
    pub(super) fn happens(&mut self, per_mille: u64) -> bool {
        self.roll(1000) < per_mille
    }

    /// Short nearly always, and now and then up to `most`.
    pub(super) fn delay_ms(&mut self, usual: u64, most: u64) -> u64 {
        let most = if self.happens(60) { most } else { usual };
        1 + self.roll(most)
    }

    /// Index of one of `weights`, as often as it weighs.
    pub(super) fn pick(&mut self, weights: &[u64]) -> usize {
        let mut at = self.roll(weights.iter().sum());
        for (index, weight) in weights.iter().enumerate() {
            if at < *weight {
                return index;
            }
            at -= weight;
        }
        0
    }
}
