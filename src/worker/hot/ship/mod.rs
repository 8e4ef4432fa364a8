//! Writes beyond one disk: what was committed under a write lock goes to the store every so often, and whoever
//! takes the lock over has it.
//!
//! `format` (a file) → `send` (one more file) and `replay` (a takeover) → this (who ships when).
//!
//! **A chain** is a head and the changes after it. Where the segment was fetched and nothing was promoted
//! since, the head holds only what differs from that generation; otherwise all pages. A promotion puts a file
//! into the store that is laid out otherwise: from then on a head of differences is worth nothing, and the
//! next one has all pages. A chain that has grown beyond its head is begun anew.
//!
//! **What a reader sees** are whole files: each is written under another name, synchronised, and renamed.
//! Names carry the fencing token: whatever a former holder still ships is under a token that nobody asks for
//! any more. A chain goes when all of it was promoted, or when a newer one is whole.
//!
//! **Never a state that was not committed**: a file is made from a read transaction of its own, begun on the
//! writer's thread after a commit that was durable.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use springhouse_fuse::store::StorePath;
use springhouse_gateway::api::{
    hot::Token,
    ship::{Ship, ShipStatus},
};
use tokio::sync::watch;

mod format;
mod replay;
mod send;
#[cfg(test)]
mod tests;

pub(super) use self::send::made_ready;
use super::{Hot, segment::Segment};
use crate::{
    clock,
    query::write::{PageSet, Unshipped},
};

/// Shortest pause between two files of a segment.
const EVERY_MIN: Duration = Duration::from_millis(50);
/// Pause after a failure: doubled each time, up to the second.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(15);
/// Longest that a worker that ends ships what is left.
const LAST_MAX: Duration = Duration::from_secs(5);

/// Shipping of one segment under one token.
#[derive(Debug)]
pub(super) struct Shipping {
    pub(super) ship: Ship,
    pub(super) token: Token,
    /// Token of the first of the locks whose shipped files are this one's to remove.
    from: Token,
    pub(super) unshipped: Arc<Unshipped>,
    /// Held by whoever ships.
    chain: tokio::sync::Mutex<Chain>,
    shown: Mutex<Shown>,
    /// All that was shipped may be in the generation in the store.
    collect: AtomicBool,
    stop: watch::Sender<bool>,
    /// Rounds that have ended, well or badly: what tests wait for.
    #[cfg(test)]
    rounds: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Shown {
    shipped_change: Option<u64>,
    error: Option<String>,
}

/// What a head is made of.
#[derive(Debug, Clone)]
pub(super) enum Basis {
    /// All pages.
    All,
    /// The generation in the store, from which these pages differ, as of the last file.
    Generation(String, PageSet),
}

/// What is in the store.
#[derive(Debug)]
struct Chain {
    basis: Basis,
    /// What other processes and holders left was looked for.
    looked: bool,
    /// Sequence of the next file.
    next: u64,
    last: Option<Last>,
    /// To be removed once a newer head is whole.
    old: Vec<StorePath>,
}

/// The end of a chain that can be gone on with.
#[derive(Debug, Clone)]
struct Last {
    first: u64,
    sequence: u64,
    change: u64,
    checksum: String,
    head_bytes: u64,
    /// Of the files after the head.
    bytes: u64,
}

impl Shipping {
    fn new(ship: Ship, token: Token, basis: Basis, unshipped: Unshipped) -> Self {
        let chain = Chain { basis, looked: false, next: 1, last: None, old: Vec::new() };
        Self {
            ship,
            token,
            from: token,
            unshipped: Arc::new(unshipped),
            chain: tokio::sync::Mutex::new(chain),
            shown: Mutex::default(),
            collect: AtomicBool::new(false),
            stop: watch::Sender::new(false),
            #[cfg(test)]
            rounds: watch::Sender::new(0),
        }
    }

    /// Of a copy that is at `change` and differs from `basis` as that says.
    pub(super) fn of(ship: Ship, token: Token, basis: Basis, change: u64) -> Self {
        let unshipped = match &basis {
            Basis::All => Unshipped::unknown(),
            Basis::Generation(..) => Unshipped::from(PageSet::default(), change),
        };
        Self::new(ship, token, basis, unshipped)
    }

    /// With what was shipped under tokens from `from` on, which was taken up.
    pub(super) fn after(self, from: Token) -> Self {
        Self { from, ..self }
    }

    /// Last transaction that was shipped.
    pub(super) fn shipped_change(&self) -> Option<u64> {
        self.shown.lock().shipped_change
    }

    /// How long the oldest transaction is on this disk alone.
    pub(super) fn age(&self) -> Option<Duration> {
        self.unshipped.since().map(|since| clock::now().saturating_duration_since(since))
    }

    /// For people. `promoted`: last transaction in the generation in the store.
    pub(super) fn status(&self, promoted: u64) -> ShipStatus {
        let shown = self.shown.lock();
        ShipStatus {
            ship: self.ship,
            shipped_change: shown.shipped_change.unwrap_or(0).max(promoted),
            unshipped_ms: self.age().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            error: shown.error.clone(),
        }
    }

    fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// The holder of the lock uploads its segment for promotion: soon another file is in the place of the
    /// generation that heads of differences need.
    pub(super) async fn generation_goes(&self, unpromoted: bool) {
        let mut chain = self.chain.lock().await;
        if let Basis::Generation(..) = chain.basis {
            chain.basis = Basis::All;
            // It still ends a chain; the next file begins another.
            self.shown.lock().shipped_change = None;
            self.unshipped.begin_anew(unpromoted);
        }
    }

    /// A promotion has put all up to `change` into the store.
    pub(super) fn promoted(&self, change: u64) {
        self.unshipped.all_safe(change);
        self.collect.store(true, Relaxed);
        self.unshipped.wake();
    }

    /// When something is due that waits since then, with so many pages; `None`: when there is more.
    fn due(&self, since: Instant, pages: Option<u64>) -> Option<Instant> {
        let many = self.ship.pages > 0 && pages.is_none_or(|pages| pages >= self.ship.pages);
        let every = Duration::from_millis(self.ship.every_ms);
        match (many, self.ship.every_ms) {
            (true, _) => Some(since + EVERY_MIN),
            (false, 0) => None,
            (false, _) => Some(since + every.max(EVERY_MIN)),
        }
    }
}

impl Hot {
    /// Begins to ship `segment`, which is writable; `None`: ends it.
    pub(super) async fn begin_shipping(self: &Arc<Self>, segment: &Arc<Segment>, shipping: Option<Shipping>) {
        self.end_shipping(segment).await;
        let Some(shipping) = shipping.map(Arc::new) else { return };
        if segment.state.lock().is_unpromoted() {
            shipping.unshipped.mark();
        }
        segment.state.lock().shipping = Some(Arc::clone(&shipping));
        // A writer that is open tells nobody of its commits; the next one does.
        self.close_writer(segment).await;
        self.keep_shipping(segment, shipping);
    }

    /// Starts the task of a segment that a restart found to be shipped.
    pub(super) fn keep_shipping(self: &Arc<Self>, segment: &Arc<Segment>, shipping: Arc<Shipping>) {
        let (hot, segment) = (Arc::clone(self), Arc::clone(segment));
        tokio::spawn(async move { hot.ship_until_stopped(&segment, &shipping).await });
    }

    /// Ends shipping of `segment`; when it returns no read transaction is left of it. Not under the lock that
    /// opens writers.
    pub(super) async fn end_shipping(&self, segment: &Segment) {
        let Some(shipping) = segment.state.lock().shipping.take() else { return };
        shipping.stop.send_replace(true);
        drop(shipping.chain.lock().await);
    }

    async fn ship_until_stopped(self: &Arc<Self>, segment: &Arc<Segment>, shipping: &Arc<Shipping>) {
        let mut stopped = shipping.stop.subscribe();
        let stop = async move { drop(stopped.wait_for(|stop| *stop).await) };
        let work = async {
            let mut failures = 0_u32;
            loop {
                self.until_due(segment, shipping).await;
                let outcome = self.ship(segment, shipping).await;
                let told = shipping.shown.lock().error.is_some();
                let pause = match outcome {
                    Ok(()) => {
                        failures = 0;
                        if told {
                            tracing::info!(segment = %segment.id, "shipping goes on");
                            shipping.shown.lock().error = None;
                        }
                        None
                    }
                    Err(error) => {
                        self.metrics.ship_failures.inc();
                        if !told {
                            tracing::warn!(segment = %segment.id, %error, "what was written cannot be shipped; trying again");
                        }
                        shipping.shown.lock().error = Some(error.message);
                        let pause = RETRY.saturating_mul(1 << failures.min(8)).min(RETRY_MAX);
                        failures += 1;
                        Some(pause)
                    }
                };
                #[cfg(test)]
                shipping.rounds.send_modify(|rounds| *rounds += 1);
                if let Some(pause) = pause {
                    tokio::time::sleep(pause).await;
                }
            }
        };
        tokio::select! {
            biased;
            () = stop => {}
            () = work => {}
        }
    }

    /// Waits until there is something to do.
    async fn until_due(&self, segment: &Segment, shipping: &Shipping) {
        loop {
            if shipping.collect.load(Relaxed) && !segment.state.lock().is_unpromoted() {
                return;
            }
            let Some((since, pages)) = shipping.unshipped.waiting() else {
                shipping.unshipped.changed().await;
                continue;
            };
            let Some(due) = shipping.due(since, pages) else {
                shipping.unshipped.changed().await;
                continue;
            };
            if due <= clock::now() {
                return;
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(due.into()) => {}
                () = shipping.unshipped.changed(), if shipping.ship.pages > 0 => {}
            }
        }
    }

    /// Ships what is left of all segments, as far as that goes in a few seconds.
    pub(super) async fn ship_the_rest(self: &Arc<Self>, segments: &[Arc<Segment>]) {
        let shipping = |segment: &Arc<Segment>| {
            let shipping = segment.state.lock().shipping.clone()?;
            shipping.unshipped.waiting().map(|_| (Arc::clone(segment), shipping))
        };
        let rest = segments.iter().filter_map(shipping).map(|(segment, shipping)| async move {
            if let Err(error) = self.ship(&segment, &shipping).await {
                tracing::warn!(segment = %segment.id, %error, "its last writes are on this disk alone");
            }
        });
        let all = futures::future::join_all(rest);
        if tokio::time::timeout(LAST_MAX, all).await.is_err() {
            tracing::warn!("not all writes could be shipped in time; they are on this disk alone");
        }
    }
}
