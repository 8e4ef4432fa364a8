//! Varints, and the records of `sqlite_schema`.

use std::ops::Range;

/// Place of `rootpage` in a row of the schema: type, name, tbl_name, rootpage, sql.
const ROOT_COLUMN: usize = 3;

/// Reads from left to right; `None` beyond the end.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl Cursor<'_> {
    pub(super) fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for (i, &byte) in self.bytes.get(self.at..)?.iter().take(9).enumerate() {
            if i == 8 {
                self.at += 9;
                return Some(value << 8 | u64::from(byte));
            }
            value = value << 7 | u64::from(byte & 0x7f);
            if byte < 0x80 {
                self.at += i + 1;
                return Some(value);
            }
        }
        None
    }

    /// The next `len` bytes.
    pub(super) fn skip(&mut self, len: usize) -> Option<Range<usize>> {
        let range = self.at..self.at.checked_add(len)?;
        self.bytes.get(range.clone())?;
        self.at = range.end;
        Some(range)
    }
}

/// Appends `value` in its shortest form.
pub(super) fn put_varint(to: &mut Vec<u8>, value: u64) {
    if value >> 56 != 0 {
        let top = value >> 8;
        to.extend((0..8).rev().map(|i| (top >> (7 * i)) as u8 | 0x80));
        to.push(value as u8);
        return;
    }
    let groups = (64 - value.leading_zeros()).div_ceil(7).max(1);
    to.extend((0..groups).rev().map(|i| (value >> (7 * i)) as u8 & 0x7f | if i > 0 { 0x80 } else { 0 }));
}

/// Length of [`put_varint`] in bytes.
pub(super) fn varint_bytes(value: u64) -> usize {
    if value >> 56 != 0 { 9 } else { ((64 - value.leading_zeros()).div_ceil(7) as usize).max(1) }
}

/// How many bytes of a record an integer takes; SQLite writes the smallest that will do and reads any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Width {
    serial: u64,
    bytes: usize,
}

impl Width {
    /// The smallest for page numbers up to `largest`: integers are signed.
    pub(super) fn for_pages_up_to(largest: u32) -> Self {
        let (serial, bytes) = match largest {
            0..0x80 => (1, 1),
            0x80..0x8000 => (2, 2),
            0x8000..0x80_0000 => (3, 3),
            0x80_0000..0x8000_0000 => (4, 4),
            0x8000_0000.. => (5, 6),
        };
        Self { serial, bytes }
    }
}

/// A row of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SchemaRecord {
    /// Where its tree begins; `None` of views, triggers and virtual tables.
    pub(super) root: Option<u32>,
    payload: Vec<u8>,
    serials: Vec<u64>,
    /// Where in `payload` the columns begin, and `rootpage`.
    body: usize,
    root_range: Range<usize>,
}

impl SchemaRecord {
    /// `None` if it is no record of five columns with a page number where it belongs.
    pub(super) fn parse(payload: Vec<u8>) -> Option<Self> {
        let mut cursor = Cursor { bytes: &payload, at: 0 };
        let body = usize::try_from(cursor.varint()?).ok()?;
        payload.get(..body)?;
        let mut serials = Vec::with_capacity(5);
        while cursor.at < body {
            serials.push(cursor.varint()?);
        }
        if cursor.at != body || serials.len() <= ROOT_COLUMN {
            return None;
        }
        for &serial in &serials[..ROOT_COLUMN] {
            cursor.skip(body_bytes(serial)?)?;
        }
        let root_range = cursor.skip(body_bytes(serials[ROOT_COLUMN])?)?;
        let bytes = &payload[root_range.clone()];
        let number = match serials[ROOT_COLUMN] {
            0 | 8 => 0,
            9 => 1,
            1..=6 => {
                let start = if bytes.first().is_some_and(|&byte| byte >= 0x80) { -1_i64 } else { 0 };
                bytes.iter().fold(start, |value, &byte| value << 8 | i64::from(byte))
            }
            _ => return None,
        };
        for &serial in &serials[ROOT_COLUMN + 1..] {
            cursor.skip(body_bytes(serial)?)?;
        }
        if cursor.at != payload.len() {
            return None;
        }
        let root = u32::try_from(number).ok()?;
        Some(Self { root: (root > 0).then_some(root), serials, body, root_range, payload })
    }

    /// Length in bytes of [`SchemaRecord::with_root`].
    pub(super) fn bytes_with(&self, width: Width) -> usize {
        match self.root {
            None => self.payload.len(),
            // The header may have been written longer than it need be; both are counted as they will be.
            Some(_) => {
                let serials = self.serials_with(width).map(varint_bytes).sum::<usize>();
                let columns = self.payload.len() - self.body - self.root_range.len() + width.bytes;
                header_bytes(serials) + columns
            }
        }
    }

    /// The same row with another root, written in `width`; the row as it is if it has no tree.
    pub(super) fn with_root(&self, root: u32, width: Width) -> Vec<u8> {
        if self.root.is_none() {
            return self.payload.clone();
        }
        let serials = self.serials_with(width).map(varint_bytes).sum();
        let mut record = Vec::with_capacity(self.bytes_with(width));
        put_varint(&mut record, header_bytes(serials) as u64);
        self.serials_with(width).for_each(|serial| put_varint(&mut record, serial));
        record.extend_from_slice(&self.payload[self.body..self.root_range.start]);
        record.extend_from_slice(&u64::from(root).to_be_bytes()[8 - width.bytes..]);
        record.extend_from_slice(&self.payload[self.root_range.end..]);
        record
    }

    fn serials_with(&self, width: Width) -> impl Iterator<Item = u64> + '_ {
        let serials = self.serials.iter().enumerate();
        serials.map(move |(column, &serial)| if column == ROOT_COLUMN { width.serial } else { serial })
    }
}

/// Length of a record's header, which counts its own length.
fn header_bytes(serials: usize) -> usize {
    let mut len = serials + 1;
    while serials + varint_bytes(len as u64) > len {
        len += 1;
    }
    len
}

/// Bytes that a column of this serial type takes.
fn body_bytes(serial: u64) -> Option<usize> {
    Some(match serial {
        0 | 8 | 9 => 0,
        1..=4 => serial as usize,
        5 => 6,
        6 | 7 => 8,
        10 | 11 => return None,
        _ => usize::try_from((serial - 12) / 2).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_come_back(value in any::<u64>(), shift in 0_u32..64) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert_eq!(bytes.len(), varint_bytes(value));
            let mut cursor = Cursor { bytes: &bytes, at: 0 };
            prop_assert_eq!(cursor.varint(), Some(value));
            prop_assert_eq!(cursor.at, bytes.len());
        }

        #[test]
        fn a_row_keeps_all_but_its_root(
            texts in proptest::collection::vec("[a-z]{0,80}", 3),
            sql in "[a-z ]{0,20000}",
            old in 1_u32..,
            new in 1_u32..,
        ) {
            let width = Width::for_pages_up_to(old.max(new));
            let row = SchemaRecord::parse(record(&texts, old, &sql)).expect("a record");
            prop_assert_eq!(row.root, Some(old));
            let moved = row.with_root(new, width);
            prop_assert_eq!(moved.len(), row.bytes_with(width));
            let again = SchemaRecord::parse(moved).expect("a record");
            prop_assert_eq!(again.root, Some(new));
            prop_assert_eq!(again.with_root(old, width), row.with_root(old, width));
            // The texts did not move against each other.
            let body: Vec<u8> = again.payload[again.body..].to_vec();
            let all = [texts.concat(), sql].map(String::into_bytes);
            prop_assert!(body.starts_with(&all[0]) && body.ends_with(&all[1]));
        }

        #[test]
        fn anything_else_is_refused(payload in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(row) = SchemaRecord::parse(payload.clone()) {
                let width = Width::for_pages_up_to(u32::MAX);
                prop_assert_eq!(row.with_root(7, width).len(), row.bytes_with(width));
            }
        }
    }

    fn record(texts: &[String], root: u32, sql: &str) -> Vec<u8> {
        let width = Width::for_pages_up_to(root);
        let text = |len: usize| 13 + 2 * len as u64;
        let mut serials = Vec::new();
        texts.iter().for_each(|one| put_varint(&mut serials, text(one.len())));
        put_varint(&mut serials, width.serial);
        put_varint(&mut serials, text(sql.len()));
        let mut record = Vec::new();
        put_varint(&mut record, header_bytes(serials.len()) as u64);
        record.extend(serials);
        texts.iter().for_each(|one| record.extend(one.as_bytes()));
        record.extend(&u64::from(root).to_be_bytes()[8 - width.bytes..]);
        record.extend(sql.as_bytes());
        record
    }

    #[test]
    fn widths_are_signed() {
        let bytes = |largest| Width::for_pages_up_to(largest).bytes;
        assert_eq!([127, 128, 32_767, 32_768].map(bytes), [1, 2, 2, 3]);
        assert_eq!([0x7f_ffff, 0x80_0000, 0x7fff_ffff, 0x8000_0000].map(bytes), [3, 4, 4, 6]);
    }
}
