//! What readahead may hold, and what it has wasted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// Bytes that all readahead together may hold.
#[derive(Debug)]
pub(super) struct Budget {
    max: AtomicU64,
    taken: AtomicU64,
    /// Handles that hold some of it.
    holders: AtomicU64,
}

impl Budget {
    pub(super) fn new(max: u64) -> Self {
        Self { max: AtomicU64::new(max), taken: AtomicU64::new(0), holders: AtomicU64::new(0) }
    }

    /// Takes `bytes`, all or nothing.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let max = self.max();
        let fits = |taken: u64| taken.checked_add(bytes).filter(|&sum| sum <= max);
        self.taken.fetch_update(Relaxed, Relaxed, fits).is_ok()
    }

    pub(super) fn give_back(&self, bytes: u64) {
        self.taken.fetch_sub(bytes, Relaxed);
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    pub(super) fn max(&self) -> u64 {
        self.max.load(Relaxed)
    }

    /// With less than is taken, nothing more is given until enough came back.
    pub(super) fn set_max(&self, max: u64) {
        self.max.store(max, Relaxed);
    }

    pub(super) fn join(&self) {
        self.holders.fetch_add(1, Relaxed);
    }

    pub(super) fn leave(&self) {
        self.holders.fetch_sub(1, Relaxed);
    }

    /// What one handle may hold, so that there is some for each: a reader without readahead asks the
    /// store for every request, which costs all of them more than smaller windows do.
    pub(super) fn share(&self) -> u64 {
        self.max() / self.holders.load(Relaxed).max(1)
    }
}

/// Bytes read ahead lately, and those of them that nobody read.
#[derive(Debug, Default)]
pub(super) struct Waste {
    figures: Mutex<Figures>,
}

#[derive(Debug, Default)]
struct Figures {
    fetched: u64,
    wasted: u64,
}

/// What is older than this many bytes of readahead counts half.
const MEMORY_BYTES: u64 = 64 << 20;

/// Waste up to here is no pattern yet: what one reader leaves behind that stops in the middle.
const FORGIVEN_BYTES: u64 = 1 << 20;

impl Waste {
    pub(super) fn note(&self, fetched: u64, wasted: u64) {
        let mut figures = self.figures.lock();
        figures.fetched += fetched;
        figures.wasted += wasted;
        if figures.fetched > MEMORY_BYTES {
            figures.fetched /= 2;
            figures.wasted /= 2;
        }
    }

    /// The window that is left of `max` bytes: half of it if more than an eighth was wasted, an eighth
    /// if more than a quarter was, nothing if it was more than half.
    pub(super) fn temper(&self, max: u64) -> u64 {
        let Figures { fetched, wasted } = *self.figures.lock();
        if wasted <= FORGIVEN_BYTES || wasted * 8 <= fetched {
            max
        } else if wasted * 4 <= fetched {
            max / 2
        } else if wasted * 2 <= fetched {
            max / 8
        } else {
            0
        }
    }

    /// Forgives a little: a window of nothing would else stay one for ever.
    pub(super) fn forgive(&self, bytes: u64) {
        let mut figures = self.figures.lock();
        figures.wasted = figures.wasted.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waste_shrinks_the_window_and_use_restores_it() {
        let waste = Waste::default();
        waste.note(FORGIVEN_BYTES, FORGIVEN_BYTES);
        assert_eq!(waste.temper(800), 800, "forgiven");
        waste.note(1 << 20, 1 << 20);
        assert_eq!(waste.temper(800), 0);
        waste.note(4 << 20, 0);
        assert_eq!(waste.temper(800), 100);
        waste.note(64 << 20, 0);
        assert_eq!(waste.temper(800), 800);
    }
}
