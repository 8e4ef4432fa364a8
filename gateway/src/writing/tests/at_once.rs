//! Requests of all kinds at the same time, in an order that a seed decides, with restarts in between.
//!
//! What must hold: a write is acknowledged only under the newest lock; tokens rise; the file in the store is
//! always whole; and in the end the segment can be written and promoted.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use futures::future::join_all;

use super::*;

const SEEDS: u64 = 60;
const ROUNDS: u32 = 12;

/// xorshift64*: the same numbers on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below
    }
}

/// One request; what it says must fit what was acknowledged before it began.
async fn request(home: &Home, what: u64, newest: &AtomicU64, seed: u64) {
    let path = |what: &str| format!("/v1/segments/1001/{what}");
    let before = newest.load(SeqCst);
    match what {
        0..=2 => {
            let (status, answer) = home.execute("1001").await;
            if status.is_success() {
                let token = answer["token"].as_u64().expect("a token");
                assert!(token >= before, "seed {seed}: written under {token} after {before} was granted");
            }
        }
        3 | 4 => {
            let body = json!({"takeover": what == 4});
            let (status, answer) = home.send("POST", &path("provision"), body).await;
            if status.is_success() {
                let token = answer["token"].as_u64().expect("a token");
                assert!(token >= before, "seed {seed}: {token} after {before}");
                newest.fetch_max(token, SeqCst);
            } else {
                assert!(matches!(status.as_u16(), 409 | 503), "seed {seed}: {answer}");
            }
        }
        5 | 6 => {
            let (status, answer) = home.send("POST", &path("promote"), json!({"release": what == 6})).await;
            assert!(matches!(status.as_u16(), 200 | 409 | 503), "seed {seed}: {answer}");
        }
        7 => {
            let (status, answer) = home.send("POST", &path("release"), json!({"force": true})).await;
            assert!(matches!(status.as_u16(), 204 | 409 | 503), "seed {seed}: {answer}");
        }
        8 => drop(home.send("POST", "/v1/discovery?full=true", json!({})).await),
        _ => {
            let (status, answer) = home.send("DELETE", "/v1/segments/1001", json!({})).await;
            assert!(matches!(status.as_u16(), 204 | 404 | 409 | 503), "seed {seed}: {answer}");
        }
    }
}

#[tokio::test]
async fn whatever_comes_at_once() {
    for seed in 1..=SEEDS {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut home = Home::new(3).await;
        let newest = AtomicU64::new(0);
        for _ in 0..ROUNDS {
            for worker in &home.workers {
                worker.slowness.store(dice.roll(20), SeqCst);
            }
            // Deletions are rare: they end everything else.
            let whats: Vec<u64> = (0..1 + dice.roll(5)).map(|_| dice.roll(37) / 4).collect();
            let dies = dice.roll(4) == 0;
            if dies {
                home.crash().arm(u32::try_from(dice.roll(12)).expect("small"), dice.roll(2) == 0, false);
            }
            // A request that fails because the process died may say anything but yes.
            if dies {
                let path = ["provision", "promote", "release"][usize::try_from(dice.roll(3)).expect("small")];
                let takeover = if path == "provision" { json!({"takeover": true}) } else { json!({}) };
                let answer = home.send("POST", &format!("/v1/segments/1001/{path}"), takeover).await;
                if let Some(token) = answer.1["token"].as_u64() {
                    newest.fetch_max(token, SeqCst);
                }
                home.restart().await;
            }
            join_all(whats.iter().map(|what| request(&home, *what, &newest, seed))).await;
            let there = home.store.file("/1/1001.sqlite");
            assert!(there.is_none_or(|file| file.len == 10 || file.len >= 100), "seed {seed}");
        }
        // Whatever happened: it can be written and promoted now.
        let lock = home.provision("1001").await;
        assert!(lock["token"].as_u64() >= Some(newest.load(SeqCst)), "seed {seed}");
        assert_eq!(home.execute("1001").await.0, StatusCode::OK, "seed {seed}");
        let (status, answer) = home.promote("1001").await;
        assert_eq!(status, StatusCode::OK, "seed {seed}: {answer}");
        let there = home.store.file("/1/1001.sqlite").expect("promoted");
        assert_eq!(answer["generation"], there.generation.to_string(), "seed {seed}");
        assert!(home.temporaries().is_empty(), "seed {seed}: {:?}", home.temporaries());
        let mut tokens: Vec<_> = home.workers.iter().flat_map(|w| w.granted.lock().clone()).collect();
        let granted = tokens.len();
        tokens.sort();
        tokens.dedup();
        assert_eq!(tokens.len(), granted, "seed {seed}: a token was given twice");
    }
}
