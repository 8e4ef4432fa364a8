//! One page of a b-tree, read without trust.

use super::{
    header::{HEADER_BYTES, Header},
    record::{columns, index_entry, varint},
};

/// What a page of a b-tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    IndexInterior,
    TableInterior,
    IndexLeaf,
    TableLeaf,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            0x02 => Self::IndexInterior,
            0x05 => Self::TableInterior,
            0x0a => Self::IndexLeaf,
            0x0d => Self::TableLeaf,
            _ => return None,
        })
    }

    pub(super) fn is_leaf(self) -> bool {
        matches!(self, Self::IndexLeaf | Self::TableLeaf)
    }

    /// Whether it belongs to an index, or to a table without rowids, which is stored like one.
    pub(super) fn is_index(self) -> bool {
        matches!(self, Self::IndexInterior | Self::IndexLeaf)
    }
}

/// An entry of an index page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Row of the table; `None` if it lies on an overflow page, or there is none.
    pub(super) rowid: Option<i64>,
    /// Hash of all other columns.
    pub(super) key: u64,
}

/// The children of an interior page, and what stands between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interior {
    /// From left to right.
    pub(super) children: Vec<u32>,
    /// One less than children. Of a table: the largest rowid at or below each child but the last. Of an
    /// index: the row of the entry between two children, `NO_ROWID` where it is not known.
    pub(super) rowids: Vec<i64>,
}

/// Stands for a row that is not known; no table in use has a row of this number.
pub(super) const NO_ROWID: i64 = i64::MIN;

/// A page that looks like one of a b-tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page<'a> {
    bytes: &'a [u8],
    usable: usize,
    pub(super) kind: Kind,
    /// Where the cell pointers begin, and how many there are.
    pointers: usize,
    cells: usize,
    rightmost: u32,
}

impl<'a> Page<'a> {
    /// The page `number`, all of whose bytes are `bytes`; `None` if it is not of a b-tree.
    pub(super) fn parse(header: &Header, number: u32, bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() != header.page_bytes as usize {
            return None;
        }
        let usable = header.usable_bytes as usize;
        let start = if number == 1 { HEADER_BYTES } else { 0 };
        let kind = Kind::of(bytes[start])?;
        let cells = usize::from(u16_at(bytes, start + 3)?);
        let pointers = start + if kind.is_leaf() { 8 } else { 12 };
        if pointers + 2 * cells > usable {
            return None;
        }
        let rightmost = if kind.is_leaf() { 0 } else { u32_at(bytes, start + 8)? };
        Some(Self { bytes, usable, kind, pointers, cells, rightmost })
    }

    /// From the start of cell `i` to the end of what may be used: its own end is inside.
    fn cell(&self, i: usize) -> Option<&'a [u8]> {
        let at = usize::from(u16_at(self.bytes, self.pointers + 2 * i)?);
        if at < self.pointers + 2 * self.cells {
            return None;
        }
        self.bytes.get(at..self.usable)
    }

    /// What an interior page holds; `None` of a leaf or if any cell is odd.
    pub(super) fn interior(&self) -> Option<Interior> {
        if self.kind.is_leaf() {
            return None;
        }
        let mut children = Vec::with_capacity(self.cells + 1);
        let mut rowids = Vec::with_capacity(self.cells);
        for i in 0..self.cells {
            let cell = self.cell(i)?;
            children.push(u32_at(cell, 0)?);
            let rest = &cell[4..];
            rowids.push(if self.kind.is_index() {
                self.index_cell(rest)?.rowid.unwrap_or(NO_ROWID)
            } else {
                varint(rest)?.0 as i64
            });
        }
        children.push(self.rightmost);
        Some(Interior { children, rowids })
    }

    /// The entries of an index leaf in order; `None` of another page or if any cell is odd.
    pub(super) fn entries(&self) -> Option<Vec<Entry>> {
        if self.kind != Kind::IndexLeaf {
            return None;
        }
        (0..self.cells).map(|i| self.index_cell(self.cell(i)?)).collect()
    }

    /// The overflow chains that begin at cells of a table leaf: first page and length in pages.
    pub(super) fn overflows(&self) -> Vec<(u32, u32)> {
        if self.kind != Kind::TableLeaf {
            return Vec::new();
        }
        (0..self.cells).filter_map(|i| self.overflow(i)).collect()
    }

    fn overflow(&self, i: usize) -> Option<(u32, u32)> {
        let cell = self.cell(i)?;
        let (payload, at) = varint(cell)?;
        let (_, len) = varint(&cell[at..])?;
        let local = local_bytes(payload, self.usable, self.usable - 35);
        if payload <= local as u64 {
            return None;
        }
        let first = u32_at(cell, at + len + local)?;
        let rest = payload - local as u64;
        Some((first, u32::try_from(rest.div_ceil(self.usable as u64 - 4)).ok()?))
    }

    /// The first `count` columns of each row of a table leaf, of those rows where they are on the page.
    pub(super) fn rows<T>(
        &self,
        count: usize,
        row: impl Fn(&[super::record::Column<'_>]) -> Option<T>,
    ) -> Vec<T> {
        if self.kind != Kind::TableLeaf {
            return Vec::new();
        }
        let one = |i| {
            let cell = self.cell(i)?;
            let (payload, at) = varint(cell)?;
            let (_, len) = varint(&cell[at..])?;
            let local = local_bytes(payload, self.usable, self.usable - 35);
            let end = (at + len).checked_add(local)?;
            row(&columns(cell.get(at + len..end)?, count)?)
        };
        (0..self.cells).filter_map(one).collect()
    }

    fn index_cell(&self, cell: &[u8]) -> Option<Entry> {
        let (payload, at) = varint(cell)?;
        let local = local_bytes(payload, self.usable, (self.usable - 12) * 64 / 255 - 23);
        let here = cell.get(at..at.checked_add(local)?)?;
        let (rowid, key) = match index_entry(here) {
            Some((rowid, key)) if local as u64 == payload => (Some(rowid), key),
            // Its end is on another page: never equal to a neighbour.
            _ => (None, u64::from(u16_at(cell, 0)?) << 32 | payload & 0xffff_ffff),
        };
        Some(Entry { rowid, key })
    }
}

/// Bytes of a payload that lie on its b-tree page, of which `max` would be too many for none to overflow.
fn local_bytes(payload: u64, usable: usize, max: usize) -> usize {
    if payload <= max as u64 {
        return payload as usize;
    }
    let min = (usable - 12) * 32 / 255 - 23;
    let wished = min + ((payload - min as u64) % (usable as u64 - 4)) as usize;
    if wished <= max { wished } else { min }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}
