//! What time it is, and whose turn it is among threads that work for the asynchronous runtime.
//!
//! In the program: the machine's clock, and everybody at once. In a simulation ([`crate::simulation`]) time is
//! virtual and stands still while such a thread has something to do, and only one of them or the runtime works
//! at a time, in an order that does not depend on how fast each is.

use std::time::Instant;

#[cfg(test)]
pub(crate) mod simulated;

/// The machine's clock, or the simulation's.
pub(crate) fn now() -> Instant {
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return now;
    }
    Instant::now()
}

/// A thread of our own that works for the runtime.
#[derive(Debug, Default)]
pub(crate) struct Thread {
    #[cfg(test)]
    one: simulated::Thread,
}

/// Something that a thread was given to do, until this is dropped. Begin it on the side that gives it, and drop it
/// after the result was handed back and before the thread's turn ends.
#[derive(Debug)]
pub(crate) struct Busy {
    #[cfg(test)]
    _given: Option<simulated::Given>,
}

/// It is this thread's turn, until this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    #[cfg(test)]
    _taken: Option<simulated::Taken>,
}

impl Thread {
    /// It is given something to do.
    pub(crate) fn busy(&self) -> Busy {
        Busy {
            #[cfg(test)]
            _given: self.one.give(),
        }
    }

    /// On the thread itself, before it takes what it was given: waits for its turn. It waits for nobody else while
    /// it has it.
    pub(crate) fn turn(&self) -> Turn {
        Turn {
            #[cfg(test)]
            _taken: self.one.take(),
        }
    }
}

impl Turn {
    /// It ends, and the next one of `thread` comes.
    pub(crate) fn next(&mut self, thread: &Thread) {
        #[cfg(test)]
        drop(self._taken.take());
        *self = thread.turn();
    }
}

impl Busy {
    /// It is done.
    pub(crate) fn end(self) {}
}
