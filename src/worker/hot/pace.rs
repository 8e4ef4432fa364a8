//! How fast copies go: a common bandwidth, and threads that give way to all others.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A bandwidth that several share. Who waits longer than a moment has no credit saved up.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: Option<u64>,
    /// When what was admitted so far has had its time.
    free_at: Mutex<Option<Instant>>,
}

/// Unused time that may be made up for.
const CREDIT: Duration = Duration::from_millis(200);

impl Pace {
    /// `None`: no bound.
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, free_at: Mutex::default() }
    }

    /// Waits until `bytes` may go.
    pub(super) async fn wait(&self, bytes: usize) {
        let Some(rate) = self.bytes_per_second else { return };
        let takes = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let until = {
            let now = Instant::now();
            let mut free_at = self.free_at.lock();
            let begin = free_at.map_or(now, |at| at.max(now.checked_sub(CREDIT).unwrap_or(now)));
            *free_at = Some(begin + takes);
            begin
        };
        tokio::time::sleep_until(until).await;
    }
}

/// Lets this thread have the processor and the disk only when nobody else wants them. Best effort.
#[allow(unsafe_code)] // neither `nix` nor `rustix` has both calls
pub(in crate::worker) fn give_way() {
    #[cfg(test)]
    if crate::clock::simulated::is_installed() {
        return; // everybody waits for it there
    }
    const LOWEST: libc::c_int = 19;
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_CLASS_IDLE: libc::c_int = 3;
    const IOPRIO_CLASS_SHIFT: libc::c_int = 13;
    // SAFETY: numbers only. 0 stands for the calling thread in both calls.
    let refused = unsafe {
        let nice = libc::setpriority(libc::PRIO_PROCESS, 0, LOWEST);
        let idle = libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            0,
            IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT,
        );
        nice != 0 || idle != 0
    };
    if refused {
        tracing::debug!("a copy's thread could not lower its priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn together_they_go_no_faster_than_the_bound() {
        let pace = Pace::new(Some(1_000_000));
        let begun = Instant::now();
        futures::future::join_all((0..30).map(|_| async {
            for _ in 0..10 {
                pace.wait(10_000).await;
            }
        }))
        .await;
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(2_700) && took <= Duration::from_millis(3_000), "{took:?}");
        Pace::new(None).wait(usize::MAX).await;
    }
}
