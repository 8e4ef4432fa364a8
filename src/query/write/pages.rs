//! Which pages of a written database changed since somebody took them away for safety.

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A set of page numbers, from 1: a bit for each up to the greatest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageSet {
    words: Vec<u64>,
    count: u64,
}

impl PageSet {
    /// Puts a page in.
    pub fn insert(&mut self, page: u32) {
        let (word, bit) = (page as usize / 64, 1 << (page % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        if self.words[word] & bit == 0 {
            self.words[word] |= bit;
            self.count += 1;
        }
    }

    /// Puts all of `other` in.
    pub fn extend(&mut self, other: &Self) {
        other.iter().for_each(|page| self.insert(page));
    }

    /// How many.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.words.iter().enumerate().flat_map(|(at, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(at as u32 * 64 + bit)
            })
        })
    }
}

/// Pages that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pages {
    /// Nobody knows which: any may have.
    All,
    /// Surely no others.
    These(PageSet),
}

impl Pages {
    /// Both.
    #[must_use]
    pub fn and(self, other: &Self) -> Self {
        match (self, other) {
            (Self::These(mut pages), Self::These(others)) => {
                pages.extend(others);
                Self::These(pages)
            }
            _ => Self::All,
        }
    }
}

/// Transactions of one segment that exist on this disk alone, and the pages that they changed. The writer
/// puts them in as it commits, whoever ships them takes them out.
#[derive(Debug)]
pub struct Unshipped {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug)]
struct Inner {
    pages: Pages,
    /// `pages` is `All` only because nobody saw what happened to the file before it was opened at this
    /// transaction; what changed since is in the second.
    unseen: Option<(u64, PageSet)>,
    /// All transactions up to this one are in `pages`.
    seen: Option<u64>,
    /// When the oldest of them was acknowledged: of those that are here, and of those taken out.
    since: Option<Instant>,
    taken_since: Option<Instant>,
}

/// What was taken out. It goes back when it is dropped, unless it was shipped.
#[derive(Debug)]
pub struct Taken {
    unshipped: Arc<Unshipped>,
    pages: Option<Pages>,
    since: Option<Instant>,
}

impl Taken {
    /// The pages.
    pub fn pages(&self) -> &Pages {
        self.pages.as_ref().unwrap_or(&Pages::All)
    }

    /// It is safe now; the pages.
    pub fn shipped(mut self) -> Pages {
        let pages = self.pages.take();
        self.unshipped.inner.lock().taken_since = None;
        pages.unwrap_or(Pages::All)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Some(pages) = self.pages.take() else { return };
        {
            let mut inner = self.unshipped.inner.lock();
            let here = std::mem::replace(&mut inner.pages, Pages::All);
            inner.pages = pages.and(&here);
            inner.taken_since = None;
            inner.since = self.since.or(inner.since);
        }
        self.unshipped.changed.notify_one();
    }
}

impl Unshipped {
    /// Of a database that nobody knows anything of: all of it is unshipped from the first change on.
    pub fn unknown() -> Self {
        Self::new(Pages::All, None)
    }

    /// Of a database that is at `change`, where only `pages` are others than where they were shipped.
    pub fn from(pages: PageSet, change: u64) -> Self {
        Self::new(Pages::These(pages), Some(change))
    }

    fn new(pages: Pages, seen: Option<u64>) -> Self {
        let inner = Inner { pages, unseen: None, seen, since: None, taken_since: None };
        Self { inner: Mutex::new(inner), changed: Notify::new() }
    }

    /// The database was opened and is at `change`. A crash, or a commit whose outcome nobody knew, may have
    /// brought what the writer did not see.
    pub(super) fn opened(&self, change: u64) {
        let mut inner = self.inner.lock();
        if inner.seen != Some(change) {
            inner.pages = Pages::All;
            inner.unseen = inner.seen.is_none().then(|| (change, PageSet::default()));
            if inner.seen.is_some() {
                inner.since.get_or_insert_with(Instant::now);
            }
            inner.seen = Some(change);
        }
    }

    /// Transactions up to `change` were committed, and changed `pages`; `None`: nobody knows which.
    pub(super) fn committed(&self, change: u64, pages: Option<&[u32]>) {
        {
            let mut inner = self.inner.lock();
            match pages {
                Some(pages) => {
                    if let Some((_, set)) = &mut inner.unseen {
                        pages.iter().for_each(|page| set.insert(*page));
                    }
                    if let Pages::These(set) = &mut inner.pages {
                        pages.iter().for_each(|page| set.insert(*page));
                    }
                }
                None => (inner.pages, inner.unseen) = (Pages::All, None),
            }
            inner.seen = Some(change);
            inner.since.get_or_insert_with(Instant::now);
        }
        self.changed.notify_one();
    }

    /// The last process shipped all up to `change`. Only if the file was opened at just that does it follow
    /// which pages changed.
    pub fn resume(&self, change: u64) {
        let mut inner = self.inner.lock();
        if let Some((_, set)) = inner.unseen.take_if(|(opened, _)| *opened == change) {
            inner.pages = Pages::These(set);
            if inner.seen == Some(change) {
                inner.since = None;
            }
        }
    }

    /// Takes everything out; what comes from now on is counted anew. One at a time.
    pub fn take(self: &Arc<Self>) -> Taken {
        let mut inner = self.inner.lock();
        let pages = std::mem::replace(&mut inner.pages, Pages::These(PageSet::default()));
        (inner.unseen, inner.taken_since) = (None, inner.since.take());
        Taken { unshipped: Arc::clone(self), pages: Some(pages), since: inner.taken_since }
    }

    /// What was shipped before counts for nothing any more. `unsafe_now`: there are transactions that are
    /// nowhere else.
    pub fn begin_anew(&self, unsafe_now: bool) {
        {
            let mut inner = self.inner.lock();
            (inner.pages, inner.unseen) = (Pages::All, None);
            if unsafe_now {
                inner.since.get_or_insert_with(Instant::now);
            }
        }
        self.changed.notify_one();
    }

    /// There are transactions that may be nowhere else.
    pub fn mark(&self) {
        self.inner.lock().since.get_or_insert_with(Instant::now);
        self.changed.notify_one();
    }

    /// All transactions are in the store by another way.
    pub fn all_safe(&self, change: u64) {
        let mut inner = self.inner.lock();
        if inner.seen.is_none_or(|seen| seen <= change) {
            inner.since = None;
        }
    }

    /// When the oldest transaction was acknowledged that is nowhere else.
    pub fn since(&self) -> Option<Instant> {
        let inner = self.inner.lock();
        match (inner.since, inner.taken_since) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Since when something waits to be taken, and how many pages; `None`: of all of them.
    pub fn waiting(&self) -> Option<(Instant, Option<u64>)> {
        let inner = self.inner.lock();
        let pages = match &inner.pages {
            Pages::All => None,
            Pages::These(pages) => Some(pages.len()),
        };
        inner.since.map(|since| (since, pages))
    }

    /// Wakes whoever waits for a change.
    pub fn wake(&self) {
        self.changed.notify_one();
    }

    /// Waits for a change of what waits, or [`Unshipped::wake`].
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_is_a_set(pages in prop::collection::vec(1_u32..5000, 0..200)) {
            let mut set = PageSet::default();
            pages.iter().for_each(|page| set.insert(*page));
            let model: BTreeSet<u32> = pages.into_iter().collect();
            prop_assert_eq!(set.len(), model.len() as u64);
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), model.into_iter().collect::<Vec<_>>());
        }
    }

    fn these(pages: &[u32]) -> Pages {
        let mut set = PageSet::default();
        pages.iter().for_each(|page| set.insert(*page));
        Pages::These(set)
    }

    #[test]
    fn what_was_not_safe_comes_again_with_its_age() {
        let unshipped = Arc::new(Unshipped::from(PageSet::default(), 3));
        unshipped.opened(3);
        assert_eq!(unshipped.since(), None);
        unshipped.committed(4, Some(&[1, 7]));
        let oldest = unshipped.since().expect("unshipped");
        let taken = unshipped.take();
        assert_eq!(*taken.pages(), these(&[1, 7]));
        unshipped.committed(5, Some(&[1, 9]));
        assert_eq!(unshipped.since(), Some(oldest), "what is on its way is not there yet");
        drop(taken);
        assert_eq!(unshipped.waiting(), Some((oldest, Some(3))));
        assert_eq!(unshipped.take().shipped(), these(&[1, 7, 9]));
        assert_eq!(unshipped.since(), None);
    }

    #[test]
    fn what_the_writer_did_not_see_may_be_any_page() {
        // A commit whose outcome was not known took place after all.
        let unshipped = Arc::new(Unshipped::from(PageSet::default(), 3));
        unshipped.opened(4);
        assert_eq!(unshipped.take().shipped(), Pages::All);
        // A new process, and what the store has is what it found.
        let unshipped = Arc::new(Unshipped::unknown());
        unshipped.mark();
        unshipped.opened(4);
        unshipped.resume(4);
        assert_eq!((unshipped.since(), unshipped.take().shipped()), (None, these(&[])));
        // Less than it found.
        let unshipped = Arc::new(Unshipped::unknown());
        unshipped.opened(4);
        unshipped.committed(5, Some(&[1]));
        unshipped.resume(3);
        assert_eq!(unshipped.take().shipped(), Pages::All);
        // As much as it found, and more came since.
        let unshipped = Arc::new(Unshipped::unknown());
        unshipped.opened(4);
        unshipped.committed(5, Some(&[1, 2]));
        unshipped.resume(4);
        assert!(unshipped.since().is_some());
        assert_eq!(unshipped.take().shipped(), these(&[1, 2]));
    }
}
