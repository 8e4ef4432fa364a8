//! The 100 bytes that begin a database.

use std::ops::Range;

/// Length of the header.
pub const HEADER_BYTES: usize = 100;

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
        (pages > 0).then_some(Self { page_bytes, usable_bytes, pages, encoding })
    }

    /// Where `page` lies in the file.
    pub fn bytes_of(&self, page: u32) -> Range<u64> {
        let size = u64::from(self.page_bytes);
        let end = u64::from(page) * size;
        end.saturating_sub(size)..end
    }
}

fn number(head: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}
