//! One page of a b-tree, read strictly: every pointer to another page that stands on it.
//!
//! Unlike the mount's reader, which shrugs at what it does not understand, this one refuses it: a pointer
//! that is not rewritten would lead into another page.

use std::ops::Range;

use springhouse_fuse::sqlite::{HEADER_BYTES, Header};

use super::{
    error::{RelayoutError, damaged},
    record::Cursor,
};

/// What a page of a b-tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    /// Of an index, or of a table without rowids, which is stored like one.
    pub(super) is_index: bool,
    /// Without children.
    pub(super) is_leaf: bool,
}

/// A table leaf, as its first byte.
pub(super) const TABLE_LEAF: u8 = 0x0d;
/// An interior page of a table, as its first byte.
pub(super) const TABLE_INTERIOR: u8 = 0x05;

/// A pointer to another page, and where it stands on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) at: usize,
    pub(super) page: u32,
    pub(super) to: To,
}

/// What a link leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    Child,
    /// So many pages that hold the rest of a payload.
    Chain(u32),
}

/// One cell of a table leaf.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) rowid: i64,
    /// Length of the whole payload.
    pub(super) payload: u64,
    /// What of it stands on the page.
    pub(super) local: &'a [u8],
    /// Where the rest is.
    pub(super) chain: Option<Link>,
}

/// A page of a b-tree. Its cells are looked at by [`Page::links`] and [`Page::rows`].
#[derive(Debug)]
pub(super) struct Page<'a> {
    number: u32,
    bytes: &'a [u8],
    usable: usize,
    pub(super) kind: Kind,
    start: usize,
    cells: usize,
}

struct Cell {
    range: Range<usize>,
    child: Option<Link>,
    rowid: i64,
    payload: u64,
    local: Range<usize>,
    chain: Option<Link>,
}

impl<'a> Page<'a> {
    pub(super) fn parse(header: &Header, number: u32, bytes: &'a [u8]) -> Result<Self, RelayoutError> {
        let usable = header.usable_bytes as usize;
        let start = if number == 1 { HEADER_BYTES } else { 0 };
        let kind = match bytes[start] {
            0x02 => Kind { is_index: true, is_leaf: false },
            TABLE_INTERIOR => Kind { is_index: false, is_leaf: false },
            0x0a => Kind { is_index: true, is_leaf: true },
            TABLE_LEAF => Kind { is_index: false, is_leaf: true },
            other => return Err(damaged(number, format!("begins with {other:#04x}: not of a b-tree"))),
        };
        let cells = usize::from(u16_at(bytes, start + 3));
        let page = Self { number, bytes, usable, kind, start, cells };
        if page.pointers().end > usable {
            return Err(damaged(number, format!("{cells} cells have no room on it")));
        }
        Ok(page)
    }

    /// All pointers to other pages, in key order, into `links`.
    pub(super) fn links(&self, links: &mut Vec<Link>) -> Result<(), RelayoutError> {
        links.clear();
        let mut ranges = Vec::with_capacity(self.cells);
        for i in 0..self.cells {
            let cell = self.cell(i)?;
            ranges.push(cell.range);
            links.extend(cell.child);
            links.extend(cell.chain);
        }
        if !self.kind.is_leaf {
            let at = self.start + 8;
            links.push(Link { at, page: u32_at(self.bytes, at), to: To::Child });
        }
        // A pointer inside another cell would be rewritten in the middle of somebody's payload.
        ranges.sort_unstable_by_key(|range| range.start);
        if ranges.windows(2).any(|pair| pair[0].end > pair[1].start) {
            return Err(damaged(self.number, "cells overlap"));
        }
        Ok(())
    }

    /// The rows of a table leaf, in order.
    pub(super) fn rows(&self) -> impl Iterator<Item = Result<Row<'a>, RelayoutError>> + '_ {
        (0..self.cells).map(|i| {
            let cell = self.cell(i)?;
            Ok(Row {
                rowid: cell.rowid,
                payload: cell.payload,
                local: &self.bytes[cell.local],
                chain: cell.chain,
            })
        })
    }

    fn pointers(&self) -> Range<usize> {
        let start = self.start + if self.kind.is_leaf { 8 } else { 12 };
        start..start + 2 * self.cells
    }

    fn cell(&self, i: usize) -> Result<Cell, RelayoutError> {
        let pointers = self.pointers();
        let start = usize::from(u16_at(self.bytes, pointers.start + 2 * i));
        let cell = (start >= pointers.end).then(|| self.cell_at(start)).flatten();
        cell.ok_or_else(|| damaged(self.number, format!("cell {i} does not lie inside it")))
    }

    /// `None` if it does not end inside the page.
    fn cell_at(&self, start: usize) -> Option<Cell> {
        let mut rest = Cursor { bytes: &self.bytes[..self.usable], at: start };
        let child = if self.kind.is_leaf { None } else { Some(rest.link(To::Child)?) };
        let has_payload = self.kind.is_leaf || self.kind.is_index;
        let payload = if has_payload { rest.varint()? } else { 0 };
        let rowid = if self.kind.is_index { 0 } else { rest.varint()? as i64 };
        let local = rest.skip(local_bytes(payload, self.usable, self.kind.is_index))?;
        let chain = match payload - local.len() as u64 {
            0 => None,
            more => {
                let pages = more.div_ceil(self.usable as u64 - 4);
                Some(rest.link(To::Chain(u32::try_from(pages).ok()?))?)
            }
        };
        Some(Cell { range: start..rest.at, child, rowid, payload, local, chain })
    }
}

impl Cursor<'_> {
    fn link(&mut self, to: To) -> Option<Link> {
        let at = self.skip(4)?.start;
        Some(Link { at, page: u32_at(self.bytes, at), to })
    }
}

/// Bytes of a payload that stand on its b-tree page: "Cell Payload Overflow Pages" of the file format.
pub(super) fn local_bytes(payload: u64, usable: usize, is_index: bool) -> usize {
    let max = if is_index { (usable - 12) * 64 / 255 - 23 } else { usable - 35 };
    if payload <= max as u64 {
        return payload as usize;
    }
    let min = (usable - 12) * 32 / 255 - 23;
    let wished = min + ((payload - min as u64) % (usable as u64 - 4)) as usize;
    if wished <= max { wished } else { min }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

pub(super) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}
