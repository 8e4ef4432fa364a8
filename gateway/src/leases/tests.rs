use proptest::prelude::*;

use super::*;
use crate::api::types::Tier;

const TTL: Duration = Duration::from_secs(15);

fn request(epoch: u64) -> LeaseRequest {
    LeaseRequest {
        epoch,
        url: format!("http://10.0.0.1:{epoch}"),
        tier: Tier::Cold,
        store: "file:///s".into(),
        weight: 100,
        access: "fuse".into(),
        version: "0".into(),
        queries_running: 0,
        hot: None,
    }
}

#[test]
fn a_lease_holds_for_one_ttl_after_the_heartbeat() {
    let t0 = Instant::now();
    let mut leases = Leases::new(TTL, t0);
    assert_eq!(leases.renew("w", request(1), t0), Ok(true));
    assert!(leases.is_live("w", t0 + TTL - Duration::from_nanos(1)));
    assert!(!leases.is_live("w", t0 + TTL));
    assert_eq!(leases.renew("w", request(1), t0 + TTL), Ok(true), "an expired lease is taken again");
    assert_eq!(leases.renew("w", request(1), t0 + TTL), Ok(false));
}

#[test]
fn warming_lasts_one_ttl() {
    let t0 = Instant::now();
    let leases = Leases::new(TTL, t0);
    assert_eq!(leases.warming(t0), Some(TTL));
    assert_eq!(leases.warming(t0 + TTL), None);
}

#[test]
fn names_are_bounded_and_forgotten() {
    let t0 = Instant::now();
    let mut leases = Leases::new(TTL, t0);
    for n in 0..NAMES_MAX {
        assert!(leases.renew(&format!("w{n}"), request(1), t0).is_ok());
    }
    assert_eq!(leases.renew("one more", request(1), t0), Err(Refusal::Full));
    let later = t0 + TTL * FORGET_AFTER_TTLS;
    assert_eq!(leases.renew("one more", request(1), later), Ok(true));
    assert_eq!(leases.iter().count(), 1);
}

/// What a network may do: a worker process (one epoch of one name) sends heartbeats, may crash or give
/// up; each message arrives once or twice, now or later, in any order.
#[derive(Debug, Clone)]
enum Step {
    Heartbeat { name: u8, delay_s: u8, twice: bool },
    Restart { name: u8 },
    Release { name: u8, delay_s: u8, twice: bool },
    Wait { s: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let delay = prop_oneof![4 => Just(0u8), 1 => 1u8..60];
    prop::collection::vec(
        prop_oneof![
            6 => (0u8..3, delay.clone(), any::<bool>())
                .prop_map(|(name, delay_s, twice)| Step::Heartbeat { name, delay_s, twice }),
            1 => (0u8..3).prop_map(|name| Step::Restart { name }),
            1 => (0u8..3, delay, any::<bool>())
                .prop_map(|(name, delay_s, twice)| Step::Release { name, delay_s, twice }),
            // At most 480 s in all, less than the silence after which names are forgotten.
            4 => (1u8..5).prop_map(|s| Step::Wait { s }),
        ],
        1..120,
    )
}

#[derive(Debug, Clone, Copy)]
enum Message {
    Renew,
    Release,
}

/// The reference: for each name the newest epoch that was heard, when, and whether it was released.
#[derive(Debug, Default, Clone, Copy)]
struct Model {
    epoch: u64,
    heard_s: u64,
    released: bool,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn simulation_of_crashes_duplicates_and_late_messages(steps in steps()) {
        let t0 = Instant::now();
        let mut leases = Leases::new(TTL, t0);
        let mut now_s = 0u64;
        let mut epochs = [1u64; 3];
        let mut gave_up = [false; 3];
        let mut network: Vec<(u64, u8, u64, Message)> = Vec::new();
        let mut model = [Model::default(); 3];

        for step in steps {
            match step {
                Step::Heartbeat { name, delay_s, twice } if !gave_up[name as usize] => {
                    let sent = (now_s + u64::from(delay_s), name, epochs[name as usize], Message::Renew);
                    network.push(sent);
                    if twice { network.push((sent.0 + 3, sent.1, sent.2, sent.3)); }
                }
                Step::Heartbeat { .. } => {}
                Step::Restart { name } => {
                    epochs[name as usize] += 1;
                    gave_up[name as usize] = false;
                }
                Step::Release { name, delay_s, twice } => {
                    gave_up[name as usize] = true;
                    let sent = (now_s + u64::from(delay_s), name, epochs[name as usize], Message::Release);
                    network.push(sent);
                    if twice { network.push((sent.0 + 7, sent.1, sent.2, sent.3)); }
                }
                Step::Wait { s } => now_s += u64::from(s),
            }
            let (due, later): (Vec<_>, Vec<_>) = network.into_iter().partition(|m| m.0 <= now_s);
            network = later;
            for (_, name, epoch, message) in due {
                let now = t0 + Duration::from_secs(now_s);
                let text = format!("w{name}");
                let known = &mut model[name as usize];
                match message {
                    Message::Renew => {
                        let answer = leases.renew(&text, request(epoch), now);
                        let late = epoch < known.epoch || (epoch == known.epoch && known.released);
                        prop_assert_eq!(answer.is_err(), late);
                        if !late { *known = Model { epoch, heard_s: now_s, released: false }; }
                    }
                    Message::Release => {
                        let answer = leases.release(&text, epoch, now);
                        // An unknown name (epoch 0) or a newer epoch than heard of: nothing to give up.
                        prop_assert_eq!(answer.is_err(), epoch < known.epoch);
                        if epoch == known.epoch { known.released = true; }
                    }
                }
            }
            let now = t0 + Duration::from_secs(now_s);
            for (name, known) in model.iter().enumerate() {
                let live = known.epoch > 0 && !known.released && now_s < known.heard_s + TTL.as_secs();
                prop_assert_eq!(leases.is_live(&format!("w{name}"), now), live);
                // Routed to is always the newest process that was heard.
                if let Some((_, lease)) = leases.iter().find(|(n, _)| *n == format!("w{name}")) {
                    prop_assert_eq!(lease.request.epoch, known.epoch);
                }
            }
        }
    }
}
