//! The schema's tree, built anew.
//!
//! Its rows hold the numbers of root pages, and with other numbers rows become longer or shorter. Telling
//! SQLite to change them (`writable_schema`) could split full pages and put new interior pages at the end
//! of the file, so the tree is packed here instead: a table's b-tree, filled from left to right. All root
//! numbers are written in one width, that of the file's last page, so that the tree's size does not depend
//! on the numbers, which depend on the tree's size.

use std::ops::Range;

use springhouse_fuse::sqlite::{HEADER_BYTES, Header};

use super::{
    page::{TABLE_INTERIOR, TABLE_LEAF, local_bytes, put_u16, put_u32},
    record::{Width, put_varint, varint_bytes},
    walk::{Role, SchemaRow},
};

/// Header of a leaf, and of an interior page.
const LEAF_HEADER: usize = 8;
const INTERIOR_HEADER: usize = 12;
/// SQLite gives no cell less than this.
const CELL_BYTES_MIN: usize = 4;

/// How the schema's rows are spread over pages.
#[derive(Debug)]
pub(super) struct SchemaTree {
    width: Width,
    usable: usize,
    page_bytes: usize,
    /// Rows of each leaf; one leaf only: it is page 1.
    leaves: Vec<Range<usize>>,
    /// Interior levels from the lowest up: children of each page, as numbers in the level below. The
    /// highest is page 1 alone.
    levels: Vec<Vec<Range<usize>>>,
    /// Pages of all overflow chains.
    chain_pages: usize,
}

/// A finished page.
#[derive(Debug)]
pub(super) struct SchemaPage {
    pub(super) number: u32,
    /// Of page 1 the first 100 bytes are zeros.
    pub(super) bytes: Vec<u8>,
    pub(super) role: Role,
    pub(super) owner: u32,
}

impl SchemaTree {
    pub(super) fn new(rows: &[SchemaRow], width: Width, header: &Header) -> Self {
        let usable = header.usable_bytes as usize;
        let cells: Vec<usize> = rows.iter().map(|row| 2 + leaf_cell_bytes(row, width, usable)).collect();
        let chains = rows.iter().map(|row| chain_pages(row, width, usable));
        let mut tree = Self {
            width,
            usable,
            page_bytes: header.page_bytes as usize,
            leaves: Vec::new(),
            levels: Vec::new(),
            chain_pages: chains.sum(),
        };
        if cells.iter().sum::<usize>() <= usable - HEADER_BYTES - LEAF_HEADER {
            tree.leaves.push(0..rows.len());
            return tree;
        }
        tree.leaves = packed(&cells, usable - LEAF_HEADER);
        let mut ends: Vec<i64> = tree.leaves.iter().map(|leaf| rows[leaf.end - 1].rowid).collect();
        loop {
            let cells: Vec<usize> = ends.iter().map(|&end| 2 + interior_cell_bytes(end)).collect();
            // The last child needs no cell. A child alone on page 1 is what SQLite does, too, when it has
            // room on a page but not on the first one.
            if cells[..cells.len() - 1].iter().sum::<usize>() <= usable - HEADER_BYTES - INTERIOR_HEADER {
                let all = 0..cells.len();
                tree.levels.push(vec![all]);
                return tree;
            }
            let mut level = packed(&cells, usable - INTERIOR_HEADER);
            // Only page 1 may be without a cell.
            if let [.., before, last] = &mut level[..]
                && last.len() == 1
            {
                before.end -= 1;
                last.start -= 1;
            }
            ends = level.iter().map(|page| ends[page.end - 1]).collect();
            tree.levels.push(level);
        }
    }

    /// Interior pages beside page 1.
    pub(super) fn interior_pages(&self) -> usize {
        self.levels.iter().map(Vec::len).sum::<usize>().saturating_sub(1)
    }

    /// Leaves beside page 1, and overflow chains.
    pub(super) fn leaf_pages(&self) -> usize {
        self.chain_pages + if self.levels.is_empty() { 0 } else { self.leaves.len() }
    }

    /// All pages. `interior` and `leaves` are the numbers that they get, as many as
    /// [`SchemaTree::interior_pages`] and [`SchemaTree::leaf_pages`] say, in the order of the file.
    pub(super) fn pages(
        &self,
        rows: &[SchemaRow],
        new_root: impl Fn(u32) -> u32,
        interior: &[u32],
        leaves: &[u32],
    ) -> Vec<SchemaPage> {
        let mut numbers = interior.iter().copied();
        let mut pages = Vec::with_capacity(1 + interior.len() + leaves.len());
        // Page numbers of the level at hand and who owns each, from the top down.
        let mut level = vec![(1, Role::Root, 0)];
        for (depth, nodes) in self.levels.iter().enumerate().rev() {
            let mut below = Vec::new();
            let mut leaf_numbers = self.leaf_numbers(rows, leaves);
            for (node, &(number, role, owner)) in nodes.iter().zip(&level) {
                let first = below.len();
                let children = node
                    .clone()
                    .filter_map(|_| if depth == 0 { leaf_numbers.next() } else { numbers.next() });
                below.extend(children.map(|child| (child, Role::Child, number)));
                let children = node
                    .clone()
                    .zip(&below[first..])
                    .map(|(child, &(page, ..))| (page, rows[self.last_row(depth, child)].rowid));
                pages.push(SchemaPage { number, bytes: self.interior_page(number, children), role, owner });
            }
            level = below;
        }
        let mut chains = self.chain_numbers(rows, leaves);
        for (leaf, (number, role, owner)) in self.leaves.iter().zip(level) {
            let mut bytes = Bytes::new(self, number, TABLE_LEAF);
            let mut chained = Vec::new();
            for row in &rows[leaf.clone()] {
                let root = row.record.root.map_or(0, &new_root);
                let payload = row.record.with_root(root, self.width);
                let local = local_bytes(payload.len() as u64, self.usable, false);
                let count = chain_pages(row, self.width, self.usable);
                let chain: Vec<u32> = chains.by_ref().take(count).collect();
                let mut cell = Vec::with_capacity(local + 18);
                put_varint(&mut cell, payload.len() as u64);
                put_varint(&mut cell, row.rowid as u64);
                cell.extend_from_slice(&payload[..local]);
                cell.extend(chain.first().iter().flat_map(|first| first.to_be_bytes()));
                bytes.add(&cell);
                chained.extend(self.chain(number, &chain, &payload[local..]));
            }
            pages.push(SchemaPage { number, bytes: bytes.bytes, role, owner });
            pages.append(&mut chained);
        }
        pages
    }

    /// Of the numbers that leaves and chains share, those of the leaves.
    fn leaf_numbers<'a>(
        &'a self,
        rows: &'a [SchemaRow],
        numbers: &'a [u32],
    ) -> impl Iterator<Item = u32> + 'a {
        let mut at = 0;
        self.leaves.iter().filter_map(move |leaf| {
            let number = numbers.get(at).copied();
            let chains = rows[leaf.clone()].iter().map(|row| chain_pages(row, self.width, self.usable));
            at += 1 + chains.sum::<usize>();
            number
        })
    }

    /// The others.
    fn chain_numbers<'a>(
        &'a self,
        rows: &'a [SchemaRow],
        numbers: &'a [u32],
    ) -> impl Iterator<Item = u32> + 'a {
        let own = usize::from(!self.levels.is_empty());
        let mut at = 0;
        self.leaves.iter().flat_map(move |leaf| {
            let chains = rows[leaf.clone()].iter().map(|row| chain_pages(row, self.width, self.usable));
            let from = at + own;
            at = from + chains.sum::<usize>();
            numbers.get(from..at).unwrap_or_default().iter().copied()
        })
    }

    /// The last row below child `child` of a page of level `depth`.
    fn last_row(&self, depth: usize, child: usize) -> usize {
        let mut child = child;
        for level in self.levels[..depth].iter().rev() {
            child = level[child].end - 1;
        }
        self.leaves[child].end - 1
    }

    fn interior_page(&self, number: u32, children: impl Iterator<Item = (u32, i64)>) -> Vec<u8> {
        let mut bytes = Bytes::new(self, number, TABLE_INTERIOR);
        let mut children = children.peekable();
        while let Some((page, end)) = children.next() {
            if children.peek().is_none() {
                put_u32(&mut bytes.bytes, bytes.start + 8, page);
                break;
            }
            let mut cell = page.to_be_bytes().to_vec();
            put_varint(&mut cell, end as u64);
            bytes.add(&cell);
        }
        bytes.bytes
    }

    fn chain<'a>(
        &'a self,
        leaf: u32,
        numbers: &'a [u32],
        payload: &'a [u8],
    ) -> impl Iterator<Item = SchemaPage> + 'a {
        payload.chunks(self.usable - 4).enumerate().map(move |(i, piece)| {
            let mut bytes = vec![0; self.page_bytes];
            put_u32(&mut bytes, 0, numbers.get(i + 1).copied().unwrap_or(0));
            bytes[4..4 + piece.len()].copy_from_slice(piece);
            let (role, owner) =
                if i == 0 { (Role::ChainStart, leaf) } else { (Role::ChainMore, numbers[i - 1]) };
            SchemaPage { number: numbers[i], bytes, role, owner }
        })
    }
}

/// A page that is being filled with cells.
struct Bytes {
    bytes: Vec<u8>,
    start: usize,
    /// Where the next cell pointer stands, and where the last cell begins.
    pointer: usize,
    cells_from: usize,
    cells: u16,
}

impl Bytes {
    fn new(tree: &SchemaTree, number: u32, kind: u8) -> Self {
        let start = if number == 1 { HEADER_BYTES } else { 0 };
        let mut bytes = vec![0; tree.page_bytes];
        bytes[start] = kind;
        let header = if kind == TABLE_LEAF { LEAF_HEADER } else { INTERIOR_HEADER };
        let mut page = Self { bytes, start, pointer: start + header, cells_from: tree.usable, cells: 0 };
        page.put_counts();
        page
    }

    /// Adds a cell; the tree was packed so that there is room for it.
    fn add(&mut self, cell: &[u8]) {
        self.cells_from -= cell.len().max(CELL_BYTES_MIN);
        self.bytes[self.cells_from..][..cell.len()].copy_from_slice(cell);
        put_u16(&mut self.bytes, self.pointer, self.cells_from as u16);
        self.pointer += 2;
        self.cells += 1;
        self.put_counts();
    }

    fn put_counts(&mut self) {
        put_u16(&mut self.bytes, self.start + 3, self.cells);
        // 65536 is written as 0.
        put_u16(&mut self.bytes, self.start + 5, self.cells_from as u16);
    }
}

/// Fills pages of `room` bytes with cells of these sizes, in order.
fn packed(cells: &[usize], room: usize) -> Vec<Range<usize>> {
    let mut pages = Vec::new();
    let (mut start, mut used) = (0, 0);
    for (i, &bytes) in cells.iter().enumerate() {
        if used + bytes > room && i > start {
            pages.push(start..i);
            (start, used) = (i, 0);
        }
        used += bytes;
    }
    pages.push(start..cells.len());
    pages
}

fn leaf_cell_bytes(row: &SchemaRow, width: Width, usable: usize) -> usize {
    let payload = row.record.bytes_with(width);
    let local = local_bytes(payload as u64, usable, false);
    let pointer = if local < payload { 4 } else { 0 };
    let bytes = varint_bytes(payload as u64) + varint_bytes(row.rowid as u64) + local + pointer;
    bytes.max(CELL_BYTES_MIN)
}

fn chain_pages(row: &SchemaRow, width: Width, usable: usize) -> usize {
    let payload = row.record.bytes_with(width);
    (payload - local_bytes(payload as u64, usable, false)).div_ceil(usable - 4)
}

fn interior_cell_bytes(rowid: i64) -> usize {
    4 + varint_bytes(rowid as u64)
}
