//! What time it is, and whether somebody is at work outside the asynchronous runtime.
//!
//! In the program: the machine's clock, and nothing. In a simulation ([`crate::simulation`]) time is
//! virtual and stands still as long as a thread of SQLite, a copy or a blocking call works: so what such a
//! thread did comes at a moment that does not depend on how fast it was.

use std::time::Instant;

/// The machine's clock, or the simulation's.
pub(crate) fn now() -> Instant {
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return now;
    }
    Instant::now()
}

/// Somebody works for the runtime on a thread of his own, until this is dropped. Begin it on the side that
/// hands the work over, and drop it after the result was handed back.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    #[cfg(test)]
    _at_work: Option<simulated::AtWork>,
}

impl Busy {
    /// Work begins.
    pub(crate) fn begin() -> Self {
        Self {
            #[cfg(test)]
            _at_work: simulated::begin(),
        }
    }

    /// Work ends.
    pub(crate) fn end(self) {}
}

#[cfg(test)]
pub(crate) mod simulated {
    //! The other half of a simulation's clock: tokio's is paused and moves by itself to the next timer when
    //! the runtime has nothing to do and no blocking call runs. So for whoever is at work elsewhere, one
    //! blocking call waits.

    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use parking_lot::{Condvar, Mutex};
    use tokio::runtime::Handle;

    static CURRENT: Mutex<Option<Arc<Rule>>> = Mutex::new(None);

    /// One simulation's.
    #[derive(Debug)]
    struct Rule {
        runtime: Handle,
        at_work: Mutex<usize>,
        nobody: Condvar,
    }

    /// A piece of work under way.
    #[derive(Debug)]
    pub(crate) struct AtWork(Arc<Rule>);

    /// Rules time in this process until dropped. The runtime is paused, of one thread, with one thread for
    /// blocking calls.
    #[derive(Debug)]
    pub(crate) struct Installed(());

    impl Installed {
        pub(crate) fn new(runtime: Handle) -> Self {
            let rule = Rule { runtime, at_work: Mutex::new(0), nobody: Condvar::new() };
            *CURRENT.lock() = Some(Arc::new(rule));
            Self(())
        }
    }

    impl Drop for Installed {
        fn drop(&mut self) {
            *CURRENT.lock() = None;
        }
    }

    /// Whether a simulation runs in this process.
    pub(crate) fn is_installed() -> bool {
        CURRENT.lock().is_some()
    }

    pub(super) fn now() -> Option<Instant> {
        let rule = CURRENT.lock().clone()?;
        let _entered = rule.runtime.enter();
        Some(tokio::time::Instant::now().into_std())
    }

    pub(super) fn begin() -> Option<AtWork> {
        let rule = CURRENT.lock().clone()?;
        let mut at_work = rule.at_work.lock();
        *at_work += 1;
        if *at_work == 1 {
            let waiting = Arc::clone(&rule);
            rule.runtime.spawn_blocking(move || {
                let mut at_work = waiting.at_work.lock();
                while *at_work > 0 {
                    waiting.nobody.wait(&mut at_work);
                }
            });
        }
        drop(at_work);
        Some(AtWork(rule))
    }

    impl Drop for AtWork {
        fn drop(&mut self) {
            let mut at_work = self.0.at_work.lock();
            *at_work -= 1;
            if *at_work == 0 {
                self.0.nobody.notify_all();
            }
        }
    }

    /// Waits for what began in this moment of virtual time, timers for instance: each time for one link of a
    /// chain of blocking calls and work on threads, of which none is longer in practice.
    pub(crate) async fn settle() {
        for _ in 0..3 {
            let _ = tokio::task::spawn_blocking(|| ()).await;
        }
    }

    /// Waits for a moment at which nobody is at work, neither on a thread of his own nor in a blocking call.
    pub(crate) async fn nobody_works() {
        loop {
            pass(Duration::from_millis(1)).await;
            settle().await;
            let rule = CURRENT.lock().clone();
            if rule.is_none_or(|rule| *rule.at_work.lock() == 0) {
                return;
            }
        }
    }

    /// Lets nothing but what is ready happen for `time`, and everything that follows from that.
    pub(crate) async fn pass(time: Duration) {
        tokio::time::sleep(time).await;
    }
}
