//! Staged files against a reference: a vector of bytes for each, whatever its name is at the moment.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    staged_tests::{close, content, copy, ino, me, names_in, open, set_len, settings, staged, stored, write},
    *,
};
use crate::store::{
    LocalStore, Operation,
    memory::{Fault, Injection, MemoryStore},
};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// What goes wrong with an upload.
const STEPS: [Operation; 6] = [
    Operation::Create,
    Operation::Write,
    Operation::Close,
    Operation::Stat,
    Operation::Rename,
    Operation::Open,
];

#[derive(Debug, Clone)]
enum Step {
    Open { name: usize, truncate: bool },
    Write { handle: usize, at: u64, len: usize, byte: u8 },
    Cut { handle: usize, len: u64 },
    Read { handle: usize, at: u64, len: usize },
    Look { name: usize },
    Sync { handle: usize },
    SyncFails { handle: usize, step: usize, after: u64 },
    Close { handle: usize },
    Chmod { handle: usize, mode: u32 },
    Touch { handle: usize, seconds: u64 },
    Rename { from: usize, to: usize },
    Unlink { name: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let (name, handle) = (0..NAMES.len(), 0_usize..8);
    let (at, len) = (0_u64..300_000, 0_usize..50_000);
    prop_oneof![
        4 => (name.clone(), any::<bool>()).prop_map(|(name, truncate)| Step::Open { name, truncate }),
        8 => (handle.clone(), at.clone(), len.clone(), any::<u8>())
            .prop_map(|(handle, at, len, byte)| Step::Write { handle, at, len, byte }),
        3 => (handle.clone(), at.clone()).prop_map(|(handle, len)| Step::Cut { handle, len }),
        3 => (handle.clone(), at, len).prop_map(|(handle, at, len)| Step::Read { handle, at, len }),
        2 => name.clone().prop_map(|name| Step::Look { name }),
        2 => handle.clone().prop_map(|handle| Step::Sync { handle }),
        2 => (handle.clone(), 0..STEPS.len(), 0_u64..3)
            .prop_map(|(handle, step, after)| Step::SyncFails { handle, step, after }),
        3 => handle.clone().prop_map(|handle| Step::Close { handle }),
        1 => (handle.clone(), 0o400_u32..0o777).prop_map(|(handle, mode)| Step::Chmod { handle, mode }),
        1 => (handle, 1_u64..1_000_000).prop_map(|(handle, seconds)| Step::Touch { handle, seconds }),
        1 => (name.clone(), name.clone()).prop_map(|(from, to)| Step::Rename { from, to }),
        1 => name.prop_map(|name| Step::Unlink { name }),
    ]
}

/// An open file: its handle, its number, and which of the files of the model it is.
struct Handle {
    fh: u64,
    number: u64,
    file: usize,
}

struct World {
    fs: Arc<FileSystem>,
    store: Arc<dyn Store>,
    memory: Option<MemoryStore>,
    names: BTreeMap<&'static str, usize>,
    files: Vec<Vec<u8>>,
    /// Open files that were changed.
    copied: BTreeSet<usize>,
    handles: Vec<Handle>,
}

impl World {
    fn new(store: Arc<dyn Store>, memory: Option<MemoryStore>, dir: &TempDir) -> Self {
        let fs = FileSystem::new(store.clone(), settings(dir.path()), tokio::runtime::Handle::current());
        let fs = Arc::new(fs.expect("settings"));
        let (names, copied) = (BTreeMap::new(), BTreeSet::new());
        Self { fs, store, memory, names, files: Vec::new(), copied, handles: Vec::new() }
    }

    fn name_of(&self, file: usize) -> Option<&'static str> {
        self.names.iter().find(|(_, there)| **there == file).map(|(name, _)| *name)
    }

    /// What was synchronised is in the store.
    async fn is_sent(&self, file: usize) {
        if let Some(name) = self.name_of(file) {
            let there = stored(&*self.store, name).await;
            assert!(there.is_some_and(|there| there == self.files[file]), "{name} is sent");
        }
    }

    async fn run(&mut self, step: &Step) {
        let handle = |nth: usize| (!self.handles.is_empty()).then(|| nth % self.handles.len());
        match *step {
            Step::Open { name, truncate } => {
                let name = NAMES[name];
                let wanted = OpenFor { truncate, ..OpenFor::default() };
                let (number, fh) = open(&self.fs, name, wanted).await.expect("opened");
                let file = *self.names.entry(name).or_insert_with(|| {
                    self.files.push(Vec::new());
                    self.files.len() - 1
                });
                if truncate {
                    self.files[file].clear();
                    self.copied.insert(file);
                }
                self.handles.push(Handle { fh, number, file });
            }
            Step::Look { name } => {
                let name = NAMES[name];
                let expected = self.names.get(name).map(|file| &self.files[*file]);
                let found = content(&self.fs, name).await;
                assert!(found.as_deref() == expected.map(Vec::as_slice), "{name} as it is read");
                if let (Some(number), Some(expected)) = (ino(&self.fs, name).await, expected) {
                    let (attr, _) = self.fs.getattr(me(), number).await.expect("known");
                    assert_eq!(attr.len, expected.len() as u64);
                }
            }
            Step::Rename { from, to } => {
                let (from, to) = (NAMES[from], NAMES[to]);
                let outcome = self.fs.rename(me(), (ROOT, from), (ROOT, to), RenameMode::Replace).await;
                match self.names.get(from).copied() {
                    Some(file) => {
                        outcome.expect("renamed");
                        self.names.remove(from);
                        self.names.insert(to, file);
                    }
                    None if from == to => {}
                    None => assert_eq!(outcome.expect_err("nothing there").kind(), ErrorKind::NotFound),
                }
            }
            Step::Unlink { name } => {
                let outcome = self.fs.unlink(me(), ROOT, NAMES[name]).await;
                assert_eq!(outcome.is_ok(), self.names.remove(NAMES[name]).is_some());
            }
            Step::Write { handle: nth, .. }
            | Step::Cut { handle: nth, .. }
            | Step::Read { handle: nth, .. }
            | Step::Sync { handle: nth }
            | Step::SyncFails { handle: nth, .. }
            | Step::Close { handle: nth }
            | Step::Chmod { handle: nth, .. }
            | Step::Touch { handle: nth, .. } => {
                if let Some(nth) = handle(nth) {
                    self.run_open(step, nth).await;
                }
            }
        }
    }

    async fn run_open(&mut self, step: &Step, nth: usize) {
        let Handle { fh, number, file } = self.handles[nth];
        let changes = matches!(*step, Step::Write { len: 1.., .. } | Step::Cut { .. });
        // Of a file that was only opened the store has the bytes, until it is deleted.
        let needs_store = changes || matches!(step, Step::Read { .. });
        let only_opened = !self.copied.contains(&file) && !self.files[file].is_empty();
        if needs_store && only_opened && self.name_of(file).is_none() {
            return;
        }
        if changes {
            self.copied.insert(file);
        }
        let bytes = &mut self.files[file];
        match *step {
            Step::Write { at, len, byte, .. } => {
                write(&self.fs, fh, at, &vec![byte; len]).await.expect("written");
                if len > 0 {
                    bytes.resize(bytes.len().max(at as usize + len), 0);
                    bytes[at as usize..at as usize + len].fill(byte);
                }
            }
            Step::Cut { len, .. } => {
                set_len(&self.fs, number, len).await.expect("cut");
                bytes.resize(len as usize, 0);
            }
            Step::Read { at, len, .. } => {
                let found = self.fs.read(fh, at, len).await.expect("read");
                let start = bytes.len().min(at as usize);
                assert!(found == bytes[start..bytes.len().min(start + len)], "read at {at}");
            }
            Step::Sync { .. } => {
                self.fs.fsync(fh).await.expect("sent");
                self.is_sent(file).await;
            }
            Step::SyncFails { step, after, .. } => {
                let Some(memory) = &self.memory else { return };
                let before = Injection::new(Fault::Delay(Duration::ZERO)).on(STEPS[step]).times(after);
                let before = memory.inject(before);
                let fault = Injection::new(Fault::Fail(ErrorKind::Unavailable)).on(STEPS[step]).times(1);
                let fault = memory.inject(fault);
                let outcome = self.fs.fsync(fh).await;
                before.release();
                fault.release();
                if outcome.is_ok() {
                    self.is_sent(file).await;
                }
            }
            Step::Close { .. } => {
                close(&self.fs, fh).await.expect("closed");
                self.handles.remove(nth);
                if self.handles.iter().all(|other| other.file != file) {
                    self.copied.remove(&file);
                }
                self.is_sent(file).await;
            }
            Step::Chmod { mode, .. } => {
                self.set(number, SetAttr { mode: Some(mode), ..SetAttr::default() }).await
            }
            Step::Touch { seconds, .. } => {
                let mtime = Some(SetTime::At(std::time::UNIX_EPOCH + Duration::from_secs(seconds)));
                self.set(number, SetAttr { mtime, ..SetAttr::default() }).await;
            }
            _ => unreachable!("steps without a handle"),
        }
    }

    async fn set(&self, number: u64, set: SetAttr) {
        let (attr, _) = self.fs.setattr(me(), number, set).await.expect("set");
        assert!(set.mode.is_none_or(|mode| u32::from(attr.mode) == mode));
    }
}

fn block_on(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work);
}

async fn ends_well(mut world: World, steps: &[Step], dir: &TempDir) {
    for step in steps {
        world.run(step).await;
    }
    while !world.handles.is_empty() {
        world.run(&Step::Close { handle: 0 }).await;
    }
    for file in world.names.values() {
        world.is_sent(*file).await;
    }
    let there: Vec<&str> = world.names.keys().copied().collect();
    assert_eq!(names_in(&*world.store).await, there, "no temporary is left");
    assert_eq!(staged(dir.path()), Vec::<String>::new());
    let snapshot = world.fs.snapshot();
    assert_eq!((snapshot.bytes_staged, snapshot.files_not_sent, snapshot.files_written), (0, 0, 0));
}

/// Ends the process at this moment, in the middle of a call of the store if `within` says so. Gives the
/// staging area as it was.
async fn crash(world: &World, dir: &TempDir, within: Option<(usize, usize)>) -> TempDir {
    let (Some((handle, step)), Some(memory), false) = (within, &world.memory, world.handles.is_empty())
    else {
        return copy(dir.path());
    };
    let fault = memory.inject(Injection::new(Fault::Hang).on(STEPS[step]));
    let (fs, fh) = (world.fs.clone(), world.handles[handle % world.handles.len()].fh);
    let mut upload = tokio::spawn(async move { fs.fsync(fh).await });
    let ended = tokio::select! {
        _ = &mut upload => true,
        () = fault.reached(1) => false,
    };
    let left = copy(dir.path());
    if !ended {
        upload.abort();
        let _ = upload.await;
    }
    fault.release();
    left
}

/// The first upload ends well without that being heard, the second one ends before its rename.
#[test]
fn two_uploads_of_unknown_end_then_a_crash() {
    block_on(async {
        let (store, dir) = (MemoryStore::new(), tempfile::tempdir().expect("a directory"));
        let mut world = World::new(Arc::new(store.clone()), Some(store.clone()), &dir);
        let of = |operation| STEPS.iter().position(|step| *step == operation).expect("a step");
        for step in [
            Step::Open { name: 0, truncate: false },
            Step::Write { handle: 0, at: 0, len: 1, byte: 0 },
            Step::SyncFails { handle: 0, step: of(Operation::Stat), after: 2 },
            Step::Write { handle: 0, at: 0, len: 1, byte: 1 },
            Step::SyncFails { handle: 0, step: of(Operation::Rename), after: 0 },
        ] {
            world.run(&step).await;
        }
        let left = crash(&world, &dir, None).await;
        drop(world);
        let settings = settings(left.path());
        let next = FileSystem::new(Arc::new(store.clone()), settings, tokio::runtime::Handle::current());
        assert_eq!(next.expect("settings").recover().await.expect("read").waiting, 0);
        assert_eq!(names_in(&store).await, [NAMES[0]], "nothing is kept beside");
        assert_eq!(stored(&store, NAMES[0]).await.as_deref(), Some(&[1][..]));
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn files_are_what_was_written(steps in prop::collection::vec(step(), 1..60)) {
        block_on(async {
            let (store, dir) = (MemoryStore::new(), tempfile::tempdir().expect("a directory"));
            ends_well(World::new(Arc::new(store.clone()), Some(store), &dir), &steps, &dir).await;
        });
    }

    /// Where chmod and rename make new generations.
    #[test]
    fn files_are_what_was_written_in_a_directory(steps in prop::collection::vec(step(), 1..60)) {
        block_on(async {
            let (root, dir) = (tempfile::tempdir(), tempfile::tempdir().expect("a directory"));
            let root = root.expect("a directory");
            let store = Arc::new(LocalStore::new(root.path().to_owned()));
            ends_well(World::new(store, None, &dir), &steps, &dir).await;
        });
    }

    /// Whatever the moment, the next process brings every accepted byte to the store: to its place, or
    /// beside it where somebody else took that meanwhile.
    #[test]
    fn a_crash_loses_nothing(
        steps in prop::collection::vec(step(), 1..40),
        within in prop::option::of((0_usize..8, 0..STEPS.len())),
        taken in 0_u8..16,
    ) {
        block_on(async {
            let (store, dir) = (MemoryStore::new(), tempfile::tempdir().expect("a directory"));
            let mut world = World::new(Arc::new(store.clone()), Some(store.clone()), &dir);
            for step in &steps {
                world.run(step).await;
            }
            let left = crash(&world, &dir, within).await;
            let World { fs, names, files, .. } = world;
            drop(fs);
            let mut beside = Vec::new();
            for (nth, name) in NAMES.iter().enumerate() {
                let Some(file) = names.get(name) else { continue };
                if taken & (1 << nth) != 0 {
                    if stored(&store, name).await.is_none_or(|there| there != files[*file]) {
                        beside.push((*name, &files[*file]));
                    }
                    store.put(&StorePath::parse(name).expect("a path"), "theirs").expect("put");
                }
            }
            let next = FileSystem::new(Arc::new(store.clone()), settings(left.path()), tokio::runtime::Handle::current());
            let next = next.expect("settings");
            assert_eq!(next.recover().await.expect("read").waiting, 0);
            for (nth, name) in NAMES.iter().enumerate() {
                let Some(file) = names.get(name) else {
                    assert_eq!(stored(&store, name).await, None, "what was deleted stays so");
                    continue;
                };
                let expected = if taken & (1 << nth) != 0 { b"theirs" } else { &files[*file][..] };
                assert!(stored(&store, name).await.is_some_and(|there| there == expected), "{name} in the store");
                assert!(content(&next, name).await.is_some_and(|there| there == expected), "{name} on the mount");
            }
            let all = names_in(&store).await;
            for (name, bytes) in beside {
                let prefix = format!("{name}.springhouse-recovered-");
                let kept: Vec<&String> = all.iter().filter(|name| name.starts_with(&prefix)).collect();
                assert_eq!(kept.len(), 1, "{all:?}");
                assert!(stored(&store, kept[0]).await.is_some_and(|kept| kept == *bytes));
            }
            assert!(all.iter().all(|name| !name.contains("_COPYING_")), "{all:?}");
            assert_eq!(staged(left.path()), Vec::<String>::new());
        });
    }
}
