//! Settings that change while a mount runs: each of them does what it says, at once; docs/SEMANTICS.md.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::{
    harness::{eventually, file_url, mount::Mount, scratch, segments::noise, within},
    operators::{BLOCK, json, ok, read_direct, reads_of_store, run, small, store, text_of},
    registry::tests,
};

tests! {
    [Fuse] sizes_change, readahead_changes, disk_size_changes, lifetimes_change, every_key_is_listed,
        bad_values_change_nothing;
}

const LIMIT: Duration = Duration::from_secs(60);

fn set(mount: &Mount, settings: &[&str]) {
    ok(&[&["cache", "set", &text_of(mount.path())], settings].concat());
}

fn cache(mount: &Mount, figure: &str) -> u64 {
    let stats = mount.stats();
    stats["fs"]["cache"][figure].as_u64().unwrap_or_else(|| panic!("no {figure} in {stats}"))
}

/// Room for blocks and for pinned files, up and down.
fn sizes_change() {
    let root = store(&[("file", 20 << 20), ("pinned", 2 << 20)]);
    let mount = small(root.path());
    let again = |mount: &Mount| {
        read_direct(&mount.file("file"));
        reads_of_store(mount, || read_direct(&mount.file("file")))
    };
    assert!(again(&mount) > 0, "20 MiB do not fit into 16");
    set(&mount, &["memory_blocks=48MiB", "memory=256MiB"]);
    assert_eq!(cache(&mount, "cache_bytes_max"), 48 << 20);
    // Its parts are filled by chance: it takes less than its bound.
    eventually("the larger cache holds all of it", LIMIT, || (again(&mount) == 0).then_some(()));
    // More than the bound has room for, with a larger bound.
    set(&mount, &["memory_blocks=200MiB", "memory=512MiB"]);
    assert_eq!(
        (cache(&mount, "cache_bytes_max"), &mount.stats()["memory_bytes_max"]),
        (200 << 20, &(512 << 20).into())
    );
    set(&mount, &["memory-blocks=4MiB"]);
    assert!(cache(&mount, "cached_bytes") <= 4 << 20, "what has no room goes at once");
    set(&mount, &["memory_blocks=0"]);
    assert_eq!(cache(&mount, "cached_bytes"), 0);
    assert!(again(&mount) >= (20 << 20) / (4 << 20), "nothing is kept");
    assert_eq!(cache(&mount, "cached_bytes"), 0);

    let pinned = text_of(mount.file("pinned"));
    ok(&["cache", "pin", &pinned]);
    set(&mount, &["memory_pins=1MiB"]);
    assert!(mount.stats()["pinned"].as_array().is_some_and(Vec::is_empty), "what has no room is let go of");
    let refused = run(&["cache", "pin", &pinned]);
    assert!(refused.code == Some(1) && refused.stderr.contains("memory_pins"), "{refused:?}");
    set(&mount, &["memory_pins=3MiB"]);
    ok(&["cache", "pin", &pinned]);
    assert_eq!(reads_of_store(&mount, || read_direct(&mount.file("pinned"))), 0);
}

/// Reading ahead is switched off and on for files that are opened, and for those that are open.
fn readahead_changes() {
    let root = store(&[("one", 8 << 20), ("two", 8 << 20), ("three", 8 << 20), ("four", 8 << 20)]);
    let mount = Mount::of(&file_url(root.path()));
    let ahead = |name: &str| {
        let reads =
            || mount.stats()["fs"]["cache"]["by_purpose"]["readahead"]["reads"].as_u64().expect("a count");
        let before = reads();
        read_direct(&mount.file(name));
        reads() - before
    };
    assert!(ahead("one") > 0);
    set(&mount, &["readahead_max=0"]);
    assert_eq!(ahead("two"), 0);
    set(&mount, &["readahead_max=4MiB"]);
    assert!(ahead("three") > 0);
    // No room for buffers is no readahead either.
    set(&mount, &["memory_readahead=0"]);
    assert_eq!(ahead("four"), 0);
    assert_eq!(cache(&mount, "readahead_bytes_max"), 0);
}

/// The cache directory shrinks to its new bound, and grows again.
fn disk_size_changes() {
    let root = store(&[("a", 16 << 20), ("b", 16 << 20), ("c", 16 << 20)]);
    let dir = scratch();
    let mount = Mount::with(
        &file_url(root.path()),
        &[&format!("--cache-dir={}", dir.path().display()), "--cache-size=1GiB"],
    );
    let used = || mount.stats()["fs"]["cache"]["disk"]["used_bytes"].as_u64().expect("a size");
    ok(&["cache", "warm", &text_of(mount.path())]);
    eventually("all is on disk", LIMIT, || (used() >= 48 << 20).then_some(()));
    set(&mount, &["cache_size=20MiB"]);
    eventually("the directory shrinks", LIMIT, || (used() <= 20 << 20).then_some(()));
    assert!(bytes_in(dir.path()) <= 21 << 20, "as the disk has it: {}", bytes_in(dir.path()));
    set(&mount, &["cache_size=1GiB"]);
    ok(&["cache", "drop", &text_of(mount.path())]);
    ok(&["cache", "warm", &text_of(mount.path())]);
    eventually("all is on disk again", LIMIT, || (used() >= 48 << 20).then_some(()));
}

fn bytes_in(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(there) if there.is_dir() => bytes_in(&entry.path()),
        // Blocks of 512 bytes, whatever the file system's are.
        Ok(there) => there.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

/// A mount that may be an hour old shows foreign changes at once when it is told to: new lengths, files
/// that are gone, files that were not there, also to whoever has looked at them before.
fn lifetimes_change() {
    let root = store(&[("grows", 10), ("goes", 10), ("dir/grows", 10)]);
    let mount = Mount::with(&file_url(root.path()), &["--freshness=1h"]);
    let len = |name: &str| fs::metadata(mount.file(name)).ok().map(|there| there.len());
    let seen = || ["grows", "goes", "comes", "dir/grows", "dir/comes"].map(len);
    let change = |bytes: usize| {
        for name in ["grows", "comes", "dir/grows", "dir/comes"] {
            fs::write(root.path().join(name), noise(9, bytes)).expect("a foreign write");
        }
        let _ = fs::remove_file(root.path().join("goes"));
    };
    let old = [Some(10), Some(10), None, Some(10), None];
    assert_eq!(seen(), old);
    change(20);
    assert_eq!(seen(), old, "it may be an hour old");
    set(&mount, &["freshness=100ms"]);
    let new = |bytes: u64| [Some(bytes), None, Some(bytes), Some(bytes), Some(bytes)];
    eventually("the foreign changes show", LIMIT, || (seen() == new(20)).then_some(()));
    change(30);
    eventually("and the next ones", LIMIT, || (seen() == new(30)).then_some(()));

    // A lifetime of its own is longer than the freshness, until it is given back. What is taken back for
    // the shorter one before may be taken back still.
    set(&mount, &["attribute_lifetime=1h", "entry_lifetime=1h", "negative_lifetime=1h"]);
    let mut bytes = 30;
    eventually("what it was told is good for an hour", LIMIT, || {
        let before = seen();
        bytes += 1;
        change(bytes);
        within(Duration::from_millis(500), || (seen() != before).then_some(())).is_none().then_some(())
    });
    set(&mount, &["attribute_lifetime=", "entry_lifetime=", "negative_lifetime="]);
    eventually("as fresh as before", LIMIT, || (seen() == new(bytes as u64)).then_some(()));

    // 0 asks each time, once what the kernel was told before has ended.
    set(&mount, &["freshness=0s"]);
    eventually("what the kernel was told has ended", LIMIT, || {
        bytes += 1;
        change(bytes);
        (seen() == new(bytes as u64)).then_some(())
    });
    let started = Instant::now();
    for bytes in 10..30 {
        change(bytes);
        assert_eq!(len("grows"), Some(bytes as u64), "{:?} after", started.elapsed());
        thread::yield_now();
    }
}

/// `set` without values lists each key with its value, and takes what it lists.
fn every_key_is_listed() {
    let root = store(&[("file", BLOCK)]);
    let dir = scratch();
    let mount = Mount::with(&file_url(root.path()), &[&format!("--cache-dir={}", dir.path().display())]);
    let listed = json(&["cache", "set", "--json", &text_of(mount.path())]);
    let listed = listed.as_object().expect("an object");
    let keys: Vec<&str> = listed.keys().map(String::as_str).collect();
    let all = [
        "attribute_lifetime",
        "cache_size",
        "entry_lifetime",
        "freshness",
        "memory",
        "memory_blocks",
        "memory_pins",
        "memory_readahead",
        "negative_lifetime",
        "readahead_max",
    ];
    assert_eq!(keys, all);
    let same: Vec<String> =
        listed.iter().map(|(key, value)| format!("{key}={}", value.as_str().expect("text"))).collect();
    let same: Vec<&str> = same.iter().map(String::as_str).collect();
    let changed = json(&[&["cache", "set", "--json", &text_of(mount.path())], &same[..]].concat());
    for (key, change) in changed.as_object().expect("an object") {
        assert_eq!(change["old"], change["new"], "{key}");
    }
    assert_eq!(changed.as_object().map(serde_json::Map::len), Some(all.len()));
    // And the manual tells of each.
    let manual = fs::read_to_string(crate::harness::repository().join("docs/MOUNT.md")).expect("a manual");
    for key in all {
        assert!(manual.contains(&format!("`{key}`")), "{key} in docs/MOUNT.md");
    }
}

/// One line with the key, the reason and the remedy; and all or nothing.
fn bad_values_change_nothing() {
    let root = store(&[("file", BLOCK)]);
    let mount = Mount::of(&file_url(root.path()));
    let dir = text_of(mount.path());
    let settings = || json(&["cache", "set", "--json", &dir]);
    let before = settings();
    for (setting, code, words) in [
        ("freshness=10", 2, ["freshness", "has no unit", "give a time from 0s to 1h"]),
        ("freshness=2h", 2, ["freshness", "too large", "give a time from 0s to 1h"]),
        ("readahead_max=1GiB", 2, ["readahead_max", "too large", "give a size"]),
        ("memory_blocks=much", 2, ["memory_blocks", "much", "give a size"]),
        ("memory_blocks=1GiB", 1, ["memory_blocks", "are left for them; memory=", "is enough"]),
        ("cache_size=1GiB", 2, ["cache_size", "no cache on disk", "mount anew with cache_dir"]),
        ("memory=128MiB", 2, ["memory: ", "that the mount was started with", "mount anew"]),
        ("memory=95MiB", 2, ["memory: ", "too small", "give a size from 96MiB"]),
        ("cache_dir=/x", 2, ["cache_dir", "cannot be changed while the mount runs", "mount anew"]),
        ("read_only=true", 2, ["read_only", "cannot be changed while the mount runs", "mount anew"]),
        ("nonsense=1", 2, ["nonsense", "is no key", "what can be changed is"]),
    ] {
        let refused = run(&["cache", "set", &dir, "negative_lifetime=9s", setting]);
        assert_eq!(refused.code, Some(code), "{setting}: {refused:?}");
        assert_eq!(
            (refused.stderr.lines().count(), refused.stdout.as_str()),
            (1, ""),
            "{setting}: {refused:?}"
        );
        for word in words {
            assert!(refused.stderr.contains(word), "{setting}: {word}: {refused:?}");
        }
    }
    assert_eq!(settings(), before, "nothing of it, not even what was right");
}
