//! One after the other for each segment.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use crate::segment::SegmentId;

/// Entries below which nothing is cleaned up.
const CLEAN_ABOVE: usize = 1024;

/// A lock for each segment that is being changed. Memory follows those, not all that ever were.
#[derive(Debug, Default)]
pub(super) struct Turns {
    turns: Mutex<HashMap<SegmentId, Weak<tokio::sync::Mutex<()>>>>,
}

impl Turns {
    /// Waits for the others; the turn ends when the guard is dropped.
    pub(super) async fn take(&self, id: &SegmentId) -> OwnedMutexGuard<()> {
        self.turn(id).lock_owned().await
    }

    /// The turn if nobody has it.
    pub(super) fn try_take(&self, id: &SegmentId) -> Option<OwnedMutexGuard<()>> {
        self.turn(id).try_lock_owned().ok()
    }

    fn turn(&self, id: &SegmentId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock();
        if let Some(turn) = turns.get(id).and_then(Weak::upgrade) {
            return turn;
        }
        // Only when it would grow, so that cleaning costs little for each.
        if turns.len() >= CLEAN_ABOVE && turns.len() == turns.capacity() {
            turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        turns.insert(id.clone(), Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> SegmentId {
        SegmentId::parse(&n.to_string()).expect("digits are an id")
    }

    #[tokio::test]
    async fn one_segment_one_turn() {
        let turns = Turns::default();
        let first = turns.take(&id(1)).await;
        let _other = turns.take(&id(2)).await;
        assert!(turns.try_take(&id(1)).is_none() && turns.try_take(&id(3)).is_some());
        let same = id(1);
        let mut second = std::pin::pin!(turns.take(&same));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        assert!(futures::poll!(&mut second).is_ready());
    }

    #[tokio::test]
    async fn memory_follows_those_that_are_changed_now() {
        let turns = Turns::default();
        for n in 0..200_000 {
            drop(turns.take(&id(n)).await);
        }
        assert!(turns.turns.lock().len() < 5_000, "{}", turns.turns.lock().len());
    }
}
