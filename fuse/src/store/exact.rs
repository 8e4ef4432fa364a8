//! Waiting exactly, for what is measured. Tokio's timers go in steps of 1 ms and are late by one on average:
//! a tenth of a round trip of 10 ms, and half of one of 2 ms.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

/// The end of a wait that is left to the thread: more than Tokio's timers are ever late.
const LAST: Duration = Duration::from_millis(2);

/// Waits for `time`, late by 0.1 ms at most on a machine that is not busy. Exact on a clock of Tokio's that
/// stands still, as tests have it.
pub(super) async fn wait(time: Duration) {
    let end = Instant::now() + time;
    if stands_still() {
        return tokio::time::sleep(time).await;
    }
    tokio::time::sleep(time.saturating_sub(LAST)).await;
    until(end).await;
}

/// Whether Tokio's clock is stopped.
fn stands_still() -> bool {
    let (real, seen) = (Instant::now(), tokio::time::Instant::now());
    while real.elapsed() < Duration::from_micros(1) {}
    tokio::time::Instant::now() == seen
}

/// A wait: its end, which of two of the same end came first, and whom to tell.
struct Wait(Instant, u64, oneshot::Sender<()>);

impl PartialEq for Wait {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Wait {}

impl PartialOrd for Wait {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Wait {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// An end, and whom to tell of it.
type New = (Instant, oneshot::Sender<()>);

/// Waits on the one thread of this process that does nothing else.
async fn until(end: Instant) {
    static WAITS: OnceLock<Option<mpsc::Sender<New>>> = OnceLock::new();
    let waits = WAITS.get_or_init(|| {
        let (waits, new) = mpsc::channel();
        let spawned = thread::Builder::new().name("exact-waits".into()).spawn(move || serve(&new));
        spawned.ok().map(|_| waits)
    });
    let (tell, told) = oneshot::channel();
    if waits.as_ref().is_some_and(|waits| waits.send((end, tell)).is_ok()) {
        let _ = told.await;
    }
}

fn serve(new: &mpsc::Receiver<New>) {
    let mut waits: BinaryHeap<Reverse<Wait>> = BinaryHeap::new();
    for number in 0.. {
        let next = match waits.peek() {
            Some(Reverse(Wait(end, ..))) => new.recv_timeout(end.saturating_duration_since(Instant::now())),
            None => new.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
        };
        match next {
            Ok((end, tell)) => waits.push(Reverse(Wait(end, number, tell))),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        let now = Instant::now();
        while waits.peek().is_some_and(|Reverse(Wait(end, ..))| *end <= now) {
            if let Some(Reverse(Wait(_, _, tell))) = waits.pop() {
                // Whoever went away is not told.
                let _ = tell.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn never_too_early() {
        let started = Instant::now();
        let ms = Duration::from_millis;
        let waits = [7, 3, 5, 0, 3].map(|time| async move {
            wait(ms(time)).await;
            (ms(time), started.elapsed())
        });
        for (time, took) in futures::future::join_all(waits).await {
            assert!(took >= time, "{took:?} instead of {time:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn exact_on_a_clock_that_stands_still() {
        let started = tokio::time::Instant::now();
        for ms in [1, 10] {
            wait(Duration::from_millis(ms)).await;
        }
        assert_eq!(started.elapsed(), Duration::from_millis(11));
    }
}
