//! How fast copies come from the store: what the gateway weighs against cold answers.

use std::time::Duration;

use parking_lot::Mutex;

/// Copies of less than this say more about the store's latency than about its bandwidth.
const BYTES_MIN: u64 = 1 << 20;
/// Each further copy leaves so much of what was known: about the last ten count.
const KEPT: f64 = 0.9;

/// Bytes and seconds of the last copies, older ones less.
#[derive(Debug, Default)]
pub(super) struct Speed(Mutex<(f64, f64)>);

impl Speed {
    /// A copy of `bytes` took so long, with its verification and its turns of waiting.
    pub(super) fn copied(&self, bytes: u64, took: Duration) {
        if bytes >= BYTES_MIN {
            let mut sums = self.0.lock();
            *sums = (sums.0 * KEPT + bytes as f64, sums.1 * KEPT + took.as_secs_f64());
        }
    }

    /// Bytes a second; `None`: nothing of use was copied yet.
    pub(super) fn bytes_per_s(&self) -> Option<u64> {
        let (bytes, seconds) = *self.0.lock();
        (bytes > 0.0).then(|| ((bytes / seconds.max(1e-6)) as u64).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_and_large_copies_count() {
        let speed = Speed::default();
        speed.copied(BYTES_MIN - 1, Duration::from_secs(100));
        assert_eq!(speed.bytes_per_s(), None, "too small to say anything");
        speed.copied(100 << 20, Duration::from_secs(1));
        assert_eq!(speed.bytes_per_s(), Some(100 << 20));
        for _ in 0..60 {
            speed.copied(10 << 20, Duration::from_secs(1));
        }
        let now = speed.bytes_per_s().expect("measured") >> 20;
        assert!((10..12).contains(&now), "{now}");
        let instant = Speed::default();
        instant.copied(1 << 40, Duration::ZERO);
        assert!(instant.bytes_per_s().is_some());
    }
}
