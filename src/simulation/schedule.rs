//! One schedule: what clients ask for and what goes wrong, step by step, as a seed decides.

use std::{path::Path, sync::Arc, time::Duration};

use springhouse_gateway::{rules::Ship, testing::give_turns};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    CLUSTER, FOREIGN_ROWS, PANICS,
    clients::{Ask, Clients, ROWS_SQL, SCHEMA_SQL},
    cluster::{Cluster, Habits},
    dice::Dice,
    ending,
    model::Rows,
    net::{Net, Place, Weather},
};
use crate::{clock::simulated, failpoint};

/// How a schedule went.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The first promise that was broken, and in which step.
    pub(super) broken: Option<(String, u64)>,
    pub(super) steps: u64,
    /// Number of events and their hash.
    pub(super) trace: (u64, u64),
    pub(super) last: Vec<String>,
}

/// What a schedule is made of.
struct Shape {
    workers: usize,
    segments: usize,
    steps: u64,
    habits: Habits,
    /// Whether anybody takes what others wrote.
    takes: bool,
    /// Whether somebody else puts files there, or segments are deleted.
    disturbs: bool,
    /// Disks of workers are lost. Then their clocks are right: a worker that forgot its epoch takes the next one
    /// from its clock, and one that runs behind is a stranger until the gateway has forgotten the old one.
    loses: bool,
}

const IDS: [&str; 3] = ["1001", "abc", "crawl-2026"];

/// Runs the schedule of `seed`, or its first `steps_max` steps.
pub(super) fn run(seed: u64, steps_max: u64, scratch: &Path) -> Outcome {
    let dir = tempfile::tempdir_in(scratch).expect("a directory for a simulation");
    let runtime = simulated::runtime().expect("a runtime");
    PANICS.lock().clear();
    let outcome = runtime.block_on(async {
        let installed = simulated::Installed::new(tokio::runtime::Handle::current());
        give_turns(Some(Arc::new(|| Box::pin(simulated::turn()))));
        let outcome = Schedule::new(seed, dir.path()).run(steps_max).await;
        *CLUSTER.lock() = None;
        give_turns(None);
        drop(installed);
        outcome
    });
    runtime.shutdown_timeout(Duration::from_secs(10));
    outcome
}

struct Schedule {
    dice: Dice,
    shape: Shape,
    net: Arc<Net>,
    cluster: Arc<Cluster>,
    clients: Arc<Clients>,
    asked: JoinSet<()>,
    /// Processes on their way up.
    starts: JoinSet<()>,
    gateway_is_down: bool,
    is_down: Vec<bool>,
    foreign: i64,
    dir: std::path::PathBuf,
}

impl Schedule {
    fn new(seed: u64, dir: &Path) -> Self {
        let mut dice = Dice::new(seed, 2);
        let shape = Shape {
            workers: 1 + dice.pick(&[1, 4, 4, 1]),
            segments: 1 + dice.pick(&[3, 3, 1]),
            steps: 25 + dice.roll(60),
            habits: Habits {
                renames_anew: dice.happens(500),
                ship: match dice.pick(&[3, 1, 1, 1]) {
                    0 => Ship::default(),
                    1 => Ship { every: Some(Duration::from_millis(400)), pages: None },
                    2 => Ship { every: Some(Duration::from_secs(5)), pages: None },
                    _ => Ship { every: Some(Duration::from_secs(20)), pages: Some(2) },
                },
                heats: dice.happens(400),
            },
            takes: dice.happens(600),
            disturbs: dice.happens(300),
            loses: dice.happens(400),
        };
        let net = Net::new(seed);
        let cluster = Cluster::new(Arc::clone(&net), shape.workers, shape.habits, dir);
        let clients = Clients::new(Arc::clone(&cluster), &IDS[..shape.segments]);
        *CLUSTER.lock() = Some(Arc::clone(&cluster));
        failpoint::observe(super::passes);
        let is_down = vec![false; shape.workers];
        Self {
            dice,
            shape,
            net,
            cluster,
            clients,
            asked: JoinSet::new(),
            starts: JoinSet::new(),
            gateway_is_down: false,
            is_down,
            foreign: FOREIGN_ROWS,
            dir: dir.to_owned(),
        }
    }

    async fn run(mut self, steps_max: u64) -> Outcome {
        self.begin().await;
        let steps = self.shape.steps.min(steps_max);
        let mut broken_in = None;
        for step in 0..steps {
            let usual = [40, 1_500][self.dice.pick(&[1, 2])];
            let pause = self.dice.delay_ms(usual, 15_000);
            sleep(Duration::from_millis(pause)).await;
            self.net.turn(&format!("step {step}")).await;
            self.look().await;
            if self.clients.broken().is_some() {
                broken_in = Some(step);
                break;
            }
            self.step().await;
        }
        if broken_in.is_none() {
            self.heal().await;
            ending::check(&self.clients).await;
        }
        let broken = self.clients.broken().map(|why| (why, broken_in.map_or(steps, |step| step)));
        let panic = PANICS.lock().first().map(|why| (format!("a panic: {why}"), steps));
        let trace = self.net.trace.sum();
        let last = self.net.trace.last();
        self.net.stop();
        Outcome { broken: panic.or(broken), steps, trace, last }
    }

    /// Everything comes up in good weather.
    async fn begin(&mut self) {
        self.net.heal();
        for at in 0..self.shape.segments {
            if self.dice.happens(400) {
                self.put_foreign(at);
            }
        }
        take_events(&self.clients);
        self.clients.segments.lock().iter_mut().for_each(super::model::Segment::begins);
        self.cluster.start_gateway().await;
        for n in 0..self.shape.workers {
            self.cluster.start_worker(n).await;
        }
        sleep(Duration::from_secs(1 + self.dice.roll(30))).await;
        let schema = serde_json::json!({"sql": SCHEMA_SQL});
        let registered = self.clients.send("PUT", "/v1/schemas/s", &[], &schema).await;
        assert!(registered.is_some_and(|(status, ..)| status.is_success()), "a schema is registered");
        self.weather();
    }

    fn weather(&mut self) {
        let dice = &mut self.dice;
        let level = [0, 1, 4, 15][dice.pick(&[2, 3, 3, 2])];
        let mut each = |most: u64| if level == 0 { 0 } else { dice.roll(level * most + 1) };
        let (breaks, loses, after, late, twice) = (each(4), each(4), each(3), each(3), each(5));
        let slow = dice.happens(300);
        let (usual_ms, most_ms) = if slow { (600, 9_000) } else { (20, 2_000) };
        self.net.set_weather(Weather { breaks, loses, after, late, twice, usual_ms, most_ms });
    }

    /// Invariants that can be looked at from outside, and deaths that were arranged.
    async fn look(&mut self) {
        take_events(&self.clients);
        if !self.gateway_is_down && self.cluster.gateway_is_dead() {
            self.gateway_dies();
        }
        for n in 0..self.shape.workers {
            if !self.is_down[n] && self.cluster.worker_is_dead(n) {
                self.worker_dies(n).await;
            }
        }
        ending::one_writer_for_a_token(&self.clients, None).await;
    }

    fn gateway_dies(&mut self) {
        self.net.trace.note("gateway is killed");
        self.gateway_is_down = true;
        self.cluster.kill_gateway();
        self.clients.segments.lock().iter_mut().for_each(super::model::Segment::gateway_died);
        let (cluster, pause) = (Arc::clone(&self.cluster), self.dice.delay_ms(5_000, 60_000));
        self.starts.spawn(async move {
            sleep(Duration::from_millis(pause)).await;
            cluster.start_gateway().await;
        });
    }

    async fn worker_dies(&mut self, n: usize) {
        self.net.trace.note(format!("w{n} is killed"));
        self.is_down[n] = true;
        self.cluster.kill_worker(n).await;
        self.worker_returns(n);
    }

    /// It dies with its disk, and returns with an empty one.
    async fn worker_loses_disk(&mut self, n: usize) {
        self.net.trace.note(format!("w{n} and its disk are lost"));
        let last = ending::one_writer_for_a_token(&self.clients, Some(n)).await;
        self.is_down[n] = true;
        self.cluster.kill_worker(n).await;
        self.cluster.lose_disk(n);
        ending::disk_lost(&self.clients, n, &last);
        self.worker_returns(n);
    }

    fn worker_returns(&mut self, n: usize) {
        let (cluster, pause) = (Arc::clone(&self.cluster), self.dice.delay_ms(10_000, 120_000));
        self.starts.spawn(async move {
            sleep(Duration::from_millis(pause)).await;
            cluster.start_worker(n).await;
        });
    }

    fn put_foreign(&mut self, at: usize) {
        let path = self.dir.join("foreign.sqlite");
        let _ = std::fs::remove_file(&path);
        let first = self.foreign;
        self.foreign += 10;
        let rows = (0..1 + self.dice.roll(9)).map(|n| format!("({}, 'f')", first + n as i64));
        let rows: Vec<String> = rows.collect();
        let mut sql = format!("{SCHEMA_SQL}; INSERT INTO t VALUES {}", rows.join(","));
        if self.dice.happens(600) {
            // Pages that are of no use: there is something to be gained by laying it out anew.
            sql.push_str("; CREATE TABLE u(b); INSERT INTO u VALUES (zeroblob(20000)); DROP TABLE u");
        }
        crate::query::make_test_database(&path, &sql);
        let bytes = std::fs::read(&path).expect("a database");
        let now_ms = (self.cluster.now_ms)();
        let path = store_path(IDS[at]);
        self.net.trace.note(format!("foreign file at {path}"));
        self.cluster.tree.lock().put(&path, bytes, now_ms);
        take_events(&self.clients);
    }

    async fn step(&mut self) {
        while self.starts.try_join_next().is_some() {}
        self.gateway_is_down &= self.cluster.gateway_is_dead();
        for n in 0..self.shape.workers {
            self.is_down[n] &= !self.cluster.is_up(n);
        }
        for _ in 0..1 + self.dice.pick(&[6, 3, 1, 1]) {
            // One after the other: what begins at the same time goes on as threads race.
            self.net.turn("next").await;
            if self.dice.happens(720) { self.ask() } else { self.fault().await }
        }
    }

    fn ask(&mut self) {
        let (takes, disturbs) = (u64::from(self.shape.takes), u64::from(self.shape.disturbs));
        let heats = u64::from(self.shape.habits.heats);
        let dice = &mut self.dice;
        let weights = [
            12 - 9 * heats,
            6 * takes,
            34,
            8,
            12,
            4,
            3,
            3 * takes,
            16 + 20 * heats,
            3,
            1,
            2,
            2 * disturbs,
            3,
            2,
            1,
        ];
        let ask = match dice.pick(&weights) {
            0 => Ask::Provision { takeover: false },
            1 => Ask::Provision { takeover: true },
            2 => Ask::Write { with_token: dice.happens(700), bytes: [10, 300, 3_000][dice.pick(&[4, 4, 1])] },
            3 => Ask::Again { nth: dice.roll(1000) },
            4 => Ask::Promote { release: false },
            5 => Ask::Promote { release: true },
            6 => Ask::Release { force: false },
            7 => Ask::Release { force: true },
            8 => Ask::Query,
            9 => Ask::Raise { copies: 1 + dice.roll(3) as u32 },
            10 => Ask::Lower,
            11 => {
                Ask::Pin { worker: dice.roll(self.shape.workers as u64) as usize, pinned: dice.happens(600) }
            }
            12 => Ask::Delete,
            13 => Ask::Optimize,
            14 => Ask::Show,
            _ => Ask::Discover,
        };
        let at = dice.roll(self.shape.segments as u64) as usize;
        self.asked.spawn(Arc::clone(&self.clients).ask(at, ask));
    }

    async fn fault(&mut self) {
        let n = self.dice.roll(self.shape.workers as u64) as usize;
        let worker = Place::Worker(n);
        let disturbs = u64::from(self.shape.disturbs);
        let loses = u64::from(self.shape.loses);
        match self.dice.pick(&[2, 4, 3, 6, 1, 5, 5, 5, 1 - loses, 2, disturbs, 3 * loses]) {
            0 if !self.gateway_is_down => self.gateway_dies(),
            1 => self.cluster.gateway_dies_in(self.dice.roll(40), self.dice.happens(500)),
            2 if self.cluster.is_up(n) && !self.is_down[n] => self.worker_dies(n).await,
            3 => self.cluster.worker_dies_in(n, self.dice.roll(30)),
            4 if self.cluster.is_up(n) && !self.is_down[n] => {
                self.net.trace.note(format!("w{n} is stopped"));
                self.is_down[n] = true;
                let cluster = Arc::clone(&self.cluster);
                let pause = self.dice.delay_ms(5_000, 30_000);
                self.starts.spawn(async move {
                    cluster.stop_worker(n).await;
                    sleep(Duration::from_millis(pause)).await;
                    cluster.start_worker(n).await;
                });
            }
            5 => {
                let pairs =
                    [(Place::Gateway, worker), (worker, Place::Store), (Place::Gateway, Place::Store)];
                let (a, b) = pairs[self.dice.pick(&[3, 2, 1])];
                let (net, time) = (Arc::clone(&self.net), self.dice.delay_ms(10_000, 90_000));
                self.net.trace.note(format!("{a} and {b} are cut off"));
                net.cut(a, b, true);
                self.starts.spawn(async move {
                    sleep(Duration::from_millis(time)).await;
                    net.cut(a, b, false);
                });
            }
            6 | 7 => self.weather(),
            8 => {
                let ms = i64::try_from(self.dice.roll(7_200_000)).unwrap_or(0) - 3_600_000;
                self.net.trace.note(format!("the clock of w{n} is {ms} ms wrong"));
                self.cluster.set_skew(n, ms);
            }
            9 => {
                let method = if self.dice.happens(500) { "POST" } else { "DELETE" };
                let clients = Arc::clone(&self.clients);
                self.asked.spawn(async move {
                    let path = format!("/v1/workers/w{n}/drain");
                    let _ = clients.send(method, &path, &[], &serde_json::json!({})).await;
                });
            }
            10 => {
                let at = self.dice.roll(self.shape.segments as u64) as usize;
                self.put_foreign(at);
            }
            11 if self.cluster.is_up(n) && !self.is_down[n] && !self.cluster.worker_is_dead(n) => {
                self.worker_loses_disk(n).await;
            }
            _ => {}
        }
    }

    /// Everybody is up and reaches everybody, and what was asked for is answered.
    async fn heal(&mut self) {
        self.look().await;
        self.net.trace.note("healed");
        self.net.heal();
        while self.starts.join_next().await.is_some() {}
        self.look().await; // a death that was arranged while it started
        while self.starts.join_next().await.is_some() {}
        self.net.heal();
        self.cluster.nobody_dies();
        let begun = Instant::now();
        let ended = async { while self.asked.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(1_800), ended).await.is_err() {
            self.clients.check(Err("a request was not answered half an hour after all was well".into()));
        }
        self.net.trace.note(format!("all requests ended after {} s", begun.elapsed().as_secs()));
        self.look().await; // whoever died of one of those requests
        while self.starts.join_next().await.is_some() {}
        for n in 0..self.shape.workers {
            let path = format!("/v1/workers/w{n}/drain");
            let undone = ending::succeed(&self.clients, "DELETE", &path, &serde_json::json!({}), &[]).await;
            self.clients.check(undone.map(drop));
        }
        self.look().await;
        // Leases are renewed, messages that were late are there, and passes have seen the store.
        sleep(Duration::from_secs(180)).await;
        take_events(&self.clients);
    }
}

/// Where a segment lies.
pub(super) fn store_path(id: &str) -> String {
    format!("/{}/{id}.sqlite", &id[..id.len().saturating_sub(3)]).replace("//", "/")
}

/// Judges what happened in the store since the last time.
pub(super) fn take_events(clients: &Clients) {
    let events = std::mem::take(&mut clients.cluster.tree.lock().events);
    for event in events {
        let mut segments = clients.segments.lock();
        let Some(segment) = segments.iter_mut().find(|segment| store_path(&segment.id) == event.path) else {
            continue;
        };
        let rows = event.now.as_ref().and_then(|file| contents(clients.cluster.scratch(), &file.bytes));
        let verdict = segment.stored(&event, rows);
        drop(segments);
        clients.check(verdict);
    }
}

/// The rows of a whole database that stands by itself; `None`: it is none.
fn contents(dir: &Path, bytes: &[u8]) -> Option<Rows> {
    if bytes.get(18..20) != Some(&[1, 1]) {
        return None;
    }
    let path = dir.join("looked-at.sqlite");
    std::fs::write(&path, bytes).ok()?;
    crate::query::test_rows(&path, ROWS_SQL).map(|rows| rows.into_iter().collect())
}
