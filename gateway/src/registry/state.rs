//! The one owner of catalog, ledger and registry: what readers see has been made durable before.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::sync::Notify;

use super::{
    Meta, Registry, RegistryError, RowChange,
    catalog::{Catalog, Delta, Directory},
    export::Snapshot,
    ledger::{
        Checksum, Entry, Ledger,
        rows::{LEDGER, LedgerKey, read},
    },
    load::{Loaded, load},
    packed::{Difference, Facts, Packed},
    rows::{DirState, Key, encode_segments, seal},
    verify::{self, Findings},
};
use crate::{api::hot::Token, segment::SegmentId};

/// One change of the catalog.
#[derive(Debug, Clone)]
pub enum Change {
    /// What a listing of the directory showed.
    Listed {
        /// The directory.
        path: Arc<str>,
        /// Its new state.
        state: DirState,
        /// All its segments.
        segments: Packed,
    },
    /// The directory is to be listed at the next pass; its segments stay.
    Suspect(Arc<str>),
    /// The directory is gone.
    Removed(Arc<str>),
    /// One segment was looked at: its facts, or `None` if it is gone.
    Segment {
        /// Its directory.
        directory: Arc<str>,
        /// Its id.
        id: SegmentId,
        /// What the store says.
        facts: Option<Facts>,
    },
}

/// A directory before or after a change; `None`: not there.
pub type Version = Option<Arc<Directory>>;

impl Change {
    fn path(&self) -> &Arc<str> {
        match self {
            Self::Listed { path, .. } | Self::Suspect(path) | Self::Removed(path) => path,
            Self::Segment { directory, .. } => directory,
        }
    }
}

/// What [`State::amend`] has decided: changes of ledger and catalog that hold together, and its answer.
#[derive(Debug)]
pub struct Amendment<T> {
    /// Of the ledger, in order.
    pub entries: Vec<Entry>,
    /// Of the catalog.
    pub changes: Vec<Change>,
    /// For whoever asked.
    pub answer: T,
}

impl<T> Amendment<T> {
    /// Nothing is changed.
    pub fn none(answer: T) -> Self {
        Self { entries: Vec::new(), changes: Vec::new(), answer }
    }

    /// The ledger is.
    pub fn ledger(entries: Vec<Entry>, answer: T) -> Self {
        Self { entries, changes: Vec::new(), answer }
    }
}

/// What a write that failed leaves behind: it may have reached the disk all the same.
#[derive(Debug, Default)]
struct Writer {
    /// The highest token that was handed to a decision, written or not. It is not used again.
    handed: Token,
    /// Rows as the memory has them, to be written before anything else: what was refused must not come
    /// true at the next start.
    amends: Vec<RowChange>,
}

/// Catalog, ledger and registry, kept equal.
pub struct State {
    registry: Box<dyn Registry>,
    catalog: RwLock<Catalog>,
    ledger: RwLock<Ledger>,
    meta: RwLock<Meta>,
    /// Held by whoever changes something, over the write to disk; readers never wait for that.
    writer: Mutex<Writer>,
    /// Segments that placement cares for and that changed since it looked.
    moved: Mutex<HashSet<SegmentId>>,
    moved_some: Notify,
    /// Locked segments of which the store may have a generation that their writes do not build upon.
    overtaken: Mutex<HashSet<SegmentId>>,
    /// A write to disk failed, and may have had its effect: what is there may not be what is here.
    unsure: AtomicBool,
    /// The last pass of discovery could not read the store at all.
    store_away: AtomicBool,
}

impl State {
    /// Loads the catalog. Damaged rows are dropped, logged, and their directories listed again. Blocks.
    pub fn open(registry: Box<dyn Registry>, new_meta: impl FnOnce() -> Meta) -> Result<Self, RegistryError> {
        let mut meta = registry.meta()?.unwrap_or_else(new_meta);
        meta.epoch += 1;
        let Loaded { catalog, ledger, dropped } = load(&*registry)?;
        registry.commit(dropped)?;
        registry.set_meta(&meta)?;
        // What became known, and was not decided about, before the last end.
        let overtaken = ledger.locks().map(|(id, _)| id.clone()).collect();
        Ok(Self {
            registry,
            catalog: RwLock::new(catalog),
            ledger: RwLock::new(ledger),
            meta: RwLock::new(meta),
            writer: Mutex::default(),
            moved: Mutex::default(),
            moved_some: Notify::new(),
            overtaken: Mutex::new(overtaken),
            unsure: AtomicBool::new(false),
            store_away: AtomicBool::new(false),
        })
    }

    /// The catalog. Hold it for moments, never over an await.
    pub fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read()
    }

    /// The ledger. Hold it for moments, never over an await.
    pub fn ledger(&self) -> RwLockReadGuard<'_, Ledger> {
        self.ledger.read()
    }

    /// Checksum of `id` as it was promoted last. Blocks.
    pub fn checksum(&self, id: &SegmentId) -> Result<Option<Checksum>, RegistryError> {
        let key = LedgerKey::Checksum(id.clone()).encode();
        let Some(value) = self.registry.get(&key)? else { return Ok(None) };
        // A damaged one is as good as none: the file itself can be read again.
        Ok(read(&key, &value)
            .inspect_err(|reason| tracing::error!(segment = %id, reason, "damaged checksum in the registry"))
            .ok())
    }

    /// Segments that are raised or pinned and changed since the last call.
    pub fn take_moved(&self) -> HashSet<SegmentId> {
        std::mem::take(&mut *self.moved.lock())
    }

    /// Whether [`State::take_moved`] will name `id`.
    pub fn has_moved(&self, id: &SegmentId) -> bool {
        self.moved.lock().contains(id)
    }

    /// Locked segments that changed in the catalog since the last call, or were put off.
    pub fn take_overtaken(&self) -> HashSet<SegmentId> {
        std::mem::take(&mut *self.overtaken.lock())
    }

    /// The store may have a generation of `id` that its lock does not know: looked at with the next upkeep.
    pub fn put_off(&self, id: SegmentId) {
        self.overtaken.lock().insert(id);
    }

    /// Waits until [`State::take_moved`] or [`State::take_overtaken`] has something new, or has had it since
    /// the last wait.
    pub async fn moved(&self) {
        self.moved_some.notified().await;
    }

    /// Who this registry is.
    pub fn meta(&self) -> Meta {
        self.meta.read().clone()
    }

    /// Whether a discovery pass ever reached its end.
    pub fn discovered(&self) -> bool {
        self.meta.read().discovered
    }

    /// Changes the meta row. Blocks.
    pub fn update_meta(&self, update: impl FnOnce(&mut Meta)) -> Result<(), RegistryError> {
        let _writer = self.writer.lock();
        let mut meta = self.meta();
        update(&mut meta);
        if meta != *self.meta.read() {
            self.registry.set_meta(&meta)?;
            *self.meta.write() = meta;
        }
        Ok(())
    }

    /// Makes changes durable, then visible. If it fails nothing is changed. Blocks.
    pub fn commit(&self, changes: Vec<Change>) -> Result<Delta, RegistryError> {
        let mut writer = self.writer.lock();
        self.write(&mut writer, &[], changes)
    }

    /// [`Self::commit`] of listings. `before`: what was known of the directories when they were begun. What
    /// became known of single segments since then, by a promotion or a look, is newer, and stays.
    pub fn commit_listed(
        &self,
        mut changes: Vec<Change>,
        before: &HashMap<Arc<str>, Version>,
    ) -> Result<Delta, RegistryError> {
        let mut writer = self.writer.lock();
        for change in &mut changes {
            let Change::Listed { path, state, segments } = change else { continue };
            let Some(before) = before.get(path) else { continue };
            let now = self.catalog.read().directory(path).cloned();
            keep_newer(before.as_deref(), now.as_deref(), state, segments);
        }
        self.write(&mut writer, &[], changes)
    }

    /// Whether a write to disk failed, and nobody knows what came of it. See [`Self::make_sure`].
    pub fn is_unsure(&self) -> bool {
        self.unsure.load(SeqCst)
    }

    /// Writes what holds here over what a write that failed may have left: nothing may be promised under a lock
    /// that is gone after a restart. Blocks.
    pub fn make_sure(&self) -> Result<(), RegistryError> {
        self.write_amends(&mut self.writer.lock())
    }

    fn write_amends(&self, writer: &mut Writer) -> Result<(), RegistryError> {
        if !writer.amends.is_empty() {
            // What is on disk is not what holds.
            self.write(writer, &[], Vec::new())?;
        }
        Ok(())
    }

    /// Decides under the lock of all changes, then makes the decision durable, then visible: nobody can
    /// come between. `decide` gets the ledger and the next token, which is its own if it writes it down.
    /// Blocks.
    pub fn amend<T, E: From<RegistryError>>(
        &self,
        decide: impl FnOnce(&Ledger, Option<Token>) -> Result<Amendment<T>, E>,
    ) -> Result<T, E> {
        let mut writer = self.writer.lock();
        let next = self.ledger.read().next_token(self.meta.read().epoch, writer.handed);
        let Amendment { entries, changes, answer } = decide(&self.ledger.read(), next)?;
        for entry in &entries {
            if let Entry::Token(token) = entry {
                writer.handed = writer.handed.max(*token);
            }
        }
        if !entries.is_empty() || !changes.is_empty() {
            self.write(&mut writer, &entries, changes)?;
            let wished = entries.iter().filter_map(|entry| match entry {
                Entry::Raise(id, _) | Entry::Pins(id, _) | Entry::Tombstone(id, _) => Some(id.clone()),
                _ => None,
            });
            let moved = wished.collect();
            let mut ledger = self.ledger.write();
            for entry in entries {
                ledger.apply(entry);
            }
            drop(ledger);
            // Not before it can be seen: who looks in between would take the old for the new, and never
            // look again.
            self.note_moved(moved);
        }
        Ok(answer)
    }

    fn write(
        &self,
        writer: &mut Writer,
        entries: &[Entry],
        changes: Vec<Change>,
    ) -> Result<Delta, RegistryError> {
        // Several changes of one directory add up; nobody else can change it meanwhile.
        let mut next: BTreeMap<Arc<str>, (Version, Version)> = BTreeMap::new();
        for change in changes {
            let Some(change) = self.without_the_dead(change) else { continue };
            let path = change.path().clone();
            let (_, new) = next.entry(path).or_insert_with_key(|path| {
                let old = self.catalog.read().directory(path).cloned();
                (old.clone(), old)
            });
            *new = apply(new.take(), change);
        }
        next.retain(|_, (old, new)| old != new);
        let amends = writer.amends.len();
        let mut rows = writer.amends.clone();
        for (path, (old, new)) in &next {
            rows.append(&mut row_changes(path, old.as_deref(), new.as_deref()));
        }
        for entry in entries {
            rows.push(Ledger::row(entry).map_err(|e| RegistryError::Failed(format!("registry: {e}")))?);
        }
        if let Err(error) = self.registry.commit(rows) {
            self.note_amends(writer, entries, &next);
            return Err(error);
        }
        writer.amends.drain(..amends);
        self.unsure.store(!writer.amends.is_empty(), SeqCst);
        let mut delta = Delta::default();
        let (mut wished, mut locked) = (Vec::new(), Vec::new());
        for (path, (old, new)) in next {
            let (also_wished, also_locked) = self.noted_differences(old.as_deref(), new.as_deref());
            wished.extend(also_wished);
            locked.extend(also_locked);
            // One directory per lock: a batch of many must not hold up readers. The old version is
            // dropped outside.
            delta += self.catalog.write().replace(&path, new);
            drop(old);
        }
        // Whoever changes a lock together with the catalog knows of both.
        locked.retain(|id| !entries.iter().any(|entry| matches!(entry, Entry::Lock(own, _) if own == id)));
        // Only now: whoever hears of it looks at once.
        self.note_moved(wished);
        self.note_overtaken(locked);
        Ok(delta)
    }

    /// Notes how the rows of a failed write would have to be for the memory to be right.
    fn note_amends(
        &self,
        writer: &mut Writer,
        entries: &[Entry],
        next: &BTreeMap<Arc<str>, (Version, Version)>,
    ) {
        for (path, (old, new)) in next {
            writer.amends.append(&mut row_changes(path, new.as_deref(), old.as_deref()));
        }
        self.unsure.store(true, SeqCst);
        let ledger = self.ledger.read();
        writer.amends.extend(entries.iter().filter_map(|entry| ledger.row_of_the_same(entry)));
    }

    /// A change without the segments that are deleted: a listing, or a look, that was begun before the
    /// deletion does not bring them back.
    fn without_the_dead(&self, change: Change) -> Option<Change> {
        let ledger = self.ledger.read();
        if !ledger.has_tombstones() {
            return Some(change);
        }
        match change {
            Change::Segment { id, facts: Some(facts), .. }
                if ledger.buries(id.as_str(), facts.generation) =>
            {
                None
            }
            Change::Listed { path, state, segments } => {
                let dead = segments.iter().any(|(id, facts)| ledger.buries(id, facts.generation));
                let segments = if dead {
                    let alive = segments.iter().filter(|(id, facts)| !ledger.buries(id, facts.generation));
                    let mut kept = Packed::default();
                    for (id, facts) in alive {
                        kept.push(id, facts);
                    }
                    kept
                } else {
                    segments
                };
                Some(Change::Listed { path, state, segments })
            }
            other => Some(other),
        }
    }

    /// Segments that differ between two versions of a directory: those that are raised or pinned, and those
    /// that are locked.
    fn noted_differences(
        &self,
        old: Option<&Directory>,
        new: Option<&Directory>,
    ) -> (Vec<SegmentId>, Vec<SegmentId>) {
        let ledger = self.ledger.read();
        if ledger.wished().next().is_none() && ledger.locks().next().is_none() {
            return (Vec::new(), Vec::new());
        }
        let empty = Directory::default();
        let (was, is) = (old.unwrap_or(&empty), new.unwrap_or(&empty));
        let ids = is.segments.differences(&was.segments).map(|difference| match difference {
            Difference::Added(index) | Difference::Changed(index) => is.segments.id(index),
            Difference::Removed(index) => was.segments.id(index),
        });
        let (mut wished, mut locked) = (Vec::new(), Vec::new());
        for id in ids {
            if ledger.is_wished(id) {
                wished.extend(SegmentId::parse(id).ok());
            }
            if ledger.is_locked(id) {
                locked.extend(SegmentId::parse(id).ok());
            }
        }
        (wished, locked)
    }

    fn note_overtaken(&self, ids: Vec<SegmentId>) {
        if !ids.is_empty() {
            self.overtaken.lock().extend(ids);
            self.moved_some.notify_one();
        }
    }

    /// Placement has to look at these again.
    pub fn note_moved(&self, ids: Vec<SegmentId>) {
        if !ids.is_empty() {
            self.moved.lock().extend(ids);
            self.moved_some.notify_one();
        }
    }

    /// Everything as it is at one moment. Changes wait for as long as it takes to read the ledger.
    pub(super) fn snapshot(&self) -> Result<Snapshot, RegistryError> {
        let mut writer = self.writer.lock();
        self.write_amends(&mut writer)?;
        let mut ledger = Vec::new();
        self.registry.scan(&[LEDGER], Some(b"/"), &mut |key, value| {
            ledger.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
        let catalog = self.catalog();
        let directories = catalog.directories().map(|(path, directory)| (path.clone(), directory.clone()));
        Ok(Snapshot { meta: self.meta(), ledger, directories: directories.collect() })
    }

    /// Looks at all of it; see `verify`. Rows are read one by one: what is written meanwhile may show half.
    /// Blocks.
    pub fn verify(&self) -> Result<Findings, RegistryError> {
        let mut findings = Findings::default();
        verify::each_row(&*self.registry, &mut findings)?;
        let meta = self.meta();
        // In this order everywhere, and for a moment: whoever wants to change something waits.
        let (catalog, ledger) = (self.catalog(), self.ledger());
        verify::content(&catalog, &ledger, &meta, &mut findings);
        Ok(findings)
    }

    /// Whether workers may have locks that this registry does not know yet.
    pub fn is_adopting(&self) -> bool {
        self.meta.read().adopting.is_some()
    }

    /// The back end, for reading what is not in memory.
    pub(super) fn registry(&self) -> &dyn Registry {
        &*self.registry
    }

    /// Whether the store could not be read at all when discovery tried last.
    pub fn is_store_away(&self) -> bool {
        self.store_away.load(Relaxed)
    }

    /// Sets [`State::is_store_away`].
    pub fn set_store_away(&self, away: bool) {
        self.store_away.store(away, Relaxed);
    }

    /// Bytes of the registry on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.registry.disk_bytes()
    }
}

/// Brings into a listing what became known while it was made. Which of the two is right the next one shows.
fn keep_newer(
    before: Option<&Directory>,
    now: Option<&Directory>,
    state: &mut DirState,
    listed: &mut Packed,
) {
    let empty = Directory::default();
    let (before, now) = (before.unwrap_or(&empty), now.unwrap_or(&empty));
    if std::ptr::eq(before, now) {
        return;
    }
    for difference in now.segments.differences(&before.segments) {
        state.quiet = false;
        match difference {
            Difference::Added(index) | Difference::Changed(index) => {
                listed.put(now.segments.id(index), now.segments.facts(index));
            }
            Difference::Removed(index) => listed.remove(before.segments.id(index)),
        }
    }
}

fn apply(old: Version, change: Change) -> Version {
    let old_bounds = |old: &Version| old.as_ref().map(|d| d.bounds.clone()).unwrap_or_default();
    match change {
        Change::Listed { state, mut segments, .. } => {
            segments.shrink();
            let bounds = Directory::bounds_for(&segments, &old_bounds(&old));
            Some(Arc::new(Directory { state, segments, bounds }))
        }
        Change::Removed(_) => None,
        Change::Suspect(_) => old.map(|mut directory| {
            Arc::make_mut(&mut directory).state.seen = None;
            directory
        }),
        Change::Segment { id, facts, .. } => {
            if old.is_none() && facts.is_none() {
                return None;
            }
            let bounds = old_bounds(&old);
            let mut directory = old.unwrap_or_default();
            let changed = Arc::make_mut(&mut directory);
            match facts {
                Some(facts) => changed.segments.put(id.as_str(), facts),
                None => changed.segments.remove(id.as_str()),
            }
            changed.bounds = Directory::bounds_for(&changed.segments, &bounds);
            Some(directory)
        }
    }
}

/// The rows that differ between two versions of a directory.
pub(super) fn row_changes(path: &str, old: Option<&Directory>, new: Option<&Directory>) -> Vec<RowChange> {
    let mut changes = Vec::new();
    let put = |key: Key<'_>, payload: Vec<u8>| {
        let key = key.encode();
        let value = seal(&key, &payload);
        RowChange::Put(key, value)
    };
    match (old.map(|d| d.state), new.map(|d| d.state)) {
        (old, Some(state)) if old != Some(state) => changes.push(put(Key::Directory(path), state.encode())),
        (Some(_), None) => changes.push(RowChange::Delete(Key::Directory(path).encode())),
        _ => {}
    }
    let mut old_rows: BTreeMap<&str, _> = old.into_iter().flat_map(Directory::rows).collect();
    for (lower, range) in new.into_iter().flat_map(Directory::rows) {
        let (Some(new), old_range) = (new, old_rows.remove(lower)) else { continue };
        let same = match (old, old_range) {
            (Some(old), Some(old_range)) => new.segments.same(range.clone(), &old.segments, old_range),
            _ => false,
        };
        if !same {
            changes.push(put(Key::Segments(path, lower), encode_segments(&new.segments, range)));
        }
    }
    changes.extend(old_rows.into_keys().map(|lower| RowChange::Delete(Key::Segments(path, lower).encode())));
    changes
}
