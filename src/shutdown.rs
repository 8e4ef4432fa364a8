//! Stopping: the first SIGTERM, SIGINT or SIGHUP asks, the second one or a bound forces.

use std::time::Duration;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::{
    error::{Exit, Failure},
    panics,
};

/// Tells whether the process was asked to stop. Clones share the answer.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Listens for the signals. After the first one the process has `bound` to end by itself; then, or
    /// at a second signal, it ends at once with the signal's own exit code (128 and its number).
    pub fn listen(bound: Duration) -> Result<Self, Failure> {
        Self::listen_with(bound, || {})
    }

    /// [`Shutdown::listen`] with what must not be left undone even when the end is forced: short, and
    /// without waiting for anybody.
    pub fn listen_with(bound: Duration, at_last: impl FnOnce() + Send + 'static) -> Result<Self, Failure> {
        let failure = |error| Failure::new(Exit::Failed, format!("signals: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(failure)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failure)?;
        let mut hangup = match ignores_hangup() {
            true => None,
            false => Some(signal(SignalKind::hangup()).map_err(failure)?),
        };
        let (asked, shutdown) = watch::channel(false);
        tokio::spawn(async move {
            let code = tokio::select! {
                _ = terminate.recv() => 128 + 15,
                _ = interrupt.recv() => 128 + 2,
                () = next(&mut hangup) => 128 + 1,
            };
            tracing::info!("stopping; a second signal stops at once");
            let _ = asked.send(true);
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = next(&mut hangup) => {}
                () = tokio::time::sleep(bound) => tracing::warn!("did not stop within {bound:?}: ends now"),
            }
            at_last();
            panics::end_now(code);
        });
        Ok(Self(shutdown))
    }

    /// Resolves once the process was asked to stop.
    pub async fn requested(mut self) {
        // The sender never goes before it has sent: it ends with the process.
        let _ = self.0.wait_for(|asked| *asked).await;
    }
}

/// Whether whoever started us wants no end of a terminal to end us: `nohup` ignores the signal, and a
/// handler would undo that. The mask of `/proc` has SIGHUP, signal 1, as its lowest bit.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}
