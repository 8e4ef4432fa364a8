//! Tests: exports and imports.

use proptest::prelude::*;

use super::{
    Adopting, Meta, Registry, RegistryError, RowChange,
    catalog::Catalog,
    export::{running, stopped},
    import::{Former, ImportError, ImportOptions, Imported, import},
    ledger::{Checksum, Entry, Lock, Raise, Tombstone, rows::LedgerKey},
    memory::MemoryRegistry,
    places::{Making, Present, current, present},
    rows::seal,
    state::{Amendment, State},
    tests::{Model, Op, change, facts, id, listed, meta, numbered, ops},
};
use crate::{
    api::{
        hot::{SchemaInfo, Token},
        ship::Ship,
    },
    store::Generation,
};

fn lock(token: Token) -> Lock {
    Lock {
        worker: "w1".into(),
        token,
        since_ms: 3,
        schema: "pages".into(),
        directory: "/a b".into(),
        base: Some(Generation([4; 16])),
        ready: true,
        untold: Some((Generation([5; 16]), 9)),
        base_change: 4,
        ship: Some(Ship { every_ms: 500, pages: 7 }),
        ship_from: 2,
    }
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let n = 0u64..20;
    let segment = n.clone().prop_map(|n| id(&format!("s-{n}.x")));
    let tombstone =
        |token| Tombstone { token, directory: "/".into(), since_ms: 1, done_ms: Some(2), generation: None };
    let schema = |version| SchemaInfo {
        name: "pages".into(),
        version,
        created_ms: 5,
        sql: "create table \"t\" (\n'ü');".into(),
    };
    let entry = prop_oneof![
        (segment.clone(), n.clone()).prop_map(|(id, n)| Entry::Lock(id, Some(lock(n)))),
        (segment.clone(), n.clone()).prop_map(move |(id, n)| Entry::Tombstone(id, Some(tombstone(n)))),
        (segment.clone(), 1u32..5).prop_map(|(id, copies)| Entry::Raise(id, Some(Raise::by_hand(copies, 0)))),
        segment.clone().prop_map(|id| Entry::Pins(id, ["w1".into(), "w.2".into()].into())),
        (1u32..4).prop_map(move |version| Entry::Schema(schema(version))),
        Just(Entry::Drain("w-3".into(), true)),
        segment.prop_map(|id| {
            let sum = Checksum { generation: Generation([1; 16]), checksum: "c".into() };
            Entry::Checksum(id, Some(sum))
        }),
        n.prop_map(Entry::Token),
    ];
    // The count is above every token that was given: an import sees to it.
    prop::collection::vec(entry, 0..30).prop_map(|mut entries| {
        entries.push(Entry::Token(20));
        entries
    })
}

fn amend(state: &State, entries: Vec<Entry>) {
    state.amend(|_, _| Ok::<_, RegistryError>(Amendment::ledger(entries, ()))).expect("memory takes it");
}

fn opened(registry: &MemoryRegistry) -> State {
    State::open(Box::new(registry.clone()), meta).expect("memory opens")
}

fn text_of(registry: &dyn Registry) -> String {
    let mut text = Vec::new();
    stopped(registry, &mut text).expect("an export");
    String::from_utf8(text).expect("UTF-8")
}

fn imported(text: &str, options: &ImportOptions) -> Result<(MemoryRegistry, Imported), ImportError> {
    let registry = MemoryRegistry::default();
    let done = import(&mut text.as_bytes(), &registry, options, &mut |_| ())?;
    Ok((registry, done))
}

fn reason(text: &str) -> String {
    imported(text, &ImportOptions::default()).map(|(_, done)| done).expect_err("refused").to_string()
}

/// A registry with one of everything.
fn sample() -> MemoryRegistry {
    let registry = MemoryRegistry::default();
    let state = opened(&registry);
    state
        .commit(vec![listed("/", numbered(100, 103, 1)), listed("/1", numbered(1000, 3500, 2))])
        .expect("memory");
    amend(
        &state,
        vec![
            Entry::Token(7),
            Entry::Lock(id("1001"), Some(lock(7))),
            Entry::Raise(id("1002"), Some(Raise::by_hand(2, 0))),
            Entry::Checksum(
                id("1003"),
                Some(Checksum { generation: facts(2).generation, checksum: "c".into() }),
            ),
        ],
    );
    state
        .update_meta(|meta| (meta.discovered, meta.store_url) = (true, Some("file:///s".into())))
        .expect("memory");
    registry
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_export_that_is_imported_and_exported_again_is_the_same(
        batches in ops(), entries in entries(), damage: bool,
    ) {
        let registry = MemoryRegistry::default();
        let state = opened(&registry);
        let mut model = Model::new();
        for batch in &batches {
            let changes = batch.iter().map(|op: &Op| change(op, &mut model)).collect();
            state.commit(changes).expect("memory takes it");
        }
        amend(&state, entries);
        if damage {
            let key = LedgerKey::Lock(id("s-1.x")).encode();
            registry.rows.lock().insert(key.clone(), seal(&key, b"{\"not\": \"a lock\"}"));
            registry.rows.lock().insert(b"!strange".to_vec(), b"\xff\0".to_vec());
        }
        let first = text_of(&registry);
        let mut live = Vec::new();
        running(&state, &mut live).expect("an export");
        prop_assert_eq!(&first, &String::from_utf8(live).expect("UTF-8"), "running or not");

        let (copy, _) = imported(&first, &ImportOptions::default()).expect("imported");
        prop_assert_eq!(&first, &text_of(&copy));
        let (a, b) = (opened(&registry), opened(&copy));
        // In rows of its own cut.
        let content = |catalog: &Catalog| -> Vec<_> {
            let all = catalog.directories();
            all.map(|(path, d)| (path.clone(), d.state, d.segments.clone())).collect()
        };
        prop_assert_eq!(content(&a.catalog()), content(&b.catalog()));
        prop_assert_eq!(&*a.ledger(), &*b.ledger());
    }

    #[test]
    fn no_text_makes_it_panic(cut in any::<prop::sample::Index>(), byte: u8) {
        let mut text = text_of(&sample()).into_bytes();
        let at = cut.index(text.len());
        text[at] = byte;
        let registry = MemoryRegistry::default();
        let outcome = import(&mut &text[..], &registry, &ImportOptions::default(), &mut |_| ());
        // An end of a line that is another white space is read the same, but summed otherwise.
        prop_assert!(outcome.is_err() || text == text_of(&sample()).into_bytes(), "byte {} at {}", byte, at);
    }
}

#[test]
fn the_lines_are_as_documented() {
    let text = text_of(&sample());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        format!(
            r#"{{"springhouse_registry":1,"registry_id":"{}","epoch":1,"store_url":"file:///s","discovered":true}}"#,
            "0".repeat(32)
        )
    );
    assert!(
        lines[1].starts_with(r#"{"entry":"lock","of":"1001","value":{"worker":"w1","token":7,"#),
        "{}",
        lines[1]
    );
    assert_eq!(lines[2], r#"{"entry":"raise","of":"1002","value":{"copies":2,"by":"hand","since_ms":0}}"#);
    assert_eq!(lines[3], r#"{"entry":"token","value":7}"#);
    assert_eq!(
        lines[4],
        r#"{"directory":"/","seen":{"mtime_ms":1,"generation":"09090909090909090909090909090909"},"has_subdirs":false,"quiet":true,"bad_names":2}"#
    );
    assert!(
        lines[5].starts_with(r#"{"segment":"/00000100.sqlite","generation":"01010101010101010101010101010101","size":1,"mtime_ms":-1}"#),
        "{}",
        lines[5]
    );
    assert!(lines[lines.len() - 2].starts_with(r#"{"entry":"checksum","of":"1003","value":"#));
    assert!(lines[lines.len() - 1].starts_with(r#"{"end":{"lines":"#));
}

#[test]
fn a_text_that_is_not_whole_or_not_the_same_is_refused() {
    let text = text_of(&sample());
    let cut = &text[..text.len() / 2];
    assert!(reason(cut).contains("cut short"), "{}", reason(cut));
    let last = text.trim_end().rfind('\n').expect("lines");
    assert!(reason(&text[..=last]).contains("cut short"));
    assert!(reason("").contains("empty"));
    assert!(reason("{\"lines\":1}\n").contains("line 1"), "{}", reason("{\"lines\":1}\n"));
    let newer = text.replacen("\"springhouse_registry\":1", "\"springhouse_registry\":2", 1);
    assert!(reason(&newer).contains("this program knows 1"));
    let edited = text.replacen("\"copies\":2", "\"copies\":3", 1);
    assert!(reason(&edited).contains("--edited"), "{}", reason(&edited));
    let options = ImportOptions { edited: true, ..ImportOptions::default() };
    let (registry, _) = imported(&edited, &options).expect("on purpose");
    assert_eq!(opened(&registry).ledger().raise(&id("1002")), Some(Raise::by_hand(3, 0)));
    for (from, to, why) in [
        ("\"/00000101.sqlite\"", "\"/00000100.sqlite\"", "out of order"),
        ("\"/00000101.sqlite\"", "\"/x/00000101.sqlite\"", "does not lie"),
        ("\"/00000101.sqlite\"", "\"/00 01.sqlite\"", "no path of a segment"),
        ("\"directory\":\"/1\"", "\"directory\":\"/\"", "out of order"),
        ("\"directory\":\"/1\"", "\"directory\":\"1\"", "no path of a directory"),
        ("\"entry\":\"raise\"", "\"entry\":\"rise\"", "unknown key"),
        ("\"copies\":2", "\"copies\":\"2\"", "raise 1002"),
    ] {
        let wrong = text.replacen(from, to, 1);
        assert_ne!(wrong, text);
        assert!(reason(&wrong).contains(why), "{}", reason(&wrong));
    }
}

#[test]
fn tokens_never_go_back() {
    let text = text_of(&sample());
    let former = Former { token: 1 << 50, epoch: 90 };
    let options = ImportOptions { former, ..ImportOptions::default() };
    let (registry, done) = imported(&text, &options).expect("imported");
    assert_eq!((done.token, Former::of(&registry)), (1 << 50, Ok(former)));
    let state = opened(&registry);
    let next = state.amend(|_, next| Ok::<_, RegistryError>(Amendment::none(next))).expect("memory");
    assert!(next.is_some_and(|next| next > 1 << 50), "{next:?}");
    // A lock that is newer than the count, as somebody's editor may leave it.
    let edited = text.replacen("\"entry\":\"token\",\"value\":7", "\"entry\":\"token\",\"value\":1", 1);
    let (_, done) =
        imported(&edited, &ImportOptions { edited: true, ..ImportOptions::default() }).expect("imported");
    assert_eq!(done.token, 7);
}

#[test]
fn an_old_export_is_marked_as_one() {
    let options = ImportOptions { adopt_ms: Some(5), ..ImportOptions::default() };
    let (registry, _) = imported(&text_of(&sample()), &options).expect("imported");
    let meta: Option<Meta> = registry.meta().expect("memory");
    assert_eq!(meta.and_then(|meta| meta.adopting), Some(Adopting { known: 7, wait_ms: 5 }));
    assert_eq!(text_of(&registry), text_of(&sample()));
}

#[test]
fn a_failed_write_fails_the_import() {
    let registry = MemoryRegistry::default();
    registry.full.store(true, std::sync::atomic::Ordering::SeqCst);
    let text = text_of(&sample());
    let outcome = import(&mut text.as_bytes(), &registry, &ImportOptions::default(), &mut |_| ());
    assert!(matches!(outcome, Err(ImportError::Registry(_))), "{outcome:?}");
}

#[test]
fn a_registry_takes_the_place_of_another_in_one_step() {
    let home = tempfile::tempdir().expect("a directory");
    let data = home.path();
    let put = |making: &Making, n: u8| {
        let row = RowChange::Put(format!("/{n}\0d").into_bytes(), vec![n]);
        making.registry().commit(vec![row]).expect("disk");
    };
    let has = |n: u8| {
        let key = format!("/{n}\0d").into_bytes();
        let registry = super::sled::SledRegistry::open(&current(data), 1 << 20).expect("sled opens");
        registry.get(&key).expect("disk").is_some()
    };
    assert_eq!(present(data, 1 << 20), Ok(Present::Nothing(Former::default())));
    let first = Making::begin(data, 1 << 20).expect("begun");
    put(&first, 1);
    drop(first);
    assert_eq!(present(data, 1 << 20), Ok(Present::Nothing(Former::default())), "given up");
    let second = Making::begin(data, 1 << 20).expect("begun");
    put(&second, 2);
    assert_eq!(second.finish(), Ok(None));
    assert!(has(2) && !has(1));
    assert_eq!(present(data, 1 << 20), Ok(Present::Something(Former::default())));
    let third = Making::begin(data, 1 << 20).expect("begun");
    put(&third, 3);
    let kept = third.finish().expect("exchanged").expect("there was one");
    assert!(has(3) && !has(2));
    assert!(kept.file_name().is_some_and(|name| name == "registry.replaced-1") && kept.is_dir());
    // A crash right after the exchange: what was replaced lies where the new one was made.
    std::fs::rename(&kept, data.join("registry.new")).expect("renamed");
    drop(Making::begin(data, 1 << 20).expect("begun"));
    assert!(kept.is_dir(), "it is kept, not removed");
}
