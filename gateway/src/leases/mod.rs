//! Which workers are alive. Pure: time is passed in, nothing is stored.
//!
//! A lease is a worker's right to be routed to. It holds for one TTL after each heartbeat. A worker
//! takes a fresh epoch at each start; whatever arrives from an older epoch of the same name is refused,
//! so a late message of a dead process changes nothing.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::api::types::LeaseRequest;

/// Most names remembered; a bound on memory, far above any cluster.
pub const NAMES_MAX: usize = 4096;
/// A name that is silent for this many TTLs is forgotten, with its epoch.
const FORGET_AFTER_TTLS: u32 = 40;

/// Why a lease message was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A newer process has the name.
    #[error(
        "worker name {name:?} is held by a process with the newer epoch {held}; yours is {sent}: give each worker a name of its own"
    )]
    Older {
        /// The worker.
        name: String,
        /// Epoch of the holder.
        held: u64,
        /// Epoch of the message.
        sent: u64,
    },
    /// That epoch gave its lease up: this is a late message.
    #[error("worker {name:?} gave up the lease of epoch {sent}: start again with a new epoch")]
    Released {
        /// The worker.
        name: String,
        /// Epoch of the message.
        sent: u64,
    },
    /// Too many names.
    #[error("{NAMES_MAX} worker names are known already")]
    Full,
}

/// One worker as its last heartbeat described it.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The last heartbeat.
    pub request: LeaseRequest,
    /// When it came.
    pub renewed: Instant,
    /// Set when the worker gave the lease up.
    pub released: bool,
}

/// All leases. One owner; not shared.
#[derive(Debug)]
pub struct Leases {
    ttl: Duration,
    started: Instant,
    leases: BTreeMap<String, Lease>,
}

impl Leases {
    /// None known, at the start of a gateway.
    pub fn new(ttl: Duration, now: Instant) -> Self {
        Self { ttl, started: now, leases: BTreeMap::new() }
    }

    /// How long a lease holds.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// A heartbeat: takes the lease if the name is free or the epoch newer, else renews it. `true` if it
    /// was taken, not renewed.
    pub fn renew(&mut self, name: &str, request: LeaseRequest, now: Instant) -> Result<bool, Refusal> {
        self.forget(now);
        let taken = match self.leases.get(name) {
            Some(held) if request.epoch < held.request.epoch => {
                return Err(Refusal::Older {
                    name: name.to_owned(),
                    held: held.request.epoch,
                    sent: request.epoch,
                });
            }
            Some(held) if request.epoch == held.request.epoch && held.released => {
                return Err(Refusal::Released { name: name.to_owned(), sent: request.epoch });
            }
            Some(held) => request.epoch > held.request.epoch || !self.holds(held, now),
            None if self.leases.len() >= NAMES_MAX => return Err(Refusal::Full),
            None => true,
        };
        self.leases.insert(name.to_owned(), Lease { request, renewed: now, released: false });
        Ok(taken)
    }

    /// Gives up the lease of `epoch`. Unknown names are fine: the message may come twice.
    pub fn release(&mut self, name: &str, epoch: u64, now: Instant) -> Result<(), Refusal> {
        match self.leases.get_mut(name) {
            Some(held) if epoch < held.request.epoch => {
                Err(Refusal::Older { name: name.to_owned(), held: held.request.epoch, sent: epoch })
            }
            Some(held) if epoch == held.request.epoch => {
                held.released = true;
                held.renewed = now;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether worker `name` may be routed to.
    pub fn is_live(&self, name: &str, now: Instant) -> bool {
        self.leases.get(name).is_some_and(|lease| self.holds(lease, now))
    }

    /// Whether `lease` may be routed to.
    pub fn holds(&self, lease: &Lease, now: Instant) -> bool {
        !lease.released && now < lease.renewed + self.ttl
    }

    /// When the lease of `name` ends, or ended; `None` if there is none or it was given up.
    pub fn end(&self, name: &str) -> Option<Instant> {
        self.leases.get(name).filter(|lease| !lease.released).map(|lease| lease.renewed + self.ttl)
    }

    /// Every remembered worker by name, dead ones too.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Lease)> {
        self.leases.iter().map(|(name, lease)| (name.as_str(), lease))
    }

    /// How long the gateway may still be ignorant of workers that live: until one TTL after its start
    /// each of them has sent a heartbeat. `None` from then on.
    pub fn warming(&self, now: Instant) -> Option<Duration> {
        let left = (self.started + self.ttl).saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    fn forget(&mut self, now: Instant) {
        let silent = self.ttl * FORGET_AFTER_TTLS;
        self.leases.retain(|_, lease| now.saturating_duration_since(lease.renewed) < silent);
    }
}

#[cfg(test)]
mod tests;
