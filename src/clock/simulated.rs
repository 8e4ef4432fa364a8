//! The simulation's side. Tokio's clock is paused, and moves by itself to the next timer when the runtime has
//! nothing to do and no blocking call runs: as long as a thread has something to do, one blocking call waits.
//!
//! The runtime works until it has nothing to do. Then the next in line has its turn, to its end, and then it is
//! the runtime again, before the next.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use parking_lot::{Condvar, Mutex};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

static CURRENT: Mutex<Option<Arc<Rule>>> = Mutex::new(None);
static THREADS: AtomicU64 = AtomicU64::new(0);

/// One simulation's.
#[derive(Debug)]
struct Rule {
    runtime: Handle,
    order: Mutex<Order>,
    /// Somebody else works now, or nothing is left to do.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Order {
    works: Works,
    line: VecDeque<Next>,
    /// What threads were given and have not done.
    given: HashMap<u64, usize>,
    /// Wait until nobody is in line.
    waiting: Vec<oneshot::Sender<()>>,
    over: bool,
}

/// Who works.
#[derive(Debug, Default, PartialEq, Eq)]
enum Works {
    #[default]
    Runtime,
    /// May begin.
    Called(u64),
    Thread(u64),
}

#[derive(Debug)]
enum Next {
    Thread(u64),
    /// A task of the runtime.
    Task(oneshot::Sender<()>),
}

/// See [`super::Thread`].
#[derive(Debug)]
pub(super) struct Thread(u64);

/// See [`super::Busy`].
#[derive(Debug)]
pub(super) struct Given(Arc<Rule>, u64);

/// See [`super::Turn`].
#[derive(Debug)]
pub(super) struct Taken(Arc<Rule>, u64);

/// A runtime that can be ruled.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .on_thread_park(|| {
            if let Some(rule) = current() {
                rule.runtime_rests();
            }
        })
        .on_thread_unpark(|| {
            if let Some(rule) = current() {
                rule.runtime_works();
            }
        })
        .build()
}

/// Rules time and turns in this process until dropped.
#[derive(Debug)]
pub(crate) struct Installed(Arc<Rule>);

impl Installed {
    /// `runtime`: of [`runtime`].
    pub(crate) fn new(runtime: Handle) -> Self {
        let rule = Rule { runtime, order: Mutex::default(), changed: Condvar::new() };
        let rule = Arc::new(rule);
        *CURRENT.lock() = Some(Arc::clone(&rule));
        Self(rule)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        *CURRENT.lock() = None;
        let mut order = self.0.order.lock();
        order.over = true;
        order.line.clear();
        order.waiting.clear();
        self.0.changed.notify_all();
    }
}

fn current() -> Option<Arc<Rule>> {
    CURRENT.lock().clone()
}

/// Whether a simulation runs in this process.
pub(crate) fn is_installed() -> bool {
    CURRENT.lock().is_some()
}

pub(super) fn now() -> Option<Instant> {
    let rule = current()?;
    let _entered = rule.runtime.enter();
    Some(tokio::time::Instant::now().into_std())
}

/// For a task of the runtime: comes back when it is its turn. It has it until it waits for something else.
pub(crate) async fn turn() {
    wait(|order, turn| order.line.push_back(Next::Task(turn))).await;
}

/// Waits for all that follows from what was begun in this moment of virtual time: nobody has anything to do.
pub(crate) async fn settle() {
    wait(|order, nothing| order.waiting.push(nothing)).await;
}

async fn wait(enter: impl FnOnce(&mut Order, oneshot::Sender<()>)) {
    let Some(rule) = current() else { return };
    let (send, come) = oneshot::channel();
    {
        let mut order = rule.order.lock();
        if order.over {
            return;
        }
        enter(&mut order, send);
    }
    let _ = come.await; // also when the simulation is over
}

impl Rule {
    /// The runtime has nothing to do: whoever is next works.
    fn runtime_rests(&self) {
        let mut order = self.order.lock();
        while let Some(next) = order.line.pop_front() {
            match next {
                Next::Thread(id) => {
                    order.works = Works::Called(id);
                    self.changed.notify_all();
                    return;
                }
                Next::Task(turn) => {
                    if turn.send(()).is_ok() {
                        return;
                    } // else nobody waits for it any more
                }
            }
        }
        for nothing in order.waiting.drain(..) {
            let _ = nothing.send(()); // as above
        }
    }

    fn runtime_works(&self) {
        let mut order = self.order.lock();
        while order.works != Works::Runtime && !order.over {
            self.changed.wait(&mut order);
        }
    }
}

impl Order {
    /// The thread is not to work, or not any more.
    fn ends(&mut self, id: u64) {
        self.works = Works::Runtime;
        if self.given.contains_key(&id) {
            self.line.push_back(Next::Thread(id));
        }
    }
}

impl Default for Thread {
    fn default() -> Self {
        Self(THREADS.fetch_add(1, Relaxed))
    }
}

impl Thread {
    pub(super) fn give(&self) -> Option<Given> {
        let rule = current()?;
        let mut order = rule.order.lock();
        if order.given.is_empty() {
            let waiting = Arc::clone(&rule);
            rule.runtime.spawn_blocking(move || {
                let mut order = waiting.order.lock();
                while !(order.given.is_empty() || order.over) {
                    waiting.changed.wait(&mut order);
                }
            });
        }
        let given = order.given.entry(self.0).or_default();
        *given += 1;
        if *given == 1 && order.works != Works::Thread(self.0) {
            order.line.push_back(Next::Thread(self.0));
        }
        drop(order);
        Some(Given(rule, self.0))
    }

    pub(super) fn take(&self) -> Option<Taken> {
        let rule = current()?;
        let mut order = rule.order.lock();
        while order.works != Works::Called(self.0) {
            if order.over {
                return None;
            }
            rule.changed.wait(&mut order);
        }
        order.works = Works::Thread(self.0);
        drop(order);
        Some(Taken(rule, self.0))
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        let Self(rule, id) = self;
        let mut order = rule.order.lock();
        let Some(given) = order.given.get_mut(id) else { return };
        *given -= 1;
        if *given > 0 {
            return;
        }
        order.given.remove(id);
        order.line.retain(|next| !matches!(next, Next::Thread(other) if other == id));
        if order.works == Works::Called(*id) {
            // It was taken back before the thread came.
            order.ends(*id);
            drop(rule.runtime.spawn(async {}));
        }
        rule.changed.notify_all();
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Self(rule, id) = self;
        let mut order = rule.order.lock();
        order.ends(*id);
        rule.changed.notify_all();
        drop(order);
        // It may sleep.
        drop(rule.runtime.spawn(async {}));
    }
}
