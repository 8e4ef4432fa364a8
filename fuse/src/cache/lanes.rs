//! How many reads that nobody waits for yet go to the store at once.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Fewest at once: with a store next door more only queue up in front of it.
const LANES_MIN: u64 = 4;

/// Most at once: hides 10 ms of latency; each holds a connection to a DataNode.
const LANES_MAX: u64 = 128;

/// Lanes for each millisecond that a small read takes.
const LANES_PER_MS: u64 = 16;

/// Reads of up to this many bytes tell of the latency rather than of the bandwidth.
pub(super) const SMALL_READ_BYTES: u64 = 128 << 10;

/// Lanes for reads in the background, as many as the store's latency is worth, fewer while somebody waits
/// for another read.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    state: Mutex<State>,
    /// Smoothed latency of a small read in us; 0: not known.
    latency_us: AtomicU64,
    /// Reads under way that somebody waits for.
    demand: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    running: u64,
    waiting: VecDeque<oneshot::Sender<()>>,
}

/// A place in a lane; given to the next when dropped.
#[derive(Debug)]
pub(super) struct Lane(Arc<Lanes>);

/// A read that somebody waits for, until dropped.
#[derive(Debug)]
pub(super) struct Demand(Arc<Lanes>);

impl Lanes {
    /// Waits for a lane. Safe to drop.
    pub(super) async fn enter(self: &Arc<Self>) -> Lane {
        // Whoever was told that there is room and went away passes it on.
        let _passes_on = PassOn(self);
        loop {
            let turn = {
                let mut state = self.state.lock();
                if state.running < self.limit() {
                    state.running += 1;
                    return Lane(self.clone());
                }
                let (tell, turn) = oneshot::channel();
                state.waiting.push_back(tell);
                turn
            };
            // Told, or the one who would tell is gone: look again.
            let _ = turn.await;
        }
    }

    /// Notes that somebody waits for a read now.
    pub(super) fn demand(self: &Arc<Self>) -> Demand {
        self.demand.fetch_add(1, Relaxed);
        Demand(self.clone())
    }

    /// Takes note of a small read that took `latency` while `others` were under way. Queueing is no
    /// latency: a slow one counts only if it had the store nearly for itself, and little.
    pub(super) fn learn(&self, latency: Duration, others: u64) {
        let sample = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).clamp(1, 10_000_000);
        let old = self.latency_us.load(Relaxed);
        let new = if old == 0 {
            sample
        } else if sample < old {
            old - (old - sample).div_ceil(2)
        } else if others <= 1 {
            old + (sample - old).div_ceil(8)
        } else {
            old
        };
        self.latency_us.store(new, Relaxed);
    }

    /// How many lanes there are now.
    pub(super) fn limit(&self) -> u64 {
        let latency = self.latency_us.load(Relaxed);
        let lanes = (latency * LANES_PER_MS / 1000).clamp(LANES_MIN, LANES_MAX);
        // One is always left, so nothing waits for ever.
        lanes.saturating_sub(self.demand.load(Relaxed)).max(1)
    }

    /// Lets in as many as there is room for.
    fn wake(&self) {
        let mut state = self.state.lock();
        let mut room = self.limit().saturating_sub(state.running);
        while room > 0 {
            let Some(next) = state.waiting.pop_front() else { return };
            // One that went away makes room for the next.
            if next.send(()).is_ok() {
                room -= 1;
            }
        }
    }
}

struct PassOn<'a>(&'a Lanes);

impl Drop for PassOn<'_> {
    fn drop(&mut self) {
        self.0.wake();
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.0.state.lock().running -= 1;
        self.0.wake();
    }
}

impl Drop for Demand {
    fn drop(&mut self) {
        self.0.demand.fetch_sub(1, Relaxed);
        self.0.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered(lanes: &Arc<Lanes>, tries: u64) -> Vec<Lane> {
        use futures::FutureExt;
        (0..tries).filter_map(|_| lanes.enter().now_or_never()).collect()
    }

    #[test]
    fn as_many_as_the_latency_is_worth() {
        let lanes = Arc::new(Lanes::default());
        assert_eq!(lanes.limit(), LANES_MIN);
        lanes.learn(Duration::from_millis(10), 0);
        assert_eq!(lanes.limit(), LANES_MAX);
        // A quick one is believed at once, a slow one in a crowd is not.
        (0..12).for_each(|_| lanes.learn(Duration::from_micros(300), 0));
        lanes.learn(Duration::from_millis(50), 40);
        assert_eq!(lanes.limit(), 4);
        (0..64).for_each(|_| lanes.learn(Duration::from_millis(2), 0));
        assert!((30..=32).contains(&lanes.limit()), "{}", lanes.limit());
    }

    #[tokio::test]
    async fn gives_way_to_demand_and_goes_on_after_it() {
        let lanes = Arc::new(Lanes::default());
        let demand: Vec<_> = (0..3).map(|_| lanes.demand()).collect();
        let first = entered(&lanes, 8);
        assert_eq!(first.len(), 1, "one is always left");
        let waiting = tokio::spawn({
            let lanes = lanes.clone();
            async move { lanes.enter().await }
        });
        tokio::task::yield_now().await;
        drop(demand);
        let second = waiting.await.expect("let in");
        assert_eq!(entered(&lanes, 8).len(), 2);
        drop((first, second));
        assert_eq!(lanes.state.lock().running, 0);
    }

    #[tokio::test]
    async fn one_that_went_away_takes_no_lane() {
        let lanes = Arc::new(Lanes::default());
        let held = entered(&lanes, 8);
        assert_eq!(held.len(), 4);
        {
            let gone = lanes.enter();
            tokio::pin!(gone);
            assert!(futures::poll!(&mut gone).is_pending());
        }
        let next = lanes.enter();
        tokio::pin!(next);
        assert!(futures::poll!(&mut next).is_pending());
        drop(held);
        drop(next.await);
        assert_eq!(entered(&lanes, 8).len(), 4);
    }
}
