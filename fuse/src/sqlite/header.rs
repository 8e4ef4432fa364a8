//! The 100 bytes that begin a database.

use std::ops::Range;

/// Length of the header.
pub const HEADER_BYTES: usize = 100;

/// SQLite locks bytes from here on.
const LOCK_BYTE: u64 = 1 << 30;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// How text is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// One byte for each ASCII character.
    Utf8,
    /// Little-endian.
    Utf16Le,
    /// Big-endian.
    Utf16Be,
}

/// What the header says, as far as it matters for reading b-trees.
///
/// Source of everything about the format in this folder: "Database File Format" of SQLite's
/// documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Size of a page in bytes: a power of two from 512 to 65536.
    pub page_bytes: u32,
    /// A page without the bytes that extensions reserve at its end.
    pub usable_bytes: u32,
    /// Number of the last page; pages count from 1.
    pub pages: u32,
    /// Encoding of the schema's names.
    pub encoding: Encoding,
    /// Whether some pages are pointer maps (`auto_vacuum`, full or incremental).
    pub auto_vacuum: bool,
}

impl Header {
    /// The header of a file of `file_len` bytes that begins with `head`; `None` if it is not a database,
    /// or one with anything odd, which is then read like any other file.
    pub fn parse(head: &[u8], file_len: u64) -> Option<Self> {
        let head: &[u8; HEADER_BYTES] = head.get(..HEADER_BYTES)?.try_into().ok()?;
        if !head.starts_with(MAGIC) {
            return None;
        }
        let page_bytes = match u16::from_be_bytes([head[16], head[17]]) {
            1 => 65_536,
            size => u32::from(size),
        };
        if !page_bytes.is_power_of_two() || page_bytes < 512 {
            return None;
        }
        let usable_bytes = page_bytes - u32::from(head[20]);
        // The three fractions are constants of the format; 480 is SQLite's own lower bound.
        if usable_bytes < 480 || head[21..24] != [64, 32, 32] {
            return None;
        }
        if !(1..=2).contains(&head[18]) || !(1..=2).contains(&head[19]) {
            return None;
        }
        let encoding = match number(head, 56) {
            // 0: nothing was written yet.
            0 | 1 => Encoding::Utf8,
            2 => Encoding::Utf16Le,
            3 => Encoding::Utf16Be,
            _ => return None,
        };
        let there = u32::try_from(file_len / u64::from(page_bytes)).ok()?;
        // The count is of the version that wrote it last only if that one knew of it.
        let counted = (number(head, 24) == number(head, 92)).then(|| number(head, 28));
        let pages = counted.filter(|&count| count > 0).map_or(there, |count| count.min(there));
        let auto_vacuum = number(head, 52) != 0;
        (pages > 0).then_some(Self { page_bytes, usable_bytes, pages, encoding, auto_vacuum })
    }

    /// Where `page` lies in the file.
    pub fn bytes_of(&self, page: u32) -> Range<u64> {
        let size = u64::from(self.page_bytes);
        let end = u64::from(page) * size;
        end.saturating_sub(size)..end
    }

    /// The page that holds the bytes that SQLite locks: always empty, whether or not the file reaches it.
    pub fn lock_page(&self) -> u32 {
        (LOCK_BYTE / u64::from(self.page_bytes)) as u32 + 1
    }

    /// Entries of a pointer map: it is about as many pages after it.
    pub fn map_entries(&self) -> u32 {
        self.usable_bytes / 5
    }

    /// The pointer map that `page` (from 2) belongs to or is: SQLite's `ptrmapPageno`.
    pub fn map_page_of(&self, page: u32) -> u32 {
        let every = self.map_entries() + 1;
        let map = page.saturating_sub(2) / every * every + 2;
        if map == self.lock_page() { map + 1 } else { map }
    }

    /// Whether `page` is never of a tree: the lock-byte page and pointer maps.
    pub fn is_fixed(&self, page: u32) -> bool {
        page == self.lock_page() || self.auto_vacuum && page > 1 && self.map_page_of(page) == page
    }
}

fn number(head: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(page_bytes: u32, reserved: u32, auto_vacuum: bool) -> Header {
        let usable_bytes = page_bytes - reserved;
        Header { page_bytes, usable_bytes, pages: u32::MAX, encoding: Encoding::Utf8, auto_vacuum }
    }

    #[test]
    fn fixed_pages_are_where_sqlite_has_them() {
        let plain = header(4096, 0, false);
        assert_eq!(plain.lock_page(), 262_145);
        assert_eq!((1..=262_144).find(|&page| plain.is_fixed(page)), None);
        assert!(plain.is_fixed(262_145) && !plain.is_fixed(262_146));
        let mapped = header(512, 0, true);
        let fixed: Vec<u32> = (1..=310).filter(|&page| mapped.is_fixed(page)).collect();
        assert_eq!(fixed, [2, 105, 208], "each maps the 102 pages after it");
        assert_eq!((mapped.map_page_of(104), mapped.map_page_of(106)), (2, 105));
    }

    #[test]
    fn a_pointer_map_gives_way_to_the_lock_page() {
        // Of all shapes some would have a map where the lock page is; there it comes one later.
        let mut seen = 0;
        for page_bytes in (9..=16).map(|power| 1 << power) {
            for reserved in (0..=255).filter(|reserved| page_bytes - reserved >= 480) {
                let header = header(page_bytes, reserved, true);
                let lock = header.lock_page();
                assert!(header.is_fixed(lock));
                if header.map_page_of(lock) == lock + 1 {
                    assert!(header.is_fixed(lock + 1));
                    assert_eq!(header.map_page_of(lock + 2), lock + 1);
                    seen += 1;
                }
            }
        }
        assert!(seen > 0);
    }
}
