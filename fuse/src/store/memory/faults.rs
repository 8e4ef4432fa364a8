//! Scripted failures.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    error::{Error, ErrorKind, Result},
    store::{Operation, StorePath},
};

/// What goes wrong with a call.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The answer comes later.
    Delay(Duration),
    /// No answer until [`Injected::release`]; then the call goes on as if nothing had been.
    Hang,
    /// The call fails.
    Fail(ErrorKind),
    /// The call fails, and the failure is of this file alone.
    FailFile(ErrorKind),
    /// A read gives the right number of wrong bytes.
    Flip,
    /// Somebody replaces the file, just before the call looks at it.
    Replace(Bytes),
}

/// A fault and the calls it strikes: all, until narrowed.
#[derive(Debug, Clone)]
pub struct Injection {
    fault: Fault,
    operation: Option<Operation>,
    path: Option<StorePath>,
    times: Option<u64>,
}

impl Injection {
    /// `fault` in every call of every operation, for ever: an outage.
    pub fn new(fault: Fault) -> Self {
        Self { fault, operation: None, path: None, times: None }
    }

    /// Only in calls of `operation`.
    #[must_use]
    pub fn on(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Only in calls about `path`.
    #[must_use]
    pub fn at(mut self, path: &StorePath) -> Self {
        self.path = Some(path.clone());
        self
    }

    /// Only in the next `times` calls.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }
}

/// A fault at work. Dropping it changes nothing: it goes on as scripted.
#[derive(Debug, Clone)]
pub struct Injected {
    rule: Arc<Rule>,
}

#[derive(Debug)]
struct Rule {
    injection: Injection,
    hits: watch::Sender<u64>,
    released: watch::Sender<bool>,
    spent: AtomicBool,
}

impl Injected {
    /// Calls it struck so far.
    pub fn hits(&self) -> u64 {
        *self.rule.hits.borrow()
    }

    /// Waits until it has struck `hits` calls.
    pub async fn reached(&self, hits: u64) {
        let mut struck = self.rule.hits.subscribe();
        // The sender lives as long as `self`.
        let _ = struck.wait_for(|struck| *struck >= hits).await;
    }

    /// Ends it, and lets the calls go on that hang in it.
    pub fn release(&self) {
        self.rule.spent.store(true, SeqCst);
        self.rule.released.send_replace(true);
    }
}

/// The faults of one store, in the order they were scripted.
#[derive(Debug, Default)]
pub(super) struct Faults {
    rules: Mutex<Vec<Arc<Rule>>>,
}

/// What a fault leaves the store to do.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) flip: bool,
    pub(super) replace: Option<Bytes>,
}

impl Faults {
    pub(super) fn add(&self, injection: Injection) -> Injected {
        let rule = Arc::new(Rule {
            spent: AtomicBool::new(injection.times == Some(0)),
            injection,
            hits: watch::Sender::new(0),
            released: watch::Sender::new(false),
        });
        self.rules.lock().push(Arc::clone(&rule));
        Injected { rule }
    }

    /// Suffers the first fault that strikes this call.
    pub(super) async fn strike(&self, operation: Operation, path: &StorePath) -> Result<Verdict> {
        let Some(rule) = self.take(operation, path) else { return Ok(Verdict::default()) };
        match &rule.injection.fault {
            Fault::Delay(delay) => tokio::time::sleep(*delay).await,
            Fault::Hang => {
                // The sender lives as long as `rule`.
                let _ = rule.released.subscribe().wait_for(|released| *released).await;
            }
            Fault::Fail(kind) => {
                return Err(Error::new(*kind, format!("{path}: scripted failure of {}", operation.name())));
            }
            Fault::FailFile(kind) => {
                return Err(Error::new(*kind, format!("{path}: scripted failure of this file")).of_one_file());
            }
            Fault::Flip => return Ok(Verdict { flip: true, replace: None }),
            Fault::Replace(bytes) => return Ok(Verdict { flip: false, replace: Some(bytes.clone()) }),
        }
        Ok(Verdict::default())
    }

    fn take(&self, operation: Operation, path: &StorePath) -> Option<Arc<Rule>> {
        let mut rules = self.rules.lock();
        rules.retain(|rule| !rule.spent.load(SeqCst));
        let rule = rules.iter().find(|rule| {
            let on = &rule.injection;
            on.operation.is_none_or(|on| on == operation) && on.path.as_ref().is_none_or(|at| at == path)
        })?;
        // Under the lock, so that `times` calls are struck and not one more.
        rule.hits.send_modify(|hits| *hits += 1);
        if rule.injection.times.is_some_and(|times| *rule.hits.borrow() >= times) {
            rule.spent.store(true, SeqCst);
        }
        Some(Arc::clone(rule))
    }
}
