//! Everything that happens between processes, one thing at a time, in an order that the seed decides.
//!
//! Each message and each call of the store waits here. When nothing else can happen any more, virtual time
//! moves on, and the scheduler draws for what came meanwhile what becomes of it and when; then it lets one
//! go, waits until all that follows has happened, and so on. Messages of one moment are drawn for in order
//! of their texts, never of their coming: threads race, texts do not.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{dice::Dice, trace::Trace};

/// Where processes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Gateway,
    Worker(usize),
    Store,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway => f.write_str("g"),
            Self::Worker(n) => write!(f, "w{n}"),
            Self::Store => f.write_str("s"),
        }
    }
}

/// One life of a process, from its start to its death. What a dead one asks is never answered, and what it
/// answers nobody hears.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) place: Place,
    dead: watch::Sender<bool>,
    /// Dies at its n-th message from now.
    left: AtomicI64,
}

impl Process {
    pub(super) fn new(place: Place) -> Arc<Self> {
        Arc::new(Self { place, dead: watch::Sender::new(false), left: AtomicI64::new(i64::MAX) })
    }

    pub(super) fn die(&self) {
        self.dead.send_replace(true);
    }

    pub(super) fn is_dead(&self) -> bool {
        *self.dead.borrow()
    }

    /// Resolves at its death.
    pub(super) async fn death(&self) {
        // The sender lives as long as `self`.
        let _ = self.dead.subscribe().wait_for(|dead| *dead).await;
    }

    pub(super) fn dies_in(&self, messages: u64) {
        self.left.store(i64::try_from(messages).unwrap_or(i64::MAX), SeqCst);
    }

    /// It sends something: comes back if it lives to do that.
    pub(super) async fn speaks(&self) {
        if self.left.fetch_sub(1, SeqCst) == 0 {
            self.die();
        }
        self.lives().await;
    }

    /// Comes back if it lives.
    pub(super) async fn lives(&self) {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }
}

/// What may happen to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leg {
    Request,
    Answer,
    /// A call of the store with its answer.
    Call,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Pass,
    /// The sender is told that it did not get there.
    Break,
    /// Nobody is told anything.
    Lose,
    /// It is carried out, and its answer is lost.
    After,
    /// The sender gives up, and it is carried out so much later, in ms.
    Late(u64),
    /// It comes again so much later, in ms.
    Twice(u64),
}

/// How likely faults are, per mille of messages, and how long messages take, in ms.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weather {
    pub(super) breaks: u64,
    pub(super) loses: u64,
    pub(super) after: u64,
    pub(super) late: u64,
    pub(super) twice: u64,
    pub(super) usual_ms: u64,
    pub(super) most_ms: u64,
}

struct Waiting {
    came: Instant,
    from: Place,
    to: Place,
    leg: Leg,
    go: oneshot::Sender<Fate>,
}

type Key = (String, u64);

struct Inner {
    dice: Dice,
    weather: Weather,
    cut: BTreeSet<(Place, Place)>,
    /// Not drawn for yet.
    came: BTreeMap<Key, Waiting>,
    /// By when they go.
    drawn: BTreeMap<(Instant, Key), (Waiting, Fate)>,
}

/// The network and its scheduler.
pub(super) struct Net {
    inner: Mutex<Inner>,
    count: AtomicU64,
    more: Notify,
    pub(super) trace: Trace,
    stopped: AtomicBool,
}

impl Net {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        let inner = Inner {
            dice: Dice::new(seed, 1),
            weather: Weather::default(),
            cut: BTreeSet::new(),
            came: BTreeMap::new(),
            drawn: BTreeMap::new(),
        };
        let net = Arc::new(Self {
            inner: Mutex::new(inner),
            count: AtomicU64::new(0),
            more: Notify::new(),
            trace: Trace::new(),
            stopped: AtomicBool::new(false),
        });
        tokio::spawn(Arc::clone(&net).schedule());
        net
    }

    pub(super) fn set_weather(&self, weather: Weather) {
        self.inner.lock().weather = weather;
    }

    /// Whether nothing passes between two places.
    pub(super) fn cut(&self, a: Place, b: Place, is_cut: bool) {
        let pair = (a.min(b), a.max(b));
        let mut inner = self.inner.lock();
        if is_cut {
            inner.cut.insert(pair);
        } else {
            inner.cut.remove(&pair);
        }
    }

    pub(super) fn is_cut(&self, a: Place, b: Place) -> bool {
        self.inner.lock().cut.contains(&(a.min(b), a.max(b)))
    }

    /// Good weather, and everybody reaches everybody.
    pub(super) fn heal(&self) {
        let mut inner = self.inner.lock();
        inner.cut.clear();
        inner.weather = Weather { usual_ms: 5, most_ms: 50, ..Weather::default() };
    }

    /// Waits until it is this message's turn.
    pub(super) async fn pass(&self, from: Place, to: Place, leg: Leg, text: &str) -> Fate {
        let (go, fate) = oneshot::channel();
        let key = (format!("{from}>{to} {text}"), self.count.fetch_add(1, SeqCst));
        let waiting = Waiting { came: Instant::now(), from, to, leg, go };
        self.inner.lock().came.insert(key, waiting);
        self.more.notify_one();
        match fate.await {
            Ok(fate) => fate,
            Err(_) => std::future::pending().await, // the schedule is over
        }
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, SeqCst);
    }

    async fn schedule(self: Arc<Self>) {
        while !self.stopped.load(SeqCst) {
            let now = Instant::now();
            let (next, waits) = {
                let mut inner = self.inner.lock();
                inner.draw(now);
                let due = inner.drawn.first_key_value().map(|((due, _), _)| *due);
                match due {
                    Some(due) if due <= now => (inner.drawn.pop_first(), Some(now)),
                    due => (None, due.or_else(|| (!inner.came.is_empty()).then_some(now))),
                }
            };
            if let Some(((_, (text, _)), (waiting, fate))) = next {
                match fate {
                    Fate::Pass => self.trace.note(text),
                    fate => self.trace.note(format!("{text} {fate:?}")),
                }
                let _ = waiting.go.send(fate); // whoever sent it may be gone
            }
            let tick = now + Duration::from_millis(1);
            match waits {
                // All that follows happens before time moves.
                Some(at) if at <= tick => sleep_until(tick).await,
                Some(at) => tokio::select! {
                    biased;
                    () = sleep_until(at) => {}
                    () = self.more.notified() => sleep(Duration::from_millis(1)).await,
                },
                None => {
                    self.more.notified().await;
                    sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }
}

impl Inner {
    /// Draws for what came before this moment: all of it is here.
    fn draw(&mut self, now: Instant) {
        let keys: Vec<Key> =
            self.came.iter().filter(|(_, waiting)| waiting.came < now).map(|(key, _)| key.clone()).collect();
        for key in keys {
            let Some(waiting) = self.came.remove(&key) else { continue };
            let (fate, delay) = self.draw_one(&waiting);
            self.drawn.insert((now + Duration::from_millis(delay), key), (waiting, fate));
        }
    }

    fn draw_one(&mut self, waiting: &Waiting) -> (Fate, u64) {
        let (dice, weather) = (&mut self.dice, &self.weather);
        let delay = dice.delay_ms(weather.usual_ms, weather.most_ms.max(weather.usual_ms));
        let (a, b) = (waiting.from, waiting.to);
        if self.cut.contains(&(a.min(b), a.max(b))) {
            return (if dice.happens(250) { Fate::Break } else { Fate::Lose }, delay);
        }
        let (after, late, twice) = match waiting.leg {
            Leg::Request => (0, weather.late, weather.twice),
            Leg::Answer => (0, 0, 0),
            Leg::Call => (weather.after, weather.late, 0),
        };
        let kinds = [weather.breaks, weather.loses, after, late, twice];
        let rest = 1000_u64.saturating_sub(kinds.iter().sum());
        let fate = match dice.pick(&[kinds[0], kinds[1], kinds[2], kinds[3], kinds[4], rest]) {
            0 => Fate::Break,
            1 => Fate::Lose,
            2 => Fate::After,
            3 => Fate::Late(dice.delay_ms(20_000, 120_000)),
            4 => Fate::Twice(dice.delay_ms(5_000, 60_000)),
            _ => Fate::Pass,
        };
        (fate, delay)
    }
}
