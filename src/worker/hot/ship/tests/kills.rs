//! Holders that write, ship and promote, and takeovers, each killed before some call of the store, with its
//! disk: so in every state that the store can be left in. (Between two calls of it nothing changes that others
//! see, so the named points there are no other states.) What the dead one had said to be safe is there, as a
//! prefix of what it had acknowledged, and each idempotency key is known.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use springhouse_fuse::store::{
    Store,
    memory::{Fault, Injected, Injection, MemoryStore},
};
use tokio::runtime::Builder;

use super::workers::{Bench, PATH, fresh, generation, path, provision, takeover};

#[derive(Debug, Clone)]
enum Act {
    /// A transaction of so many rows.
    Write(u8),
    /// One that was written, sent again.
    Repeat(prop::sample::Index),
    Ship,
    Promote,
}

/// One holder's.
#[derive(Debug, Clone)]
struct Life {
    /// Takeovers before it that die after so many calls of the store.
    failed: Vec<u64>,
    acts: Vec<Act>,
    /// It dies after so many calls, or when it has nothing to do any more.
    calls: u64,
}

fn life() -> impl Strategy<Value = Life> {
    let act = prop_oneof![
        6 => (1_u8..6).prop_map(Act::Write),
        1 => any::<prop::sample::Index>().prop_map(Act::Repeat),
        5 => Just(Act::Ship),
        1 => Just(Act::Promote),
    ];
    let failed = prop::collection::vec(0_u64..12, 0..2);
    let parts = (failed, prop::collection::vec(act, 0..14), 0_u64..70);
    parts.prop_map(|(failed, acts, calls)| Life { failed, acts, calls })
}

/// The store answers so many calls more, and then nobody.
struct Death {
    rules: [Injected; 2],
}

impl Death {
    fn after(store: &MemoryStore, calls: u64) -> Self {
        let passing = store.inject(Injection::new(Fault::Delay(Duration::ZERO)).times(calls));
        Self { rules: [passing, store.inject(Injection::new(Fault::Hang))] }
    }

    /// What comes of `work`; `None`: death came before. What was under way is dropped.
    async fn before<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.rules[1].reached(1) => None,
            done = work => Some(done),
        }
    }

    fn release(self) {
        self.rules.iter().for_each(Injected::release);
    }
}

#[derive(Debug)]
struct Written {
    rows: Vec<i64>,
    key: String,
}

/// What gateway and clients know.
#[derive(Debug, Default)]
struct Known {
    token: u64,
    /// First token of which shipped files count.
    from: u64,
    generation: Option<String>,
    /// Transactions that were acknowledged, in order.
    written: Vec<Written>,
    /// How many of them are in the generation.
    promoted: usize,
    /// How many of them the last holder had said to be in the store.
    safe: usize,
    /// How many of them were there when the holder began to count.
    offset: usize,
    keys: u64,
    attempts: u64,
}

impl Known {
    /// The number of transaction `index`, as the holder counts.
    fn number(&self, index: usize) -> u64 {
        (index + 1 - self.offset) as u64
    }

    fn provision(&self, old: u64) -> Json {
        let mut body = match old {
            0 => provision(self.generation.clone()),
            old => {
                let promoted = self.promoted.saturating_sub(self.offset) as u64;
                takeover(self.generation.clone(), old, promoted)
            }
        };
        if old > 0 {
            body["recover"]["from"] = json!(self.from);
        }
        // Only when it is told to.
        body["ship"]["every_ms"] = json!(3_600_000);
        body
    }

    /// Somebody takes over, after others that failed; the new holder is looked at.
    async fn take_over(&mut self, store: &MemoryStore, failed: &[u64]) -> Result<Bench, TestCaseError> {
        for calls in failed {
            let old = self.token;
            self.token += 1;
            let bench = fresh(store).await;
            let death = Death::after(store, *calls);
            let body = self.provision(old);
            let made = death.before(bench.call("POST", "/provision", self.token, body)).await;
            prop_assert!(made.as_ref().is_none_or(|(good, _)| *good), "{made:?}");
            bench.worker.kill();
            death.release();
            if self.from == 0 {
                self.from = self.token;
            }
        }
        let old = self.token;
        self.token += 1;
        let bench = fresh(store).await;
        let made = bench.good("/provision", self.token, self.provision(old)).await;
        self.look(&bench, &made).await?;
        Ok(bench)
    }

    async fn look(&mut self, bench: &Bench, made: &Json) -> Result<(), TestCaseError> {
        let rows = bench.values(self.token).await;
        let mut there = (0, 0);
        while let Some(next) = self.written.get(there.0).filter(|_| there.1 < rows.len()) {
            prop_assert!(
                rows[there.1..].starts_with(&next.rows),
                "{rows:?} is no beginning of {:?}",
                self.written
            );
            there = (there.0 + 1, there.1 + next.rows.len());
        }
        prop_assert_eq!(there.1, rows.len(), "rows that nobody was told of");
        prop_assert!(there.0 >= self.safe, "{} of {} that were safe: {made}", there.0, self.safe);
        self.written.truncate(there.0);
        let change = usize::try_from(made["change"].as_u64().unwrap_or(0)).expect("small");
        self.offset = there.0 - change;
        let recovered = &made["recovered"];
        let goes_on = recovered.is_object() && (recovered["files"] != 0 || recovered["unused"].is_null());
        if !goes_on {
            self.from = self.token;
        }
        for index in self.promoted..there.0 {
            self.repeat(bench, index).await?;
        }
        prop_assert_eq!(bench.values(self.token).await, rows, "nothing is applied twice");
        Ok(())
    }

    async fn send(&self, bench: &Bench, written: &Written) -> Json {
        let rows: Vec<String> = written.rows.iter().map(|row| format!("({row})")).collect();
        bench
            .execute(self.token, &format!("INSERT INTO t VALUES {}", rows.join(",")), Some(&written.key))
            .await
    }

    async fn write(&mut self, bench: &Bench, rows: u8) -> Result<(), TestCaseError> {
        self.keys += 1;
        let first = i64::try_from(self.keys).expect("small") * 10;
        let written =
            Written { rows: (0..i64::from(rows)).map(|n| first + n).collect(), key: format!("k{first}") };
        let answer = self.send(bench, &written).await;
        self.written.push(written);
        prop_assert_eq!(answer["change"].as_u64(), Some(self.number(self.written.len() - 1)), "{}", answer);
        Ok(())
    }

    async fn repeat(&self, bench: &Bench, index: usize) -> Result<(), TestCaseError> {
        let answer = self.send(bench, &self.written[index]).await;
        let expected = (json!(true), json!(self.number(index)));
        prop_assert_eq!(
            (answer["repeated"].clone(), answer["change"].clone()),
            expected,
            "{:?}",
            self.written
        );
        Ok(())
    }

    /// As a gateway does it, up to the moment of death.
    async fn promote(&mut self, store: &MemoryStore, bench: &Bench, death: &Death) -> Option<()> {
        self.attempts += 1;
        let temporary = format!("{PATH}._COPYING_.{}.{}", self.token, self.attempts);
        let upload = bench.good("/upload", self.token, json!({"temporary": temporary}));
        let uploaded = death.before(upload).await?;
        death.before(store.rename(&path(&temporary), &path(PATH), true)).await?.expect("renamed");
        let change = uploaded["change"].as_u64().expect("a number");
        self.promoted = self.offset + usize::try_from(change).expect("small");
        self.generation = None; // asked for when the store answers again
        let now = death.before(generation(store)).await?;
        self.generation = now;
        let told = json!({"generation": self.generation, "change": change});
        death.before(bench.good("/promoted", self.token, told)).await.map(drop)
    }

    /// One holder's life; ends with its death.
    async fn live(&mut self, store: &MemoryStore, life: &Life) -> Result<(), TestCaseError> {
        let bench = self.take_over(store, &life.failed).await?;
        let known_keys = self.promoted;
        let death = Death::after(store, life.calls);
        for act in &life.acts {
            let lives = match act {
                Act::Write(rows) => Some(self.write(&bench, *rows).await?),
                Act::Repeat(which) if self.written.len() > known_keys => {
                    let index = known_keys + which.index(self.written.len() - known_keys);
                    Some(self.repeat(&bench, index).await?)
                }
                Act::Repeat(_) => Some(()),
                Act::Ship => death.before(bench.ship()).await,
                Act::Promote => self.promote(store, &bench, &death).await,
            };
            if lives.is_none() {
                break;
            }
        }
        let said = bench.status().await["ship"]["shipped_change"].as_u64().unwrap_or(0);
        self.safe = (self.offset + usize::try_from(said).expect("small")).max(self.promoted);
        bench.worker.kill();
        death.release();
        self.generation = generation(store).await;
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn what_was_said_to_be_safe_is_taken_over(lives in prop::collection::vec(life(), 1..5)) {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let told: Result<(), TestCaseError> = runtime.block_on(async {
            let (store, mut known) = (MemoryStore::new(), Known::default());
            for life in &lives {
                known.live(&store, life).await?;
            }
            known.take_over(&store, &[]).await?.worker.kill();
            Ok(())
        });
        told?;
    }
}
