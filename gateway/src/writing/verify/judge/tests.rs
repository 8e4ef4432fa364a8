use super::*;
use crate::{api::verify::Flaw, store::Generation};

const SUM: &str = "0123456789abcdef0123456789abcdef";

fn generation(n: u8) -> Generation {
    Generation([n; 16])
}

fn file(n: u8) -> FileVerified {
    FileVerified {
        generation: Some(generation(n).to_string()),
        size: 4096,
        checksum: Some(SUM.into()),
        kept: None,
        checked: true,
        flaws: Vec::new(),
        taken_out: false,
    }
}

fn info(worker: &str, n: u8) -> CopyInfo {
    CopyInfo {
        worker: worker.into(),
        live: true,
        state: CopyState::Available,
        reason: None,
        generation: Some(generation(n).to_string()),
        size: 4096,
        fetched: 0,
        token: None,
        unpromoted: false,
    }
}

fn copy(worker: &str, n: u8) -> SeenCopy {
    let found = FileVerified { kept: Some(SUM.into()), ..file(n) };
    SeenCopy { info: info(worker, n), outcome: Outcome::Looked(found) }
}

/// Promoted, read, with one copy: all of it as it should be.
fn seen() -> Seen {
    Seen {
        segment: SegmentId::parse("seg001").expect("an id"),
        path: "/seg/seg001.sqlite".into(),
        depth: Depth::Full,
        named: Some(Facts { generation: generation(1), size: 4096, mtime_ms: 1_000 }),
        news: false,
        kept: Some(SUM.into()),
        entry: Some(StoreEntry {
            name: "seg001.sqlite".into(),
            is_dir: false,
            len: 4096,
            mtime_ms: 1_000,
            generation: generation(1),
        }),
        read: Some(("cold".into(), file(1))),
        copies: vec![copy("hot", 1)],
    }
}

fn kinds(answer: &VerifyAnswer) -> Vec<&str> {
    assert_eq!(answer.sound, answer.findings.iter().all(|finding| finding.severity == Severity::Note));
    for finding in &answer.findings {
        assert!(!finding.remedy.is_empty() && finding.subject == "seg001", "{finding:?}");
    }
    answer.findings.iter().map(|finding| finding.kind.as_str()).collect()
}

fn found(copy: &mut SeenCopy) -> &mut FileVerified {
    match &mut copy.outcome {
        Outcome::Looked(found) => found,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_fits_has_no_findings() {
    let answer = judge(seen());
    assert_eq!(kinds(&answer), [""; 0]);
    assert_eq!((answer.store.and_then(|store| store.kept), answer.copies.len()), (Some(SUM.to_owned()), 1));
    // Nobody promoted it: what a worker noted when it copied it is the checksum that is kept.
    let answer = judge(Seen { kept: None, ..seen() });
    assert_eq!(kinds(&answer), [""; 0]);
    assert_eq!(answer.store.and_then(|store| store.kept).as_deref(), Some(SUM));
    let answer = judge(Seen { kept: None, copies: Vec::new(), ..seen() });
    assert_eq!((kinds(&answer).len(), answer.store.and_then(|store| store.kept)), (0, None));
    // Never promoted, and being written.
    let mut written = copy("hot", 1);
    written.info.token = Some(7);
    (written.info.generation, *found(&mut written)) =
        (None, FileVerified { generation: None, checksum: None, kept: None, ..file(1) });
    let answer = judge(Seen { named: None, entry: None, read: None, copies: vec![written], ..seen() });
    assert_eq!((kinds(&answer).len(), answer.store), (0, None));
}

#[test]
fn the_store_is_compared_with_the_registry() {
    let gone = judge(Seen { entry: None, read: None, copies: Vec::new(), ..seen() });
    assert_eq!(kinds(&gone), ["not_in_store"]);
    assert!(gone.findings[0].remedy.contains("segment delete seg001"));
    let gone = judge(Seen { entry: None, read: None, ..seen() });
    assert!(gone.findings[0].remedy.contains("worker hot has a sound copy"), "{gone:?}");

    let mut other = seen();
    if let Some(entry) = &mut other.entry {
        (entry.generation, entry.mtime_ms) = (generation(2), 61_000);
    }
    other.read = Some(("cold".into(), FileVerified { checksum: Some("other".into()), ..file(2) }));
    let other = judge(other);
    // Another checksum is no wonder then, and what was kept is not shown beside it.
    assert_eq!(kinds(&other), ["generation_behind"]);
    assert!(other.findings[0].text.contains("1970-01-01T00:01:01Z"), "{other:?}");
    assert_eq!(other.store.and_then(|store| store.kept), None);
}

#[test]
fn bytes_in_the_store_that_are_not_right() {
    let mut rotten = seen();
    rotten.read = Some(("cold".into(), FileVerified { checksum: Some("other".into()), ..file(1) }));
    let answer = judge(rotten);
    assert_eq!(kinds(&answer), ["store_checksum"]);
    assert!(answer.findings[0].remedy.contains("segment promote seg001 --release"), "{answer:?}");
    // A copy that nobody wrote down anything of is no help.
    let mut rotten = seen();
    rotten.read = Some(("cold".into(), FileVerified { checksum: Some("other".into()), ..file(1) }));
    found(&mut rotten.copies[0]).kept = None;
    assert!(judge(rotten).findings[0].remedy.contains("backup"));
    for check in [Check::Read, Check::Header, Check::Integrity] {
        let mut flawed = seen();
        let flaws = vec![Flaw { check, text: "is wrong".into() }];
        flawed.read = Some(("cold".into(), FileVerified { flaws, ..file(1) }));
        let answer = judge(flawed);
        assert_eq!(kinds(&answer), [format!("store_{}", check.as_str())]);
        assert!(answer.findings[0].text.starts_with("/seg/seg001.sqlite in the store is wrong"));
    }
}

/// After a promotion copies follow: that is nothing found, unless it lasts.
#[test]
fn a_copy_may_be_behind_for_a_while() {
    let behind = |news, state, reason: Option<&str>| {
        let mut seen = Seen { news, ..seen() };
        let copy = &mut seen.copies[0];
        (copy.info.state, copy.info.reason) = (state, reason.map(str::to_owned));
        let old = Some(generation(9).to_string());
        (copy.info.generation, found(copy).generation) = (old.clone(), old);
        let answer = judge(seen);
        assert_eq!(kinds(&answer), ["copy_behind"]);
        (answer.sound, answer.findings[0].severity, answer.findings[0].text.clone())
    };
    let note = |(sound, severity, _)| sound && severity == Severity::Note;
    assert!(note(behind(true, CopyState::Available, None)), "the worker was not told yet");
    assert!(note(behind(true, CopyState::Stale, None)));
    assert!(note(behind(true, CopyState::Stale, Some("no room"))), "it tries again");
    assert!(note(behind(false, CopyState::Stale, None)), "large ones take long, and others are before it");
    let (sound, severity, text) = behind(false, CopyState::Stale, Some("no room"));
    assert!(!sound && severity == Severity::Warning && text.contains("no room"), "{text}");
    let (sound, severity, text) = behind(false, CopyState::Available, None);
    assert!(!sound && severity == Severity::Warning && text.contains("copies_grace"), "{text}");
}

#[test]
fn copies_are_compared_with_what_was_said_of_them() {
    let with = |change: &dyn Fn(&mut SeenCopy)| {
        let mut seen = seen();
        change(&mut seen.copies[0]);
        judge(seen)
    };
    let flaw = |check| vec![Flaw { check, text: "is wrong".into() }];
    let out = with(&|copy| {
        (found(copy).flaws, found(copy).taken_out) = (flaw(Check::Checksum), true);
    });
    assert_eq!(kinds(&out), ["copy_checksum"]);
    assert!(out.findings[0].remedy.contains("fetched from the store anew"));
    let writing = with(&|copy| {
        copy.info.token = Some(7);
        (found(copy).flaws, found(copy).kept) = (flaw(Check::Integrity), None);
    });
    assert!(kinds(&writing) == ["copy_integrity"] && writing.findings[0].remedy.contains("--force"));
    assert_eq!(kinds(&with(&|copy| copy.outcome = Outcome::Missing)), ["copy_missing"]);
    assert_eq!(kinds(&with(&|copy| copy.outcome = Outcome::Silent("no lease".into()))), ["copy_unverified"]);
    assert_eq!(kinds(&with(&|copy| copy.outcome = Outcome::Refused("no room".into()))), ["copy_refused"]);
    assert_eq!(
        kinds(&with(&|copy| found(copy).generation = Some(generation(9).to_string()))),
        ["copy_generation", "copy_behind"]
    );
    assert_eq!(
        kinds(&with(&|copy| {
            (copy.info.generation, found(copy).generation) = (None, None);
            copy.info.token = Some(7);
        })),
        [""; 0],
        "what is being written may stand for no generation yet"
    );
    // It is what was copied; but that was never what was promoted.
    assert_eq!(
        kinds(&with(&|copy| {
            (found(copy).kept, found(copy).checksum) = (Some("other".into()), Some("other".into()));
        })),
        ["copy_differs"]
    );
}
