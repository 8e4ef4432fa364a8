//! Stopping: the first SIGTERM or SIGINT asks, the second one or a bound forces.

use std::time::Duration;

use tokio::{
    signal::unix::{SignalKind, signal},
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
        let (asked, shutdown) = watch::channel(false);
        tokio::spawn(async move {
            let code = tokio::select! {
                _ = terminate.recv() => 128 + 15,
                _ = interrupt.recv() => 128 + 2,
            };
            tracing::info!("stopping; a second signal stops at once");
            let _ = asked.send(true);
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
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
