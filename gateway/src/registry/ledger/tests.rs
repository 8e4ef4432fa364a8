use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    rows::{LedgerKey, name_of},
    *,
};
use crate::registry::{
    Meta, RegistryError,
    memory::MemoryRegistry,
    sled::SledRegistry,
    state::{Amendment, State},
};

fn meta() -> Meta {
    Meta::new("0".repeat(32))
}

fn id(n: u8) -> SegmentId {
    SegmentId::parse(&format!("s{n}")).expect("an id")
}

fn lock(token: Token, worker: u8) -> Lock {
    Lock {
        base_change: 0,
        ship: None,
        ship_from: 0,
        worker: format!("w{worker}"),
        token,
        since_ms: -1,
        schema: "default".into(),
        directory: "/é".into(),
        base: Some(Generation([worker; 16])),
        ready: worker.is_multiple_of(2),
        untold: (worker == 3).then_some((Generation([9; 16]), 7)),
    }
}

fn intent(token: Token) -> Intent {
    let uploaded = Uploaded { size: token, mtime_ms: 5, checksum: "c".into(), change: 3 };
    Intent {
        token,
        temporary: "/a.sqlite._COPYING_.1".into(),
        path: "/a.sqlite".into(),
        expected: None,
        uploaded: token.is_multiple_of(2).then_some(uploaded),
    }
}

fn tombstone(token: Token) -> Tombstone {
    Tombstone {
        token,
        directory: "/".into(),
        since_ms: 1,
        done_ms: token.is_multiple_of(2).then_some(2),
        generation: Some(Generation([1; 16])),
    }
}

#[derive(Debug, Clone)]
enum Op {
    Lock(u8, Option<u8>),
    Intent(u8, bool),
    Tombstone(u8, bool),
    Raise(u8, Option<u32>),
    Pin(u8, BTreeSet<u8>),
    Schema(u8),
    Drain(u8, bool),
    Checksum(u8, bool),
    /// The disk is full: the amendment fails.
    Fails(u8),
    Crash,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let n = 0u8..5;
    let op = prop_oneof![
        4 => (n.clone(), prop::option::of(0u8..4)).prop_map(|(n, w)| Op::Lock(n, w)),
        2 => (n.clone(), any::<bool>()).prop_map(|(n, on)| Op::Intent(n, on)),
        2 => (n.clone(), any::<bool>()).prop_map(|(n, on)| Op::Tombstone(n, on)),
        1 => (n.clone(), prop::option::of(1u32..4)).prop_map(|(n, c)| Op::Raise(n, c)),
        1 => (n.clone(), prop::collection::btree_set(0u8..3, 0..3)).prop_map(|(n, w)| Op::Pin(n, w)),
        1 => n.clone().prop_map(Op::Schema),
        1 => (n.clone(), any::<bool>()).prop_map(|(n, on)| Op::Drain(n, on)),
        1 => (n.clone(), any::<bool>()).prop_map(|(n, on)| Op::Checksum(n, on)),
        2 => n.prop_map(Op::Fails),
        2 => Just(Op::Crash),
    ];
    prop::collection::vec(op, 1..40)
}

/// What the ledger should say.
#[derive(Debug, Default)]
struct Model {
    locks: BTreeMap<SegmentId, Lock>,
    intents: BTreeMap<SegmentId, Intent>,
    tombstones: BTreeMap<SegmentId, Tombstone>,
    raised: BTreeMap<SegmentId, u32>,
    pins: BTreeMap<SegmentId, BTreeSet<String>>,
    schemas: BTreeMap<SegmentId, u32>,
    draining: BTreeSet<String>,
    checksums: BTreeMap<SegmentId, Checksum>,
    tokens: BTreeSet<Token>,
}

fn put<T>(map: &mut BTreeMap<SegmentId, T>, id: SegmentId, value: Option<T>) {
    match value {
        Some(value) => drop(map.insert(id, value)),
        None => drop(map.remove(&id)),
    }
}

fn amend(state: &State, decide: impl FnOnce(Token) -> Vec<Entry>) -> Result<Token, RegistryError> {
    state.amend(|_, next| {
        let token = next.expect("tokens are left");
        Ok(Amendment::ledger(decide(token), token))
    })
}

fn run(state: &State, registry: &MemoryRegistry, model: &mut Model, op: &Op) {
    let write = |entry: Entry| amend(state, |_| vec![entry]).expect("memory takes it");
    match op {
        Op::Lock(n, Some(worker)) => {
            let token = amend(state, |token| {
                vec![Entry::Token(token), Entry::Lock(id(*n), Some(lock(token, *worker)))]
            });
            let token = token.expect("memory takes it");
            assert!(model.tokens.last().is_none_or(|last| *last < token), "{token} in {:?}", model.tokens);
            model.tokens.insert(token);
            model.locks.insert(id(*n), lock(token, *worker));
        }
        Op::Lock(n, None) => {
            write(Entry::Lock(id(*n), None));
            model.locks.remove(&id(*n));
        }
        Op::Intent(n, on) => {
            let value = on.then(|| intent(u64::from(*n)));
            write(Entry::Intent(id(*n), value.clone()));
            put(&mut model.intents, id(*n), value);
        }
        Op::Tombstone(n, on) => {
            let value = on.then(|| tombstone(u64::from(*n)));
            write(Entry::Tombstone(id(*n), value.clone()));
            put(&mut model.tombstones, id(*n), value);
        }
        Op::Raise(n, copies) => {
            write(Entry::Raise(id(*n), copies.map(|copies| Raise::by_hand(copies, 1))));
            put(&mut model.raised, id(*n), *copies);
        }
        Op::Pin(n, workers) => {
            let workers: BTreeSet<String> = workers.iter().map(|w| format!("w{w}")).collect();
            write(Entry::Pins(id(*n), workers.clone()));
            put(&mut model.pins, id(*n), Some(workers).filter(|workers| !workers.is_empty()));
        }
        Op::Schema(n) => {
            let versions = model.schemas.entry(id(*n)).or_default();
            *versions += 1;
            let name = id(*n).to_string();
            write(Entry::Schema(SchemaInfo { name, version: *versions, created_ms: 0, sql: "x".into() }));
        }
        Op::Drain(n, on) => {
            write(Entry::Drain(format!("w{n}"), *on));
            if *on {
                model.draining.insert(format!("w{n}"))
            } else {
                model.draining.remove(&format!("w{n}"))
            };
        }
        Op::Checksum(n, on) => {
            let value = on.then(|| Checksum { generation: Generation([*n; 16]), checksum: "d".into() });
            write(Entry::Checksum(id(*n), value.clone()));
            put(&mut model.checksums, id(*n), value);
        }
        Op::Fails(n) => {
            use std::sync::atomic::Ordering::SeqCst;
            registry.full.store(true, SeqCst);
            let mut burnt = 0;
            let failed = amend(state, |token| {
                burnt = token;
                vec![Entry::Token(token), Entry::Lock(id(*n), Some(lock(token, 1)))]
            });
            assert!(failed.is_err());
            registry.full.store(false, SeqCst);
        }
        Op::Crash => {}
    }
}

fn check(state: &State, model: &Model) {
    let ledger = state.ledger();
    assert!(ledger.locks().eq(model.locks.iter()));
    assert!(ledger.intents().eq(model.intents.iter()));
    let tombstones: BTreeMap<_, _> = ledger.tombstones().map(|(id, t)| (id.clone(), t.clone())).collect();
    assert_eq!(tombstones, model.tombstones);
    for n in 0..5 {
        let id = id(n);
        assert_eq!(ledger.raise(&id).map(|raise| raise.copies), model.raised.get(&id).copied());
        assert_eq!(ledger.pins(&id), model.pins.get(&id));
        let wished = model.raised.contains_key(&id) || model.pins.contains_key(&id);
        assert_eq!(ledger.is_wished(id.as_str()), wished);
        let versions = model.schemas.get(&id).copied().unwrap_or(0);
        let seen: Vec<u32> = ledger.schema(&id).unwrap_or_default().iter().map(|s| s.version).collect();
        assert_eq!(seen, (1..=versions).collect::<Vec<_>>());
        let worker = format!("w{n}");
        assert_eq!(ledger.is_draining(&worker), model.draining.contains(&worker));
        let locks = model.locks.values().filter(|lock| lock.worker == worker).count();
        assert_eq!(ledger.lock_count(&worker), locks as u64);
        assert_eq!(state.checksum(&id), Ok(model.checksums.get(&id).cloned()));
        let generation = Generation([1; 16]);
        assert_eq!(ledger.buries(id.as_str(), generation), model.tombstones.contains_key(&id));
        let deleting = model.tombstones.get(&id).is_some_and(|t| t.done_ms.is_none());
        assert_eq!(ledger.buries(id.as_str(), Generation([2; 16])), deleting);
        assert_eq!(ledger.is_deleting(&id), deleting);
    }
    assert_eq!(ledger.damage_count(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_ledger_is_its_model_and_survives_crashes(ops in ops()) {
        let registry = MemoryRegistry::default();
        let mut state = State::open(Box::new(registry.clone()), meta).expect("memory opens");
        let mut model = Model::default();
        for op in &ops {
            run(&state, &registry, &mut model, op);
            if matches!(op, Op::Crash) {
                state = State::open(Box::new(registry.clone()), meta).expect("memory opens");
            }
            check(&state, &model);
        }
        let again = State::open(Box::new(registry), meta).expect("memory opens");
        check(&again, &model);
    }

    #[test]
    fn keys_come_back(text in "[A-Za-z0-9_-][A-Za-z0-9._-]{0,30}", version: u32) {
        let id = SegmentId::parse(&text).expect("an id");
        for key in [
            LedgerKey::Lock(id.clone()), LedgerKey::Intent(id.clone()), LedgerKey::Tombstone(id.clone()),
            LedgerKey::Raise(id.clone()), LedgerKey::Pins(id.clone()), LedgerKey::Schema(id.clone(), version),
            LedgerKey::Drain(text), LedgerKey::Token, LedgerKey::Checksum(id),
        ] {
            let bytes = key.encode();
            prop_assert!(bytes[0] != b'/');
            prop_assert_eq!(LedgerKey::decode(&bytes), Some(key));
        }
    }

    #[test]
    fn no_changed_byte_is_taken_for_a_lock(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let registry = MemoryRegistry::default();
        let state = State::open(Box::new(registry.clone()), meta).expect("memory opens");
        amend(&state, |token| vec![Entry::Token(token), Entry::Lock(id(1), Some(lock(token, 1)))]).expect("taken");
        let key = LedgerKey::Lock(id(1)).encode();
        {
            let mut rows = registry.rows.lock();
            let value = rows.get_mut(&key).expect("a row");
            let at = at.index(value.len());
            value[at] ^= 1 << bit;
        }
        let again = State::open(Box::new(registry.clone()), meta).expect("memory opens");
        let ledger = again.ledger();
        prop_assert_eq!(ledger.lock(&id(1)), None);
        prop_assert!(ledger.damage(&id(1)).is_some_and(|text| text.contains("!lock s1")));
        prop_assert_eq!(ledger.damage(&id(2)), None);
        prop_assert_eq!(ledger.damage_of_all(), None);
        prop_assert!(registry.rows.lock().contains_key(&key));
    }
}

#[test]
fn a_token_is_never_given_twice_whatever_happens_to_the_write() {
    let registry = MemoryRegistry::default();
    let state = State::open(Box::new(registry.clone()), meta).expect("memory opens");
    let mut given = BTreeSet::new();
    for n in 0..20 {
        // It fails before its effect, or after, or not at all.
        if n % 3 < 2 {
            registry.crash.arm(0, n % 3 == 1, true);
        }
        let mut handed = 0;
        let _ = amend(&state, |token| {
            handed = token;
            vec![Entry::Token(token), Entry::Lock(id(1), Some(lock(token, 1)))]
        });
        assert!(given.insert(handed), "{handed} of {given:?}");
    }
    registry.crash.disarm();
    // A new start begins above all of them.
    let again = State::open(Box::new(registry), meta).expect("memory opens");
    let next = amend(&again, |_| Vec::new()).expect("memory");
    assert!(given.last().is_some_and(|last| *last < next));
    assert_eq!(next >> TOKEN_COUNTER_BITS, 2, "the second start");
}

#[test]
fn what_was_refused_does_not_come_true_at_the_next_start() {
    let registry = MemoryRegistry::default();
    let state = State::open(Box::new(registry.clone()), meta).expect("memory opens");
    amend(&state, |_| vec![Entry::Lock(id(1), Some(lock(7, 1)))]).expect("taken");
    let everything = |token| {
        vec![
            Entry::Token(token),
            Entry::Lock(id(1), None),
            Entry::Lock(id(2), Some(lock(token, 2))),
            Entry::Intent(id(1), Some(intent(1))),
            Entry::Tombstone(id(1), Some(tombstone(1))),
            Entry::Raise(id(1), Some(Raise::by_hand(2, 1))),
            Entry::Pins(id(1), BTreeSet::from(["w".to_owned()])),
            Entry::Drain("w".into(), true),
            Entry::Schema(SchemaInfo { name: "s1".into(), version: 1, created_ms: 0, sql: String::new() }),
        ]
    };
    // It reaches the disk, and says that it did not; twice.
    for _ in 0..2 {
        registry.crash.arm(0, true, true);
        assert!(amend(&state, everything).is_err());
    }
    registry.crash.disarm();
    assert_eq!(state.ledger().lock(&id(1)), Some(&lock(7, 1)));
    amend(&state, |_| vec![Entry::Raise(id(3), Some(Raise::by_hand(1, 1)))]).expect("taken");
    let again = State::open(Box::new(registry), meta).expect("memory opens");
    let ledger = again.ledger();
    assert!(ledger.locks().eq([(&id(1), &lock(7, 1))]));
    assert_eq!((ledger.intents().count(), ledger.tombstones().count(), ledger.schemas().count()), (0, 0, 0));
    assert!(ledger.wished().eq([&id(3)]) && !ledger.is_draining("w"));
}

#[test]
fn tokens_end_before_they_wrap() {
    let ledger = Ledger { token: u64::MAX, ..Ledger::default() };
    assert_eq!(ledger.next_token(1, 0), None);
    assert_eq!(Ledger::default().next_token(1 << 24, 0), None, "an epoch that has no room");
    assert_eq!(Ledger::default().next_token(3, 0), Some((3 << 40) + 1));
    assert_eq!(Ledger::default().next_token(3, 5 << 40), Some((5 << 40) + 1));
}

#[test]
fn rows_of_a_later_version_stop_tokens_and_stay() {
    let registry = MemoryRegistry::default();
    let key = b"!fence\0x".to_vec();
    registry.rows.lock().insert(key.clone(), vec![1, 2, 3]);
    let state = State::open(Box::new(registry.clone()), meta).expect("memory opens");
    assert!(state.ledger().damage_of_all().is_some_and(|text| text.contains("!fence x")));
    assert!(registry.rows.lock().contains_key(&key));
    assert_eq!(name_of(b"!a\0b\n"), "!a b\\n");
}

#[test]
fn sled_keeps_the_ledger_beside_the_catalog() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let open = || {
        let registry = SledRegistry::open(home.path(), 1 << 20).expect("sled opens");
        State::open(Box::new(registry), meta).expect("a registry")
    };
    let state = open();
    let checksum = Checksum { generation: Generation([4; 16]), checksum: "c".into() };
    let token = amend(&state, |token| {
        vec![
            Entry::Token(token),
            Entry::Lock(id(1), Some(lock(token, 1))),
            Entry::Checksum(id(1), Some(checksum.clone())),
        ]
    });
    let token = token.expect("disk");
    drop(state);
    let again = open();
    assert_eq!(again.ledger().lock(&id(1)), Some(&lock(token, 1)));
    assert_eq!(again.checksum(&id(1)), Ok(Some(checksum)));
    assert!(amend(&again, |_| Vec::new()).expect("disk") > token);
}

/// Whoever looks after what moved, while it is being changed, sees each change in the end: it is not told
/// before it can be seen.
#[test]
fn what_moved_is_told_when_it_can_be_seen() {
    let state = State::open(Box::new(MemoryRegistry::default()), meta).expect("memory opens");
    let placed = parking_lot::Mutex::new(false);
    let look = || {
        let mut placed = placed.lock();
        for moved in state.take_moved() {
            *placed = state.ledger().raise(&moved).is_some();
        }
        *placed
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                look();
            }
        });
        for n in 0..20_000 {
            let wish = (n % 2 == 0).then(|| Raise::by_hand(1, 1));
            amend(&state, |_| vec![Entry::Raise(id(1), wish)]).expect("memory");
            let seen = look();
            if seen != wish.is_some() {
                done.store(true, std::sync::atomic::Ordering::Relaxed);
                panic!("after {n} changes one was not seen");
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn wishes_of_before_are_read_and_those_of_now_by_programs_of_before() {
    #[derive(serde::Deserialize)]
    struct Before {
        copies: u32,
    }
    let old: Raise = serde_json::from_str(r#"{"copies":2}"#).expect("an old row");
    assert_eq!(old, Raise { since_ms: 0, ..Raise::by_hand(2, 0) });
    for (copies, by) in [(3, RaisedBy::Heat), (0, RaisedBy::Hand)] {
        let now = Raise { copies, by, since_ms: 7, until_ms: Some(9) };
        let row = serde_json::to_string(&now).expect("JSON");
        assert_eq!(serde_json::from_str::<Raise>(&row).expect("its own row"), now);
        assert_eq!(serde_json::from_str::<Before>(&row).expect("what it knows").copies, copies);
    }
}

#[test]
fn two_sequences_as_one() {
    let ids = |all: &[&str]| -> Vec<SegmentId> {
        all.iter().map(|id| SegmentId::parse(id).expect("an id")).collect()
    };
    for (a, b, both) in [
        (vec!["a", "c", "d"], vec!["b", "c", "e"], vec!["a", "b", "c", "d", "e"]),
        (vec![], vec!["b"], vec!["b"]),
        (vec!["a"], vec![], vec!["a"]),
    ] {
        let (a, b) = (ids(&a), ids(&b));
        assert_eq!(in_order(a.iter(), b.iter()).cloned().collect::<Vec<_>>(), ids(&both));
    }
}
