//! Work that may wait for a disk or take long: not on a thread that serves requests.

use tokio::task::{JoinError, spawn_blocking};

/// Runs `work` on a thread of its own and waits for it. It runs to its end also where nobody waits any more.
///
/// # Errors
/// It panicked, or the runtime is being shut down.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    #[cfg(any(test, feature = "testing"))]
    if let Some(turn) = turns::next() {
        let task = async move {
            turn.await;
            work()
        };
        return tokio::spawn(task).await;
    }
    spawn_blocking(work).await
}

#[cfg(any(test, feature = "testing"))]
pub(crate) mod turns {
    //! In a simulation such work is done on the runtime's only thread, when its turn has come: what runs beside it
    //! would race with it.

    use std::sync::Arc;

    use futures::future::BoxFuture;
    use parking_lot::Mutex;

    /// Comes back when the next work has its turn.
    pub type Turns = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

    static TURNS: Mutex<Option<Turns>> = Mutex::new(None);

    /// From now on work has turns, or threads again.
    pub fn set(turns: Option<Turns>) {
        *TURNS.lock() = turns;
    }

    pub(super) fn next() -> Option<BoxFuture<'static, ()>> {
        let turns = TURNS.lock().clone();
        turns.map(|turns| turns())
    }
}
