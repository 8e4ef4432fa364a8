//! A process that dies at its n-th call to the outside: for tests.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};

use parking_lot::Mutex;

/// Counts the calls that change something or ask the store. At the one it is armed for, the call fails,
/// with or without having had its effect; unless it fails only `once`, so does every later one, as if the
/// process had died there.
#[derive(Debug)]
pub struct Crash {
    left: AtomicI64,
    after: AtomicBool,
    once: AtomicBool,
    /// Calls since it was armed last.
    pub(crate) calls: Mutex<u32>,
}

/// What becomes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It works.
    Fine,
    /// It fails and does nothing.
    Before,
    /// It does what it should, and fails.
    After,
}

impl Step {
    pub(crate) fn is_before(self) -> bool {
        self == Self::Before
    }

    pub(crate) fn is_after(self) -> bool {
        self == Self::After
    }
}

impl Default for Crash {
    fn default() -> Self {
        Self {
            left: AtomicI64::new(i64::MAX),
            after: AtomicBool::new(false),
            once: AtomicBool::new(false),
            calls: Mutex::new(0),
        }
    }
}

impl Crash {
    /// The `n`-th call from now (from 0) fails; `after`: with its effect.
    pub fn arm(&self, n: u32, after: bool, once: bool) {
        self.after.store(after, SeqCst);
        self.once.store(once, SeqCst);
        *self.calls.lock() = 0;
        self.left.store(i64::from(n), SeqCst);
    }

    /// Nothing fails any more.
    pub fn disarm(&self) {
        self.left.store(i64::MAX, SeqCst);
    }

    /// Whether the call it was armed for has come.
    pub fn happened(&self) -> bool {
        self.left.load(SeqCst) < 0
    }

    pub(crate) fn step(&self) -> Step {
        *self.calls.lock() += 1;
        match self.left.fetch_sub(1, SeqCst) {
            left if left > 0 => Step::Fine,
            0 if self.after.load(SeqCst) => Step::After,
            0 => Step::Before,
            _ if self.once.load(SeqCst) => Step::Fine,
            _ => Step::Before,
        }
    }
}
