//! SQLite databases on the mount: carries out what [`crate::sqlite`] advises.
//!
//! Each open file has a [`Slot`]. The first bytes of a file tell whether it is a database; of a small one
//! the rest is fetched at once, of any other the head is learnt, and from then on every request for a page
//! and every page that comes is told to its [`Database`]. What that asks for is fetched in tasks of their
//! own, so no reader waits for advice. No lock is held while bytes are on their way.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use self::distance::Distance;
use crate::{
    cache::{BlockCache, Purpose, Source, Stream},
    sqlite::{Arrived, Database, HEADER_BYTES, Header, Work},
    store::Reader,
};

mod distance;
#[cfg(test)]
mod tests;

/// A database up to this size comes whole when it is opened.
const WHOLE_BYTES_MAX: u64 = 2 << 20;

/// The head of a larger one: page 1, and the roots of the first tables behind it.
const HEAD_BYTES: u64 = 64 << 10;

/// Requests above this are of a sequential reader: nothing is guessed from them.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// Pages of one request that are looked at if they are smaller than the kernel's: which of them was
/// wanted cannot be told.
const KERNEL_PAGE_BYTES: u64 = 4096;

/// Interior pages fetched together by one task.
const FETCH_PAGES: usize = 64;

/// Largest single read of interior pages that lie together.
const INTERIOR_BYTES_MAX: u64 = 16 << 20;

/// Where interior pages stand first: which part of the file they are (measured: 0.28 to 0.59 % at 4 KiB
/// pages), and how much of them is read with the head.
const INTERIOR_PART: u64 = 160;
const INTERIOR_HEAD_BYTES_MAX: u64 = 8 << 20;

/// Guesses that nobody came for within this time are let go.
const AHEAD_IDLE: Duration = Duration::from_secs(5);

/// Endings of names of databases: their head is fetched before anybody asks.
const ENDINGS: [&str; 8] = ["sqlite", "sqlite3", "db", "db3", "s3db", "sqlitedb", "gpkg", "mbtiles"];

/// What a file turned out to be.
const UNSEEN: u8 = 0;
const PLAIN: u8 = 1;
const DATABASE: u8 = 2;

/// What is known of one generation of one file. It belongs to the open file, and, if it is a database,
/// to the table of [`Databases`] for as long as there is memory for it.
#[derive(Debug)]
pub(super) struct Slot {
    file: u128,
    kind: AtomicU8,
    database: Mutex<Option<Database>>,
    /// What was guessed. Not the stream of a handle: a seek there must not let go of what is not
    /// sequential anyway.
    ahead: Stream,
    /// Interior pages in the order in which they were learnt, which the cache has pinned, and how many of
    /// them are on disk.
    kept: Mutex<(Vec<(u64, Bytes)>, usize)>,
    /// Memory that it is charged for.
    bytes: AtomicU64,
    /// When it was used last, in ticks.
    used: AtomicU64,
}

/// See the module. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Databases {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cache: Arc<BlockCache>,
    runtime: Handle,
    /// Bound of everything known and kept of databases; 0: none is recognised.
    bytes_max: u64,
    known: Mutex<HashMap<u128, Arc<Slot>>>,
    ticks: AtomicU64,
    distance: Arc<Distance>,
    /// The last large database had its interior pages first: the next one probably has, too.
    interior_first: AtomicBool,
}

impl Databases {
    /// Recognises databases if `bytes_max` is not 0.
    pub(super) fn new(cache: Arc<BlockCache>, runtime: Handle, bytes_max: u64) -> Self {
        let inner = Inner {
            cache,
            runtime,
            bytes_max,
            known: Mutex::default(),
            ticks: AtomicU64::new(0),
            distance: Arc::default(),
            interior_first: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The slot of a file that is being opened. With a name like a database's its head is fetched now.
    pub(super) fn open(&self, source: &Source, name: &str) -> Arc<Slot> {
        let known = self.inner.known.lock().get(&source.file).cloned();
        if let Some(slot) = known {
            self.inner.touch(&slot);
            return slot;
        }
        let off = self.inner.bytes_max == 0 || source.len() < HEADER_BYTES as u64;
        let slot = Arc::new(Slot {
            file: source.file,
            kind: AtomicU8::new(if off { PLAIN } else { UNSEEN }),
            database: Mutex::default(),
            ahead: Stream::new(0),
            kept: Mutex::default(),
            bytes: AtomicU64::new(0),
            used: AtomicU64::new(0),
        });
        if !off && looks_like_a_database(name) {
            self.inner.clone().fetch_head(slot.clone(), source.clone());
        }
        slot
    }

    /// `file` stands for other bytes from now on.
    pub(super) fn forget(&self, file: u128) {
        self.inner.known.lock().remove(&file);
    }

    /// A reader asks for these bytes; to be told before they are read.
    pub(super) fn requested(&self, slot: &Arc<Slot>, source: &Source, offset: u64, len: usize) {
        if slot.kind.load(Relaxed) != DATABASE || len > REQUEST_BYTES_MAX {
            return;
        }
        let work = {
            let mut database = slot.database.lock();
            let Some(database) = database.as_mut() else { return };
            for page in asked_pages(database.header(), offset, len as u64) {
                database.requested(page);
            }
            database.work(self.inner.is_far())
        };
        self.inner.start(slot, source, work);
    }

    /// Bytes of a file have come to a reader.
    pub(super) fn arrived(&self, slot: &Arc<Slot>, source: &Source, offset: u64, bytes: &Bytes) {
        match slot.kind.load(Relaxed) {
            UNSEEN if offset == 0 => match Header::parse(bytes, source.len()) {
                Some(_) => self.inner.clone().fetch_head(slot.clone(), source.clone()),
                None => slot.kind.store(PLAIN, Relaxed),
            },
            DATABASE => {
                self.inner.learn(slot, source, offset, bytes, bytes.len() <= REQUEST_BYTES_MAX);
                self.inner.work(slot, source);
            }
            _ => {}
        }
    }

    /// A statement that is about to run reads the trees with these roots; `false` if the file is not
    /// known as a database.
    pub(super) fn hint(&self, slot: &Arc<Slot>, source: &Source, roots: &[u32]) -> bool {
        match slot.database.lock().as_mut() {
            Some(database) => database.hint(roots),
            None => return false,
        }
        self.inner.work(slot, source);
        true
    }

    /// `reader`, of whose reads it is noted how long they take.
    pub(super) fn timed(&self, reader: Arc<dyn Reader>) -> Arc<dyn Reader> {
        if self.inner.bytes_max == 0 {
            return reader;
        }
        self.inner.distance.time(reader)
    }

    /// The store took so long to answer a question.
    pub(super) fn answered(&self, took: Duration) {
        let distance = &self.inner.distance;
        distance.observe(took, distance.reads());
    }

    /// Whether a round trip to the store costs more than some questions and bytes too many.
    pub(super) fn is_far(&self) -> bool {
        self.inner.is_far()
    }

    /// Lets go of guesses that nobody came for. To be called every few seconds.
    pub(super) fn maintain(&self) {
        let slots: Vec<_> = self.inner.known.lock().values().cloned().collect();
        for slot in slots {
            slot.ahead.relax(AHEAD_IDLE);
        }
    }

    /// A handle of the file is being closed: what was learnt is kept on disk, if there is one.
    pub(super) fn released(&self, slot: &Slot, source: &Source) {
        let mut kept = slot.kept.lock();
        if kept.0.len() > kept.1 {
            kept.1 = kept.0.len();
            self.inner.cache.save_learnt(source, kept.0.clone());
        }
    }
}

impl Inner {
    /// Fetches the head of a file, or all of a small one, and makes it known as what it is.
    fn fetch_head(self: Arc<Self>, slot: Arc<Slot>, source: Source) {
        let len = source.len();
        let head = if len <= WHOLE_BYTES_MAX {
            0..len
        } else if self.interior_first.load(Relaxed) {
            0..HEAD_BYTES.max((len / INTERIOR_PART).min(INTERIOR_HEAD_BYTES_MAX))
        } else {
            0..HEAD_BYTES
        };
        let runtime = self.runtime.clone();
        let mut work = Box::pin(async move {
            let Some(Ok(bytes)) = self.cache.fetch(&source, &[head], Purpose::Demand).await.pop() else {
                return;
            };
            match Header::parse(&bytes, len).filter(|_| len > WHOLE_BYTES_MAX) {
                Some(header) => self.recognise(&slot, &source, header, &bytes).await,
                None => slot.kind.store(PLAIN, Relaxed),
            }
        });
        // Begun here, so that the first request of a reader finds the read under way and joins it.
        let _inside = runtime.enter();
        if work.as_mut().now_or_never().is_none() {
            runtime.spawn(work);
        }
    }

    async fn recognise(self: &Arc<Self>, slot: &Arc<Slot>, source: &Source, header: Header, head: &Bytes) {
        let Some(room) = self.bytes_max.checked_sub(Database::bytes_min(&header)) else {
            return slot.kind.store(PLAIN, Relaxed);
        };
        {
            let mut database = slot.database.lock();
            if database.is_some() {
                return;
            }
            *database = Some(Database::new(header, room));
        }
        self.known.lock().insert(slot.file, slot.clone());
        slot.kind.store(DATABASE, Relaxed);
        self.learn(slot, source, 0, head, false);
        self.remember(slot, source, &header).await;
        let head_pages = (HEAD_BYTES / u64::from(header.page_bytes)) as u32;
        let interior = slot.database.lock().as_ref().and_then(|database| database.interior_first(head_pages));
        self.interior_first.store(interior.is_some(), Relaxed);
        let head_pages = (head.len() as u64 / u64::from(header.page_bytes)) as u32;
        if let Some(last) = interior.filter(|&last| last > head_pages) {
            let start = header.bytes_of(head_pages).end;
            let end = header.bytes_of(last).end.min(start + INTERIOR_BYTES_MAX.min(room));
            let rest = start..end / u64::from(header.page_bytes) * u64::from(header.page_bytes);
            if let Some(Ok(bytes)) = self.cache.fetch(source, &[rest], Purpose::Interior).await.pop() {
                self.learn(slot, source, start, &bytes, false);
            }
        }
        self.work(slot, source);
    }

    /// Learns what an earlier process learnt of this generation.
    async fn remember(&self, slot: &Slot, source: &Source, header: &Header) {
        let Some(pages) = self.cache.learnt(source).await else { return };
        for (at, bytes) in pages {
            if bytes.len() == header.page_bytes as usize && at.is_multiple_of(u64::from(header.page_bytes)) {
                let page = (at / u64::from(header.page_bytes) + 1) as u32;
                self.learn_page(slot, source, header, page, &bytes, false);
            }
        }
        let mut kept = slot.kept.lock();
        kept.1 = kept.0.len();
    }

    /// Tells the database the whole pages in `bytes`, which begin at `offset`, and keeps interior ones.
    fn learn(&self, slot: &Arc<Slot>, source: &Source, offset: u64, bytes: &Bytes, asked: bool) {
        let Some(header) = slot.database.lock().as_ref().map(|database| *database.header()) else { return };
        let size = header.page_bytes as usize;
        let wanted = if asked { asked_pages(&header, offset, bytes.len() as u64) } else { 0..0 };
        let skip = (offset.next_multiple_of(size as u64) - offset) as usize;
        let first = (offset.div_ceil(size as u64) + 1) as u32;
        for (page, one) in (first..).zip(bytes.get(skip..).unwrap_or_default().chunks_exact(size)) {
            let start = if page == 1 { HEADER_BYTES } else { 0 };
            // Nearly all pages of a scan end here, or at the next question, without a lock for long.
            if matches!(one[start], 0x02 | 0x05) || wanted.contains(&page) || page == 1 {
                self.learn_page(slot, source, &header, page, one, wanted.contains(&page));
            }
        }
        self.charge(slot);
    }

    fn learn_page(
        &self,
        slot: &Slot,
        source: &Source,
        header: &Header,
        page: u32,
        bytes: &[u8],
        asked: bool,
    ) {
        let outcome = match slot.database.lock().as_mut() {
            Some(database) if database.wants(page, bytes) => database.arrived(page, bytes, asked),
            _ => return,
        };
        if outcome == Arrived::Keep {
            let (size, at) = (u64::from(header.page_bytes), header.bytes_of(page).start);
            let page = Bytes::copy_from_slice(bytes);
            if self.cache.pin(source, size, at, page.clone()) {
                slot.kept.lock().0.push((at, page));
            }
        }
    }

    /// Does what the database advises now.
    fn work(self: &Arc<Self>, slot: &Arc<Slot>, source: &Source) {
        let work = slot.database.lock().as_mut().map(|database| database.work(self.is_far()));
        if let Some(work) = work {
            self.start(slot, source, work);
        }
    }

    fn start(self: &Arc<Self>, slot: &Arc<Slot>, source: &Source, work: Work) {
        if work.is_empty() {
            return;
        }
        let Some(header) = slot.database.lock().as_ref().map(|database| *database.header()) else { return };
        self.touch(slot);
        if !work.ahead.is_empty() {
            self.look_ahead(slot, source, &header, &work.ahead);
        }
        if !work.index_leaves.is_empty() {
            self.fetch_pages(slot, source, &header, work.index_leaves, Purpose::Lookahead);
        }
        for pages in work.interior.chunks(FETCH_PAGES) {
            self.fetch_pages(slot, source, &header, pages.to_vec(), Purpose::Interior);
        }
    }

    fn look_ahead(&self, slot: &Slot, source: &Source, header: &Header, pages: &[u32]) {
        // What does not fit is asked for by whoever needs it.
        self.cache.look_ahead(source, &slot.ahead, &ranges_of(header, pages));
    }

    fn fetch_pages(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        source: &Source,
        header: &Header,
        pages: Vec<u32>,
        purpose: Purpose,
    ) {
        let (inner, slot, source, header) = (self.clone(), slot.clone(), source.clone(), *header);
        self.runtime.spawn(async move {
            let ranges: Vec<_> = pages.iter().map(|&page| header.bytes_of(page)).collect();
            let fetched = inner.cache.fetch(&source, &ranges, purpose).await;
            for (&page, bytes) in pages.iter().zip(fetched) {
                match bytes {
                    Ok(bytes) => inner.learn_page(&slot, &source, &header, page, &bytes, true),
                    Err(_) => {
                        if let Some(database) = slot.database.lock().as_mut() {
                            database.failed(page);
                        }
                    }
                }
            }
            inner.charge(&slot);
            inner.work(&slot, &source);
        });
    }

    fn touch(&self, slot: &Slot) {
        slot.used.store(self.ticks.fetch_add(1, Relaxed) + 1, Relaxed);
    }

    /// Brings the memory of a file to account; whole other files go while it is too much.
    fn charge(&self, slot: &Arc<Slot>) {
        let bytes = slot.database.lock().as_ref().map_or(0, Database::bytes);
        if slot.bytes.swap(bytes, Relaxed) == bytes {
            return;
        }
        let mut known = self.known.lock();
        let mut total: u64 = known.values().map(|slot| slot.bytes.load(Relaxed)).sum();
        while total > self.bytes_max {
            let others = known.values().filter(|other| !Arc::ptr_eq(other, slot));
            let Some(victim) = others.min_by_key(|slot| slot.used.load(Relaxed)).cloned() else { break };
            known.remove(&victim.file);
            total -= victim.bytes.swap(0, Relaxed);
            // Its next first bytes make it known again.
            *victim.database.lock() = None;
            *victim.kept.lock() = Default::default();
            victim.kind.store(UNSEEN, Relaxed);
            self.cache.unpin(victim.file);
        }
    }

    fn is_far(&self) -> bool {
        self.distance.is_far()
    }
}

/// The pages of a request that a reader may have meant: the first, or, of pages smaller than the
/// kernel's, all in the kernel's first.
fn asked_pages(header: &Header, offset: u64, len: u64) -> Range<u32> {
    let size = u64::from(header.page_bytes);
    let first = offset / size + 1;
    let count = (KERNEL_PAGE_BYTES.min(len) / size).max(1);
    let number = |page: u64| u32::try_from(page).unwrap_or(u32::MAX);
    number(first)..number(first + count)
}

/// Bytes of `pages` in their order, neighbours together.
fn ranges_of(header: &Header, pages: &[u32]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::with_capacity(pages.len());
    for &page in pages {
        let bytes = header.bytes_of(page);
        match ranges.last_mut() {
            Some(last) if last.end == bytes.start => last.end = bytes.end,
            _ => ranges.push(bytes),
        }
    }
    ranges
}

/// Whether a file of this name is mostly a database.
pub(super) fn looks_like_a_database(name: &str) -> bool {
    name.rsplit_once('.')
        .is_some_and(|(_, ending)| ENDINGS.iter().any(|known| known.eq_ignore_ascii_case(ending)))
}
