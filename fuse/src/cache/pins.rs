//! Pages that stay in memory for as long as there is room: interior pages of databases.

use std::{collections::HashMap, ops::Range};

use bytes::Bytes;
use parking_lot::RwLock;

/// Pinned pages by file and page. See [`super::BlockCache::pin`].
#[derive(Debug, Default)]
pub(super) struct Pins {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<u128, Pages>,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Pages {
    page_bytes: u64,
    pages: HashMap<u64, Bytes>,
}

impl Pins {
    /// Whether it was taken: not beyond `bytes_max` of all together, and not a page of another size than
    /// the file's others, which would be looked for at the wrong place.
    pub(super) fn pin(&self, file: u128, page_bytes: u64, offset: u64, page: Bytes, bytes_max: u64) -> bool {
        let mut state = self.state.write();
        let state = &mut *state;
        let more = page.len() as u64;
        if state.bytes + more > bytes_max {
            return false;
        }
        let fits = |pages: &Pages| pages.page_bytes == page_bytes;
        let whole = page_bytes > 0 && offset.is_multiple_of(page_bytes);
        if !whole || !state.files.get(&file).is_none_or(fits) {
            return false;
        }
        let pages = state.files.entry(file).or_default();
        pages.page_bytes = page_bytes;
        let old = pages.pages.insert(offset / page_bytes, page);
        state.bytes += more;
        state.bytes -= old.map_or(0, |old| old.len() as u64);
        true
    }

    /// The bytes of `wanted`, if they lie in one pinned page.
    pub(super) fn get(&self, file: u128, wanted: &Range<u64>) -> Option<Bytes> {
        let state = self.state.read();
        let pages = state.files.get(&file)?;
        let number = wanted.start / pages.page_bytes;
        let page = pages.pages.get(&number)?;
        let start = number * pages.page_bytes;
        let range = (wanted.start - start) as usize..(wanted.end - start) as usize;
        (range.end <= page.len()).then(|| page.slice(range))
    }

    /// Gives up all of a file's; their bytes.
    pub(super) fn unpin(&self, file: u128) -> u64 {
        let mut state = self.state.write();
        let freed = state.files.remove(&file).map_or(0, |pages| pages.bytes());
        state.bytes -= freed;
        freed
    }

    /// Gives up whole files, the largest first, until at most `bytes_max` are left; their bytes.
    pub(super) fn shrink(&self, bytes_max: u64) -> u64 {
        let mut freed = 0;
        while self.bytes() > bytes_max {
            let largest =
                self.state.read().files.iter().max_by_key(|(_, of)| of.bytes()).map(|(&file, _)| file);
            let Some(largest) = largest else { break };
            freed += self.unpin(largest);
        }
        freed
    }

    pub(super) fn bytes(&self) -> u64 {
        self.state.read().bytes
    }
}

impl Pages {
    fn bytes(&self) -> u64 {
        self.pages.values().map(|page| page.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_one_file_have_one_size() {
        let (pins, page) = (Pins::default(), |len: usize| Bytes::from(vec![7; len]));
        assert!(pins.pin(1, 4096, 8192, page(4096), 1 << 20));
        assert!(!pins.pin(1, 1024, 1024, page(1024), 1 << 20), "another size");
        assert!(!pins.pin(1, 4096, 100, page(4096), 1 << 20), "not where a page begins");
        assert!(!pins.pin(2, 0, 0, page(10), 1 << 20), "no size");
        assert_eq!(pins.get(1, &(8192..12_288)).map(|page| page.len()), Some(4096));
        assert_eq!(pins.bytes(), 4096, "what was refused is not counted");
        pins.unpin(1);
        assert!(pins.pin(1, 1024, 1024, page(1024), 1 << 20), "after the others went");
    }
}
