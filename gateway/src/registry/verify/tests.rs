use super::{Findings, store::compare, *};
use crate::{
    api::hot::{SchemaInfo, Token},
    discovery::memory_store::MemoryStore,
    registry::{
        RowChange,
        ledger::{Dispute, Entry, Intent, Lock, Raise, Tombstone, rows::LedgerKey},
        memory::MemoryRegistry,
        rows::seal,
        state::{Amendment, State},
        tests::{facts, id, listed, meta, numbered},
    },
    store::Generation,
};

fn opened(registry: &MemoryRegistry) -> State {
    let state = State::open(Box::new(registry.clone()), meta).expect("memory opens");
    state.update_meta(|meta| meta.discovered = true).expect("memory takes it");
    state
}

fn amend(state: &State, entries: Vec<Entry>) {
    state.amend(|_, _| Ok::<_, RegistryError>(Amendment::ledger(entries, ()))).expect("memory takes it");
}

fn lock(token: Token, base: Option<Generation>) -> Lock {
    Lock {
        worker: "w".into(),
        token,
        since_ms: 0,
        schema: "default".into(),
        directory: "/".into(),
        base,
        ready: true,
        untold: None,
        base_change: 0,
        ship: None,
        ship_from: 0,
    }
}

fn kinds(findings: &Findings) -> Vec<(&str, &str)> {
    let mut kinds: Vec<_> = findings.findings.iter().map(|f| (f.kind.as_str(), f.subject.as_str())).collect();
    kinds.sort_unstable();
    kinds
}

fn found(registry: &MemoryRegistry) -> Findings {
    stopped(registry).expect("memory reads").0
}

/// What a registry is like in which nothing is wrong.
fn sound() -> (MemoryRegistry, State) {
    let registry = MemoryRegistry::default();
    let state = opened(&registry);
    let mut root = listed("/", [("100".into(), facts(1)), ("101".into(), facts(2))]);
    if let crate::registry::state::Change::Listed { state, .. } = &mut root {
        (state.has_subdirs, state.bad_names) = (true, 0);
    }
    let mut below = listed("/00000", numbered(0, 20, 1));
    if let crate::registry::state::Change::Listed { state, .. } = &mut below {
        state.bad_names = 0;
    }
    state.commit(vec![root, below]).expect("memory takes it");
    let base = Some(facts(1).generation);
    amend(
        &state,
        vec![
            Entry::Token(9),
            Entry::Lock(id("100"), Some(lock(9, base))),
            Entry::Lock(id("new"), Some(lock(8, None))),
            // The first version is built in.
            Entry::Schema(SchemaInfo {
                name: "default".into(),
                version: 2,
                created_ms: 0,
                sql: String::new(),
            }),
        ],
    );
    (registry, state)
}

#[test]
fn a_sound_registry_has_no_findings() {
    let (registry, _) = sound();
    let findings = found(&registry);
    assert_eq!((findings.total(), kinds(&findings)), (0, vec![]));
    assert_eq!((findings.segments, findings.listed), (22, None));
}

#[test]
fn everything_that_does_not_fit_is_named() {
    let (registry, state) = sound();
    state.commit(vec![listed("/else/where", [("100".into(), facts(3))])]).expect("memory takes it");
    let intent = Intent {
        token: 3,
        temporary: "/x.sqlite._COPYING_.3".into(),
        path: "/x.sqlite".into(),
        expected: None,
        uploaded: None,
    };
    let tombstone = |token, done_ms, generation| {
        Some(Tombstone { token, directory: "/".into(), since_ms: 0, done_ms, generation })
    };
    let schema = SchemaInfo { name: "pages".into(), version: 2, created_ms: 0, sql: String::new() };
    let other = Some(Generation([8; 16]));
    amend(
        &state,
        vec![
            Entry::Lock(id("101"), Some(lock(7, other))),
            Entry::Lock(id("gone"), Some(Lock { ready: false, schema: "lost".into(), ..lock(6, other) })),
            Entry::Lock(id("ahead"), Some(lock(50, None))),
            Entry::Intent(id("x"), Some(intent)),
            Entry::Tombstone(id("00000005"), tombstone(2, Some(1), Some(facts(1).generation))),
            Entry::Tombstone(id("new"), tombstone(2, None, None)),
            Entry::Raise(id("nowhere"), Some(Raise::by_hand(1, 0))),
            Entry::Schema(schema),
            Entry::Dispute(id("both"), Some(Dispute { token: 5, workers: ["a".into(), "b".into()].into() })),
        ],
    );
    let key = LedgerKey::Lock(id("torn")).encode();
    let rows = vec![
        RowChange::Put(key.clone(), seal(&key, b"[]")),
        RowChange::Put(b"/00000\0s00000010".to_vec(), b"torn".to_vec()),
        RowChange::Put(b"~sum\0torn".to_vec(), b"torn".to_vec()),
    ];
    registry.commit(rows).expect("memory takes it");
    let findings = found(&registry);
    assert_eq!(
        kinds(&findings),
        [
            ("ambiguous", "100"),
            ("bad_names", "/else/where"),
            ("damaged_catalog_row", "/00000 s00000010"),
            ("damaged_row", "!lock torn"),
            ("damaged_row", "~sum torn"),
            ("deleted_and_locked", "new"),
            ("deleted_and_there", "00000005"),
            ("disputed", "both"),
            ("lock_not_in_store", "gone"),
            ("lock_not_ready", "gone"),
            ("orphan_directory", "/else/where"),
            ("other_generation", "101"),
            ("promotion_without_lock", "x"),
            ("schema_missing", "gone"),
            ("schema_versions", "pages"),
            ("token_beyond_mark", "ahead"),
            ("wish_without_segment", "nowhere"),
        ]
    );
    assert!(findings.findings.iter().all(|finding| !finding.remedy.is_empty() && !finding.text.is_empty()));
}

#[test]
fn many_of_a_kind_are_counted() {
    let registry = MemoryRegistry::default();
    let state = opened(&registry);
    let wishes = (0..2_500).map(|n| Entry::Raise(id(&format!("{n:05}")), Some(Raise::by_hand(1, 0))));
    amend(&state, wishes.collect());
    let findings = found(&registry);
    assert_eq!((findings.findings.len(), findings.total()), (1_000, 2_500));
}

#[tokio::test]
async fn the_store_is_compared() {
    let store = MemoryStore::new();
    store.write("/1/1000.sqlite", 10, 5);
    store.write("/1/1001.sqlite", 10, 5);
    store.write("/1/1002.sqlite", 10, 5);
    store.write("/1/1002.sqlite._COPYING_.4", 10, 5);
    store.write("/1/1003.sqlite._COPYING_.77", 10, 5);
    store.write("/1/.hidden.sqlite", 10, 5);
    let registry = MemoryRegistry::default();
    let state = opened(&registry);
    let entry = |name: &str| {
        let entry = store.file(&format!("/1/{name}.sqlite")).expect("there");
        crate::registry::packed::Facts {
            generation: entry.generation,
            size: entry.len,
            mtime_ms: entry.mtime_ms,
        }
    };
    let segments = [("1000".to_owned(), entry("1000")), ("1001".into(), facts(1)), ("1009".into(), facts(1))];
    state.commit(vec![listed("/1", segments)]).expect("memory takes it");
    let intent = Intent {
        token: 4,
        temporary: "/1/1002.sqlite._COPYING_.4".into(),
        path: "/1/1002.sqlite".into(),
        expected: None,
        uploaded: None,
    };
    amend(
        &state,
        vec![
            Entry::Token(4),
            Entry::Lock(id("1002"), Some(lock(4, None))),
            Entry::Intent(id("1002"), Some(intent)),
        ],
    );
    let (_, catalog, ledger) = stopped(&registry).expect("memory reads");
    let mut findings = Findings::default();
    compare(&*store, &(catalog, ledger), 2, &mut findings).await.expect("the store answers");
    assert_eq!(
        kinds(&findings),
        [
            ("catalog_behind", "/1/1001.sqlite"),
            ("left_over_upload", "/1/1003.sqlite._COPYING_.77"),
            ("not_in_catalog", "/1/1002.sqlite"),
            ("not_in_store", "/1/1009.sqlite"),
            ("token_beyond_mark", "1003"),
        ]
    );
    assert_eq!(findings.listed, Some(2));
}
